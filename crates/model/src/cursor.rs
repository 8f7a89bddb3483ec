//! Where an event stands in the log. Owns the text of a cursor, which clients treat as opaque.
//!
//! A cursor is (epoch, commit LSN, index in the transaction). The index counts every change of the
//! transaction before routing, so the same log gives the same cursors on every process, after every
//! restart, and whatever the rules are. Cursors of different epochs do not compare.

use std::{cmp::Ordering, fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::Lsn;

/// Changes when earlier positions no longer mean the same: slot recreated, timeline or system changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(pub u32);

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

/// The position of one event; `index` is [`u32::MAX`] for "after everything of that transaction".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Cursor {
    /// Which numbering of the log the position belongs to.
    pub epoch: Epoch,
    /// LSN of the commit record of the transaction.
    pub commit_lsn: Lsn,
    /// Index among all changes of the transaction, counted before routing, from 0.
    pub index: u32,
}

impl Cursor {
    /// Before everything.
    pub const NOWHERE: Cursor = Cursor {
        epoch: Epoch(0),
        commit_lsn: Lsn::ZERO,
        index: 0,
    };

    /// The position after the whole transaction that committed at `commit_lsn`.
    pub fn after_commit(epoch: Epoch, commit_lsn: Lsn) -> Cursor {
        Cursor {
            epoch,
            commit_lsn,
            index: u32::MAX,
        }
    }

    /// Order within one epoch; `None` across epochs.
    pub fn compare(&self, other: &Cursor) -> Option<Ordering> {
        (self.epoch == other.epoch)
            .then(|| (self.commit_lsn, self.index).cmp(&(other.commit_lsn, other.index)))
    }
}

/// Records of the log begin at multiples of this, so there are places between them. None is this short.
const ALIGNMENT: u64 = 8;
/// So many of the places behind a record are for direct events, one after the other.
const PLACES: u64 = 5;
/// The index of a direct event has this bit, and 11 bits below it that say of which process.
const DIRECT: u32 = 1 << 31;
/// Direct events of one process in one place.
const DIRECT_EVENTS: u32 = 1 << 20;

/// Positions of events that no log holds: sent by the service itself, behind everything it has published.
///
/// Such a position lies between two records of the log, so those of the log keep their order and their text.
impl Cursor {
    /// How many direct events of one process fit behind one position of the log.
    pub const DIRECT_ROOM: u64 = PLACES * DIRECT_EVENTS as u64;

    /// Whether this is the position of such an event.
    pub fn is_direct(&self) -> bool {
        let between = !self.commit_lsn.0.is_multiple_of(ALIGNMENT);
        between && self.index & DIRECT != 0 && self.index != u32::MAX
    }

    /// The first position for the next such event of the process with this number, behind `self`. `None` when
    /// `self` is in the middle of a transaction, or when there is no more room before the log moves on.
    pub fn next_direct(&self, process: u16) -> Option<Cursor> {
        if self.is_direct() && !(self.index + 1).is_multiple_of(DIRECT_EVENTS) {
            return Some(Cursor {
                index: self.index + 1,
                ..*self
            });
        }
        let room = (1..=PLACES).contains(&((self.commit_lsn.0 + 1) % ALIGNMENT));
        let whole = self.index == u32::MAX || self.is_direct();
        (whole && room).then(|| Cursor {
            epoch: self.epoch,
            commit_lsn: Lsn(self.commit_lsn.0 + 1),
            index: DIRECT | u32::from(process % 2047) << 20,
        })
    }

    /// A position behind every other event before this one; of a direct event, one of the same process.
    pub fn just_before(&self) -> Cursor {
        let place = Lsn(self.commit_lsn.0.saturating_sub(1));
        let first = match self.is_direct() {
            true => self.index.is_multiple_of(DIRECT_EVENTS),
            false => self.index == 0,
        };
        match first {
            false => Cursor {
                index: self.index - 1,
                ..*self
            },
            true if self.is_direct() && !place.0.is_multiple_of(ALIGNMENT) => Cursor {
                commit_lsn: place,
                index: self.index | (DIRECT_EVENTS - 1),
                ..*self
            },
            true => Cursor::after_commit(self.epoch, place),
        }
    }

    /// The position in the log that a client with this cursor has seen. What another process sent directly is
    /// not known here, and not to be compared with what this one sends.
    pub fn for_process(&self, process: u16) -> Cursor {
        let own = (self.index & !DIRECT) >> 20 == u32::from(process % 2047);
        match self.is_direct() && !own {
            true => Cursor::after_commit(self.epoch, aligned(self.commit_lsn.0)),
            false => *self,
        }
    }

    /// A position before the record at `lsn` and behind all before it, with room for direct events.
    pub fn before(epoch: Epoch, lsn: Lsn) -> Cursor {
        Cursor::after_commit(epoch, aligned(lsn.0.saturating_sub(ALIGNMENT)))
    }
}

/// The last place before this one where a record may begin.
fn aligned(lsn: u64) -> Lsn {
    Lsn(lsn - lsn % ALIGNMENT)
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{:x}-", self.epoch, self.commit_lsn.0)?;
        match self.index {
            u32::MAX => f.write_str("z"),
            index => write!(f, "{index:x}"),
        }
    }
}

/// The text is not a cursor that Rowcast handed out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the cursor is not one that this service handed out; leave it away to start from now")]
pub struct CursorError;

impl FromStr for Cursor {
    type Err = CursorError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parts = text.split('-');
        let (Some(epoch), Some(lsn), Some(index), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(CursorError);
        };
        let hex = |part: &str, most: usize| {
            let fits = (1..=most).contains(&part.len());
            let digits = part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
            (fits && digits)
                .then(|| u64::from_str_radix(part, 16).ok())
                .flatten()
                .ok_or(CursorError)
        };
        if epoch.len() != 8 {
            return Err(CursorError);
        }
        let index = match index {
            "z" => u32::MAX,
            other => u32::try_from(hex(other, 8)?).map_err(|_| CursorError)?,
        };
        let epoch = u32::try_from(hex(epoch, 8)?).map_err(|_| CursorError)?;
        Ok(Cursor {
            epoch: Epoch(epoch),
            commit_lsn: Lsn(hex(lsn, 16)?),
            index,
        })
    }
}

impl Serialize for Cursor {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Cursor {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn prints_and_parses_back(epoch: u32, lsn: u64, index: u32) {
            let cursor = Cursor { epoch: Epoch(epoch), commit_lsn: Lsn(lsn), index };
            prop_assert_eq!(cursor.to_string().parse::<Cursor>(), Ok(cursor));
        }

        #[test]
        fn never_panics(text in ".*") {
            let _ = text.parse::<Cursor>();
        }
    }

    #[test]
    fn direct_events_lie_between_the_records_of_the_log() {
        let committed = Cursor::after_commit(Epoch(1), Lsn(800));
        let idle = Cursor::before(Epoch(1), Lsn(800));
        let less = |a: &Cursor, b: &Cursor| assert_eq!(a.compare(b), Some(Ordering::Less));
        for (before, next_record) in [(committed, 808), (idle, 800)] {
            let mut last = before;
            for _ in 0..3 {
                let next = last.next_direct(7).unwrap();
                less(&last, &next);
                assert!(next.is_direct());
                assert_eq!(next.for_process(7), next);
                assert_eq!(next.for_process(8), before);
                last = next;
            }
            let first_of_next = Cursor {
                epoch: Epoch(1),
                commit_lsn: Lsn(next_record),
                index: 0,
            };
            less(&last, &first_of_next);
        }
        assert_eq!(committed.for_process(3), committed);
        let inside = Cursor {
            index: 3,
            ..committed
        };
        assert_eq!(inside.next_direct(0), None);
    }

    #[test]
    fn direct_events_fill_place_after_place() {
        let committed = Cursor::after_commit(Epoch(1), Lsn(800));
        let next_record = Cursor {
            index: 0,
            ..Cursor::after_commit(Epoch(1), Lsn(824))
        };
        let (mut last, mut count) = (committed, 0);
        while let Some(next) = last.next_direct(7) {
            assert_eq!(last.compare(&next), Some(Ordering::Less));
            assert!(next.is_direct() && next.for_process(7) == next);
            assert_eq!(next.just_before(), last);
            if count % 100_000 == 0 {
                assert_eq!(next.for_process(8), committed);
            }
            (last, count) = (next, count + 1);
        }
        assert_eq!(count, Cursor::DIRECT_ROOM);
        // The log moves on without a transaction, and with one.
        let moved = Cursor::before(Epoch(1), Lsn(824));
        assert_eq!(last.compare(&moved), Some(Ordering::Less));
        assert_eq!(moved.compare(&next_record), Some(Ordering::Less));
        assert!(moved.next_direct(7).is_some());
    }

    #[test]
    fn orders_inside_an_epoch_only() {
        let at = |epoch, lsn, index| Cursor {
            epoch: Epoch(epoch),
            commit_lsn: Lsn(lsn),
            index,
        };
        assert_eq!(at(1, 5, 9).compare(&at(1, 6, 0)), Some(Ordering::Less));
        assert_eq!(
            at(1, 5, 9).compare(&Cursor::after_commit(Epoch(1), Lsn(5))),
            Some(Ordering::Less)
        );
        assert_eq!(at(1, 5, 9).compare(&at(2, 5, 9)), None);
    }
}
