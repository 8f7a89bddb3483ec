//! Promise 11: memory is bounded by configured budgets, and one slow socket harms only itself.

use serde_json::json;
use tokio::net::TcpSocket;

use super::promise_11_ceiling::below_the_ceiling;
use crate::harness::{
    client::{Client, PATIENCE},
    fixture::TRACK,
    from_env, postgres, token,
    world::{World, subscribe},
};

/// Opens a socket that can hold very little unread.
async fn narrow(world: &World, user: &str) -> Client {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let stream = socket.connect(world.server.public).await.unwrap();
    let mut client = Client::over(stream, world.server.public).await;
    let reply = client.auth(&token::session(user), "org_1").await.unwrap();
    assert!(reply.is("auth_success"), "{}", reply.text);
    client
}

/// A socket that does not read is closed with the code that says to come back; the others get all.
#[tokio::test]
async fn promise_11_a_stalled_socket_is_closed_and_harms_nobody() {
    let env = [("ROWCAST__LIMITS__OUTBOX_BYTES", "256 KiB")];
    let world = World::prepared(TRACK, &env).await;
    let mut healthy = world.member("u1", "org_1").await;
    let mut stalled = narrow(&world, "u1").await;
    // Far more than the kernel's buffers and the budget hold.
    let rows: i64 = 4000;
    world.exec("CREATE SEQUENCE s").await;
    let database = world.database.clone();
    let writer = tokio::spawn(async move {
        let sql = database.connect().await;
        for _ in 0..rows / 100 {
            sql.exec("INSERT INTO materials SELECT nextval('s'), 'org_1', repeat('x', 4000) FROM generate_series(1, 100)")
                .await;
        }
        sql.exec("INSERT INTO fences VALUES (-1, 'org_1')").await;
    });
    // Why it is closed can only be read for a while, so the stalled one wakes up when it has happened.
    let waking = async {
        world.server.until_closed_a_socket("slow").await;
        stalled.until_closed().await
    };
    let (events, (code, reason)) = tokio::join!(healthy.until_fence(-1), waking);
    writer.await.unwrap();
    let ids: Vec<i64> = events
        .iter()
        .map(|event| event.json["new"]["id"].as_str().unwrap().parse().unwrap())
        .collect();
    assert_eq!(ids, (1..=rows).collect::<Vec<_>>());
    assert_eq!(code, 4001, "{reason}");
    assert!(stalled.events().count() < rows as usize);
    // What it got before is in order and without a hole: nothing is dropped silently.
    let got: Vec<i64> = stalled
        .events()
        .map(|event| event.json["new"]["id"].as_str().unwrap().parse().unwrap())
        .collect();
    assert_eq!(got, (1..=got.len() as i64).collect::<Vec<_>>());
    // And it may come back.
    Client::login(world.server.public, &token::session("u1"), "org_1").await;
}

/// A transaction of very many rows (`ROWCAST_TEST_BIG_ROWS=1000000` for the number of the promise) goes
/// through, and the process grows by less than its budgets.
async fn big_transaction(rows: u64, more: &str, row_by_row: bool) {
    let cluster = postgres::own_cluster(&[("shared_buffers", "256MB"), ("max_wal_size", "8GB")]);
    let track = TRACK.replace(");", &format!("{more});"));
    let env = [
        ("ROWCAST__REPLICATION__TRANSACTION_BYTES", "16 MiB"),
        ("ROWCAST__REPLICATION__QUEUE_BYTES", "8 MiB"),
        ("ROWCAST__LIMITS__OUTBOXES_BYTES", "32 MiB"),
        ("ROWCAST__LIMITS__OUTBOX_BYTES", "16 MiB"),
        ("ROWCAST__LIMITS__CONNECTIONS", "100"),
        ("ROWCAST__HISTORY__BYTES", "32 MiB"),
    ];
    let world = World::in_cluster(&cluster, &track, &env).await;
    let mut client = world.member("u1", "org_1").await;
    // Warm: what the first events allocate once is not growth.
    world
        .exec("INSERT INTO materials SELECT 'warm ' || n, 'org_1' FROM generate_series(1, 1000) n")
        .await;
    world.events_so_far(&mut client, "org_1").await;
    let (before, _) = world.server.memory_kib();
    let database = world.database.clone();
    let writer = tokio::spawn(async move {
        let sql = database.connect().await;
        sql.exec(&format!(
            "BEGIN;
             INSERT INTO materials SELECT n::text, 'org_1', 'title ' || n, 'status', repeat('x', 100)
                 FROM generate_series(1, {rows}) n;
             INSERT INTO fences VALUES (-1, 'org_1');
             COMMIT"
        ))
        .await;
    });
    let (mut changes, mut tables) = (0, 0);
    loop {
        let frame = client.next(PATIENCE * 10).await.unwrap();
        client.seen.clear();
        match (frame.table(), frame.json["recordId"].is_null()) {
            ("fences", _) => break,
            ("materials", _) if frame.is("postgres_changes") => changes += 1,
            ("materials", true) if frame.is("invalidate") => tables += 1,
            _ => {}
        }
    }
    writer.await.unwrap();
    let (_, highest) = world.server.memory_kib();
    // Budgets of 16 + 8 + 16 MiB, and as much again for what allocators keep.
    let growth = highest.saturating_sub(before) / 1024;
    assert!(
        growth < 80,
        "{rows} rows made the process grow by {growth} MiB (from {} MiB)",
        before / 1024
    );
    if row_by_row {
        assert_eq!((changes, tables), (rows, 0));
    } else {
        assert!(
            changes < rows && tables >= 1,
            "{changes} changes, {tables} table-level events"
        );
    }
    below_the_ceiling(&world.server).await;
    // The stream goes on.
    world
        .exec("INSERT INTO orders VALUES (1, 'org_1', 1)")
        .await;
    client.event("orders").await;
}

/// Above `max_rows` of the statement: one table-level event, said as such, instead of many rows.
#[tokio::test]
async fn promise_11_a_big_statement_becomes_one_table_level_event() {
    big_transaction(from_env("ROWCAST_TEST_BIG_ROWS", 150_000), "", false).await;
}

/// Row by row when the DBA allows so many: with the table events in the log behind the rows, the images
/// that go beyond the budget are shed.
#[tokio::test]
async fn promise_11_images_beyond_the_budget_are_shed_as_table_level_events() {
    let rows = from_env("ROWCAST_TEST_BIG_ROWS", 150_000);
    for storage in ["table", "log"] {
        big_transaction(
            rows,
            &format!(", max_rows => 1000000, storage => '{storage}'"),
            false,
        )
        .await;
    }
}

/// Many rows in many statements of one transaction: each statement is small, so all go row by row.
#[tokio::test]
async fn promise_11_a_long_transaction_streams_through_row_by_row() {
    let cluster = postgres::own_cluster(&[("shared_buffers", "256MB"), ("max_wal_size", "8GB")]);
    let env = [
        ("ROWCAST__REPLICATION__TRANSACTION_BYTES", "8 MiB"),
        ("ROWCAST__REPLICATION__QUEUE_BYTES", "8 MiB"),
        ("ROWCAST__LIMITS__OUTBOX_BYTES", "64 MiB"),
    ];
    let world = World::in_cluster(&cluster, TRACK, &env).await;
    let mut client = world.member("u1", "org_1").await;
    let rows: i64 = 40_000;
    let database = world.database.clone();
    let writer = tokio::spawn(async move {
        let sql = database.connect().await;
        sql.exec(&format!(
            "DO $$ BEGIN FOR i IN 1..{rows} / 100 LOOP
                INSERT INTO materials SELECT (i * 100 - 100 + n)::text, 'org_1', repeat('x', 500)
                    FROM generate_series(1, 100) n;
             END LOOP; INSERT INTO fences VALUES (-1, 'org_1'); END $$"
        ))
        .await;
    });
    let events = client.until_fence(-1).await;
    writer.await.unwrap();
    assert_eq!(events.len() as i64, rows);
    assert!(events.iter().all(|event| event.is("postgres_changes")));
}

/// Frames of a client that are too large, and subscriptions without end, are refused.
#[tokio::test]
async fn promise_11_what_a_client_may_cost_is_limited() {
    let env = [
        ("ROWCAST__LIMITS__SUBSCRIPTIONS", "5"),
        ("ROWCAST__LIMITS__MESSAGE_BYTES", "4 KiB"),
    ];
    let world = World::prepared(TRACK, &env).await;
    let mut client = world.member("u1", "org_1").await;
    let mut refused = 0;
    for n in 0..10 {
        let reply = client
            .ask(subscribe(&format!("tenant:org_1:t{n}"), json!({})))
            .await;
        refused += usize::from(reply.json["name"] == "too_many_subscriptions");
    }
    assert!((5..10).contains(&refused), "{refused} of 10 refused");
    let mut other = world.login("u1", "org_1").await;
    client
        .send(json!({ "type": "ping", "filler": "x".repeat(10_000) }))
        .await;
    assert_eq!(client.until_closed().await.0, 4506);
    world
        .exec("INSERT INTO orders VALUES (1, 'org_1', 1)")
        .await;
    other.event("orders").await;
}
