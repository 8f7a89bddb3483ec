//! What may be acknowledged: a value without IO.
//!
//! Postgres may forget everything before the acknowledged position, so it is never ahead of what was handed
//! on, never goes backwards, and reaches the idle position of the server once nothing is pending; else an idle
//! database would keep its log for ever.

use rowcast_model::Lsn;

/// How far the stream was read and how far it was handed on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// End of the last transaction or idle position that was read.
    read: Lsn,
    /// What was said to be handed on.
    handed_on: Lsn,
}

impl Progress {
    /// Something that ends at `end` was read and is on its way.
    pub fn read(&mut self, end: Lsn) {
        self.read = self.read.max(end);
    }

    /// Everything up to `end` was handed on. A position that was never read is cut to what was.
    pub fn handed_on(&mut self, end: Lsn) {
        self.handed_on = self.handed_on.max(end.min(self.read));
    }

    /// What may be acknowledged now.
    pub fn acknowledged(&self) -> Lsn {
        self.handed_on
    }

    /// How far the stream was read.
    pub fn read_to(&self) -> Lsn {
        self.read
    }

    /// Bytes of log that were read and not yet handed on.
    pub fn pending_bytes(&self) -> u64 {
        self.read.bytes_since(self.handed_on)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn never_ahead_never_back_and_reaches_the_end(steps in prop::collection::vec((any::<bool>(), 0u64..1000), 0..100)) {
            let mut progress = Progress::default();
            let mut read = Lsn::ZERO;
            let mut last = Lsn::ZERO;
            for (is_read, lsn) in steps {
                if is_read {
                    progress.read(Lsn(lsn));
                    read = read.max(Lsn(lsn));
                } else {
                    progress.handed_on(Lsn(lsn));
                }
                let acknowledged = progress.acknowledged();
                prop_assert!(acknowledged <= read && acknowledged >= last);
                last = acknowledged;
            }
            progress.handed_on(read);
            prop_assert_eq!(progress.acknowledged(), read);
            prop_assert_eq!(progress.pending_bytes(), 0);
        }
    }
}
