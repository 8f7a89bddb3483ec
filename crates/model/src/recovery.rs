//! The past beyond the one in memory: what the hub asks for, and what it is answered. Pure.
//!
//! A [`Sample`] ties a place in the log to a number by which everything written later can be told from
//! what had ended there. An answer says for one organization which records changed, each with the number
//! of its latest change; whoever comes back with a cursor is told those from the number of his sample on.
//! That is never too little; it may be what he knows already.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{Cursor, Epoch, Lsn, OrgId, RoutedEvent};

/// Whatever commits at or behind `lsn` was written under a number of `horizon` or later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    /// A place in the log.
    pub lsn: Lsn,
    /// The oldest number that had not ended there.
    pub horizon: u64,
}

/// Samples that can be gone on from, by place.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Samples(Vec<Sample>);

impl Samples {
    /// Puts samples in order.
    pub fn new(mut samples: Vec<Sample>) -> Samples {
        samples.sort_unstable_by_key(|sample| (sample.lsn, sample.horizon));
        Samples(samples)
    }

    /// The number from which on everything has to be told to who knows the log up to `lsn`: that of the
    /// latest sample not behind it. `None`: no sample reaches so far back.
    pub fn horizon(&self, lsn: Lsn) -> Option<u64> {
        let known = self.0.partition_point(|sample| sample.lsn <= lsn);
        let latest = known.checked_sub(1)?;
        self.0.get(latest).map(|sample| sample.horizon)
    }
}

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecoveryWanted {
    /// What was published when this was asked: an answer holds at least everything up to here.
    pub upto: Cursor,
    /// Organizations, each with the oldest place that somebody wants to go on from.
    pub organizations: Vec<(OrgId, Lsn)>,
}

impl RecoveryWanted {
    /// The numbering of the places.
    pub fn epoch(&self) -> Epoch {
        self.upto.epoch
    }
}

/// One record, or a table as a whole, of which something changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changed {
    /// The number of the latest change.
    pub newest: u64,
    /// About a table whose rows are for one user each: told on that user's own channel, too.
    pub personal: bool,
    /// An invalidation; its cursor means nothing.
    pub event: RoutedEvent,
}

/// What changed for one organization.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recovery {
    /// Whose.
    pub organization: OrgId,
    /// Cursors from here on can be answered, as far as the samples reach.
    pub from: Lsn,
    /// Everything up to here is held.
    pub upto: Cursor,
    /// How a cursor becomes a number.
    pub samples: Arc<Samples>,
    /// What changed.
    pub changed: Vec<Changed>,
    /// Bytes that this keeps alive.
    pub bytes: usize,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_latest_sample_that_is_not_behind_the_cursor(
            samples in prop::collection::vec((0u64..50, 0u64..50), 0..20),
            at in 0u64..60,
        ) {
            let sample = |&(lsn, horizon): &(u64, u64)| Sample { lsn: Lsn(lsn), horizon };
            let known = Samples::new(samples.iter().map(sample).collect());
            let naive = samples.iter().filter(|(lsn, _)| *lsn <= at).max().map(|(_, horizon)| *horizon);
            prop_assert_eq!(known.horizon(Lsn(at)), naive);
        }
    }
}
