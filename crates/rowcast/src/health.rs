//! Tells the outside how the stream is: readiness at once, and open sockets when it takes too long.

use std::{sync::Arc, time::Duration};

use rowcast_gateway::Readiness;
use rowcast_hub::{Hub, StreamState};
use rowcast_model::Timestamp;
use rowcast_source::SourceStatus;
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

use crate::progress::Progress;

/// How long the stream may be interrupted before clients are told. A dead connection is noticed after
/// up to seven seconds (a third of `replication.silence_limit`, and five to answer); together that is
/// less than the ten seconds that are promised.
const STALE_AFTER: Duration = Duration::from_secs(2);

/// What clients have been told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Live,
    /// They are told at this time, if it lasts; what was written before `since` has arrived.
    Soon {
        at: Instant,
        since: Timestamp,
    },
    Stale,
}

impl Told {
    /// What is to be done now, if the log is current or not, and when to look again.
    fn next(self, current: bool, now: Instant, heard: Timestamp) -> (Told, Option<Tell>) {
        match self {
            Told::Live if current => (Told::Live, None),
            Told::Soon { .. } if current => (Told::Live, None),
            Told::Stale if current => (Told::Live, Some(Tell::Live)),
            Told::Live => {
                let at = now + STALE_AFTER;
                (Told::Soon { at, since: heard }, None)
            }
            Told::Soon { at, since } if now >= at => (Told::Stale, Some(Tell::Stale(since))),
            waiting => (waiting, None),
        }
    }
}

/// What clients are to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tell {
    Live,
    Stale(Timestamp),
}

/// Follows source and progress until aborted.
pub async fn watch(
    mut status: watch::Receiver<SourceStatus>,
    progress: Arc<Progress>,
    tell: watch::Sender<Readiness>,
    hub: Arc<Hub>,
) {
    let mut progressing = progress.watch();
    // Whoever comes before the log was caught up with must not believe that it is.
    let stale = |since, reason| hub.announce(StreamState::Stale { since, reason });
    stale(progress.heard(), "the service starts".into());
    let mut told = Told::Stale;
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
        let current = readiness == Readiness::Ready;
        let (now_told, news) = told.next(current, Instant::now(), progress.heard());
        told = now_told;
        match (news, readiness) {
            (Some(Tell::Live), _) => hub.announce(StreamState::Live),
            (Some(Tell::Stale(since)), Readiness::NotReady(reason)) => {
                tracing::warn!("telling every socket that the stream stands: {reason}");
                stale(since, reason);
            }
            _ => {}
        }
        let look_again = match told {
            Told::Soon { at, .. } => Some(at),
            Told::Live | Told::Stale => None,
        };
        tokio::select! {
            changed = status.changed() => if changed.is_err() { return },
            changed = progressing.changed() => if changed.is_err() { return },
            () = sleep_until(look_again.unwrap_or_else(Instant::now)), if look_again.is_some() => {}
        }
    }
}

/// Pure: what the state of the source and the progress mean for whoever asks.
fn readiness(status: &SourceStatus, current: bool) -> Readiness {
    match status {
        SourceStatus::Streaming { .. } if current => Readiness::Ready,
        SourceStatus::Streaming { .. } => Readiness::NotReady("catching up with the log".into()),
        SourceStatus::Connecting => Readiness::NotReady("connecting to the database".into()),
        SourceStatus::Standby { reason }
        | SourceStatus::Waiting { reason }
        | SourceStatus::Failed { reason } => Readiness::NotReady(Arc::clone(reason)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rowcast_model::Epoch;

    #[test]
    fn clients_are_told_when_it_lasts_and_when_it_is_over() {
        let now = Instant::now();
        let (heard, later) = (Timestamp(5), Timestamp(9));
        let (told, news) = Told::Live.next(false, now, heard);
        assert_eq!(news, None);
        let (told, news) = told.next(false, now + STALE_AFTER / 2, later);
        assert_eq!(news, None);
        assert_eq!(told.next(true, now, later), (Told::Live, None));
        let (told, news) = told.next(false, now + STALE_AFTER, later);
        assert_eq!((told, news), (Told::Stale, Some(Tell::Stale(heard))));
        assert_eq!(told.next(false, now, later), (Told::Stale, None));
        assert_eq!(told.next(true, now, later), (Told::Live, Some(Tell::Live)));
    }

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
