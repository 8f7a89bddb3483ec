//! What a run counted, shared by all its tasks.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

/// Counters, times and complaints.
#[derive(Debug, Default)]
pub struct Tally {
    pub events: AtomicU64,
    pub lost: AtomicU64,
    pub duplicates: AtomicU64,
    pub foreign: AtomicU64,
    pub silences: AtomicU64,
    counts: Mutex<BTreeMap<String, u64>>,
    recoveries: Mutex<BTreeMap<&'static str, Vec<Duration>>>,
    longest_gap: Mutex<Duration>,
    wrong: Mutex<Vec<String>>,
}

impl Tally {
    pub fn count(&self, what: impl Into<String>) {
        *self.counts.lock().unwrap().entry(what.into()).or_insert(0) += 1;
    }

    pub fn counts(&self) -> BTreeMap<String, u64> {
        self.counts.lock().unwrap().clone()
    }

    pub fn event(&self) {
        self.events.fetch_add(1, Ordering::Relaxed);
    }

    /// A promise was broken; the run fails with all of these.
    pub fn wrong(&self, counter: &AtomicU64, text: String) {
        counter.fetch_add(1, Ordering::Relaxed);
        self.complain(text);
    }

    /// Something else that must not be.
    pub fn complain(&self, text: String) {
        eprintln!("WRONG: {text}");
        self.wrong.lock().unwrap().push(text);
    }

    pub fn complaints(&self) -> Vec<String> {
        self.wrong.lock().unwrap().clone()
    }

    pub fn recovered(&self, kind: &'static str, after: Duration) {
        self.recoveries
            .lock()
            .unwrap()
            .entry(kind)
            .or_default()
            .push(after);
    }

    /// By kind: how often, the middle and the longest recovery.
    pub fn recoveries(&self) -> BTreeMap<&'static str, (usize, Duration, Duration)> {
        let recoveries = self.recoveries.lock().unwrap();
        recoveries
            .iter()
            .filter_map(|(kind, times)| {
                let mut times = times.clone();
                times.sort();
                Some((
                    *kind,
                    (times.len(), *times.get(times.len() / 2)?, *times.last()?),
                ))
            })
            .collect()
    }

    /// The longest time between two signs of life on a healthy socket.
    pub fn gap(&self, gap: Duration) {
        let mut longest = self.longest_gap.lock().unwrap();
        *longest = gap.max(*longest);
    }

    pub fn longest_gap(&self) -> Duration {
        *self.longest_gap.lock().unwrap()
    }
}
