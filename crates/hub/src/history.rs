//! The past that is kept for those who come back. Pure: time is handed in.
//!
//! Owns the latest events of each topic (organization, channel, user), and those for all organizations, in log
//! order, in chunks; how far back each past reaches (its floor); and what is forgotten when, a chunk at a time: too
//! old first, then whatever is over the limit of its topic, then the oldest of all. Promises: [`History::after`]
//! has every event that came behind a cursor that is not before the floor, whatever was forgotten; and memory is
//! bounded in bytes, counted with everything that a chunk keeps alive.

use std::{
    cmp::{Ordering, Reverse},
    collections::{BinaryHeap, VecDeque},
    mem::size_of,
    time::Duration,
};

use rowcast_model::{Cursor, Epoch, Lsn, RoutedEvent, Topic};
use slab::Slab;

use crate::{
    chunk::{Chunk, Packed},
    state::Map,
};

/// Bytes of a chunk where there is much to keep; less, and at least this, where there is little.
const CHUNK_BYTES: (usize, usize) = (512, 8 * 1024);
/// A chunk is a part of the retention, and of what may be kept, that is at most one of so many.
const PARTS: u32 = 8;

/// What the age of a chunk takes: twice, as there may be one of something forgotten for each.
const AGE_BYTES: usize = 2 * size_of::<(u64, usize)>();

/// How much is kept.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Bytes in all.
    pub bytes: usize,
    /// Bytes of one organization, channel or user.
    pub topic_bytes: usize,
    /// How long.
    pub retention: Duration,
    /// Topics of which nothing is left but how far their past reached, by number.
    pub remembered: usize,
}

/// The past of all topics.
pub(crate) struct History {
    limits: Limits,
    /// How far back the past of topics reaches that are not in `pasts`.
    floor: Cursor,
    pasts: Slab<Past>,
    by_topic: Map<Topic, usize>,
    /// The past of the last event, as the next one is often of the same.
    latest: usize,
    /// Every chunk, oldest first: its number and its past. Those that their past forgot before it was their
    /// turn stay until then, or until they are too many.
    ages: VecDeque<(u64, usize)>,
    chunks: usize,
    /// Events that are kept.
    kept: usize,
    /// Pasts without events.
    empty: usize,
    next: u64,
    bytes: usize,
    evicted: u64,
}

/// Where events for all organizations are.
const ALL: usize = 0;

/// Events of one topic.
struct Past {
    topic: Topic,
    chunks: VecDeque<Chunk>,
    bytes: usize,
    /// Of what came up to here, something may be missing.
    floor: Cursor,
}

/// Whose past: of some topics, with what was for all organizations or without.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Of<'a> {
    pub topics: &'a [Topic],
    pub all: bool,
}

impl History {
    /// Knows nothing from before `floor`.
    pub(crate) fn new(limits: Limits, floor: Cursor) -> History {
        let mut history = History {
            limits,
            floor,
            pasts: Slab::new(),
            by_topic: Map::default(),
            latest: ALL,
            ages: VecDeque::new(),
            chunks: 0,
            kept: 0,
            empty: 0,
            next: 0,
            bytes: 0,
            evicted: 0,
        };
        history.begin(floor);
        history
    }

    /// Forgets everything: the past begins at `floor`.
    pub(crate) fn begin(&mut self, floor: Cursor) {
        self.evicted += self.kept as u64;
        self.floor = floor;
        self.pasts = Slab::new();
        self.by_topic = Map::default();
        self.latest = ALL;
        self.ages = VecDeque::new();
        self.chunks = 0;
        self.kept = 0;
        self.bytes = 0;
        self.empty = 1;
        self.pasts.insert(Past {
            topic: Topic::AllOrgs,
            chunks: VecDeque::new(),
            bytes: 0,
            floor,
        });
    }

    /// Bytes that are kept.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Events forgotten so far.
    pub(crate) fn evicted(&self) -> u64 {
        self.evicted
    }

    /// Keeps an event that was handed on at `now`. Events come in log order; one that is behind is known.
    pub(crate) fn push(&mut self, event: &RoutedEvent, now: Duration) {
        let slot = self.slot(&event.topic);
        let Some(past) = self.pasts.get_mut(slot) else {
            return;
        };
        if !matches!(
            past.last().compare(&event.cursor),
            Some(Ordering::Less | Ordering::Equal)
        ) {
            return;
        }
        let packed = Packed::new(event, self.next);
        let (before, needed) = (past.bytes, packed.bytes());
        let since = now.saturating_sub(self.limits.retention / PARTS);
        let open = |chunk: &Chunk| chunk.began >= since && chunk.has_room(needed);
        if !past.chunks.back().is_some_and(open) {
            if past.chunks.is_empty() {
                self.empty -= 1;
            }
            let room = self.limits.room(past.bytes).max(needed);
            let chunk = Chunk::new(room, &packed, now);
            past.bytes += chunk.cost() + AGE_BYTES;
            past.chunks.push_back(chunk);
            self.chunks += 1;
            self.ages.push_back((self.next, slot));
        }
        if let Some(chunk) = past.chunks.back_mut() {
            let cost = chunk.cost();
            chunk.push(&packed, now);
            past.bytes += chunk.cost() - cost;
        }
        self.bytes += past.bytes - before;
        self.kept += 1;
        self.next += 1;
        while self.is_over(slot) {
            self.forget_first(slot);
        }
        while self.bytes > self.limits.bytes
            && let Some((slot, _)) = self.oldest()
        {
            self.forget_first(slot);
        }
        self.forget_ages();
        self.forget_topics();
    }

    /// Forgets what is too old at `now`; an eighth of the time later at most, as what came together goes together.
    pub(crate) fn expire(&mut self, now: Duration) {
        while let Some((slot, at)) = self.oldest() {
            if at.saturating_add(self.limits.retention) > now {
                break;
            }
            self.forget_first(slot);
        }
        self.forget_topics();
    }

    /// The past with the oldest chunk of all, and when the last event of that was handed on.
    fn oldest(&mut self) -> Option<(usize, Duration)> {
        while let Some((number, slot)) = self.ages.front() {
            let past = self.pasts.get(*slot);
            match past.and_then(|past| past.chunks.front()) {
                Some(first) if first.number == *number => return Some((*slot, first.ended)),
                _ => self.ages.pop_front(),
            };
        }
        None
    }

    /// Forgets the ages of what is forgotten, when they are as many as those of what is kept.
    fn forget_ages(&mut self) {
        if self.ages.len() <= 2 * self.chunks + 1024 {
            return;
        }
        let pasts = &self.pasts;
        self.ages.retain(|(number, slot)| {
            let first = pasts.get(*slot).and_then(|past| past.chunks.front());
            first.is_some_and(|first| first.number <= *number)
        });
    }

    fn is_over(&self, slot: usize) -> bool {
        let past = self.pasts.get(slot);
        past.is_some_and(|past| past.bytes > self.limits.topic_bytes)
    }

    /// Where the past of a topic is.
    fn slot(&mut self, topic: &Topic) -> usize {
        let latest = self.pasts.get(self.latest);
        if latest.is_some_and(|past| past.topic == *topic) {
            return self.latest;
        }
        self.latest = match topic {
            Topic::AllOrgs => ALL,
            topic => match self.by_topic.get(topic) {
                Some(slot) => *slot,
                None => self.remember(topic.clone()),
            },
        };
        self.latest
    }

    fn remember(&mut self, topic: Topic) -> usize {
        self.empty += 1;
        let slot = self.pasts.insert(Past {
            topic: topic.clone(),
            chunks: VecDeque::new(),
            bytes: 0,
            floor: self.floor,
        });
        self.by_topic.insert(topic, slot);
        slot
    }

    fn forget_first(&mut self, slot: usize) {
        let Some(past) = self.pasts.get_mut(slot) else {
            return;
        };
        let Some(chunk) = past.chunks.pop_front() else {
            return;
        };
        let bytes = chunk.cost() + AGE_BYTES;
        past.floor = chunk.last;
        past.bytes -= bytes;
        self.bytes -= bytes;
        self.chunks -= 1;
        self.kept -= chunk.count;
        self.evicted += chunk.count as u64;
        if past.chunks.is_empty() {
            past.chunks = VecDeque::new();
            self.empty += 1;
        } else if past.chunks.capacity() > 64 && past.chunks.len() * 4 < past.chunks.capacity() {
            past.chunks.shrink_to(past.chunks.len() * 2);
        }
    }

    /// When too many topics have nothing left, they become unknown, and with them every cursor
    /// from before their last event.
    fn forget_topics(&mut self) {
        if self.empty <= self.limits.remembered {
            return;
        }
        let mut floor = self.floor;
        let by_topic = &mut self.by_topic;
        self.pasts.retain(|slot, past| {
            if !past.chunks.is_empty() || slot == ALL {
                return true;
            }
            floor = later(floor, past.floor);
            by_topic.remove(&past.topic);
            false
        });
        self.floor = floor;
        let of_all = self.pasts.get(ALL);
        self.empty = usize::from(of_all.is_some_and(|past| past.chunks.is_empty()));
    }

    fn slots<'a>(&'a self, of: Of<'a>) -> impl Iterator<Item = Option<(usize, &'a Past)>> {
        let known = |topic| {
            let slot = *self.by_topic.get(topic)?;
            Some((slot, self.pasts.get(slot)?))
        };
        let all = of.all.then(|| Some((ALL, self.pasts.get(ALL)?)));
        of.topics.iter().map(known).chain(all)
    }

    /// How far back a past reaches: everything behind this cursor is there.
    pub(crate) fn floor(&self, of: Of<'_>) -> Cursor {
        self.slots(of)
            .map(|past| past.map_or(self.floor, |(_, past)| past.floor))
            .reduce(later)
            .unwrap_or(self.floor)
    }

    /// The last event of a past, or its floor.
    pub(crate) fn last(&self, of: Of<'_>) -> Cursor {
        self.slots(of)
            .map(|past| past.map_or(self.floor, |(_, past)| past.last()))
            .reduce(later)
            .unwrap_or(self.floor)
    }

    /// The last event of these topics that fits, and of those for all organizations; only so many are looked at, as
    /// many of each.
    pub(crate) fn latest(
        &self,
        topics: &[Topic],
        looks: usize,
        fits: impl Fn(&RoutedEvent) -> bool,
    ) -> Option<RoutedEvent> {
        let looks = looks / (topics.len() + 1);
        let slots = topics.iter().filter_map(|topic| self.by_topic.get(topic));
        let pasts = slots.chain([&ALL]).filter_map(|slot| self.pasts.get(*slot));
        let found = pasts.filter_map(|past| {
            let events = past.chunks.iter().rev().flat_map(|chunk| {
                let places: Vec<usize> = chunk.places().collect();
                let backwards = places.into_iter().rev();
                backwards.filter_map(|at| chunk.read(at, &past.topic))
            });
            events.take(looks).find(|event| fits(event))
        });
        found.reduce(|a, b| match a.cursor.compare(&b.cursor) {
            Some(Ordering::Less) => b,
            _ => a,
        })
    }

    /// Events behind `from`, in log order.
    pub(crate) fn after<'a>(&'a self, of: Of<'a>, from: Cursor) -> After<'a> {
        let mut heads = BinaryHeap::new();
        for (slot, past) in self.slots(of).flatten() {
            heads.extend(past.behind(slot, from));
        }
        After {
            history: self,
            heads,
        }
    }
}

/// The later of two cursors of one epoch.
fn later(a: Cursor, b: Cursor) -> Cursor {
    match a.compare(&b) {
        Some(Ordering::Less) => b,
        _ => a,
    }
}

impl Limits {
    /// Room of the next chunk of a past that has so many bytes: a part of what there is, so that nothing much is
    /// kept free, and a small part of what may be, so that it is not much that is forgotten at once.
    fn room(&self, bytes: usize) -> usize {
        let (least, most) = CHUNK_BYTES;
        let part = self.topic_bytes.min(self.bytes) / PARTS as usize;
        let room = (bytes / 2).clamp(least, most);
        room.checked_next_power_of_two().unwrap_or(most).min(part)
    }
}

impl Past {
    fn last(&self) -> Cursor {
        let last = self.chunks.back();
        last.map_or(self.floor, |chunk| chunk.last)
    }

    /// The first event behind a position.
    fn behind(&self, slot: usize, from: Cursor) -> Option<Reverse<Next>> {
        let seen = |cursor: Cursor| {
            let order = cursor.compare(&from);
            matches!(order, Some(Ordering::Less | Ordering::Equal))
        };
        let chunk = self.chunks.partition_point(|chunk| seen(chunk.last));
        let mut next = self.next(slot, chunk, 0)?;
        while seen(next.0.cursor(from.epoch)) {
            next = self.next(slot, chunk, next.0.end)?;
        }
        Some(next)
    }

    /// The event at a place in a chunk, or the first of the next one when that was at its end.
    fn next(&self, slot: usize, chunk: usize, at: usize) -> Option<Reverse<Next>> {
        let of = self.chunks.get(chunk)?;
        let Some((head, end)) = of.head(at) else {
            return self.next(slot, chunk + 1, 0);
        };
        let cursor = head.cursor(of.last.epoch);
        Some(Reverse(Next {
            lsn: cursor.commit_lsn,
            index: cursor.index,
            number: head.number,
            slot,
            chunk,
            at,
            end,
        }))
    }
}

/// Position and number of the next event of a past, and where it is; in the order in which events are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Next {
    lsn: Lsn,
    index: u32,
    number: u64,
    slot: usize,
    chunk: usize,
    at: usize,
    /// Where the one behind it begins.
    end: usize,
}

impl Next {
    fn cursor(&self, epoch: Epoch) -> Cursor {
        Cursor {
            epoch,
            commit_lsn: self.lsn,
            index: self.index,
        }
    }
}

/// See [`History::after`].
pub(crate) struct After<'a> {
    history: &'a History,
    heads: BinaryHeap<Reverse<Next>>,
}

impl Iterator for After<'_> {
    type Item = RoutedEvent;

    fn next(&mut self) -> Option<RoutedEvent> {
        let Reverse(next) = self.heads.pop()?;
        let past = self.history.pasts.get(next.slot)?;
        self.heads
            .extend(past.next(next.slot, next.chunk, next.end));
        past.chunks.get(next.chunk)?.read(next.at, &past.topic)
    }
}

#[cfg(test)]
#[path = "history_tests.rs"]
mod tests;
