//! What routing counts.

/// Counters since the start, and what is held right now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Bytes held now: unpaired and undelivered changes of the running transaction.
    pub pending_bytes: usize,
    /// Changes held now.
    pub pending_changes: usize,
    /// Transactions finished.
    pub transactions: u64,
    /// Events handed on.
    pub events: u64,
    /// Changes of tracked tables for which no table event came: dropped, never delivered.
    pub unpaired: u64,
    /// Table events whose change was not in the log: told as invalidations.
    pub unmatched_events: u64,
    /// Changes given up for lack of memory: told as invalidations of the table.
    pub shed: u64,
    /// Changes whose row says another organization than their event: told as invalidations.
    pub mismatched: u64,
    /// Rows that no organization or no user may see.
    pub unmapped: u64,
    /// Messages and configuration rows that cannot be read.
    pub malformed: u64,
    /// Events not handed on again after a reconnect.
    pub repeated: u64,
}
