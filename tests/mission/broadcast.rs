//! What an application says over HTTP, and clients on their sockets: Q7 to Q17, Q27 to Q31, X15, X20, X22 to X24.

use serde_json::{Value, json};

use crate::harness::{
    client::{Client, Frame},
    fixture::TRACK,
    http::{Answer, post},
    schema,
    world::{World, subscribe},
};

const TOKEN: &str = "a-token-of-the-application-server";

async fn with(channels: &str, env: &[(&str, &str)]) -> World {
    let env = [&[("ACCESS_TOKEN", TOKEN)], env].concat();
    World::prepared(&format!("{TRACK} {channels}"), &env).await
}

async fn say(world: &World, body: &Value) -> Answer {
    say_with(world, &[], &body.to_string()).await
}

async fn say_with(world: &World, headers: &[(&str, &str)], body: &str) -> Answer {
    let bearer = format!("Bearer {TOKEN}");
    let headers = [&[("authorization", &*bearer)], headers].concat();
    let answer = post(world.server.public, "/broadcast", &headers, body).await;
    schema::fits("/broadcast", "POST", answer.status, &answer.json);
    answer
}

fn broadcast(event: &str, more: Value) -> Value {
    let mut body = json!({ "type": "broadcast", "event": event, "organizationId": "org_1" });
    for (name, value) in more.as_object().unwrap() {
        body[name] = value.clone();
    }
    body
}

fn told(events: &[Frame]) -> Vec<&str> {
    events.iter().map(|event| event.text_of("event")).collect()
}

/// The frame up to its channel, which is what the application said.
fn said(frame: &Frame) -> &str {
    let end = frame.text.find(r#","channel":"#).unwrap();
    &frame.text[..end]
}

/// Q7 to Q12, Q28, Q31: the verbs of the document over HTTP, byte for byte what it prints; nobody can tell them
/// from changes that came from the log.
#[tokio::test]
async fn q07_q12_q28_verbs_over_http_look_like_row_changes() {
    let world = with("", &[]).await;
    let mut client = world.member("u1", "org_1").await;
    let mut other = world.member("u2", "org_2").await;
    let row = json!({ "id": "mat_123", "status": "pending" });
    let done = json!({ "id": "mat_123", "status": "completed" });
    let of = |mut body: Value| {
        body["organizationId"] = json!("org_1");
        body["table"] = json!("materials");
        body
    };
    for body in [
        of(json!({ "type": "insert", "new": row })),
        of(json!({ "type": "update", "new": done, "old": row })),
        of(json!({ "type": "delete", "old": { "id": "mat_123" } })),
        broadcast(
            "processing-complete",
            json!({ "payload": { "materialId": "mat_123" } }),
        ),
        broadcast(
            "extraction:started",
            json!({ "payload": { "materialId": "mat_123" } }),
        ),
    ] {
        let answer = say(&world, &body).await;
        assert_eq!(
            (answer.status, &answer.json["sockets"]),
            (200, &json!(1)),
            "{body}"
        );
        assert!(answer.json["cursor"].is_string());
    }
    world
        .exec("INSERT INTO orders VALUES (7, 'org_1', 1.50)")
        .await;
    let by_hand = r#"{"type":"insert","table":"orders","new":{"id":7,"organization_id":"org_1","total":1.50},"organizationId":"org_1"}"#;
    let answer = say_with(&world, &[], by_hand).await;
    assert_eq!(answer.status, 200, "{}", answer.json);
    let events = world.events_so_far(&mut client, "org_1").await;
    let expected = [
        r#"{"type":"postgres_changes","table":"materials","eventType":"INSERT","schema":"public","new":{"id":"mat_123","status":"pending"},"old":null"#,
        r#"{"type":"postgres_changes","table":"materials","eventType":"UPDATE","schema":"public","new":{"id":"mat_123","status":"completed"},"old":{"id":"mat_123","status":"pending"}"#,
        r#"{"type":"postgres_changes","table":"materials","eventType":"DELETE","schema":"public","new":null,"old":{"id":"mat_123"}"#,
    ];
    assert_eq!(events.len(), 7, "{events:#?}");
    for (event, expected) in events.iter().zip(expected) {
        assert_eq!(said(event), expected);
    }
    assert_eq!(
        told(&events[3..5]),
        ["processing-complete", "extraction:started"]
    );
    assert!(
        events[3].text.starts_with(
            r#"{"type":"broadcast","event":"processing-complete","payload":{"materialId":"mat_123"}"#
        ),
        "{}",
        events[3].text
    );
    // From the log, and by hand: the order of the two is that of the log, which tells when it is read.
    assert_eq!(said(&events[5]), said(&events[6]));
    let cursors: Vec<&str> = events.iter().map(|event| event.text_of("cursor")).collect();
    assert!(events.iter().all(|event| event.json["last"] == true));
    assert!(
        cursors.windows(2).all(|pair| pair[0] < pair[1]),
        "{cursors:?}"
    );
    assert!(world.events_so_far(&mut other, "org_2").await.is_empty());
}

/// Q13 to Q16: one user, some roles, or all; and nobody of another organization, whatever his name is there.
#[tokio::test]
async fn q13_q16_targets_over_http() {
    let world = with("", &[]).await;
    let mut anna = world.member("anna", "org_1").await;
    let mut bert = world.member_with_role("bert", "org_1", "admin").await;
    let mut carl = world.member_with_role("carl", "org_2", "admin").await;
    let sockets = async |body: Value| say(&world, &body).await.json["sockets"].clone();
    assert_eq!(sockets(broadcast("all", json!({}))).await, 2);
    assert_eq!(
        sockets(broadcast("one", json!({ "userId": "anna" }))).await,
        1
    );
    let roles = json!({ "targetRoles": ["admin", "editor"] });
    assert_eq!(sockets(broadcast("some", roles)).await, 1);
    assert_eq!(
        sockets(broadcast("nobody", json!({ "userId": "carl" }))).await,
        0
    );
    let insert = json!({ "type": "insert", "table": "notifications", "new": { "id": 1 },
        "organizationId": "org_1", "userId": "anna" });
    assert_eq!(sockets(insert).await, 1);
    let anna = world.events_so_far(&mut anna, "org_1").await;
    assert_eq!(told(&anna), ["all", "one", ""]);
    let bert = world.events_so_far(&mut bert, "org_1").await;
    assert_eq!(told(&bert), ["all", "some"]);
    assert!(world.events_so_far(&mut carl, "org_2").await.is_empty());
    let empty = say(&world, &broadcast("x", json!({ "targetRoles": [] }))).await;
    assert_eq!((empty.status, empty.code()), (400, "invalid_field"));
}

/// Q17 over HTTP: each sees what the configuration of the message shows him, live and when he comes back.
#[tokio::test]
async fn q17_masks_over_http() {
    let world = with("", &[]).await;
    let mut clients = Vec::new();
    let people = [("anna", "member"), ("bert", "hr"), ("carl", "admin")];
    for (user, role) in people {
        clients.push(world.member_with_role(user, "org_1", role).await);
    }
    let reply = clients[0].ask(subscribe("org:org_1", json!({}))).await;
    let before = reply.text_of("cursor").to_owned();
    let body = json!({ "type": "insert", "table": "employees", "organizationId": "org_1", "ownerId": "dora",
        "new": { "id": 7, "ssn": "123-45-6789", "salary": 5000, "email": "john@example.com" },
        "maskingConfig": {
            "ssn": { "type": "ssn", "show": { "roles": ["admin", "hr"] } },
            "salary": { "type": "redact", "show": { "roles": ["admin"] } },
            "email": { "type": "email", "show": { "roles": ["admin"], "or": "owner" } },
        } });
    let mut owner = world.member("dora", "org_1").await;
    let answer = say(&world, &body).await;
    assert_eq!(
        (answer.status, &answer.json["sockets"]),
        (200, &json!(4)),
        "{}",
        answer.json
    );
    let mut seen = Vec::new();
    for client in clients.iter_mut().chain([&mut owner]) {
        let events = world.events_so_far(client, "org_1").await;
        let [event] = &events[..] else {
            panic!("{events:#?}");
        };
        let row = event.json["new"].clone();
        seen.push(["ssn", "salary", "email"].map(|name| row[name] == body["new"][name]));
    }
    let (yes, no) = (true, false);
    assert_eq!(
        seen,
        [[no, no, no], [yes, no, no], [yes, yes, yes], [no, no, yes]]
    );
    let mut back = world.login("anna", "org_1").await;
    back.ask(subscribe("org:org_1", json!({ "cursor": before })))
        .await;
    back.until("the row", |frame| frame.table() == "employees")
        .await;
    for plain in ["123-45", "5000", "john@"] {
        assert!(
            !back.seen.iter().any(|frame| frame.text.contains(plain)),
            "{plain}"
        );
        assert!(
            !clients[0]
                .seen
                .iter()
                .any(|frame| frame.text.contains(plain)),
            "{plain}"
        );
    }
}

/// Q27: without ACCESS_TOKEN the route is off and says what to set; with one, nobody else gets in. The token
/// may come from a file.
#[tokio::test]
async fn q27_access_token() {
    let off = World::start().await;
    let answer = say(&off, &broadcast("x", json!({}))).await;
    assert_eq!((answer.status, answer.code()), (404, "broadcast_off"));
    assert!(answer.message().contains("ACCESS_TOKEN"), "{}", answer.json);
    drop(off);

    let file = std::env::temp_dir().join(format!("rowcast-token-{}", std::process::id()));
    std::fs::write(&file, format!("{TOKEN}\n")).unwrap();
    let env = [("ACCESS_TOKEN_FILE", file.to_str().unwrap())];
    let world = World::prepared(TRACK, &env).await;
    std::fs::remove_file(&file).unwrap();
    let body = broadcast("x", json!({})).to_string();
    for value in [
        "",
        TOKEN,
        "Bearer",
        "Bearer ",
        "Bearer a-token-of-the-application-serveR",
        "Bearer a-token-of-the-application-server2",
        "Basic a-token-of-the-application-server",
    ] {
        let headers = [("authorization", value)];
        let answer = post(world.server.public, "/broadcast", &headers, &body).await;
        assert_eq!(
            (answer.status, answer.code()),
            (401, "unauthorized"),
            "{value}"
        );
    }
    let answer = post(world.server.public, "/broadcast", &[], &body).await;
    assert_eq!(answer.status, 401);
    assert!(
        answer
            .head
            .to_ascii_lowercase()
            .contains("www-authenticate: bearer")
    );
    assert_eq!(say_with(&world, &[], &body).await.status, 200);
    let refused = world
        .server
        .metric(r#"broadcast_requests_total{reason="unauthorized"}"#);
    assert_eq!(refused.await, 8.0);
    assert!(!world.server.log().contains(TOKEN));
}

/// A batch is one transaction, in order, or nothing.
#[tokio::test]
async fn a_batch_over_http_is_one_transaction_or_nothing() {
    let world = with("", &[]).await;
    let mut client = world.member("u1", "org_1").await;
    let messages = json!({ "messages": [
        broadcast("first", json!({})),
        { "type": "insert", "table": "materials", "new": { "id": "m" }, "organizationId": "org_1" },
        broadcast("to-nobody", json!({ "userId": "nobody" })),
        broadcast("second", json!({})),
    ]});
    let answer = say(&world, &messages).await;
    let sockets: Vec<&Value> = answer.json["results"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| &one["sockets"])
        .collect();
    assert_eq!(sockets, [1, 1, 0, 1], "{}", answer.json);
    let wrong = json!({ "messages": [broadcast("never", json!({})), broadcast("", json!({}))] });
    let answer = say(&world, &wrong).await;
    assert_eq!((answer.status, answer.code()), (400, "invalid_field"));
    assert_eq!(answer.json["error"]["index"], 1);
    let events = world.events_so_far(&mut client, "org_1").await;
    assert_eq!(told(&events), ["first", "", "second"]);
    let last: Vec<bool> = events
        .iter()
        .map(|event| event.json["last"] == true)
        .collect();
    assert_eq!(last, [false, false, true]);
}

/// A request that comes twice with one key is said once; another body with the key is refused.
#[tokio::test]
async fn idempotency_keys_over_http() {
    let env = [("ROWCAST__LIMITS__IDEMPOTENCY_BYTES", "4 KiB")];
    let world = with("", &env).await;
    let mut client = world.member("u1", "org_1").await;
    let body = broadcast("once", json!({})).to_string();
    let key = [("idempotency-key", "k1")];
    let first = say_with(&world, &key, &body).await;
    let again = say_with(&world, &key, &body).await;
    assert_eq!((first.status, &first.json), (again.status, &again.json));
    assert!(
        again
            .head
            .to_ascii_lowercase()
            .contains("idempotency-replayed: true")
    );
    let other = say_with(&world, &key, &broadcast("other", json!({})).to_string()).await;
    assert_eq!(
        (other.status, other.code()),
        (422, "idempotency_key_reused")
    );
    let two = broadcast("two-keys", json!({ "idempotencyKey": "k2" })).to_string();
    let refused = say_with(&world, &key, &two).await;
    assert_eq!((refused.status, refused.code()), (400, "invalid_field"));
    // What was refused took no key.
    let of_body = broadcast("field", json!({ "idempotencyKey": "k2" }));
    assert_eq!(
        say(&world, &of_body).await.json,
        say(&world, &of_body).await.json
    );
    // Old answers make room for new ones.
    for n in 0..50 {
        let more = [("idempotency-key", &*format!("more-{n}"))];
        assert_eq!(
            say_with(
                &world,
                &more,
                &broadcast("more", json!({ "userId": "nobody" })).to_string()
            )
            .await
            .status,
            200
        );
    }
    assert!(world.server.metric("broadcast_kept_answers_bytes").await <= 4096.0);
    assert_eq!(say_with(&world, &key, &body).await.status, 200);
    let events = world.events_so_far(&mut client, "org_1").await;
    assert_eq!(
        told(&events),
        ["once", "field", "once"],
        "forgotten, so said again"
    );
}

/// X20, X22, X23: channels over HTTP by the same rules as from SQL; bodies are bounded; errors have codes.
#[tokio::test]
async fn x20_x22_x23_channels_and_bounds_over_http() {
    let env = [("ROWCAST__LIMITS__BROADCAST_BYTES", "64 KiB")];
    let world = with(
        "SELECT rowcast.define_channel('room:*', 'public', events => '{message}');
         SELECT rowcast.define_channel('announcements', 'public', scope => 'global');
         SELECT rowcast.declare_events('extraction', '{started}');",
        &env,
    )
    .await;
    let mut anna = world.member("anna", "org_1").await;
    let mut bert = world.member("bert", "org_2").await;
    for client in [&mut anna, &mut bert] {
        for channel in ["room:1", "announcements"] {
            let reply = client.ask(subscribe(channel, json!({}))).await;
            assert!(reply.is("subscribed"), "{}", reply.text);
        }
    }
    let on = |channel: &str, event: &str, organization: Value| json!({ "type": "broadcast", "channel": channel, "event": event, "organizationId": organization });
    for (body, sockets) in [
        (on("room:1", "message", json!("org_1")), 1),
        (on("room:2", "message", json!("org_1")), 0),
        (on("announcements", "hello", Value::Null), 2),
        (on("user:anna", "hello", Value::Null), 1),
        (on("org:org_2", "extraction:started", Value::Null), 1),
    ] {
        let answer = say(&world, &body).await;
        assert_eq!(
            (answer.status, &answer.json["sockets"]),
            (200, &json!(sockets)),
            "{body} {}",
            answer.json
        );
    }
    for (body, expected) in [
        (
            on("room:1", "message", Value::Null),
            (422, "organization_needed"),
        ),
        (
            on("room:1", "massage", json!("org_1")),
            (422, "undeclared_event"),
        ),
        (
            on("org:org_1", "extraction:startd", Value::Null),
            (422, "undeclared_event"),
        ),
        (
            on("rum:1", "message", json!("org_1")),
            (422, "unknown_channel"),
        ),
        (
            on("user:anna", "hello", json!("org_1")),
            (400, "invalid_field"),
        ),
        (json!({ "type": "shout" }), (400, "invalid_field")),
        (
            broadcast("x", json!({ "payload": "x".repeat(70_000) })),
            (413, "too_large"),
        ),
    ] {
        let answer = say(&world, &body).await;
        assert_eq!((answer.status, answer.code()), expected, "{}", answer.json);
    }
    let answer = say_with(&world, &[], "{").await;
    assert_eq!((answer.status, answer.code()), (400, "invalid_json"));
    let anna = world.events_so_far(&mut anna, "org_1").await;
    assert_eq!(told(&anna), ["message", "hello", "hello"]);
    let bert = world.events_so_far(&mut bert, "org_2").await;
    assert_eq!(told(&bert), ["hello", "extraction:started"]);
}

/// Q29: what is durable goes through the log: answered with a position behind it, told again after a crash, and
/// refused by the same rules.
#[tokio::test]
async fn q29_durable_broadcasts_go_through_the_log() {
    let mut world = with("SELECT rowcast.define_channel('room:*', 'public');", &[]).await;
    let mut client = world.member("anna", "org_1").await;
    let reply = client.ask(subscribe("org:org_1", json!({}))).await;
    let before = reply.text_of("cursor").to_owned();
    let batch = json!({ "durable": true, "idempotencyKey": "k", "messages": [
        broadcast("first", json!({ "payload": { "n": 1 }, "targetRoles": ["member"] })),
        { "type": "broadcast", "channel": "user:anna", "event": "second", "payload": [null] },
        broadcast("third", json!({ "userId": "anna" })),
    ]});
    let answer = say(&world, &batch).await;
    assert_eq!(
        (answer.status, &answer.json["durable"]),
        (200, &json!(true)),
        "{}",
        answer.json
    );
    assert_eq!(say(&world, &batch).await.json, answer.json);
    let behind = answer.json["cursor"].as_str().unwrap().to_owned();
    let events = world.events_so_far(&mut client, "org_1").await;
    assert_eq!(told(&events), ["first", "second", "third"], "once");
    assert_eq!(events[0].json["payload"], json!({ "n": 1 }));
    assert!(
        events
            .iter()
            .all(|event| event.text_of("cursor") < &*behind)
    );
    for (body, expected) in [
        (
            json!({ "type": "broadcast", "channel": "rum:1", "event": "x", "durable": true }),
            (422, "durable_refused"),
        ),
        (
            json!({ "type": "insert", "table": "t", "new": {}, "organizationId": "o", "durable": true }),
            (422, "durable_change"),
        ),
    ] {
        let answer = say(&world, &body).await;
        assert_eq!((answer.status, answer.code()), expected, "{}", answer.json);
    }
    world.server.kill();
    let env = [("ACCESS_TOKEN", TOKEN)];
    world.server = crate::harness::server::Server::start(&world.database, &env).await;
    let mut client = world.login("anna", "org_1").await;
    let start = client.events().count();
    let reply = client
        .ask(subscribe("org:org_1", json!({ "cursor": before })))
        .await;
    assert!(reply.is("subscribed"), "{}", reply.text);
    client
        .until("what was durable", |frame| {
            frame.text_of("event") == "third"
        })
        .await;
    let again: Vec<&str> = client
        .events()
        .skip(start)
        .map(|event| event.text_of("event"))
        .collect();
    assert!(again.contains(&"first"), "{again:?}");
}

/// X15, X23, X24: what a client says where the rule lets it: checked, with the sender put in by the service, to
/// the others and, if it wants, to itself.
#[tokio::test]
async fn x15_x23_clients_send_where_they_may() {
    let env = [
        ("ROWCAST__LIMITS__BROADCASTS_PER_SECOND", "0"),
        ("ROWCAST__LIMITS__BROADCASTS_BURST", "6"),
    ];
    let world = with(
        "SELECT rowcast.define_channel('room:*', 'public', relay => true, events => '{message,typing}');
         SELECT rowcast.define_channel('news', 'public');
         SELECT rowcast.define_channel('staff', 'role', roles => '{admin}', relay => true);",
        &env,
    )
    .await;
    let mut anna = world.member("anna", "org_1").await;
    let mut bert = world.member("bert", "org_1").await;
    let mut eve = world.member("eve", "org_2").await;
    for client in [&mut anna, &mut bert, &mut eve] {
        let reply = client.ask(subscribe("room:1", json!({}))).await;
        assert!(reply.is("subscribed"), "{}", reply.text);
    }
    let frame = |channel: &str, event: &str, more: Value| {
        let mut frame = json!({ "type": "broadcast", "channel": channel, "event": event,
            "payload": { "sender": "bert", "text": "hello" }, "sender": { "userId": "bert" } });
        for (name, value) in more.as_object().unwrap() {
            frame[name] = value.clone();
        }
        frame
    };
    let ask = async |client: &mut Client, channel: &str, event: &str, more: Value| {
        let reply = client.ask(frame(channel, event, more)).await;
        match reply.is("error") {
            true => reply.text_of("name").to_owned(),
            false => reply.text_of("type").to_owned(),
        }
    };
    // With a reference there is an answer, without one there is none.
    assert_eq!(ask(&mut anna, "room:1", "message", json!({})).await, "ack");
    anna.send(frame("room:1", "typing", json!({ "self": true })))
        .await;
    assert_eq!(
        ask(&mut anna, "room:1", "massage", json!({})).await,
        "undeclared_event"
    );
    assert_eq!(
        ask(&mut anna, "news", "message", json!({})).await,
        "send_forbidden"
    );
    assert_eq!(
        ask(&mut anna, "org:org_1", "message", json!({})).await,
        "send_forbidden"
    );
    assert_eq!(
        ask(&mut anna, "staff", "message", json!({})).await,
        "channel_forbidden"
    );
    assert_eq!(
        ask(&mut anna, "room:1", "message", json!({})).await,
        "send_limited"
    );
    assert_eq!(
        ask(
            &mut eve,
            "room:1",
            "message",
            json!({ "organizationId": "org_1" })
        )
        .await,
        "not_member"
    );
    let of_bert = world.events_so_far(&mut bert, "org_1").await;
    assert_eq!(told(&of_bert), ["message", "typing"]);
    for event in &of_bert {
        assert_eq!(event.json["sender"], json!({ "userId": "anna" }));
        assert_eq!(event.text_of("channel"), "room:1");
        assert_eq!(event.json["payload"]["text"], "hello");
    }
    let of_anna: Vec<&str> = anna.events().map(|event| event.text_of("event")).collect();
    assert_eq!(of_anna, ["typing"], "her own, as she wanted it");
    assert!(world.events_so_far(&mut eve, "org_2").await.is_empty());
    let limited = world
        .server
        .metric(r#"frames_refused_total{reason="send_limited"}"#);
    assert_eq!(limited.await, 1.0);
}
