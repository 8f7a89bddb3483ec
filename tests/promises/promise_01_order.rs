//! Promise 1: commit order on a channel, and the order of the writes inside a transaction.

use crate::harness::world::World;

/// Transactions that overlap arrive in the order of their commits, not of their beginnings.
#[tokio::test]
async fn promise_01_overlapping_transactions_arrive_in_commit_order() {
    let world = World::start().await;
    let mut client = world.member("u1", "org_1").await;
    let (early, late) = (
        world.database.connect().await,
        world.database.connect().await,
    );
    early
        .exec("BEGIN; INSERT INTO materials VALUES ('began first', 'org_1')")
        .await;
    late.exec("INSERT INTO materials VALUES ('committed first', 'org_1')")
        .await;
    early
        .exec("INSERT INTO materials VALUES ('began first, two', 'org_1'); COMMIT")
        .await;
    let events = world.events_so_far(&mut client, "org_1").await;
    let ids: Vec<&str> = events
        .iter()
        .map(|event| event.json["new"]["id"].as_str().unwrap())
        .collect();
    assert_eq!(ids, ["committed first", "began first", "began first, two"]);
}

/// Inside a transaction, over several tables and kinds of writes: the order of the writes.
#[tokio::test]
async fn promise_01_order_of_the_writes_inside_a_transaction() {
    let world = World::start().await;
    let mut client = world.member("u1", "org_1").await;
    world
        .exec(
            "BEGIN;
             INSERT INTO orders VALUES (1, 'org_1', 1.50);
             INSERT INTO materials VALUES ('m', 'org_1', 'a');
             UPDATE orders SET total = 2 WHERE id = 1;
             SAVEPOINT s;
             UPDATE materials SET title = 'never';
             ROLLBACK TO s;
             UPDATE materials SET title = 'b';
             DELETE FROM orders;
             DELETE FROM materials;
             INSERT INTO orders SELECT n, 'org_1', n FROM generate_series(1, 3) n;
             COMMIT",
        )
        .await;
    let events = world.events_so_far(&mut client, "org_1").await;
    let order: Vec<String> = events
        .iter()
        .map(|event| format!("{} {}", event.event_type(), event.table()))
        .collect();
    assert_eq!(
        order,
        [
            "INSERT orders",
            "INSERT materials",
            "UPDATE orders",
            "UPDATE materials",
            "DELETE orders",
            "DELETE materials",
            "INSERT orders",
            "INSERT orders",
            "INSERT orders",
        ]
    );
    assert!(
        events
            .iter()
            .all(|event| event.json["new"]["title"] != "never")
    );
    let last: Vec<i64> = events[6..]
        .iter()
        .map(|event| event.json["new"]["id"].as_i64().unwrap())
        .collect();
    assert_eq!(last, [1, 2, 3]);
}

/// Many writers: each takes a number under a lock that it holds until it commits, so the numbers
/// are the commit order.
#[tokio::test]
async fn promise_01_many_writers() {
    const WRITERS: usize = 4;
    const EACH: usize = 100;
    let world = World::start().await;
    let mut client = world.member("u1", "org_1").await;
    world
        .exec("CREATE TABLE clock (n int); INSERT INTO clock VALUES (0)")
        .await;
    let writers: Vec<_> = (0..WRITERS)
        .map(|_| {
            let database = world.database.clone();
            tokio::spawn(async move {
                let sql = database.connect().await;
                for _ in 0..EACH {
                    sql.exec(
                        "WITH tick AS (UPDATE clock SET n = n + 1 RETURNING n)
                         INSERT INTO orders SELECT n * 10 + i, 'org_1', n FROM tick, generate_series(0, 2) i",
                    )
                    .await;
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    let events = world.events_so_far(&mut client, "org_1").await;
    let ids: Vec<i64> = events
        .iter()
        .map(|event| event.json["new"]["id"].as_i64().unwrap())
        .collect();
    let expected: Vec<i64> = (1..=(WRITERS * EACH) as i64)
        .flat_map(|n| (0..3).map(move |i| n * 10 + i))
        .collect();
    assert_eq!(ids, expected);
}
