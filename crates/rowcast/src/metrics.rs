//! What the pipeline counts between the log and the hub.

use std::time::Instant;

use prometheus_client::{
    metrics::{
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Registry, Unit},
};
use rowcast_routing::Stats;

/// Metrics of routing, the queue and the barrier.
#[derive(Clone, Debug)]
pub struct PipelineMetrics {
    queue: Gauge,
    pending: Gauge,
    counted: [Gauge; COUNTED.len()],
    barrier: Histogram,
}

/// Takes one number out of what routing counted.
type Read = fn(&Stats) -> u64;

/// What routing counts, by name; totals since the start of the stream.
const COUNTED: [(&str, &str, Read); 8] = [
    ("routing_transactions", "Transactions routed", |s| {
        s.transactions
    }),
    ("routing_events", "Events handed on", |s| s.events),
    (
        "routing_unpaired",
        "Changes of tracked tables without a table event; never delivered",
        |s| s.unpaired,
    ),
    (
        "routing_unmatched",
        "Table events without their change; told as invalidations",
        |s| s.unmatched_events,
    ),
    (
        "routing_shed",
        "Changes given up for lack of memory; told as invalidations of the table",
        |s| s.shed,
    ),
    (
        "routing_mismatched",
        "Changes whose row says another organization; told as invalidations",
        |s| s.mismatched,
    ),
    (
        "routing_unmapped",
        "Rows that no organization or user may see",
        |s| s.unmapped,
    ),
    (
        "routing_malformed",
        "Messages and configuration rows that cannot be read",
        |s| s.malformed,
    ),
];

impl PipelineMetrics {
    /// Makes and registers them.
    pub fn new(registry: &mut Registry) -> PipelineMetrics {
        let metrics = PipelineMetrics {
            queue: Gauge::default(),
            pending: Gauge::default(),
            counted: COUNTED.map(|_| Gauge::default()),
            // 0.05 ms to 1.6 s.
            barrier: Histogram::new(exponential_buckets(0.000_05, 2.0, 16)),
        };
        registry.register_with_unit(
            "pipeline_queue",
            "Bytes between the reader and the publisher",
            Unit::Bytes,
            metrics.queue.clone(),
        );
        registry.register_with_unit(
            "routing_pending",
            "Bytes of the transaction being routed",
            Unit::Bytes,
            metrics.pending.clone(),
        );
        for ((name, help, _), gauge) in COUNTED.iter().zip(&metrics.counted) {
            registry.register(*name, *help, gauge.clone());
        }
        registry.register_with_unit(
            "pipeline_barrier",
            "Time until a transaction was visible to new snapshots",
            Unit::Seconds,
            metrics.barrier.clone(),
        );
        metrics
    }

    /// Takes over what routing counted.
    pub fn routed(&self, stats: &Stats, queued_bytes: usize) {
        let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        self.queue.set(number(queued_bytes as u64));
        self.pending.set(number(stats.pending_bytes as u64));
        for ((_, _, read), gauge) in COUNTED.iter().zip(&self.counted) {
            gauge.set(number(read(stats)));
        }
    }

    /// Notes how long the barrier held a transaction back.
    pub fn barrier(&self, since: Instant) {
        self.barrier.observe(since.elapsed().as_secs_f64());
    }
}
