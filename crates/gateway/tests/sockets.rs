//! The life of a socket: silence, noise, floods, slowness, and what others notice of it (nothing).

#![allow(missing_docs, clippy::unwrap_used)] // Helpers of tests are tests.

mod common;

use std::time::Duration;

use common::{DEADLINE, World, auth, token, world, world_with};
use futures_util::StreamExt;
use rowcast_gateway::{Readiness, SocketLimits};
use rowcast_hub::HubLimits;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_tungstenite::tungstenite::Message;

async fn limited(limits: SocketLimits) -> World {
    world_with(auth(), limits, HubLimits::default(), &[]).await
}

/// Q24, Q25: the first frame authenticates; the answer says who one is here.
#[tokio::test]
async fn q24_q25_auth_in_the_first_frame() {
    let world = world().await;
    let mut client = world.dial().await;
    client.auth(&token("ann"), "acme").await;
    let success = client.next().await;
    assert_eq!(success["type"], "auth_success");
    assert_eq!(
        (success["role"].as_str(), success["authMethod"].as_str()),
        (Some("admin"), Some("session"))
    );
    assert_eq!(success["roles"], json!(["admin"]));
    assert_eq!(
        (
            success["userId"].as_str(),
            success["organizationId"].as_str()
        ),
        (Some("ann"), Some("acme"))
    );
    for channel in ["org:acme", "user:ann"] {
        let reply = client.next().await;
        assert_eq!(
            (reply["type"].as_str(), reply["channel"].as_str()),
            (Some("subscribed"), Some(channel))
        );
        assert!(reply["cursor"].is_string());
    }
    world.unharmed(&mut client, "acme").await;
}

#[tokio::test]
async fn strangers_are_told_what_to_do_and_closed() {
    let world = limited(SocketLimits {
        auth_timeout: Duration::from_millis(300),
        message_bytes: 4096,
        ..SocketLimits::default()
    })
    .await;
    let mut other = world.join("ann", "acme").await;
    let cases: [(&str, Option<Message>, Option<u64>, u16); 6] = [
        ("silence", None, Some(200), 4500),
        (
            "another frame first",
            Some(Message::text(r#"{"type":"ping"}"#)),
            Some(200),
            4505,
        ),
        ("not JSON", Some(Message::text("hello")), Some(100), 4505),
        (
            "binary",
            Some(Message::binary(vec![1, 2, 3])),
            Some(105),
            4505,
        ),
        (
            "too large",
            Some(Message::text("x".repeat(5000))),
            Some(104),
            4506,
        ),
        (
            "too deep",
            Some(Message::text("[".repeat(100))),
            Some(103),
            4505,
        ),
    ];
    for (what, message, number, close) in cases {
        let mut client = world.dial().await;
        if let Some(message) = message {
            client.raw(message).await;
        }
        let end = client.end().await;
        assert_eq!(
            end.frames.last().and_then(|frame| frame["code"].as_u64()),
            number,
            "{what}"
        );
        assert_eq!(end.code, Some(close), "{what}");
    }
    let mut foreigner = world.dial().await;
    foreigner.auth(&token("bob"), "acme").await;
    let end = foreigner.end().await;
    assert_eq!(
        (end.frames.last().unwrap()["code"].as_u64(), end.code),
        (Some(206), Some(4504))
    );
    world.unharmed(&mut other, "acme").await;
}

#[tokio::test]
async fn malformed_frames_are_answered_and_patience_ends() {
    let world = limited(SocketLimits {
        bad_frames: 5,
        message_bytes: 4096,
        ..SocketLimits::default()
    })
    .await;
    let mut other = world.join("ann", "acme").await;
    let mut client = world.join("ann", "acme").await;
    for (bad, number) in [
        ("{", 100),
        (r#"{"type":"dance"}"#, 101),
        (r#"{"type":"subscribe"}"#, 102),
        (r#"{"type":"subscribe","channel":"x"}"#, 300),
    ] {
        client.raw(Message::text(bad)).await;
        assert_eq!(client.next().await["code"], number, "{bad}");
    }
    client.raw(Message::binary(vec![0])).await;
    assert_eq!(client.next().await["code"], 105);
    client
        .send(json!({"type": "ping", "ref": "still here"}))
        .await;
    assert_eq!(
        client.next().await,
        json!({"type": "pong", "ref": "still here"})
    );
    client.raw(Message::text("[")).await;
    assert_eq!(client.end().await.code, Some(4505));
    world.unharmed(&mut other, "acme").await;
}

#[tokio::test]
async fn a_frame_over_the_limit_ends_only_its_own_socket() {
    let world = limited(SocketLimits {
        message_bytes: 4096,
        ..SocketLimits::default()
    })
    .await;
    let mut other = world.join("ann", "acme").await;
    let mut client = world.join("ann", "acme").await;
    client.raw(Message::text("x".repeat(5000))).await;
    let end = client.end().await;
    assert_eq!(
        (end.frames.last().unwrap()["code"].as_u64(), end.code),
        (Some(104), Some(4506))
    );
    world.unharmed(&mut other, "acme").await;
}

#[tokio::test]
async fn a_flood_of_frames_is_slowed_then_closed() {
    let limits = SocketLimits {
        frames_burst: 10,
        frames_per_second: 1,
        bad_frames: 5,
        ..SocketLimits::default()
    };
    let world = limited(limits).await;
    let mut client = world.join("ann", "acme").await;
    for _ in 0..30 {
        if futures_util::SinkExt::send(&mut client.0, Message::text(r#"{"type":"ping"}"#))
            .await
            .is_err()
        {
            break;
        }
    }
    let end = client.end().await;
    assert!(
        end.frames
            .iter()
            .filter(|frame| frame["type"] == "pong")
            .count()
            >= 10
    );
    assert!(end.frames.iter().any(|frame| frame["code"] == 401));
    assert_eq!(end.code, Some(4505));
}

#[tokio::test]
async fn both_sides_can_ask_for_a_sign_of_life() {
    let limits = SocketLimits {
        ping_interval: Duration::from_millis(100),
        silence: Duration::from_millis(400),
        ..SocketLimits::default()
    };
    let world = limited(limits).await;
    let mut answering = world.join("ann", "acme").await;
    let silent = world.join("ann", "acme").await;
    answering.raw(Message::Ping(vec![7].into())).await;
    let pong = loop {
        match tokio::time::timeout(DEADLINE, answering.0.next())
            .await
            .unwrap()
            .unwrap()
            .unwrap()
        {
            Message::Pong(payload) => break payload,
            _ => continue,
        }
    };
    assert_eq!(&pong[..], [7]);
    // Answering each ping keeps a socket open past the time that closes the silent one.
    let answered = tokio::spawn(async move {
        for _ in 0..8 {
            answering.until(|frame| frame["type"] == "ping").await;
            answering.send(json!({"type": "pong"})).await;
        }
        answering
    });
    assert_eq!(silent.end().await.code, Some(4002));
    let mut answering = answered.await.unwrap();
    world.unharmed(&mut answering, "acme").await;
}

/// Promise 11: one slow socket harms only itself.
#[tokio::test]
async fn promise_11_a_stalled_socket_is_closed_as_slow_and_others_go_on() {
    let hub = HubLimits {
        outbox_bytes: 256 << 10,
        ..HubLimits::default()
    };
    let world = world_with(auth(), SocketLimits::default(), hub, &[]).await;
    let mut other = world.join("ann", "acme").await;
    let stalled = world.join("ann", "acme").await;
    let record = "x".repeat(10_000);
    // More than any kernel buffers hold; the reader next to it takes everything.
    let reading = tokio::spawn(async move {
        let mut count = 0;
        while count < 2000 {
            count += usize::from(other.next().await["type"] == "invalidate");
        }
        other
    });
    for _ in 0..2000 {
        world.tell("acme", &record);
        tokio::task::yield_now().await;
    }
    let mut other = tokio::time::timeout(DEADLINE * 3, reading)
        .await
        .expect("the other socket goes on")
        .unwrap();
    // Once it reads again, it is told why, behind the last whole frame that it got.
    let end = stalled.end().await;
    assert_eq!(end.code, Some(4001));
    assert!(
        end.frames
            .iter()
            .all(|frame| frame["type"] != "invalidate" || frame["recordId"] == record.as_str())
    );
    let deadline = tokio::time::Instant::now() + DEADLINE;
    while world.hub.connections() > 1 {
        assert!(
            tokio::time::Instant::now() < deadline,
            "the stalled one stays"
        );
        tokio::task::yield_now().await;
    }
    world.unharmed(&mut other, "acme").await;
}

/// Promise 7: what comes after the end of a membership is not heard, on a socket that is open.
#[tokio::test]
async fn promise_07_a_membership_ends_at_its_place_in_the_log() {
    let world = world().await;
    let mut client = world.join("ann", "acme").await;
    world.tell("acme", "before");
    world.member("ann", "acme", None);
    world.tell("acme", "after");
    world.member("ann", "globex", Some("member"));
    client
        .send(json!({"type": "subscribe", "ref": 1, "channel": "org:globex"}))
        .await;
    let mut heard = Vec::new();
    loop {
        let frame = client.next().await;
        if frame["ref"] == 1 {
            assert_eq!(frame["type"], "subscribed");
            break;
        }
        heard.push(frame);
    }
    assert!(heard.iter().any(|frame| frame["recordId"] == "before"));
    assert!(heard.iter().all(|frame| frame["recordId"] != "after"));
    let end = heard
        .iter()
        .find(|frame| frame["type"] == "unsubscribed")
        .unwrap();
    assert_eq!(
        (end["channel"].as_str(), end["reason"].as_str()),
        (Some("org:acme"), Some("membership_removed"))
    );
    world.unharmed(&mut client, "globex").await;
}

#[tokio::test]
async fn not_ready_is_said_with_a_code_to_come_back() {
    let world = world().await;
    world
        .ready
        .send_replace(Readiness::NotReady("starting".into()));
    let mut client = world.dial().await;
    client.auth(&token("ann"), "acme").await;
    let end = client.end().await;
    assert_eq!(
        (end.frames.last().unwrap()["code"].as_u64(), end.code),
        (Some(500), Some(4003))
    );
}

#[tokio::test]
async fn limits_of_strangers_organizations_and_origins() {
    let limits = SocketLimits {
        unauthenticated: 2,
        connections_per_organization: 1,
        ..SocketLimits::default()
    };
    let world = world_with(
        auth(),
        limits,
        HubLimits::default(),
        &["https://app.example"],
    )
    .await;
    let mut member = world.join("ann", "acme").await;
    let mut second = world.dial().await;
    second.auth(&token("ann"), "acme").await;
    assert_eq!(second.end().await.code, Some(4005));
    let strangers = [world.dial().await, world.dial().await];
    let refused = |origin: Option<&'static str>| {
        let address = world.gateway.public;
        async move {
            let stream = TcpStream::connect(address).await.unwrap();
            let mut request =
                tokio_tungstenite::tungstenite::client::IntoClientRequest::into_client_request(
                    format!("ws://{address}/realtime/v1/websocket"),
                )
                .unwrap();
            if let Some(origin) = origin {
                request
                    .headers_mut()
                    .insert("origin", origin.parse().unwrap());
            }
            match tokio_tungstenite::client_async(request, stream).await {
                Ok(_) => None,
                Err(tokio_tungstenite::tungstenite::Error::Http(response)) => {
                    Some(response.status().as_u16())
                }
                Err(error) => panic!("{error}"),
            }
        }
    };
    assert_eq!(refused(None).await, Some(503));
    assert_eq!(refused(Some("https://evil.example")).await, Some(403));
    drop(strangers);
    let deadline = tokio::time::Instant::now() + DEADLINE;
    while refused(Some("https://app.example")).await.is_some() {
        assert!(
            tokio::time::Instant::now() < deadline,
            "the places of strangers do not come back"
        );
        tokio::task::yield_now().await;
    }
    world.unharmed(&mut member, "acme").await;
}

#[tokio::test]
async fn half_a_request_is_not_waited_for() {
    let world = limited(SocketLimits {
        header_timeout: Duration::from_millis(200),
        ..SocketLimits::default()
    })
    .await;
    let mut stream = TcpStream::connect(world.gateway.public).await.unwrap();
    stream
        .write_all(b"GET /realtime/v1/websocket HTTP/1.1\r\nHost: x\r\n")
        .await
        .unwrap();
    let mut rest = Vec::new();
    tokio::time::timeout(DEADLINE, stream.read_to_end(&mut rest))
        .await
        .expect("closed in time")
        .unwrap();
}

#[tokio::test]
async fn stopping_sends_everybody_away_with_a_code_to_come_back() {
    let world = world().await;
    let client = world.join("ann", "acme").await;
    let stranger = world.dial().await;
    let ends = tokio::spawn(async move { (client.end().await.code, stranger.end().await.code) });
    tokio::time::timeout(DEADLINE, world.gateway.stop(Duration::from_secs(5)))
        .await
        .unwrap();
    assert_eq!(ends.await.unwrap(), (Some(4000), Some(4000)));
}

#[tokio::test]
async fn pages_for_operators() {
    let world = world().await;
    let get = |address: std::net::SocketAddr, path: &'static str| async move {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream
            .write_all(
                format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes(),
            )
            .await
            .unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        text
    };
    assert!(
        get(world.gateway.public, "/healthz")
            .await
            .starts_with("HTTP/1.1 200")
    );
    assert!(
        get(world.gateway.public, "/metrics")
            .await
            .starts_with("HTTP/1.1 404"),
        "metrics are not for the public"
    );
    assert!(
        get(world.gateway.internal, "/readyz")
            .await
            .starts_with("HTTP/1.1 200")
    );
    assert!(
        get(world.gateway.internal, "/metrics")
            .await
            .contains("sockets")
    );
    world
        .ready
        .send_replace(Readiness::NotReady("the slot is lost".into()));
    let page = get(world.gateway.internal, "/readyz").await;
    assert!(page.starts_with("HTTP/1.1 503") && page.contains("the slot is lost"));
}
