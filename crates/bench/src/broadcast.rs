//! Broadcasts over HTTP: messages a second, one in a request and a hundred, against a loop that reads the same
//! requests and answers at once.
//!
//! Eight senders with a connection each, which send when they have their answer; one socket hears everything, so
//! that what is counted is said to somebody.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::{
    database::Database,
    report::{Figure, Goal},
    service::{SECRET, Service},
    sockets,
};

const TOKEN: &str = "only for this benchmark, on this machine";
const SENDERS: usize = 8;
const BATCH: usize = 100;
/// What the loop answers.
const ANSWER: &[u8] =
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 58\r\n\r\n\
{\"cursor\":\"00000001-0000000016b3749-80000001\",\"sockets\":1}";

/// Measures `broadcast_single` and `broadcast_batched`.
pub async fn run(rounds: usize, window: Duration) -> Result<Vec<Figure>> {
    let db = Database::start(&[]).await?;
    let sql = db.client().await?;
    sql.batch_execute(
        "insert into rowcast.memberships (user_id, organization_id) values ('user_1', 'org_1')",
    )
    .await?;
    let service = Service::start(&db.url(), &[("ACCESS_TOKEN", TOKEN)]).await?;
    let mut listener =
        sockets::subscribe(&service.public, &sockets::token(SECRET, "user_1")?, "org_1").await?;
    let hearing = tokio::spawn(async move {
        let mut buffer = vec![0; 1 << 16];
        while listener.read(&mut buffer).await.is_ok_and(|read| read > 0) {}
    });
    let bare = bare().await?;
    let mut figures = Vec::new();
    for (name, batch, goal) in [
        ("broadcast_single", 1, 0.2),
        ("broadcast_batched", BATCH, 0.05),
    ] {
        let mut runs = Vec::new();
        for round in 0..=rounds {
            let ours = rate(&service.public, batch, window).await?;
            let reference = rate(&bare, batch, window).await?;
            // The first round warms up.
            if round > 0 {
                runs.push((ours, reference));
            }
        }
        let method = format!(
            "{SENDERS} senders, {batch} broadcast(s) of some 100 bytes in a request, one socket that hears them; \
             reference: a loop that reads the same requests and answers at once"
        );
        figures.push(Figure::of(
            name,
            "messages/s",
            Goal::AtLeast(goal),
            &method,
            &runs,
        ));
    }
    hearing.abort();
    Ok(figures)
}

/// Messages a second.
async fn rate(address: &str, batch: usize, window: Duration) -> Result<f64> {
    let one = r#"{"type":"broadcast","event":"processing-complete","payload":{"materialId":"mat_123","claimCount":5},"organizationId":"org_1"}"#;
    let body = match batch {
        1 => one.to_owned(),
        _ => format!(r#"{{"messages":[{}]}}"#, vec![one; batch].join(",")),
    };
    let request = format!(
        "POST /broadcast HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {TOKEN}\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let start = Instant::now();
    let mut senders = tokio::task::JoinSet::new();
    for _ in 0..SENDERS {
        let mut socket = TcpStream::connect(address).await?;
        socket.set_nodelay(true)?;
        let request = request.clone();
        senders.spawn(async move {
            let mut buffer = Vec::new();
            let mut sent = 0_usize;
            while start.elapsed() < window {
                socket.write_all(request.as_bytes()).await?;
                let head = read_message(&mut socket, &mut buffer).await?;
                if !head.starts_with("HTTP/1.1 200") {
                    bail!("{head}");
                }
                sent += 1;
            }
            Ok(sent)
        });
    }
    let mut sent = 0;
    while let Some(done) = senders.join_next().await {
        sent += done??;
    }
    Ok((sent * batch) as f64 / start.elapsed().as_secs_f64())
}

/// Reads a message of HTTP with a length to its end; its head.
async fn read_message(socket: &mut TcpStream, buffer: &mut Vec<u8>) -> Result<String> {
    buffer.clear();
    loop {
        if let Some(end) = memchr::memmem::find(buffer, b"\r\n\r\n") {
            let head = std::str::from_utf8(&buffer[..end])?.to_ascii_lowercase();
            let length = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length: "));
            let length: usize = length.context("no length")?.trim().parse()?;
            while buffer.len() < end + 4 + length {
                if socket.read_buf(buffer).await? == 0 {
                    bail!("closed early");
                }
            }
            return Ok(head.replacen("http/", "HTTP/", 1));
        }
        if socket.read_buf(buffer).await? == 0 {
            bail!("closed");
        }
    }
}

/// The loop, on a thread of its own as the service has its own; where it listens.
async fn bare() -> Result<String> {
    let (tell, told) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || -> Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(async move {
            let listener = TcpListener::bind("127.0.0.1:0").await?;
            let _ = tell.send(listener.local_addr()?.to_string());
            loop {
                let (mut socket, _) = listener.accept().await?;
                socket.set_nodelay(true)?;
                tokio::spawn(async move {
                    let mut buffer = Vec::new();
                    while read_message(&mut socket, &mut buffer).await.is_ok() {
                        if socket.write_all(ANSWER).await.is_err() {
                            return;
                        }
                    }
                });
            }
        })
    });
    told.await.context("the loop does not listen")
}
