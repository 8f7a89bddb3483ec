//! How fast a backlog is read: the real service with one subscriber, against `pg_recvlogical` to /dev/null.
//!
//! Both read the same million rows from the same position over the unix socket. The service is stopped
//! (SIGSTOP) while the backlog is written, with its subscriber connected; the clock runs from its going on
//! until the last row is at the subscriber's socket.

use std::{
    path::PathBuf,
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context, Result, bail, ensure};
use tokio::{io::AsyncReadExt, net::TcpStream};

use crate::{
    database::{self, Database},
    report::{Figure, Goal},
    service::{SECRET, Service},
    sockets,
};

/// Measures `reader_1row` and `reader_1000row`.
pub async fn run(rounds: usize, rows: usize) -> Result<Vec<Figure>> {
    let recvlogical = find_recvlogical()?;
    let settings = [
        ("wal_sender_timeout", "0"),
        ("max_wal_size", "16GB"),
        ("synchronous_commit", "off"),
        ("wal_keep_size", "8GB"),
    ];
    let db = Database::start(&settings).await?;
    let sql = db.client().await?;
    database::create_plain(&sql, "backlog").await?;
    sql.batch_execute(
        "select rowcast.track('backlog');
         insert into rowcast.memberships (user_id, organization_id) values ('user_1', 'org_1');
         create procedure fill(total int, per_transaction int) language plpgsql as $$
         begin
             for i in 1 .. total / per_transaction loop
                 insert into backlog (organization_id, title)
                 select 'org_1', 'row ' || i || ' ' || j from generate_series(1, per_transaction) j;
                 commit;
             end loop;
         end $$;",
    )
    .await?;
    let mut figures = Vec::new();
    for (name, per_transaction) in [("reader_1row", 1), ("reader_1000row", 1000)] {
        let mut runs = Vec::new();
        for _ in 0..rounds {
            runs.push(round(&db, &recvlogical, rows, per_transaction).await?);
        }
        let method = format!(
            "backlog of {rows} small tracked rows (storage => 'table', so an event row each) in {per_transaction}-row \
             transactions, through source, routing, barrier and hub to one subscriber's socket, over the unix socket; \
             reference: pg_recvlogical with pgoutput to /dev/null from the same position"
        );
        figures.push(Figure::of(
            name,
            "rows/s",
            Goal::AtLeast(0.9),
            &method,
            &runs,
        ));
    }
    Ok(figures)
}

async fn round(
    db: &Database,
    recvlogical: &PathBuf,
    rows: usize,
    per_transaction: usize,
) -> Result<(f64, f64)> {
    let sql = db.client().await?;
    // It stands still for minutes, and then has heard nothing of its subscriber for as long.
    let patience = [("ROWCAST__LIMITS__SILENCE", "1 h")];
    let service = Service::start(&db.url(), &patience).await?;
    let token = sockets::token(SECRET, "user_1")?;
    let mut socket = sockets::subscribe(&service.public, &token, "org_1").await?;
    signal(service.pid(), "STOP")?;
    sql.batch_execute("select pg_create_logical_replication_slot('bare', 'pgoutput')")
        .await?;
    sql.batch_execute(&format!("call fill({rows}, {per_transaction})"))
        .await?;
    // Flushes what synchronous_commit = off left behind.
    sql.batch_execute("set synchronous_commit = on; insert into rowcast.memberships values ('end', 'end') on conflict do nothing; checkpoint").await?;
    let end: String = sql
        .query_one("select pg_current_wal_flush_lsn()::text", &[])
        .await?
        .get(0);

    let start = Instant::now();
    signal(service.pid(), "CONT")?;
    count_events(&mut socket, rows).await?;
    let ours = rows as f64 / start.elapsed().as_secs_f64();
    drop(service);

    let start = Instant::now();
    let status = Command::new(recvlogical)
        .args([
            "-d",
            &db.url(),
            "--slot",
            "bare",
            "--start",
            "--endpos",
            &end,
            "-f",
            "/dev/null",
            "--no-loop",
            "-F",
            "0",
        ])
        .args([
            "-o",
            "proto_version=1",
            "-o",
            "publication_names=rowcast",
            "-o",
            "messages=true",
        ])
        .stdout(Stdio::null())
        .status()?;
    ensure!(status.success(), "pg_recvlogical failed");
    let bare = rows as f64 / start.elapsed().as_secs_f64();
    sql.batch_execute("select pg_drop_replication_slot('bare'); truncate backlog")
        .await?;
    Ok((ours, bare))
}

async fn count_events(socket: &mut TcpStream, rows: usize) -> Result<()> {
    const MARK: &[u8] = b"\"eventType\":\"INSERT\"";
    let mut buffer = vec![0u8; 1 << 20];
    let (mut kept, mut seen) = (0, 0);
    while seen < rows {
        let read = socket.read(&mut buffer[kept..]).await?;
        if read == 0 {
            bail!("the service closed the socket after {seen} rows");
        }
        let filled = &buffer[..kept + read];
        let mut at = 0;
        while let Some(found) = memchr::memmem::find(&filled[at..], MARK) {
            seen += 1;
            at += found + MARK.len();
        }
        // A mark may be cut in two.
        let rest = (filled.len() - at).min(MARK.len() - 1);
        let from = filled.len() - rest;
        kept = rest;
        buffer.copy_within(from..from + rest, 0);
    }
    Ok(())
}

fn signal(pid: u32, name: &str) -> Result<()> {
    let status = Command::new("kill")
        .args([format!("-{name}"), pid.to_string()])
        .status()?;
    ensure!(status.success(), "kill -{name} {pid}");
    Ok(())
}

/// The newest `pg_recvlogical` of this machine.
fn find_recvlogical() -> Result<PathBuf> {
    let mut found: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path().join("bin/pg_recvlogical")))
        .filter(|path| path.exists())
        .collect();
    found.sort();
    found
        .pop()
        .context("pg_recvlogical is missing: apt-get install postgresql-client-common postgresql")
}
