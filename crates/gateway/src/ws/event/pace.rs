//! How fast the client events of one socket may come, as a value: time is passed in as a span since any fixed
//! moment. Owns what is kept of those that came too fast, and gives back every one that will not be handled.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    time::Duration,
};

use rowcast_model::{Edge, Throttle, ThrottleRule, Throttled};

/// Most pairs of channel and event of one socket whose last time is remembered. Those that are idle are forgotten.
pub(super) const MOST: usize = 32;

/// The throttles of one socket.
pub(super) struct Pace<T> {
    /// By a number for channel and event, so that long names take no memory.
    slots: HashMap<u64, Slot<T>>,
    names: RandomState,
}

struct Slot<T> {
    throttle: Throttle<()>,
    every: Duration,
    held: Option<T>,
}

/// What becomes of an event.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Paced<T> {
    /// It is handled now. What was held is not.
    Now(T, Option<T>),
    /// It is held; what was held before is not handled.
    Held(Option<T>),
    /// It is not handled.
    Dropped(T),
    /// There are too many at a time.
    Full(T),
}

impl<T> Default for Pace<T> {
    fn default() -> Self {
        Pace {
            slots: HashMap::new(),
            names: RandomState::new(),
        }
    }
}

impl<T> Pace<T> {
    /// An event comes.
    pub fn offer(
        &mut self,
        name: (&str, &str, &str),
        rule: ThrottleRule,
        now: Duration,
        event: T,
    ) -> Paced<T> {
        let name = self.names.hash_one(name);
        if !self.slots.contains_key(&name) {
            self.forget_idle(now);
            if self.slots.len() >= MOST {
                return Paced::Full(event);
            }
        }
        let slot = self.slots.entry(name).or_insert_with(|| Slot {
            throttle: Throttle::default(),
            every: Duration::ZERO,
            held: None,
        });
        slot.every = Duration::from_millis(rule.interval_ms.into());
        match (slot.throttle.offer(slot.every, now, ()), rule.edge) {
            (Throttled::Now(()), _) => Paced::Now(event, slot.held.take()),
            (Throttled::Held(_), Edge::Trailing) => Paced::Held(slot.held.replace(event)),
            (Throttled::Held(_), Edge::Leading) => Paced::Dropped(event),
        }
    }

    /// Those whose time has come.
    pub fn due(&mut self, now: Duration) -> Vec<T> {
        let due = self.slots.values_mut().filter_map(|slot| {
            slot.held.as_ref()?;
            slot.throttle.due(slot.every, now)?;
            slot.held.take()
        });
        due.collect()
    }

    /// When to ask [`Pace::due`] at the latest.
    pub fn next(&self) -> Option<Duration> {
        let held = self.slots.values().filter(|slot| slot.held.is_some());
        held.map(|slot| slot.throttle.idle_at()).min()
    }

    /// Forgets what need not be remembered; true when that is all.
    pub fn forget_idle(&mut self, now: Duration) -> bool {
        self.slots
            .retain(|_, slot| slot.held.is_some() || slot.throttle.idle_at() > now);
        self.slots.is_empty()
    }

    /// When the last one is idle, if there is any.
    pub fn idle_at(&self) -> Option<Duration> {
        self.slots
            .values()
            .map(|slot| slot.throttle.idle_at())
            .max()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TRAILING: ThrottleRule = ThrottleRule {
        interval_ms: 50,
        edge: Edge::Trailing,
    };
    const LEADING: ThrottleRule = ThrottleRule {
        interval_ms: 100,
        edge: Edge::Leading,
    };

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    /// What a naive reader of the rules does with moves at these times: when each is handled, if it is.
    fn naive(rule: ThrottleRule, times: &[u64]) -> Vec<Option<u64>> {
        let every = u64::from(rule.interval_ms);
        let mut handled = vec![None; times.len()];
        let mut open = 0;
        let mut held: Option<usize> = None;
        for (at, time) in times.iter().enumerate() {
            if let Some(waiting) = held
                && open <= *time
            {
                handled[waiting] = Some(open);
                open += every;
                held = None;
            }
            if *time >= open {
                handled[at] = Some(*time);
                open = time + every;
            } else if rule.edge == Edge::Trailing {
                held = Some(at);
            }
        }
        if let Some(waiting) = held {
            handled[waiting] = Some(open);
        }
        handled
    }

    proptest! {
        /// A loop that always looks in time does as the rules say: one at once, then one in each span, and always
        /// the last; and every event is either handled or given back.
        #[test]
        fn handles_what_the_rules_say(gaps in prop::collection::vec(0..120_u64, 1..60), leading in any::<bool>()) {
            let rule = if leading { LEADING } else { TRAILING };
            let times: Vec<u64> = gaps.iter().scan(1000, |at, gap| { *at += gap; Some(*at) }).collect();
            let mut pace = Pace::default();
            let mut handled = vec![None; times.len()];
            let mut given_back = 0;
            let end = times.last().unwrap() + 1000;
            let mut coming = times.iter().enumerate().peekable();
            for now in 0..=end {
                for event in pace.due(ms(now)) {
                    handled[event] = Some(now);
                }
                while let Some((event, _)) = coming.next_if(|(_, time)| **time == now) {
                    match pace.offer(("o", "room:1", "move"), rule, ms(now), event) {
                        Paced::Now(event, before) => {
                            handled[event] = Some(now);
                            prop_assert!(before.is_none(), "a loop that looks in time leaves nothing");
                        }
                        Paced::Held(before) => given_back += usize::from(before.is_some()),
                        Paced::Dropped(_) => given_back += 1,
                        Paced::Full(_) => prop_assert!(false, "there is one"),
                    }
                }
            }
            let wanted = naive(rule, &times);
            prop_assert_eq!(&handled, &wanted);
            let done: Vec<u64> = handled.iter().flatten().copied().collect();
            prop_assert!(done.windows(2).all(|pair| pair[1] - pair[0] >= u64::from(rule.interval_ms)));
            prop_assert_eq!(done.len() + given_back, times.len());
            if !leading {
                prop_assert!(handled.last().unwrap().is_some(), "the last one is always handled");
            }
            prop_assert!(pace.next().is_none() && pace.forget_idle(ms(end)));
        }
    }

    #[test]
    fn channels_and_events_do_not_share_and_idle_ones_are_forgotten() {
        let mut pace = Pace::default();
        let offer = |pace: &mut Pace<u32>, channel: &str, now, event| {
            pace.offer(("o", channel, "move"), TRAILING, ms(now), event)
        };
        assert_eq!(offer(&mut pace, "a", 1000, 1), Paced::Now(1, None));
        assert_eq!(offer(&mut pace, "b", 1000, 2), Paced::Now(2, None));
        assert_eq!(offer(&mut pace, "a", 1010, 3), Paced::Held(None));
        assert_eq!(offer(&mut pace, "a", 1020, 4), Paced::Held(Some(3)));
        assert_eq!(pace.next(), Some(ms(1050)));
        assert!(pace.due(ms(1049)).is_empty());
        assert!(!pace.forget_idle(ms(1060)));
        // Late: what comes takes the place of what was held too long.
        assert_eq!(offer(&mut pace, "a", 1070, 5), Paced::Now(5, Some(4)));
        assert!(pace.next().is_none());
        assert_eq!(pace.idle_at(), Some(ms(1120)));
        assert!(pace.forget_idle(ms(1120)));
        for n in 0..MOST {
            let channel = n.to_string();
            assert_eq!(offer(&mut pace, &channel, 2000, 0), Paced::Now(0, None));
        }
        assert_eq!(offer(&mut pace, "one more", 2049, 7), Paced::Full(7));
        assert_eq!(offer(&mut pace, "one more", 2050, 7), Paced::Now(7, None));
    }
}
