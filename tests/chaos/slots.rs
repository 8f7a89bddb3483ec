//! What happens to the slot of the service: dropped, lost, over the budget of disk that the DBA gave it.

use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::{
    app::connect,
    arena::{Arena, BUDGET, PATIENCE},
    faults::until_ready,
    proxy::Weather,
};
use crate::harness::server::Server;

/// The slot is dropped by hand, in the moment between two readers.
pub async fn dropped(arena: &Arena) -> Result<(), String> {
    let slot = arena.database.slot();
    let mut sql = arena.sql();
    let begin = Instant::now();
    loop {
        let _ = sql
            .exec("SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE active")
            .await;
        let dropped = sql
            .exec(&format!("SELECT pg_drop_replication_slot('{slot}')"))
            .await;
        match dropped {
            Ok(()) => return Ok(()),
            Err(error) if begin.elapsed() > PATIENCE => {
                return Err(format!("cannot drop the slot: {error:?}"));
            }
            Err(_) => sleep(Duration::from_millis(10)).await,
        }
    }
}

/// The log that the slot needs goes beyond what the DBA allows.
pub async fn invalidated(arena: &Arena) -> Result<(), String> {
    let line = arena.line.lock().unwrap().clone();
    let slot = arena.database.slot();
    let status = format!("SELECT wal_status FROM pg_replication_slots WHERE slot_name = '{slot}'");
    let text = |error: tokio_postgres::Error| error.to_string();
    let mut sql = arena.sql();
    sql.exec("ALTER SYSTEM SET max_slot_wal_keep_size = '1MB'")
        .await
        .map_err(text)?;
    sql.exec("SELECT pg_reload_conf()").await.map_err(text)?;
    line.set(Weather::Cut);
    let begin = Instant::now();
    let mut lost = false;
    while !lost && begin.elapsed() < Duration::from_secs(20) {
        let _ = sql
            .exec("INSERT INTO untracked (pad) SELECT repeat('x', 1000) FROM generate_series(1, 200); SELECT pg_switch_wal()")
            .await;
        let _ = sql.exec("CHECKPOINT").await;
        lost = sql.text(&status).await.is_ok_and(|text| text == "lost");
    }
    line.set(Weather::Clear);
    arena
        .insist("ALTER SYSTEM RESET max_slot_wal_keep_size")
        .await?;
    arena.insist("SELECT pg_reload_conf()").await?;
    arena.insist("TRUNCATE untracked").await?;
    match lost {
        true => Ok(()),
        false => Err("the slot cannot be made to be lost".into()),
    }
}

/// The slot keeps more log than the DBA allows, while its reader is held up: by a transaction that somebody
/// left open, or by a line too narrow for what is written. The service looks, and does what the DBA chose.
pub async fn disk_budget_hit(arena: &Arena, chance: u64) -> Result<(), String> {
    let service = arena.service.lock().await;
    until_ready("the service is ready", &service.server).await?;
    let text = |error: tokio_postgres::Error| error.to_string();
    let (before, drops) = (epoch(&service.server), drops(&service.server).await);
    let left_open = connect(&arena.database.url).await.map_err(text)?;
    match chance % 2 {
        0 => left_open
            .batch_execute("BEGIN; INSERT INTO untracked (pad) VALUES ('left open')")
            .await
            .map_err(text)?,
        _ => {
            service.line.set(Weather::Throttled(60_000));
            arena
                .insist(&format!(
                    "INSERT INTO ledger SELECT 'd{chance}-' || g, 'org_a', repeat('x', 4000) FROM generate_series(1, 6000) g ON CONFLICT DO NOTHING"
                ))
                .await?;
        }
    }
    let mut sql = arena.sql();
    for _ in 0..BUDGET / (16 << 20) + 1 {
        sql.exec(
            "INSERT INTO untracked (pad) SELECT repeat('x', 1000) FROM generate_series(1, 16384)",
        )
        .await
        .map_err(text)?;
    }
    let begin = Instant::now();
    let mut done = false;
    while !done && begin.elapsed() < PATIENCE {
        sleep(Duration::from_millis(50)).await;
        done = self::drops(&service.server).await > drops;
    }
    service.line.set(Weather::Clear);
    drop(left_open);
    arena.insist("TRUNCATE untracked").await?;
    if !done {
        return Err("the slot keeps more than the budget, and is not dropped".into());
    }
    another_epoch(&service.server, before.as_deref()).await
}

/// How often the watchdog of a service dropped the slot.
async fn drops(server: &Server) -> u64 {
    let (_, metrics) = server.get("/metrics").await.unwrap_or_default();
    let line = |line: &str| {
        line.strip_prefix("rowcast_slot_drops_total ")?
            .trim()
            .parse()
            .ok()
    };
    metrics.lines().find_map(line).unwrap_or(0)
}

/// The epoch that a service told last in its log.
pub fn epoch(server: &Server) -> Option<String> {
    let log = server.log();
    let line = log
        .lines()
        .rev()
        .find(|line| line.contains(" streaming slot="))?;
    Some(line.split_once(" epoch=")?.1.to_owned())
}

/// Waits until the service streams again, and says that positions of before mean nothing any more.
pub async fn another_epoch(server: &Server, before: Option<&str>) -> Result<(), String> {
    let begin = Instant::now();
    loop {
        let now = epoch(server);
        if now.is_some() && now.as_deref() != before {
            return Ok(());
        }
        if begin.elapsed() > PATIENCE {
            return Err(format!(
                "the epoch is {before:?} as before\n{}",
                server.log()
            ));
        }
        sleep(Duration::from_millis(20)).await;
    }
}
