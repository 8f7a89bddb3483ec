//! Tells the outside how the stream is: readiness at once, and open sockets when it takes too long.

use std::{sync::Arc, time::Duration};

use rowcast_gateway::Readiness;
use rowcast_hub::Hub;
use rowcast_source::SourceStatus;
use rowcast_wire::CloseCode;
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

use crate::progress::Progress;

/// How long the stream may be interrupted before clients are told. A dead connection is noticed after
/// up to seven seconds (a third of `replication.silence_limit`, and five to answer); together that is
/// less than the ten seconds that are promised.
const STALE_AFTER: Duration = Duration::from_secs(2);

/// Follows source and progress until aborted.
pub async fn watch(
    mut status: watch::Receiver<SourceStatus>,
    progress: Arc<Progress>,
    tell: watch::Sender<Readiness>,
    hub: Arc<Hub>,
) {
    let mut progressing = progress.watch();
    // When the sockets are to be told; `None` while the log flows, and when they know.
    let mut tell_at: Option<Instant> = None;
    let mut flowed = false;
    loop {
        let readiness = readiness(&status.borrow_and_update(), progress.is_current());
        let changed = tell.send_if_modified(|now| {
            let changed = *now != readiness;
            now.clone_from(&readiness);
            changed
        });
        if changed {
            match &readiness {
                Readiness::Ready => tracing::info!("ready: streaming and current"),
                Readiness::NotReady(why) => tracing::info!("not ready: {why}"),
            }
        }
        let flows = matches!(*status.borrow(), SourceStatus::Streaming { .. });
        tell_at = match (flows, flowed) {
            (true, _) => None,
            (false, true) => Some(Instant::now() + STALE_AFTER),
            (false, false) => tell_at,
        };
        flowed = flows;
        tokio::select! {
            changed = status.changed() => if changed.is_err() { return },
            changed = progressing.changed() => if changed.is_err() { return },
            // New sockets are refused while it lasts, so once is enough.
            () = sleep_until(tell_at.unwrap_or_else(Instant::now)), if tell_at.is_some() => {
                tracing::warn!("the stream is interrupted: telling every socket");
                hub.close_all(CloseCode::Stale);
                tell_at = None;
            }
        }
    }
}

/// Pure: what the state of the source and the progress mean for whoever asks.
fn readiness(status: &SourceStatus, current: bool) -> Readiness {
    match status {
        SourceStatus::Streaming { .. } if current => Readiness::Ready,
        SourceStatus::Streaming { .. } => Readiness::NotReady("catching up with the log".into()),
        SourceStatus::Connecting => Readiness::NotReady("connecting to the database".into()),
        SourceStatus::Waiting { reason } | SourceStatus::Failed { reason } => {
            Readiness::NotReady(Arc::clone(reason))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rowcast_model::Epoch;

    #[test]
    fn only_a_stream_that_flows_and_is_current_is_ready() {
        let streaming = SourceStatus::Streaming { epoch: Epoch(1) };
        let waiting = SourceStatus::Waiting { reason: "x".into() };
        assert_eq!(readiness(&streaming, true), Readiness::Ready);
        for (status, current) in [
            (&streaming, false),
            (&waiting, true),
            (&SourceStatus::Connecting, true),
        ] {
            assert!(matches!(readiness(status, current), Readiness::NotReady(_)));
        }
    }
}
