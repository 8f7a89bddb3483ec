//! How the source is told what was handed on, from any thread.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use rowcast_model::Lsn;
use tokio::sync::watch;

/// Says what was handed on; may be cloned and used from any thread.
#[derive(Clone, Debug)]
pub struct AckHandle {
    handed_on: Arc<watch::Sender<Lsn>>,
    most: Arc<AtomicU64>,
}

impl AckHandle {
    /// A handle, and where to see what it is told.
    pub(crate) fn new() -> (AckHandle, watch::Receiver<Lsn>) {
        let (handed_on, seen) = watch::channel(Lsn::ZERO);
        let handle = AckHandle {
            handed_on: Arc::new(handed_on),
            most: Arc::new(AtomicU64::new(u64::MAX)),
        };
        (handle, seen)
    }

    /// What was handed on means nothing any more: positions are of another numbering.
    pub(crate) fn forget(&self) {
        self.handed_on.send_replace(Lsn::ZERO);
    }

    /// How much may be left unacknowledged.
    pub(crate) fn most(&self) -> u64 {
        self.most.load(Ordering::Relaxed)
    }

    /// Everything that ends at or before `lsn` was handed on. Never goes backwards.
    pub fn ack(&self, lsn: Lsn) {
        self.handed_on.send_if_modified(|now| {
            let newer = lsn > *now;
            if newer {
                *now = lsn;
            }
            newer
        });
    }

    /// Leaves at most so many bytes of log unacknowledged from here on, and never more than the window says.
    pub fn leave_at_most(&self, bytes: u64) {
        self.most.store(bytes, Ordering::Relaxed);
    }
}
