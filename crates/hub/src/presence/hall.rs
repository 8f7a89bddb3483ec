//! A room with those who follow it: what each of them is told, encoded once for all who get the same.

use std::{sync::Arc, time::Duration};

use hashbrown::HashMap;
use rowcast_model::{PresenceCounts, Topic};
use rowcast_wire::{Frame, phoenix::Version, server, server::PresencePlace};

use crate::{
    PresenceLimits,
    presence::{
        phoenix,
        room::{self, Room},
    },
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
    /// The version of the Supabase protocol that it speaks; `None`: the native one.
    pub phoenix: Option<Version>,
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
    /// The same in the versions of the Supabase protocol.
    phoenix: [phoenix::Told; 2],
}

#[derive(Clone, Copy)]
enum Parcel {
    State,
    Diff,
    Count,
    PhoenixState(Version),
    PhoenixDiff(Version),
}

/// Where in a list of both a version has its place.
fn place_of(version: Version) -> usize {
    match version {
        Version::V1 => 0,
        Version::V2 => 1,
    }
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
        let before = match self.followers.values().any(|one| one.phoenix.is_some()) {
            true => self.room.told_list().to_vec(),
            false => Vec::new(),
        };
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
        let phoenix = [Version::V1, Version::V2].map(|version| {
            let those = self.followers.values();
            let those = those.filter(|one| one.phoenix == Some(version));
            let fresh = those.clone().any(|one| one.fresh);
            match those.count() {
                0 => phoenix::Told::default(),
                _ => phoenix::told(version, &name, &before, self.room.told_list(), fresh),
            }
        });
        let mut targets = Vec::new();
        for (sub, follower) in &mut self.followers {
            let fresh = std::mem::take(&mut follower.fresh);
            if let Some(version) = follower.phoenix {
                let nothing = phoenix.get(place_of(version));
                let nothing = nothing.is_none_or(|told| told.diff.is_empty());
                let parcel = match fresh {
                    true => Parcel::PhoenixState(version),
                    false if nothing => continue,
                    false => Parcel::PhoenixDiff(version),
                };
                targets.push((*sub, follower.generation, parcel));
                continue;
            }
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
            phoenix,
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
        let told = |version: Version| self.phoenix.get(place_of(version));
        let of = |(_, _, parcel): &(SubId, u64, Parcel)| match parcel {
            Parcel::PhoenixState(version) => told(*version).map_or(0, |told| sum(&told.state)),
            Parcel::PhoenixDiff(version) => told(*version).map_or(0, |told| sum(&told.diff)),
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
            Parcel::PhoenixState(version) => {
                let told = self.phoenix.get(place_of(version));
                told.map_or(&[][..], |told| &told.state[..])
            }
            Parcel::PhoenixDiff(version) => {
                let told = self.phoenix.get(place_of(version));
                told.map_or(&[][..], |told| &told.diff[..])
            }
        };
        Some((sub, generation, frames))
    }
}
