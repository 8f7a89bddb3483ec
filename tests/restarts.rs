//! Connections that break: the stream from Postgres, Postgres itself, the service. Open sockets either
//! go on without a hole and without a repetition, or are closed with a code that says to come back.

use std::time::{Duration, Instant};

use crate::harness::{
    client::Client, fixture::TRACK, postgres, server::Server, token, until, until_or, world::World,
};
use rowcast_embedded::StopMode;

/// The stream is cut again and again while rows are written: each arrives once, in order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_stream_goes_on_without_a_hole() {
    let world = World::start().await;
    let mut client = world.member("u1", "org_1").await;
    let rows = 300;
    for n in 0..rows {
        world
            .exec(&format!("INSERT INTO orders VALUES ({n}, 'org_1', 1)"))
            .await;
        if n % 100 == 50 {
            world
                .exec(&format!(
                    "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = '{}' AND active",
                    world.database.slot()
                ))
                .await;
        }
    }
    let events = world.events_so_far(&mut client, "org_1").await;
    let ids: Vec<i64> = events
        .iter()
        .map(|event| event.json["new"]["id"].as_i64().unwrap())
        .collect();
    assert_eq!(ids, (0..rows).collect::<Vec<_>>());
}

/// Postgres restarts: the service comes back by itself and tells what was committed meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_restarts() {
    let mut cluster = postgres::own_cluster(&[]);
    let world = World::in_cluster(&cluster, TRACK, &[]).await;
    let mut client = world.member("u1", "org_1").await;
    for (round, mode) in [StopMode::Fast, StopMode::Immediate]
        .into_iter()
        .enumerate()
    {
        world
            .sql
            .exec(&format!("INSERT INTO orders VALUES ({round}1, 'org_1', 1)"))
            .await;
        client.event("orders").await;
        cluster.restart(mode).unwrap();
        let sql = world.database.connect().await;
        sql.exec(&format!("INSERT INTO orders VALUES ({round}2, 'org_1', 1)"))
            .await;
        let event = client.event("orders").await;
        assert_eq!(event.json["new"]["id"], round * 10 + 2, "{}", event.text);
        // `World` keeps a connection of before: use a new one from here on.
        world.server.until_ready().await;
        if round == 0 {
            sql.exec("DELETE FROM orders").await;
            client.event("orders").await;
            client.event("orders").await;
            break;
        }
    }
}

/// `kill -9` of the service: its slot is taken over by the next one, which goes on.
#[tokio::test]
async fn the_service_is_killed_and_started_again() {
    let mut world = World::start().await;
    let mut client = world.member("u1", "org_1").await;
    world
        .exec("INSERT INTO orders VALUES (1, 'org_1', 1)")
        .await;
    client.event("orders").await;
    world.server.kill();
    client.until_closed_any().await;
    world
        .exec("INSERT INTO orders VALUES (2, 'org_1', 1)")
        .await;
    world.server = Server::start(&world.database, &[]).await;
    let mut client = Client::login(world.server.public, &token::session("u1"), "org_1").await;
    world
        .exec("INSERT INTO orders VALUES (3, 'org_1', 1)")
        .await;
    client
        .until("row 3", |frame| frame.json["new"]["id"] == 3)
        .await;
}

/// A polite stop says "come back" to every socket and ends with success.
#[tokio::test]
async fn a_polite_stop_tells_the_sockets_to_come_back() {
    let mut world = World::start().await;
    let mut client = world.member("u1", "org_1").await;
    world.server.terminate();
    assert_eq!(client.until_closed().await.0, 4000);
    let mut status = None;
    until("the service ends", async || {
        status = world.server.ended();
        status.is_some()
    })
    .await;
    assert!(status.unwrap().success(), "{status:?}");
}

/// What is older than the window is acknowledged: the slot does not hold WAL back, also while only other tables,
/// or nothing at all, is written.
#[tokio::test]
async fn the_slot_advances() {
    let world = World::prepared(TRACK, &[("ROWCAST_HISTORY_RETENTION", "1 s")]).await;
    let mut client = world.member("u1", "org_1").await;
    world
        .exec("INSERT INTO orders SELECT n, 'org_1', 1 FROM generate_series(1, 1000) n")
        .await;
    world.events_so_far(&mut client, "org_1").await;
    world
        .exec("CREATE TABLE untracked AS SELECT n FROM generate_series(1, 10000) n")
        .await;
    let at = world.sql.text("SELECT pg_current_wal_lsn()").await;
    let begin = Instant::now();
    let caught_up = format!(
        "SELECT confirmed_flush_lsn >= '{at}' FROM pg_replication_slots WHERE slot_name = '{}'",
        world.database.slot()
    );
    until_or(
        "the slot advances",
        || world.server.log(),
        async || world.sql.text(&caught_up).await == "t",
    )
    .await;
    assert!(begin.elapsed() < Duration::from_secs(20));
}
