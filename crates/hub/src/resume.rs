//! Whether a cursor can be gone on from. Pure.

use std::cmp::Ordering::{Equal, Greater, Less};

use rowcast_model::Cursor;

/// What to do with a subscription that may name the last position it has seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Resume {
    /// Nothing was missed. Events up to `skip_until` are still to come, and are not wanted.
    Continue { skip_until: Option<Cursor> },
    /// What came after this is told first.
    Replay { from: Cursor },
    /// The same, and what of it is not known here is asked for.
    Recover { from: Cursor },
    /// Something may have been missed, and why. Events up to `skip_until` are not wanted.
    Resync {
        reason: &'static str,
        skip_until: Option<Cursor>,
    },
}

/// What the hub knows when it judges a cursor.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Known {
    /// What was published last.
    pub position: Cursor,
    /// How far the log was written when reading began.
    pub target: Option<Cursor>,
    /// What the channel had up to here is not known any more.
    pub floor: Cursor,
    /// The last event that the channel may have had; `floor` when none is known.
    pub last: Cursor,
    /// What is not known any more can be asked for.
    pub recovers: bool,
}

pub(crate) fn judge(given: Option<Cursor>, known: &Known) -> Resume {
    let ahead = |cursor: &Cursor| cursor.compare(&known.position) == Some(Greater);
    // Until the past is read again, what is new begins where it ends.
    let skip_until = known.target.filter(ahead);
    let resync = |reason| Resume::Resync { reason, skip_until };
    let Some(given) = given else {
        return Resume::Continue { skip_until };
    };
    let at_or_before = |a: Cursor| matches!(a.compare(&given), Some(Less | Equal));
    match given.compare(&known.position) {
        None => resync("epoch_changed"),
        Some(Greater) => Resume::Continue {
            skip_until: Some(given),
        },
        Some(Equal) => Resume::Continue { skip_until: None },
        Some(Less) if !at_or_before(known.floor) => match known.recovers {
            true => Resume::Recover { from: given },
            false => resync("too_old"),
        },
        Some(Less) if at_or_before(known.last) => Resume::Continue { skip_until: None },
        Some(Less) => Resume::Replay { from: given },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rowcast_model::{Epoch, Lsn};

    fn at(lsn: u64) -> Cursor {
        Cursor::after_commit(Epoch(1), Lsn(lsn))
    }

    fn known(last: u64) -> Known {
        Known {
            position: at(50),
            target: Some(at(40)),
            floor: at(10),
            last: at(last),
            recovers: false,
        }
    }

    const GO_ON: Resume = Resume::Continue { skip_until: None };

    #[test]
    fn never_a_silent_hole() {
        assert_eq!(judge(None, &known(10)), GO_ON);
        assert_eq!(judge(Some(at(50)), &known(50)), GO_ON);
        assert_eq!(judge(Some(at(20)), &known(10)), GO_ON);
        assert_eq!(judge(Some(at(20)), &known(20)), GO_ON);
        let from = |lsn| Resume::Replay { from: at(lsn) };
        assert_eq!(judge(Some(at(20)), &known(21)), from(20));
        assert_eq!(judge(Some(at(10)), &known(21)), from(10));
        let resync = |reason| Resume::Resync {
            reason,
            skip_until: None,
        };
        assert_eq!(judge(Some(at(9)), &known(10)), resync("too_old"));
        let ahead = Resume::Continue {
            skip_until: Some(at(60)),
        };
        assert_eq!(judge(Some(at(60)), &known(10)), ahead);
        let other = Cursor {
            epoch: Epoch(2),
            ..at(50)
        };
        assert_eq!(judge(Some(other), &known(10)), resync("epoch_changed"));
    }

    #[test]
    fn while_the_past_is_read_again_what_is_new_begins_behind_it() {
        let known = Known {
            target: Some(at(70)),
            ..known(30)
        };
        let skip_until = Some(at(70));
        assert_eq!(judge(None, &known), Resume::Continue { skip_until });
        let reason = "too_old";
        assert_eq!(
            judge(Some(at(9)), &known),
            Resume::Resync { reason, skip_until }
        );
        // Who was further than that already, or not so far, goes on from where he was.
        let seen = Resume::Continue {
            skip_until: Some(at(60)),
        };
        assert_eq!(judge(Some(at(60)), &known), seen);
        assert_eq!(judge(Some(at(20)), &known), Resume::Replay { from: at(20) });
    }
}
