//! Events that follow each other for everybody of one class, told to its members at once.
//!
//! Owns the run that is under way: as long as the next event is for the same class, its frames only grow
//! into one stretch for each way to see them (one, or as many as masks make), and no member is looked at.
//! Promises: whatever else is staged for anybody, the run is told before it, so that the order on every socket is
//! that of the log.

use std::sync::Arc;

use rowcast_model::{Masks, Topic as TopicOf};
use slab::Slab;
use smallvec::SmallVec;

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
    /// The masks whose groups of members get a stretch each; without, all get the only one.
    masks: Option<Arc<Masks>>,
    stretches: Stretches,
    events: u64,
}

/// One for each group of members, in their order.
pub(crate) type Stretches = SmallVec<[Stretch; 1]>;

fn same(a: Option<&Arc<Masks>>, b: Option<&Arc<Masks>>) -> bool {
    match (a, b) {
        (None, None) => true,
        (Some(a), Some(b)) => Arc::ptr_eq(a, b),
        _ => false,
    }
}

impl Run {
    /// Whether it is of this class and these masks.
    pub(crate) fn is_of(&self, class: ClassId, masks: Option<&Arc<Masks>>) -> bool {
        let run = self.0.as_ref();
        run.is_some_and(|run| run.class == class && same(run.masks.as_ref(), masks))
    }

    /// Takes the next event in, if it goes on where the run ends.
    pub(crate) fn extend(
        &mut self,
        class: ClassId,
        masks: Option<&Arc<Masks>>,
        next: &[Stretch],
    ) -> bool {
        if !self.is_of(class, masks) {
            return false;
        }
        let Some(run) = &mut self.0 else {
            return false;
        };
        let mut both = run.stretches.iter().zip(next);
        if run.stretches.len() != next.len() || !both.all(|(run, next)| run.is_before(next)) {
            return false;
        }
        for (stretch, next) in run.stretches.iter_mut().zip(next) {
            stretch.append(next);
        }
        run.events += 1;
        true
    }

    /// Begins with an event of a class; there must be none under way.
    pub(crate) fn begin(
        &mut self,
        class: ClassId,
        masks: Option<&Arc<Masks>>,
        stretches: Stretches,
    ) {
        self.0 = Some(Under {
            class,
            masks: masks.cloned(),
            stretches,
            events: 1,
        });
    }

    /// Tells the members what there is.
    #[inline]
    pub(crate) fn settle(
        &mut self,
        classes: &mut Classes,
        topics: &Map<TopicOf, Topic>,
        conns: &mut Slab<Conn>,
        stage: &mut Stage,
    ) {
        let Some(run) = self.0.take() else {
            return;
        };
        let Some(class) = classes.get(run.class) else {
            return;
        };
        let mut tell = |slot: u32, stretch: &Stretch| {
            if let Some(conn) = conns.get_mut(slot as usize) {
                stage.push_many(&mut conn.mark, &conn.connection, stretch, run.events);
            }
        };
        if let Some(masks) = &run.masks {
            let groups = class.sights.groups(masks);
            for ((_, slots), stretch) in groups.iter().zip(&run.stretches) {
                slots.iter().for_each(|slot| tell(*slot, stretch));
            }
            return;
        }
        let topic = class.topic().and_then(|of| topics.get(of));
        let listeners = topic.and_then(|topic| topic.listeners.as_deref());
        let members = listeners.and_then(|all| all.members(run.class));
        for (member, stretch) in members
            .unwrap_or_default()
            .iter()
            .zip(run.stretches.iter().cycle())
        {
            tell(member.conn, stretch);
        }
    }
}
