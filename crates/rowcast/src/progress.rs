//! How far the pipeline is. Current is who has handed on what was written when the stream began.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::SystemTime,
};

use rowcast_model::{Lsn, Timestamp};
use tokio::sync::watch;

/// Positions wanted and reached.
#[derive(Debug)]
pub struct Progress {
    at: watch::Sender<At>,
    /// When something was handed on last, in microseconds since 1970.
    heard: AtomicI64,
}

#[derive(Clone, Copy, Debug, Default)]
struct At {
    wanted: Option<Lsn>,
    reached: Lsn,
}

impl Progress {
    /// Nothing is known.
    pub fn new() -> Arc<Progress> {
        Arc::new(Progress {
            at: watch::Sender::new(At::default()),
            heard: AtomicI64::new(now().0),
        })
    }

    /// The stream (re)starts and has to reach this.
    pub fn expect(&self, wanted: Lsn) {
        self.at.send_modify(|at| {
            *at = At {
                wanted: Some(wanted),
                reached: Lsn::ZERO,
            }
        });
    }

    /// Everything up to here was handed on.
    pub fn reached(&self, lsn: Lsn) {
        self.heard.store(now().0, Ordering::Relaxed);
        self.at.send_if_modified(|at| {
            let before = at.current();
            at.reached = at.reached.max(lsn);
            at.current() != before
        });
    }

    /// When something was handed on last; first, when this was made.
    pub fn heard(&self) -> Timestamp {
        Timestamp(self.heard.load(Ordering::Relaxed))
    }

    /// Whether all is handed on that was written when the stream began.
    pub fn is_current(&self) -> bool {
        self.at.borrow().current()
    }

    /// Resolves whenever being current may have changed.
    pub fn watch(&self) -> watch::Receiver<impl Sized + use<>> {
        self.at.subscribe()
    }
}

/// The time by the clock of this machine.
fn now() -> Timestamp {
    let since = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    Timestamp(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}

impl At {
    fn current(self) -> bool {
        self.wanted.is_some_and(|wanted| self.reached >= wanted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn current_is_who_reached_what_was_written() {
        let progress = Progress::new();
        progress.reached(Lsn(50));
        assert!(!progress.is_current());
        progress.expect(Lsn(100));
        progress.reached(Lsn(99));
        assert!(!progress.is_current());
        progress.reached(Lsn(100));
        progress.reached(Lsn(5));
        assert!(progress.is_current());
        progress.expect(Lsn(200));
        assert!(!progress.is_current());
    }
}
