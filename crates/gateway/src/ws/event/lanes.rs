//! Which client events of one socket are handled at a time, as a value: those of one channel one after the other,
//! in the order they came; those of different channels side by side, a few at a time, in turn; and only so many
//! without an answer.

use std::{collections::VecDeque, sync::Arc};

/// Most of one socket that are handled at a time.
pub(super) const RUNNING: usize = 4;

/// The events of one socket that have no answer yet.
pub(super) struct Lanes<T> {
    /// In the order in which it is their turn.
    lanes: VecDeque<Lane<T>>,
    running: usize,
    count: usize,
    most: usize,
}

/// Those of one channel.
struct Lane<T> {
    name: Arc<str>,
    /// One is being handled.
    runs: bool,
    waiting: VecDeque<T>,
}

/// What becomes of an event.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Entered<T> {
    /// It is handled now; ask [`Lanes::next`] behind it.
    Begin(T),
    /// It waits for others.
    Waits,
    /// There are as many as allowed.
    Full(T),
}

impl<T> Lanes<T> {
    pub fn new(most: usize) -> Lanes<T> {
        Lanes {
            lanes: VecDeque::new(),
            running: 0,
            count: 0,
            most,
        }
    }

    /// An event comes.
    pub fn enter(&mut self, name: &Arc<str>, event: T) -> Entered<T> {
        if self.count >= self.most {
            return Entered::Full(event);
        }
        self.count += 1;
        if let Some(lane) = self.lanes.iter_mut().find(|lane| lane.name == *name) {
            lane.waiting.push_back(event);
            return Entered::Waits;
        }
        let runs = self.running < RUNNING;
        let mut lane = Lane {
            name: name.clone(),
            runs,
            waiting: VecDeque::new(),
        };
        let entered = match runs {
            true => {
                self.running += 1;
                Entered::Begin(event)
            }
            false => {
                lane.waiting.push_back(event);
                Entered::Waits
            }
        };
        self.lanes.push_back(lane);
        entered
    }

    /// The event that was handled in this lane has its answer: which one is next, and in which lane?
    pub fn next(&mut self, done: &Arc<str>) -> Option<(Arc<str>, T)> {
        let at = self.lanes.iter().position(|lane| lane.name == *done)?;
        let mut lane = self.lanes.remove(at)?;
        self.count = self.count.saturating_sub(1);
        self.running = self.running.saturating_sub(1);
        if !lane.waiting.is_empty() {
            lane.runs = false;
            self.lanes.push_back(lane);
        }
        let next = self.lanes.iter_mut().find(|lane| !lane.runs)?;
        let event = next.waiting.pop_front()?;
        next.runs = true;
        self.running += 1;
        Some((next.name.clone(), event))
    }

    /// Whether all have their answer.
    pub fn is_empty(&self) -> bool {
        self.lanes.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CHANNELS: usize = 7;
    const MOST: usize = 12;

    proptest! {
        /// Whatever the order of answers: at most one of a channel at a time and a few in all, in order, nobody
        /// idle while something waits, nothing lost.
        #[test]
        fn each_channel_goes_in_order(steps in prop::collection::vec((0..3_u8, 0..CHANNELS), 0..120)) {
            let names: Vec<Arc<str>> = (0..CHANNELS).map(|n| Arc::from(n.to_string())).collect();
            let mut lanes = Lanes::new(MOST);
            let mut running: [Option<u32>; CHANNELS] = [None; CHANNELS];
            let mut came: [Vec<u32>; CHANNELS] = Default::default();
            let mut handled: [Vec<u32>; CHANNELS] = Default::default();
            // At the end, all are answered.
            let end = (0..1000).map(|n| (2, n % CHANNELS));
            for (number, (step, at)) in (0_u32..).zip(steps.into_iter().chain(end)) {
                let open: usize = came.iter().zip(&handled).map(|(came, handled)| came.len() - handled.len()).sum();
                if step < 2 {
                    let entered = lanes.enter(&names[at], number);
                    prop_assert_eq!(matches!(entered, Entered::Full(_)), open >= MOST);
                    if open < MOST {
                        came[at].push(number);
                    }
                    if let Entered::Begin(event) = entered {
                        prop_assert!(running[at].is_none());
                        running[at] = Some(event);
                    }
                } else if let Some(event) = running[at].take() {
                    handled[at].push(event);
                    if let Some((name, event)) = lanes.next(&names[at]) {
                        let at: usize = name.parse().unwrap();
                        prop_assert!(running[at].is_none());
                        running[at] = Some(event);
                    }
                }
                let at_once = running.iter().flatten().count();
                let channels = came.iter().zip(&handled).filter(|(came, handled)| came.len() > handled.len());
                prop_assert_eq!(at_once, channels.count().min(RUNNING));
            }
            prop_assert_eq!(came, handled);
            prop_assert!(lanes.is_empty() && lanes.count == 0 && lanes.running == 0);
        }
    }

    #[test]
    fn channels_take_turns() {
        let names: Vec<Arc<str>> = (0..=RUNNING).map(|n| Arc::from(n.to_string())).collect();
        let mut lanes = Lanes::new(100);
        for (n, name) in names.iter().enumerate() {
            let entered = lanes.enter(name, n);
            assert_eq!(matches!(entered, Entered::Begin(_)), n < RUNNING);
            lanes.enter(name, n + 10);
        }
        // The one that has not begun comes before the second ones of the others.
        assert_eq!(
            lanes.next(&names[0]),
            Some((names[RUNNING].clone(), RUNNING))
        );
        assert_eq!(lanes.next(&names[1]), Some((names[0].clone(), 10)));
    }
}
