//! The last step of a batch: the hub, then the acknowledgement. Owns who may take it.
//!
//! The publisher takes it for all that was queued. When nothing is queued or in work, and there is no
//! commit to wait for, the reader takes it itself: waking another thread would cost more than the step.
//! It stops doing so for a while when the step was long (many subscribers), so that reading goes on
//! beside publishing.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use rowcast_hub::Hub;
use rowcast_model::{Batch, HubOp};
use rowcast_source::AckHandle;

use crate::{durable::Seen, progress::Progress};

/// A step that took longer is better taken by another thread.
const LONG: Duration = Duration::from_micros(300);
/// How long the reader leaves it to the publisher then.
const LEAVE: Duration = Duration::from_secs(1);

/// Where batches go.
#[derive(Clone)]
pub(super) struct Outlet {
    pub hub: Arc<Hub>,
    pub ack: AckHandle,
    pub progress: Arc<Progress>,
    pub seen: Arc<Seen>,
}

impl Outlet {
    /// Hands a batch to the hub and says so.
    pub(super) fn publish(&self, batch: Batch) {
        let ack = batch.ack;
        let ended = self.seen.ended(&batch);
        self.hub.publish(batch);
        self.seen.note(ended);
        if let Some(lsn) = ack {
            self.ack.ack(lsn);
            self.progress.reached(lsn);
        }
    }
}

/// The transaction whose commit has to be visible before this batch is published.
pub(super) fn waits_for(batch: &Batch) -> Option<u32> {
    let tells = batch.ops.iter().any(|op| matches!(op, HubOp::Event(_)));
    batch.xid.filter(|_| tells)
}

/// Whether the reader publishes by itself: a value; the time comes from outside.
#[derive(Debug, Default)]
pub(super) struct Direct {
    not_before: Option<Instant>,
}

impl Direct {
    /// Whether it may, when nothing is queued or in work.
    pub(super) fn allowed(&self, now: Instant) -> bool {
        self.not_before.is_none_or(|at| at <= now)
    }

    /// It did, from `begun` to `ended`.
    pub(super) fn took(&mut self, begun: Instant, ended: Instant) {
        let long = ended.saturating_duration_since(begun) > LONG;
        self.not_before = long.then(|| ended + LEAVE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_step_leaves_the_next_ones_to_the_publisher() {
        let start = Instant::now();
        let mut direct = Direct::default();
        assert!(direct.allowed(start));
        direct.took(start, start + LONG);
        assert!(direct.allowed(start + LONG));
        let ended = start + LONG * 2;
        direct.took(start, ended);
        assert!(!direct.allowed(ended));
        assert!(!direct.allowed(ended + LEAVE / 2));
        assert!(direct.allowed(ended + LEAVE));
    }
}
