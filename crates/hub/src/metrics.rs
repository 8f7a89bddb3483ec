//! What the hub counts. Names and units are part of the operator's contract.

use prometheus_client::{
    metrics::{
        counter::Counter,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Registry, Unit},
};

#[derive(Clone)]
pub(crate) struct Metrics {
    pub commit_to_socket: Histogram,
    pub events: Counter,
    pub deliveries: Counter,
    pub bytes: Counter,
    pub queued: Gauge,
    pub slow_closes: Counter,
    pub connections: Gauge,
    pub subscriptions: Gauge,
}

impl Metrics {
    pub(crate) fn register(registry: &mut Registry) -> Metrics {
        let metrics = Metrics {
            // 0.1 ms to 52 s.
            commit_to_socket: Histogram::new(exponential_buckets(0.0001, 2.0, 20)),
            events: Counter::default(),
            deliveries: Counter::default(),
            bytes: Counter::default(),
            queued: Gauge::default(),
            slow_closes: Counter::default(),
            connections: Gauge::default(),
            subscriptions: Gauge::default(),
        };
        registry.register_with_unit(
            "commit_to_socket",
            "Time from commit to the last write to a socket, once for each delivered event",
            Unit::Seconds,
            metrics.commit_to_socket.clone(),
        );
        registry.register("hub_events", "Events published", metrics.events.clone());
        registry.register(
            "hub_deliveries",
            "Events handed to sockets, counted for each subscriber",
            metrics.deliveries.clone(),
        );
        registry.register_with_unit(
            "hub_sent",
            "Bytes handed to sockets",
            Unit::Bytes,
            metrics.bytes.clone(),
        );
        registry.register_with_unit(
            "hub_queued",
            "Bytes that wait for all sockets together",
            Unit::Bytes,
            metrics.queued.clone(),
        );
        registry.register(
            "hub_slow_closes",
            "Connections closed because they did not read fast enough",
            metrics.slow_closes.clone(),
        );
        registry.register(
            "hub_connections",
            "Connections at present",
            metrics.connections.clone(),
        );
        registry.register(
            "hub_subscriptions",
            "Subscriptions at present",
            metrics.subscriptions.clone(),
        );
        metrics
    }
}
