//! Whether sockets that do not read delay those that do: 10,000 sockets, one organization of them active,
//! with and without 100 of its sockets that have stopped reading.
//!
//! Measured from just before the INSERT is sent to its arrival at the socket that connected last, which is
//! the last one written to.

use std::{
    collections::VecDeque,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, bail};
use tokio::{io::AsyncReadExt, net::TcpStream};

use crate::{
    database::{self, Database},
    report::{Figure, Goal, quantile},
    service::{SECRET, Service},
    sockets::{self, Counter},
};

const SOCKETS: usize = 10_000;
const ORGANIZATIONS: usize = 100;
const STALLED: usize = 100;
const RATE: f64 = 200.0;
/// Large enough that the buffers of the kernel are full early in the window.
const BODY_BYTES: usize = 16 * 1024;

/// Measures `stalled_p50` and `stalled_p99`.
pub async fn run(rounds: usize, window: Duration) -> Result<Vec<Figure>> {
    let db = Database::start(&[("fsync", "on")]).await?;
    let sql = db.client().await?;
    database::create_plain(&sql, "ticks").await?;
    sql.batch_execute(
        "select rowcast.track('ticks');
         insert into rowcast.memberships (user_id, organization_id)
         select 'user_' || i, 'org_' || i from generate_series(0, 99) i",
    )
    .await?;
    let (mut p50, mut p99) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        // Alternate who goes first, so that a drift favours nobody.
        let (with, without) = if round % 2 == 0 {
            let with = measure(&db, STALLED, window).await?;
            (with, measure(&db, 0, window).await?)
        } else {
            let without = measure(&db, 0, window).await?;
            (measure(&db, STALLED, window).await?, without)
        };
        p50.push((with.0, without.0));
        p99.push((with.1, without.1));
    }
    let method = format!(
        "{SOCKETS} sockets in {ORGANIZATIONS} organizations, {RATE} rows of {BODY_BYTES} bytes a second in one of them, from \
         the INSERT to the last of its sockets, with {STALLED} more sockets of it that have stopped reading; \
         reference: the same without those"
    );
    Ok(vec![
        Figure::of("stalled_p50", "us", Goal::AtMost(1.2), &method, &p50),
        Figure::of("stalled_p99", "us", Goal::AtMost(1.2), &method, &p99),
    ])
}

/// (p50, p99) in microseconds.
async fn measure(db: &Database, stalled: usize, window: Duration) -> Result<(f64, f64)> {
    let limits = [
        ("ROWCAST__LIMITS__UNAUTHENTICATED", "20000"),
        // They are to stay for the whole window, and not to be closed as slow.
        ("ROWCAST__LIMITS__OUTBOX_BYTES", "128MiB"),
        ("ROWCAST__LIMITS__OUTBOXES_BYTES", "8GiB"),
    ];
    let service = Service::start(&db.url(), &limits).await?;
    let open = async |organization: usize| -> Result<TcpStream> {
        let token = sockets::token(SECRET, &format!("user_{organization}"))?;
        sockets::subscribe(&service.public, &token, &format!("org_{organization}")).await
    };
    let mut silent = Vec::with_capacity(stalled);
    for _ in 0..stalled {
        silent.push(open(0).await?);
    }
    let mut reading = Vec::with_capacity(SOCKETS);
    for i in 1..SOCKETS {
        reading.push(open(i % ORGANIZATIONS).await?);
    }
    sockets::sweep(reading, &Counter::default())?;
    let observer = open(0).await?.into_std()?;

    let rows = (window.as_secs_f64() * RATE) as usize;
    let receiver = std::thread::spawn(move || -> Result<Vec<f64>> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(async { observe(TcpStream::from_std(observer)?, rows).await })
    });
    let sql = db.client().await?;
    let insert = sql
        .prepare("insert into ticks (organization_id, title, body) values ('org_0', $1, $2)")
        .await?;
    let body = "x".repeat(BODY_BYTES);
    let start = Instant::now();
    for i in 0..rows {
        let due = start + Duration::from_secs_f64(i as f64 / RATE);
        tokio::time::sleep_until(due.into()).await;
        sql.execute(&insert, &[&format!("sent {}.", now_us()), &body])
            .await?;
    }
    let mut late = tokio::task::spawn_blocking(move || receiver.join())
        .await?
        .map_err(|_| anyhow::anyhow!("the receiver panicked"))??;
    drop(silent);
    // The first second fills the buffers of those who do not read.
    late.drain(..(RATE as usize).min(late.len() / 2));
    Ok((quantile(&mut late, 0.5), quantile(&mut late, 0.99)))
}

/// How late each row is, in microseconds.
async fn observe(mut socket: TcpStream, rows: usize) -> Result<Vec<f64>> {
    const MARK: &[u8] = b"\"title\":\"sent ";
    let (mut late, mut buffer) = (Vec::with_capacity(rows), vec![0u8; 256 * 1024]);
    let mut pending = VecDeque::new();
    while late.len() < rows {
        let read =
            tokio::time::timeout(Duration::from_secs(30), socket.read(&mut buffer)).await??;
        let now = now_us();
        if read == 0 {
            bail!("the service closed the socket");
        }
        pending.extend(&buffer[..read]);
        let bytes = pending.make_contiguous();
        let mut at = 0;
        while let Some(found) = memchr::memmem::find(&bytes[at..], MARK) {
            let digits = &bytes[at + found + MARK.len()..];
            let Some(end) = digits.iter().position(|byte| *byte == b'.') else {
                break;
            };
            let sent: i64 = std::str::from_utf8(&digits[..end])?
                .parse()
                .context("the time in the row")?;
            late.push((now - sent) as f64);
            at += found + MARK.len() + end;
        }
        // A mark may be cut in two.
        let keep = bytes.len().saturating_sub(MARK.len() + 24).max(at);
        pending.drain(..keep);
    }
    Ok(late)
}

fn now_us() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}
