//! Bytes of all questions that wait or are under way, bounded together.

use std::sync::Arc;

use prometheus_client::metrics::gauge::Gauge;

/// The bound, and what is taken of it.
#[derive(Debug)]
pub(crate) struct Budget {
    most: i64,
    used: Gauge,
}

/// Room for one question; given back when dropped.
#[derive(Debug)]
pub(crate) struct Room {
    budget: Arc<Budget>,
    bytes: i64,
}

impl Budget {
    pub fn new(most: usize, used: Gauge) -> Budget {
        Budget {
            most: i64::try_from(most).unwrap_or(i64::MAX),
            used,
        }
    }

    /// Room for so many bytes; `None`: there is none.
    pub fn take(self: &Arc<Budget>, bytes: usize) -> Option<Room> {
        let bytes = i64::try_from(bytes).ok()?;
        let room = Room {
            budget: self.clone(),
            bytes,
        };
        // Given back at once by the drop when that was too much.
        (self.used.inc_by(bytes).checked_add(bytes)? <= self.most).then_some(room)
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.budget.used.dec_by(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_comes_back() {
        let budget = Arc::new(Budget::new(10, Gauge::default()));
        let first = budget.take(6);
        assert!(first.is_some() && budget.take(5).is_none());
        let second = budget.take(4);
        assert!(second.is_some());
        drop(first);
        assert!(budget.take(6).is_some() && budget.take(7).is_none());
        drop(second);
        assert_eq!(budget.used.get(), 0);
    }
}
