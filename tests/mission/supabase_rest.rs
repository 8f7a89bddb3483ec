//! What clients of Supabase say over HTTP: section 2.8 of their protocol, and the contract's section 6.

use serde_json::{Value, json};

use crate::harness::{
    client::{Client, Frame},
    fixture::TRACK,
    http::{Answer, call},
    schema, token, until,
    world::{World, subscribe},
};

const TOKEN: &str = "a-token-of-the-application-server";
const BATCH: &str = "/realtime/v1/api/broadcast";
const JSON: (&str, &str) = ("content-type", "application/json");

async fn with(env: &[(&str, &str)]) -> World {
    let channels = "SELECT rowcast.define_channel('room:*', 'public', relay => true, events => '{message,typing now}');
        SELECT rowcast.define_channel('news', 'public');
        SELECT rowcast.define_channel('staff', 'role', roles => '{admin}', relay => true);
        SELECT rowcast.define_channel('global:*', 'public', scope => 'global', relay => true);
        SELECT rowcast.define_channel('secret:{id}', 'authorized', grants => true, relay => true);";
    let env = [&[("ACCESS_TOKEN", TOKEN)], env].concat();
    World::prepared(&format!("{TRACK} {channels}"), &env).await
}

async fn post(world: &World, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
    let headers = [headers, &[JSON]].concat();
    let answer = call(world.server.public, "POST", path, &headers, body).await;
    if answer.status == 202 {
        assert_eq!(answer.json, Value::Null);
        return answer;
    }
    // The answer is the documented one, and has a text for the client to show.
    let path = path.split('?').next().unwrap();
    let path = match path.split_once("/broadcast/") {
        Some((base, _)) => format!("{base}/broadcast/{{topic}}/events/{{event}}"),
        None => path.to_owned(),
    };
    schema::fits(&path, "POST", answer.status, &answer.json);
    answer
}

fn one(topic: &str, event: &str) -> Value {
    json!({ "topic": topic, "event": event, "payload": { "a": 1 }, "private": false })
}

fn batch(messages: &[Value]) -> String {
    json!({ "messages": messages }).to_string()
}

/// Status and code.
fn code(answer: &Answer) -> (u16, &str) {
    (answer.status, answer.json["code"].as_str().unwrap_or(""))
}

async fn on(client: &mut Client, channel: &str) {
    let reply = client.ask(subscribe(channel, json!({}))).await;
    assert!(reply.is("subscribed"), "{}", reply.text);
}

fn told(events: &[Frame]) -> Vec<String> {
    let tell = |event: &Frame| {
        format!(
            "{} {} {}",
            event.text_of("channel"),
            event.text_of("event"),
            event.json["payload"]
        )
    };
    events.iter().map(tell).collect()
}

/// With ACCESS_TOKEN anything on any channel: as one transaction, in order, to those who are on it.
#[tokio::test]
async fn a_server_says_what_it_wants() {
    let world = with(&[]).await;
    let mut anna = world.member("anna", "org_1").await;
    let mut eve = world.member("eve", "org_2").await;
    for client in [&mut anna, &mut eve] {
        on(client, "room:1").await;
        on(client, "global:all").await;
    }
    let bearer = format!("Bearer {TOKEN}");
    let service = [("authorization", &*bearer), ("apikey", "sb_publishable_x")];
    // The parameters of the socket's address are left on it by the client.
    let path =
        format!("{BATCH}?apikey=sb_publishable_x&vsn=2.0.0&log_level=info&organization=org_1");
    let all = [
        one("room:1", "message"),
        one("org:org_1", "done"),
        one("global:all", "hello"),
        one("user:anna", "for-you"),
    ];
    assert_eq!(
        post(&world, &path, &service, &batch(&all)).await.status,
        202
    );
    // One: topic and event are parts of the address, the body is the payload.
    let path = "/api/broadcast/room%3A1/events/typing%20now?organization=org_1&private=true";
    let answer = call(world.server.public, "POST", path, &service, r#"{"b":"ä"}"#).await;
    assert_eq!((answer.status, answer.json), (202, Value::Null));

    let of_anna = world.events_so_far(&mut anna, "org_1").await;
    let expected = [
        r#"room:1 message {"a":1}"#,
        r#"org:org_1 done {"a":1}"#,
        r#"global:all hello {"a":1}"#,
        r#"user:anna for-you {"a":1}"#,
        r#"room:1 typing now {"b":"ä"}"#,
    ];
    assert_eq!(told(&of_anna), expected);
    assert!(of_anna.iter().all(|event| event.json["sender"].is_null()));
    let of_eve = world.events_so_far(&mut eve, "org_2").await;
    assert_eq!(told(&of_eve), [r#"global:all hello {"a":1}"#]);

    // Nothing of a batch is said when one of it cannot be.
    let refused = async |messages: &[Value]| {
        let answer = post(&world, BATCH, &service, &batch(messages)).await;
        let field = answer.json["errors"].as_object();
        let field = field.and_then(|errors| errors.keys().next().cloned());
        (answer.status, answer.json["code"].to_string(), field)
    };
    let good = one("org:org_1", "never");
    let at = |code: &str, field: &str| (422, format!("{code:?}"), Some(field.to_owned()));
    assert_eq!(
        refused(&[good.clone(), one("nowhere", "x")]).await,
        at("unknown_channel", "topic")
    );
    assert_eq!(
        refused(&[good.clone(), one("room:1", "message")]).await,
        at("organization_needed", "topic")
    );
    let list = json!({ "topic": "org:org_1", "event": "x", "payload": [1] });
    assert_eq!(
        refused(&[good, list]).await,
        at("invalid_field", "messages[1].payload")
    );
    assert!(world.events_so_far(&mut anna, "org_1").await.is_empty());
    let said = world
        .server
        .metric(r#"broadcast_requests_total{reason="said"}"#);
    assert_eq!(said.await, 2.0);
}

/// With the token of a user, or with an API key, what that one may send on a socket.
#[tokio::test]
async fn users_and_keys_say_what_channels_let_clients_say() {
    let world = with(&[]).await;
    let mut anna = world.member("anna", "org_1").await;
    let mut eve = world.member("eve", "org_2").await;
    for client in [&mut anna, &mut eve] {
        on(client, "room:1").await;
    }
    let bearer = format!("Bearer {}", token::session("anna"));
    let user = [("authorization", &*bearer)];
    let say = async |headers: &[(&str, &str)], topic: &str, event: &str| {
        let path = format!("/api/broadcast/{topic}/events/{event}");
        post(&world, &path, headers, r#"{"a":1}"#).await
    };
    assert_eq!(say(&user, "room:1", "message").await.status, 202);
    // A client without a user sends its key alone, and nothing or something else as its token.
    let session = token::session("anna");
    let apikey = [("authorization", ""), ("apikey", &*session)];
    assert_eq!(say(&apikey, "room:1", "message").await.status, 202);
    let key = world.api_key("org_1").await;
    let key_bearer = format!("Bearer {key}");
    let of_key = [("authorization", &*key_bearer)];
    until("the key is known", async || {
        say(&of_key, "room:1", "message").await.status == 202
    })
    .await;
    let of_anna = world.events_so_far(&mut anna, "org_1").await;
    let senders: Vec<Value> = of_anna
        .iter()
        .map(|event| event.json["sender"].clone())
        .collect();
    assert_eq!(senders.len(), 3, "{of_anna:#?}");
    assert_eq!(
        senders[..2],
        [json!({ "userId": "anna" }), json!({ "userId": "anna" })]
    );
    assert!(senders[2]["apiKeyId"].is_string(), "{}", senders[2]);

    for (topic, event, expected) in [
        ("room:1", "massage", (422, "undeclared_event")),
        ("news", "message", (403, "send_forbidden")),
        ("org:org_1", "message", (403, "send_forbidden")),
        ("user:eve", "message", (403, "send_forbidden")),
        ("staff", "message", (403, "channel_forbidden")),
        ("secret:1", "message", (403, "channel_forbidden")),
        ("nowhere", "message", (422, "unknown_channel")),
    ] {
        assert_eq!(
            code(&say(&user, topic, event).await),
            expected,
            "{topic} {event}"
        );
    }
    let secret = say(&user, "secret:1", "message").await;
    let text = secret.json["message"].as_str().unwrap();
    assert!(text.contains("subscribe to it on a socket"), "{text}");
    let reads = world
        .sql
        .text("SELECT rowcast.create_api_key('org_1', may_send => false)")
        .await;
    let reads = format!("Bearer {reads}");
    until("the key is known", async || {
        let answer = say(&[("authorization", &*reads)], "room:1", "message").await;
        assert_ne!(answer.status, 202);
        code(&answer) == (403, "send_forbidden")
    })
    .await;
    // Another organization's room is another room, and not his.
    let path = format!("{BATCH}?organization=org_2");
    let body = batch(&[one("room:1", "message")]);
    assert_eq!(
        code(&post(&world, &path, &user, &body).await),
        (403, "not_member")
    );
    assert_eq!(
        code(&post(&world, &path, &of_key, &body).await),
        (403, "not_member")
    );
    // What one message of a batch may not, none of it does.
    let mixed = batch(&[one("room:1", "message"), one("news", "message")]);
    assert_eq!(
        code(&post(&world, BATCH, &user, &mixed).await),
        (403, "send_forbidden")
    );
    assert!(world.events_so_far(&mut anna, "org_1").await.is_empty());
    assert!(world.events_so_far(&mut eve, "org_2").await.is_empty());
    // Of several organizations the first is meant.
    world.add_member("anna", "org_0", "member").await;
    let mut both = world.login("anna", "org_0").await;
    on(&mut both, "room:1").await;
    assert_eq!(say(&user, "room:1", "message").await.status, 202);
    assert_eq!(world.events_so_far(&mut both, "org_0").await.len(), 1);
    assert!(world.events_so_far(&mut anna, "org_1").await.is_empty());
}

/// Who is nobody, what is no JSON, and what is too much.
#[tokio::test]
async fn refusals_are_those_that_clients_show() {
    let env = [
        ("ROWCAST__LIMITS__BROADCAST_BYTES", "10KiB"),
        ("ROWCAST__LIMITS__BROADCASTS_PER_SECOND", "0"),
        ("ROWCAST__LIMITS__BROADCASTS_BURST", "6"),
        ("ALLOWED_ORIGINS", "https://app.example.com"),
    ];
    let world = with(&env).await;
    let mut anna = world.member("anna", "org_1").await;
    on(&mut anna, "room:1").await;
    let body = batch(&[one("room:1", "message")]);
    let nobody: [&[(&str, &str)]; 6] = [
        &[],
        &[("apikey", "sb_publishable_x")],
        &[("authorization", "Bearer sb_publishable_x")],
        &[
            ("authorization", "Bearer wrong"),
            ("apikey", "sb_publishable_x"),
        ],
        // ACCESS_TOKEN is no key that is put into pages and addresses.
        &[("apikey", TOKEN)],
        &[("authorization", &format!("Basic {TOKEN}"))],
    ];
    for headers in nobody {
        let answer = post(&world, BATCH, headers, &body).await;
        assert_eq!(answer.status, 401, "{headers:?}");
        let text = answer.json["message"].as_str().unwrap();
        assert!(text.starts_with("Unauthorized"), "{text}");
    }
    let bearer = format!("Bearer {}", token::session("anna"));
    let user = ("authorization", &*bearer);
    let path = "/api/broadcast/room:1/events/message";
    for kind in ["application/octet-stream", "text/plain"] {
        let headers = [user, ("content-type", kind)];
        let answer = call(world.server.public, "POST", path, &headers, "{}").await;
        schema::fits(
            "/api/broadcast/{topic}/events/{event}",
            "POST",
            answer.status,
            &answer.json,
        );
        assert_eq!(code(&answer), (415, "unsupported_media_type"));
        assert!(answer.json["error"].is_string());
    }
    let large = format!(r#"{{"x":"{}"}}"#, "x".repeat(10 << 10));
    assert_eq!(
        code(&post(&world, path, &[user], &large).await),
        (413, "too_large")
    );
    let answer = call(world.server.public, "GET", path, &[user], "").await;
    assert_eq!(code(&answer), (405, "method_not_allowed"));

    // As much as a socket may send, whatever came of it; then no more, and a batch counts each of its messages.
    let many: Vec<Value> = (0..7).map(|_| one("room:1", "message")).collect();
    let answer = post(&world, BATCH, &[user], &batch(&many)).await;
    assert_eq!(code(&answer), (429, "send_limited"));
    let text = answer.json["message"].as_str().unwrap();
    assert!(text.contains("reduce the batch size"), "{text}");
    assert_eq!(post(&world, path, &[user], "[1]").await.status, 422);
    assert_eq!(
        post(&world, BATCH, &[user], &batch(&many[..4]))
            .await
            .status,
        202
    );
    let answer = post(&world, BATCH, &[user], &batch(&many[..2])).await;
    assert_eq!(code(&answer), (429, "send_limited"));
    assert_eq!(answer.json["message"], "You have exceeded your rate limit");
    assert!(answer.head.contains("retry-after: 1"), "{}", answer.head);
    assert_eq!(post(&world, path, &[user], "{}").await.status, 202);
    assert_eq!(post(&world, path, &[user], "{}").await.status, 429);
    assert_eq!(world.events_so_far(&mut anna, "org_1").await.len(), 5);
    let limited = world
        .server
        .metric(r#"broadcast_requests_total{reason="send_limited"}"#);
    assert_eq!(limited.await, 3.0);

    // Pages of other origins are refused; a page of ours may ask, send, and read what comes of it.
    let foreign = ("origin", "https://evil.example.com");
    let answer = post(&world, BATCH, &[foreign, user], &body).await;
    assert_eq!(code(&answer), (403, "origin_forbidden"));
    assert!(!answer.head.contains("access-control-allow-origin"));
    let ours = ("origin", "https://app.example.com");
    let asks = [
        ours,
        ("access-control-request-method", "POST"),
        (
            "access-control-request-headers",
            "apikey,authorization,content-type,x-mine",
        ),
    ];
    let answer = call(world.server.public, "OPTIONS", BATCH, &asks, "").await;
    assert_eq!(answer.status, 204);
    for line in [
        "access-control-allow-origin: https://app.example.com",
        "access-control-allow-methods: post",
        "access-control-allow-headers: apikey,authorization,content-type,x-mine",
        "vary: origin",
    ] {
        assert!(
            answer.head.to_ascii_lowercase().contains(line),
            "{}",
            answer.head
        );
    }
    let answer = post(&world, BATCH, &[ours], &body).await;
    assert_eq!(answer.status, 401);
    assert!(
        answer
            .head
            .contains("access-control-allow-origin: https://app.example.com")
    );
}
