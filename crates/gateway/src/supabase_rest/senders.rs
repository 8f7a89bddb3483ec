//! How much whoever has no socket says over HTTP: as much as one socket may. A value behind a lock that is held for
//! a look-up.

use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rowcast_model::{Bucket, Rate, RateTable, UserId};

/// Senders that are counted at a time; when there are more, newcomers share one count.
const MOST_SENDERS: usize = 16_384;
/// What all counts take at most.
pub const SENDER_BYTES: usize = MOST_SENDERS * RateTable::<Sent>::ENTRY_BYTES;

/// What one of them said.
#[derive(Debug, Default)]
pub struct Sent {
    messages: Bucket,
    bytes: Bucket,
}

/// The counts.
#[derive(Debug)]
pub(super) struct Senders {
    began: Instant,
    all: Mutex<RateTable<Sent>>,
}

impl Senders {
    pub(super) fn new(began: Instant) -> Senders {
        Senders {
            began,
            all: Mutex::new(RateTable::new(MOST_SENDERS)),
        }
    }

    /// Whether a user, or an API key, may say so many messages of so many bytes now. What is refused is not counted.
    pub(super) fn take(
        &self,
        (is_key, user): (bool, &UserId),
        (messages, bytes): (&Rate, Option<&Rate>),
        (count, size): (u32, u32),
        now: Instant,
    ) -> bool {
        let now = now.saturating_duration_since(self.began);
        self.all.lock().ask(&(is_key, user.as_str()), now, |sent| {
            let took = sent.messages.take(messages, now, count);
            // A message has the size it has.
            let fits = took && bytes.is_none_or(|rate| sent.bytes.spend(rate, now, size));
            if took && !fits {
                sent.messages.give_back(messages, count);
            }
            let idle = bytes.map_or(Duration::ZERO, |rate| sent.bytes.full_at(rate));
            (fits, idle.max(sent.messages.full_at(messages)))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_who_says_too_much_is_refused_and_nobody_else() {
        let began = Instant::now();
        let senders = Senders::new(began);
        let (anna, bert) = (UserId::from("anna"), UserId::from("bert"));
        let messages = Rate::at_most(2, 4);
        let bytes = Rate::at_most(1_000, 1_000);
        let take = |who, load, at: u64| {
            let now = began + Duration::from_millis(at);
            senders.take(who, (&messages, Some(&bytes)), load, now)
        };
        assert!(take((false, &anna), (3, 10), 0));
        // Nothing of a batch that is too large is counted.
        assert!(!take((false, &anna), (2, 10), 0));
        assert!(take((false, &anna), (1, 10), 0));
        assert!(!take((false, &anna), (1, 10), 0));
        // A key with the name of a user is not that user.
        assert!(take((true, &anna), (4, 10), 0));
        assert!(take((false, &bert), (1, 5_000), 0));
        assert!(!take((false, &bert), (1, 10), 0), "he owes bytes");
        assert!(
            take((false, &bert), (4, 10), 6_000),
            "and was not counted then"
        );
        assert!(take((false, &anna), (1, 10), 500));
    }
}
