//! Answers kept by the key that the request came with, so that a request sent twice is said once.
//!
//! Owns how long and how many: bounded in bytes and in time, the oldest are forgotten first. A value; the time
//! comes in. What this process forgets, or another process has answered, it does not know.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use parking_lot::Mutex;

use super::BroadcastError;

/// What an entry takes beside its key and its answer.
const ENTRY: usize = 256;

/// SHA-256 of a body.
pub(super) type Digest = [u8; 32];

/// A finished answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub status: u16,
    pub body: Bytes,
}

#[derive(Debug)]
enum State {
    /// Somebody is at it.
    Begun,
    Done(Answer),
}

#[derive(Debug)]
struct Entry {
    digest: Digest,
    state: State,
}

/// The kept answers.
#[derive(Debug)]
pub(crate) struct Answers {
    most: usize,
    keep: Duration,
    used: usize,
    by_key: HashMap<Arc<str>, Entry>,
    /// Finished ones, the oldest first, with the time they came.
    finished: VecDeque<(Arc<str>, Instant)>,
}

/// What becomes of a request with a key.
#[derive(Debug)]
pub(crate) enum Begin {
    /// It is the first: do it, then finish the claim.
    First(Claim),
    /// It was answered.
    Answered(Answer),
}

/// The right to answer for a key. Dropped unfinished, the key is free again.
#[derive(Debug)]
pub(crate) struct Claim {
    answers: Arc<Mutex<Answers>>,
    key: Option<Arc<str>>,
}

impl Answers {
    pub(crate) fn new(most: usize, keep: Duration) -> Answers {
        Answers {
            most,
            keep,
            used: 0,
            by_key: HashMap::new(),
            finished: VecDeque::new(),
        }
    }

    /// Bytes that it keeps, roughly.
    pub(crate) fn used(&self) -> usize {
        self.used
    }

    fn cost(key: &str, answer: &Answer) -> usize {
        ENTRY + 2 * key.len() + answer.body.len()
    }

    fn forget(&mut self, now: Instant) {
        while let Some((key, at)) = self.finished.front() {
            if self.used <= self.most && now.saturating_duration_since(*at) < self.keep {
                return;
            }
            let entry = self.by_key.remove(key);
            if let Some(State::Done(answer)) = entry.map(|entry| entry.state) {
                self.used -= Answers::cost(key, &answer);
            }
            self.finished.pop_front();
        }
    }
}

/// A request with a key and a body comes in.
pub(crate) fn begin(
    answers: &Arc<Mutex<Answers>>,
    key: &str,
    digest: Digest,
    now: Instant,
) -> Result<Begin, BroadcastError> {
    let mut inner = answers.lock();
    inner.forget(now);
    match inner.by_key.get(key) {
        Some(entry) if entry.digest != digest => Err(BroadcastError::KeyReused),
        Some(Entry {
            state: State::Begun,
            ..
        }) => Err(BroadcastError::KeyInUse),
        Some(Entry {
            state: State::Done(answer),
            ..
        }) => Ok(Begin::Answered(answer.clone())),
        None => {
            let key: Arc<str> = key.into();
            let state = State::Begun;
            inner.by_key.insert(key.clone(), Entry { digest, state });
            Ok(Begin::First(Claim {
                answers: answers.clone(),
                key: Some(key),
            }))
        }
    }
}

impl Claim {
    /// The request was answered.
    pub(crate) fn finish(mut self, answer: Answer, now: Instant) {
        let Some(key) = self.key.take() else { return };
        let mut inner = self.answers.lock();
        inner.used += Answers::cost(&key, &answer);
        if let Some(entry) = inner.by_key.get_mut(&key) {
            entry.state = State::Done(answer);
        }
        inner.finished.push_back((key, now));
        inner.forget(now);
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if let Some(key) = self.key.take() {
            self.answers.lock().by_key.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KEEP: Duration = Duration::from_secs(60);

    fn answers(most: usize) -> Arc<Mutex<Answers>> {
        Arc::new(Mutex::new(Answers::new(most, KEEP)))
    }

    fn answer(text: &'static str) -> Answer {
        Answer {
            status: 200,
            body: Bytes::from_static(text.as_bytes()),
        }
    }

    fn first(begin: Result<Begin, BroadcastError>) -> Claim {
        match begin {
            Ok(Begin::First(claim)) => claim,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_same_request_has_the_same_answer_and_another_body_is_refused() {
        let (all, now) = (answers(10_000), Instant::now());
        let claim = first(begin(&all, "k", [1; 32], now));
        let again = begin(&all, "k", [1; 32], now).unwrap_err();
        assert_eq!(again, BroadcastError::KeyInUse);
        claim.finish(answer("a"), now);
        match begin(&all, "k", [1; 32], now) {
            Ok(Begin::Answered(kept)) => assert_eq!(kept, answer("a")),
            other => panic!("{other:?}"),
        }
        let other = begin(&all, "k", [2; 32], now).unwrap_err();
        assert_eq!(other, BroadcastError::KeyReused);
        // What failed was not answered, and may be tried again.
        drop(first(begin(&all, "l", [1; 32], now)));
        drop(first(begin(&all, "l", [2; 32], now)));
        // After its time, the key means nothing.
        first(begin(&all, "k", [2; 32], now + KEEP)).finish(answer("b"), now + KEEP);
        assert_eq!(all.lock().finished.len(), 1);
    }

    proptest! {
        #[test]
        fn what_is_kept_is_counted_and_bounded(steps in prop::collection::vec((0..20_u8, 0..40_u64, 0..800_usize), 0..100)) {
            let (all, start) = (answers(4_000), Instant::now());
            let mut at = start;
            for (key, later, size) in steps {
                at += Duration::from_secs(later);
                if let Ok(Begin::First(claim)) = begin(&all, &key.to_string(), [0; 32], at) {
                    claim.finish(Answer { status: 200, body: vec![b'x'; size].into() }, at);
                }
                let inner = all.lock();
                let sum: usize = inner.by_key.iter().map(|(key, entry)| match &entry.state {
                    State::Done(answer) => Answers::cost(key, answer),
                    State::Begun => 0,
                }).sum();
                prop_assert_eq!(sum, inner.used);
                prop_assert!(inner.used <= 4_000);
                prop_assert_eq!(inner.by_key.len(), inner.finished.len());
            }
        }
    }
}
