//! Tells followers what is new, a part at a time: one turn takes some tenths of a millisecond, whatever the number of
//! followers, so that events and requests find their way between two turns.
//!
//! Promises: frames are queued while the state is locked, so nobody is told anything behind the end of his
//! subscription; what is told of one room leaves in order.

use std::{sync::Arc, time::Instant};

use hashbrown::HashSet;
use rowcast_model::Audience;

use crate::{
    Connection, Hub,
    hub::now,
    may_see,
    presence::{
        hall::{RoomId, Telling},
        rooms::Ghost,
    },
    state::State,
};

/// Followers that are told in one turn.
const AT_ONCE: usize = 128;
/// Rooms whose followers are being told at the same time. Their frames take at most some MiB: a list is no longer
/// than what may wait for a socket.
const ROOMS_AT_ONCE: usize = 4;

/// What there is to do after a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PresenceWork {
    /// More, at once.
    More,
    /// Nothing before this.
    At(Instant),
    /// Nothing, until [`Hub::presence_woken`].
    Nothing,
}

impl Hub {
    /// Does a bounded part of what is due: lets go those whose time is over, and tells followers who came and went.
    pub fn keep_presence(&self) -> PresenceWork {
        let elapsed = self.began.elapsed();
        let mut state = self.state.lock();
        state.now = elapsed;
        let mut told: Vec<Arc<Connection>> = Vec::new();
        let more = state.presence_turn(&mut told);
        let next = state.rooms.next();
        drop(state);
        self.shared.metrics.presence_told.inc_by(told.len() as u64);
        for connection in told {
            connection.pump();
        }
        match (more, next) {
            (true, _) => PresenceWork::More,
            (false, Some(at)) => PresenceWork::At(self.began + at),
            (false, None) => PresenceWork::Nothing,
        }
    }

    /// Waits until there may be something to do earlier than [`Hub::keep_presence`] said last.
    pub async fn presence_woken(&self) {
        let bell = self.state.lock().rooms.bell.clone();
        bell.notified().await;
    }
}

impl State {
    /// One turn; true when there is more to do at once.
    fn presence_turn(&mut self, told: &mut Vec<Arc<Connection>>) -> bool {
        let elapsed = self.now;
        if self.rooms.has_to_bury(elapsed) {
            let of = |ghost: &Ghost| (ghost.room, ghost.connection);
            let looked_at = self.rooms.rights_changed;
            let ghosts = self.rooms.ghosts.iter().filter(|_| looked_at);
            let gone = ghosts.filter(|ghost| !self.may_haunt(ghost)).map(of);
            let gone: HashSet<(RoomId, u64)> = gone.collect();
            let keep = |ghost: &Ghost| !gone.contains(&of(ghost));
            self.rooms.bury(elapsed, now(), keep);
        }
        if self.rooms.look(elapsed) {
            self.expire_silent(elapsed);
        }
        let mut room = AT_ONCE;
        while room > 0 {
            // What rooms tell takes memory until it is told.
            while self.rooms.telling.len() < ROOMS_AT_ONCE && self.rooms.tell_next(elapsed) {}
            let Some(mut telling) = self.rooms.telling.pop_front() else {
                return false;
            };
            match self.tell(&mut telling, &mut room, told) {
                true => self.rooms.told(telling.room(), elapsed),
                false => self.rooms.telling.push_back(telling),
            }
        }
        true
    }

    /// Tells some of the followers of a room, as long as there is room for them in this turn; true when all were.
    fn tell(
        &mut self,
        telling: &mut Telling,
        room: &mut usize,
        told: &mut Vec<Arc<Connection>>,
    ) -> bool {
        while *room > 0 {
            let Some((id, generation, frames)) = telling.next() else {
                return true;
            };
            *room -= 1;
            let sub = self.subs.get(id as usize);
            let Some(sub) = sub.filter(|sub| sub.generation == generation) else {
                continue;
            };
            // Who is on a channel is for all of it.
            if sub.is_paused() || !may_see(&Audience::default(), &sub.grant) {
                continue;
            }
            if let Some(conn) = self.conns.get(sub.conn as usize) {
                for frame in frames {
                    conn.connection.queue(frame.clone());
                }
                told.push(conn.connection.clone());
            }
        }
        telling.is_over()
    }
}
