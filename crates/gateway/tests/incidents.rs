//! What has gone wrong elsewhere before anybody was known, or because of who he was taken for: one test for each class
//! (docs/security.md has the table).

#![allow(missing_docs, clippy::unwrap_used)] // Helpers of tests are tests.

mod common;

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use common::{
    SECRET, auth, claims, now,
    raw::{self, frame},
    sign, token, world, world_with,
};
use jsonwebtoken::{Algorithm, EncodingKey, Header, jwk::Jwk};
use rowcast_gateway::{AuthConfig, SocketLimits, Verifier};
use rowcast_hub::{Hub, HubLimits};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// One of many key pairs, made for these tests alone; in its set it has the id `one`, as everybody's.
fn key(letter: char) -> (EncodingKey, Value) {
    let seed: String = std::iter::repeat_n(letter, 42).collect();
    let pem = format!(
        "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEI{seed}A\n-----END PRIVATE KEY-----\n"
    );
    let private = EncodingKey::from_ed_pem(pem.as_bytes()).unwrap();
    let mut public = Jwk::from_encoding_key(&private, Algorithm::EdDSA).unwrap();
    public.common.key_id = Some("one".into());
    (private, serde_json::to_value(public).unwrap())
}

/// A server of one key set, and how often it was asked.
async fn serves(set: Value) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/keys", listener.local_addr().unwrap());
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let body = json!({"keys": [set]}).to_string();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            count.fetch_add(1, Ordering::SeqCst);
            let mut head = [0; 4096];
            let _ = stream.read(&mut head).await;
            let answer = format!(
                "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            );
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    (url, asked)
}

fn signed(private: &EncodingKey, header: Value, claims: &Value) -> String {
    let mut head: Header = serde_json::from_value(header).unwrap();
    head.alg = Algorithm::EdDSA;
    jsonwebtoken::encode(&head, claims, private).unwrap()
}

fn hub() -> Hub {
    Hub::new(
        HubLimits::default(),
        &mut prometheus_client::registry::Registry::default(),
    )
}

/// Two key sets use one key id: each has its own key, neither takes the place of the other, and one that belongs
/// to another issuer proves nothing here.
#[tokio::test]
async fn one_key_id_in_two_sets_are_two_keys() {
    let ((a, a_set), (b, b_set), (c, _)) = (key('A'), key('B'), key('C'));
    let ((a_url, _), (b_url, _)) = (serves(a_set).await, serves(b_set).await);
    let verifier = |issuer: &str, jwks: Vec<String>| {
        let issuer = Some(issuer.to_owned());
        let config = AuthConfig {
            jwks,
            issuer,
            ..AuthConfig::default()
        };
        Verifier::new(&config).unwrap()
    };
    let token = |private: &EncodingKey, issuer: &str| {
        let claims = json!({"sub": "ann", "exp": now() + 600, "iss": issuer});
        signed(private, json!({"alg": "EdDSA", "kid": "one"}), &claims)
    };
    let hub = hub();
    let code = async |verifier: &Verifier, token: String| {
        let verified = verifier.verify(&token, &hub).await;
        verified.map(|_| ()).map_err(|no| no.code.number())
    };
    let only_a = verifier("a", vec![a_url.clone()]);
    let only_b = verifier("b", vec![b_url.clone()]);
    let both = verifier("a", vec![a_url, b_url]);
    // Whichever set was asked first.
    for _ in 0..2 {
        assert_eq!(code(&only_b, token(&b, "b")).await, Ok(()));
        assert_eq!(code(&only_a, token(&a, "a")).await, Ok(()));
        assert_eq!(code(&only_a, token(&b, "a")).await, Err(201));
        assert_eq!(code(&only_b, token(&a, "b")).await, Err(201));
        assert_eq!(code(&only_a, token(&a, "b")).await, Err(205));
        for private in [&a, &b] {
            assert_eq!(code(&both, token(private, "a")).await, Ok(()));
        }
        assert_eq!(code(&both, token(&c, "a")).await, Err(201));
    }
}

/// Nothing in a token says where keys are: not its header, not its claims, and no key that it brings along.
#[tokio::test]
async fn nothing_in_a_token_names_a_key_set() {
    let ((_, ours), (evil, theirs)) = (key('A'), key('E'));
    let (url, asked) = serves(ours).await;
    let (evil_url, evil_asked) = serves(theirs.clone()).await;
    let config = AuthConfig {
        jwks: vec![url],
        ..AuthConfig::default()
    };
    let verifier = Verifier::new(&config).unwrap();
    let hub = hub();
    let host = evil_url.trim_start_matches("http://");
    for header in [
        json!({"alg": "EdDSA", "kid": "one"}),
        json!({"alg": "EdDSA", "kid": "one", "jku": evil_url}),
        json!({"alg": "EdDSA", "kid": "one", "x5u": evil_url}),
        json!({"alg": "EdDSA", "kid": evil_url}),
        json!({"alg": "EdDSA", "kid": "../../keys"}),
        json!({"alg": "EdDSA", "kid": "one", "jwk": theirs}),
        json!({"alg": "EdDSA", "jwk": theirs}),
    ] {
        for (name, value) in [
            ("iss", evil_url.clone()),
            ("iss", format!("x@{host}#")),
            ("aud", evil_url.clone()),
            ("tenant", host.to_owned()),
        ] {
            let mut claims = claims("ann");
            claims[name] = value.into();
            let token = signed(&evil, header.clone(), &claims);
            let refused = verifier.verify(&token, &hub).await.unwrap_err();
            assert_eq!(refused.code.number(), 201, "{header}");
        }
    }
    assert_eq!(evil_asked.load(Ordering::SeqCst), 0);
    assert!(asked.load(Ordering::SeqCst) >= 1, "only ours is asked");
}

/// Who has not said who he is, is nobody: there is no way of being let in without a token, and what a token says of
/// its bearer's power is worth nothing without a membership.
#[tokio::test]
async fn without_a_membership_there_is_nothing() {
    let world = world().await;
    for first in [
        json!({"type": "auth"}),
        json!({"type": "auth", "token": null, "organizationId": "acme"}),
        json!({"type": "auth", "token": "", "organizationId": "acme"}),
        json!({"type": "auth", "token": "anon", "organizationId": "acme"}),
        json!({"type": "auth", "token": "public", "organizationId": "acme"}),
        json!({"type": "auth", "token": "null", "organizationId": "acme", "public": true}),
        json!({"type": "subscribe", "channel": "org:acme"}),
        json!({"type": "subscribe", "channel": "public"}),
        json!({"type": "broadcast", "channel": "org:acme", "event": "e", "payload": {}}),
        json!({"type": "ping"}),
    ] {
        let mut nobody = world.dial().await;
        nobody.send(first.clone()).await;
        world.tell("acme", "secret");
        let end = nobody.end().await;
        assert!(end.code.is_some_and(|code| code >= 4500), "{first}");
        assert_eq!(end.frames.len(), 1, "{first}: {:?}", end.frames);
        assert_eq!(end.frames[0]["type"], "error", "{first}");
    }
    let mighty = json!({"sub": "root", "exp": now() + 600, "role": "service_role", "admin": true,
        "organizations": ["acme"], "org_roles": {"acme": ["admin"]}, "is_superuser": true});
    for claims in [mighty, claims("stranger"), claims("*"), claims("public")] {
        let mut stranger = world.dial().await;
        stranger.auth(&sign(&claims, SECRET), "acme").await;
        let end = stranger.end().await;
        assert_eq!(
            (end.frames[0]["code"].as_u64(), end.code),
            (Some(206), Some(4504))
        );
    }
    // Somebody's own membership is no key to another organization.
    let mut ann = world.join("ann", "acme").await;
    for channel in [
        "org:globex",
        "tenant:globex:tasks",
        "user:bob",
        "org:*",
        "org:",
    ] {
        ann.send(json!({"type": "subscribe", "channel": channel, "ref": channel}))
            .await;
        let reply = ann.until(|frame| frame["ref"] == channel || frame["type"] == "error");
        assert_eq!(reply.await["type"], "error", "{channel}");
    }
}

async fn answer_to(address: std::net::SocketAddr, more: &str) -> (u16, String, TcpStream) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let mut request = raw::request(address);
    request.truncate(request.len() - 2);
    request.extend_from_slice(more.as_bytes());
    request.extend_from_slice(b"\r\n");
    let _ = stream.write_all(&request).await;
    let mut answer = vec![0; 4096];
    let read = stream.read(&mut answer).await.unwrap_or_default();
    let answer = String::from_utf8_lossy(&answer[..read]).into_owned();
    let status = answer.split(' ').nth(1).and_then(|text| text.parse().ok());
    (status.unwrap_or_default(), answer, stream)
}

/// A page of somebody else: its origin is refused where origins are named, and where they are not, the cookies
/// that the browser sends along are worth nothing.
#[tokio::test]
async fn a_page_of_somebody_else_gets_no_socket_and_cookies_count_for_nothing() {
    let ours = &["https://app.example.com"][..];
    let guarded = world_with(auth(), SocketLimits::default(), HubLimits::default(), ours).await;
    let address = guarded.gateway.public;
    for (origin, status) in [
        ("https://app.example.com", 101),
        ("https://evil.example.com", 403),
        ("https://app.example.com.evil.example.com", 403),
        ("https://evil.example.com/https://app.example.com", 403),
        ("http://app.example.com", 403),
        ("null", 403),
        ("", 403),
    ] {
        let (got, ..) = answer_to(address, &format!("Origin: {origin}\r\n")).await;
        assert_eq!(got, status, "{origin}");
    }
    let open = world().await;
    let token = token("ann");
    let cookies = format!(
        "Origin: https://evil.example.com\r\nCookie: token={token}; access_token={token}; session={token}\r\n\
         Authorization: Bearer {token}\r\n"
    );
    let (status, _, mut stream) = answer_to(open.gateway.public, &cookies).await;
    assert_eq!(status, 101);
    let asked = frame(raw::TEXT, br#"{"type":"subscribe","channel":"org:acme"}"#);
    stream.write_all(&asked).await.unwrap();
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.unwrap();
    let rest = String::from_utf8_lossy(&rest);
    assert!(
        rest.contains("auth_required") && !rest.contains("subscribed"),
        "{rest}"
    );
}

/// What a stranger sends is bounded before it is understood: headers, compression, size, pieces, depth.
#[tokio::test]
async fn a_stranger_is_bounded_before_he_is_understood() {
    let world = world().await;
    let address = world.gateway.public;
    let mut other = world.join("ann", "acme").await;
    // More headers than anybody needs, and a head that is too long.
    let many: String = (0..200).map(|i| format!("X-{i}: y\r\n")).collect();
    assert_eq!(answer_to(address, &many).await.0, 431);
    let long = format!("X: {}\r\n", "y".repeat(64 * 1024));
    assert_ne!(answer_to(address, &long).await.0, 101);
    // Compression is not spoken, so nothing small becomes large.
    let offer = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n";
    let (status, answer, _) = answer_to(address, offer).await;
    assert_eq!(status, 101);
    assert!(!answer.to_lowercase().contains("extensions"), "{answer}");
    let deep = format!(r#"{{"type":"auth","token":{}"#, "[".repeat(30_000));
    let pieces = {
        let mut pieces = frame(raw::TEXT_BEGINS, b"{");
        pieces.extend(frame(raw::MIDDLE, &[b'\n'; 60_000]).repeat(150));
        pieces
    };
    let claims_much = {
        // A frame that says it has 8 MB.
        let mut claims_much = vec![raw::TEXT, 0x80 | 127];
        claims_much.extend(8_000_000_u64.to_be_bytes());
        claims_much.extend([b'\n'; 1000]);
        claims_much
    };
    for (what, bytes, wanted) in [
        ("compressed", frame(raw::TEXT | 0x40, b"{}"), &[4505][..]),
        ("deep", frame(raw::TEXT, deep.as_bytes()), &[4505]),
        ("8 MB of newlines in pieces", pieces, &[4506]),
        ("8 MB announced", claims_much, &[4506]),
        ("a piece of nothing", frame(raw::MIDDLE, b"x"), &[4505]),
    ] {
        let (_, _, stream) = answer_to(address, "").await;
        let (mut reading, mut writing) = stream.into_split();
        // The other side may close before it has all of it.
        let sending = tokio::spawn(async move {
            let _ = writing.write_all(&bytes).await;
            writing
        });
        let mut rest = Vec::new();
        let read = tokio::time::timeout(common::DEADLINE, reading.read_to_end(&mut rest)).await;
        assert!(read.is_ok(), "{what}: it is not closed");
        drop(sending.await);
        let codes = rest.windows(4).filter(|four| four[0] == raw::CLOSE);
        let codes: Vec<u16> = codes
            .map(|four| u16::from_be_bytes([four[2], four[3]]))
            .collect();
        assert!(
            codes.iter().any(|code| wanted.contains(code)),
            "{what}: {codes:?}"
        );
    }
    world.unharmed(&mut other, "acme").await;
}
