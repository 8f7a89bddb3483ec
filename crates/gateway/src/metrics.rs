//! What the gateway counts.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::{Registry, Unit},
};
use rowcast_wire::{CloseCode, ErrorCode};

use crate::limits::Exceeded;

/// One name.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(crate) struct Reason {
    reason: &'static str,
}

/// Of what there was too much, and whose.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(crate) struct Limited {
    kind: &'static str,
    level: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

/// Counters of the gateway.
#[derive(Clone, Debug, Default)]
pub struct GatewayMetrics {
    /// Sockets open now, and event streams.
    pub(crate) sockets: Gauge,
    /// Event streams among them.
    pub(crate) streams: Gauge,
    handshakes: Family<Reason, Counter>,
    refused: Family<Reason, Counter>,
    closes: Family<Reason, Counter>,
    errors: Family<Reason, Counter>,
    accepting: Family<Reason, Counter>,
    /// Bytes of messages that are not whole yet.
    pub(crate) incoming: Gauge,
    /// HTTP connections open now that are no sockets.
    pub(crate) http: Gauge,
    pub(crate) frames: Counter,
    broadcasts: Family<Reason, Counter>,
    admin: Family<Reason, Counter>,
    /// Messages that applications said over HTTP.
    pub(crate) broadcast_messages: Counter,
    kept_answers: Gauge,
    limited: Family<Limited, Counter>,
    plans: Family<Reason, Counter>,
    client_events: Family<Outcome, Counter>,
    /// Bytes of client events that have no answer yet.
    pub(crate) waiting_events: Gauge,
}

impl GatewayMetrics {
    /// Makes and registers them.
    pub fn register(registry: &mut Registry) -> GatewayMetrics {
        let metrics = GatewayMetrics::default();
        registry.register(
            "sockets",
            "Open WebSocket connections and event streams",
            metrics.sockets.clone(),
        );
        registry.register(
            "event_streams",
            "Event streams among the open sockets",
            metrics.streams.clone(),
        );
        registry.register(
            "handshakes",
            "WebSocket handshakes and requests for event streams by outcome",
            metrics.handshakes.clone(),
        );
        registry.register(
            "auth_refused",
            "Refused tokens and keys by reason",
            metrics.refused.clone(),
        );
        registry.register(
            "socket_closes",
            "Sockets closed by the service, by close code",
            metrics.closes.clone(),
        );
        registry.register(
            "frames_refused",
            "Frames of clients that were answered with an error, by its name",
            metrics.errors.clone(),
        );
        registry.register(
            "accept_failures",
            "Connections that the system could not hand over, by reason",
            metrics.accepting.clone(),
        );
        registry.register(
            "http_connections",
            "Open HTTP connections that are no sockets",
            metrics.http.clone(),
        );
        registry.register_with_unit(
            "incoming",
            "Bytes of messages of clients that are not whole yet",
            Unit::Bytes,
            metrics.incoming.clone(),
        );
        registry.register(
            "client_frames",
            "Frames received from clients",
            metrics.frames.clone(),
        );
        registry.register(
            "broadcast_requests",
            "Requests to POST /broadcast by outcome",
            metrics.broadcasts.clone(),
        );
        registry.register(
            "admin_requests",
            "Requests to /admin/ by outcome",
            metrics.admin.clone(),
        );
        registry.register(
            "broadcast_messages",
            "Messages said over POST /broadcast",
            metrics.broadcast_messages.clone(),
        );
        registry.register(
            "limited",
            "Refusals by what there was too much of and whose limit it was",
            metrics.limited.clone(),
        );
        registry.register(
            "plans_asked",
            "Questions what an organization may use, by outcome",
            metrics.plans.clone(),
        );
        registry.register_with_unit(
            "broadcast_kept_answers",
            "Answers kept for idempotency keys",
            Unit::Bytes,
            metrics.kept_answers.clone(),
        );
        registry.register(
            "client_events",
            "Events of clients by what became of them",
            metrics.client_events.clone(),
        );
        registry.register_with_unit(
            "client_events_waiting",
            "Bytes of events of clients that have no answer yet",
            Unit::Bytes,
            metrics.waiting_events.clone(),
        );
        metrics
    }

    pub(crate) fn client_event(&self, outcome: &'static str) {
        self.client_events.get_or_create(&Outcome { outcome }).inc();
    }

    pub(crate) fn broadcast(&self, reason: &'static str) {
        self.broadcasts.get_or_create(&Reason { reason }).inc();
    }

    pub(crate) fn admin(&self, reason: &'static str) {
        self.admin.get_or_create(&Reason { reason }).inc();
    }

    pub(crate) fn limited(&self, exceeded: Exceeded) {
        let (kind, level) = (exceeded.kind.name(), exceeded.level.name());
        self.limited.get_or_create(&Limited { kind, level }).inc();
    }

    pub(crate) fn plan(&self, reason: &'static str) {
        self.plans.get_or_create(&Reason { reason }).inc();
    }

    pub(crate) fn kept_answers(&self, bytes: usize) {
        self.kept_answers
            .set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    pub(crate) fn handshake(&self, reason: &'static str) {
        self.handshakes.get_or_create(&Reason { reason }).inc();
    }

    pub(crate) fn refused(&self, code: ErrorCode) {
        self.refused
            .get_or_create(&Reason {
                reason: code.name(),
            })
            .inc();
    }

    pub(crate) fn error(&self, code: ErrorCode) {
        let reason = code.name();
        self.errors.get_or_create(&Reason { reason }).inc();
    }

    pub(crate) fn not_accepted(&self, reason: &'static str) {
        self.accepting.get_or_create(&Reason { reason }).inc();
    }

    pub(crate) fn closed(&self, code: CloseCode) {
        self.closes
            .get_or_create(&Reason {
                reason: code.name(),
            })
            .inc();
    }
}
