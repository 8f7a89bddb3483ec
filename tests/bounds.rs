//! Every bound of the service, from outside: what happens there, that it is counted, and that nobody else is
//! harmed. `docs/operations.md` lists them.

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::harness::{
    client::Client,
    fixture::TRACK,
    postgres::Database,
    server::Server,
    token, until_or,
    world::{World, subscribe},
};

/// Asks for a socket by hand: the status of the answer, `None` when there is none, and the connection.
async fn handshake(address: SocketAddr, more: &str) -> (Option<u16>, TcpStream) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!(
        "GET /realtime/v1/websocket HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{more}\r\n"
    );
    // Whoever is not let in may be cut off before all is written.
    let _ = stream.write_all(request.as_bytes()).await;
    let mut answer = [0_u8; 1024];
    let reading = tokio::time::timeout(Duration::from_secs(10), stream.read(&mut answer)).await;
    let read = reading.expect("an answer, or the end").unwrap_or_default();
    let answer = String::from_utf8_lossy(&answer[..read]).into_owned();
    let status = answer.split(' ').nth(1).and_then(|text| text.parse().ok());
    (status, stream)
}

async fn still_served(world: &World, client: &mut Client, id: i64) {
    world
        .exec(&format!("INSERT INTO orders VALUES ({id}, 'org_1', 1)"))
        .await;
    let row = |frame: &crate::harness::client::Frame| frame.json["new"]["id"] == id;
    client.until("the row", row).await;
}

/// An address connects as often as it may, and no more; one that is named as a proxy is not counted.
#[tokio::test]
async fn an_address_may_connect_only_so_fast() {
    let env = [
        ("ROWCAST__LIMITS__CONNECTS_PER_SECOND", "1"),
        ("ROWCAST__LIMITS__CONNECTS_BURST", "5"),
        ("ROWCAST__LIMITS__PROXIES", "192.0.2.1"),
    ];
    let world = World::prepared(TRACK, &env).await;
    world.add_member("u1", "org_1", "member").await;
    let public = world.server.public;
    let mut answers = Vec::new();
    for _ in 0..20 {
        answers.push(handshake(public, "").await.0);
    }
    let upgraded = answers.iter().filter(|status| **status == Some(101));
    let upgraded = upgraded.count();
    assert!((5..12).contains(&upgraded), "{answers:?}");
    let refused = answers.iter().filter(|status| status.is_none()).count();
    assert_eq!(upgraded + refused, 20, "{answers:?}");
    let counted = "handshakes_total{reason=\"too_many_from_address\"}";
    assert_eq!(world.server.metric(counted).await, refused as f64);
    // Later it may again.
    until_or(
        "the address may connect again",
        || world.server.log(),
        async || {
            tokio::time::sleep(Duration::from_millis(300)).await;
            handshake(public, "").await.0 == Some(101)
        },
    )
    .await;
    let elsewhere = [&env[..2], &[("ROWCAST__LIMITS__PROXIES", "127.0.0.0/8")]].concat();
    let proxied = World::prepared(TRACK, &elsewhere).await;
    for _ in 0..20 {
        assert_eq!(handshake(proxied.server.public, "").await.0, Some(101));
    }
}

/// With few files to open, sockets end where the service's own connections begin: it says so when it starts,
/// the sockets beyond are refused, and the stream comes back when it breaks.
#[tokio::test]
async fn sockets_leave_files_for_the_service_itself() {
    let mut world = World::start().await;
    world.add_member("u1", "org_1", "member").await;
    world.server.kill();
    world.server = Server::start_with_files(&world.database, &[], 300).await;
    let log = world.server.log();
    assert!(
        log.contains("only 300 files: 163 sockets") && log.contains("LimitNOFILE"),
        "{log}"
    );
    let mut member = world.login("u1", "org_1").await;
    let mut open = Vec::new();
    let mut refused = 0;
    for _ in 0..200 {
        match handshake(world.server.public, "").await {
            (Some(101), stream) => open.push(stream),
            (Some(503), _) => refused += 1,
            (other, _) => panic!("{other:?}"),
        }
    }
    assert!(open.len() <= 162 && refused >= 38, "{}", open.len());
    let full = "handshakes_total{reason=\"full\"}";
    assert_eq!(world.server.metric(full).await, f64::from(refused));
    world
        .exec(&format!(
            "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = '{}'",
            world.database.slot()
        ))
        .await;
    still_served(&world, &mut member, 1).await;
    assert_eq!(
        world
            .server
            .metric("accept_failures_total{reason=\"file_limit\"}")
            .await,
        0.0
    );
    drop(open);
}

/// Where the system itself gives no more files, that is said and counted, and goes by.
#[tokio::test]
async fn a_process_out_of_files_says_so_and_goes_on() {
    let world = World::start().await;
    let mut member = world.member("u1", "org_1").await;
    let held = std::fs::read_dir(format!("/proc/{}/fd", world.server.pid())).unwrap();
    let limit = |files: usize| {
        let set = std::process::Command::new("prlimit")
            .args(["--pid", &world.server.pid().to_string()])
            .arg(format!("--nofile={files}:20000"))
            .status();
        assert!(set.unwrap().success());
    };
    let numbers = held.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let highest: usize = numbers.map(|text| text.parse().unwrap()).max().unwrap();
    limit(highest + 1);
    // The system takes these; the service cannot.
    let mut waiting = Vec::new();
    for _ in 0..highest + 5 {
        waiting.push(TcpStream::connect(world.server.public).await.unwrap());
    }
    until_or(
        "it is said",
        || world.server.log(),
        async || world.server.log().contains("cannot accept a connection"),
    )
    .await;
    assert!(world.server.log().contains("ulimit -n"));
    still_served(&world, &mut member, 1).await;
    limit(20_000);
    until_or(
        "it is counted",
        || world.server.log(),
        async || {
            let counted = "accept_failures_total{reason=\"file_limit\"}";
            world.server.metric(counted).await >= 1.0
        },
    )
    .await;
    Client::login(world.server.public, &token::session("u1"), "org_1").await;
}

/// What comes before there is a socket.
#[tokio::test]
async fn what_is_no_socket_yet_is_bounded_and_counted() {
    let env = [
        ("ROWCAST__LIMITS__UNAUTHENTICATED", "3"),
        ("ROWCAST__LIMITS__CONNECTIONS_PER_ORGANIZATION", "2"),
        ("ROWCAST__LIMITS__AUTH_TIMEOUT", "1 s"),
    ];
    let world = World::prepared(TRACK, &env).await;
    let mut member = world.member("u1", "org_1").await;
    let public = world.server.public;
    // A head that is too large.
    let long = format!("Cookie: {}\r\n", "x".repeat(40_000));
    let (status, _) = handshake(public, &long).await;
    assert_eq!(status, Some(431));
    // No HTTP at all.
    let mut raw = TcpStream::connect(public).await.unwrap();
    raw.write_all(b"\x16\x03\x01 hello\r\n\r\n").await.unwrap();
    let _ = raw.read_to_end(&mut Vec::new()).await;
    // More strangers than there may be.
    let mut strangers = Vec::new();
    for _ in 0..3 {
        strangers.push(handshake(public, "").await);
    }
    let all: Vec<_> = strangers.iter().map(|(status, _)| *status).collect();
    assert_eq!(all, [Some(101); 3]);
    assert_eq!(handshake(public, "").await.0, Some(503));
    // They are sent away in time.
    let timeouts = "socket_closes_total{reason=\"auth_timeout\"}";
    until_or(
        "strangers are sent away",
        || world.server.log(),
        async || world.server.metric(timeouts).await >= 3.0,
    )
    .await;
    // More sockets of one organization than there may be. The places of strangers come back a moment later.
    drop(strangers);
    until_or(
        "there is room for strangers",
        || world.server.log(),
        async || handshake(public, "").await.0 == Some(101),
    )
    .await;
    let second = world.login("u1", "org_1").await;
    let mut third = Client::open(public).await;
    let refused = third.auth(&token::session("u1"), "org_1").await.unwrap();
    assert_eq!(refused.text_of("name"), "connections_limited");
    assert_eq!(third.until_closed().await.0, 4005);
    for (counted, least) in [
        ("handshakes_total{reason=\"head_too_large\"}", 1.0),
        ("handshakes_total{reason=\"not_http\"}", 1.0),
        ("handshakes_total{reason=\"full\"}", 1.0),
        ("socket_closes_total{reason=\"too_many_connections\"}", 1.0),
    ] {
        let figure = world.server.metric(counted).await;
        assert!(figure >= least, "{counted} {figure}");
    }
    still_served(&world, &mut member, 1).await;
    drop(second);
}

/// A table list of about `bytes` in memory.
fn large(bytes: usize) -> Value {
    let values: Vec<String> = (0..bytes / 100).map(|n| format!("{n:040}")).collect();
    json!({ "tables": [{ "table": "orders", "filter": { "column": "id", "op": "in", "value": values } }] })
}

/// What a member may ask for.
#[tokio::test]
async fn what_a_member_asks_for_is_bounded_and_counted() {
    let env = [
        ("ROWCAST__LIMITS__SUBSCRIPTIONS", "4"),
        ("ROWCAST__LIMITS__SUBSCRIPTION_BYTES", "16 KiB"),
        ("ROWCAST__LIMITS__SUBSCRIPTIONS_BYTES", "24 KiB"),
        ("ROWCAST__LIMITS__MESSAGES_PER_SECOND", "5"),
        ("ROWCAST__LIMITS__MESSAGES_BURST", "20"),
    ];
    let world = World::prepared(TRACK, &env).await;
    let mut healthy = world.member("u1", "org_1").await;
    let mut refused = BTreeSet::new();
    let mut note = |reply: &crate::harness::client::Frame| {
        let name = reply.text_of("name").to_owned();
        refused.insert(name.clone());
        name
    };
    // One socket's own share, then that of all.
    let mut greedy = world.login("u1", "org_1").await;
    let reply = greedy.ask(subscribe("org:org_1", large(12_000))).await;
    assert!(reply.is("subscribed"), "{}", reply.text);
    let reply = greedy
        .ask(subscribe("tenant:org_1:orders", large(12_000)))
        .await;
    assert_eq!(note(&reply), "too_many_subscriptions", "{}", reply.text);
    let mut another = world.login("u1", "org_1").await;
    let reply = another.ask(subscribe("org:org_1", large(12_000))).await;
    assert_eq!(note(&reply), "overloaded", "{}", reply.text);
    let held = world.server.metric("hub_subscriptions_bytes").await;
    assert!((9_000.0..24.0 * 1024.0).contains(&held), "{held}");
    // What was asked for in its place frees it; and what is left is enough for others.
    let reply = greedy.ask(subscribe("org:org_1", json!({}))).await;
    assert!(reply.is("subscribed"), "{}", reply.text);
    let reply = another.ask(subscribe("org:org_1", large(12_000))).await;
    assert!(reply.is("subscribed"), "{}", reply.text);
    // By number.
    for n in 0..4 {
        let frame = subscribe(&format!("tenant:org_1:t{n}"), json!({}));
        let reply = greedy.ask(frame).await;
        if reply.is("error") {
            assert_eq!(note(&reply), "too_many_subscriptions");
        }
    }
    // Nesting, and very many members, which are not kept.
    let mut other = world.login("u1", "org_1").await;
    let deep = format!(
        "{{\"type\":\"ping\",\"ref\":1,\"x\":{}{}}}",
        "[".repeat(60),
        "]".repeat(60)
    );
    other.send_text(&deep).await;
    let reply = other.until("the refusal", |frame| frame.is("error")).await;
    assert_eq!(note(&reply), "too_deep", "{}", reply.text);
    let members: Vec<String> = (0..7_000).map(|n| format!("\"{n}\":1")).collect();
    other
        .send_text(&format!(
            "{{\"type\":\"ping\",\"ref\":2,{}}}",
            members.join(",")
        ))
        .await;
    other.until("the answer", |frame| frame.is("pong")).await;
    // Speed.
    for _ in 0..30 {
        other.send(json!({ "type": "ping" })).await;
    }
    let reply = other.until("the refusal", |frame| frame.is("error")).await;
    assert_eq!(note(&reply), "rate_limited", "{}", reply.text);
    // Size: of one frame, and of one in parts.
    other.send_text(&"x".repeat(100_000)).await;
    assert_eq!(other.until_closed().await.0, 4506);
    let all: Vec<&str> = refused.iter().map(String::as_str).collect();
    assert_eq!(
        all,
        [
            "overloaded",
            "rate_limited",
            "too_deep",
            "too_many_subscriptions"
        ]
    );
    for name in all {
        let counted = format!("frames_refused_total{{reason=\"{name}\"}}");
        assert!(world.server.metric(&counted).await >= 1.0, "{name}");
    }
    assert_eq!(
        world
            .server
            .metric("socket_closes_total{reason=\"too_large\"}")
            .await,
        1.0
    );
    still_served(&world, &mut healthy, 1).await;
}

/// A message in parts counts as a whole, however small its parts are.
#[tokio::test]
async fn a_message_in_parts_is_no_larger_than_one() {
    let world = World::start().await;
    let mut healthy = world.member("u1", "org_1").await;
    let mut stream = world.login("u1", "org_1").await.into_stream();
    let part = |first: bool| {
        let mut bytes = vec![u8::from(first), 0x80 | 126];
        bytes.extend_from_slice(&1000_u16.to_be_bytes());
        bytes.extend_from_slice(&[0; 4]);
        bytes.resize(bytes.len() + 1000, b'x');
        bytes
    };
    for n in 0..100 {
        if stream.write_all(&part(n == 0)).await.is_err() {
            break;
        }
    }
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut answer))
        .await
        .expect("the socket is closed");
    until_or(
        "it is counted",
        || world.server.log(),
        async || {
            world
                .server
                .metric("socket_closes_total{reason=\"too_large\"}")
                .await
                == 1.0
        },
    )
    .await;
    still_served(&world, &mut healthy, 1).await;
}

/// What the figures mean is printed, and cannot be right only by chance.
#[tokio::test]
async fn the_ceiling_can_be_read_before_the_start() {
    let database = Database::fresh().await;
    let env = [
        ("ROWCAST__HISTORY__BYTES", "300 MiB"),
        ("ROWCAST__LIMITS__CONNECTIONS", "10"),
    ];
    let printed = crate::harness::server::run(&["config", "--memory"], &env).await;
    assert!(
        printed
            .said
            .contains("300.0 MiB  past of all organizations"),
        "{}",
        printed.said
    );
    let last = printed.said.lines().last().unwrap();
    let mib: f64 = last.split_whitespace().next().unwrap().parse().unwrap();
    assert!(last.ends_with("the process stays below this"), "{last}");
    crate::harness::world::migrate(&database).await;
    let server = Server::start(&database, &env).await;
    let ceiling = server.metric("memory_ceiling_bytes").await / 1_048_576.0;
    assert!((ceiling - mib).abs() < 0.1, "{ceiling} {mib}");
}
