//! Tells the application who came to a channel and who left it, where a function or a webhook is defined for that.
//!
//! Owns the order: what one user does on one channel is told one after the other, and many are told at the same time.
//! Promises: nobody waits for it; what it cannot keep up with is counted and lost, by the queue in the hub.

use std::{
    hash::{BuildHasher, RandomState},
    sync::Arc,
};

use rowcast_hub::Turning;
use rowcast_model::AskError;
use tokio::sync::mpsc;

use crate::{Application, ws::Shared};

/// Comings and goings that wait in the hub.
pub const WAITING: usize = 4096;
/// Told at the same time.
const LANES: usize = 8;
/// That wait for each of these.
const IN_LANE: usize = 16;

/// Runs until the gateway stops.
pub(crate) async fn run(shared: Arc<Shared>, application: Arc<dyn Application>) {
    let mut news = shared.hub.presence_news(WAITING);
    let lanes: Vec<mpsc::Sender<Turning>> = (0..LANES)
        .map(|_| {
            let (give, take) = mpsc::channel(IN_LANE);
            let (shared, application) = (shared.clone(), application.clone());
            let tracked = shared.sockets.clone();
            // A question that is under way when the gateway stops is given its time.
            tracked.spawn(lane(shared, application, take));
            give
        })
        .collect();
    let hasher = RandomState::new();
    loop {
        let turning = tokio::select! {
            biased;
            () = shared.stopping.cancelled() => return,
            turning = news.recv() => turning,
        };
        let Some(turning) = turning else { return };
        let whose = hasher.hash_one((&turning.news.topic, &turning.news.who));
        let at = usize::try_from(whose % LANES as u64).unwrap_or(0);
        let Some(lane) = lanes.get(at) else { continue };
        tokio::select! {
            () = shared.stopping.cancelled() => return,
            sent = lane.send(turning) => drop(sent),
        }
    }
}

async fn lane(
    shared: Arc<Shared>,
    application: Arc<dyn Application>,
    mut turnings: mpsc::Receiver<Turning>,
) {
    loop {
        let turning = tokio::select! {
            biased;
            () = shared.stopping.cancelled() => return,
            turning = turnings.recv() => turning,
        };
        let Some(turning) = turning else { return };
        let Some(question) = shared.hub.presence_question(&turning) else {
            continue;
        };
        let outcome = match application.clone().ask(question).await {
            Ok(_) => "ok",
            Err(AskError::Refused(_)) => "refused",
            Err(error) => error.code(),
        };
        shared.metrics.client_event(outcome);
    }
}
