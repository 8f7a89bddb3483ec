//! Who came how often, for many: a table of small states that does not grow beyond its bound.
//!
//! A name is kept as a number of 64 bits under a secret of this process, so that long names take no memory. States that
//! are idle are forgotten; when there are too many others, newcomers share one state, so that whoever makes up
//! names does not get rid of his limit, and those who are in the table keep theirs.

use std::{
    collections::HashMap,
    hash::{BuildHasher, Hash, RandomState},
    time::Duration,
};

/// The states of many.
#[derive(Debug)]
pub struct RateTable<S> {
    most: usize,
    entries: HashMap<u64, Entry<S>>,
    /// Of all that found no place.
    others: S,
    names: RandomState,
    /// Looked for idle ones last.
    looked: Option<Duration>,
}

#[derive(Debug)]
struct Entry<S> {
    state: S,
    idle_at: Duration,
}

impl<S: Default> RateTable<S> {
    /// A table of at most so many states.
    pub fn new(most: usize) -> RateTable<S> {
        RateTable {
            most,
            entries: HashMap::new(),
            others: S::default(),
            names: RandomState::new(),
            looked: None,
        }
    }

    /// What one entry takes, in bytes, with the room that a table leaves free.
    pub const ENTRY_BYTES: usize = (size_of::<Entry<S>>() + size_of::<u64>() + 1) * 16 / 7;

    /// Asks the state of `name`; `ask` also says when it is idle, and nothing has to be remembered of it.
    pub fn ask<R>(
        &mut self,
        name: &impl Hash,
        now: Duration,
        ask: impl FnOnce(&mut S) -> (R, Duration),
    ) -> R {
        let name = self.names.hash_one(name);
        if self.entries.len() >= self.most && !self.entries.contains_key(&name) {
            self.forget_idle(now);
            if self.entries.len() >= self.most {
                return ask(&mut self.others).0;
            }
        }
        let entry = self.entries.entry(name).or_insert_with(|| Entry {
            state: S::default(),
            idle_at: now,
        });
        let (answer, idle_at) = ask(&mut entry.state);
        entry.idle_at = idle_at;
        answer
    }

    /// How many are remembered.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nobody is.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Forgets who is idle; at most once a second, as it looks at all.
    fn forget_idle(&mut self, now: Duration) {
        let recent = |at: Duration| now.saturating_sub(at) < Duration::from_secs(1);
        if self.looked.is_some_and(recent) {
            return;
        }
        self.looked = Some(now);
        self.entries.retain(|_, entry| entry.idle_at > now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Bucket, Rate};

    const SECOND: Duration = Duration::from_secs(1);

    fn take(table: &mut RateTable<Bucket>, name: &str, now: Duration) -> bool {
        let rate = Rate::per_second(1, 1).unwrap();
        table.ask(&name, now, |bucket| {
            (bucket.take(&rate, now, 1), bucket.full_at(&rate))
        })
    }

    #[test]
    fn everybody_has_his_own_until_the_table_is_full_and_then_newcomers_share() {
        let mut table = RateTable::new(2);
        assert!(take(&mut table, "a", SECOND) && take(&mut table, "b", SECOND));
        assert!(take(&mut table, "c", SECOND) && !take(&mut table, "d", SECOND));
        // Who is in it is not thrown out by those who come.
        assert!(!take(&mut table, "a", SECOND) && !take(&mut table, "b", SECOND));
        assert_eq!(table.len(), 2);
        // Two seconds later all are idle, and there is room.
        let later = 3 * SECOND;
        assert!(take(&mut table, "c", later) && take(&mut table, "d", later));
        assert!(!take(&mut table, "c", later));
        assert_eq!(table.len(), 2);
    }

    #[test]
    fn who_is_not_idle_is_remembered_when_others_are_forgotten() {
        let mut table = RateTable::new(2);
        assert!(take(&mut table, "old", Duration::ZERO));
        let now = 5 * SECOND;
        assert!(take(&mut table, "busy", now) && take(&mut table, "new", now));
        assert!(!take(&mut table, "busy", now));
        assert_eq!(table.len(), 2);
    }
}
