//! From commit to the client's socket at 500 single-row transactions a second, against a bare reader of
//! pgoutput that only receives.
//!
//! Both are measured from the commit timestamp that Postgres keeps (`track_commit_timestamp`), which is taken
//! before the commit record is flushed: the flush is in both numbers. Runs alternate: bare, ours without the
//! visibility barrier, ours with it.

use std::{
    collections::HashMap,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, bail};
use pgwire_replication::{ReplicationClient, ReplicationConfig, ReplicationEvent};
use tokio::io::AsyncReadExt;

use crate::{
    database::{self, Database},
    report::{Figure, Goal, quantile},
    service::{SECRET, Service},
    sockets,
};

const RATE: u32 = 500;

#[derive(Clone, Copy)]
enum Side {
    Bare,
    Ours { barrier: bool },
}

/// When which row (its number) arrived, in microseconds since 1970.
type Arrivals = HashMap<i64, i64>;

/// Measures `latency_p50`, `latency_p50_barrier`, `latency_p99`, `latency_p99_barrier`.
pub async fn run(rounds: usize, window: Duration) -> Result<Vec<Figure>> {
    let db = Database::start(&[("fsync", "on"), ("track_commit_timestamp", "on")]).await?;
    let sql = db.client().await?;
    database::create_plain(&sql, "ticks").await?;
    sql.batch_execute(
        "select rowcast.track('ticks');
         insert into rowcast.memberships (user_id, organization_id) values ('user_1', 'org_1');",
    )
    .await?;
    // Not in one transaction with writes.
    sql.batch_execute("select pg_create_logical_replication_slot('bare', 'pgoutput')")
        .await?;
    let (mut p50, mut p50_barrier, mut p99, mut p99_barrier) = (vec![], vec![], vec![], vec![]);
    for round in 0..=rounds {
        let bare = measure(&db, Side::Bare, window).await?;
        let open = measure(&db, Side::Ours { barrier: false }, window).await?;
        let held = measure(&db, Side::Ours { barrier: true }, window).await?;
        // The first round warms up.
        if round > 0 {
            p50.push((open.0, bare.0));
            p50_barrier.push((held.0, bare.0));
            p99.push((open.1, bare.1));
            p99_barrier.push((held.1, bare.1));
        }
    }
    let method = |what: &str| {
        format!(
            "{RATE} single-row transactions a second (fsync on), from the commit timestamp to the client's socket, \
             visibility barrier {what}; reference: a reader of pgoutput that only receives"
        )
    };
    Ok(vec![
        Figure::of("latency_p50", "us", Goal::AtMost(1.3), &method("off"), &p50),
        Figure::of(
            "latency_p50_barrier",
            "us",
            Goal::AtMost(2.0),
            &method("on"),
            &p50_barrier,
        ),
        Figure::of("latency_p99", "us", Goal::AtMost(2.0), &method("off"), &p99),
        Figure::of(
            "latency_p99_barrier",
            "us",
            Goal::AtMost(2.0),
            &method("on"),
            &p99_barrier,
        ),
    ])
}

/// (p50, p99) in microseconds.
async fn measure(db: &Database, side: Side, window: Duration) -> Result<(f64, f64)> {
    let sql = db.client().await?;
    let rows = (window.as_secs_f64() * f64::from(RATE)) as i64;
    let first: i64 = sql
        .query_one("select coalesce(max(id), 0) + 1 from ticks", &[])
        .await?
        .get(0);
    // What the other side's run wrote is not this one's work.
    sql.execute(
        "select pg_replication_slot_advance('bare', pg_current_wal_lsn())",
        &[],
    )
    .await?;
    let (ready, go) = tokio::sync::oneshot::channel();
    let url = db.url();
    let host = db.cluster.socket_dir().display().to_string();
    let port = db.cluster.port();
    // The receiver has a thread of its own on both sides, so that the writer does not delay it.
    let receiver = std::thread::spawn(move || -> Result<Arrivals> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(async move {
            match side {
                Side::Bare => receive_bare(&host, port, rows, ready).await,
                Side::Ours { barrier } => receive_ours(&url, barrier, rows, ready).await,
            }
        })
    });
    go.await.context("the receiver did not start")?;
    let insert = sql
        .prepare("insert into ticks (organization_id, title) values ('org_1', 'tick') returning id")
        .await?;
    let start = Instant::now();
    for i in 0..rows {
        let due = start + Duration::from_secs_f64(i as f64 / f64::from(RATE));
        tokio::time::sleep_until(due.into()).await;
        sql.query_one(&insert, &[]).await?;
    }
    let arrivals = tokio::task::spawn_blocking(move || receiver.join())
        .await?
        .map_err(|_| anyhow::anyhow!("the receiver panicked"))??;
    let committed = sql
        .query(
            "select id, (extract(epoch from pg_xact_commit_timestamp(xmin)) * 1000000)::bigint from ticks where id >= $1",
            &[&first],
        )
        .await?;
    let mut late = Vec::new();
    for row in committed {
        let (id, at): (i64, i64) = (row.get(0), row.get(1));
        let arrived = arrivals
            .get(&id)
            .with_context(|| format!("row {id} did not arrive"))?;
        late.push((arrived - at) as f64);
    }
    Ok((quantile(&mut late, 0.5), quantile(&mut late, 0.99)))
}

fn now_us() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

async fn receive_bare(
    host: &str,
    port: u16,
    rows: i64,
    ready: tokio::sync::oneshot::Sender<()>,
) -> Result<Arrivals> {
    let config = ReplicationConfig::unix(host, port, "postgres", "", "postgres", "bare", "rowcast");
    let mut client = ReplicationClient::connect(config).await?;
    client.wait_started().await?;
    let _ = ready.send(());
    let mut arrivals = Arrivals::new();
    while (arrivals.len() as i64) < rows {
        match client.recv().await? {
            Some(ReplicationEvent::XLogData { data, wal_end, .. }) => {
                let now = now_us();
                if let Some(id) = first_number_of_insert(&data) {
                    arrivals.entry(id).or_insert(now);
                }
                client.update_applied_lsn(wal_end);
            }
            Some(_) => {}
            None => bail!("the bare stream ended"),
        }
    }
    client.shutdown().await?;
    Ok(arrivals)
}

/// The first column of an insert into `ticks` (5 columns of text would be an event row: those begin with
/// their own id, so only tuples of exactly four columns count).
fn first_number_of_insert(data: &[u8]) -> Option<i64> {
    let rest = data.strip_prefix(b"I")?.get(4..)?.strip_prefix(b"N")?;
    let (columns, rest) = rest.split_first_chunk::<2>()?;
    let rest = rest.strip_prefix(b"t")?;
    let (length, rest) = rest.split_first_chunk::<4>()?;
    if u16::from_be_bytes(*columns) != 4 {
        return None;
    }
    let text = rest.get(..u32::from_be_bytes(*length) as usize)?;
    std::str::from_utf8(text).ok()?.parse().ok()
}

async fn receive_ours(
    url: &str,
    barrier: bool,
    rows: i64,
    ready: tokio::sync::oneshot::Sender<()>,
) -> Result<Arrivals> {
    let barrier = if barrier { "true" } else { "false" };
    let service = Service::start(
        url,
        &[("ROWCAST__REPLICATION__VISIBILITY_BARRIER", barrier)],
    )
    .await?;
    let token = sockets::token(SECRET, "user_1")?;
    let mut socket = sockets::subscribe(&service.public, &token, "org_1").await?;
    let _ = ready.send(());
    let mut arrivals = Arrivals::new();
    let (mut pending, mut buffer) = (Vec::new(), vec![0u8; 65_536]);
    while (arrivals.len() as i64) < rows {
        let read = socket.read(&mut buffer).await?;
        let now = now_us();
        if read == 0 {
            bail!("the service closed the socket");
        }
        pending.extend_from_slice(&buffer[..read]);
        let mut at = 0;
        while let Some(found) = find(&pending[at..], b"\"new\":{\"id\":") {
            let digits = &pending[at + found + 12..];
            let Some(end) = digits.iter().position(|byte| !byte.is_ascii_digit()) else {
                break;
            };
            arrivals
                .entry(std::str::from_utf8(&digits[..end])?.parse()?)
                .or_insert(now);
            at += found + 12 + end;
        }
        pending.drain(..at);
    }
    Ok(arrivals)
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack
        .windows(needle.len())
        .position(|window| window == needle)
}
