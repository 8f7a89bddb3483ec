//! Clients that mean harm, or are only odd: each is bounded, and the others notice nothing.

#![allow(missing_docs, clippy::unwrap_used)] // Helpers of tests are tests.

mod common;

use std::time::{Duration, Instant};

use common::{
    Client, DEADLINE, SECRET, World, auth, claims, now,
    raw::{self, frame},
    sign, token, world, world_with,
};
use futures_util::{SinkExt, StreamExt};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rowcast_gateway::{AuthConfig, SocketLimits};
use rowcast_hub::HubLimits;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinHandle,
};
use tokio_tungstenite::tungstenite::{
    Message,
    protocol::{CloseFrame, frame::coding::CloseCode},
};

async fn limited(limits: SocketLimits) -> World {
    world_with(auth(), limits, HubLimits::default(), &[]).await
}

fn auth_frame(token: &str) -> Vec<u8> {
    let text = json!({"type": "auth", "token": token, "organizationId": "acme"}).to_string();
    frame(raw::TEXT, text.as_bytes())
}

/// Frames that are no messages, as many as fit into 64 KiB.
fn noise(kind: &str) -> Vec<u8> {
    match kind {
        "pings" => frame(raw::PING, b"x").repeat(9_000),
        "empty pieces" => frame(raw::MIDDLE, b"").repeat(10_000),
        _ => unreachable!(),
    }
}

/// Looks at `other` until the flood has ended, and says how it did.
async fn while_others_are_served<T>(
    world: &World,
    mut other: Client,
    kind: &str,
    flood: JoinHandle<T>,
) -> T {
    while !flood.is_finished() {
        let asked = Instant::now();
        world.unharmed(&mut other, "acme").await;
        assert!(
            asked.elapsed() < Duration::from_secs(2),
            "{kind}: others wait {:?}",
            asked.elapsed()
        );
    }
    flood.await.unwrap()
}

/// Who never says who he is cannot stay by making noise, nor keep the thread from others.
#[tokio::test]
async fn a_stranger_who_floods_is_closed_in_time() {
    for kind in ["pings", "empty pieces"] {
        let world = limited(SocketLimits {
            auth_timeout: Duration::from_millis(500),
            ..SocketLimits::default()
        })
        .await;
        let other = world.join("ann", "acme").await;
        let address = world.gateway.public;
        let flood = tokio::task::spawn_blocking(move || {
            let begin = match kind {
                "empty pieces" => frame(raw::TEXT_BEGINS, b"{"),
                _ => Vec::new(),
            };
            raw::flood(address, begin, noise(kind), Duration::from_secs(8))
        });
        let ended = while_others_are_served(&world, other, kind, flood).await;
        assert!(ended.is_some(), "{kind}: the stranger stays");
    }
}

/// A token ends when it ends, however busy its socket is.
#[tokio::test]
async fn a_member_who_floods_ends_with_the_token_at_the_latest() {
    for kind in ["pings", "empty pieces"] {
        let config = AuthConfig {
            leeway: Duration::ZERO,
            ..auth()
        };
        let world = world_with(config, SocketLimits::default(), HubLimits::default(), &[]).await;
        let other = world.join("ann", "acme").await;
        let address = world.gateway.public;
        let token = sign(&json!({"sub": "ann", "exp": now() + 2}), SECRET);
        let flood = tokio::task::spawn_blocking(move || {
            let mut begin = auth_frame(&token);
            if kind == "empty pieces" {
                begin.extend(frame(raw::TEXT_BEGINS, b"{"));
            }
            raw::flood(address, begin, noise(kind), Duration::from_secs(8))
        });
        let ended = while_others_are_served(&world, other, kind, flood).await;
        assert!(ended.is_some(), "{kind}: the socket outlives its token");
    }
}

/// Pings are frames too: who sends too many is closed, however long the token lasts.
#[tokio::test]
async fn pings_are_rationed() {
    let world = world().await;
    let mut other = world.join("ann", "acme").await;
    let address = world.gateway.public;
    let flood = tokio::task::spawn_blocking(move || {
        let most = Duration::from_secs(8);
        raw::flood(address, auth_frame(&token("ann")), noise("pings"), most)
    });
    assert!(flood.await.unwrap().is_some(), "it may go on for ever");
    world.unharmed(&mut other, "acme").await;
}

/// Everything in one packet, before the service has answered: nothing is forgotten.
#[tokio::test]
async fn frames_that_came_with_the_request_are_read() {
    let world = world().await;
    let mut bytes = raw::request(world.gateway.public);
    bytes.extend(auth_frame(&token("ann")));
    bytes.extend(frame(raw::TEXT, br#"{"type":"ping","ref":"early"}"#));
    let mut stream = TcpStream::connect(world.gateway.public).await.unwrap();
    stream.write_all(&bytes).await.unwrap();
    let mut seen = Vec::new();
    let answered = async {
        while !seen.windows(5).any(|five| five == b"early") {
            let mut part = [0; 4096];
            let count = stream.read(&mut part).await.unwrap();
            assert!(count > 0, "closed: {}", String::from_utf8_lossy(&seen));
            seen.extend(&part[..count]);
        }
    };
    let answered = tokio::time::timeout(DEADLINE, answered).await;
    assert!(answered.is_ok(), "{}", String::from_utf8_lossy(&seen));
}

/// Browsers call a close without an answer an error.
#[tokio::test]
async fn a_close_is_answered_with_a_close() {
    let world = world().await;
    let member = world.join("ann", "acme").await;
    let stranger = world.dial().await;
    for mut client in [member, stranger] {
        let bye = CloseFrame {
            code: CloseCode::Normal,
            reason: "".into(),
        };
        client.raw(Message::Close(Some(bye.clone()))).await;
        let answer = loop {
            match tokio::time::timeout(DEADLINE, client.0.next())
                .await
                .unwrap()
            {
                Some(Ok(Message::Close(frame))) => break Some(frame),
                Some(Ok(_)) => {}
                Some(Err(_)) | None => break None,
            }
        };
        assert_eq!(answer, Some(Some(bye)));
    }
}

#[tokio::test]
async fn who_connects_and_says_nothing_is_closed() {
    let world = limited(SocketLimits {
        header_timeout: Duration::from_millis(200),
        ..SocketLimits::default()
    })
    .await;
    let mut other = world.join("ann", "acme").await;
    let mut silent = TcpStream::connect(world.gateway.public).await.unwrap();
    let mut rest = Vec::new();
    tokio::time::timeout(DEADLINE, silent.read_to_end(&mut rest))
        .await
        .expect("closed in time")
        .unwrap();
    // The same after an answer, on a connection that is kept.
    let mut silent = TcpStream::connect(world.gateway.public).await.unwrap();
    silent
        .write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        .await
        .unwrap();
    tokio::time::timeout(DEADLINE, silent.read_to_end(&mut rest))
        .await
        .expect("closed in time")
        .unwrap();
    assert!(rest.starts_with(b"HTTP/1.1 200"));
    world.unharmed(&mut other, "acme").await;
}

#[tokio::test]
async fn an_origin_that_is_no_text_is_not_allowed() {
    let world = world_with(
        auth(),
        SocketLimits::default(),
        HubLimits::default(),
        &["https://app.example"],
    )
    .await;
    let mut bytes = raw::request(world.gateway.public);
    bytes.truncate(bytes.len() - 2);
    bytes.extend(b"Origin: https://\xe9vil.example\r\n\r\n");
    let mut stream = TcpStream::connect(world.gateway.public).await.unwrap();
    stream.write_all(&bytes).await.unwrap();
    let mut start = [0; 12];
    stream.read_exact(&mut start).await.unwrap();
    assert_eq!(&start, b"HTTP/1.1 403");
}

/// A key set that takes connections and never answers.
async fn a_dead_key_set() -> (String, tokio::net::TcpListener) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (format!("http://{address}/keys"), listener)
}

fn foreign_token() -> String {
    let pem = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\n-----END PRIVATE KEY-----\n";
    let key = EncodingKey::from_ed_pem(pem.as_bytes()).unwrap();
    jsonwebtoken::encode(&Header::new(Algorithm::EdDSA), &claims("ann"), &key).unwrap()
}

/// While a refreshed token waits for its key set, the old one still ends when it ends.
#[tokio::test]
async fn a_refresh_that_hangs_does_not_lengthen_the_token() {
    let (url, _listener) = a_dead_key_set().await;
    let config = AuthConfig {
        jwks: vec![url],
        leeway: Duration::ZERO,
        ..auth()
    };
    let world = world_with(config, SocketLimits::default(), HubLimits::default(), &[]).await;
    let mut client = world.dial().await;
    client
        .auth(
            &sign(&json!({"sub": "ann", "exp": now() + 2}), SECRET),
            "acme",
        )
        .await;
    assert_eq!(client.next().await["type"], "auth_success");
    client
        .send(json!({"type": "token", "token": foreign_token()}))
        .await;
    let start = Instant::now();
    assert_eq!(client.end().await.code, Some(4502));
    assert!(
        start.elapsed() < Duration::from_millis(3500),
        "after {:?}",
        start.elapsed()
    );
}

#[tokio::test]
async fn stopping_does_not_wait_for_a_key_set() {
    let (url, listener) = a_dead_key_set().await;
    let config = AuthConfig {
        jwks: vec![url],
        ..auth()
    };
    let world = world_with(config, SocketLimits::default(), HubLimits::default(), &[]).await;
    let mut client = world.dial().await;
    client.auth(&foreign_token(), "acme").await;
    let _asked = tokio::time::timeout(DEADLINE, listener.accept())
        .await
        .unwrap();
    let end = tokio::spawn(client.end());
    let start = Instant::now();
    world.gateway.stop(Duration::from_secs(8)).await;
    assert!(
        start.elapsed() < Duration::from_secs(3),
        "after {:?}",
        start.elapsed()
    );
    assert_eq!(end.await.unwrap().code, Some(4000));
}

/// What the claims of other services look like is not our business unless we are told to trust them.
#[tokio::test]
async fn odd_claims_of_others_are_no_reason_to_refuse() {
    for organizations in [
        json!({"acme": {"id": "1"}}),
        json!([{"id": "acme"}]),
        json!("acme"),
    ] {
        let world = world().await;
        let mut client = world.dial().await;
        let claims = json!({"sub": "ann", "exp": now() + 600, "organizations": organizations, "org_roles": ["x"]});
        client.auth(&sign(&claims, SECRET), "acme").await;
        assert_eq!(client.next().await["type"], "auth_success", "{claims}");
    }
}

/// A token that is taken although its end is just over lasts as long as that patience.
#[tokio::test]
async fn a_token_that_the_leeway_saves_is_of_use() {
    let config = AuthConfig {
        leeway: Duration::from_secs(30),
        ..auth()
    };
    let world = world_with(config, SocketLimits::default(), HubLimits::default(), &[]).await;
    let mut client = world.dial().await;
    client
        .auth(
            &sign(&json!({"sub": "ann", "exp": now() - 5}), SECRET),
            "acme",
        )
        .await;
    assert_eq!(client.next().await["type"], "auth_success");
    client.send(json!({"type": "ping", "ref": 1})).await;
    client.until(|frame| frame["type"] == "pong").await;
    world.unharmed(&mut client, "acme").await;
}

/// Clients may send and forget; what they sent before they left is handled without harm.
#[tokio::test]
async fn a_socket_that_vanishes_leaves_nothing_behind() {
    let world = world().await;
    let mut other = world.join("ann", "acme").await;
    for _ in 0..20 {
        let mut client = world.join("ann", "acme").await;
        client.0.feed(Message::text("{")).await.unwrap();
        drop(client);
    }
    let deadline = tokio::time::Instant::now() + DEADLINE;
    while world.hub.connections() > 1 {
        assert!(tokio::time::Instant::now() < deadline, "some stay");
        tokio::task::yield_now().await;
    }
    world.unharmed(&mut other, "acme").await;
}
