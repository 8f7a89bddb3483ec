//! The native socket: handshake, then one task for each.

mod admit;
mod boundary;
mod half;
mod handshake;
mod reader;
mod say;
mod socket;
mod turns;

pub(crate) use half::Incoming;
pub(crate) use handshake::upgrade;
pub(crate) use turns::Turns;

use std::sync::Arc;

use rowcast_hub::Hub;
use rowcast_wire::{Frame, Ref, server};
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    Readiness, SocketLimits,
    admission::Admission,
    auth::Verifier,
    limits::{Exceeded, Gates, Plans},
    metrics::GatewayMetrics,
};

/// What all sockets share.
pub(crate) struct Shared {
    pub hub: Arc<Hub>,
    pub verifier: Verifier,
    pub limits: SocketLimits,
    pub origins: Vec<String>,
    pub admission: Arc<Admission>,
    pub plans: Arc<Plans>,
    pub gates: Gates,
    pub metrics: GatewayMetrics,
    pub ready: watch::Receiver<Readiness>,
    pub stopping: CancellationToken,
    pub sockets: TaskTracker,
    pub incoming: Arc<Incoming>,
    pub turns: Turns,
}

impl Shared {
    /// Counts a refusal, and what the client is told of it.
    fn limited(&self, reference: Option<&Ref>, exceeded: Exceeded) -> Frame {
        self.metrics.limited(exceeded);
        self.metrics.error(exceeded.code());
        server::error(reference, exceeded.code(), &exceeded.message())
    }

    fn wire_limits(&self) -> rowcast_wire::Limits {
        rowcast_wire::Limits {
            frame_bytes: self.limits.message_bytes,
            ..rowcast_wire::Limits::default()
        }
    }
}
