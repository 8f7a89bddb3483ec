//! `GET /realtime/v1/events`: everything that a socket receives, over plain HTTP.

use serde_json::json;

use crate::harness::{
    events::{self, Events, Refused},
    fixture::TRACK,
    token, until,
    world::{World, subscribe},
};

pub(super) const PATH: &str = "/realtime/v1/events";

pub(super) fn bearer(user: &str) -> String {
    format!("Bearer {}", token::session(user))
}

pub(super) async fn get(world: &World, user: &str, query: &str) -> Result<Events, Refused> {
    let token = bearer(user);
    let headers = [("Authorization", token.as_str())];
    events::request(
        world.server.public,
        "GET",
        &format!("{PATH}{query}"),
        &headers,
    )
    .await
}

/// A stream of a member, as soon as the service knows of him.
pub(super) async fn stream(world: &World, user: &str, query: &str) -> Events {
    let mut found = None;
    until("the membership is known", async || {
        match get(world, user, query).await {
            Ok(stream) => found = Some(stream),
            Err(refused) => assert_eq!(refused.code(), "not_member", "{refused:?}"),
        }
        found.is_some()
    })
    .await;
    found.unwrap()
}

pub(super) async fn resumed(world: &World, user: &str, query: &str, last: &str) -> Events {
    let token = bearer(user);
    let headers = [("Authorization", token.as_str()), ("Last-Event-ID", last)];
    let target = format!("{PATH}{query}");
    let stream = events::request(world.server.public, "GET", &target, &headers).await;
    stream.unwrap_or_else(|refused| panic!("{refused:?}"))
}

/// A stream and a socket of one user get the same texts, byte for byte: rows, invalidations, what is said, and
/// where transactions end. The id is the cursor of the event.
#[tokio::test]
async fn sse_tells_what_a_socket_is_told() {
    let more = "SELECT rowcast.define_channel('room:*', 'public');
        CREATE TABLE notes (id int PRIMARY KEY, organization_id text, body json);
        SELECT rowcast.track('notes');";
    let world = World::prepared(&format!("{TRACK}{more}"), &[]).await;
    let mut socket = world.member("u1", "org_1").await;
    let both = json!({ "events": ["changes", "invalidations", "broadcasts"] });
    for channel in ["org:org_1", "room:7"] {
        let reply = socket.ask(subscribe(channel, both.clone())).await;
        assert!(reply.is("subscribed"), "{}", reply.text);
    }
    let query = "?channel=org:org_1&channel=room:7&events=changes,invalidations,broadcasts";
    let mut stream = stream(&world, "u1", query).await;
    let first = stream.next().await.unwrap();
    assert!(first.frame.is("auth_success"), "{}", first.frame.text);
    assert_eq!(first.frame.json["organizationId"], "org_1");
    assert!((1000..=5000).contains(&stream.retry.unwrap()));
    assert!(
        stream.head.contains("cache-control: no-store"),
        "{}",
        stream.head
    );
    stream
        .until("room:7", |frame| {
            frame.is("subscribed") && frame.text_of("channel") == "room:7"
        })
        .await;
    world
        .exec(
            "BEGIN;
             INSERT INTO materials SELECT 'm' || n, 'org_1', E'two\\nlines' FROM generate_series(1, 200) n;
             UPDATE materials SET title = 'x' WHERE id = 'm7';
             DELETE FROM materials WHERE id = 'm8';
             INSERT INTO notes VALUES (1, 'org_1', E'{\"a\":\\n  [1,\\r\\n2]}');
             SELECT rowcast.broadcast('org_1', 'done', '{\"n\":1}');
             SELECT rowcast.send('room:7', 'message', '{\"cursor\":\"00000009-9-9\"}', organization => 'org_1');
             COMMIT",
        )
        .await;
    let fence = world.fence("org_1").await;
    let told = socket.until_fence(fence).await;
    let events = stream.until_fence(fence).await;
    // A stream has one line for each event: line ends between the tokens of a json column become spaces.
    let texts = |frames: &[crate::harness::client::Frame]| -> Vec<String> {
        let one_line = |text: &str| text.replace(['\n', '\r'], " ");
        frames.iter().map(|frame| one_line(&frame.text)).collect()
    };
    assert_eq!(told.len(), 2 * 203 + 2);
    assert_eq!(texts(&told), texts(&events));
    for event in stream.seen.iter().filter(|event| event.frame.is_event()) {
        let id = event.id.as_ref().unwrap();
        assert!(
            id.split(',')
                .any(|part| part == event.frame.text_of("cursor")),
            "{event:?}"
        );
    }
    // Nobody can say anything, and how far everything is comes by itself.
    let position = stream
        .until("a position", |frame| frame.is("position"))
        .await;
    assert_eq!(
        position.id.as_deref(),
        Some(position.frame.text_of("cursor"))
    );
}

/// Cut off anywhere, several times: with the last id everything comes once and in order, on each channel, also
/// where the channels are at different places.
#[tokio::test]
async fn sse_resumes_without_gap_or_duplicate() {
    let more = "SELECT rowcast.define_channel('room:*', 'public');";
    let world = World::prepared(&format!("{TRACK}{more}"), &[]).await;
    world.member("u1", "org_1").await;
    let query = "?organization=org_1&channel=user:u1&channel=org:org_1&channel=room:7&events=changes,broadcasts";
    let mut last = {
        let mut first = stream(&world, "u1", query).await;
        for _ in 0..3 {
            first
                .until("subscribed", |frame| frame.is("subscribed"))
                .await;
        }
        first.last_id.unwrap()
    };
    let mut got = Vec::new();
    for round in 0..12_usize {
        world
            .exec(&format!(
                "BEGIN;
                 INSERT INTO orders SELECT {round} * 100 + n, 'org_1', 1 FROM generate_series(0, 9) n;
                 SELECT rowcast.send('room:7', 'said', to_jsonb({round} * 100 + n), organization => 'org_1') FROM generate_series(10, 19) n;
                 INSERT INTO orders SELECT {round} * 100 + n, 'org_1', 1 FROM generate_series(20, 29) n;
                 COMMIT"
            ))
            .await;
        let mut stream = resumed(&world, "u1", query, &last).await;
        // Some are read to the end, others cut in the middle of it.
        for _ in 0..7 + 5 * round {
            let event = stream.next().await.unwrap();
            if event.frame.is_event() {
                let json = &event.frame.json;
                let number = json["new"]["id"]
                    .as_i64()
                    .or(json["payload"].as_i64())
                    .unwrap();
                got.push((event.frame.text_of("channel").to_owned(), number));
            }
            assert!(!event.frame.is("resync"), "{}", event.frame.text);
        }
        last = stream.last_id.clone().unwrap();
    }
    let fence = world.fence("org_1").await;
    let mut stream = resumed(&world, "u1", query, &last).await;
    let mut said = 0;
    while !stream
        .seen
        .iter()
        .any(|event| event.frame.json["new"]["id"] == fence && event.frame.table() == "fences")
        || said < 1
    {
        let event = stream.next().await.unwrap();
        let json = &event.frame.json;
        if event.frame.is_event() && event.frame.table() != "fences" {
            let number = json["new"]["id"]
                .as_i64()
                .or(json["payload"].as_i64())
                .unwrap();
            got.push((event.frame.text_of("channel").to_owned(), number));
        }
        said = got.iter().filter(|(_, number)| *number == 1119).count();
    }
    for (channel, of) in [
        ("org:org_1", [0..10_i64, 20..30]),
        ("room:7", [10..20, 0..0]),
    ] {
        let wanted = (0..12).flat_map(|round| {
            of.clone()
                .into_iter()
                .flatten()
                .map(move |n| round * 100 + n)
        });
        let came = got
            .iter()
            .filter(|(name, _)| name == channel)
            .map(|(_, number)| *number);
        assert_eq!(
            came.collect::<Vec<_>>(),
            wanted.collect::<Vec<_>>(),
            "{channel}"
        );
    }
    assert!(got.iter().all(|(channel, _)| channel != "user:u1"));
}

/// A cursor that nothing is known of any more: `resync`, as an event with the id to go on from.
#[tokio::test]
async fn sse_says_resync() {
    let world = World::start().await;
    world.member("u1", "org_1").await;
    let mut stream = resumed(&world, "u1", "", "0000ffff-1-z").await;
    let resync = stream.until("a resync", |frame| frame.is("resync")).await;
    assert_eq!(resync.frame.json["reason"], "epoch_changed");
    world
        .exec("INSERT INTO orders VALUES (1, 'org_1', 1)")
        .await;
    let id = stream.event("orders").await.id.unwrap();
    // Several channels at different places, and what was handed out for others.
    let token = bearer("u1");
    for bad in [
        "x",
        "00000001-1-z,00000001-1-z,00000001-1-z",
        &format!("{id},"),
    ] {
        let headers = [("Authorization", token.as_str()), ("Last-Event-ID", bad)];
        let refused = events::request(world.server.public, "GET", PATH, &headers).await;
        let refused = refused.err().unwrap();
        assert_eq!(
            (refused.status, refused.code().as_str()),
            (400, "invalid_cursor"),
            "{bad}"
        );
    }
}

/// Masks, roles, column lists and filters are those of sockets; and no other organization is heard.
#[tokio::test]
async fn sse_masks_roles_filters_and_isolation() {
    let more = "CREATE TABLE staff (id int PRIMARY KEY, organization_id text, email text, grade int);
        SELECT rowcast.track('staff', mask => '{\"email\": {\"type\": \"email\", \"show\": {\"roles\": [\"hr\"]}}}');
        CREATE TABLE secrets (id int PRIMARY KEY, organization_id text);
        SELECT rowcast.track('secrets', required_roles => '{hr}');";
    let world = World::prepared(&format!("{TRACK}{more}"), &[]).await;
    world.member_with_role("hr", "org_1", "hr").await;
    world.member("u1", "org_1").await;
    world.member("u2", "org_2").await;
    let mut hr = stream(&world, "hr", "").await;
    let mut plain = stream(&world, "u1", "").await;
    let mut other = stream(&world, "u2", "?channel=org:org_2").await;
    let filter = "%5B%7B%22table%22:%22staff%22,%22columns%22:%5B%22id%22%5D,%22filter%22:%7B%22column%22:%22grade%22,%22op%22:%22gte%22,%22value%22:5%7D%7D,%7B%22table%22:%22fences%22%7D%5D";
    let mut filtered = stream(&world, "u1", &format!("?channel=org:org_1&tables={filter}")).await;
    world
        .exec(
            "INSERT INTO staff VALUES (1, 'org_1', 'ada@example.com', 3), (2, 'org_1', 'bob@example.com', 7);
             INSERT INTO secrets VALUES (1, 'org_1')",
        )
        .await;
    let fence = world.fence("org_1").await;
    let emails = |frames: &[crate::harness::client::Frame]| -> Vec<String> {
        let new = frames
            .iter()
            .filter(|frame| frame.table() == "staff")
            .map(|frame| &frame.json["new"]["email"]);
        new.map(|email| email.as_str().unwrap_or_default().to_owned())
            .collect()
    };
    let seen = hr.until_fence(fence).await;
    assert_eq!(emails(&seen), ["ada@example.com", "bob@example.com"]);
    assert!(seen.iter().any(|frame| frame.table() == "secrets"));
    let seen = plain.until_fence(fence).await;
    assert!(
        emails(&seen).iter().all(|email| email.contains('*')),
        "{seen:?}"
    );
    assert!(!seen.iter().any(|frame| frame.table() == "secrets"));
    let seen = filtered.until_fence(fence).await;
    let rows: Vec<_> = seen.iter().map(|frame| frame.json["new"].clone()).collect();
    assert_eq!(rows, [json!({ "id": 2 })]);
    // Masked for this user: refused before the stream begins.
    let masked = filter.replace("grade", "email");
    let refused = get(&world, "u1", &format!("?channel=org:org_1&tables={masked}"))
        .await
        .err()
        .unwrap();
    assert_eq!(
        (refused.status, refused.code().as_str()),
        (400, "masked_column")
    );

    let fence = world.fence("org_2").await;
    let seen = other.until_fence(fence).await;
    assert!(seen.is_empty(), "{seen:?}");
    assert!(
        other
            .seen
            .iter()
            .all(|event| !event.frame.text.contains("org_1"))
    );
    // Resumed from before all of it, still nothing of it.
    let mut other = resumed(
        &world,
        "u2",
        "?channel=org:org_2",
        hr.seen[1].frame.text_of("cursor"),
    )
    .await;
    assert!(other.until_fence(fence).await.is_empty());
}

/// The removal of a member ends the channel at its place in the log; a channel of the application ends, too.
#[tokio::test]
async fn sse_ends_with_the_membership() {
    let world = World::start().await;
    world.member("u1", "org_1").await;
    let mut stream = stream(&world, "u1", "").await;
    world
        .exec(
            "INSERT INTO orders VALUES (1, 'org_1', 1);
             DELETE FROM rowcast.memberships WHERE user_id = 'u1';
             INSERT INTO orders VALUES (2, 'org_1', 1)",
        )
        .await;
    stream.event("orders").await;
    let ended = stream.next().await.unwrap();
    assert!(ended.frame.is("unsubscribed"), "{}", ended.frame.text);
    assert_eq!(ended.frame.json["reason"], "membership_removed");
    assert!(stream.next().await.unwrap().frame.is("membership"));
    // Nothing but signs of life from here on.
    stream
        .until("a position", |frame| frame.is("position"))
        .await;
    assert_eq!(
        stream
            .seen
            .iter()
            .filter(|event| event.frame.table() == "orders")
            .count(),
        1
    );
    let refused = get(&world, "u1", "?organization=org_1")
        .await
        .err()
        .unwrap();
    assert_eq!(
        (refused.status, refused.code().as_str()),
        (403, "not_member")
    );
}

/// The token's end ends the stream, with the number that sockets are closed with, and without a call to come back
/// as before; a key that is revoked does the same.
#[tokio::test]
async fn sse_ends_with_the_token() {
    let world = World::start().await;
    world.member("u1", "org_1").await;
    drop(stream(&world, "u1", "").await);
    let short = token::sign(&json!({ "sub": "u1", "exp": token::now() + 3 }));
    let bearer = format!("bearer {short}");
    let headers = [("authorization", bearer.as_str())];
    let mut stream = events::request(world.server.public, "GET", PATH, &headers)
        .await
        .ok()
        .unwrap();
    let end = stream.until_closed().await;
    assert_eq!(end.json["code"], 4502);
    assert!(end.json["retryAfterMs"].is_null());
    let past = token::sign(&json!({ "sub": "u1", "exp": token::now() - 3600 }));
    let bearer = format!("Bearer {past}");
    let headers = [("Authorization", bearer.as_str())];
    let refused = events::request(world.server.public, "GET", PATH, &headers)
        .await
        .err()
        .unwrap();
    assert_eq!(
        (refused.status, refused.code().as_str()),
        (401, "token_expired")
    );
    assert!(
        refused
            .head
            .to_ascii_lowercase()
            .contains("www-authenticate: bearer")
    );

    let key: String = world.api_key("org_1").await;
    let bearer = format!("Bearer {key}");
    let headers = [("Authorization", bearer.as_str())];
    let mut stream = None;
    until("the key is known", async || {
        stream = events::request(world.server.public, "GET", PATH, &headers)
            .await
            .ok();
        stream.is_some()
    })
    .await;
    let mut stream = stream.unwrap();
    assert_eq!(
        stream.next().await.unwrap().frame.json["authMethod"],
        "api_key"
    );
    world
        .exec("UPDATE rowcast.api_keys SET revoked_at = now()")
        .await;
    assert_eq!(stream.until_closed().await.json["code"], 4503);
}

/// A stream that is not read is closed, and the others get all; it comes back with its last id and has lost nothing.
/// A service that stops says so on its streams, each with a time of its own.
#[tokio::test]
async fn sse_slow_readers_and_restarts() {
    let env = [("ROWCAST__LIMITS__OUTBOX_BYTES", "256 KiB")];
    let world = World::prepared(TRACK, &env).await;
    world.member("u1", "org_1").await;
    let mut healthy = stream(&world, "u1", "").await;
    let token = bearer("u1");
    let headers = [("Authorization", token.as_str())];
    let mut slow = events::narrow(world.server.public, PATH, &headers)
        .await
        .ok()
        .unwrap();
    world.exec("CREATE SEQUENCE s").await;
    let writing = async {
        for _ in 0..40 {
            world
                .exec("INSERT INTO materials SELECT nextval('s'), 'org_1', repeat('x', 4000) FROM generate_series(1, 100)")
                .await;
            healthy
                .until("the hundred", |frame| frame.json["last"] == true)
                .await;
        }
    };
    // Why it is closed can only be read for a while, so the slow one wakes up when it has happened.
    let waking = async {
        world.server.until_closed_a_socket("slow").await;
        slow.until_closed().await
    };
    let ((), end) = tokio::join!(writing, waking);
    assert_eq!(end.json["code"], 4001, "{}", end.text);
    assert!(end.json["retryAfterMs"].is_u64());
    let mut ids: Vec<i64> = Vec::new();
    let mut note = |stream: &Events| {
        let events = stream
            .seen
            .iter()
            .filter(|event| event.frame.table() == "materials");
        ids.extend(events.map(|event| {
            event.frame.json["new"]["id"]
                .as_str()
                .unwrap()
                .parse::<i64>()
                .unwrap()
        }));
    };
    note(&slow);
    let mut back = resumed(&world, "u1", "", &slow.last_id.unwrap()).await;
    let fence = world.fence("org_1").await;
    back.until_fence(fence).await;
    note(&back);
    assert_eq!(ids, (1..=4000).collect::<Vec<_>>());
    assert!(world.server.metric("event_streams").await >= 2.0);
    world.server.terminate();
    let end = healthy.until_closed().await;
    assert_eq!(end.json["code"], 4000);
    assert_eq!(end.json["retryAfterMs"], healthy.retry.unwrap());
}
