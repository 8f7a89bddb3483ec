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
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    Application, Readiness, SocketLimits,
    admission::Admission,
    auth::{Grants, Verifier},
    metrics::GatewayMetrics,
};

/// What all sockets share.
pub(crate) struct Shared {
    pub hub: Arc<Hub>,
    pub verifier: Verifier,
    /// Asks the application; `None`: there is nobody to ask.
    #[expect(dead_code, reason = "client events ask it")]
    pub application: Option<Arc<dyn Application>>,
    pub grants: Grants,
    pub limits: SocketLimits,
    pub origins: Vec<String>,
    pub admission: Arc<Admission>,
    pub metrics: GatewayMetrics,
    pub ready: watch::Receiver<Readiness>,
    pub stopping: CancellationToken,
    pub sockets: TaskTracker,
    pub incoming: Arc<Incoming>,
    pub turns: Turns,
}

impl Shared {
    fn wire_limits(&self) -> rowcast_wire::Limits {
        rowcast_wire::Limits {
            frame_bytes: self.limits.message_bytes,
            ..rowcast_wire::Limits::default()
        }
    }
}
