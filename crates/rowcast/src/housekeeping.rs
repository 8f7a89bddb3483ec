//! What has to be done now and then beside the stream: old table events, partitions, the publication.
//! Nothing here stops the service; what fails is said and tried again.

use std::time::Duration;

use rowcast_source::ConnInfo;
use tokio_util::sync::CancellationToken;

/// Brings the publication in step with the tracked tables. `false`: it could not be done.
pub async fn sync_publication(sql: &ConnInfo) -> bool {
    call(sql, "SELECT rowcast.sync_publication()").await
}

/// Calls `rowcast.maintain()` until stopped.
pub async fn run(sql: ConnInfo, interval: Duration, stop: CancellationToken) {
    let mut tick = tokio::time::interval(interval.max(Duration::from_secs(1)));
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = stop.cancelled() => return,
        }
        call(&sql, "SELECT rowcast.maintain()").await;
    }
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
