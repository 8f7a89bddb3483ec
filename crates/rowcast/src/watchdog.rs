//! Looks after the replication slot: what it keeps on the server's disk, and whether it can still be used.
//!
//! Asks the server every ten seconds, over a connection of its own, and does what [`decision`] says. It does
//! not need the stream to move: a reader that stands still is the reason it is there.

use std::time::Duration;

use prometheus_client::{
    metrics::{counter::Counter, gauge::Gauge},
    registry::Registry,
};
use rowcast_source::{AckHandle, ConnInfo, SourceError};
use tokio_util::sync::CancellationToken;

pub mod decision;

pub use decision::Policy;
use decision::{Alarm, SlotFacts, decide};

/// Between two looks.
const INTERVAL: Duration = Duration::from_secs(10);
/// The stream may come back between the end of its connection and the drop: then again.
const DROP_ATTEMPTS: u32 = 20;

/// What is known of the slot, for whoever watches the service.
#[derive(Clone, Debug, Default)]
pub struct WatchdogMetrics {
    retained: Gauge,
    safe: Gauge,
    alarm: Gauge,
    drops: Counter,
}

impl WatchdogMetrics {
    /// Makes and registers them.
    pub fn new(registry: &mut Registry) -> WatchdogMetrics {
        let metrics = WatchdogMetrics::default();
        registry.register(
            "slot_retained_bytes",
            "Bytes of log that the replication slot keeps on the server's disk",
            metrics.retained.clone(),
        );
        registry.register(
            "slot_safe_bytes",
            "Bytes of log that may be written before the slot is lost; -1: without limit",
            metrics.safe.clone(),
        );
        registry.register(
            "slot_alarm",
            "1 while something is the matter with the replication slot; the service's log says what",
            metrics.alarm.clone(),
        );
        registry.register(
            "slot_drops",
            "Times the slot was dropped because it kept more log than replication.wal_limit",
            metrics.drops.clone(),
        );
        metrics
    }

    fn saw(&self, slot: Option<&SlotFacts>, alarm: Option<&Alarm>) {
        let number = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        self.retained
            .set(slot.map_or(0, |slot| number(slot.retained)));
        self.safe
            .set(slot.and_then(|slot| slot.safe).map_or(-1, number));
        self.alarm.set(i64::from(alarm.is_some()));
    }
}

/// The slot and what is to be done about it.
pub struct Watchdog {
    /// Where to ask.
    pub sql: ConnInfo,
    /// Name of the slot.
    pub slot: String,
    /// What the owner of the database wants.
    pub policy: Policy,
    /// Told how much of the past may be left.
    pub ack: AckHandle,
    /// What is counted.
    pub metrics: WatchdogMetrics,
}

impl Watchdog {
    /// Looks until stopped.
    pub async fn run(self, stop: CancellationToken) {
        let mut tick = tokio::time::interval(INTERVAL);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut said: Option<&'static str> = None;
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                () = stop.cancelled() => return,
            }
            let looked = tokio::select! {
                looked = tokio::time::timeout(INTERVAL, self.look(&mut said)) => looked,
                () = stop.cancelled() => return,
            };
            match looked {
                Ok(Ok(())) => {}
                // Whoever reads the log says so more loudly.
                Ok(Err(error)) => {
                    tracing::debug!(code = error.code(), "the slot cannot be looked at: {error}");
                }
                Err(_) => tracing::debug!("the slot cannot be looked at: no answer"),
            }
        }
    }

    async fn look(&self, said: &mut Option<&'static str>) -> Result<(), SourceError> {
        let sql = self.sql.connect("rowcast watchdog").await?;
        let failed = |error: tokio_postgres::Error| self.sql.explain(&error);
        let found = sql.query_opt(FACTS, &[&self.slot]).await.map_err(failed)?;
        let number = |bytes: i64| u64::try_from(bytes).unwrap_or(0);
        let facts = found.map(|row| SlotFacts {
            wal_status: row.get("wal_status"),
            invalidation: row.get("invalidation"),
            retained: number(row.get("retained")),
            safe: row.get::<_, Option<i64>>("safe").map(number),
            keep_size: row.get::<_, Option<i64>>("keep_size").map(number),
        });
        let decision = decide(facts.as_ref(), self.policy);
        self.metrics.saw(facts.as_ref(), decision.alarm.as_ref());
        self.ack.leave_at_most(decision.leave_at_most);
        let code = decision.alarm.as_ref().map(|alarm| alarm.code);
        if *said != code {
            match &decision.alarm {
                Some(alarm) => tracing::warn!(code = alarm.code, "{}", alarm.what),
                None => tracing::info!("the replication slot is well again"),
            }
            *said = code;
        }
        if decision.drop {
            let limit = i64::try_from(self.policy.limit.unwrap_or_default()).unwrap_or(i64::MAX);
            for _ in 0..DROP_ATTEMPTS {
                sql.query(END_READER, &[&self.slot]).await.map_err(failed)?;
                if let Ok(dropped) = sql.query(DROP, &[&self.slot, &limit]).await {
                    if !dropped.is_empty() {
                        self.metrics.drops.inc();
                        tracing::warn!(code = "slot_dropped", slot = %self.slot,
                            "dropped the replication slot: it kept more log than replication.wal_limit");
                    }
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}

/// Columns that older servers do not have are null this way.
const FACTS: &str = "
SELECT coalesce(s.wal_status, 'lost') AS wal_status,
       coalesce(nullif(to_jsonb(s) ->> 'invalidation_reason', ''),
                CASE WHEN (to_jsonb(s) ->> 'conflicting')::bool THEN 'conflict' END) AS invalidation,
       coalesce(pg_wal_lsn_diff(pg_current_wal_lsn(), s.restart_lsn), 0)::bigint AS retained,
       s.safe_wal_size AS safe,
       (SELECT nullif(setting::bigint, -1) * 1024 * 1024 FROM pg_settings
        WHERE name = 'max_slot_wal_keep_size') AS keep_size
FROM pg_replication_slots s
WHERE s.slot_name = $1 AND s.database = current_database() AND s.plugin = 'pgoutput'";

const END_READER: &str = "
SELECT pg_terminate_backend(active_pid, 5000) FROM pg_replication_slots
WHERE slot_name = $1 AND database = current_database() AND plugin = 'pgoutput' AND active_pid IS NOT NULL";

/// Looks again: another process may have been faster.
const DROP: &str = "
SELECT pg_drop_replication_slot(slot_name)::text FROM pg_replication_slots
WHERE slot_name = $1 AND database = current_database() AND plugin = 'pgoutput'
  AND pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn) > $2::bigint";
