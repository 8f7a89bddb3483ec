//! What the gateway counts.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};
use rowcast_wire::{CloseCode, ErrorCode};

/// One name.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(crate) struct Reason {
    reason: &'static str,
}

/// Counters of the gateway.
#[derive(Clone, Debug, Default)]
pub struct GatewayMetrics {
    /// Sockets open now.
    pub(crate) sockets: Gauge,
    handshakes: Family<Reason, Counter>,
    refused: Family<Reason, Counter>,
    closes: Family<Reason, Counter>,
    pub(crate) frames: Counter,
}

impl GatewayMetrics {
    /// Makes and registers them.
    pub fn register(registry: &mut Registry) -> GatewayMetrics {
        let metrics = GatewayMetrics::default();
        registry.register(
            "sockets",
            "Open WebSocket connections",
            metrics.sockets.clone(),
        );
        registry.register(
            "handshakes",
            "WebSocket handshakes by outcome",
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
            "client_frames",
            "Frames received from clients",
            metrics.frames.clone(),
        );
        metrics
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

    pub(crate) fn closed(&self, code: CloseCode) {
        self.closes
            .get_or_create(&Reason {
                reason: code.name(),
            })
            .inc();
    }
}
