//! What happens to joins that are in: they follow the memberships of their user, and end.

use std::sync::Arc;

use rowcast_model::OrgId;
use rowcast_wire::Frame;

use super::Joined;
use crate::{
    Connection, StreamState,
    stage::Stage,
    state::{Joins, State, Sub},
};

/// Why an organization is not followed.
const FULL: &str = "this socket has as many subscriptions as allowed; join fewer channels";

impl State {
    pub(super) fn joins_of(&self, slot: u32, id: u64) -> &[Arc<Joined>] {
        let conn = self.conns.get(slot as usize);
        let conn = conn.filter(|conn| conn.connection.id == id);
        conn.and_then(|conn| conn.about.joins.as_deref())
            .map_or(&[], Vec::as_slice)
    }

    /// Takes a join away, and everything that belongs to it.
    pub(crate) fn leave(&mut self, slot: u32, id: u64, topic: &str) -> Option<Arc<Joined>> {
        self.dismiss_join(id, topic);
        self.take_join(slot, id, topic)
    }

    /// The same; who waits to join it again goes on waiting.
    fn take_join(&mut self, slot: u32, id: u64, topic: &str) -> Option<Arc<Joined>> {
        let joins = self.joins_of(slot, id);
        let joined = joins.iter().find(|joined| *joined.topic == *topic)?.clone();
        let conn = self.conns.get(slot as usize)?;
        for sub in conn.about.subs.clone() {
            let there = self.subs.get(sub as usize);
            let own = there.and_then(|sub| sub.join.as_ref());
            if own.is_some_and(|own| own.number == joined.number) {
                self.remove_sub(sub);
            }
        }
        self.forget_join(slot, joined.number);
        Some(joined)
    }

    /// A join that has nothing left.
    pub(crate) fn forget_join(&mut self, slot: u32, number: u64) {
        let Some(conn) = self.conns.get_mut(slot as usize) else {
            return;
        };
        let joins = conn.about.joins.iter_mut();
        let mut freed = 0;
        for joins in joins {
            joins.retain(|joined| {
                let gone = joined.number == number;
                freed += if gone { joined.cost } else { 0 };
                !gone
            });
        }
        conn.about.described -= freed;
        self.described -= freed;
    }

    /// A connection is gone, and its subscriptions with it: gives back what its joins took.
    pub(crate) fn forget_joins(&mut self, joins: &Joins) {
        let joins = joins.iter().flat_map(|joins| joins.iter());
        self.described -= joins.map(|joined| joined.cost).sum::<usize>();
    }

    /// Ends a join from which cannot be gone on; the client joins again by itself.
    pub(crate) fn crash_join(&mut self, connection: &Connection, joined: &Joined) -> Frame {
        self.take_join(connection.slot, connection.id, &joined.topic);
        joined.crash()
    }

    /// What a subscription that ended is told, if it is one of a join; `None`: it is a native one.
    pub(crate) fn end_of_join(&mut self, sub: &Sub, reason: &str) -> Option<Option<Frame>> {
        let joined = sub.join.clone()?;
        let (told, over) = joined.ended(sub, reason);
        if over {
            self.forget_join(sub.conn, joined.number);
        }
        Some(told)
    }

    /// Somebody may be in this organization: his joins have their bindings there from here on. What is to be told
    /// of that.
    pub(crate) fn follow_membership(&mut self, slot: u32, organization: &OrgId) -> Vec<Frame> {
        let conn = self.conns.get(slot as usize);
        let Some((connection, joins)) = conn.and_then(|conn| {
            let joins = conn.about.joins.clone()?;
            Some((conn.connection.clone(), joins))
        }) else {
            return Vec::new();
        };
        let mut told = Vec::new();
        for joined in joins.iter().filter(|joined| !joined.bindings.is_empty()) {
            let subs = self.conns.get(slot as usize);
            let subs = subs.map(|conn| conn.about.subs.clone()).unwrap_or_default();
            let bound = subs.iter().any(|id| {
                self.subs.get(*id as usize).is_some_and(|sub| {
                    let own = sub.join.as_ref().map(|join| join.number);
                    own == Some(joined.number)
                        && !sub.messages
                        && sub.organization() == Some(organization)
                })
            });
            if bound {
                continue;
            }
            let tell = |message: &str| joined.system("postgres_changes", false, message);
            let room = self.may_keep(&connection, 0, joined.each);
            if room.is_err() || subs.len() + joined.bindings.len() > self.limits.subscriptions {
                told.push(tell(FULL));
                continue;
            }
            let problems = self.bind(&connection, joined, organization);
            told.extend(problems.iter().map(|problem| tell(&problem.says)));
        }
        told
    }

    /// The same in all organizations that the identity of a connection has by now.
    pub(crate) fn follow_memberships(&mut self, slot: u32) -> Vec<Frame> {
        let conn = self.conns.get(slot as usize);
        let Some(conn) = conn.filter(|conn| conn.about.joins.is_some()) else {
            return Vec::new();
        };
        let organizations = self.directory.organizations_of(&conn.about.identity);
        let told = organizations
            .iter()
            .flat_map(|organization| self.follow_membership(slot, organization));
        told.collect()
    }

    /// What was sent before cannot be gone on from: all joins end so that their clients join again.
    pub(crate) fn crash_joins(&mut self, stage: &mut Stage) {
        let with_joins = self.conns.iter().filter(|(_, conn)| {
            let joins = conn.about.joins.as_ref();
            joins.is_some_and(|joins| !joins.is_empty())
        });
        let with_joins: Vec<(u32, u64)> = with_joins
            .map(|(slot, conn)| (u32::try_from(slot).unwrap_or(u32::MAX), conn.connection.id))
            .collect();
        for (slot, id) in with_joins {
            let topics: Vec<Arc<str>> = self
                .joins_of(slot, id)
                .iter()
                .map(|joined| joined.topic.clone())
                .collect();
            for topic in topics {
                if let Some(joined) = self.take_join(slot, id, &topic)
                    && let Some(conn) = self.conns.get_mut(slot as usize)
                {
                    stage.push_frame(&mut conn.mark, &conn.connection, &joined.crash());
                }
            }
        }
    }

    /// Whether the log is being read, for those who wait for rows; they are to be written to.
    pub(crate) fn announce_to_joins(&self) -> Vec<Arc<Connection>> {
        let mut told = Vec::new();
        for (_, conn) in &self.conns {
            let joins = conn.about.joins.iter().flat_map(|joins| joins.iter());
            let mut any = false;
            for joined in joins.filter(|joined| !joined.bindings.is_empty()) {
                any = true;
                conn.connection.queue(match &self.stream {
                    StreamState::Live => joined.subscribed(),
                    StreamState::Stale { reason, .. } => {
                        joined.system("postgres_changes", false, &late(reason))
                    }
                });
            }
            told.extend(any.then(|| conn.connection.clone()));
        }
        told
    }
}

pub(super) fn late(reason: &str) -> String {
    format!("Changes are late: {reason}; they come when the service reads the log again")
}
