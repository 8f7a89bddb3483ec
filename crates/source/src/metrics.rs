//! What the source counts.

use prometheus_client::{
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

type ByCode = Family<[(&'static str, &'static str); 1], Counter>;

/// Counters of the source; clones count into the same.
#[derive(Clone, Debug, Default)]
pub struct SourceMetrics {
    transactions: Counter,
    items: Counter,
    bytes: Counter,
    connections: Counter,
    failures: ByCode,
    unacknowledged: Gauge,
    trail: Gauge,
}

impl SourceMetrics {
    /// Makes and registers the counters.
    pub fn new(registry: &mut Registry) -> SourceMetrics {
        let metrics = SourceMetrics::default();
        registry.register(
            "source_transactions",
            "Transactions read from the log",
            metrics.transactions.clone(),
        );
        registry.register(
            "source_items",
            "Changes and messages read from the log",
            metrics.items.clone(),
        );
        registry.register(
            "source_bytes",
            "Bytes of changes and messages read from the log",
            metrics.bytes.clone(),
        );
        registry.register(
            "source_connections",
            "Times the log stream was started",
            metrics.connections.clone(),
        );
        registry.register(
            "source_failures",
            "Times the log stream broke or could not be started, by error code",
            metrics.failures.clone(),
        );
        registry.register(
            "source_unacknowledged_bytes",
            "Bytes of log that were read and not yet handed on",
            metrics.unacknowledged.clone(),
        );
        registry.register(
            "source_trail_bytes",
            "Bytes of log that were handed on and are left on the server, for clients who resume",
            metrics.trail.clone(),
        );
        metrics
    }

    pub(crate) fn transaction(&self) {
        self.transactions.inc();
    }

    pub(crate) fn item(&self, bytes: u32) {
        self.items.inc();
        self.bytes.inc_by(u64::from(bytes));
    }

    pub(crate) fn connected(&self) {
        self.connections.inc();
    }

    pub(crate) fn failed(&self, code: &'static str) {
        self.failures.get_or_create(&[("code", code)]).inc();
    }

    pub(crate) fn unacknowledged(&self, bytes: u64, trail: u64) {
        let number = |bytes| i64::try_from(bytes).unwrap_or(i64::MAX);
        self.unacknowledged.set(number(bytes));
        self.trail.set(number(trail));
    }
}
