//! What Rowcast's triggers cost the application: the same inserts into a tracked and an untracked table.
//!
//! No service runs: this is the price the application pays, whoever reads. Both tables are written in
//! turns, the second time in the reverse order: after a checkpoint the log first fills old files and then
//! has to make new ones, so whoever is measured later is slower.

use std::time::{Duration, Instant};

use anyhow::Result;
use tokio_postgres::Client;

use crate::{
    database::{self, Database},
    report::{Figure, Goal},
};

const SINGLE_CLIENTS: usize = 4;
const BULK_ROWS: usize = 1000;

/// Measures `writes_single`, `writes_bulk` and `writes_bulk_log`.
pub async fn run(rounds: usize, window: Duration) -> Result<Vec<Figure>> {
    // fsync stays on: the commit's flush is part of what an application pays for a single row.
    let db = Database::start(&[("fsync", "on"), ("max_wal_size", "8GB")]).await?;
    let sql = db.client().await?;
    database::create_plain(&sql, "untracked").await?;
    database::create_plain(&sql, "by_table").await?;
    database::create_plain(&sql, "by_log").await?;
    sql.batch_execute(
        "select rowcast.track('by_table', storage => 'table');
         select rowcast.track('by_log', storage => 'log');",
    )
    .await?;

    let single = "insert into {t} (organization_id, title, body) values ('org_1', 'one row', repeat('x', 100))";
    let bulk = format!(
        "insert into {{t}} (organization_id, title, body)
         select 'org_1', 'row ' || i, repeat('x', 100) from generate_series(1, {BULK_ROWS}) i"
    );
    let mut clients = Vec::new();
    for _ in 0..SINGLE_CLIENTS {
        clients.push(db.client().await?);
    }
    let (mut singles, mut bulks, mut logs) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..=rounds {
        let one = &clients[..1];
        let (tracked, plain) = pair(&clients, single, "by_table", window).await?;
        let (table_bulk, plain_bulk) = pair(one, &bulk, "by_table", window).await?;
        let (log_bulk, plain_again) = pair(one, &bulk, "by_log", window).await?;
        // The first round warms caches and files.
        if round > 0 {
            singles.push((tracked, plain));
            let rows = BULK_ROWS as f64;
            bulks.push((table_bulk * rows, plain_bulk * rows));
            logs.push((log_bulk * rows, plain_again * rows));
        }
        sql.batch_execute(
            "truncate untracked, by_table, by_log; truncate public.realtime_table_events; checkpoint",
        )
        .await?;
    }
    Ok(vec![
        Figure::of(
            "writes_single",
            "rows/s",
            Goal::AtLeast(0.9),
            "4 clients insert single rows (fsync on, synchronous_commit on), tracked with storage => 'table' against untracked",
            &singles,
        ),
        Figure::of(
            "writes_bulk",
            "rows/s",
            Goal::AtLeast(0.5),
            "1,000-row inserts by one client, tracked with storage => 'table' against untracked",
            &bulks,
        ),
        Figure::of(
            "writes_bulk_log",
            "rows/s",
            Goal::AtLeast(0.8),
            "1,000-row inserts by one client, tracked with storage => 'log' against untracked",
            &logs,
        ),
    ])
}

/// Statements a second into `table` and into the untracked one, over `window` each, in four turns.
async fn pair(
    clients: &[Client],
    statement: &str,
    table: &str,
    window: Duration,
) -> Result<(f64, f64)> {
    let half = window / 2;
    let plain = rate(clients, statement, "untracked", half).await?;
    let ours = rate(clients, statement, table, half).await?;
    let ours_again = rate(clients, statement, table, half).await?;
    let plain_again = rate(clients, statement, "untracked", half).await?;
    Ok(((ours + ours_again) / 2.0, (plain + plain_again) / 2.0))
}

/// Statements a second over `window`, all clients together.
async fn rate(clients: &[Client], statement: &str, table: &str, window: Duration) -> Result<f64> {
    let text = statement.replace("{t}", table);
    let mut loops = Vec::new();
    for client in clients {
        let prepared = client.prepare(&text).await?;
        loops.push(async move {
            let (start, mut done) = (Instant::now(), 0u64);
            while start.elapsed() < window {
                client.execute(&prepared, &[]).await?;
                done += 1;
            }
            Ok::<f64, tokio_postgres::Error>(done as f64 / start.elapsed().as_secs_f64())
        });
    }
    let mut total = 0.0;
    for one in futures_util::future::join_all(loops).await {
        total += one?;
    }
    Ok(total)
}
