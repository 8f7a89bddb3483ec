//! Promise 11, the whole process: whatever clients and the log do, its memory stays below the one figure that
//! `rowcast config --memory` and the metric `memory_ceiling_bytes` give.
//!
//! `ROWCAST_TEST_RESUMES=10000` for the number of sockets that come back at once.

use std::time::{Duration, Instant};

use serde_json::json;
use tokio::{
    io::AsyncReadExt,
    net::{TcpSocket, TcpStream},
    task::JoinSet,
};

use crate::harness::{
    client::{Client, PATIENCE},
    fixture::TRACK,
    from_env, postgres,
    server::Server,
    token, until_or,
    world::{World, subscribe},
};

/// Budgets that make the ceiling low enough to mean something.
const SMALL: [(&str, &str); 7] = [
    ("ROWCAST__HISTORY__BYTES", "16 MiB"),
    ("ROWCAST__HISTORY__ORGANIZATION_BYTES", "16 MiB"),
    ("ROWCAST__REPLICATION__TRANSACTION_BYTES", "16 MiB"),
    ("ROWCAST__REPLICATION__QUEUE_BYTES", "8 MiB"),
    ("ROWCAST__LIMITS__OUTBOXES_BYTES", "32 MiB"),
    ("ROWCAST__LIMITS__INCOMING_BYTES", "4 MiB"),
    ("ROWCAST__LIMITS__SUBSCRIPTIONS_BYTES", "4 MiB"),
];

/// The highest mark of the process is below the ceiling that it gives itself.
pub async fn below_the_ceiling(server: &Server) {
    let ceiling = server.metric("memory_ceiling_bytes").await;
    let resident = server.metric("memory_resident_bytes").await;
    let (now, highest) = server.memory_kib();
    // The system counts pages for each thread apart, and adds them up late.
    let counted_late = 4096.0 * 1024.0;
    assert!(
        resident > 0.0 && resident <= highest as f64 * 1024.0 + counted_late,
        "{resident} bytes, but the highest mark is {highest} KiB"
    );
    eprintln!(
        "resident {} MiB, at most {} MiB, ceiling {:.0} MiB",
        now / 1024,
        highest / 1024,
        ceiling / 1_048_576.0
    );
    assert!(
        highest as f64 * 1024.0 < ceiling,
        "{highest} KiB, but the ceiling is {:.0} KiB",
        ceiling / 1024.0
    );
}

/// Reads and forgets until `end` was seen, which is among the last that is sent. The bytes that came.
async fn drain(mut stream: TcpStream, end: &[u8]) -> Result<u64, String> {
    /// Where it is looked for: looking everywhere would take longer than reading.
    const TAIL: usize = 4096;
    let mut buffer = vec![0_u8; TAIL + 64 * 1024];
    let (mut kept, mut total) = (0, 0_u64);
    let deadline = tokio::time::Instant::now() + PATIENCE * 8;
    loop {
        let read = tokio::time::timeout_at(deadline, stream.read(&mut buffer[kept..])).await;
        let read = match read {
            Err(_) => return Err(format!("silent after {total} bytes")),
            Ok(Err(error)) => return Err(error.to_string()),
            Ok(Ok(0)) => return Err(format!("closed after {total} bytes")),
            Ok(Ok(read)) => read,
        };
        total += read as u64;
        let have = kept + read;
        kept = have.min(TAIL);
        buffer.copy_within(have - kept..have, 0);
        if buffer[..kept].windows(end.len()).any(|part| part == end) {
            return Ok(total);
        }
    }
}

/// Many writers, sockets that take everything, sockets that take nothing, and those that want the latest only.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn promise_11_memory_stays_below_the_ceiling_in_a_flood() {
    let places = [("ROWCAST__LIMITS__CONNECTIONS", "200")];
    let world = World::prepared(TRACK, &[&SMALL[..], &places].concat()).await;
    let first = world.member("u1", "org_1").await;
    let mut readers = JoinSet::new();
    for _ in 0..4 {
        let client = world.login("u1", "org_1").await;
        readers.spawn(drain(client.into_stream(), b"the end of it"));
    }
    let mut stalled = Vec::new();
    for n in 0..80 {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        let stream = socket.connect(world.server.public).await.unwrap();
        let mut client = Client::over(stream, world.server.public).await;
        let reply = client.auth(&token::session("u1"), "org_1").await.unwrap();
        assert!(reply.is("auth_success"), "{}", reply.text);
        if n % 2 == 0 {
            let latest = subscribe("org:org_1", json!({ "mode": "latest" }));
            client.send(latest).await;
        }
        stalled.push(client);
    }
    let mut writers = JoinSet::new();
    for writer in 0..4 {
        let database = world.database.clone();
        writers.spawn(async move {
            let sql = database.connect().await;
            for turn in 0..20 {
                sql.exec(&format!(
                    "INSERT INTO materials SELECT '{writer} {turn} ' || n, 'org_1', repeat('x', 10000)
                         FROM generate_series(1, 50) n"
                ))
                .await;
            }
        });
    }
    while let Some(done) = writers.join_next().await {
        done.unwrap();
    }
    world
        .exec("INSERT INTO materials VALUES ('last', 'org_1', 'the end of it')")
        .await;
    // Whether they keep up is not the question here.
    let kept_up = readers.join_all().await.into_iter().filter(Result::is_ok);
    eprintln!("{} of 4 readers kept up", kept_up.count());
    drop(first);
    // The bounds were reached, or this would say nothing.
    assert!(world.server.metric("hub_slow_closes_total").await >= 20.0);
    assert!(world.server.metric("hub_history_bytes").await > 12e6);
    assert!(world.server.metric("hub_queued_bytes").await <= 32e6 * 1.05);
    below_the_ceiling(&world.server).await;
}

/// Very many sockets come back at the same moment, each with a cursor from before some megabytes: each gets
/// all of them, and the process stays below its ceiling.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn promise_11_memory_stays_below_the_ceiling_when_all_come_back_at_once() {
    let sockets = from_env("ROWCAST_TEST_RESUMES", 500);
    let cluster = postgres::own_cluster(&[]);
    let most = (sockets + 100).to_string();
    let places = [
        ("ROWCAST__LIMITS__CONNECTIONS", &*most),
        ("ROWCAST__LIMITS__UNAUTHENTICATED", &most),
        ("ROWCAST__LIMITS__CONNECTIONS_PER_ORGANIZATION", &most),
        // Who only counts bytes answers no ping.
        ("ROWCAST__LIMITS__SILENCE", "10m"),
    ];
    let world = World::in_cluster(&cluster, TRACK, &[&SMALL[..], &places].concat()).await;
    let mut first = world.member("u1", "org_1").await;
    world
        .exec("INSERT INTO orders VALUES (1, 'org_1', 1)")
        .await;
    let cursor = first.event("orders").await.text_of("cursor").to_owned();
    // The past: 2 MB for each, and less for each when there are thousands.
    let turns = if sockets > 2000 { 5 } else { 20 };
    for turn in 0..turns {
        world
            .exec(&format!(
                "INSERT INTO materials SELECT '{turn} ' || n, 'org_1', repeat('x', 1000) FROM generate_series(1, 100) n"
            ))
            .await;
    }
    world
        .exec("INSERT INTO materials VALUES ('last', 'org_1', 'the end of it')")
        .await;
    let last = |frame: &crate::harness::client::Frame| frame.json["new"]["id"] == "last";
    first.until("the last row", last).await;
    let (public, token) = (world.server.public, token::session("u1"));
    // All are connected before the first says who it is.
    let mut waiting = JoinSet::new();
    for _ in 0..sockets {
        waiting.spawn(async move { Client::open(public).await });
    }
    let clients = waiting.join_all().await;
    let start = Instant::now();
    let mut readers = JoinSet::new();
    for mut client in clients {
        let auth =
            json!({ "type": "auth", "token": token, "organizationId": "org_1", "cursor": cursor });
        readers.spawn(async move {
            client.send(auth).await;
            drain(client.into_stream(), b"the end of it").await
        });
    }
    let mut bytes = 0;
    while let Some(read) = readers.join_next().await {
        let read = read.unwrap().unwrap_or_else(|why| panic!("{why}"));
        assert!(read > turns * 100_000, "{read} bytes");
        bytes += read;
    }
    eprintln!(
        "{sockets} sockets read {} MB of the past in {:.1} s",
        bytes / 1_000_000,
        start.elapsed().as_secs_f64()
    );
    assert!(world.server.metric("hub_replays_total").await >= sockets as f64);
    below_the_ceiling(&world.server).await;
}

/// Messages that do not end, of many sockets: together they may take what is configured, and who comes
/// beyond that is sent away. Long messages that do end leave nothing behind.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn promise_11_unfinished_messages_have_a_budget() {
    let places = [("ROWCAST__LIMITS__CONNECTIONS", "400")];
    let world = World::prepared(TRACK, &[&SMALL[..], &places].concat()).await;
    let mut healthy = world.member("u1", "org_1").await;
    let mut clients = Vec::new();
    for _ in 0..100 {
        clients.push(world.login("u1", "org_1").await);
    }
    let used = async || world.server.metric("incoming_bytes").await;
    // Whole ones first: nothing is kept of them.
    let filler = "x".repeat(60_000);
    for client in &mut clients {
        let reply = client
            .ask(json!({ "type": "ping", "filler": &filler }))
            .await;
        assert!(reply.is("pong"), "{}", reply.text);
    }
    until_or(
        "nothing is held",
        || world.server.log(),
        async || used().await == 0.0,
    )
    .await;
    // A frame that says it has 60,000 bytes, and has half of them: 4 MiB are enough for 69 of them.
    let mut beginning = vec![0x81, 0x80 | 126];
    beginning.extend_from_slice(&60_000_u16.to_be_bytes());
    beginning.resize(30_000, 0);
    let mut streams = Vec::new();
    for client in clients {
        let mut stream = client.into_stream();
        // Who is sent away may be gone before all is written.
        let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, &beginning).await;
        streams.push(stream);
    }
    let closed = async || {
        let overloaded = "socket_closes_total{reason=\"overloaded\"}";
        world.server.metric(overloaded).await
    };
    until_or(
        "those beyond are sent away",
        || world.server.log(),
        async || closed().await >= 25.0,
    )
    .await;
    let closed = closed().await;
    assert!(closed <= 40.0, "{closed} of 100 sent away");
    let held = used().await;
    assert!((3e6..=4.2e6).contains(&held), "{held} bytes");
    // Nobody else has noticed.
    world
        .exec("INSERT INTO orders VALUES (2, 'org_1', 1)")
        .await;
    healthy.event("orders").await;
    drop(streams);
    until_or(
        "what they held is given back",
        || world.server.log(),
        async || used().await == 0.0,
    )
    .await;
    tokio::time::timeout(Duration::from_secs(5), below_the_ceiling(&world.server))
        .await
        .unwrap();
}
