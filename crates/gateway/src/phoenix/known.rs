//! What a socket knows of its channels beside what the hub knows. Owns how much that is: the hub ends joins by itself,
//! too, so now and then those are forgotten that are not there any more. Pure.

use std::{collections::HashMap, sync::Arc};

/// So many are known without asking which of them are still there.
const UNASKED: usize = 64;

/// Something about each joined channel, by its topic: never about more than twice as many as there may be, and a few.
pub(super) struct Known<T> {
    joins: HashMap<Arc<str>, T>,
    tidy_at: usize,
}

impl<T> Default for Known<T> {
    fn default() -> Known<T> {
        Known {
            joins: HashMap::new(),
            tidy_at: UNASKED,
        }
    }
}

impl<T> Known<T> {
    pub(super) fn get(&self, topic: &str) -> Option<&T> {
        self.joins.get(topic)
    }

    pub(super) fn forget(&mut self, topic: &str) {
        self.joins.remove(topic);
    }

    /// Notes a join; `there` says which there are.
    pub(super) fn note(&mut self, topic: Arc<str>, what: T, there: impl FnOnce() -> Vec<Arc<str>>) {
        self.joins.insert(topic, what);
        if self.joins.len() > self.tidy_at {
            let there = there();
            self.joins.retain(|topic, _| there.contains(topic));
            self.tidy_at = UNASKED.max(self.joins.len() * 2);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;

    /// A client joins where the application lets nobody in, again and again.
    #[test]
    fn what_the_hub_has_ended_is_forgotten() {
        let mut known = Known::default();
        let mut there: VecDeque<Arc<str>> = VecDeque::new();
        for i in 0..10_000 {
            let topic: Arc<str> = format!("realtime:room:{i}").into();
            there.push_back(topic.clone());
            if there.len() > 100 {
                there.pop_front();
            }
            known.note(topic, i, || there.iter().cloned().collect());
            assert!(known.joins.len() <= 2 * 100 + UNASKED);
            assert!(there.iter().all(|topic| known.get(topic).is_some()));
        }
        known.forget("realtime:room:9999");
        assert!(known.get("realtime:room:9999").is_none());
    }
}
