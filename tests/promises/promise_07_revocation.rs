//! Promise 7: memberships are read from the same log as the data, so no event that was committed after
//! the removal of a member is delivered to that member, and every one committed before is.

use serde_json::json;

use crate::harness::{
    client::{Client, End, PATIENCE},
    token,
    world::World,
};

/// What the client got of the table `orders`, up to a ping that the test sends after the fact.
async fn order_ids_until_flushed(client: &mut Client) -> Vec<i64> {
    client.send(json!({ "type": "ping", "ref": "flush" })).await;
    loop {
        match client.next(PATIENCE).await {
            Ok(frame) if frame.is("pong") && frame.json["ref"] == "flush" => break,
            Ok(_) => {}
            Err(End::Closed(..)) => break,
            Err(end) => panic!("{end:?}"),
        }
    }
    client
        .events()
        .filter(|event| event.table() == "orders")
        .map(|event| event.json["new"]["id"].as_i64().unwrap())
        .collect()
}

/// A clock whose lock is held until the commit, so that its numbers are the commit order.
const CLOCK: &str = "CREATE TABLE clock (n int); INSERT INTO clock VALUES (0);";

const TICK_AND_ORDER: &str = "WITH tick AS (UPDATE clock SET n = n + 1 RETURNING n)
    INSERT INTO orders SELECT n, 'org_1', n FROM tick";

/// Removes a member many times while writers keep committing.
async fn removed_members_get_nothing_later(world: &World, remove: &str, add: &str) {
    let mut writers = Vec::new();
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    for _ in 0..2 {
        let (database, stop) = (world.database.clone(), stop.clone());
        writers.push(tokio::spawn(async move {
            let sql = database.connect().await;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                sql.exec(TICK_AND_ORDER).await;
            }
        }));
    }
    let mut witness = world.member("witness", "org_1").await;
    for round in 0..12 {
        world.exec(add).await;
        let mut removed = world.login("removed", "org_1").await;
        // Some events first, so that the stream is in full flow.
        for _ in 0..5 {
            removed.event("orders").await;
        }
        let at = world
            .sql
            .text(&format!(
                "BEGIN; UPDATE clock SET n = n + 1; {remove}; SELECT n FROM clock; COMMIT"
            ))
            .await;
        let at: i64 = at.parse().unwrap();
        world.events_so_far(&mut witness, "org_1").await;
        let got = order_ids_until_flushed(&mut removed).await;
        let first = got[0];
        let late: Vec<&i64> = got.iter().filter(|id| **id > at).collect();
        assert!(
            late.is_empty(),
            "round {round}: removed at {at}, yet got {late:?}"
        );
        // Everything before the removal arrived: numbers of transactions without a hole, up to `at`.
        let committed = world
            .sql
            .text(&format!(
                "SELECT count(*) FROM orders WHERE id BETWEEN {first} AND {at}"
            ))
            .await;
        assert_eq!(
            got.len().to_string(),
            committed,
            "round {round}: a hole before the removal"
        );
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    for writer in writers {
        writer.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn promise_07_no_event_after_the_removal() {
    let world = World::start().await;
    world.exec(CLOCK).await;
    removed_members_get_nothing_later(
        &world,
        "DELETE FROM rowcast.memberships WHERE user_id = 'removed'",
        "INSERT INTO rowcast.memberships VALUES ('removed', 'org_1', 'member')",
    )
    .await;
}

/// The same with the application's own table, whose rows are marked as gone by moving them away.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn promise_07_with_the_applications_own_membership_table() {
    let prepare = format!(
        "{}{CLOCK}
         CREATE TABLE staff (id int PRIMARY KEY, person text, company text, job text);
         SELECT rowcast.use_memberships('staff', 'person', 'company', 'job');
         INSERT INTO staff VALUES (2, 'witness', 'org_1', 'boss')",
        crate::harness::fixture::TRACK
    );
    let world = World::prepared(&prepare, &[]).await;
    // `World::member` writes to rowcast.memberships, which is of no meaning here: no harm.
    removed_members_get_nothing_later(
        &world,
        "UPDATE staff SET company = 'org_2' WHERE id = 1",
        "INSERT INTO staff VALUES (1, 'removed', 'org_1', 'clerk')
         ON CONFLICT (id) DO UPDATE SET company = 'org_1'",
    )
    .await;
}

/// The removed member is told, his other organization stays, and he cannot come back.
#[tokio::test]
async fn promise_07_the_removed_member_is_told() {
    let world = World::start().await;
    world.add_member("u1", "org_2", "member").await;
    let mut client = world.member("u1", "org_1").await;
    let reply = client
        .ask(json!({ "type": "subscribe", "channel": "org:org_2" }))
        .await;
    assert!(reply.is("subscribed"), "{}", reply.text);
    world
        .exec("DELETE FROM rowcast.memberships WHERE organization_id = 'org_1'")
        .await;
    let told = client
        .until("unsubscribed", |frame| frame.is("unsubscribed"))
        .await;
    assert_eq!(told.json["channel"], "org:org_1", "{}", told.text);
    assert_eq!(told.json["reason"], "membership_removed", "{}", told.text);
    world
        .exec(
            "INSERT INTO orders VALUES (1, 'org_1', 1); INSERT INTO orders VALUES (2, 'org_2', 2)",
        )
        .await;
    assert_eq!(client.event("orders").await.json["new"]["id"], 2);
    let again = client
        .ask(json!({ "type": "subscribe", "channel": "org:org_1" }))
        .await;
    assert_eq!(again.json["name"], "not_member", "{}", again.text);
    let mut other = Client::open(world.server.public).await;
    let refused = other.auth(&token::session("u1"), "org_1").await.unwrap();
    assert_eq!(refused.json["name"], "not_member", "{}", refused.text);
}

/// Losing a role takes effect in log order as well; a removal that is rolled back has none.
#[tokio::test]
async fn promise_07_roles_follow_the_log() {
    let track = "SELECT rowcast.track('fences', organization_column => 'organization_id');
         SELECT rowcast.track('orders', organization_column => 'organization_id', required_roles => '{admin}')";
    let world = World::prepared(track, &[]).await;
    let mut client = world.member_with_role("u1", "org_1", "admin").await;
    world
        .exec(
            "BEGIN; DELETE FROM rowcast.memberships; ROLLBACK;
             INSERT INTO orders VALUES (1, 'org_1', 1);
             UPDATE rowcast.memberships SET role = 'member';
             INSERT INTO orders VALUES (2, 'org_1', 1);
             UPDATE rowcast.memberships SET role = 'admin';
             INSERT INTO orders VALUES (3, 'org_1', 1);
             BEGIN;
             INSERT INTO orders VALUES (4, 'org_1', 1);
             UPDATE rowcast.memberships SET role = 'member';
             INSERT INTO orders VALUES (5, 'org_1', 1);
             COMMIT",
        )
        .await;
    let events = world.events_so_far(&mut client, "org_1").await;
    let ids: Vec<i64> = events
        .iter()
        .map(|event| event.json["new"]["id"].as_i64().unwrap())
        .collect();
    // What a transaction holds was committed together with the removal in it: not after it.
    assert!(ids == [1, 3, 4] || ids == [1, 3], "{ids:?}");
}
