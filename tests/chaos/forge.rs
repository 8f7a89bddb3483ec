//! Cursors that nobody handed out, and what has to be answered to them. Pure.

use rowcast_model::{Cursor, Epoch, Lsn};

/// What has to be answered to a forged cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    Refusal,
    Resync,
    /// It may be one that was handed out, or that will be.
    Anything,
}

/// A cursor that nobody handed out, made from a good one.
pub fn forge(cursor: Cursor, chance: u64) -> (String, Expected) {
    let other = |epoch: u32, lsn: u64, index: u32| Cursor {
        epoch: Epoch(epoch),
        commit_lsn: Lsn(lsn),
        index,
    };
    let Cursor {
        epoch: Epoch(epoch),
        commit_lsn: Lsn(lsn),
        index,
    } = cursor;
    match chance % 8 {
        0 => (String::new(), Expected::Refusal),
        1 => ("x".repeat(5000), Expected::Refusal),
        2 => (format!("{cursor}-0"), Expected::Refusal),
        3 => (other(!epoch, lsn, index).to_string(), Expected::Resync),
        4 => (other(epoch, 1, 0).to_string(), Expected::Resync),
        5 => (other(epoch, u64::MAX, 0).to_string(), Expected::Anything),
        6 => (
            other(epoch, lsn.wrapping_sub(1), index).to_string(),
            Expected::Anything,
        ),
        _ => (
            other(epoch, lsn, u32::MAX - 1).to_string(),
            Expected::Anything,
        ),
    }
}

#[test]
fn what_is_refused_is_no_cursor_and_all_else_is_another_one() {
    let good: Cursor = "00000001-16b3748-2".parse().unwrap();
    for chance in 0..8 {
        let (text, expected) = forge(good, chance);
        let refused = text.parse::<Cursor>().is_err();
        assert_eq!(refused, expected == Expected::Refusal, "{text:.80}");
        assert_ne!(text, good.to_string());
    }
}
