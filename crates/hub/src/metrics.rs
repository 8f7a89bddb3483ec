//! What the hub counts. Names and units are part of the operator's contract.

use prometheus_client::{
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Registry, Unit},
};

#[derive(Clone)]
pub(crate) struct Metrics {
    pub commit_to_socket: Histogram,
    pub events: Counter,
    pub direct: Counter,
    pub deliveries: Counter,
    pub bytes: Counter,
    pub queued: Gauge,
    pub slow_closes: Counter,
    pub connections: Gauge,
    pub subscriptions: Gauge,
    pub described: Gauge,
    pub claims: Gauge,
    pub claims_dropped: Counter,
    pub history: Gauge,
    pub evicted: Counter,
    pub replays: Counter,
    pub replayed: Counter,
    pub replay_waits: Counter,
    pub recoveries: Counter,
    pub presence_rooms: Gauge,
    pub presence_members: Gauge,
    pub presence_bytes: Gauge,
    pub presence_diffs: Counter,
    pub presence_told: Counter,
    pub presence_expired: Counter,
    pub presence_untold: Counter,
    presence_refusals: Family<[(&'static str, &'static str); 1], Counter>,
    resyncs: Family<[(&'static str, String); 1], Counter>,
    authorizations: Family<[(&'static str, &'static str); 1], Counter>,
}

impl Metrics {
    pub(crate) fn register(registry: &mut Registry) -> Metrics {
        let metrics = Metrics {
            // 0.1 ms to 52 s.
            commit_to_socket: Histogram::new(exponential_buckets(0.0001, 2.0, 20)),
            events: Counter::default(),
            direct: Counter::default(),
            deliveries: Counter::default(),
            bytes: Counter::default(),
            queued: Gauge::default(),
            slow_closes: Counter::default(),
            connections: Gauge::default(),
            subscriptions: Gauge::default(),
            described: Gauge::default(),
            claims: Gauge::default(),
            claims_dropped: Counter::default(),
            history: Gauge::default(),
            evicted: Counter::default(),
            replays: Counter::default(),
            replayed: Counter::default(),
            replay_waits: Counter::default(),
            recoveries: Counter::default(),
            presence_rooms: Gauge::default(),
            presence_members: Gauge::default(),
            presence_bytes: Gauge::default(),
            presence_diffs: Counter::default(),
            presence_told: Counter::default(),
            presence_expired: Counter::default(),
            presence_untold: Counter::default(),
            presence_refusals: Family::default(),
            resyncs: Family::default(),
            authorizations: Family::default(),
        };
        registry.register_with_unit(
            "commit_to_socket",
            "Time from commit to the last write to a socket, once for each part of a transaction that is written together",
            Unit::Seconds,
            metrics.commit_to_socket.clone(),
        );
        registry.register("hub_events", "Events published", metrics.events.clone());
        registry.register(
            "hub_direct_events",
            "Events published that no log holds: by HTTP, and by clients where a channel lets them",
            metrics.direct.clone(),
        );
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
        registry.register_with_unit(
            "hub_subscriptions",
            "Bytes of the table lists and filters of all subscriptions",
            Unit::Bytes,
            metrics.described.clone(),
        );
        registry.register_with_unit(
            "hub_claims",
            "Bytes of the claims of all tokens",
            Unit::Bytes,
            metrics.claims.clone(),
        );
        registry.register(
            "hub_claims_dropped",
            "Sockets whose claims had no room, so that they cannot ask the application",
            metrics.claims_dropped.clone(),
        );
        registry.register_with_unit(
            "hub_history",
            "Bytes of past events kept for those who come back",
            Unit::Bytes,
            metrics.history.clone(),
        );
        registry.register(
            "hub_history_evicted",
            "Past events that were forgotten",
            metrics.evicted.clone(),
        );
        registry.register(
            "hub_replays",
            "Subscriptions that came back with a cursor and had missed something that is still known",
            metrics.replays.clone(),
        );
        registry.register(
            "hub_replayed_events",
            "Past events handed to sockets",
            metrics.replayed.clone(),
        );
        registry.register(
            "hub_replay_waits",
            "Times a past was not told on, as too much waited for all sockets",
            metrics.replay_waits.clone(),
        );
        registry.register(
            "hub_recoveries",
            "Subscriptions that were told what changed before the past in memory",
            metrics.recoveries.clone(),
        );
        registry.register(
            "hub_resyncs",
            "Subscriptions told to read everything again, by reason",
            metrics.resyncs.clone(),
        );
        registry.register(
            "hub_authorizations",
            "What the application, or a grant of it, did to those who want on a channel or are on one, by outcome",
            metrics.authorizations.clone(),
        );
        metrics.register_presence(registry);
        metrics
    }

    fn register_presence(&self, registry: &mut Registry) {
        registry.register(
            "presence_channels",
            "Channels that somebody is on, or follows who is",
            self.presence_rooms.clone(),
        );
        registry.register(
            "presence_members",
            "Connections that are present on channels, counted for each channel",
            self.presence_members.clone(),
        );
        registry.register_with_unit(
            "presence_members",
            "Bytes of the members of all channels",
            Unit::Bytes,
            self.presence_bytes.clone(),
        );
        registry.register(
            "presence_diffs",
            "Times that the followers of a channel were told who came and went",
            self.presence_diffs.clone(),
        );
        registry.register(
            "presence_told",
            "The same, counted for each follower",
            self.presence_told.clone(),
        );
        registry.register(
            "presence_expired",
            "Members of whom nothing was heard for too long",
            self.presence_expired.clone(),
        );
        registry.register(
            "presence_news_lost",
            "Comings and goings that the queue of their handlers had no room for",
            self.presence_untold.clone(),
        );
        registry.register(
            "presence_refusals",
            "Requests about presence that were refused, by error",
            self.presence_refusals.clone(),
        );
    }

    /// Something was decided about somebody on an authorized channel.
    pub(crate) fn authorized(&self, outcome: &'static str) {
        self.authorizations
            .get_or_create(&[("outcome", outcome)])
            .inc();
    }

    /// A request about presence was refused.
    pub(crate) fn presence_refused(&self, error: &'static str) {
        self.presence_refusals
            .get_or_create(&[("error", error)])
            .inc();
    }

    /// A subscription was told to read everything again.
    pub(crate) fn resync(&self, reason: &str) {
        let label = [("reason", reason.to_owned())];
        self.resyncs.get_or_create(&label).inc();
    }
}
