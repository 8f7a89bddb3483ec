//! Positions in the write-ahead log. Owns parsing, printing and order of an LSN, nothing else.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// A byte position in the write-ahead log, printed as Postgres prints it (`16/B374D848`).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Lsn(pub u64);

impl Lsn {
    /// The position before every other.
    pub const ZERO: Lsn = Lsn(0);

    /// Bytes of WAL from `earlier` to `self`; zero when `earlier` is not earlier.
    pub fn bytes_since(self, earlier: Lsn) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xffff_ffff)
    }
}

/// The text is not an LSN: two hexadecimal numbers of at most eight digits around one slash.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a log position; expected two hexadecimal numbers such as 16/B374D848")]
pub struct LsnError(pub String);

impl FromStr for Lsn {
    type Err = LsnError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || LsnError(text.chars().take(40).collect());
        let (high, low) = text.split_once('/').ok_or_else(bad)?;
        let half = |part: &str| {
            let hex = (1..=8).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_hexdigit());
            hex.then(|| u64::from_str_radix(part, 16).ok()).flatten()
        };
        match (half(high), half(low)) {
            (Some(high), Some(low)) => Ok(Lsn(high << 32 | low)),
            _ => Err(bad()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn prints_and_parses_back(raw: u64) {
            prop_assert_eq!(Lsn(raw).to_string().parse::<Lsn>(), Ok(Lsn(raw)));
        }

        #[test]
        fn never_panics(text in ".*") {
            let _ = text.parse::<Lsn>();
        }
    }

    #[test]
    fn refuses_what_postgres_refuses() {
        for bad in ["", "/", "1/", "/1", "1/G", "123456789/0", "1/2/3", "+1/2"] {
            assert!(bad.parse::<Lsn>().is_err(), "{bad}");
        }
    }
}
