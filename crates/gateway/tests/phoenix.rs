//! Sockets of the Supabase protocol at their edges: patience with clients that try again for ever, tokens that come
//! late, change or cannot be checked, keys that end, strangers who make noise, and no frame of another protocol.

#![allow(missing_docs, clippy::unwrap_used)] // Helpers of tests are tests.

mod common;

use std::{sync::Arc, time::Duration};

use common::{DEADLINE, SECRET, World, auth, claims, now, sign, token, world, world_with};
use futures_util::{SinkExt, StreamExt};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rowcast_gateway::{AuthConfig, SocketLimits};
use rowcast_hub::{HubLimits, PresenceWork, Which};
use rowcast_model::{
    ChannelChange, ChannelRule, HubOp, KeyChange, KeyFacts, KeySecret, Scope, Timestamp, Who,
};
use rowcast_wire::CloseCode;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::net::TcpStream;
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Error, Message, client::IntoClientRequest},
};

/// What clients of the protocol get: topic, event and payload of every frame; anything else fails.
struct Phoenix {
    socket: WebSocketStream<TcpStream>,
    next: u32,
}

struct Said {
    reference: Value,
    topic: String,
    event: String,
    payload: Value,
}

/// How a socket ended, and what it was told before.
struct Ended {
    code: Option<u16>,
    said: Vec<Said>,
}

impl Phoenix {
    async fn dial(world: &World) -> Phoenix {
        let address = world.gateway.public;
        let path = "socket/websocket?apikey=sb_publishable_x&vsn=2.0.0";
        let stream = TcpStream::connect(address).await.unwrap();
        let url = format!("ws://{address}/{path}");
        let (socket, _) = tokio_tungstenite::client_async(url, stream).await.unwrap();
        Phoenix { socket, next: 0 }
    }

    /// A frame without an answer to wait for, or its reference.
    async fn push(&mut self, topic: &str, event: &str, payload: Value, asks: bool) -> String {
        self.next += 1;
        let reference = self.next.to_string();
        let own = if asks { json!(reference) } else { Value::Null };
        let frame = json!([reference, own, topic, event, payload]).to_string();
        self.socket.send(Message::text(frame)).await.unwrap();
        reference
    }

    async fn read(&mut self) -> Result<Said, Option<u16>> {
        loop {
            let next = tokio::time::timeout(DEADLINE, self.socket.next()).await;
            match next.expect("a frame in time") {
                Some(Ok(Message::Text(text))) => {
                    let frame: Value = serde_json::from_str(&text).unwrap();
                    let of = |at: usize| frame[at].as_str().map(str::to_owned);
                    let (Some(topic), Some(event), Some(5)) =
                        (of(2), of(3), frame.as_array().map(Vec::len))
                    else {
                        panic!("no frame of the protocol: {text}");
                    };
                    return Ok(Said {
                        reference: frame[1].clone(),
                        topic,
                        event,
                        payload: frame[4].clone(),
                    });
                }
                Some(Ok(Message::Close(frame))) => {
                    return Err(frame.map(|frame| frame.code.into()));
                }
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Err(None),
            }
        }
    }

    async fn until(&mut self, what: &str, wanted: impl Fn(&Said) -> bool) -> Said {
        loop {
            match self.read().await {
                Ok(said) if wanted(&said) => return said,
                Ok(_) => {}
                Err(code) => panic!("{what}: closed with {code:?}"),
            }
        }
    }

    async fn ask(&mut self, topic: &str, event: &str, payload: Value) -> Value {
        let reference = self.push(topic, event, payload, true).await;
        let said = self
            .until("a reply", |said| {
                said.event == "phx_reply" && said.reference == json!(reference)
            })
            .await;
        said.payload
    }

    async fn join(&mut self, topic: &str, token: &str, private: bool) -> Value {
        let events = json!([{"event": "*", "schema": "public", "table": "realtime_table_events"}]);
        let events = if private { json!([]) } else { events };
        let config = json!({"postgres_changes": events, "private": private});
        let payload = json!({"config": config, "access_token": token});
        self.ask(topic, "phx_join", payload).await
    }

    /// That a change of an organization is heard, on this channel.
    async fn hears(&mut self, world: &World, organization: &str, topic: &str) {
        let record = world.cursor().to_string();
        world.tell(organization, &record);
        let said = self
            .until("a row", |said| {
                said.event == "postgres_changes"
                    && said.topic == topic
                    && said.payload["data"]["record"]["record_id"] == record.as_str()
            })
            .await;
        assert_eq!(
            said.payload["data"]["record"]["organization_id"],
            organization
        );
    }

    async fn end(mut self) -> Ended {
        let mut said = Vec::new();
        loop {
            match self.read().await {
                Ok(one) => said.push(one),
                Err(code) => return Ended { code, said },
            }
        }
    }
}

async fn joined(world: &World, user: &str) -> Phoenix {
    let mut socket = Phoenix::dial(world).await;
    let reply = socket.join("realtime:rows", &token(user), false).await;
    assert_eq!(reply["status"], "ok", "{reply}");
    socket
}

async fn with(limits: SocketLimits) -> World {
    world_with(auth(), limits, HubLimits::default(), &[]).await
}

/// Clients try a refused join again for ever: the channels beside it stay.
#[tokio::test]
async fn refused_joins_do_not_end_the_socket() {
    let world = with(SocketLimits {
        bad_frames: 3,
        ..SocketLimits::default()
    })
    .await;
    let mut ann = joined(&world, "ann").await;
    for _ in 0..10 {
        let reply = ann.join("realtime:room:1", &token("ann"), true).await;
        let reason = reply["response"]["reason"].as_str().unwrap();
        assert!(reason.starts_with("Unauthorized"), "{reply}");
    }
    ann.hears(&world, "acme", "realtime:rows").await;
    // What makes no sense costs patience as everywhere.
    for _ in 0..3 {
        ann.push("realtime:rows", "presence", json!(null), false)
            .await;
        ann.push("realtime:nobody", "broadcast", json!({"event": "e"}), true)
            .await;
    }
    for _ in 0..2 {
        ann.push("realtime:nobody", "broadcast", json!({"event": "e"}), true)
            .await;
    }
    assert_eq!(ann.end().await.code, Some(CloseCode::Protocol.number()));
}

/// Somebody who may not send is told so each time, and goes on hearing.
#[tokio::test]
async fn refused_broadcasts_do_not_end_the_socket() {
    let world = with(SocketLimits {
        bad_frames: 3,
        ..SocketLimits::default()
    })
    .await;
    let mut ann = joined(&world, "ann").await;
    let said = json!({"type": "broadcast", "event": "e", "payload": {}});
    for _ in 0..10 {
        ann.push("realtime:rows", "broadcast", said.clone(), false)
            .await;
        let told = ann
            .until("why", |said| {
                said.event == "system" && said.payload["extension"] == "broadcast"
            })
            .await;
        assert_eq!(told.payload["status"], "error");
    }
    ann.hears(&world, "acme", "realtime:rows").await;
}

/// Each push that is too much is answered once, however many channels there are.
#[tokio::test]
async fn too_much_is_answered_on_its_channel() {
    let world = with(SocketLimits {
        frames_burst: 12,
        frames_per_second: 1,
        ..SocketLimits::default()
    })
    .await;
    let mut ann = joined(&world, "ann").await;
    for topic in ["realtime:a", "realtime:b", "realtime:c"] {
        assert_eq!(ann.join(topic, "", false).await["status"], "ok");
    }
    let said = json!({"type": "broadcast", "event": "e", "payload": {}});
    for _ in 0..18 {
        ann.push("realtime:a", "broadcast", said.clone(), false)
            .await;
    }
    let heartbeat = ann.push("phoenix", "heartbeat", json!({}), true).await;
    let mut told = Vec::new();
    loop {
        let said = ann.read().await.unwrap();
        if said.reference == json!(heartbeat) {
            break;
        }
        if said.payload["extension"] == "system" {
            told.push(said.topic);
        }
    }
    assert!((5..=18).contains(&told.len()), "{told:?}");
    assert!(told.iter().all(|topic| topic == "realtime:a"), "{told:?}");
}

fn ed_token(user: &str) -> String {
    const KEY: &str = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\n-----END PRIVATE KEY-----\n";
    let key = EncodingKey::from_ed_pem(KEY.as_bytes()).unwrap();
    jsonwebtoken::encode(&Header::new(Algorithm::EdDSA), &claims(user), &key).unwrap()
}

/// A token that nobody can check at the moment ends nothing: the one of before counts as long as it lasts.
#[tokio::test]
async fn a_token_that_cannot_be_checked_now_ends_nothing() {
    let config = AuthConfig {
        jwks: vec!["http://127.0.0.1:1/keys".into()],
        ..auth()
    };
    let world = world_with(config, SocketLimits::default(), HubLimits::default(), &[]).await;
    let mut ann = joined(&world, "ann").await;
    let fresh = json!({"access_token": ed_token("ann")});
    ann.push("realtime:rows", "access_token", fresh, false)
        .await;
    let told = ann
        .until("what became of the token", |said| {
            said.payload["extension"] == "system"
        })
        .await;
    assert_eq!(told.payload["status"], "error");
    ann.hears(&world, "acme", "realtime:rows").await;
    // One that is bad ends the channel that it was sent on, and says so.
    let bad =
        json!({"access_token": sign(&claims("ann"), "another secret of thirty-two bytes or more")});
    ann.push("realtime:rows", "access_token", bad, false).await;
    ann.until("the end", |said| {
        said.event == "phx_close" && said.topic == "realtime:rows"
    })
    .await;
}

#[tokio::test]
async fn another_user_closes_the_socket() {
    let world = world().await;
    let mut ann = joined(&world, "ann").await;
    let bobs = json!({"access_token": token("bob")});
    ann.push("realtime:rows", "access_token", bobs, false).await;
    let record = "after the change";
    let ended = ann.end().await;
    assert_eq!(ended.code, Some(CloseCode::UserChanged.number()));
    world.tell("acme", record);
    assert!(
        ended
            .said
            .iter()
            .all(|said| said.event != "postgres_changes")
    );
}

/// Organizations of the claims go with the token.
#[tokio::test]
async fn a_token_with_fewer_organizations_takes_the_others_away() {
    let config = AuthConfig {
        trust_claims: true,
        ..auth()
    };
    let world = world_with(config, SocketLimits::default(), HubLimits::default(), &[]).await;
    let of = |organizations: &[&str]| {
        let claims = json!({"sub": "cleo", "exp": now() + 600, "organizations": organizations});
        sign(&claims, SECRET)
    };
    let mut cleo = Phoenix::dial(&world).await;
    let first = of(&["acme", "blue"]);
    assert_eq!(
        cleo.join("realtime:rows", &first, false).await["status"],
        "ok"
    );
    cleo.hears(&world, "acme", "realtime:rows").await;
    cleo.hears(&world, "blue", "realtime:rows").await;
    let renewed = json!({"access_token": of(&["blue", "cyan"])});
    cleo.push("realtime:rows", "access_token", renewed, false)
        .await;
    cleo.until("that it counts", |said| said.payload["status"] == "ok")
        .await;
    world.tell("acme", "not for cleo");
    let mut seen = Vec::new();
    world.tell("cyan", "for cleo");
    loop {
        let said = cleo.read().await.unwrap();
        seen.push(said.payload.to_string());
        if said.payload["data"]["record"]["record_id"] == "for cleo" {
            break;
        }
    }
    assert!(seen.iter().all(|one| !one.contains("not for cleo")));
}

fn hash(key: &str) -> String {
    let digest = Sha256::digest(key.as_bytes());
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn key_op(world: &World, secrets: Vec<KeySecret>, expires: Option<Timestamp>) {
    let facts = KeyFacts {
        secrets,
        expires,
        ..KeyFacts::new("", "acme", vec!["member".into()])
    };
    world.publish(vec![HubOp::ApiKey(KeyChange {
        id: "k1".into(),
        now: Some(facts),
    })]);
}

fn secret(key: &str) -> KeySecret {
    KeySecret {
        hash: hash(key).as_str().into(),
        until: None,
    }
}

/// An API key as access token: heard as long as it counts, and no longer.
#[tokio::test]
async fn an_api_key_ends_with_its_revocation_its_secret_and_its_time() {
    let world = world().await;
    let (old, new) = ("rk_k1_0123456789abcdef0123", "rk_k1_fedcba98765432100123");
    let join = async |key: &str| {
        key_op(&world, vec![secret(old), secret(new)], None);
        let mut machine = Phoenix::dial(&world).await;
        let reply = machine.join("realtime:rows", key, false).await;
        assert_eq!(reply["status"], "ok", "{reply}");
        machine.hears(&world, "acme", "realtime:rows").await;
        machine
    };
    let revoked = join(new).await;
    world.publish(vec![HubOp::ApiKey(KeyChange {
        id: "k1".into(),
        now: None,
    })]);
    let ended = revoked.end().await;
    assert_eq!(ended.code, Some(CloseCode::KeyRevoked.number()));
    // Rotated: who has shown the new secret stays.
    let (mut stays, goes) = (join(new).await, join(old).await);
    key_op(&world, vec![secret(new)], None);
    assert_eq!(goes.end().await.code, Some(CloseCode::KeyRevoked.number()));
    stays.hears(&world, "acme", "realtime:rows").await;
    let soon = i64::try_from(now()).unwrap() * 1_000_000 + 1_500_000;
    key_op(&world, vec![secret(new)], Some(Timestamp(soon)));
    assert_eq!(stays.end().await.code, Some(CloseCode::KeyExpired.number()));
    // A session is no key: whoever changes from one to the other is somebody else.
    let mut machine = join(new).await;
    let session = json!({"access_token": token("ann")});
    machine
        .push("realtime:rows", "access_token", session, false)
        .await;
    assert_eq!(
        machine.end().await.code,
        Some(CloseCode::UserChanged.number())
    );
}

/// Nobody's socket hears nothing, is bounded in what it may say, and ends.
#[tokio::test]
async fn nobody_is_answered_and_closed() {
    let world = with(SocketLimits {
        silence: Duration::from_millis(700),
        ..SocketLimits::default()
    })
    .await;
    for kind in ["silence", "joins", "pings", "bytes"] {
        let mut nobody = Phoenix::dial(&world).await;
        for i in 0..40 {
            let sent = match kind {
                "silence" => break,
                "pings" => nobody.socket.send(Message::Ping(vec![1].into())).await,
                "bytes" => nobody.socket.send(Message::binary(vec![3, 0])).await,
                _ => {
                    let frame = json!([null, i.to_string(), "realtime:rows", "phx_join", {}]);
                    nobody.socket.send(Message::text(frame.to_string())).await
                }
            };
            if sent.is_err() {
                break;
            }
        }
        world.tell("acme", "not for nobody");
        let ended = nobody.end().await;
        let code = match kind {
            "silence" => CloseCode::AuthTimeout,
            _ => CloseCode::Protocol,
        };
        assert_eq!(ended.code, Some(code.number()), "{kind}");
        assert!(
            ended
                .said
                .iter()
                .all(|said| said.event == "phx_reply" && said.payload["status"] == "error"),
            "{kind}"
        );
    }
    assert_eq!(world.hub.connections(), 0);
}

#[tokio::test]
async fn pages_of_others_are_refused_on_both_addresses() {
    let origins = ["https://app.example"];
    let world = world_with(
        auth(),
        SocketLimits::default(),
        HubLimits::default(),
        &origins,
    )
    .await;
    let address = world.gateway.public;
    for path in ["realtime/v1/websocket", "socket/websocket"] {
        for (origin, fine) in [
            ("https://app.example", true),
            ("https://evil.example", false),
        ] {
            let url = format!("ws://{address}/{path}?apikey=sb_publishable_x&vsn=2.0.0");
            let mut request = url.into_client_request().unwrap();
            let headers = request.headers_mut();
            headers.insert("origin", origin.parse().unwrap());
            headers.insert("x-api-key", token("ann").parse().unwrap());
            let stream = TcpStream::connect(address).await.unwrap();
            match tokio_tungstenite::client_async(request, stream).await {
                Ok(_) => assert!(fine, "{path} {origin}"),
                Err(Error::Http(response)) => {
                    assert!(!fine && response.status() == 403, "{path} {origin}");
                }
                Err(error) => panic!("{error}"),
            }
        }
    }
}

fn room() -> HubOp {
    HubOp::Channel(ChannelChange {
        pattern: "room:{id}".into(),
        now: Some(Arc::new(ChannelRule {
            pattern: "room:{id}".parse().unwrap(),
            parameters: [rowcast_model::ParameterKind::Int].into_iter().collect(),
            who: Who::Public,
            scope: Scope::Organization,
            relay: true,
            presence: true,
            events: None,
        })),
    })
}

/// Whatever happens to a socket, down to its last word, is said in the words of the protocol ([`Phoenix::read`]
/// fails on anything else).
#[tokio::test]
async fn every_word_to_a_socket_is_of_the_protocol() {
    let world = world().await;
    world.publish(vec![room()]);
    for last in ["operator", "key", "restart"] {
        let mut ann = joined(&world, "ann").await;
        assert_eq!(ann.join("realtime:room:1", "", true).await["status"], "ok");
        let track = json!({"type": "presence", "event": "track", "payload": {"a": 1}});
        assert_eq!(
            ann.ask("realtime:room:1", "presence", track).await["status"],
            "ok"
        );
        while world.hub.keep_presence() == PresenceWork::More {}
        for bad in ["{", "[]", "null", "\"x\"", "[1,2,3,4,5]"] {
            ann.socket.send(Message::text(bad)).await.unwrap();
        }
        ann.socket.send(Message::binary(vec![9, 9])).await.unwrap();
        let nothing = json!({"type": "presence", "event": "track", "payload": 1});
        assert_eq!(
            ann.ask("realtime:room:1", "presence", nothing).await["status"],
            "error"
        );
        world.hub.announce(rowcast_hub::StreamState::Stale {
            since: Timestamp(0),
            reason: "away".into(),
        });
        world.hub.announce(rowcast_hub::StreamState::Live);
        world.member("ann", "blue", Some("member"));
        world.member("ann", "blue", None);
        ann.hears(&world, "acme", "realtime:rows").await;
        let code = match last {
            "operator" => {
                let which = Which {
                    user: Some("ann".into()),
                    ..Which::default()
                };
                let closed =
                    world
                        .hub
                        .disconnect_where(&which, CloseCode::Overloaded, Some("maintenance"));
                assert_eq!(closed, 1);
                CloseCode::Overloaded
            }
            "key" => {
                let bobs = json!({"access_token": token("bob")});
                ann.push("realtime:rows", "access_token", bobs, false).await;
                CloseCode::UserChanged
            }
            _ => {
                world.hub.close_all(CloseCode::Restarting);
                CloseCode::Restarting
            }
        };
        assert_eq!(ann.end().await.code, Some(code.number()), "{last}");
    }
}
