//! How a client gets in: Q24, Q25.

use serde_json::json;

use crate::harness::{
    client::Client,
    server::get,
    token,
    world::{World, subscribe},
};

/// Q24: the socket is at `/realtime/v1/websocket`, the first frame is `auth`, and a token in the URL is
/// no way in.
#[tokio::test]
async fn q24_first_frame_is_auth_and_no_token_in_the_url() {
    let world = World::start().await;
    drop(world.member("u1", "org_1").await);
    let address = world.server.public;
    assert_eq!(Client::refused(address, "/websocket").await, 404);
    let token = token::session("u1");
    // With a token in the URL the socket is refused, or still waits for the auth frame.
    let path = format!("/realtime/v1/websocket?token={token}&organizationId=org_1");
    let stream = tokio::net::TcpStream::connect(address).await.unwrap();
    if let Ok((socket, _)) =
        tokio_tungstenite::client_async(format!("ws://{address}{path}"), stream).await
    {
        drop(socket);
        let mut client = Client::open(address).await;
        client.send(subscribe("org:org_1", json!({}))).await;
        let reply = client.next(crate::harness::client::PATIENCE).await.unwrap();
        assert_eq!(reply.json["name"], "auth_required", "{}", reply.text);
        assert!(client.until_closed().await.0 >= 4500);
    }
    assert!(
        !world.server.log().contains(&token),
        "tokens do not belong into logs"
    );
    let mut client = Client::open(address).await;
    let reply = client.auth(&token, "org_1").await.unwrap();
    assert_eq!(reply.json["type"], "auth_success", "{}", reply.text);
    assert!(
        !world.server.log().contains(&token),
        "tokens do not belong into logs"
    );
}

/// Q25: the reply names role, roles and how: a session token of a person, or an API key of a machine.
#[tokio::test]
async fn q25_auth_success_says_role_roles_and_method() {
    let world = World::start().await;
    world.add_member("u1", "org_1", "editor").await;
    let client = world.login("u1", "org_1").await;
    let reply = &client.seen[0].json;
    assert_eq!(reply["type"], "auth_success");
    assert_eq!(reply["role"], "editor");
    assert_eq!(reply["roles"], json!(["editor"]));
    assert_eq!(reply["authMethod"], "session");

    let key = world
        .sql
        .text("SELECT rowcast.create_api_key('org_1', '{admin,auditor}', 'ci')")
        .await;
    assert!(key.starts_with("rk_"), "{key}");
    let stored = world
        .sql
        .text("SELECT string_agg(k::text, ' ') FROM rowcast.api_keys k")
        .await;
    let secret = key.rsplit('_').next().unwrap();
    assert!(!stored.contains(secret), "only the hash of a key is kept");
    // What was committed before this fence is known by now.
    let mut witness = world.login("u1", "org_1").await;
    world.events_so_far(&mut witness, "org_1").await;
    let mut machine = Client::login(world.server.public, &key, "org_1").await;
    let reply = &machine.seen[0].json;
    assert_eq!(reply["authMethod"], "api_key");
    assert_eq!(reply["roles"], json!(["admin", "auditor"]));
    assert_eq!(reply["role"], "admin");
    world
        .exec("INSERT INTO orders VALUES (1, 'org_1', 1)")
        .await;
    assert_eq!(machine.event("orders").await.json["new"]["id"], 1);
    // Revoked: the socket ends, and so does the key.
    let id = world.sql.text("SELECT id FROM rowcast.api_keys").await;
    world
        .exec(&format!("SELECT rowcast.revoke_api_key('{id}')"))
        .await;
    let (code, _) = machine.until_closed().await;
    assert_eq!(code, 4503);
    let mut again = Client::open(world.server.public).await;
    let refused = again.auth(&key, "org_1").await.unwrap();
    assert!(refused.is("error"), "{}", refused.text);
}

/// SPEC 5: on success the socket is on `org:<organizationId>` and `user:<id>`, a channel of another is
/// not, and every request with a `ref` is answered with it.
#[tokio::test]
async fn spec_5_refs_replies_and_pings() {
    let world = World::start().await;
    let mut client = world.member("u1", "org_1").await;
    for reference in [json!("a ref"), json!(17)] {
        client
            .send(json!({ "type": "ping", "ref": reference }))
            .await;
        let pong = client.until("pong", |frame| frame.is("pong")).await;
        assert_eq!(pong.json["ref"], reference);
    }
    let reply = client.ask(subscribe("user:u1", json!({}))).await;
    assert!(reply.is("subscribed"), "{}", reply.text);
    let reply = client
        .ask(json!({ "type": "unsubscribe", "channel": "org:org_9" }))
        .await;
    assert_eq!(reply.json["name"], "not_subscribed", "{}", reply.text);
    let reply = client.ask(subscribe("nonsense", json!({}))).await;
    assert_eq!(reply.json["name"], "unknown_channel", "{}", reply.text);
    let gone = client
        .ask(json!({ "type": "unsubscribe", "channel": "org:org_1" }))
        .await;
    assert!(gone.is("unsubscribed"), "{}", gone.text);
}

/// SPEC 5: a token can be refreshed on the open socket; without it the socket ends when it expires.
#[tokio::test]
async fn spec_5_tokens_are_refreshed_on_the_open_socket() {
    let world = World::start().await;
    world.member("u1", "org_1").await;
    let short = || token::sign(&json!({ "sub": "u1", "exp": token::now() + 3 }));
    let mut lazy = Client::login(world.server.public, &short(), "org_1").await;
    let mut eager = Client::login(world.server.public, &short(), "org_1").await;
    let reply = eager
        .ask(json!({ "type": "token", "token": token::session("u1") }))
        .await;
    assert!(reply.is("token_refreshed"), "{}", reply.text);
    let stranger = eager
        .ask(json!({ "type": "token", "token": token::session("u2") }))
        .await;
    assert_eq!(stranger.json["name"], "user_changed", "{}", stranger.text);
    assert_eq!(lazy.until_closed().await.0, 4502);
    world
        .exec("INSERT INTO orders VALUES (1, 'org_1', 1)")
        .await;
    eager.event("orders").await;
}

/// SPEC 7: `/healthz` on the public port, `/readyz` and `/metrics` only on the internal one.
#[tokio::test]
async fn spec_7_health_and_metrics() {
    let world = World::start().await;
    let mut client = world.member("u1", "org_1").await;
    world
        .exec("INSERT INTO orders VALUES (1, 'org_1', 1)")
        .await;
    client.event("orders").await;
    let (status, _) = get(world.server.public, "/healthz").await.unwrap();
    assert_eq!(status, 200);
    assert_eq!(get(world.server.public, "/metrics").await.unwrap().0, 404);
    assert_eq!(world.server.get("/readyz").await.unwrap().0, 200);
    let (status, metrics) = world.server.get("/metrics").await.unwrap();
    assert_eq!(status, 200);
    assert!(
        metrics.contains("_bucket{"),
        "the lag is a histogram:\n{metrics}"
    );
    assert!(
        !metrics.contains("org_1"),
        "no names of organizations in metrics:\n{metrics}"
    );
}
