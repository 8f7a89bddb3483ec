//! Webhooks that say who may be on a channel: good, bad, slow and absent answers, and that nobody steers them elsewhere.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{
    Json, Router,
    http::StatusCode,
    response::{IntoResponse, Redirect, Response},
    routing::post,
};
use serde_json::{Value, json};

use crate::harness::{
    client::{Client, Frame},
    fixture::TRACK,
    world::{World, subscribe},
};

const SECRET: &str = "a secret of more than thirty-two bytes";

/// An application that answers by the name of the channel.
async fn answer(Json(question): Json<Value>) -> Response {
    let member = question["caller"]["userId"] == "anna";
    let channel = question["channel"].as_str().unwrap_or_default();
    match channel {
        "room:good" if member => Json(json!({ "allowed": true, "ttlSeconds": 60 })).into_response(),
        "room:good" => {
            let words = json!({ "code": "accessdenied", "message": "Not a member of this room" });
            (StatusCode::FORBIDDEN, Json(words)).into_response()
        }
        "room:text" => "yes".into_response(),
        "room:null" => Json(Value::Null).into_response(),
        "room:redirect" => Redirect::temporary("/elsewhere").into_response(),
        "room:slow" => std::future::pending().await,
        _ => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

async fn enter(client: &mut Client, channel: &str) -> Frame {
    client.ask(subscribe(channel, json!({}))).await
}

#[tokio::test]
async fn g24_webhooks_good_bad_slow_and_absent() {
    let elsewhere = Arc::new(AtomicUsize::new(0));
    let steered = elsewhere.clone();
    let routes = Router::new().route("/rooms", post(answer)).route(
        "/elsewhere",
        post(async move || {
            steered.fetch_add(1, Ordering::SeqCst);
            "true"
        }),
    );
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, routes).await });
    let nobody = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let gone = format!("http://{}/", nobody.local_addr().unwrap());
    drop(nobody);
    let url = format!("http://{address}/rooms");
    let channels = "SELECT rowcast.define_channel('room:*', 'authorized', webhook => 'rooms');
        SELECT rowcast.define_channel('gone:*', 'authorized', webhook => 'gone');
        SELECT rowcast.define_channel('unknown:*', 'authorized', webhook => 'unknown');";
    let env = [
        ("ROWCAST__WEBHOOKS__ROOMS__URL", url.as_str()),
        ("ROWCAST__WEBHOOKS__ROOMS__SECRET", SECRET),
        ("ROWCAST__WEBHOOKS__ROOMS__TIMEOUT", "500 ms"),
        ("ROWCAST__WEBHOOKS__ROOMS__FAILURES", "1000"),
        ("ROWCAST__WEBHOOKS__GONE__URL", gone.as_str()),
        ("ROWCAST__WEBHOOKS__GONE__SECRET", SECRET),
    ];
    let world = World::prepared(&format!("{TRACK} {channels}"), &env).await;
    let mut anna = world.member("anna", "org_1").await;
    let mut bert = world.member("bert", "org_1").await;
    for (channel, code) in [
        ("room:text", 322),
        ("room:null", 320),
        ("room:redirect", 321),
        ("room:broken", 321),
        ("gone:1", 321),
        ("unknown:1", 322),
    ] {
        let reply = enter(&mut anna, channel).await;
        assert_eq!(reply.json["code"], code, "{channel} {}", reply.text);
    }
    assert_eq!(
        elsewhere.load(Ordering::SeqCst),
        0,
        "a redirect was followed"
    );

    // A slow one keeps nobody else waiting, not even the same socket.
    let began = Instant::now();
    anna.send(json!({ "type": "subscribe", "channel": "room:slow", "ref": "slow" }))
        .await;
    assert!(anna.ask(json!({ "type": "ping" })).await.is("pong"));
    assert!(enter(&mut anna, "room:good").await.is("subscribed"));
    let refused = enter(&mut bert, "room:good").await;
    assert_eq!(
        (&refused.json["reason"], &refused.json["message"]),
        (&json!("accessdenied"), &json!("Not a member of this room"))
    );
    assert!(
        !anna.seen.iter().any(|frame| frame.json["ref"] == "slow"),
        "{:?}",
        began.elapsed()
    );
    let slow = anna
        .until("the answer", |frame| frame.json["ref"] == "slow")
        .await;
    assert_eq!(slow.json["code"], 321);
    assert!(began.elapsed() < Duration::from_secs(10));

    world
        .exec("SELECT rowcast.send('room:good', 'e', '1', 'org_1')")
        .await;
    assert_eq!(world.events_so_far(&mut anna, "org_1").await.len(), 1);
    assert!(world.events_so_far(&mut bert, "org_1").await.is_empty());

    // The application is gone, and the channel is revoked: closed, not open.
    world
        .exec("SELECT rowcast.revoke('room:good', NULL, 'left', 'org_1')")
        .await;
    let metrics = world.server.get("/metrics").await.unwrap().1;
    assert!(
        metrics.contains(r#"outcome="not_configured"} 1"#),
        "{metrics}"
    );
}

#[tokio::test]
async fn g28_when_the_application_does_not_answer_a_revocation_ends_the_channel() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/rooms", listener.local_addr().unwrap());
    let first = Arc::new(AtomicUsize::new(0));
    let asked = first.clone();
    let routes = Router::new().route(
        "/rooms",
        post(async move || match asked.fetch_add(1, Ordering::SeqCst) {
            0 => Json(json!({ "ttlSeconds": 3600, "epoch": 1 })).into_response(),
            _ => StatusCode::BAD_GATEWAY.into_response(),
        }),
    );
    tokio::spawn(async move { axum::serve(listener, routes).await });
    let env = [
        ("ROWCAST__WEBHOOKS__ROOMS__URL", url.as_str()),
        ("ROWCAST__WEBHOOKS__ROOMS__SECRET", SECRET),
    ];
    let channels = "SELECT rowcast.define_channel('room:*', 'authorized', webhook => 'rooms')";
    let world = World::prepared(&format!("{TRACK} {channels}"), &env).await;
    let mut anna = world.member("anna", "org_1").await;
    assert!(enter(&mut anna, "room:1").await.is("subscribed"));
    world
        .exec("SELECT rowcast.revoke('room:1', 2, 'left', 'org_1')")
        .await;
    world
        .exec("SELECT rowcast.send('room:1', 'e', '1', 'org_1')")
        .await;
    let gone = anna
        .until("the end", |frame| frame.is("unsubscribed"))
        .await;
    assert_eq!(
        (&gone.json["reason"], &gone.json["epoch"]),
        (&json!("left"), &json!(2))
    );
    assert!(!anna.seen.iter().any(|frame| frame.is("broadcast")));
    assert!(first.load(Ordering::SeqCst) > 1, "it was asked again");
}
