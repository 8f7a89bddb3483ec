//! Does to the arena what the plan says, and puts everything back to where it can recover.

use std::{
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use rowcast_embedded::StopMode;
use tokio::time::sleep;

use super::{
    app::LEAVING,
    arena::{Arena, PATIENCE},
    failover,
    plan::{Fault, Kind},
    proxy::{Proxy, Weather},
    slots,
    subscriber::{Handle, Order},
};
use crate::harness::server::Server;

/// One fault from beginning to end; behind it everything is there to recover. `Err` says what went wrong
/// that must not.
pub async fn run(arena: Arc<Arena>, fault: Fault) -> Result<(), String> {
    sleep(Duration::from_millis(fault.after_ms)).await;
    let lasts = Duration::from_millis(fault.lasts_ms);
    let Fault { kind, chance, .. } = fault;
    match kind {
        Kind::ServiceKilled => service_restarts(&arena, lasts, true).await,
        Kind::ServiceTerminated => service_restarts(&arena, lasts, false).await,
        Kind::StandbyTakesOver => standby_takes_over(&arena, chance % 2 == 0).await,
        Kind::OldServiceComesBack => old_service_comes_back(&arena, chance % 2 == 0).await,
        Kind::PostgresCrashes => postgres_restarts(&arena, lasts, None).await,
        Kind::PostgresRestarts => {
            let mode = [StopMode::Fast, StopMode::Immediate][chance as usize % 2];
            postgres_restarts(&arena, lasts, Some(mode)).await
        }
        Kind::BackendKilled => backend_killed(&arena).await,
        Kind::StreamTerminated => {
            arena
                .insist(
                    "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE active",
                )
                .await
        }
        Kind::BackendsTerminated => {
            arena
                .insist("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'rowcast%' OR backend_type = 'walsender'")
                .await
        }
        Kind::DatabaseLineCut
        | Kind::DatabaseLineHangs
        | Kind::DatabaseLineDelayed
        | Kind::DatabaseLineThrottled => {
            let line = arena.line.lock().unwrap().clone();
            under(&[line], weather(kind, chance), lasts).await;
            Ok(())
        }
        Kind::ClientLineCut
        | Kind::ClientLineHangs
        | Kind::ClientLineDelayed
        | Kind::ClientLineThrottled => {
            let lines: Vec<Arc<Proxy>> = victims(&arena, chance, |of| of.line.clone());
            under(&lines, weather(kind, chance), lasts).await;
            Ok(())
        }
        Kind::ClientStalls => clients_stall(&arena, chance, lasts).await,
        Kind::ClientReconnects => order(&arena, chance, |_| Order::Reconnect),
        Kind::ClientOldCursor => order(&arena, chance, Order::OldCursor),
        Kind::ClientForgedCursor => order(&arena, chance, Order::Forge),
        Kind::SlotDropped => slots::dropped(&arena).await,
        Kind::SlotInvalidated => slots::invalidated(&arena).await,
        Kind::DiskBudgetHit => slots::disk_budget_hit(&arena, chance).await,
        Kind::StandbyPromoted => failover::standby_promoted(&arena).await,
        Kind::FailoverSlotPromoted => failover::failover_slot_promoted(&arena, chance).await,
        Kind::TableAltered => table_altered(&arena, chance).await,
        Kind::MembershipChanges => membership_changes(&arena, lasts).await,
        Kind::LargeTransaction => large_transaction(&arena, chance).await,
    }
}

fn weather(kind: Kind, chance: u64) -> Weather {
    match kind {
        Kind::DatabaseLineCut | Kind::ClientLineCut => Weather::Cut,
        Kind::DatabaseLineHangs | Kind::ClientLineHangs => Weather::Hung,
        Kind::DatabaseLineDelayed | Kind::ClientLineDelayed => {
            Weather::Delayed(Duration::from_millis(20 + chance % 180))
        }
        _ => Weather::Throttled(30_000 + chance % 200_000),
    }
}

async fn under(lines: &[Arc<Proxy>], weather: Weather, lasts: Duration) {
    lines.iter().for_each(|line| line.set(weather));
    sleep(lasts).await;
    lines.iter().for_each(|line| line.set(Weather::Clear));
}

/// Some of the subscribers, at least one.
fn victims<T>(arena: &Arena, chance: u64, take: impl Fn(&Handle) -> T) -> Vec<T> {
    let subscribers = arena.subscribers.lock().unwrap();
    let first = (chance >> 8) as usize % subscribers.len();
    subscribers
        .iter()
        .enumerate()
        .filter(|(i, _)| *i == first || chance >> (16 + i) & 1 == 1)
        .map(|(_, of)| take(of))
        .collect()
}

fn order(arena: &Arena, chance: u64, order: impl Fn(u64) -> Order) -> Result<(), String> {
    victims(arena, chance, |of| {
        // The subscriber lives as long as the run.
        let _ = of.orders.send(order(chance >> 32));
    });
    Ok(())
}

async fn service_restarts(arena: &Arena, lasts: Duration, hard: bool) -> Result<(), String> {
    let mut service = arena.service.lock().await;
    arena.forget(&service);
    let ended = end(&mut service.server, hard).await;
    sleep(lasts).await;
    *service = arena.launch().await;
    arena.now_served_by(&service);
    ended
}

/// Ends a service with -9, or politely and in time.
pub async fn end(server: &mut Server, hard: bool) -> Result<(), String> {
    if hard {
        server.kill();
        return Ok(());
    }
    server.terminate();
    let begin = Instant::now();
    let status = loop {
        if let Some(status) = server.ended() {
            break status;
        }
        if begin.elapsed() > Duration::from_secs(20) {
            server.kill();
            return Err("SIGTERM does not end the service within 20 s".into());
        }
        sleep(Duration::from_millis(10)).await;
    };
    match status.success() {
        true => Ok(()),
        false => Err(format!(
            "SIGTERM ends the service with {status}\n{}",
            server.log()
        )),
    }
}

/// A second service waits; the first goes.
async fn standby_takes_over(arena: &Arena, hard: bool) -> Result<(), String> {
    let mut service = arena.service.lock().await;
    // The first one has to have the slot, or the second takes it at once.
    until_ready("the first service is ready", &service.server).await?;
    let second = arena.launch().await;
    sleep(Duration::from_millis(300)).await;
    arena.forget(&service);
    let ended = end(&mut service.server, hard).await;
    *service = second;
    arena.now_served_by(&service);
    until_ready("the standby takes over", &service.server).await?;
    ended
}

/// The line of the service hangs for so long that the standby takes over. Then it comes back, is a standby
/// itself, and takes over again when the other one goes: it must not go on where it stood.
async fn old_service_comes_back(arena: &Arena, hard: bool) -> Result<(), String> {
    let service = arena.service.lock().await;
    until_ready("the first service is ready", &service.server).await?;
    let mut second = arena.launch().await;
    service.line.set(Weather::Hung);
    let taken = until_ready("the standby takes over", &second.server).await;
    sleep(Duration::from_millis(500)).await;
    service.line.set(Weather::Clear);
    let one = match taken.is_ok() {
        true => only_one_is_ready(&service.server, &second.server).await,
        false => Ok(()),
    };
    arena.forget(&second);
    let ended = end(&mut second.server, hard).await;
    taken?;
    until_ready("the old service takes over again", &service.server).await?;
    one.and(ended)
}

/// The old service learns that its stream has ended when the line is clear again: within the time in which everybody
/// learns that. From then on one of the two says that it is ready, and not the other.
async fn only_one_is_ready(old: &Server, new: &Server) -> Result<(), String> {
    let begin = Instant::now();
    let mut since = begin;
    while since.elapsed() < Duration::from_millis(1500) {
        if old.is_ready().await && new.is_ready().await {
            since = Instant::now();
        }
        if since.duration_since(begin) > Duration::from_secs(10) {
            let (old, new) = (old.log(), new.log());
            return Err(format!(
                "two services on one slot say that they are ready\n{old}\nthe other:\n{new}"
            ));
        }
        sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

pub async fn until_ready(what: &str, server: &Server) -> Result<(), String> {
    let begin = Instant::now();
    while !server.is_ready().await {
        if begin.elapsed() > PATIENCE {
            return Err(format!("{what}: never came true\n{}", server.log()));
        }
        sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

async fn postgres_restarts(
    arena: &Arena,
    lasts: Duration,
    mode: Option<StopMode>,
) -> Result<(), String> {
    let mut cluster = arena.cluster.lock().await;
    let begin = Instant::now();
    let stopped = tokio::task::block_in_place(|| match mode {
        Some(mode) => cluster.stop(mode),
        None => {
            cluster.kill();
            Ok(())
        }
    });
    let took = begin.elapsed();
    if stopped.is_err() {
        cluster.kill();
    }
    sleep(lasts).await;
    tokio::task::block_in_place(|| cluster.start_again()).map_err(|error| error.to_string())?;
    stopped.map_err(|error| error.to_string())?;
    match took < Duration::from_secs(15) {
        true => Ok(()),
        false => Err(format!(
            "Postgres needed {took:?} to stop ({mode:?}): something held it"
        )),
    }
}

/// `kill -9` of the walsender: Postgres ends all sessions and recovers.
async fn backend_killed(arena: &Arena) -> Result<(), String> {
    let mut sql = arena.sql();
    let pid = sql
        .text("SELECT pid FROM pg_stat_activity WHERE backend_type IN ('walsender', 'autovacuum launcher') ORDER BY backend_type DESC LIMIT 1")
        .await
        .map_err(|error| error.to_string())?;
    if !pid.is_empty() {
        let _ = Command::new("kill").args(["-9", &pid]).status();
    }
    Ok(())
}

/// The victims do not read while more is written than their lines hold.
async fn clients_stall(arena: &Arena, chance: u64, lasts: Duration) -> Result<(), String> {
    let stalled = victims(arena, chance, |of| of.stall.clone());
    for stall in &stalled {
        stall.send_replace(true);
    }
    let mut sql = arena.sql();
    for part in 0..8 {
        // Postgres may be down by another fault; then there is less of it.
        let _ = sql
            .exec(&format!(
                "INSERT INTO ledger SELECT 's{chance}-{part}-' || g, (ARRAY['org_a', 'org_b', 'org_c'])[1 + {part} % 3], repeat('x', 4000) FROM generate_series(1, 300) g"
            ))
            .await;
    }
    sleep(lasts).await;
    for stall in &stalled {
        stall.send_replace(false);
    }
    Ok(())
}

async fn table_altered(arena: &Arena, chance: u64) -> Result<(), String> {
    let table = ["items", "notes", "alerts", "ledger"][(chance >> 8) as usize % 4];
    let change = match chance % 3 {
        0 => "ADD COLUMN IF NOT EXISTS spare int DEFAULT 7",
        1 => "ADD COLUMN IF NOT EXISTS more text",
        _ => "DROP COLUMN IF EXISTS spare, DROP COLUMN IF EXISTS more",
    };
    arena
        .insist(&format!(
            "SET lock_timeout = '2s'; ALTER TABLE {table} {change}"
        ))
        .await
}

async fn membership_changes(arena: &Arena, lasts: Duration) -> Result<(), String> {
    let (user, organization) = LEAVING;
    arena
        .insist(&format!(
            "DELETE FROM rowcast.memberships WHERE user_id = '{user}' AND organization_id = '{organization}'"
        ))
        .await?;
    sleep(lasts).await;
    arena
        .insist(&format!(
            "INSERT INTO rowcast.memberships (user_id, organization_id) VALUES ('{user}', '{organization}') ON CONFLICT DO NOTHING"
        ))
        .await
}

/// Thousands of rows of all organizations in one transaction, which one query is, with one statement above `max_rows`.
async fn large_transaction(arena: &Arena, chance: u64) -> Result<(), String> {
    let insert = |from: usize, to: usize| {
        format!(
            "INSERT INTO ledger SELECT 't{chance}-' || g, (ARRAY['org_a', 'org_b', 'org_c'])[1 + g % 3], 'many' FROM generate_series({from}, {to}) g ON CONFLICT DO NOTHING;"
        )
    };
    let many = match chance % 3 {
        0 => insert(10_000, 21_000),
        _ => String::new(),
    };
    let (first, second) = (insert(1, 3000), insert(3001, 6000));
    arena
        .insist(&format!(
            "{first} {many} UPDATE items SET n = n + 1; {second}"
        ))
        .await
}
