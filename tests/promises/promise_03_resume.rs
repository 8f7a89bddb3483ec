//! Promise 3: who comes back with a cursor gets exactly what he missed, or is told that he cannot.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{
    client::{Client, Frame, PATIENCE},
    fixture::TRACK,
    token,
    world::{World, subscribe},
};

/// Logs in with more members in the auth frame; the `subscribed` frame of the organization.
async fn log_in(world: &World, more: Value) -> (Client, Frame) {
    let mut client = Client::open(world.server.public).await;
    let mut auth =
        json!({ "type": "auth", "token": token::session("u1"), "organizationId": "org_1" });
    for (name, value) in more.as_object().into_iter().flatten() {
        auth[name] = value.clone();
    }
    client.send(auth).await;
    let first = client.next(PATIENCE).await.unwrap();
    assert!(first.is("auth_success"), "{}", first.text);
    let subscribed = client
        .until("the organization", |frame| {
            frame.text_of("channel") == "org:org_1"
        })
        .await;
    (client, subscribed)
}

fn ids(events: &[Frame]) -> Vec<i64> {
    let id = |event: &Frame| event.json["new"]["id"].as_i64();
    events.iter().filter_map(id).collect()
}

/// Order ids of `orders` from `from` to `to`, each in a transaction of its own.
async fn insert(world: &World, from: i32, to: i32) {
    for id in from..=to {
        world
            .exec(&format!("INSERT INTO orders VALUES ({id}, 'org_1', {id})"))
            .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn promise_03_who_comes_back_gets_what_he_missed() {
    let world = World::start().await;
    let mut client = world.member("u1", "org_1").await;
    insert(&world, 1, 1).await;
    let mut cursor = client.event("orders").await.text_of("cursor").to_owned();
    let mut next = 2;
    for round in 0..5 {
        drop(client);
        insert(&world, next, next + 9).await;
        // Of another organization, and one that is rolled back.
        world
            .exec(
                "INSERT INTO labels VALUES (1, 'org_2', 'x'); DELETE FROM labels;
                   BEGIN; INSERT INTO orders VALUES (0, 'org_1', 0); ROLLBACK",
            )
            .await;
        let (mut back, subscribed) = match round % 2 {
            0 => log_in(&world, json!({ "cursor": cursor })).await,
            _ => {
                let (mut back, _) = log_in(&world, json!({})).await;
                let frame = subscribe("org:org_1", json!({ "cursor": cursor }));
                let reply = back.ask(frame).await;
                (back, reply)
            }
        };
        // Or the end of its transaction, if nothing that was missed is known yet.
        let end = format!("{}-z", cursor.rsplit_once('-').unwrap().0);
        let begins = subscribed.text_of("cursor");
        assert!(begins == cursor || begins == end, "{}", subscribed.text);
        // What comes while the past is told.
        insert(&world, next + 10, next + 19).await;
        let fence = world.fence("org_1").await;
        let events = back.until_fence(fence).await;
        let expected: Vec<i64> = (next..next + 20).map(i64::from).collect();
        assert_eq!(ids(&events), expected, "round {round}");
        cursor = events.last().unwrap().text_of("cursor").to_owned();
        next += 20;
        client = back;
    }
    assert!(!client.seen.iter().any(|frame| frame.is("resync")));
}

/// One change may be told in several frames. Wherever the line breaks between them, each comes again to who resumes, or
/// was there before; rows never come twice.
#[tokio::test]
async fn promise_03_a_line_that_breaks_inside_an_event_loses_nothing_of_it() {
    let world = World::start().await;
    let both = |more: Value| {
        let mut options = json!({ "events": ["changes", "invalidations", "broadcasts"] });
        for (name, value) in more.as_object().into_iter().flatten() {
            options[name] = value.clone();
        }
        subscribe("org:org_1", options)
    };
    let mut client = world.member("u1", "org_1").await;
    let subscribed = client.ask(both(json!({}))).await;
    world
        .exec(
            "INSERT INTO orders SELECT n, 'org_1', n FROM generate_series(1, 2) n;
             UPDATE orders SET id = id + 10;
             DELETE FROM orders WHERE id = 11",
        )
        .await;
    let told = |events: &[Frame]| -> Vec<String> {
        let text = |event: &Frame| {
            let row = (&event.json["new"], &event.json["old"]["id"]);
            let what = (event.text_of("type"), event.event_type());
            format!("{what:?} {row:?} {}", event.text_of("recordId"))
        };
        events.iter().map(text).collect()
    };
    let fence = world.fence("org_1").await;
    let live = client.until_fence(fence).await;
    let all = told(&live);
    // Two frames for each change, and one more for each key that changed.
    assert_eq!(all.len(), 2 * 2 + 2 * 3 + 2);
    let mut cursors = vec![subscribed.text_of("cursor")];
    cursors.extend(live.iter().map(|frame| frame.text_of("cursor")));
    for (seen, cursor) in cursors.into_iter().enumerate() {
        let (mut back, _) = log_in(&world, json!({})).await;
        back.ask(both(json!({ "cursor": cursor }))).await;
        let fence = world.fence("org_1").await;
        let rest = told(&back.until_fence(fence).await);
        let (before, expected) = all.split_at(seen);
        let again = rest.len() - expected.len();
        assert_eq!(rest[again..], *expected, "after {seen} frames");
        // What comes again are invalidations of the event in the middle of which the line broke.
        assert!(before.ends_with(&rest[..again]) && again <= 2, "{rest:#?}");
        assert!(
            rest[..again]
                .iter()
                .all(|frame| frame.contains("invalidate"))
        );
    }
}

#[tokio::test]
async fn promise_03_filters_and_columns_count_for_the_past() {
    let world = World::start().await;
    let mut client = world.member("u1", "org_1").await;
    let fence = world.fence("org_1").await;
    client.until_fence(fence).await;
    let cursor = client.events().last().unwrap().text_of("cursor").to_owned();
    drop(client);
    world
        .exec("INSERT INTO orders SELECT n, 'org_1', n FROM generate_series(1, 50) n")
        .await;
    world
        .exec("UPDATE orders SET total = 1000 WHERE id = 7; DELETE FROM orders WHERE id = 8")
        .await;
    let (mut client, _) = log_in(&world, json!({})).await;
    let tables = json!([{ "table": "orders", "columns": ["id"],
        "filter": { "column": "total", "op": "gte", "value": 45 } }, { "table": "fences" }]);
    let chosen = json!({ "tables": tables, "cursor": cursor });
    client.ask(subscribe("org:org_1", chosen)).await;
    let fence = world.fence("org_1").await;
    let events = client.until_fence(fence).await;
    let inserted = events.iter().filter(|event| event.event_type() == "INSERT");
    let inserted: Vec<Frame> = inserted.cloned().collect();
    assert_eq!(ids(&inserted), [45, 46, 47, 48, 49, 50]);
    assert!(
        inserted
            .iter()
            .all(|event| event.json["new"] == json!({ "id": event.json["new"]["id"] }))
    );
    let others: Vec<&str> = events
        .iter()
        .map(Frame::event_type)
        .filter(|kind| *kind != "INSERT")
        .collect();
    // Of a deleted row the log holds the key alone, so it may have matched.
    assert_eq!(others, ["UPDATE", "DELETE"]);
    // The transaction that inserted ended for him with a row that is the last of all.
    assert_eq!(inserted.last().unwrap().json["last"], true);
}

/// A past that is kept in too few bytes: told, and nothing of before comes.
#[tokio::test]
async fn promise_03_what_is_too_old_is_told() {
    let limits = [
        ("ROWCAST__HISTORY__ORGANIZATION_BYTES", "6 KiB"),
        ("ROWCAST_HISTORY_INVALIDATIONS", "0 s"),
    ];
    let world = World::prepared(TRACK, &limits).await;
    let mut client = world.member("u1", "org_1").await;
    insert(&world, 1, 1).await;
    let old = client.event("orders").await.text_of("cursor").to_owned();
    insert(&world, 2, 100).await;
    let fence = world.fence("org_1").await;
    let events = client.until_fence(fence).await;
    let recent = events[events.len() - 5].text_of("cursor").to_owned();
    drop(client);
    for (cursor, expected) in [(old.as_str(), &[][..]), (&recent, &[97, 98, 99, 100])] {
        let (mut client, subscribed) = log_in(&world, json!({ "cursor": cursor })).await;
        let fence = world.fence("org_1").await;
        let events = client.until_fence(fence).await;
        assert_eq!(ids(&events), expected);
        let resync = client
            .seen
            .iter()
            .find(|frame| frame.is("resync") && frame.text_of("channel") == "org:org_1");
        match expected.is_empty() {
            true => {
                let resync = resync.unwrap();
                assert_eq!(resync.text_of("reason"), "too_old");
                assert_eq!(resync.text_of("cursor"), subscribed.text_of("cursor"));
            }
            false => assert!(resync.is_none(), "{resync:?}"),
        }
    }
    // Of another epoch, and one that nobody handed out.
    let (client, _) = log_in(&world, json!({ "cursor": "7fffffff-1-z" })).await;
    drop(client);
    let (mut client, _) = log_in(&world, json!({})).await;
    let forged = subscribe("org:org_1", json!({ "cursor": "7fffffff-1-z" }));
    client.ask(forged).await;
    let resync = client.until("resync", |frame| frame.is("resync")).await;
    assert_eq!(resync.text_of("reason"), "epoch_changed");
    let nonsense = subscribe("org:org_1", json!({ "cursor": "yesterday" }));
    assert_eq!(client.ask(nonsense).await.json["name"], "invalid_cursor");
}

/// Much more than may wait for a socket was missed, and the reader takes its time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn promise_03_a_slow_reader_of_the_past_gets_all_of_it_and_harms_nobody() {
    let world = World::start().await;
    let mut other = world.member("u1", "org_1").await;
    let fence = world.fence("org_1").await;
    other.until_fence(fence).await;
    let cursor = other.events().last().unwrap().text_of("cursor").to_owned();
    // The other does not want the many, so it need not be quick to read them.
    let tables = json!([{ "table": "orders" }, { "table": "fences" }]);
    let few = json!({ "type": "subscribe", "channel": "org:org_1", "tables": tables });
    assert!(other.ask(few).await.is("subscribed"));
    let rows = 10_000;
    world
        .exec(&format!(
            "INSERT INTO materials SELECT n::text, 'org_1', repeat('x', 1500) FROM generate_series(1, {rows}) n"
        ))
        .await;
    let fence = world.fence("org_1").await;
    other.until_fence(fence).await;
    let (mut slow, _) = log_in(&world, json!({ "cursor": cursor })).await;
    // It does not read while others hear at once what is new.
    for id in 1..=20 {
        let begin = Instant::now();
        insert(&world, id, id).await;
        let event = other.event("orders").await;
        assert_eq!(event.json["new"]["id"], id);
        assert!(begin.elapsed() < Duration::from_secs(5));
    }
    let fence = world.fence("org_1").await;
    let events = slow.until_fence(fence).await;
    let id = |event: &Frame| event.json["new"]["id"].to_string().replace('"', "");
    let got: Vec<String> = events.iter().map(id).collect();
    let expected: Vec<String> = (1..=rows).chain(1..=20).map(|id| id.to_string()).collect();
    assert!(got == expected, "{} of {}", got.len(), expected.len());
    assert!(!slow.seen.iter().any(|frame| frame.is("resync")));
}
