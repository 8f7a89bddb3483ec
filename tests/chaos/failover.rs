//! The primary is lost, and a standby takes its place: without the slot, or with a copy of it.

use std::time::{Duration, Instant};

use rowcast_embedded::{Cluster, EmbeddedError, Options};
use tokio::time::sleep;

use super::{
    app::{Database, connect},
    arena::{Arena, PATIENCE, SETTINGS},
    faults::{end, until_ready},
    slots::{another_epoch, epoch},
};
use crate::harness::postgres;

/// Another timeline, without our slot.
pub async fn standby_promoted(arena: &Arena) -> Result<(), String> {
    let service = arena.service.lock().await;
    until_ready("the service is ready", &service.server).await?;
    let before = epoch(&service.server);
    let mut cluster = arena.cluster.lock().await;
    let standby = follow(&mut cluster, &[]).await?;
    promote(arena, &mut cluster, standby).await?;
    another_epoch(&service.server, before.as_deref()).await
}

/// Another timeline, with the copy of our slot that PostgreSQL 17 keeps on standbys: the service goes on with it,
/// and nobody goes on with a cursor of before. By chance the old primary told nothing that the standby had
/// not got (`synchronized_standby_slots`).
pub async fn failover_slot_promoted(arena: &Arena, chance: u64) -> Result<(), String> {
    let mut service = arena.service.lock().await;
    // A copy is only made when the slot is near the end of the log.
    arena.forget(&service);
    end(&mut service.server, chance.is_multiple_of(3)).await?;
    *service = arena
        .launch_with(&[("ROWCAST__HISTORY__RETENTION", "1 s")])
        .await;
    arena.now_served_by(&service);
    let mut cluster = arena.cluster.lock().await;
    arena
        .insist("SELECT pg_create_physical_replication_slot('standby', true) WHERE NOT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = 'standby')")
        .await?;
    let primary = format!(
        "host=127.0.0.1 port={} user=postgres dbname=postgres application_name=standby",
        cluster.port()
    );
    let copying = [
        ("sync_replication_slots", "on"),
        ("hot_standby_feedback", "on"),
        ("primary_slot_name", "standby"),
        ("primary_conninfo", &primary),
    ];
    let standby = follow(&mut cluster, &copying).await?;
    if chance & 1 == 0 {
        arena
            .insist("ALTER SYSTEM SET synchronized_standby_slots = 'standby'")
            .await?;
        arena.insist("SELECT pg_reload_conf()").await?;
    }
    let slot = arena.database.slot();
    let copied = format!(
        "SELECT (synced AND NOT temporary AND invalidation_reason IS NULL)::text FROM pg_replication_slots WHERE slot_name = '{slot}'"
    );
    let mut there = Database::new(&standby.url("postgres"));
    let begin = Instant::now();
    while !there.text(&copied).await.is_ok_and(|text| text == "true") {
        if begin.elapsed() > PATIENCE {
            return Err("the standby has no copy of the slot".into());
        }
        // What is in the log of running transactions lets the slot move on.
        arena.insist("CHECKPOINT").await?;
        sleep(Duration::from_millis(100)).await;
    }
    until_ready("the service is ready", &service.server).await?;
    let before = epoch(&service.server);
    promote(arena, &mut cluster, standby).await?;
    another_epoch(&service.server, before.as_deref()).await?;
    // One that was made anew is no copy.
    match arena.sql().text(&copied).await {
        Ok(text) if text == "true" => Ok(()),
        other => Err(format!(
            "the service does not go on with the copied slot: {other:?}"
        )),
    }
}

/// Makes a standby, and waits until it has everything.
async fn follow(cluster: &mut Cluster, settings: &[(&str, &str)]) -> Result<Cluster, String> {
    let text = |error: EmbeddedError| error.to_string();
    let options = SETTINGS.iter().chain(settings).fold(
        Options {
            major: postgres::major(),
            ..Options::default()
        },
        |options, (name, value)| options.set(name, value),
    );
    let standby =
        tokio::task::block_in_place(|| cluster.start_standby("standby", options)).map_err(text)?;
    let mut sql = Database::new(&cluster.url("postgres"));
    let begin = Instant::now();
    let streaming = "SELECT (state = 'streaming')::text FROM pg_stat_replication WHERE application_name = 'standby'";
    while !sql.text(streaming).await.is_ok_and(|text| text == "true") {
        if begin.elapsed() > PATIENCE {
            return Err("the standby does not follow".into());
        }
        sleep(Duration::from_millis(20)).await;
    }
    Ok(standby)
}

/// The primary dies; what the standby has not got by now is lost for all.
async fn promote(arena: &Arena, cluster: &mut Cluster, mut standby: Cluster) -> Result<(), String> {
    tokio::task::block_in_place(|| cluster.kill());
    std::mem::swap(cluster, &mut standby);
    let promote = connect(&cluster.url("postgres")).await;
    let promote = promote.map_err(|error| error.to_string())?;
    promote
        .batch_execute("SELECT pg_promote()")
        .await
        .map_err(|error| error.to_string())?;
    arena
        .front
        .0
        .set(Some(([127, 0, 0, 1], cluster.port()).into()));
    tokio::task::block_in_place(|| drop(standby));
    Ok(())
}
