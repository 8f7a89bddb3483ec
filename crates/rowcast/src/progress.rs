//! How far the pipeline is. Current is who has handed on what was written when the stream began.

use std::sync::Arc;

use rowcast_model::Lsn;
use tokio::sync::watch;

/// Positions wanted and reached.
#[derive(Debug)]
pub struct Progress {
    at: watch::Sender<At>,
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
        self.at.send_if_modified(|at| {
            let before = at.current();
            at.reached = at.reached.max(lsn);
            at.current() != before
        });
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
