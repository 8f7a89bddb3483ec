//! `/admin/…`: lists, closing, revoking; who may ask.

use serde_json::{Value, json};

use crate::harness::{
    client::{Client, PATIENCE},
    fixture::TRACK,
    http::{Answer, call},
    schema, token, until,
    world::{World, subscribe},
};

pub(super) const TOKEN: &str = "an-access-token-of-at-least-32-bytes!";

pub(super) async fn world(more: &str) -> World {
    let env = [
        ("ACCESS_TOKEN", TOKEN),
        // Sockets that nobody reads while questions are asked are to stay.
        ("ROWCAST__LIMITS__SILENCE", "10 min"),
    ];
    World::prepared(&format!("{TRACK}{more}"), &env).await
}

pub(super) async fn admin(world: &World, method: &str, path: &str, body: Value) -> Answer {
    let bearer = format!("Bearer {TOKEN}");
    let body = if body.is_null() {
        String::new()
    } else {
        body.to_string()
    };
    let path = format!("/admin/{path}");
    let headers = [("Authorization", bearer.as_str())];
    let answer = call(world.server.public, method, &path, &headers, &body).await;
    // What is no address, or another method, is in no document.
    if path != "/admin/nothing" && answer.status != 405 {
        schema::fits(&path, method, answer.status, &answer.json);
    }
    answer
}

async fn get(world: &World, path: &str) -> Value {
    let answer = admin(world, "GET", path, Value::Null).await;
    assert_eq!(answer.status, 200, "{path}: {}", answer.json);
    answer.json
}

/// Nobody without the token, whatever is asked; wrong questions are named.
#[tokio::test]
async fn admin_is_for_the_holder_of_the_token() {
    let off = World::start().await;
    let headers = [("Authorization", "Bearer x")];
    let answer = call(off.server.public, "GET", "/admin/connections", &headers, "").await;
    assert_eq!((answer.status, answer.code()), (404, "admin_off"));
    let world = world("").await;
    for path in [
        "connections",
        "channels",
        "explain",
        "disconnect",
        "revoke",
        "nothing",
    ] {
        let method = if matches!(path, "disconnect" | "revoke") {
            "POST"
        } else {
            "GET"
        };
        let session = format!("Bearer {}", token::session("u1"));
        for header in ["Bearer wrong", &session, "Basic x"] {
            let headers = [("Authorization", header)];
            let path = format!("/admin/{path}");
            let answer = call(world.server.public, method, &path, &headers, "{}").await;
            assert_eq!(
                (answer.status, answer.code()),
                (401, "unauthorized"),
                "{path} {header}"
            );
        }
    }
    for (method, path, body, status, code) in [
        ("GET", "nothing", Value::Null, 400, "invalid_field"),
        ("POST", "connections", json!({}), 405, "method_not_allowed"),
        ("GET", "disconnect", Value::Null, 405, "method_not_allowed"),
        (
            "GET",
            "connections?limit=0",
            Value::Null,
            400,
            "invalid_field",
        ),
        (
            "GET",
            "connections?limit=1001",
            Value::Null,
            400,
            "invalid_field",
        ),
        (
            "GET",
            "connections?who=x",
            Value::Null,
            400,
            "invalid_field",
        ),
        ("POST", "disconnect", json!({}), 400, "invalid_field"),
        (
            "POST",
            "disconnect",
            json!({"user": "u", "code": 4000}),
            400,
            "invalid_field",
        ),
        (
            "POST",
            "disconnect",
            json!({"user": "u", "code": 17}),
            400,
            "invalid_field",
        ),
        (
            "POST",
            "disconnect",
            json!({"user": "u", "reason": "x".repeat(300)}),
            400,
            "invalid_field",
        ),
        (
            "POST",
            "disconnect",
            json!({"everybody": true}),
            400,
            "invalid_field",
        ),
        (
            "POST",
            "revoke",
            json!({"reason": "x".repeat(20_000)}),
            413,
            "bad_body",
        ),
        (
            "POST",
            "revoke",
            json!({"channel": "no rule"}),
            422,
            "database_refused",
        ),
        (
            "POST",
            "explain",
            json!({"user": "u"}),
            400,
            "invalid_field",
        ),
        (
            "POST",
            "explain",
            json!({"organization": "o"}),
            400,
            "invalid_field",
        ),
        (
            "GET",
            "explain?user=u&organization=o&record=1",
            Value::Null,
            400,
            "invalid_field",
        ),
    ] {
        let answer = admin(&world, method, path, body).await;
        assert_eq!(
            (answer.status, answer.code()),
            (status, code),
            "{method} {path}: {}",
            answer.json
        );
    }
    assert!(
        world
            .server
            .metric("admin_requests_total{reason=\"unauthorized\"}")
            .await
            > 10.0
    );
}

/// Who is connected to what, in pages and by user, key and organization; how many are on each channel.
#[tokio::test]
async fn admin_lists_connections_and_channels() {
    let world = world("SELECT rowcast.define_channel('room:*', 'public');").await;
    let mut ours = Vec::new();
    for n in 0..7 {
        ours.push(world.member(&format!("u{n}"), "org_1").await);
    }
    let other = world.member("u1", "org_2").await;
    for client in ours.iter_mut().take(3) {
        client.ask(subscribe("room:7", json!({}))).await;
    }
    let key: String = world.api_key("org_1").await;
    let mut machine = None;
    until("the key is known", async || {
        let mut client = Client::open(world.server.public).await;
        let known = client
            .auth(&key, "org_1")
            .await
            .is_ok_and(|frame| frame.is("auth_success"));
        machine = known.then_some(client);
        known
    })
    .await;
    until("those without a key are gone", async || {
        get(&world, "connections").await["open"] == 9
    })
    .await;

    let (mut seen, mut after) = (Vec::new(), Value::from(0));
    while !after.is_null() {
        let page = get(&world, &format!("connections?limit=4&after={after}")).await;
        seen.extend(page["connections"].as_array().unwrap().clone());
        after = page["next"].clone();
    }
    assert_eq!(seen.len(), 9, "{seen:#?}");
    let count = async |query: &str| {
        let page = get(&world, &format!("connections?{query}")).await;
        page["connections"].as_array().unwrap().len()
    };
    assert_eq!(count("organization=org_1").await, 8);
    assert_eq!(count("organization=org_2").await, 1);
    assert_eq!(count("user=u1").await, 2);
    assert_eq!(count("user=u1&organization=org_2").await, 1);
    let id = key.split('_').nth(1).unwrap();
    let machines = get(&world, &format!("connections?apiKey={id}")).await;
    let found = &machines["connections"][0];
    assert_eq!(
        (&found["apiKeyId"], &found["userId"]),
        (&json!(id), &Value::Null),
        "{machines}"
    );
    assert!(
        !machines.to_string().contains(&key),
        "the key itself is shown nowhere"
    );

    let channels = get(&world, "channels").await;
    let of = |name: &str| {
        let all = channels["channels"].as_array().unwrap();
        let found = all.iter().find(|one| one["channel"] == name);
        found
            .map(|one| one["connections"].clone())
            .unwrap_or_default()
    };
    assert_eq!(of("org:org_1"), 8);
    assert_eq!(
        (of("org:org_2"), of("room:7"), of("user:u1")),
        (json!(1), json!(3), json!(2))
    );
    assert_eq!(
        channels["channels"][0]["channel"], "org:org_1",
        "the fullest first"
    );
    assert_eq!(
        (&channels["all"], &channels["complete"]),
        (&json!(10), &json!(true))
    );
    let few = get(&world, "channels?prefix=room:&limit=1").await;
    assert_eq!(
        few["channels"],
        json!([{"channel": "room:7", "organizationId": "org_1", "connections": 3}])
    );
    drop((ours, other, machine));
}

/// A user, an organization or one connection is closed, with the reason, the number, and whether to come back; nobody
/// else notices.
#[tokio::test]
async fn admin_disconnects() {
    let world = world("").await;
    let mut first = world.member("u1", "org_1").await;
    let mut second = world.login("u1", "org_1").await;
    let mut other = world.member("u2", "org_1").await;
    let mut far = world.member("u3", "org_2").await;
    let id: u64 = first.seen[0].text_of("connectionId").parse().unwrap();
    let closed = admin(&world, "POST", "disconnect", json!({"connection": id})).await;
    assert_eq!(closed.json, json!({"disconnected": 1}));
    assert_eq!(first.until_closed().await.0, 4507);
    let body = json!({"user": "u1", "code": 4004, "reason": "moving house"});
    let closed = admin(&world, "POST", "disconnect", body).await;
    assert_eq!(closed.json, json!({"disconnected": 1}));
    assert_eq!(second.until_closed().await.0, 4004);
    let goodbye = second.seen.last().unwrap();
    assert_eq!(
        (goodbye.text_of("type"), goodbye.text_of("reason")),
        ("goodbye", "moving house")
    );
    assert!(goodbye.json["retryAfterMs"].is_u64());
    let fence = world.fence("org_1").await;
    other.until_fence(fence).await;
    let body = json!({"organization": "org_1", "reason": "unpaid"});
    assert_eq!(
        admin(&world, "POST", "disconnect", body).await.json,
        json!({"disconnected": 1})
    );
    assert_eq!(other.until_closed().await.0, 4507);
    assert!(other.seen.last().unwrap().json["retryAfterMs"].is_null());
    let fence = world.fence("org_2").await;
    far.until_fence(fence).await;
    assert_eq!(
        admin(&world, "POST", "disconnect", json!({"user": "u1"}))
            .await
            .json,
        json!({"disconnected": 0})
    );
    // Closed is not shut out: that is what memberships and tokens are for.
    world.login("u1", "org_1").await;
}

/// A channel is revoked through the log: those on it are told at its place, with reason and epoch.
#[tokio::test]
async fn admin_revokes_a_channel() {
    let world = world("SELECT rowcast.define_channel('room:*', 'public');").await;
    let mut client = world.member("u1", "org_1").await;
    client.ask(subscribe("room:7", json!({}))).await;
    let body =
        json!({"channel": "room:7", "organization": "org_1", "epoch": 3, "reason": "closed"});
    let answer = admin(&world, "POST", "revoke", body).await;
    assert_eq!(
        (answer.status, &answer.json["revoked"]),
        (200, &json!(true)),
        "{}",
        answer.json
    );
    assert!(answer.json["cursor"].is_string(), "{}", answer.json);
    let ended = client
        .until("the end", |frame| frame.is("unsubscribed"))
        .await;
    assert_eq!(
        (ended.text_of("reason"), &ended.json["epoch"]),
        ("closed", &json!(3))
    );
    assert!(client.next(PATIENCE).await.is_ok());
}
