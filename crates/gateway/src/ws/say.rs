//! What a client says to the others on a channel. Owns how often, and the answer; whether the channel lets
//! clients send, and what, is decided in the hub, which puts in who it was.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use rowcast_hub::{Connection, Hub, HubError, Relay, Sent};
use rowcast_model::OrgId;
use rowcast_wire::{ClientBroadcast, ErrorCode, server};

use super::Shared;
use crate::session::Session;

/// Most time to wait for the end of a transaction that is being published.
const SETTLE: Duration = Duration::from_secs(2);
/// Attempts to get in between two transactions.
const ATTEMPTS: usize = 100;

/// Who says something.
pub(super) struct Saying<'a> {
    pub shared: &'a Shared,
    pub connection: &'a Arc<Connection>,
    /// The organization that the socket is for.
    pub home: &'a OrgId,
}

impl Saying<'_> {
    /// Says it, and answers whoever gave a reference; errors are answered always. `false`: it was refused for
    /// a reason that costs patience.
    pub(super) async fn say(&self, session: &mut Session, broadcast: ClientBroadcast) -> bool {
        let ClientBroadcast {
            reference,
            channel,
            organization,
            event,
            payload,
            to_self,
        } = broadcast;
        let refuse = |code: ErrorCode, message: &str| {
            self.shared.metrics.error(code);
            let error = server::error(reference.as_ref(), code, message);
            self.connection.send(error);
        };
        if !session.may_say(&self.shared.limits, Instant::now()) {
            refuse(ErrorCode::SendLimited, ErrorCode::SendLimited.sentence());
            return true;
        }
        let relay = Relay {
            channel,
            organization: organization.or_else(|| Some(self.home.clone())),
            event,
            payload,
            to_self,
        };
        let hub = &self.shared.hub;
        match between_transactions(hub, || hub.relay(self.connection, &relay)).await {
            Ok(Sent { cursor, .. }) => {
                if let Some(reference) = &reference {
                    let channel = relay.channel.to_string();
                    self.connection
                        .send(server::ack(reference, &channel, &cursor));
                }
                true
            }
            Err(error) => {
                refuse(error.error_code(), &error.to_string());
                // It is not the client's fault that the service is not ready.
                error.error_code().come_back()
            }
        }
    }
}

/// Says something when no transaction of the log is published in part, trying again for a while.
pub(crate) async fn between_transactions(
    hub: &Hub,
    mut say: impl FnMut() -> Result<Sent, HubError>,
) -> Result<Sent, HubError> {
    let until = tokio::time::Instant::now() + SETTLE;
    let mut attempts = 0;
    loop {
        attempts += 1;
        match say() {
            Err(HubError::Busy) if attempts < ATTEMPTS => {
                let settled = tokio::time::timeout_at(until, hub.settled());
                settled.await.map_err(|_| HubError::Busy)?;
            }
            said => return said,
        }
    }
}
