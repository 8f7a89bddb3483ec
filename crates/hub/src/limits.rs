//! How much the hub may keep. Every queue and map that a client or the log can fill has its number here.

/// Limits of the hub, in bytes unless said otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HubLimits {
    /// What may wait for one socket; beyond it the socket is closed as slow.
    pub outbox_bytes: usize,
    /// What may wait for all sockets together.
    pub total_outbox_bytes: usize,
    /// What one connection may hold back to send only the latest of each record; beyond it, it is sent.
    pub latest_bytes: usize,
    /// Subscriptions of one connection, by number.
    pub subscriptions: usize,
    /// Organizations whose last event is remembered to judge cursors, by number.
    pub remembered_topics: usize,
    /// Tables whose columns are remembered to check filters, by number.
    pub remembered_tables: usize,
}

impl Default for HubLimits {
    fn default() -> Self {
        HubLimits {
            outbox_bytes: 1 << 20,
            total_outbox_bytes: 256 << 20,
            latest_bytes: 256 << 10,
            subscriptions: 100,
            remembered_topics: 100_000,
            remembered_tables: 10_000,
        }
    }
}
