//! A room with those who follow it: what each of them is told, encoded once for all who get the same.

use std::{sync::Arc, time::Duration};

use hashbrown::HashMap;
use rowcast_model::{PresenceCounts, Topic};
use rowcast_wire::{Frame, server, server::PresencePlace};

use crate::{
    PresenceLimits,
    presence::room::{self, Room},
    topics::SubId,
};

type Map<K, V> = HashMap<K, V, foldhash::fast::RandomState>;

/// The number of a room.
pub(crate) type RoomId = u32;

/// Somebody who follows a room.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Follower {
    /// Tells this subscription from others with its number.
    pub generation: u64,
    /// Wants to know who, and not only how many.
    pub list: bool,
    /// Was told nothing yet.
    pub fresh: bool,
}

/// A room with what is around it.
pub(crate) struct Hall {
    pub topic: Topic,
    pub room: Room,
    pub followers: Map<SubId, Follower>,
    /// Followers of the list among them.
    pub lists: usize,
    /// When its followers are told next.
    pub due: Option<Duration>,
    /// Not before this.
    pub not_before: Duration,
    /// Its followers are being told.
    pub telling: bool,
    /// Something changed since.
    pub again: bool,
    /// The number of the last difference.
    seq: u64,
}

/// Frames on their way to the followers of a room.
pub(crate) struct Telling {
    room: RoomId,
    /// Who gets which of the parcels.
    targets: Vec<(SubId, u64, Parcel)>,
    next: usize,
    state: Vec<Frame>,
    diff: Vec<Frame>,
    count: Option<Frame>,
}

#[derive(Clone, Copy)]
enum Parcel {
    State,
    Diff,
    Count,
}

/// The name of the channel of a topic.
pub(crate) fn name_of(topic: &Topic) -> Arc<str> {
    match topic {
        Topic::Org(organization) => format!("org:{organization}").into(),
        Topic::User(user) => format!("user:{user}").into(),
        Topic::Channel(_, name) => name.clone(),
        Topic::AllOrgs => "".into(),
    }
}

/// What its frames begin with.
pub(crate) fn place<'a>(
    topic: &'a Topic,
    name: &'a str,
    counts: PresenceCounts,
) -> PresencePlace<'a> {
    PresencePlace {
        channel: name,
        organization: topic.organization(),
        counts,
    }
}

impl Hall {
    /// An empty one.
    pub(crate) fn new(topic: Topic) -> Hall {
        Hall {
            topic,
            room: Room::default(),
            followers: Map::default(),
            lists: 0,
            due: None,
            not_before: Duration::ZERO,
            telling: false,
            again: false,
            seq: 0,
        }
    }

    /// What its followers do not know yet, which they are told from here on.
    pub(crate) fn tell(&mut self, id: RoomId, limits: &PresenceLimits) -> Telling {
        let fresh = |list| {
            let mut all = self.followers.values();
            all.any(|follower| follower.fresh && follower.list == list)
        };
        let (fresh_lists, fresh_counts) = (fresh(true), fresh(false));
        let room::News {
            diff,
            counts_changed,
        } = self.room.tell((self.lists > 0).then_some(limits.listed));
        let name = name_of(&self.topic);
        let place = place(&self.topic, &name, self.room.counts());
        let diff = diff.map_or_else(Vec::new, |diff| {
            server::presence_diff(&place, self.seq + 1, &diff)
        });
        self.seq += diff.len() as u64;
        let state = match fresh_lists {
            true => server::presence_state(&place, self.seq, self.room.told_list()),
            false => Vec::new(),
        };
        let count = (fresh_counts || counts_changed).then(|| server::presence_count(&place));
        let mut targets = Vec::new();
        for (sub, follower) in &mut self.followers {
            let fresh = std::mem::take(&mut follower.fresh);
            let parcel = match (follower.list, fresh) {
                (true, true) => Parcel::State,
                (true, false) if !diff.is_empty() => Parcel::Diff,
                (false, fresh) if fresh || counts_changed => Parcel::Count,
                _ => continue,
            };
            targets.push((*sub, follower.generation, parcel));
        }
        Telling {
            room: id,
            targets,
            next: 0,
            state,
            diff,
            count,
        }
    }
}

impl Telling {
    /// Whether nobody is told anything.
    pub(crate) fn is_empty(&self) -> bool {
        self.targets.is_empty()
    }

    pub(crate) fn room(&self) -> RoomId {
        self.room
    }

    /// What it writes to all who get something.
    pub(crate) fn bytes(&self) -> usize {
        let sum = |frames: &[Frame]| frames.iter().map(Frame::len).sum::<usize>();
        let (state, diff) = (sum(&self.state), sum(&self.diff));
        let count = self.count.as_ref().map_or(0, Frame::len);
        let of = |(_, _, parcel): &(SubId, u64, Parcel)| match parcel {
            Parcel::State => state,
            Parcel::Diff => diff,
            Parcel::Count => count,
        };
        self.targets.iter().map(of).sum()
    }

    /// Whether all were told.
    pub(crate) fn is_over(&self) -> bool {
        self.next == self.targets.len()
    }

    /// The next of those who are told, and their frames; `None` when all were.
    pub(crate) fn next(&mut self) -> Option<(SubId, u64, &[Frame])> {
        let (sub, generation, parcel) = *self.targets.get(self.next)?;
        self.next += 1;
        let frames = match parcel {
            Parcel::State => &self.state[..],
            Parcel::Diff => &self.diff[..],
            Parcel::Count => self.count.as_slice(),
        };
        Some((sub, generation, frames))
    }
}
