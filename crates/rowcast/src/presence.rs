//! The loop that lets go of members whose time is over, and tells others who came and went. Decides nothing: what is
//! due, and when, the hub knows.

use std::sync::Arc;

use rowcast_hub::{Hub, PresenceWork};
use tokio_util::sync::CancellationToken;

/// Runs until it is told to stop.
pub async fn run(hub: Arc<Hub>, stop: CancellationToken) {
    loop {
        let next = match hub.keep_presence() {
            PresenceWork::More => {
                tokio::task::yield_now().await;
                continue;
            }
            PresenceWork::At(at) => Some(at),
            PresenceWork::Nothing => None,
        };
        let due = async {
            match next {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = hub.presence_woken() => {}
            () = due => {}
        }
    }
}
