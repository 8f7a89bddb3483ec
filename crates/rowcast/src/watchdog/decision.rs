//! What the state of the slot means: a pure function from what the server says to what is done.

use crate::config::AtLimit;

/// What the server says of the slot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SlotFacts {
    /// `reserved`, `extended`, `unreserved` or `lost`.
    pub wal_status: String,
    /// Why it cannot be used any more, where the server says so.
    pub invalidation: Option<String>,
    /// Log that it keeps on the disk, in bytes.
    pub retained: u64,
    /// Log that may still be written before it is lost; `None`: without limit.
    pub safe: Option<u64>,
    /// `max_slot_wal_keep_size` in bytes; `None`: without limit.
    pub keep_size: Option<u64>,
}

/// What the owner of the database wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Bytes of log that the slot may keep.
    pub limit: Option<u64>,
    /// What happens beyond.
    pub at_limit: AtLimit,
}

/// Something that somebody should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alarm {
    /// A stable code.
    pub code: &'static str,
    /// What is the matter, and what mends it.
    pub what: String,
}

/// What is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Said when it begins.
    pub alarm: Option<Alarm>,
    /// The past that is left for those who resume may keep so many bytes and no more.
    pub leave_at_most: u64,
    /// The slot goes, so that the disk stays.
    pub drop: bool,
}

/// Judges. There is nothing to say of a slot that is not there: the stream notices that by itself.
pub fn decide(slot: Option<&SlotFacts>, policy: Policy) -> Decision {
    let half = |bytes: Option<u64>| bytes.map_or(u64::MAX, |bytes| bytes / 2);
    let Some(slot) = slot else {
        return Decision {
            alarm: None,
            leave_at_most: half(policy.limit),
            drop: false,
        };
    };
    // A past to resume from is never the reason that the slot is lost.
    let leave_at_most = half(policy.limit).min(half(slot.keep_size));
    let over = policy.limit.is_some_and(|limit| slot.retained > limit);
    let lost = slot.wal_status == "lost" || slot.invalidation.is_some();
    let alarm = match slot.wal_status.as_str() {
        _ if lost => Some(Alarm {
            code: "slot_lost",
            what: format!(
                "the replication slot is lost ({}); it is made anew and every client is told to fetch anew",
                slot.invalidation.as_deref().unwrap_or("its log was removed"),
            ),
        }),
        _ if over => Some(Alarm {
            code: "wal_limit",
            what: format!(
                "the replication slot keeps {} bytes of log, the limit is {} (replication.wal_limit); {}",
                slot.retained,
                policy.limit.unwrap_or_default(),
                match policy.at_limit {
                    AtLimit::Drop =>
                        "it is dropped and made anew, and every client is told to fetch anew",
                    AtLimit::Warn => "look for long transactions, and for a reader that stands still",
                },
            ),
        }),
        "unreserved" => Some(Alarm {
            code: "slot_unreserved",
            what: "the replication slot is about to lose log that it needs; raise max_slot_wal_keep_size"
                .to_owned(),
        }),
        _ if slot.safe.zip(slot.keep_size).is_some_and(|(safe, keep)| safe < keep / 5) => {
            Some(Alarm {
                code: "slot_unsafe",
                what: format!(
                    "{} more bytes of log and the replication slot is lost; raise max_slot_wal_keep_size",
                    slot.safe.unwrap_or_default()
                ),
            })
        }
        _ => None,
    };
    Decision {
        alarm,
        leave_at_most,
        drop: over && !lost && policy.at_limit == AtLimit::Drop,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const WARN: Policy = Policy {
        limit: Some(1000),
        at_limit: AtLimit::Warn,
    };
    const DROP: Policy = Policy {
        limit: Some(1000),
        at_limit: AtLimit::Drop,
    };

    fn facts(wal_status: &str, retained: u64) -> SlotFacts {
        SlotFacts {
            wal_status: wal_status.to_owned(),
            retained,
            ..SlotFacts::default()
        }
    }

    fn said(slot: &SlotFacts, policy: Policy) -> (Option<&'static str>, bool) {
        let decision = decide(Some(slot), policy);
        (decision.alarm.map(|alarm| alarm.code), decision.drop)
    }

    #[test]
    fn each_state_has_its_answer() {
        assert_eq!(said(&facts("reserved", 1000), DROP), (None, false));
        assert_eq!(
            said(&facts("reserved", 1001), DROP),
            (Some("wal_limit"), true)
        );
        assert_eq!(
            said(&facts("extended", 1001), WARN),
            (Some("wal_limit"), false)
        );
        assert_eq!(
            said(&facts("unreserved", 5), DROP),
            (Some("slot_unreserved"), false)
        );
        assert_eq!(said(&facts("lost", 5000), DROP), (Some("slot_lost"), false));
        let invalid = SlotFacts {
            invalidation: Some("idle_timeout".into()),
            ..facts("reserved", 0)
        };
        assert_eq!(said(&invalid, WARN), (Some("slot_lost"), false));
        let close = SlotFacts {
            safe: Some(199),
            keep_size: Some(1000),
            ..facts("extended", 0)
        };
        assert_eq!(said(&close, WARN), (Some("slot_unsafe"), false));
        assert_eq!(decide(None, DROP).alarm, None);
    }

    proptest! {
        #[test]
        fn drops_only_beyond_the_limit_and_leaves_at_most_half(
            retained: u64, limit in prop::option::of(any::<u64>()), keep_size in prop::option::of(any::<u64>()),
            drop: bool, status in prop::sample::select(vec!["reserved", "extended", "unreserved", "lost", ""]),
        ) {
            let at_limit = if drop { AtLimit::Drop } else { AtLimit::Warn };
            let slot = SlotFacts { keep_size, ..facts(status, retained) };
            let decision = decide(Some(&slot), Policy { limit, at_limit });
            if decision.drop {
                prop_assert!(drop && limit.is_some_and(|limit| retained > limit));
                prop_assert!(decision.alarm.is_some());
            }
            for most in [limit, keep_size].into_iter().flatten() {
                prop_assert!(decision.leave_at_most <= most / 2);
            }
        }
    }
}
