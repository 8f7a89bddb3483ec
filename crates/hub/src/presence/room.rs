//! One channel's members, as a value. Time is passed in; nothing is sent from here.
//!
//! Owns who is there in which order, and a copy of what followers were told last, so that a difference is what a
//! look at both shows. Users and connections are counted apart: a user is there until his last connection is gone.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use hashbrown::HashMap;
use rowcast_model::{
    PresenceAct, PresenceCounts, PresenceDiff, PresenceUpdate, Present, PresentUser, Sender,
    Timestamp,
};
use smallvec::SmallVec;

type Map<K, V> = HashMap<K, V, foldhash::fast::RandomState>;

/// Most of each.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Most {
    pub connections: usize,
    pub connections_per_user: usize,
}

/// Why a step is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// As many connections are there as may be.
    Full,
    /// As many of this user are.
    FullOfUser,
    /// Only who is there has a state.
    NotThere,
}

/// What a step came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stepped {
    /// Followers have to be told.
    pub changed: bool,
    /// The user came with this, or left with it.
    pub turned: Option<Turned>,
    /// The connection that this one took the place of, and the length of its state.
    pub replaced: Option<(u64, usize)>,
}

/// A user came or left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Turned {
    pub came: bool,
    pub state: Bytes,
}

/// What there is to tell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct News {
    /// For those who follow the list; `None`: nothing.
    pub diff: Option<PresenceDiff>,
    /// The counts are others than those that were told.
    pub counts_changed: bool,
}

/// What followers know.
#[derive(Default)]
struct Told {
    counts: PresenceCounts,
    list: Vec<Arc<PresentUser>>,
    /// Whether anybody has the list.
    listed: bool,
    /// Who has a number below this was there when they were told.
    next: u64,
}

/// The members of one channel.
#[derive(Default)]
pub(crate) struct Room {
    users: Map<Sender, u64>,
    list: BTreeMap<u64, Arc<PresentUser>>,
    next: u64,
    connections: usize,
    told: Told,
    /// Users who are gone and whom followers still list: who comes back before they are told never left.
    untold: Map<Sender, (u64, Timestamp)>,
}

impl Room {
    pub(crate) fn counts(&self) -> PresenceCounts {
        PresenceCounts {
            users: self.users.len(),
            connections: self.connections,
        }
    }

    /// The list that was told last.
    pub(crate) fn told_list(&self) -> &[Arc<PresentUser>] {
        &self.told.list
    }

    /// Nobody has the list any more.
    pub(crate) fn forget_told(&mut self) {
        self.told.listed = false;
        self.told.list = Vec::new();
        self.untold = Map::default();
    }

    /// Users in order, behind the one of this number.
    pub(crate) fn users_after(
        &self,
        order: Option<u64>,
    ) -> impl Iterator<Item = &Arc<PresentUser>> {
        let from = order.map_or(0, |order| order.saturating_add(1));
        self.list.range(from..).map(|(_, user)| user)
    }

    /// The state of a connection that is there.
    pub(crate) fn state(&self, who: &Sender, connection: u64) -> Option<&Bytes> {
        let user = self.list.get(self.users.get(who)?)?;
        let mut seats = user.connections.iter();
        let seat = seats.find(|seat| seat.connection == connection)?;
        Some(&seat.state)
    }

    /// Takes one step of a connection.
    pub(crate) fn step(
        &mut self,
        who: &Sender,
        connection: u64,
        act: &PresenceAct,
        most: Most,
        at: Timestamp,
    ) -> Result<Stepped, Refused> {
        match act {
            PresenceAct::Join(state) => self.join(who, connection, state, most, at),
            PresenceAct::Update(state) => self.update(who, connection, state),
            PresenceAct::Lose => {
                if let Some(seat) = self.seat(who, connection) {
                    seat.lost = true;
                }
                Ok(Stepped::default())
            }
            PresenceAct::Leave => Ok(self.leave(who, connection)),
        }
    }

    fn user(&mut self, who: &Sender) -> Option<&mut PresentUser> {
        let order = self.users.get(who)?;
        self.list.get_mut(order).map(Arc::make_mut)
    }

    fn seat(&mut self, who: &Sender, connection: u64) -> Option<&mut Present> {
        let mut seats = self.user(who)?.connections.iter_mut();
        seats.find(|seat| seat.connection == connection)
    }

    fn join(
        &mut self,
        who: &Sender,
        connection: u64,
        state: &Bytes,
        most: Most,
        at: Timestamp,
    ) -> Result<Stepped, Refused> {
        if self.state(who, connection).is_some() {
            return self.update(who, connection, state);
        }
        let total = self.connections;
        let come = Present {
            connection,
            state: state.clone(),
            lost: false,
        };
        if let Some(user) = self.user(who) {
            // Whoever comes back takes the place that was kept for him.
            let lost = user.connections.iter_mut().find(|seat| seat.lost);
            if let Some(seat) = lost {
                let before = std::mem::replace(seat, come);
                return Ok(Stepped {
                    changed: true,
                    turned: None,
                    replaced: Some((before.connection, before.state.len())),
                });
            }
            if user.connections.len() >= most.connections_per_user {
                return Err(Refused::FullOfUser);
            }
            if total >= most.connections {
                return Err(Refused::Full);
            }
            user.connections.push(come);
            self.connections += 1;
            return Ok(Stepped {
                changed: true,
                ..Stepped::default()
            });
        }
        if total >= most.connections {
            return Err(Refused::Full);
        }
        let (order, since) = self.untold.remove(who).unwrap_or((self.next, at));
        self.next = self.next.max(order + 1);
        let user = PresentUser {
            who: who.clone(),
            order,
            since,
            connections: [come].into_iter().collect(),
        };
        self.users.insert(who.clone(), order);
        self.list.insert(order, Arc::new(user));
        self.connections += 1;
        Ok(Stepped {
            changed: true,
            turned: Some(Turned {
                came: true,
                state: state.clone(),
            }),
            replaced: None,
        })
    }

    fn update(&mut self, who: &Sender, connection: u64, state: &Bytes) -> Result<Stepped, Refused> {
        let before = self.state(who, connection).ok_or(Refused::NotThere)?;
        let changed = before != state;
        if changed && let Some(seat) = self.seat(who, connection) {
            seat.state = state.clone();
        }
        Ok(Stepped {
            changed,
            ..Stepped::default()
        })
    }

    fn leave(&mut self, who: &Sender, connection: u64) -> Stepped {
        let Some(user) = self.user(who) else {
            return Stepped::default();
        };
        let mut seats = user.connections.iter();
        let Some(at) = seats.position(|seat| seat.connection == connection) else {
            return Stepped::default();
        };
        let gone = user.connections.remove(at);
        let (empty, order, since) = (user.connections.is_empty(), user.order, user.since);
        self.connections -= 1;
        let turned = empty.then(|| {
            self.users.remove(who);
            self.list.remove(&order);
            let told = &self.told.list;
            if told.binary_search_by_key(&order, |user| user.order).is_ok() {
                self.untold.insert(who.clone(), (order, since));
            }
            Turned {
                came: false,
                state: gone.state,
            }
        });
        Stepped {
            changed: true,
            turned,
            replaced: None,
        }
    }

    /// What followers do not know yet, which they know from here on. The list is kept for them only where
    /// somebody follows it: the first `listed` users.
    pub(crate) fn tell(&mut self, listed: Option<usize>) -> News {
        let counts = self.counts();
        let counts_changed = counts != self.told.counts;
        let list: Vec<Arc<PresentUser>> = self
            .list
            .values()
            .take(listed.unwrap_or(0))
            .cloned()
            .collect();
        let diff = match self.told.listed {
            true => difference(&self.told.list, &list, self.told.next),
            false => PresenceDiff::default(),
        };
        let told = self.told.listed && listed.is_some() && (counts_changed || !diff.is_empty());
        self.told = Told {
            counts,
            list,
            listed: listed.is_some(),
            next: self.next,
        };
        self.untold.clear();
        News {
            diff: told.then_some(diff),
            counts_changed,
        }
    }
}

/// What became of a list, both in order; who has a number from `next` on came since.
fn difference(before: &[Arc<PresentUser>], now: &[Arc<PresentUser>], next: u64) -> PresenceDiff {
    let mut diff = PresenceDiff::default();
    let mut before = before.iter().peekable();
    for user in now {
        while let Some(gone) = before.next_if(|old| old.order < user.order) {
            diff.leaves.push(gone.who.clone());
        }
        match before.next_if(|old| old.order == user.order) {
            Some(old) if Arc::ptr_eq(old, user) => {}
            Some(old) => diff.updates.extend(updated(old, user)),
            None if user.order >= next => diff.joins.push(user.clone()),
            None => diff.shown.push(user.clone()),
        }
    }
    diff.leaves.extend(before.map(|gone| gone.who.clone()));
    diff
}

fn updated(before: &PresentUser, now: &PresentUser) -> Option<PresenceUpdate> {
    let state_in = |user: &PresentUser, connection: u64| {
        let mut seats = user.connections.iter();
        let seat = seats.find(|seat| seat.connection == connection);
        seat.map(|seat| seat.state.clone())
    };
    let gone = before.connections.iter().map(|seat| seat.connection);
    let gone = gone.filter(|connection| state_in(now, *connection).is_none());
    let changed = now.connections.iter().filter(|seat| {
        let old = state_in(before, seat.connection);
        old.as_ref() != Some(&seat.state)
    });
    let connections: SmallVec<[(u64, Option<Bytes>); 1]> = gone
        .map(|connection| (connection, None))
        .chain(changed.map(|seat| (seat.connection, Some(seat.state.clone()))))
        .collect();
    (!connections.is_empty()).then(|| PresenceUpdate {
        who: now.who.clone(),
        connections,
    })
}
