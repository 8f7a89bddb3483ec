//! The native socket: handshake, then one task for each.

mod admit;
mod boundary;
mod enter;
pub mod event;
mod half;
mod handshake;
mod listen;
mod native;
mod reader;
mod say;
mod socket;
mod tend;
mod turns;

pub(crate) use admit::{Departed, heard};
pub(crate) use enter::{Denied, Whose, enter_as, expiry};
pub(crate) use event::Events;
pub(crate) use half::{Incoming, Socket};
pub(crate) use handshake::{switch, takes, upgrade, upgrade_phoenix};
pub(crate) use listen::{End, Place, Said, Speech, keep_writing, listen};
pub(crate) use reader::{Read, Reader};
pub(crate) use say::between_transactions;
pub(crate) use socket::farewell;
pub(crate) use tend::Tending;
pub(crate) use turns::Turns;

use std::sync::Arc;

use axum::http::{HeaderMap, HeaderValue, header};
use rowcast_hub::Hub;
use rowcast_wire::{Frame, Ref, server};
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    Application, Readiness, SocketLimits,
    admission::Admission,
    auth::{Grants, Verifier},
    limits::{Exceeded, Gates, Plans},
    metrics::GatewayMetrics,
};

/// What all sockets share.
pub(crate) struct Shared {
    pub hub: Arc<Hub>,
    pub verifier: Verifier,
    /// Asks the application; `None`: there is nobody to ask.
    pub application: Option<Arc<dyn Application>>,
    pub grants: Grants,
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
    pub events: Events,
}

impl Shared {
    /// Counts a refusal, and what the client is told of it.
    fn limited(&self, reference: Option<&Ref>, exceeded: Exceeded) -> Frame {
        self.metrics.limited(exceeded);
        self.metrics.error(exceeded.code());
        server::error(reference, exceeded.code(), &exceeded.message())
    }

    /// Whether a page of this origin may connect; what is no page sends none.
    pub(crate) fn allows_origin(&self, headers: &HeaderMap) -> bool {
        let origin = headers.get(header::ORIGIN).map(HeaderValue::as_bytes);
        let allowed = |origin: &[u8]| {
            let mut all = self.origins.iter();
            all.any(|allowed| allowed.as_bytes().eq_ignore_ascii_case(origin))
        };
        self.origins.is_empty() || origin.is_none_or(allowed)
    }

    pub(crate) fn wire_limits(&self) -> rowcast_wire::Limits {
        rowcast_wire::Limits {
            frame_bytes: self.limits.message_bytes,
            ..rowcast_wire::Limits::default()
        }
    }
}
