//! What every listener needs beside what it says itself: bytes that wait, events held back, the past, signs of
//! life, its end. The same for sockets and for event streams; when it is due is decided in [`Session`].

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use rowcast_hub::{Connection, Work};
use rowcast_model::Timestamp;
use rowcast_wire::{CloseCode, server};

use super::{Shared, enter::moment, turns::Place};
use crate::session::{Due, Session};

/// Held-back events (`latest`) leave this long after the first of them.
pub(super) const LATEST_PAUSE: Duration = Duration::from_millis(50);

/// What one listener waits for.
#[derive(Default)]
pub(crate) struct Tending {
    latest_due: Option<Instant>,
    /// When the API key ends, as it was told last.
    ends: Option<Timestamp>,
    pub(crate) place: Place,
}

impl Tending {
    /// Does what is due, and says what there is to do beside it; the error is why the listener ends.
    pub(crate) fn tend(
        &mut self,
        shared: &Shared,
        connection: &Arc<Connection>,
        session: &mut Session,
        now: Instant,
    ) -> Result<Work, CloseCode> {
        let work = connection.work();
        if let Some(code) = work.close {
            return Err(code);
        }
        if work.ends != self.ends {
            self.ends = work.ends;
            session.renewed(moment(now, work.ends));
        }
        match session.due(now) {
            Due::Nothing => {}
            Due::Ping => drop(connection.send(server::ping())),
            Due::Position => shared.hub.tell_position(connection),
            Due::Close(code) => return Err(code),
        }
        match (work.latest, self.latest_due) {
            (true, None) => self.latest_due = Some(now + LATEST_PAUSE),
            (true, Some(at)) if at <= now => {
                connection.flush_latest();
                self.latest_due = None;
            }
            (false, _) => self.latest_due = None,
            _ => {}
        }
        Ok(work)
    }

    /// Tells a part of the past, if it is this one's turn. Says whether it did, and when to tend again at the
    /// latest.
    pub(crate) fn tell(
        &mut self,
        shared: &Shared,
        connection: &Arc<Connection>,
        session: &Session,
        work: Work,
        now: Instant,
    ) -> (bool, Instant) {
        let told = self.place.tell(&shared.turns, work.replay, now, || {
            shared.hub.replay(connection)
        });
        let dues = [self.latest_due, self.place.not_before()];
        let wake = dues
            .into_iter()
            .flatten()
            .fold(session.next(), Instant::min);
        (told, wake)
    }
}
