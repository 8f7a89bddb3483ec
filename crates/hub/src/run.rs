//! Events that follow each other for everybody of one class, told to its members at once.
//!
//! Owns the run that is under way: as long as the next event is for the same class, its frames only grow
//! into one stretch, and no member is looked at. Promises: whatever else is staged for anybody, the run is
//! told before it, so that the order on every socket is that of the log.

use rowcast_model::OrgId;
use slab::Slab;

use crate::{
    classes::{ClassId, Classes},
    stage::{Stage, Stretch},
    state::{Conn, Map},
    topics::Topic,
};

/// The run under way.
#[derive(Default)]
pub(crate) struct Run(Option<Under>);

struct Under {
    class: ClassId,
    stretch: Stretch,
    events: u64,
}

impl Run {
    /// Takes the next event in, if it goes on where the run ends.
    pub(crate) fn extend(&mut self, class: ClassId, stretch: &Stretch) -> bool {
        let Some(run) = self.0.as_mut().filter(|run| run.class == class) else {
            return false;
        };
        let follows = run.stretch.append(stretch);
        run.events += u64::from(follows);
        follows
    }

    /// Begins with an event of a class; there must be none under way.
    pub(crate) fn begin(&mut self, class: ClassId, stretch: Stretch) {
        self.0 = Some(Under {
            class,
            stretch,
            events: 1,
        });
    }

    /// Tells the members what there is.
    #[inline]
    pub(crate) fn settle(
        &mut self,
        classes: &mut Classes,
        topics: &Map<OrgId, Topic>,
        conns: &mut Slab<Conn>,
        stage: &mut Stage,
    ) {
        let Some(run) = self.0.take() else {
            return;
        };
        let organization = classes
            .get(run.class)
            .and_then(|class| class.organization());
        let topic = organization.and_then(|organization| topics.get(organization));
        let listeners = topic.and_then(|topic| topic.listeners.as_deref());
        for member in listeners
            .and_then(|all| all.members(run.class))
            .unwrap_or_default()
        {
            if let Some(conn) = conns.get_mut(member.conn as usize) {
                stage.push_many(&mut conn.mark, &conn.connection, &run.stretch, run.events);
            }
        }
    }
}
