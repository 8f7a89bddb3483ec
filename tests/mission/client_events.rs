//! What clients send to the application: X10 to X15, X24, C16 to C19; and what is refused.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{
    client::{Client, Frame},
    fixture::TRACK,
    until_or,
    world::{World, subscribe},
};

/// The role as which functions of the tests are called, and the schema where they are.
pub const APPLICATION: &str = "
DO $$ BEGIN CREATE ROLE rowcast_test_app; EXCEPTION WHEN duplicate_object OR unique_violation THEN END $$;
CREATE SCHEMA app;
GRANT USAGE ON SCHEMA app TO rowcast_test_app;
ALTER DEFAULT PRIVILEGES IN SCHEMA app GRANT ALL ON TABLES TO rowcast_test_app;
ALTER DEFAULT PRIVILEGES IN SCHEMA app GRANT ALL ON SEQUENCES TO rowcast_test_app;
SELECT rowcast.grant_caller('rowcast_test_app');
SELECT rowcast.grant_sender('rowcast_test_app');
";

/// A service that calls functions as that role, after more SQL.
pub async fn with(sql: &str, env: &[(&str, &str)]) -> World {
    let role = ("ROWCAST__APPLICATION__ROLE", "rowcast_test_app");
    let key = ("ROWCAST__APPLICATION__API_KEY_ROLE", "rowcast_test_app");
    let env = [&[role, key], env].concat();
    World::prepared(&format!("{TRACK} {APPLICATION} {sql}"), &env).await
}

/// An `event` frame.
pub fn event(channel: &str, event: &str, data: Value) -> Value {
    json!({ "type": "event", "channel": channel, "event": event, "data": data })
}

/// Sends an event and returns the answer.
pub async fn ask(client: &mut Client, channel: &str, name: &str, data: Value) -> Frame {
    client.ask(event(channel, name, data)).await
}

/// What the handler returned; panics with what came instead.
pub async fn answer(client: &mut Client, channel: &str, name: &str, data: Value) -> Value {
    let reply = ask(client, channel, name, data).await;
    assert!(reply.is("event_reply"), "{}", reply.text);
    reply.json["data"].clone()
}

/// Number and name of the error, and the application's code and sentence.
pub fn refused(frame: &Frame) -> (u64, &str, &str, &str) {
    assert!(frame.is("error"), "{}", frame.text);
    let number = frame.json["code"].as_u64().unwrap_or_default();
    let (name, reason) = (frame.text_of("name"), frame.text_of("reason"));
    (number, name, reason, frame.text_of("message"))
}

pub async fn on(client: &mut Client, channel: &str) {
    let reply = client.ask(subscribe(channel, json!({}))).await;
    assert!(reply.is("subscribed"), "{}", reply.text);
}

/// The socket of a machine, with a key made for it.
pub async fn machine(world: &World, organization: &str) -> Client {
    let make = format!(
        "SELECT rowcast.create_api_key('{organization}', roles => '{{member}}', name => 'bot')"
    );
    let key = world.sql.text(&make).await;
    let mut found = None;
    until_or(
        "the key is known",
        || world.server.log(),
        async || {
            let mut client = Client::open(world.server.public).await;
            let reply = client.auth(&key, organization).await;
            let accepted = reply.is_ok_and(|frame| frame.is("auth_success"));
            found = accepted.then_some(client);
            accepted
        },
    )
    .await;
    found.unwrap()
}

pub const CURSORS: &str = r#"
SELECT rowcast.define_channel('document:{id}', 'public');
SELECT rowcast.define_client_event('document:*', 'cursor_move', relay => 'cursor_update',
    input => '{"position": "object"}', throttle_per_second => 20);
"#;

/// X13 and X15: a cursor goes to the other viewers, with the identity of the socket and whatever the client says.
#[tokio::test]
async fn x13_x15_a_relay_says_who_it_was() {
    let world = with(CURSORS, &[]).await;
    let mut anna = world.member("anna", "org_1").await;
    let mut bert = world.member("bert", "org_1").await;
    let mut carl = world.member("carl", "org_2").await;
    for client in [&mut anna, &mut bert, &mut carl] {
        on(client, "document:7").await;
    }
    let forged = json!({ "position": { "x": 1, "y": 2 }, "user_id": "bert" });
    let reply = ask(&mut anna, "document:7", "cursor_move", forged).await;
    assert!(reply.is("event_reply") && reply.json["data"] == Value::Null);
    assert_eq!(reply.text_of("channel"), "document:7");
    let events = world.events_so_far(&mut bert, "org_1").await;
    let [moved] = &events[..] else {
        panic!("{events:#?}");
    };
    assert_eq!(moved.text_of("event"), "cursor_update");
    assert_eq!(
        moved.json["payload"],
        json!({ "user_id": "anna", "position": { "x": 1, "y": 2 } })
    );
    assert!(!moved.text.contains("forged"));
    assert!(world.events_so_far(&mut anna, "org_1").await.is_empty());
    // The document of this name in another organization is another one.
    assert!(world.events_so_far(&mut carl, "org_2").await.is_empty());
}

/// C16 with X13: 20 a second at most, the first at once, and the last one always.
#[tokio::test]
async fn c16_cursor_moves_are_throttled_and_the_last_arrives() {
    let world = with(CURSORS, &[]).await;
    let mut anna = world.member("anna", "org_1").await;
    let mut bert = world.member("bert", "org_1").await;
    on(&mut bert, "document:7").await;
    let began = Instant::now();
    for n in 1..=150 {
        let mut frame = event(
            "document:7",
            "cursor_move",
            json!({ "position": { "x": n } }),
        );
        frame["ref"] = json!(n);
        anna.send(frame).await;
    }
    let moved = |frame: &Frame, x: u64| frame.json["payload"]["position"]["x"] == x;
    bert.until("the last move", |frame| moved(frame, 150)).await;
    let most = began.elapsed().as_millis() / 50 + 2;
    let moves: Vec<u64> = bert
        .events()
        .filter_map(|frame| frame.json["payload"]["position"]["x"].as_u64())
        .collect();
    assert_eq!(moves.first(), Some(&1));
    assert!(moves.is_sorted(), "{moves:?}");
    assert!(moves.len() as u128 <= most, "{} of {most}", moves.len());
    // Every one has its answer: done, or dropped.
    anna.until("the last answer", |frame| frame.json["ref"] == 150)
        .await;
    let answers: Vec<&Frame> = anna
        .seen
        .iter()
        .filter(|frame| frame.is("event_reply"))
        .collect();
    assert_eq!(answers.len(), 150);
    let done = answers.iter().filter(|frame| frame.json["dropped"] != true);
    assert_eq!(done.count(), moves.len());
    let dropped = r#"client_events_total{outcome="throttled"}"#;
    let dropped = world.server.metric(dropped).await;
    assert_eq!(dropped as usize, 150 - moves.len());
}

/// C17: with a leading edge, what comes too fast is dropped.
#[tokio::test]
async fn c17_a_leading_edge_drops_the_rest() {
    let world = with(
        "SELECT rowcast.define_channel('document:{id}', 'public');
         SELECT rowcast.define_client_event('document:*', 'like', relay => 'liked',
             throttle_per_second => 1, throttle_edge => 'leading');",
        &[],
    )
    .await;
    let mut anna = world.member("anna", "org_1").await;
    let mut bert = world.member("bert", "org_1").await;
    on(&mut bert, "document:7").await;
    let began = Instant::now();
    let mut done = 0;
    for n in 0..10 {
        let reply = ask(&mut anna, "document:7", "like", json!({ "n": n })).await;
        assert!(reply.is("event_reply"), "{}", reply.text);
        done += usize::from(reply.json["dropped"] != true);
    }
    let events = world.events_so_far(&mut bert, "org_1").await;
    assert_eq!(events.len(), done);
    assert_eq!(
        events[0].json["payload"],
        json!({ "n": 0, "user_id": "anna" })
    );
    assert!(done as u64 <= 1 + began.elapsed().as_secs(), "{done}");
    // Another document has a throttle of its own, and so has another socket.
    let reply = ask(&mut anna, "document:8", "like", json!({})).await;
    assert_eq!(reply.json["dropped"], Value::Null);
    let reply = ask(&mut bert, "document:7", "like", json!({})).await;
    assert_eq!(reply.json["dropped"], Value::Null);
}

/// C18: 100 in a window of 60 s, for each user over all his sockets, with the sentence of the document.
#[tokio::test]
async fn c18_a_hundred_a_minute_for_each_user() {
    let world = with(
        "SELECT rowcast.define_channel('document:{id}', 'public');
         SELECT rowcast.define_client_event('document:*', 'act', relay => 'acted', rate_limit => 100);
         SELECT rowcast.define_client_event('document:*', 'also', relay => 'acted', rate_limit => 100);
         SELECT rowcast.define_client_event('document:*', 'else', relay => 'acted', rate_limit => 100, rate_key => 'other');",
        &[
            ("ROWCAST__LIMITS__BROADCASTS_PER_SECOND", "1000"),
            ("ROWCAST__LIMITS__BROADCASTS_BURST", "1000"),
            ("ROWCAST__LIMITS__MESSAGES_PER_SECOND", "1000"),
            ("ROWCAST__LIMITS__MESSAGES_BURST", "1000"),
        ],
    )
    .await;
    let mut first = world.member("anna", "org_1").await;
    let mut second = world.login("anna", "org_1").await;
    let mut bert = world.member("bert", "org_1").await;
    for n in 0..100 {
        let (client, name) = match n % 3 {
            0 => (&mut first, "act"),
            1 => (&mut second, "act"),
            _ => (&mut second, "also"),
        };
        answer(client, &format!("document:{n}"), name, json!({})).await;
    }
    for client in [&mut first, &mut second] {
        let reply = ask(client, "document:1", "act", json!({})).await;
        assert_eq!(
            refused(&reply),
            (
                404,
                "rate_limit_exceeded",
                "",
                "Rate limit exceeded. Try again later."
            )
        );
        let after = reply.json["retryAfterMs"].as_u64().unwrap();
        assert!((1..=60_000).contains(&after), "{after}");
    }
    answer(&mut first, "document:1", "else", json!({})).await;
    answer(&mut bert, "document:1", "act", json!({})).await;
    let limited = r#"client_events_total{outcome="rate_limited"}"#;
    assert_eq!(world.server.metric(limited).await, 2.0);
}

/// The window ends: what was refused is taken again.
#[tokio::test]
async fn c18_a_window_ends() {
    let world = with(
        "SELECT rowcast.define_channel('document:{id}', 'public');
         SELECT rowcast.define_client_event('document:*', 'act', relay => 'acted', rate_limit => 2, rate_window => '2 s');",
        &[],
    )
    .await;
    let mut anna = world.member("anna", "org_1").await;
    let began = Instant::now();
    answer(&mut anna, "document:1", "act", json!({})).await;
    let mut refusals = 0;
    let mut taken = 1;
    while began.elapsed() < Duration::from_secs(20) && (refusals == 0 || taken < 3) {
        match ask(&mut anna, "document:1", "act", json!({})).await {
            reply if reply.is("event_reply") => taken += 1,
            reply => {
                assert_eq!(refused(&reply).0, 404);
                refusals += 1;
                let after = reply.json["retryAfterMs"].as_u64().unwrap();
                tokio::time::sleep(Duration::from_millis(after)).await;
            }
        }
    }
    assert!(taken >= 3 && refusals >= 1, "{taken} {refusals}");
}

/// X10 and X23: the event is exact, the pattern may be wide, and the most specific one counts; what is not
/// defined, not allowed, or not what was declared is refused by number, and nothing is sent.
#[tokio::test]
async fn x10_x15_x23_what_is_not_defined_is_refused() {
    let world = with(
        r#"SELECT rowcast.define_channel('room:{id}', 'public', parameters => '{"id": "int"}');
           SELECT rowcast.define_channel('staff', 'role', roles => '{admin}');
           SELECT rowcast.define_client_event('room:*', 'wave', relay => 'waved',
               input => '{"to": {"type": "text", "maxLength": 5}, "n": {"type": "int", "required": false}}', max_bytes => 60);
           SELECT rowcast.define_client_event('room:9', 'wave', relay => 'waved_in_nine');
           SELECT rowcast.define_client_event('room:*', 'close', relay => 'closed', required_roles => '{admin}');
           SELECT rowcast.define_client_event('staff', 'wave', relay => 'waved');"#,
        &[],
    )
    .await;
    let mut anna = world.member("anna", "org_1").await;
    let mut bert = world.member_with_role("bert", "org_1", "admin").await;
    for channel in ["room:7", "room:9", "staff"] {
        on(&mut bert, channel).await;
    }
    let long = "x".repeat(70);
    let cases = [
        (event("room:7", "waves", json!({ "to": "a" })), 330),
        (event("room:7", "Wave", json!({ "to": "a" })), 330),
        (event("org:org_1", "wave", json!({ "to": "a" })), 330),
        (event("hall:7", "wave", json!({ "to": "a" })), 300),
        (event("room:x", "wave", json!({ "to": "a" })), 300),
        (event("room:7", "close", json!({})), 332),
        (event("staff", "wave", json!({})), 301),
        (event("room:7", "wave", json!({ "to": 7 })), 331),
        (event("room:7", "wave", json!({ "to": "toolong" })), 331),
        (event("room:7", "wave", json!({ "to": null })), 331),
        (event("room:7", "wave", json!({})), 331),
        (event("room:7", "wave", json!({ "to": "a", "n": 1.5 })), 331),
        (
            event("room:7", "wave", json!({ "to": "a", "role": "admin" })),
            331,
        ),
        (event("room:7", "wave", json!([1])), 331),
        (event("room:7", "wave", json!({ "to": "a\0" })), 331),
        (event("room:7", "wave", json!({ "to": long })), 331),
    ];
    for (frame, code) in cases {
        let reply = anna.ask(frame.clone()).await;
        assert_eq!(refused(&reply).0, code, "{frame}: {}", reply.text);
        if code == 331 {
            assert!(reply.text_of("message").contains("data"), "{}", reply.text);
            assert_eq!(reply.text_of("event"), "wave");
        }
    }
    // Of another organization, whether there is such a room or not.
    let mut frame = event("room:7", "wave", json!({ "to": "a" }));
    frame["organizationId"] = json!("org_2");
    let reply = anna.ask(frame).await;
    assert_eq!(refused(&reply).0, 206);
    // An error without a ref says which event it is about.
    anna.send(event("room:7", "nothing", json!({}))).await;
    let error = anna.until("an error", |frame| frame.is("error")).await;
    assert_eq!(
        (error.text_of("channel"), error.text_of("event")),
        ("room:7", "nothing")
    );

    answer(&mut anna, "room:7", "wave", json!({ "to": "b", "n": 3 })).await;
    answer(&mut anna, "room:9", "wave", json!({ "anything": true })).await;
    let events = world.events_so_far(&mut bert, "org_1").await;
    let told: Vec<(&str, &Value)> = events
        .iter()
        .map(|event| (event.text_of("event"), &event.json["payload"]))
        .collect();
    assert_eq!(
        told,
        [
            ("waved", &json!({ "to": "b", "n": 3, "user_id": "anna" })),
            (
                "waved_in_nine",
                &json!({ "anything": true, "user_id": "anna" })
            ),
        ]
    );
    for outcome in ["forbidden", "invalid"] {
        let name = format!("client_events_total{{outcome=\"{outcome}\"}}");
        assert_eq!(world.server.metric(&name).await, 9.0, "{outcome}");
    }
}

/// Definitions are followed in the log: what is defined, changed or dropped holds for what comes after.
#[tokio::test]
async fn definitions_are_followed() {
    let world = with(
        "SELECT rowcast.define_channel('room:{id}', 'public', events => '{waved}');",
        &[],
    )
    .await;
    let mut anna = world.member("anna", "org_1").await;
    let code = async |client: &mut Client| {
        let reply = ask(client, "room:7", "wave", json!({})).await;
        reply.json["code"].as_u64().unwrap_or_default()
    };
    assert_eq!(code(&mut anna).await, 330);
    let becomes = async |client: &mut Client, world: &World, sql: &str, wanted: u64| {
        world.exec(sql).await;
        world.events_so_far(client, "org_1").await;
        assert_eq!(code(client).await, wanted, "{sql}");
    };
    let define = "SELECT rowcast.define_client_event('room:*', 'wave', relay => 'waved')";
    becomes(&mut anna, &world, define, 0).await;
    let roles = "SELECT rowcast.define_client_event('room:*', 'wave', relay => 'waved', required_roles => '{admin}')";
    becomes(&mut anna, &world, roles, 332).await;
    // The channel declares its events, and a relay is no way around that.
    let other = "SELECT rowcast.define_client_event('room:*', 'wave', relay => 'shouted')";
    becomes(&mut anna, &world, other, 310).await;
    becomes(&mut anna, &world, define, 0).await;
    // A row by hand that cannot be read is no rule.
    let by_hand = "UPDATE rowcast.client_events SET required_roles = '{NULL}'";
    becomes(&mut anna, &world, by_hand, 330).await;
    becomes(&mut anna, &world, define, 0).await;
    becomes(
        &mut anna,
        &world,
        "SELECT rowcast.drop_client_event('room:*', 'wave')",
        330,
    )
    .await;
    becomes(&mut anna, &world, define, 0).await;
    becomes(&mut anna, &world, "TRUNCATE rowcast.client_events", 330).await;
    becomes(&mut anna, &world, define, 0).await;
    // Whoever may not listen any more may not send.
    world.exec("DELETE FROM rowcast.memberships").await;
    until_or(
        "the membership has ended",
        || world.server.log(),
        async || code(&mut anna).await == 206,
    )
    .await;
}

/// A flood of events that nobody defined ends in a close, and one of defined events in refusals.
#[tokio::test]
async fn a_flood_ends_in_refusals() {
    let world = with(CURSORS, &[]).await;
    let mut anna = world.member("anna", "org_1").await;
    for _ in 0..30 {
        anna.send(event("document:7", "nothing", json!({}))).await;
    }
    assert_eq!(anna.until_closed().await.0, 4505);
    let mut anna = world.login("anna", "org_1").await;
    // As many throttled pairs as a socket may have at a time, and more.
    for n in 0..100 {
        let channel = format!("document:{n}");
        anna.send(event(&channel, "cursor_move", json!({ "position": {} })))
            .await;
    }
    let reply = anna.ask(json!({ "type": "ping" })).await;
    assert!(reply.is("pong"));
    assert!(
        anna.seen
            .iter()
            .all(|frame| !frame.is("error") || refused(frame).0 == 333)
    );
}
