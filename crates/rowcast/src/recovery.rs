//! The past before the one in memory: notes places in the log, and answers the hub from
//! `realtime_table_events` which records changed since.
//!
//! Promises: one question at a time, however many come back; each bounded in time and in bytes; what fails
//! is no answer, and then clients are told to read again. [`choice`] says from where it can be told what
//! changed, [`query`] asks, and who may hear of it is decided by routing and the hub.

mod choice;
mod query;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use rowcast_hub::Hub;
use rowcast_source::{ConnInfo, SourceError, SourceStatus};
use tokio::{sync::watch, task::JoinHandle};
use tokio_postgres::{Client, types::Type};
use tokio_util::sync::CancellationToken;

use self::query::Bounds;
use crate::config::Config;

/// How long one answer may take.
const DEADLINE: Duration = Duration::from_secs(5);
/// Pause between two questions, at most: as long as the one before took.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// One organization's part of the memory for answers.
const PART: usize = 16;

/// Whether such answers are given. Without the barrier an event may have been handed on that a query does
/// not see yet.
pub fn is_on(config: &Config) -> bool {
    !config.history.invalidations.0.is_zero() && config.replication.visibility_barrier
}

/// Starts both tasks, if they are wanted.
pub fn start(
    config: &Config,
    sql: &ConnInfo,
    hub: &Arc<Hub>,
    status: watch::Receiver<SourceStatus>,
    stop: &CancellationToken,
) -> Vec<JoinHandle<()>> {
    if !is_on(config) {
        return Vec::new();
    }
    let total = config.history.invalidations_bytes.as_usize();
    let bounds = Bounds {
        window: config.history.invalidations.0,
        total,
        organization: total / PART,
    };
    let interval = config.history.invalidations_interval.0;
    let interval = interval.max(Duration::from_millis(100));
    vec![
        tokio::spawn(note(sql.clone(), status, interval, stop.clone())),
        tokio::spawn(answer(sql.clone(), Arc::clone(hub), bounds, stop.clone())),
    ]
}

/// Answers the hub until stopped.
async fn answer(sql: ConnInfo, hub: Arc<Hub>, bounds: Bounds, stop: CancellationToken) {
    loop {
        let wanted = tokio::select! {
            wanted = hub.recovery_wanted() => wanted,
            () = stop.cancelled() => return,
        };
        let begun = Instant::now();
        let asking = Box::pin(query::answer(&sql, &wanted, &bounds));
        let answers = match tokio::time::timeout(DEADLINE, asking).await {
            Ok(Ok(answers)) => answers,
            Ok(Err(error)) => {
                tracing::warn!(code = error.code(), "what changed cannot be told: {error}");
                Vec::new()
            }
            Err(_) => {
                tracing::warn!("what changed cannot be told: no answer within {DEADLINE:?}");
                Vec::new()
            }
        };
        tracing::debug!(
            asked = wanted.organizations.len(),
            answered = answers.len(),
            "asked what changed"
        );
        hub.recover(answers);
        // Whoever comes meanwhile is answered together.
        tokio::select! {
            () = tokio::time::sleep(begun.elapsed().min(LONGEST_PAUSE)) => {}
            () = stop.cancelled() => return,
        }
    }
}

/// Notes where the log is while it is read, until stopped.
async fn note(
    sql: ConnInfo,
    mut status: watch::Receiver<SourceStatus>,
    interval: Duration,
    stop: CancellationToken,
) {
    let mut client: Option<Client> = None;
    loop {
        let epoch = match &*status.borrow_and_update() {
            SourceStatus::Streaming { epoch } => Some(*epoch),
            _ => None,
        };
        if let Some(epoch) = epoch {
            let noting = note_once(&sql, &mut client, i64::from(epoch.0));
            let noted = tokio::time::timeout(DEADLINE, noting).await;
            let failed = match noted {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(error),
                Err(_) => Some(SourceError::Connection("no answer within 5 s".into())),
            };
            if let Some(error) = failed {
                client = None;
                tracing::warn!(
                    code = error.code(),
                    "the place in the log is not noted: {error}"
                );
            }
        }
        tokio::select! {
            () = tokio::time::sleep(interval) => {}
            _ = status.changed() => {}
            () = stop.cancelled() => return,
        }
    }
}

async fn note_once(
    sql: &ConnInfo,
    client: &mut Option<Client>,
    epoch: i64,
) -> Result<(), SourceError> {
    let open = client.take().filter(|client| !client.is_closed());
    let open = match open {
        Some(open) => open,
        None => sql.connect("rowcast positions").await?,
    };
    open.query_typed("SELECT rowcast.note_position($1)", &[(&epoch, Type::INT8)])
        .await
        .map_err(|error| sql.explain(&error))?;
    *client = Some(open);
    Ok(())
}
