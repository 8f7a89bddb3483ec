//! What is taken for an identity and what is not: each refusal has its number, and harms nobody else.

#![allow(missing_docs, clippy::unwrap_used)] // Helpers of tests are tests.

mod common;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use common::{SECRET, auth, claims, now, sign, token, world, world_with};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rowcast_gateway::{AuthConfig, GatewayError, SocketLimits, Verifier};
use rowcast_hub::HubLimits;
use rowcast_model::{HubOp, KeyChange, KeyFacts};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// A key pair made for these tests alone.
const ED_PRIVATE: &str = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\n-----END PRIVATE KEY-----\n";

fn ed_key() -> (EncodingKey, jsonwebtoken::jwk::Jwk) {
    let key = EncodingKey::from_ed_pem(ED_PRIVATE.as_bytes()).unwrap();
    let jwk = jsonwebtoken::jwk::Jwk::from_encoding_key(&key, Algorithm::EdDSA).unwrap();
    (key, jwk)
}

#[tokio::test]
async fn bad_tokens_have_their_numbers_and_harm_nobody() {
    let config = AuthConfig {
        issuer: Some("us".into()),
        audiences: vec!["app".into()],
        ..auth()
    };
    let world = world_with(config, SocketLimits::default(), HubLimits::default(), &[]).await;
    let good = json!({"sub": "ann", "exp": now() + 600, "iss": "us", "aud": "app"});
    let with = |name: &str, value: Value| {
        let mut claims = good.clone();
        claims[name] = value;
        sign(&claims, SECRET)
    };
    let without = |name: &str| {
        let mut claims = good.clone();
        claims.as_object_mut().unwrap().remove(name);
        sign(&claims, SECRET)
    };
    let part = |text: &str| {
        const LETTERS: &[u8; 64] =
            b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let mut out = String::new();
        for chunk in text.as_bytes().chunks(3) {
            let bits = chunk
                .iter()
                .fold(0u32, |bits, byte| bits << 8 | u32::from(*byte))
                << (8 * (3 - chunk.len()));
            for i in 0..=chunk.len() {
                out.push(char::from(LETTERS[(bits >> (18 - 6 * i) & 63) as usize]));
            }
        }
        out
    };
    let none = format!(
        "{}.{}.",
        part(r#"{"alg":"none","typ":"JWT"}"#),
        part(&good.to_string())
    );
    let mut other = world.dial().await;
    other.auth(&sign(&good, SECRET), "acme").await;
    assert_eq!(other.next().await["type"], "auth_success");
    let cases = [
        ("alg none", none, 201, 4501),
        (
            "wrong key",
            sign(&good, "another secret of more than thirty-two bytes"),
            201,
            4501,
        ),
        ("expired", with("exp", json!(now() - 60)), 202, 4502),
        ("not yet valid", with("nbf", json!(now() + 600)), 203, 4501),
        ("wrong audience", with("aud", json!("other")), 204, 4501),
        ("no audience", without("aud"), 204, 4501),
        ("wrong issuer", with("iss", json!("them")), 205, 4501),
        ("no expiry", without("exp"), 201, 4501),
        ("no subject", without("sub"), 201, 4501),
        ("empty subject", with("sub", json!("")), 201, 4501),
        ("not a token", "hello".into(), 201, 4501),
        ("an unknown API key", "rk_nobody_nothing".into(), 201, 4501),
        ("a huge token", "x".repeat(20_000), 201, 4501),
    ];
    for (what, bad, number, close) in cases {
        let mut client = world.dial().await;
        client.auth(&bad, "acme").await;
        let end = client.end().await;
        let last = end
            .frames
            .last()
            .unwrap_or_else(|| panic!("{what}: no frame, {:?}", end.code));
        assert_eq!(
            (last["type"].as_str(), last["code"].as_u64()),
            (Some("error"), Some(number)),
            "{what}: {last}"
        );
        assert!(
            !last.to_string().contains(&bad),
            "{what}: the answer repeats the token"
        );
        assert_eq!(end.code, Some(close), "{what}");
    }
    world.unharmed(&mut other, "acme").await;
}

#[tokio::test]
async fn an_hs_token_signed_with_the_public_key_is_refused() {
    let (private, jwk) = ed_key();
    let jsonwebtoken::jwk::AlgorithmParameters::OctetKeyPair(pair) = &jwk.algorithm else {
        panic!("an Ed25519 key")
    };
    // The public key as PEM, as an attacker would find it published.
    let mut spki = vec![
        0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
    ];
    spki.extend(decode_url(&pair.x));
    let pem = format!(
        "-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n",
        encode(&spki)
    );
    let config = AuthConfig {
        secrets: vec![],
        public_keys: vec![pem.clone().into()],
        ..auth()
    };
    let world = world_with(config, SocketLimits::default(), HubLimits::default(), &[]).await;

    let mut honest = world.dial().await;
    honest
        .auth(
            &jsonwebtoken::encode(&Header::new(Algorithm::EdDSA), &claims("ann"), &private)
                .unwrap(),
            "acme",
        )
        .await;
    assert_eq!(honest.next().await["type"], "auth_success");

    for secret in [pem.as_str(), pem.trim_end()] {
        let mut thief = world.dial().await;
        thief.auth(&sign(&claims("ann"), secret), "acme").await;
        let end = thief.end().await;
        assert_eq!(end.frames.last().unwrap()["code"], 201);
    }
    world.unharmed(&mut honest, "acme").await;
}

fn decode_url(text: &str) -> Vec<u8> {
    let value = |byte: u8| match byte {
        b'A'..=b'Z' => byte - b'A',
        b'a'..=b'z' => byte - b'a' + 26,
        b'0'..=b'9' => byte - b'0' + 52,
        b'-' => 62,
        _ => 63,
    };
    let mut out = Vec::new();
    let (mut bits, mut count) = (0u32, 0);
    for byte in text.bytes() {
        bits = bits << 6 | u32::from(value(byte));
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push((bits >> count & 255) as u8);
        }
    }
    out
}

fn encode(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for chunk in bytes.chunks(3) {
        let bits = chunk
            .iter()
            .fold(0u32, |bits, byte| bits << 8 | u32::from(*byte))
            << (8 * (3 - chunk.len()));
        for i in 0..4 {
            out.push(if i <= chunk.len() {
                char::from(LETTERS[(bits >> (18 - 6 * i) & 63) as usize])
            } else {
                '='
            });
        }
    }
    out
}

#[tokio::test]
async fn a_previous_secret_still_counts() {
    let old = "the secret of last month, long enough too";
    let config = AuthConfig {
        secrets: vec![SECRET.into(), old.into()],
        ..auth()
    };
    let world = world_with(config, SocketLimits::default(), HubLimits::default(), &[]).await;
    let mut client = world.dial().await;
    client.auth(&sign(&claims("ann"), old), "acme").await;
    assert_eq!(client.next().await["type"], "auth_success");
}

#[tokio::test]
async fn keys_from_a_key_set() {
    let (private, mut jwk) = ed_key();
    jwk.common.key_id = Some("one".into());
    let fetched = Arc::new(AtomicUsize::new(0));
    let served = json!({"keys": [jwk, {"kty": "oct", "kid": "shared", "k": "c2VjcmV0"}, {"kty": "new", "kid": "x"}]});
    let counter = fetched.clone();
    let router = axum::Router::new().route(
        "/keys",
        axum::routing::get(move || {
            counter.fetch_add(1, Ordering::SeqCst);
            std::future::ready(axum::Json(served.clone()))
        }),
    );
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let service = hyper_util::service::TowerToHyperService::new(router.clone());
            let io = hyper_util::rt::TokioIo::new(stream);
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(io, service));
        }
    });
    let config = AuthConfig {
        secrets: vec![],
        jwks: vec![format!("http://{address}/keys")],
        ..auth()
    };
    let world = world_with(config, SocketLimits::default(), HubLimits::default(), &[]).await;
    let signed = |kid: &str, header: Value| {
        let mut head: Header = serde_json::from_value(header).unwrap();
        head.kid = Some(kid.into());
        jsonwebtoken::encode(&head, &claims("ann"), &private).unwrap()
    };
    let plain = json!({"alg": "EdDSA"});
    for _ in 0..3 {
        let mut client = world.dial().await;
        client.auth(&signed("one", plain.clone()), "acme").await;
        assert_eq!(client.next().await["type"], "auth_success");
    }
    assert_eq!(fetched.load(Ordering::SeqCst), 1, "the set is cached");
    // An address in the token's own header is not followed, and an unknown key is asked for once, not each time.
    for _ in 0..3 {
        let mut client = world.dial().await;
        client
            .auth(
                &signed(
                    "two",
                    json!({"alg": "EdDSA", "jku": "http://127.0.0.1:1/keys"}),
                ),
                "acme",
            )
            .await;
        assert_eq!(client.end().await.frames.last().unwrap()["code"], 201);
    }
    // A shared secret in a key set is never used.
    let mut client = world.dial().await;
    client.auth(&sign(&claims("ann"), "secret"), "acme").await;
    assert_eq!(client.end().await.frames.last().unwrap()["code"], 201);
    assert!(
        fetched.load(Ordering::SeqCst) <= 2,
        "{}",
        fetched.load(Ordering::SeqCst)
    );
}

#[tokio::test]
async fn a_key_set_that_cannot_be_fetched_is_another_answer_than_a_bad_token() {
    let config = AuthConfig {
        secrets: vec![],
        jwks: vec!["http://127.0.0.1:1/keys".into()],
        ..auth()
    };
    let world = world_with(config, SocketLimits::default(), HubLimits::default(), &[]).await;
    let mut client = world.dial().await;
    client
        .auth(
            &jsonwebtoken::encode(&Header::new(Algorithm::EdDSA), &claims("ann"), &ed_key().0)
                .unwrap(),
            "acme",
        )
        .await;
    let end = client.end().await;
    assert_eq!(
        (end.frames.last().unwrap()["code"].as_u64(), end.code),
        (Some(210), Some(4006))
    );
}

/// Q25: an API key is told apart from a session, and ends with its revocation.
#[tokio::test]
async fn q25_api_keys() {
    let world = world().await;
    let key = "rk_k1_0123456789abcdef0123456789abcdef";
    let hash: String = Sha256::digest(key.as_bytes())
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let now = Some(KeyFacts::new(&hash, "acme", vec!["admin".into()]));
    world.publish(vec![HubOp::ApiKey(KeyChange {
        id: "k1".into(),
        now,
    })]);
    let mut client = world.dial().await;
    client.auth(key, "acme").await;
    let success = client.next().await;
    assert_eq!(
        (success["authMethod"].as_str(), success["role"].as_str()),
        (Some("api_key"), Some("admin"))
    );
    world.unharmed(&mut client, "acme").await;

    let mut wrong = world.dial().await;
    wrong
        .auth("rk_k1_0123456789abcdef0123456789abcdee", "acme")
        .await;
    assert_eq!(wrong.end().await.frames.last().unwrap()["code"], 201);
    let mut elsewhere = world.dial().await;
    elsewhere.auth(key, "globex").await;
    assert_eq!(elsewhere.end().await.code, Some(4504));

    world.publish(vec![HubOp::ApiKey(KeyChange {
        id: "k1".into(),
        now: None,
    })]);
    world.tell("acme", "after");
    let end = client.end().await;
    assert_eq!(end.code, Some(4503));
    assert!(end.frames.iter().all(|frame| frame["recordId"] != "after"));
}

#[test]
fn no_start_without_a_good_key() {
    let code = |config: AuthConfig| {
        Verifier::new(&config)
            .err()
            .map(|error: GatewayError| error.code())
    };
    assert_eq!(code(AuthConfig::default()), Some("no_jwt_key"));
    assert_eq!(
        code(AuthConfig {
            secrets: vec!["short".into()],
            ..AuthConfig::default()
        }),
        Some("secret_too_short")
    );
    assert_eq!(
        code(AuthConfig {
            public_keys: vec!["PEM?".into()],
            ..AuthConfig::default()
        }),
        Some("public_key_invalid")
    );
    assert_eq!(
        code(AuthConfig {
            jwks: vec!["file:///etc/passwd".into()],
            ..AuthConfig::default()
        }),
        Some("jwks_url_invalid")
    );
    assert!(code(auth()).is_none());
}

#[tokio::test]
async fn claims_grant_only_where_they_are_trusted() {
    let claims = json!({"sub": "eve", "exp": now() + 600, "organizations": ["acme"], "org_roles": {"globex": ["editor"]}});
    for trusted in [false, true] {
        let config = AuthConfig {
            trust_claims: trusted,
            ..auth()
        };
        let world = world_with(config, SocketLimits::default(), HubLimits::default(), &[]).await;
        for (organization, role) in [("acme", "member"), ("globex", "editor")] {
            let mut client = world.dial().await;
            client.auth(&sign(&claims, SECRET), organization).await;
            if trusted {
                assert_eq!(client.next().await["role"], role);
            } else {
                assert_eq!(client.end().await.code, Some(4504));
            }
        }
    }
}

#[tokio::test]
async fn a_token_is_refreshed_on_the_open_socket_and_ends_it_when_it_is_not() {
    let world = world_with(
        AuthConfig {
            leeway: Duration::ZERO,
            ..auth()
        },
        SocketLimits::default(),
        HubLimits::default(),
        &[],
    )
    .await;
    let short = |user: &str| sign(&json!({"sub": user, "exp": now() + 2}), SECRET);
    let mut kept = world.dial().await;
    kept.auth(&short("ann"), "acme").await;
    let mut ended = world.dial().await;
    ended.auth(&short("ann"), "acme").await;
    kept.send(json!({"type": "token", "ref": 1, "token": token("bob")}))
        .await;
    assert_eq!(
        kept.until(|frame| frame["ref"] == 1).await["code"],
        207,
        "somebody else's token"
    );
    kept.send(json!({"type": "token", "ref": 2, "token": "nonsense"}))
        .await;
    assert_eq!(kept.until(|frame| frame["ref"] == 2).await["code"], 201);
    kept.send(json!({"type": "token", "ref": 3, "token": token("ann")}))
        .await;
    let answer = kept.until(|frame| frame["ref"] == 3).await;
    assert_eq!(answer["type"], "token_refreshed");
    assert!(answer["expiresIn"].as_u64().unwrap() > 500);
    assert_eq!(ended.end().await.code, Some(4502));
    world.unharmed(&mut kept, "acme").await;
}

/// Each kind of key with each of its algorithms, and none with those of another.
#[tokio::test]
async fn every_algorithm_with_its_own_key_only() {
    use Algorithm::{
        ES256, ES384, EdDSA, HS256, HS384, HS512, PS256, PS384, PS512, RS256, RS384, RS512,
    };
    type Read = fn(&[u8]) -> Result<EncodingKey, jsonwebtoken::errors::Error>;
    let rsa: Read = EncodingKey::from_rsa_pem;
    let ec: Read = EncodingKey::from_ec_pem;
    let pairs: [(&str, &str, Read, &[Algorithm]); 4] = [
        (
            include_str!("keys/rsa.pem"),
            include_str!("keys/rsa.pub.pem"),
            rsa,
            &[RS256, RS384, RS512, PS256, PS384, PS512],
        ),
        (
            include_str!("keys/p256.pem"),
            include_str!("keys/p256.pub.pem"),
            ec,
            &[ES256],
        ),
        (
            include_str!("keys/p384.pem"),
            include_str!("keys/p384.pub.pem"),
            ec,
            &[ES384],
        ),
        (
            include_str!("keys/ed.pem"),
            include_str!("keys/ed.pub.pem"),
            EncodingKey::from_ed_pem,
            &[EdDSA],
        ),
    ];
    let hub = rowcast_hub::Hub::new(
        HubLimits::default(),
        &mut prometheus_client::registry::Registry::default(),
    );
    let only = |public: &[&str], secrets: &[&str]| {
        let config = AuthConfig {
            public_keys: public.iter().map(|pem| (*pem).into()).collect(),
            secrets: secrets.iter().map(|secret| (*secret).into()).collect(),
            ..auth()
        };
        Verifier::new(&config).unwrap()
    };
    let all = only(&pairs.map(|(_, public, ..)| public), &[SECRET]);
    let mut tokens = Vec::new();
    for (private, public, read, algorithms) in pairs {
        let key = read(private.as_bytes()).unwrap();
        for algorithm in algorithms {
            let token =
                jsonwebtoken::encode(&Header::new(*algorithm), &claims("ann"), &key).unwrap();
            tokens.push((*algorithm, public, token));
        }
    }
    for algorithm in [HS256, HS384, HS512] {
        let key = EncodingKey::from_secret(SECRET.as_bytes());
        let token = jsonwebtoken::encode(&Header::new(algorithm), &claims("ann"), &key).unwrap();
        tokens.push((algorithm, SECRET, token));
    }
    assert_eq!(tokens.len(), 12);
    for (algorithm, key, token) in &tokens {
        assert!(all.verify(token, &hub).await.is_ok(), "{algorithm:?}");
        for (_, public, ..) in pairs {
            let alone = only(&[public], &[]).verify(token, &hub).await;
            assert_eq!(
                alone.is_ok(),
                public == *key,
                "{algorithm:?} with\n{public}"
            );
            // The public key as a shared secret opens nothing, even to who knows it.
            let confused = only(&[public], &[SECRET])
                .verify(&sign(&claims("ann"), public), &hub)
                .await;
            assert!(confused.is_err());
        }
        // Another algorithm in the header of the same token.
        let (_, rest) = token.split_once('.').unwrap();
        for (other, _, theirs) in &tokens {
            let (head, _) = theirs.split_once('.').unwrap();
            if other != algorithm {
                let forged = format!("{head}.{rest}");
                assert!(
                    all.verify(&forged, &hub).await.is_err(),
                    "{algorithm:?} as {other:?}"
                );
            }
        }
    }
}
