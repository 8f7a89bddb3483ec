//! The doors of channels of which the application says who may be on them: those who wait to come in, and when to
//! look again at those who are in.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use rowcast_model::Topic;
use slab::Slab;
use tokio::sync::Notify;

use crate::{grants::Revocations, guest::Guest, topics::SubId};

/// Those who wait, and when to look at those who are in.
pub(crate) struct Doors {
    pub guests: Slab<Guest>,
    pub waiting: VecDeque<usize>,
    pub dues: BTreeSet<(Duration, SubId)>,
    numbers: u64,
    pub revocations: Revocations,
    /// Rung when there is something to ask.
    pub bell: Arc<Notify>,
}

impl Default for Doors {
    fn default() -> Self {
        Doors {
            guests: Slab::new(),
            waiting: VecDeque::new(),
            dues: BTreeSet::new(),
            numbers: 0,
            revocations: Revocations::default(),
            bell: Arc::new(Notify::new()),
        }
    }
}

impl Doors {
    pub(crate) fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    pub(crate) fn next(&self) -> Option<Duration> {
        match self.waiting.is_empty() {
            true => self.dues.first().map(|(at, _)| *at),
            false => Some(Duration::ZERO),
        }
    }

    /// What those who wait to come to a channel were asked about before does not count any more.
    pub(crate) fn ask_again(&mut self, topic: &Topic) {
        for (key, guest) in &mut self.guests {
            if guest.topic == *topic && guest.asked.take().is_some() {
                self.waiting.push_back(key);
                self.bell.notify_one();
            }
        }
    }

    /// A subscription is to be looked at at another time.
    pub(crate) fn moved(&mut self, id: SubId, before: Option<Duration>, after: Option<Duration>) {
        if before == after {
            return;
        }
        if let Some(before) = before {
            self.dues.remove(&(before, id));
        }
        if let Some(after) = after {
            let first = self.dues.first().is_none_or(|(at, _)| after < *at);
            self.dues.insert((after, id));
            if first {
                self.bell.notify_one();
            }
        }
    }
}
