//! What has to be done now and then beside the stream: old table events, partitions, the publication.
//! Nothing here stops the service; what fails is said and tried again.

use std::{sync::Arc, time::Duration};

use rowcast_gateway::KeysUsed;
use rowcast_source::{ConnInfo, SourceError};
use tokio_postgres::types::Type;
use tokio_util::sync::CancellationToken;

/// Brings the publication in step with the tracked tables. `false`: it could not be done.
pub async fn sync_publication(sql: &ConnInfo) -> bool {
    call(sql, "SELECT rowcast.sync_publication()").await
}

/// Calls `rowcast.maintain()` until stopped, and writes down which API keys were used.
pub async fn run(
    sql: ConnInfo,
    interval: Duration,
    keys_used: Arc<KeysUsed>,
    stop: CancellationToken,
) {
    let mut tick = tokio::time::interval(interval.max(Duration::from_secs(1)));
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = stop.cancelled() => return,
        }
        call(&sql, "SELECT rowcast.maintain()").await;
        let used = keys_used.take();
        if !used.is_empty()
            && let Err(error) = note_used(&sql, &used).await
        {
            // It says when a key was used last, so nothing is lost but some minutes.
            tracing::warn!(
                code = error.code(),
                "the use of API keys cannot be noted: {error}"
            );
        }
    }
}

async fn note_used(sql: &ConnInfo, used: &[Arc<str>]) -> Result<(), SourceError> {
    let used: Vec<&str> = used.iter().map(|id| &**id).collect();
    let client = sql.connect("rowcast housekeeping").await?;
    client
        .query_typed(
            "SELECT rowcast.note_api_keys_used($1)",
            &[(&used, Type::TEXT_ARRAY)],
        )
        .await
        .map_err(|error| sql.explain(&error))?;
    Ok(())
}

/// A connection of its own each time: it is rarely needed, and an idle one may be cut off unnoticed.
async fn call(sql: &ConnInfo, statement: &str) -> bool {
    let result = match sql.connect("rowcast housekeeping").await {
        Ok(client) => client
            .batch_execute(statement)
            .await
            .map_err(|error| sql.explain(&error)),
        Err(error) => Err(error),
    };
    match result {
        Ok(()) => true,
        Err(error) => {
            tracing::warn!(code = error.code(), "{statement}: {error}");
            false
        }
    }
}
