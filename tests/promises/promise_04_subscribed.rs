//! Promise 4: the reply to a subscribe carries the cursor from which everything is delivered. A row
//! written right after the reply arrives, every time.

use serde_json::json;

use crate::harness::{
    fixture::TRACK,
    from_env,
    world::{World, subscribe},
};

/// These clients subscribe far more often than any client should.
const UNLIMITED: &[(&str, &str)] = &[
    ("ROWCAST__LIMITS__MESSAGES_PER_SECOND", "1000000"),
    ("ROWCAST__LIMITS__JOINS", "off"),
    ("ROWCAST__LIMITS__MESSAGES_BURST", "1000000"),
];

/// `ROWCAST_TEST_SUBSCRIBES=10000` for the number of the promise.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn promise_04_a_row_written_right_after_the_reply_arrives() {
    const SOCKETS: u64 = 8;
    let each = from_env("ROWCAST_TEST_SUBSCRIBES", 1600) / SOCKETS;
    let world = World::prepared(TRACK, UNLIMITED).await;
    let mut tasks = Vec::new();
    for socket in 0..SOCKETS {
        let mut client = world.member(&format!("u{socket}"), "org_1").await;
        let sql = world.database.connect().await;
        tasks.push(tokio::spawn(async move {
            for n in 0..each {
                let channel = "org:org_1";
                let gone = client
                    .ask(json!({ "type": "unsubscribe", "channel": channel }))
                    .await;
                assert!(gone.is("unsubscribed"), "{}", gone.text);
                let reply = client.ask(subscribe(channel, json!({}))).await;
                assert!(reply.is("subscribed"), "{}", reply.text);
                assert!(!reply.text_of("cursor").is_empty(), "{}", reply.text);
                let id = format!("{socket}/{n}");
                sql.execute("INSERT INTO materials VALUES ($1, 'org_1')", &[&id])
                    .await
                    .unwrap();
                client
                    .until(&format!("row {id}"), |frame| frame.json["new"]["id"] == id)
                    .await;
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
}

/// The same for the subscription that comes with the auth reply.
#[tokio::test]
async fn promise_04_holds_for_the_auth_reply() {
    let world = World::start().await;
    world.member("u1", "org_1").await;
    for n in 0..100 {
        let token = crate::harness::token::session("u1");
        let mut client =
            crate::harness::client::Client::login(world.server.public, &token, "org_1").await;
        world
            .exec(&format!("INSERT INTO orders VALUES ({n}, 'org_1', 1)"))
            .await;
        client
            .until(&format!("row {n}"), |frame| frame.json["new"]["id"] == n)
            .await;
    }
}

/// What came before the reply is not delivered again, what comes after is, without a row between.
#[tokio::test]
async fn promise_04_under_a_stream_of_writes_nothing_is_missing() {
    let world = World::start().await;
    let mut client = world.member("u1", "org_1").await;
    let database = world.database.clone();
    let writer = tokio::spawn(async move {
        let sql = database.connect().await;
        for n in 0..600 {
            sql.exec(&format!("INSERT INTO orders VALUES ({n}, 'org_1', 1)"))
                .await;
        }
    });
    for _ in 0..20 {
        client
            .ask(json!({ "type": "unsubscribe", "channel": "org:org_1" }))
            .await;
        client.ask(subscribe("org:org_1", json!({}))).await;
        let start = client.seen.len();
        for _ in 0..10 {
            if writer.is_finished() {
                break;
            }
            client.event("orders").await;
        }
        let ids: Vec<i64> = client.seen[start..]
            .iter()
            .filter(|frame| frame.is_event())
            .map(|frame| frame.json["new"]["id"].as_i64().unwrap())
            .collect();
        assert!(
            ids.windows(2).all(|pair| pair[0] + 1 == pair[1]),
            "a hole: {ids:?}"
        );
    }
    writer.await.unwrap();
}
