//! How far the pipeline is, and what that means for readiness and for clients.
//!
//! Current is who has handed on what was written when the stream began; stale is a stream that has
//! been interrupted for longer than a client may be left in the dark.

use std::{sync::Arc, time::Duration};

use rowcast_model::Lsn;
use rowcast_source::SourceStatus;
use tokio::sync::watch;

/// How long the stream may be interrupted before clients are told.
pub const STALE_AFTER: Duration = Duration::from_secs(5);

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

/// What is said to the outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// Streaming and current.
    Ready,
    /// Not streaming yet, or still catching up.
    Starting(Arc<str>),
    /// The stream is interrupted.
    Interrupted(Arc<str>),
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

/// Pure: what the status of the source and the progress mean together.
pub fn health(status: &SourceStatus, current: bool, was_ready: bool) -> Health {
    let interrupted = |reason: &Arc<str>| match was_ready {
        true => Health::Interrupted(Arc::clone(reason)),
        false => Health::Starting(Arc::clone(reason)),
    };
    match status {
        SourceStatus::Streaming { .. } if current => Health::Ready,
        SourceStatus::Streaming { .. } => Health::Starting("catching up with the log".into()),
        SourceStatus::Connecting => interrupted(&"connecting to the database".into()),
        SourceStatus::Waiting { reason } | SourceStatus::Failed { reason } => interrupted(reason),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rowcast_model::Epoch;

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

    #[test]
    fn only_a_stream_that_flows_and_is_current_is_ready() {
        let streaming = SourceStatus::Streaming { epoch: Epoch(1) };
        let waiting = SourceStatus::Waiting { reason: "x".into() };
        assert_eq!(health(&streaming, true, false), Health::Ready);
        assert!(matches!(
            health(&streaming, false, true),
            Health::Starting(_)
        ));
        assert!(matches!(
            health(&waiting, true, true),
            Health::Interrupted(_)
        ));
        assert!(matches!(health(&waiting, true, false), Health::Starting(_)));
        assert!(matches!(
            health(&SourceStatus::Connecting, true, true),
            Health::Interrupted(_)
        ));
    }
}
