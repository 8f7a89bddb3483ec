//! Which client events of one socket are handled at a time, as a value: those of one channel one after the other,
//! in the order they came; those of different channels side by side; and only so many without an answer.

use std::{collections::VecDeque, sync::Arc};

/// The events of one socket that have no answer yet.
pub(super) struct Lanes<T> {
    /// One is being handled in each; the others wait.
    lanes: Vec<(Arc<str>, VecDeque<T>)>,
    count: usize,
    most: usize,
}

/// What becomes of an event.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Entered<T> {
    /// It is handled now; ask [`Lanes::next`] behind it.
    Begin(T),
    /// It waits for those before it.
    Waits,
    /// There are as many as allowed.
    Full(T),
}

impl<T> Lanes<T> {
    pub fn new(most: usize) -> Lanes<T> {
        Lanes {
            lanes: Vec::new(),
            count: 0,
            most,
        }
    }

    /// An event comes.
    pub fn enter(&mut self, lane: &Arc<str>, event: T) -> Entered<T> {
        if self.count >= self.most {
            return Entered::Full(event);
        }
        self.count += 1;
        match self.lanes.iter_mut().find(|(name, _)| name == lane) {
            Some((_, waiting)) => {
                waiting.push_back(event);
                Entered::Waits
            }
            None => {
                self.lanes.push((lane.clone(), VecDeque::new()));
                Entered::Begin(event)
            }
        }
    }

    /// The event that was handled in this lane has its answer: what is next?
    pub fn next(&mut self, lane: &Arc<str>) -> Option<T> {
        let at = self.lanes.iter().position(|(name, _)| name == lane)?;
        self.count = self.count.saturating_sub(1);
        let next = self.lanes.get_mut(at)?.1.pop_front();
        if next.is_none() {
            self.lanes.swap_remove(at);
        }
        next
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

    proptest! {
        /// Whatever the order of answers: at most one of a channel at a time, in order, nothing lost.
        #[test]
        fn each_channel_goes_in_order(steps in prop::collection::vec((any::<bool>(), 0..3_usize), 0..80)) {
            let names: Vec<Arc<str>> = ["a", "b", "c"].map(Arc::from).to_vec();
            let mut lanes = Lanes::new(5);
            let mut running: [Option<u32>; 3] = [None; 3];
            let mut came: [Vec<u32>; 3] = Default::default();
            let mut handled: [Vec<u32>; 3] = Default::default();
            for (number, (comes, at)) in (0_u32..).zip(steps) {
                let open: usize = came.iter().zip(&handled).map(|(came, handled)| came.len() - handled.len()).sum();
                if comes {
                    let entered = lanes.enter(&names[at], number);
                    prop_assert_eq!(matches!(entered, Entered::Full(_)), open >= 5);
                    if open < 5 {
                        came[at].push(number);
                    }
                    if let Entered::Begin(event) = entered {
                        prop_assert!(running[at].is_none());
                        running[at] = Some(event);
                    }
                } else if let Some(event) = running[at].take() {
                    handled[at].push(event);
                    running[at] = lanes.next(&names[at]);
                }
            }
            for at in 0..3 {
                while let Some(event) = running[at].take() {
                    handled[at].push(event);
                    running[at] = lanes.next(&names[at]);
                }
            }
            prop_assert_eq!(came, handled);
            prop_assert!(lanes.is_empty() && lanes.count == 0);
        }
    }
}
