//! From which places in the log `realtime_table_events` can tell what changed since. Pure.
//!
//! A place is noted with the oldest transaction id that had not ended there: whatever commits at or behind
//! it was written under that id or a later one. When such an id was given out, and so the earliest time at
//! which such a row was written, follows from the places before: the row that notes a place has an id of
//! its own, and what is later was not given out before. A place is of use when nothing that was written
//! since that time is gone.

use std::time::Duration;

use rowcast_model::{Lsn, Sample, Timestamp};

/// The server's clock may go back by as much without being noticed.
const UNNOTICED: Duration = Duration::from_secs(60);
/// Rows are looked for in the buckets of so much more time on both sides.
const AROUND: Duration = Duration::from_secs(600);
/// Ids compare within half of their numbers.
const HALF: u64 = 1 << 31;
/// Seconds of a bucket, and buckets: as `rowcast.bucket_of()` has them.
const BUCKET: i64 = 10_800;
const BUCKETS: i64 = 8;

/// A row of `rowcast.positions`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Noted {
    /// The place.
    pub lsn: Lsn,
    /// The oldest id that had not ended.
    pub horizon: u64,
    /// The id of the transaction that noted it.
    pub xid: u64,
    /// When that began.
    pub at: Timestamp,
}

/// What is kept, and what time it is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Of what was written before, some is gone.
    pub since: Option<Timestamp>,
    /// The server's clock.
    pub now: Timestamp,
    /// The next id, or one before it.
    pub next: u64,
}

/// A place from which it can be told what changed since.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usable {
    /// The place and its id.
    pub sample: Sample,
    /// Nothing of that id or later was written before this.
    pub since: Timestamp,
}

fn before(at: Timestamp, by: Duration) -> Timestamp {
    let by = i64::try_from(by.as_micros()).unwrap_or(i64::MAX);
    Timestamp(at.0.saturating_sub(by))
}

/// The places that are of use, not older than `window`.
pub fn usable(noted: &[Noted], kept: &Kept, window: Duration) -> Vec<Usable> {
    let mut by_xid: Vec<(u64, Timestamp)> =
        noted.iter().map(|noted| (noted.xid, noted.at)).collect();
    by_xid.sort_unstable();
    let mut latest = Timestamp(i64::MIN);
    for (_, at) in &mut by_xid {
        latest = latest.max(*at);
        *at = latest;
    }
    let usable = noted.iter().filter_map(|noted| {
        let earlier = by_xid.partition_point(|(xid, _)| *xid < noted.horizon);
        let (_, since) = *by_xid.get(earlier.checked_sub(1)?)?;
        let whole = kept
            .since
            .is_none_or(|gone| before(since, UNNOTICED) >= gone);
        let young = noted.at >= before(kept.now, window) && before(noted.at, UNNOTICED) <= kept.now;
        let compares = kept.next.saturating_sub(noted.horizon) < HALF;
        (whole && young && compares).then_some(Usable {
            sample: Sample {
                lsn: noted.lsn,
                horizon: noted.horizon,
            },
            since,
        })
    });
    let mut usable: Vec<Usable> = usable.collect();
    usable.sort_unstable_by_key(|usable| (usable.sample.lsn, usable.sample.horizon));
    usable
}

/// The place to begin at for who knows the log up to `lsn`: the latest not behind it, or the oldest that
/// there is, for others who ask for the same.
pub fn begin(usable: &[Usable], lsn: Lsn) -> Option<Usable> {
    let known = usable.partition_point(|usable| usable.sample.lsn <= lsn);
    usable.get(known.saturating_sub(1)).copied()
}

/// The buckets in which rows stand that were written since then.
pub fn buckets(since: Timestamp, now: Timestamp) -> Vec<i16> {
    let around = i64::try_from(AROUND.as_secs()).unwrap_or(0);
    let bucket = |at: Timestamp, by: i64| (at.0.div_euclid(1_000_000) + by).div_euclid(BUCKET);
    let (first, last) = (bucket(since, -around), bucket(now, around));
    let span = (first..=last).take(usize::try_from(BUCKETS).unwrap_or(0));
    let mut buckets: Vec<i16> = span
        .filter_map(|bucket| i16::try_from(bucket.rem_euclid(BUCKETS)).ok())
        .collect();
    buckets.sort_unstable();
    buckets
}

#[cfg(test)]
#[path = "choice_tests.rs"]
mod tests;
