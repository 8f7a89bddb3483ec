//! What is run, and what has to hold for any input.

use std::{collections::BTreeMap, sync::Arc};

use bytes::{Bytes, BytesMut};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use prometheus_client::registry::Registry;
use rowcast_gateway::{AuthConfig, Verifier};
use rowcast_hub::{Hub, HubLimits};
use rowcast_model::{
    Batch, Column, Epoch, HubOp, KeyChange, KeyFacts, Kind, Lsn, Operation, Relation, RelationId,
    ReplicaIdentity, RowChange, SourceEvent, Timestamp, Topic, Tuple, TxHeader, Value, WalItem,
};
use rowcast_routing::{Catalog, Router, TableRule, json::write_value};
use rowcast_source::pgoutput::{self, Message};
use rowcast_wire::{Auth, ClientFrame, Filter, FilterLimits, Limits, Operand, PresenceAction};
use serde::de::IgnoredAny;
use serde_json::json;
use sha2::{Digest, Sha256};

use super::{engine::fuzz, inputs};

#[test]
fn fuzz_wal_messages() {
    fuzz("WAL messages", inputs::wal_messages(), |input| {
        let length = input.len();
        let values = |tuple: &Tuple| {
            // One byte of a message cannot become more than one value.
            assert!(tuple.0.len() <= length);
            tuple.0.len().min(8)
        };
        match pgoutput::decode(Bytes::copy_from_slice(input)) {
            Ok(Message::Relation(relation)) => {
                assert!(relation.columns.len() <= length);
                ('R', relation.columns.len().min(8), "")
            }
            Ok(Message::Insert { new, .. }) => ('I', values(&new), ""),
            Ok(Message::Update { new, old, .. }) => {
                ('U', values(&new) + 9 * usize::from(old.is_some()), "")
            }
            Ok(Message::Truncate { relations }) => {
                assert!(relations.len() <= length);
                ('T', relations.len().min(8), "")
            }
            Ok(Message::Logical { content, .. }) => {
                assert!(content.len() <= length);
                ('M', 0, "")
            }
            Ok(_) => ('o', 0, ""),
            Err(error) => {
                assert!(error.at <= length);
                (error.kind, error.at.min(40), error.what)
            }
        }
    });
}

/// The same frame with a token of another length and other letters; `None` when it carries none.
fn with_another_token(frame: &ClientFrame) -> Option<ClientFrame> {
    let mut frame = frame.clone();
    let token = match &mut frame {
        ClientFrame::Auth(Auth { token, .. }) | ClientFrame::Token { token, .. } => token,
        ClientFrame::Subscribe(_)
        | ClientFrame::Unsubscribe { .. }
        | ClientFrame::Broadcast(_)
        | ClientFrame::Presence(_)
        | ClientFrame::Event(_)
        | ClientFrame::Ping { .. }
        | ClientFrame::Pong => return None,
    };
    *token = "-".repeat(token.len() + 1);
    Some(frame)
}

#[test]
fn fuzz_client_frames() {
    let limits = Limits {
        frame_bytes: 8 * 1024,
        ..Limits::default()
    };
    fuzz("client frames", inputs::client_frames(), |input| {
        match rowcast_wire::parse(input, &limits) {
            Ok(frame) => {
                assert!(input.len() <= limits.frame_bytes);
                let shown = format!("{frame:?}");
                // What others are told as it is.
                if let ClientFrame::Presence(presence) = &frame
                    && let PresenceAction::Join(state) | PresenceAction::Update(state) =
                        &presence.action
                {
                    let members: BTreeMap<String, IgnoredAny> =
                        serde_json::from_slice(state).expect("a state is a JSON object");
                    assert!(members.len() <= state.len());
                }
                // The text of a token may stand in a channel's name too: what is shown must not
                // depend on the token.
                if let Some(other) = with_another_token(&frame) {
                    assert_eq!(shown, format!("{other:?}"), "a token is shown");
                    assert_eq!(format!("{frame:#?}"), format!("{other:#?}"));
                }
                (0, shown.split([' ', '(', '{']).next().map(str::to_owned))
            }
            Err(error) => {
                // It goes back to whoever sent it: short, whatever was sent.
                assert!(error.message.len() < 1200, "{}", error.message.len());
                let size = error.message.len() / 8;
                (error.code.number(), Some(size.to_string()))
            }
        }
    });
}

#[test]
fn fuzz_filters() {
    let row: [(&str, Kind, &[u8]); 3] = [
        ("id", Kind::Number, b"7"),
        ("title", Kind::Text, b"\"a\\\"b\""),
        ("done", Kind::Bool, b"null"),
    ];
    let column = |name: &str| match row.iter().find(|(known, ..)| *known == name) {
        Some((_, kind, json)) => Operand::Value(kind, json),
        None => Operand::Hidden,
    };
    fuzz("filters", inputs::filters(), |input| {
        let Ok(text) = std::str::from_utf8(input) else {
            return (9, String::new());
        };
        match Filter::parse(text, &FilterLimits::default()) {
            Ok(filter) => {
                let truth = filter.evaluate(&column);
                // A subscription is looked up by this equality: without it the filter must not hold.
                if let Some((name, literal)) = filter.needed_equality()
                    && truth.holds()
                    && let Operand::Value(kind, json) = column(name)
                {
                    let mut key = Vec::new();
                    assert!(rowcast_wire::eq_key_of_value(kind, json, &mut key));
                    assert!(rowcast_wire::eq_key_of_literal(literal).contains(&key));
                }
                let not = Filter::Not(Box::new(filter)).evaluate(&column);
                for answer in [Some(true), Some(false), None] {
                    let opposite = answer.map(|holds| !holds);
                    assert_eq!(truth.may_be(answer), not.may_be(opposite));
                }
                let outcome = u8::from(truth.holds()) + 2 * u8::from(truth.may_hold());
                (outcome, String::new())
            }
            Err(error) => {
                let said = error.to_string();
                assert!(said.len() < 600, "{said}");
                (8, (said.len() / 8).to_string())
            }
        }
    });
}

#[test]
fn fuzz_values() {
    let composite: Arc<[(Arc<str>, Kind)]> =
        [("a".into(), Kind::Number), ("b".into(), Kind::Text)].into();
    let kinds = [
        Kind::Number,
        Kind::Bool,
        Kind::Json,
        Kind::Text,
        Kind::Timestamp,
        Kind::Array(Box::new(Kind::Number), b','),
        Kind::Array(Box::new(Kind::Composite(composite.clone())), b','),
        Kind::Composite(composite),
    ];
    fuzz("values", inputs::values(), |input| {
        let outcome = kinds.each_ref().map(|kind| {
            let mut out = BytesMut::from(&b"before"[..]);
            write_value(&mut out, kind, input);
            let json = out.strip_prefix(b"before").expect("only appended to");
            // Reads JSON of any depth, any number and any escape.
            serde_json::from_slice::<serde::de::IgnoredAny>(json)
                .unwrap_or_else(|error| panic!("{kind:?}: {error}"));
            json.first().copied()
        });
        (outcome, input.first().copied())
    });
}

fn rule(pairs: &[(&str, &'static str)]) -> TableRule {
    let get = |name: &str| {
        let found = pairs.iter().find(|(known, _)| *known == name);
        found.map(|(_, text)| *text)
    };
    TableRule::from_text(&get).unwrap()
}

/// Mangled table events in a transaction with rows of organizations a, b and x: whatever they say,
/// no row is told to an organization that it does not name itself.
#[test]
fn fuzz_table_events() {
    let mut catalog = Catalog::new();
    catalog.set_table(rule(&[
        ("relid", "16385"),
        ("schema_name", "public"),
        ("table_name", "tasks"),
        ("organization_column", "org"),
        ("key_columns", "{id}"),
        ("storage", "log"),
        ("published", "t"),
    ]));
    catalog.set_table(rule(&[
        ("relid", "16386"),
        ("schema_name", "public"),
        ("table_name", "labels"),
        ("organization_column", "org"),
        ("rows", "f"),
        ("storage", "log"),
    ]));
    let column = |name: &str, key: bool| Column {
        name: name.into(),
        type_oid: 25,
        type_name: "text".into(),
        key,
        record_key: key,
        kind: Kind::Text,
    };
    let relation = Arc::new(Relation {
        id: RelationId(16385),
        schema: "public".into(),
        name: "tasks".into(),
        identity: ReplicaIdentity::Default,
        columns: vec![column("id", true), column("org", false)],
    });
    let row = |org: &'static str| {
        WalItem::Change(RowChange {
            relation: relation.clone(),
            op: Operation::Insert,
            new: Some(Tuple(vec![
                Value::Text(Bytes::from_static(b"1")),
                Value::Text(Bytes::from_static(org.as_bytes())),
            ])),
            old: None,
        })
    };
    fuzz("table events", inputs::table_events(), |input| {
        let mut router = Router::new(Default::default(), catalog.clone());
        router.apply(SourceEvent::Start {
            epoch: Epoch(1),
            reason: None,
        });
        router.apply(SourceEvent::Begin(TxHeader {
            xid: 7,
            commit_lsn: Lsn(100),
            commit_time: Timestamp(0),
        }));
        let message = WalItem::Message {
            prefix: "rowcast".into(),
            content: Bytes::copy_from_slice(input),
        };
        for item in [row("a"), row("x"), message.clone(), row("b"), message] {
            router.apply(SourceEvent::Item { item, bytes: 64 });
        }
        router.apply(SourceEvent::Commit { end_lsn: Lsn(120) });
        let mut told = [0_u8; 2];
        let mut last = None;
        while let Some(batch) = router.take_batch() {
            for op in batch.ops {
                let HubOp::Event(event) = op else { continue };
                assert!(last < Some(event.cursor.index), "positions rise");
                last = Some(event.cursor.index);
                match &event.body {
                    rowcast_model::Body::Change { new, .. } => {
                        let Topic::Org(org) = &event.topic else {
                            panic!("a row for everybody");
                        };
                        let (_, own) = new.as_ref().and_then(|row| row.get("org")).unwrap();
                        assert_eq!(own, format!("\"{org}\"").as_bytes());
                        told[0] += 1;
                    }
                    // Said by hand: it has no row.
                    rowcast_model::Body::Message(_) => {}
                    rowcast_model::Body::Invalidate => told[1] = told[1].saturating_add(1),
                }
            }
        }
        let stats = router.stats();
        assert_eq!(stats.pending_bytes, 0);
        (told, stats.malformed, stats.mismatched, stats.unpaired)
    });
}

const SECRET: &str = "a-test-secret-of-at-least-thirty-two-bytes";
const API_KEY: &str = "rk_k1_5e55ab1e5e55ab1e5e55ab1e5e55ab1e";

/// Whatever is made of good tokens: only the good ones themselves are taken.
#[test]
fn fuzz_tokens() {
    let config = AuthConfig {
        secrets: vec![SECRET.into()],
        ..AuthConfig::default()
    };
    let verifier = Verifier::new(&config).unwrap();
    let hub = Hub::new(HubLimits::default(), &mut Registry::default());
    let hash: String = Sha256::digest(API_KEY)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    hub.publish(Batch {
        ops: vec![HubOp::ApiKey(KeyChange {
            id: "k1".into(),
            now: Some(KeyFacts::new(&hash, "org_1", vec!["admin".into()])),
        })],
        ..Batch::default()
    });
    let sign = |algorithm, claims: serde_json::Value, secret: &str| {
        let key = EncodingKey::from_secret(secret.as_bytes());
        jsonwebtoken::encode(&Header::new(algorithm), &claims, &key).unwrap()
    };
    let far = 4_000_000_000_u64;
    let good = [
        sign(
            Algorithm::HS256,
            json!({"sub": "u1", "exp": far, "org_roles": {"a": ["admin"]}}),
            SECRET,
        ),
        sign(
            Algorithm::HS512,
            json!({"sub": "u2", "exp": far, "nbf": 1, "aud": ["x"]}),
            SECRET,
        ),
        API_KEY.to_owned(),
    ];
    let bad = [
        sign(
            Algorithm::HS256,
            json!({"sub": "u1", "exp": far}),
            "another key of thirty-two bytes at least",
        ),
        sign(Algorithm::HS256, json!({"sub": "u1", "exp": 1}), SECRET),
        sign(Algorithm::HS384, json!({"sub": "", "exp": far}), SECRET),
        // {"alg":"none"}
        format!(
            "eyJhbGciOiJub25lIn0.{}.",
            good[0].split('.').nth(1).unwrap()
        ),
    ];
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let kept = good.iter().chain(&bad).map(|token| token.clone().into());
    fuzz("tokens", kept.collect(), |input| {
        let Ok(token) = std::str::from_utf8(input) else {
            return 0;
        };
        match runtime.block_on(verifier.verify(token, &hub)) {
            Ok(_) => {
                assert!(good.iter().any(|good| good == token), "it was taken");
                1
            }
            Err(refused) => {
                assert!(!good.iter().any(|good| good == token), "{refused:?}");
                refused.code.number()
            }
        }
    });
}
