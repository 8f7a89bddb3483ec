//! The past that is kept for those who come back. Pure: time is handed in.
//!
//! Owns the latest events of each topic (organization, channel, user), and those for all organizations, in log
//! order; how far back each past reaches (its floor); and what is forgotten when: too old first, then whatever
//! is over the limit of its topic, then the oldest of all. Promises: [`History::after`] has every event that came behind
//! a cursor that is not before the floor, whatever was forgotten; and memory is bounded in bytes, counted
//! with everything that an event keeps alive.

use std::{
    cmp::{Ordering, Reverse},
    collections::{BinaryHeap, VecDeque},
    mem::size_of,
    sync::Arc,
    time::Duration,
};

use rowcast_model::{Body, Cursor, Lsn, Masked, Message, RoutedEvent, Topic};
use slab::Slab;

use crate::state::Map;

/// What an allocation costs besides its bytes, roughly: the allocator's rounding, and counts of owners.
const ALLOCATION: usize = 24;

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
    /// Every event, oldest first: its number and its past. Those that their past forgot before it was their
    /// turn stay until then, or until they are too many.
    ages: VecDeque<(u64, usize)>,
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
    events: VecDeque<Kept>,
    bytes: usize,
    /// Of what came up to here, something may be missing.
    floor: Cursor,
}

struct Kept {
    number: u64,
    at: Duration,
    bytes: usize,
    event: Arc<RoutedEvent>,
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
            ages: VecDeque::new(),
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
        self.ages = VecDeque::new();
        self.kept = 0;
        self.bytes = 0;
        self.empty = 1;
        self.pasts.insert(Past {
            topic: Topic::AllOrgs,
            events: VecDeque::new(),
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
    pub(crate) fn push(&mut self, mut event: Arc<RoutedEvent>, now: Duration) {
        let slot = match &event.topic {
            Topic::AllOrgs => ALL,
            topic => match self.by_topic.get(topic) {
                Some(slot) => *slot,
                None => self.remember(topic.clone()),
            },
        };
        let Some(past) = self.pasts.get_mut(slot) else {
            return;
        };
        if !matches!(
            past.last().compare(&event.cursor),
            Some(Ordering::Less | Ordering::Equal)
        ) {
            return;
        }
        let bytes = compact(&mut event);
        if past.events.is_empty() {
            self.empty -= 1;
        }
        past.bytes += bytes;
        self.bytes += bytes;
        past.events.push_back(Kept {
            number: self.next,
            at: now,
            bytes,
            event,
        });
        self.ages.push_back((self.next, slot));
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

    /// Forgets what is too old at `now`.
    pub(crate) fn expire(&mut self, now: Duration) {
        while let Some((slot, at)) = self.oldest() {
            if at.saturating_add(self.limits.retention) > now {
                break;
            }
            self.forget_first(slot);
        }
        self.forget_topics();
    }

    /// The past with the oldest event of all, and when that was handed on.
    fn oldest(&mut self) -> Option<(usize, Duration)> {
        while let Some((number, slot)) = self.ages.front() {
            let past = self.pasts.get(*slot);
            match past.and_then(|past| past.events.front()) {
                Some(first) if first.number == *number => return Some((*slot, first.at)),
                _ => self.ages.pop_front(),
            };
        }
        None
    }

    /// Forgets the ages of what is forgotten, when they are as many as those of what is kept.
    fn forget_ages(&mut self) {
        if self.ages.len() <= 2 * self.kept + 1024 {
            return;
        }
        let pasts = &self.pasts;
        self.ages.retain(|(number, slot)| {
            let first = pasts.get(*slot).and_then(|past| past.events.front());
            first.is_some_and(|first| first.number <= *number)
        });
    }

    fn is_over(&self, slot: usize) -> bool {
        let past = self.pasts.get(slot);
        past.is_some_and(|past| past.bytes > self.limits.topic_bytes)
    }

    fn remember(&mut self, topic: Topic) -> usize {
        self.empty += 1;
        let slot = self.pasts.insert(Past {
            topic: topic.clone(),
            events: VecDeque::new(),
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
        let Some(kept) = past.events.pop_front() else {
            return;
        };
        past.floor = kept.event.cursor;
        past.bytes -= kept.bytes;
        self.bytes -= kept.bytes;
        self.kept -= 1;
        self.evicted += 1;
        if past.events.is_empty() {
            past.events = VecDeque::new();
            self.empty += 1;
        } else if past.events.capacity() > 64 && past.events.len() * 4 < past.events.capacity() {
            past.events.shrink_to(past.events.len() * 2);
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
            if !past.events.is_empty() || slot == ALL {
                return true;
            }
            floor = later(floor, past.floor);
            by_topic.remove(&past.topic);
            false
        });
        self.floor = floor;
        let of_all = self.pasts.get(ALL);
        self.empty = usize::from(of_all.is_some_and(|past| past.events.is_empty()));
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

    /// The last event of these topics that fits, and of those for all organizations; of each only so many are looked at.
    pub(crate) fn latest(
        &self,
        topics: &[Topic],
        looks: usize,
        fits: impl Fn(&RoutedEvent) -> bool,
    ) -> Option<&RoutedEvent> {
        let slots = topics.iter().filter_map(|topic| self.by_topic.get(topic));
        let pasts = slots.chain([&ALL]).filter_map(|slot| self.pasts.get(*slot));
        let found = pasts.filter_map(|past| {
            let events = past.events.iter().rev().take(looks);
            events.map(|kept| &*kept.event).find(|event| fits(event))
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
            let seen = |kept: &Kept| {
                let order = kept.event.cursor.compare(&from);
                matches!(order, Some(Ordering::Less | Ordering::Equal))
            };
            let at = past.events.partition_point(seen);
            heads.extend(past.head(slot, at));
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

impl Past {
    fn last(&self) -> Cursor {
        let last = self.events.back();
        last.map_or(self.floor, |kept| kept.event.cursor)
    }

    fn head(&self, slot: usize, at: usize) -> Option<Reverse<Head>> {
        let kept = self.events.get(at)?;
        let Cursor {
            commit_lsn, index, ..
        } = kept.event.cursor;
        Some(Reverse((commit_lsn, index, kept.number, slot, at)))
    }
}

/// Position and number of the next event of a past, and where it is.
type Head = (Lsn, u32, u64, usize, usize);

/// See [`History::after`].
pub(crate) struct After<'a> {
    history: &'a History,
    heads: BinaryHeap<Reverse<Head>>,
}

impl<'a> Iterator for After<'a> {
    type Item = &'a RoutedEvent;

    fn next(&mut self) -> Option<&'a RoutedEvent> {
        let Reverse((_, _, _, slot, at)) = self.heads.pop()?;
        let past = self.history.pasts.get(slot)?;
        self.heads.extend(past.head(slot, at + 1));
        Some(&past.events.get(at)?.event)
    }
}

/// Makes an event own its bytes, so that it keeps no buffer alive that it shares with others, and counts
/// them. Names of tables, columns and topics are shared by all, and not counted. An event that somebody else
/// holds, too, is copied.
fn compact(event: &mut Arc<RoutedEvent>) -> usize {
    let text = |text: &Option<Arc<str>>| text.as_ref().map_or(0, |text| text.len() + ALLOCATION);
    // Its age is counted twice, as there may be one of something forgotten for each.
    let mut bytes =
        size_of::<Kept>() + size_of::<RoutedEvent>() + ALLOCATION + 2 * size_of::<(u64, usize)>();
    bytes += text(&event.record_id) + text(&event.old_record_id);
    bytes += event
        .audience
        .masked
        .as_ref()
        .map_or(0, |_| size_of::<Masked>() + ALLOCATION);
    match &event.body {
        Body::Invalidate => return bytes,
        Body::Message(message) => {
            return bytes + message.cost() + size_of::<Message>() + 2 * ALLOCATION;
        }
        Body::Change { .. } => {}
    }
    if let Body::Change { new, old, .. } = &mut Arc::make_mut(event).body {
        for row in [new, old].into_iter().flatten() {
            row.compact();
            bytes += row.cost() + ALLOCATION;
        }
    }
    bytes
}

#[cfg(test)]
#[path = "history_tests.rs"]
mod tests;
