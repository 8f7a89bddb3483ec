//! How much the hub may keep. Every queue and map that a client or the log can fill has its number here.

use std::time::Duration;

use crate::PresenceLimits;

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
    /// What the subscriptions of one connection may take: table lists, filters, column lists.
    pub subscriptions_bytes: usize,
    /// The same for all connections together.
    pub total_subscriptions_bytes: usize,
    /// Those who wait for the application to let them on a channel, by number.
    pub guests: usize,
    /// Revocations that are remembered for grants that clients bring, by number.
    pub revocations: usize,
    /// Claims of the tokens of all connections.
    pub claims_bytes: usize,
    /// Past events of all organizations that are kept for those who come back.
    pub history_bytes: usize,
    /// The same for one organization.
    pub history_organization_bytes: usize,
    /// How long past events are kept.
    pub history_retention: Duration,
    /// Answers about the past before that, which are kept for those who come back next; 0: nobody answers.
    pub recovery_bytes: usize,
    /// What is read from the past for one socket at a time.
    pub replay_bytes: usize,
    /// Organizations of whose past nothing is left but how far it reached, by number.
    pub remembered_organizations: usize,
    /// Tables whose columns are remembered to check filters, by number.
    pub remembered_tables: usize,
    /// Who is on channels, and how often others are told.
    pub presence: PresenceLimits,
}

impl Default for HubLimits {
    fn default() -> Self {
        HubLimits {
            outbox_bytes: 1 << 20,
            total_outbox_bytes: 256 << 20,
            latest_bytes: 256 << 10,
            subscriptions: 100,
            subscriptions_bytes: 256 << 10,
            total_subscriptions_bytes: 64 << 20,
            guests: 20_000,
            revocations: 100_000,
            claims_bytes: 64 << 20,
            history_bytes: 256 << 20,
            history_organization_bytes: 32 << 20,
            history_retention: Duration::from_secs(600),
            recovery_bytes: 0,
            replay_bytes: 64 << 10,
            remembered_organizations: 100_000,
            remembered_tables: 10_000,
            presence: PresenceLimits::default(),
        }
    }
}
