//! Plugs that are pulled: whoever comes back with a cursor gets exactly what he missed, under the same
//! cursors, or is told to fetch anew. Nobody waits for the service, and nobody is left believing in it.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use rowcast_embedded::{Cluster, StopMode};
use serde_json::json;

use crate::harness::{
    client::{Client, Frame, PATIENCE},
    fixture::TRACK,
    postgres,
    server::Server,
    token, until_or,
    world::{World, subscribe},
};

/// Logs in and goes on behind a cursor.
async fn come_back(server: &Server, cursor: &str) -> (Client, Frame) {
    let mut client = Client::login(server.public, &token::session("u1"), "org_1").await;
    let reply = client
        .ask(subscribe("org:org_1", json!({ "cursor": cursor })))
        .await;
    (client, reply)
}

fn ids(events: &[Frame]) -> Vec<i64> {
    let id = |event: &Frame| event.json["new"]["id"].as_i64().unwrap();
    events.iter().map(id).collect()
}

fn cursors(events: &[Frame]) -> Vec<&str> {
    events.iter().map(|event| event.text_of("cursor")).collect()
}

async fn insert(world: &World, ids: std::ops::RangeInclusive<i64>) {
    for id in ids {
        world
            .exec(&format!("INSERT INTO orders VALUES ({id}, 'org_1', 1)"))
            .await;
    }
}

fn signal(server: &Server, signal: &str) {
    let sent = Command::new("kill")
        .args([signal, &server.pid().to_string()])
        .status();
    assert!(sent.unwrap().success());
}

/// `kill -9`, twice: the history is read from the log again, and its cursors are the same.
#[tokio::test]
async fn a_killed_service_knows_the_past_again() {
    let mut world = World::start().await;
    let mut client = world.member("u1", "org_1").await;
    insert(&world, 1..=30).await;
    let first = world.events_so_far(&mut client, "org_1").await;
    assert_eq!(ids(&first), (1..=30).collect::<Vec<_>>());
    for round in 0..2 {
        world.server.kill();
        insert(&world, 31 + round * 10..=40 + round * 10).await;
        world.server = Server::start(&world.database, &[]).await;
        let (mut client, reply) = come_back(&world.server, first[9].text_of("cursor")).await;
        assert!(reply.is("subscribed"), "{}", reply.text);
        let missed = world.events_so_far(&mut client, "org_1").await;
        assert_eq!(ids(&missed), (11..=40 + round * 10).collect::<Vec<_>>());
        assert_eq!(cursors(&missed)[..20], cursors(&first)[10..]);
        assert!(!client.seen.iter().any(|frame| frame.is("resync")));
    }
}

/// A stopped Postgres does not wait for acknowledgements that trail; open sockets are told, go on when it is
/// back, and the past outlives both.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_stops_at_once_and_the_past_outlives_it() {
    let mut cluster = postgres::own_cluster(&[]);
    let mut world = World::in_cluster(&cluster, TRACK, &[]).await;
    let mut client = world.member("u1", "org_1").await;
    insert(&world, 1..=3).await;
    let first = world.events_so_far(&mut client, "org_1").await;

    let begin = Instant::now();
    cluster.stop(StopMode::Fast).unwrap();
    let took = begin.elapsed();
    assert!(took < Duration::from_secs(5), "{took:?}");
    let stale = client
        .until("the news that the stream stands", |frame| {
            frame.is("status") && frame.text_of("state") == "stale"
        })
        .await;
    assert!(begin.elapsed() < took + Duration::from_secs(10));
    assert!(stale.json["since"].is_string() && stale.json["reason"].is_string());

    cluster.start_again().unwrap();
    world.sql = world.database.connect().await;
    insert(&world, 4..=5).await;
    client
        .until("the news that it flows", |frame| {
            frame.is("status") && frame.text_of("state") == "live"
        })
        .await;
    let fence = world.fence("org_1").await;
    client
        .until("the fence", |frame| {
            frame.table() == "fences" && frame.json["new"]["id"] == fence
        })
        .await;
    let orders = |client: &Client| -> Vec<Frame> {
        let orders = client.events().filter(|frame| frame.table() == "orders");
        orders.cloned().collect()
    };
    assert_eq!(ids(&orders(&client)), [1, 2, 3, 4, 5]);

    world.server.kill();
    world.server = Server::start(&world.database, &[]).await;
    let (mut client, reply) = come_back(&world.server, first[0].text_of("cursor")).await;
    assert!(reply.is("subscribed"), "{}", reply.text);
    let missed = world.events_so_far(&mut client, "org_1").await;
    assert_eq!(ids(&missed), [2, 3, 4, 5]);
    assert_eq!(cursors(&missed)[..2], cursors(&first)[1..]);
}

/// Two services on one slot: the second stands by, says so, and takes over with the past of the first.
#[tokio::test]
async fn a_standby_takes_over() {
    let mut world = World::start().await;
    let mut client = world.member("u1", "org_1").await;
    insert(&world, 1..=5).await;
    let first = world.events_so_far(&mut client, "org_1").await;
    let standby = Server::launch(&world.database, &[]).await;
    until_or(
        "the second stands by",
        || standby.log(),
        async || {
            let answer = standby.get("/readyz").await;
            answer.is_some_and(|(status, body)| status == 503 && body.contains("standby"))
        },
    )
    .await;
    assert!(world.server.is_ready().await);
    world.server.kill();
    let begin = Instant::now();
    standby.until_ready().await;
    assert!(begin.elapsed() < Duration::from_secs(10));
    world.server = standby;
    insert(&world, 6..=7).await;
    let (mut client, reply) = come_back(&world.server, first[1].text_of("cursor")).await;
    assert!(reply.is("subscribed"), "{}", reply.text);
    let missed = world.events_so_far(&mut client, "org_1").await;
    assert_eq!(ids(&missed), [3, 4, 5, 6, 7]);
}

/// Everybody is told to fetch anew: who is there, and who comes back later.
async fn told_to_fetch_anew(world: &World, client: &mut Client, old_cursor: &str) {
    let told = client.until("resync", |frame| frame.is("resync")).await;
    assert_eq!(told.text_of("reason"), "epoch_changed");
    world.server.until_ready().await;
    insert(world, 1000..=1000).await;
    client
        .until("row 1000", |frame| frame.json["new"]["id"] == 1000)
        .await;
    let (mut late, reply) = come_back(&world.server, old_cursor).await;
    assert!(reply.is("subscribed"), "{}", reply.text);
    let told = late.until("resync", |frame| frame.is("resync")).await;
    assert_eq!(told.text_of("reason"), "epoch_changed");
    let events = world.events_so_far(&mut late, "org_1").await;
    assert_eq!(ids(&events), Vec::<i64>::new());
}

#[tokio::test]
async fn a_dropped_slot_is_never_just_continued() {
    let world = World::start().await;
    let mut client = world.member("u1", "org_1").await;
    insert(&world, 1..=2).await;
    let first = world.events_so_far(&mut client, "org_1").await;
    let slot = world.database.slot();
    until_or(
        "the slot is dropped",
        || world.server.log(),
        async || {
            let end = format!(
                "SELECT pg_terminate_backend(active_pid, 1000) FROM pg_replication_slots WHERE slot_name = '{slot}' AND active"
            );
            world.sql.text(&end).await;
            let drop = format!("SELECT pg_drop_replication_slot('{slot}')");
            world.sql.batch_execute(&drop).await.is_ok()
        },
    )
    .await;
    told_to_fetch_anew(&world, &mut client, first[0].text_of("cursor")).await;
}

/// At the limit that the owner of the database has set, the slot goes and the disk stays.
#[tokio::test]
async fn at_the_limit_the_slot_is_dropped_when_the_owner_wants_that() {
    let limit = [("ROWCAST_WAL_LIMIT", "1 MiB"), ("ROWCAST_AT_LIMIT", "drop")];
    let world = World::prepared(TRACK, &limit).await;
    let mut client = world.member("u1", "org_1").await;
    insert(&world, 1..=1).await;
    let first = world.events_so_far(&mut client, "org_1").await;
    // Whoever reads the log needs all of it from the begin of the oldest transaction.
    let long = world.database.connect().await;
    long.exec("BEGIN; INSERT INTO orders VALUES (500, 'org_2', 1)")
        .await;
    world
        .exec("CREATE TABLE filler AS SELECT n, repeat('x', 100) FROM generate_series(1, 30000) n")
        .await;
    until_or(
        "the slot is dropped",
        || world.server.log(),
        async || world.server.log().contains("slot_dropped"),
    )
    .await;
    long.exec("COMMIT").await;
    told_to_fetch_anew(&world, &mut client, first[0].text_of("cursor")).await;
    let (_, metrics) = world.server.get("/metrics").await.unwrap();
    assert!(metrics.contains("rowcast_slot_drops_total 1"), "{metrics}");
}

/// PostgreSQL takes the log away from a reader that stands still: noticed, explained, made anew.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_that_lost_its_log_is_never_just_continued() {
    let cluster: Cluster = postgres::own_cluster(&[
        ("max_slot_wal_keep_size", "1MB"),
        ("max_wal_size", "32MB"),
        ("min_wal_size", "32MB"),
    ]);
    let world = World::in_cluster(&cluster, TRACK, &[]).await;
    let mut client = world.member("u1", "org_1").await;
    insert(&world, 1..=1).await;
    let first = world.events_so_far(&mut client, "org_1").await;
    signal(&world.server, "-STOP");
    let slot = world.database.slot();
    let lost = format!("SELECT wal_status FROM pg_replication_slots WHERE slot_name = '{slot}'");
    let deadline = Instant::now() + PATIENCE;
    while world.sql.text(&lost).await != "lost" {
        assert!(Instant::now() < deadline, "the slot is never lost");
        world
            .exec("CREATE TABLE fill AS SELECT generate_series(1, 100000) n; DROP TABLE fill")
            .await;
        world.exec("SELECT pg_switch_wal()").await;
        world.exec("CHECKPOINT").await;
    }
    signal(&world.server, "-CONT");
    told_to_fetch_anew(&world, &mut client, first[0].text_of("cursor")).await;
}

/// A polite stop acknowledges no more than a kill does: the next one knows the past, too.
#[tokio::test]
async fn a_polite_stop_leaves_the_past_for_the_next() {
    let mut world = World::start().await;
    let mut client = world.member("u1", "org_1").await;
    insert(&world, 1..=4).await;
    let first = world.events_so_far(&mut client, "org_1").await;
    signal(&world.server, "-TERM");
    client.until_closed().await;
    let begin = Instant::now();
    let free = format!(
        "SELECT NOT active FROM pg_replication_slots WHERE slot_name = '{}'",
        world.database.slot()
    );
    world.sql.until_true("the slot is free", &free).await;
    assert!(begin.elapsed() < Duration::from_secs(10));
    world.server = Server::start(&world.database, &[]).await;
    let (mut client, reply) = come_back(&world.server, first[1].text_of("cursor")).await;
    assert!(reply.is("subscribed"), "{}", reply.text);
    let missed = world.events_so_far(&mut client, "org_1").await;
    assert_eq!(ids(&missed), [3, 4]);
    assert_eq!(cursors(&missed), cursors(&first)[2..]);
}

/// Without a window nothing is left on the server's disk, and whoever comes back is told so.
#[tokio::test]
async fn without_a_window_the_past_is_forgotten_and_that_is_said() {
    let none = [("ROWCAST_HISTORY_RETENTION", "0 s")];
    let mut world = World::prepared(TRACK, &none).await;
    let mut client = world.member("u1", "org_1").await;
    insert(&world, 1..=4).await;
    let first = world.events_so_far(&mut client, "org_1").await;
    let confirmed = |world: &World, at: &str| {
        format!(
            "SELECT confirmed_flush_lsn >= '{at}' FROM pg_replication_slots WHERE slot_name = '{}'",
            world.database.slot()
        )
    };
    let at = world.sql.text("SELECT pg_current_wal_lsn()").await;
    let told = confirmed(&world, &at);
    world.sql.until_true("the slot is told", &told).await;
    world.server.kill();
    world.server = Server::start(&world.database, &none).await;
    let (mut client, _) = come_back(&world.server, first[1].text_of("cursor")).await;
    let told = client.until("resync", |frame| frame.is("resync")).await;
    assert_eq!(told.text_of("reason"), "too_old");
}
