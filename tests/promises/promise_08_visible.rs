//! Promise 8: nothing is told before a new snapshot on the primary sees it, a synchronous standby or not.
//!
//! With `synchronous_commit = remote_apply` a commit is in the log, and decodable, while the standby
//! has not confirmed it and nobody on the primary can see it.

use std::{process::Command, time::Duration};

use rowcast_embedded::{Cluster, Options};

use crate::harness::{
    client::End,
    fixture::TRACK,
    postgres::{self, Database},
    until,
    world::World,
};

/// A primary that waits for its standby, which is dropped with it.
struct Pair {
    primary: Cluster,
    _standby: Cluster,
}

fn pair() -> Pair {
    let mut primary = postgres::own_cluster(&[("wal_sender_timeout", "0")]);
    // A standby a little away: between a commit and its being visible there is time to read.
    let options = Options {
        major: postgres::major(),
        settings: vec![("recovery_min_apply_delay".into(), "5ms".into())],
        ..Options::default()
    };
    let standby = primary.start_standby("sb", options).unwrap();
    Pair {
        primary,
        _standby: standby,
    }
}

/// Stops or continues the process on the primary that feeds the standby.
async fn signal_standby_feed(database: &Database, signal: &str) {
    let sql = database.connect().await;
    let pid = sql
        .text("SELECT pid FROM pg_stat_replication WHERE application_name = 'sb'")
        .await;
    let done = Command::new("kill").args([signal, &pid]).status().unwrap();
    assert!(done.success());
}

async fn world_with_standby(pair: &Pair, env: &[(&str, &str)]) -> World {
    let world = World::in_cluster(&pair.primary, TRACK, env).await;
    world
        .exec("ALTER SYSTEM SET synchronous_standby_names = 'sb'")
        .await;
    world.exec("SELECT pg_reload_conf()").await;
    world
        .sql
        .until_true(
            "the standby is synchronous",
            "SELECT count(*) = 1 FROM pg_stat_replication WHERE sync_state = 'sync'",
        )
        .await;
    world
}

/// While the standby is deaf, the commit can be decoded but not seen, and nobody is told of it.
#[tokio::test]
async fn promise_08_no_event_before_the_commit_is_visible() {
    let pair = pair();
    let world = world_with_standby(&pair, &[]).await;
    let mut client = world.member("u1", "org_1").await;
    world
        .exec("SELECT pg_create_logical_replication_slot('control', 'test_decoding')")
        .await;
    signal_standby_feed(&world.database, "-STOP").await;
    let database = world.database.clone();
    let writer = tokio::spawn(async move {
        let sql = database.connect().await;
        sql.exec(
            "SET synchronous_commit = remote_apply; INSERT INTO orders VALUES (1, 'org_1', 1)",
        )
        .await;
    });
    // The log has it, for whoever decodes.
    until("the commit can be decoded", async || {
        let sql = "SELECT count(*) > 0 FROM pg_logical_slot_peek_changes('control', NULL, NULL)
                   WHERE data LIKE 'table public.orders: INSERT%'";
        world.sql.text(sql).await == "t"
    })
    .await;
    // Nobody sees it, and nobody is told: the one place where only time can show that nothing comes.
    let told = loop {
        match client.next(Duration::from_millis(1500)).await {
            Ok(frame) if frame.is_event() => break Ok(frame),
            Ok(_) => {}
            Err(end) => break Err(end),
        }
    };
    let visible = world.sql.text("SELECT count(*) FROM orders").await;
    signal_standby_feed(&world.database, "-CONT").await;
    assert_eq!(
        visible, "0",
        "the commit was visible too early for this test to mean anything"
    );
    assert_eq!(told.map(|frame| frame.text), Err(End::Silent));
    client.event("orders").await;
    assert_eq!(world.sql.text("SELECT count(*) FROM orders").await, "1");
    writer.await.unwrap();
}

/// Reads on receipt, as `invalidate` asks for, and counts how often the row was not there.
async fn misses(world: &World, rows: usize) -> usize {
    let mut client = world.member("u1", "org_1").await;
    let database = world.database.clone();
    let writer = tokio::spawn(async move {
        let sql = database.connect().await;
        sql.exec("SET synchronous_commit = remote_apply").await;
        for n in 0..rows {
            sql.exec(&format!("INSERT INTO orders VALUES ({n}, 'org_1', 1)"))
                .await;
        }
    });
    let reader = world.database.connect().await;
    let count = reader
        .prepare("SELECT count(*) FROM orders WHERE id = $1")
        .await
        .unwrap();
    let mut missed = 0;
    for _ in 0..rows {
        let event = client.event("orders").await;
        let id = i32::try_from(event.json["new"]["id"].as_i64().unwrap()).unwrap();
        let seen: i64 = reader.query_one(&count, &[&id]).await.unwrap().get(0);
        missed += usize::from(seen == 0);
    }
    writer.await.unwrap();
    missed
}

/// Whoever selects on receipt never misses the row. Without the barrier it is missed, which shows that
/// the test can tell.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn promise_08_a_reader_on_receipt_never_misses_the_row() {
    let pair = pair();
    let world = world_with_standby(&pair, &[]).await;
    assert_eq!(misses(&world, 300).await, 0);
    drop(world);
    let careless = World::in_cluster(
        &pair.primary,
        TRACK,
        &[("ROWCAST__REPLICATION__VISIBILITY_BARRIER", "false")],
    )
    .await;
    assert!(
        misses(&careless, 300).await > 0,
        "this machine is too fast to show the race"
    );
}
