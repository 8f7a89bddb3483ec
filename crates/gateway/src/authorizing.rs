//! Takes the questions of the hub about who may be on a channel to the application, and the answers back. No socket
//! waits for another, and the hub for none.

use std::{sync::Arc, time::Duration};

use rowcast_hub::{Hub, Ticket};
use rowcast_model::AskError;
use serde_json::value::RawValue;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::Application;

/// Questions at a time; the application has limits of its own.
const AT_ONCE: usize = 64;

type Answer = (Ticket, Result<Box<RawValue>, AskError>);

/// Asks until it is told to stop.
pub(crate) async fn run(
    hub: Arc<Hub>,
    application: Option<Arc<dyn Application>>,
    stopping: CancellationToken,
) {
    let mut under_way: JoinSet<Answer> = JoinSet::new();
    loop {
        let room = AT_ONCE - under_way.len();
        let (questions, next) = hub.questions(room);
        for asked in questions {
            match &application {
                Some(application) => {
                    let asking = application.clone().ask(asked.question);
                    under_way.spawn(async move { (asked.ticket, asking.await) });
                }
                None => hub.answered(asked.ticket, Err(&AskError::Failed)),
            }
        }
        let full = under_way.len() >= AT_ONCE;
        let wait = next.unwrap_or(Duration::MAX).min(Duration::from_secs(3600));
        tokio::select! {
            Some(ended) = under_way.join_next() => {
                if let Ok((ticket, answer)) = ended {
                    hub.answered(ticket, answer.as_deref());
                }
            }
            () = hub.questioned(), if !full => {}
            () = tokio::time::sleep(wait), if !full => {}
            () = stopping.cancelled() => return,
        }
    }
}
