//! Whether a cursor can be gone on from. Pure.

use std::cmp::Ordering::{Equal, Greater, Less};

use rowcast_model::Cursor;

/// What to do with a subscription that names the last position it has seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Resume {
    /// Nothing was missed. Events up to `skip_until` come again after a restart, and were seen.
    Continue { skip_until: Option<Cursor> },
    /// Something may have been missed, and why.
    Resync(&'static str),
}

/// What the hub knows when it judges a cursor.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Known {
    /// What was published last.
    pub position: Cursor,
    /// Before this nothing is known.
    pub floor: Cursor,
    /// The last event that the channel may have had, if any since `floor`.
    pub last_event: Option<Cursor>,
}

pub(crate) fn judge(given: Option<Cursor>, known: &Known) -> Resume {
    let Some(given) = given else {
        return Resume::Continue { skip_until: None };
    };
    match given.compare(&known.position) {
        None => return Resume::Resync("epoch_changed"),
        Some(Greater) => {
            return Resume::Continue {
                skip_until: Some(given),
            };
        }
        Some(Equal) => return Resume::Continue { skip_until: None },
        Some(Less) => {}
    }
    let at_or_before = |a: Cursor| matches!(a.compare(&given), Some(Less | Equal));
    if at_or_before(known.floor) && known.last_event.is_none_or(at_or_before) {
        Resume::Continue { skip_until: None }
    } else {
        Resume::Resync("no_history")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rowcast_model::{Epoch, Lsn};

    fn at(lsn: u64) -> Cursor {
        Cursor::after_commit(Epoch(1), Lsn(lsn))
    }

    #[test]
    fn never_a_silent_hole() {
        let known = |last_event| Known {
            position: at(50),
            floor: at(10),
            last_event,
        };
        let go_on = Resume::Continue { skip_until: None };
        assert_eq!(judge(None, &known(None)), go_on);
        assert_eq!(judge(Some(at(50)), &known(Some(at(50)))), go_on);
        assert_eq!(judge(Some(at(20)), &known(None)), go_on);
        assert_eq!(judge(Some(at(20)), &known(Some(at(20)))), go_on);
        let hole = Resume::Resync("no_history");
        assert_eq!(judge(Some(at(20)), &known(Some(at(21)))), hole);
        assert_eq!(judge(Some(at(9)), &known(None)), hole);
        let ahead = Resume::Continue {
            skip_until: Some(at(60)),
        };
        assert_eq!(judge(Some(at(60)), &known(None)), ahead);
        let other = Cursor {
            epoch: Epoch(2),
            ..at(50)
        };
        assert_eq!(
            judge(Some(other), &known(None)),
            Resume::Resync("epoch_changed")
        );
    }
}
