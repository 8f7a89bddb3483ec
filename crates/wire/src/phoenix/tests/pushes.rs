use super::super::{
    Broadcast, Join, Operations, Payload, PresencePush, Push, PushError, PushFault, Says, Version,
    parse, parse_binary,
};
use crate::Limits;
use bytes::Bytes;
use proptest::prelude::*;
use rowcast_model::Operation;
use secrecy::ExposeSecret;
use serde_json::{Value, json};

fn v1(text: &str) -> Result<Push, PushError> {
    parse(Version::V1, text.as_bytes(), &Limits::default())
}

fn v2(text: &str) -> Result<Push, PushError> {
    parse(Version::V2, text.as_bytes(), &Limits::default())
}

fn join(payload: &Value) -> Join {
    let text = json!(["1", "1", "realtime:room:1", "phx_join", payload]).to_string();
    match v2(&text).unwrap().says {
        Says::Join(join) => *join,
        other => panic!("{other:?}"),
    }
}

fn json_of(text: &'static str) -> Payload {
    Payload::Json(Bytes::from_static(text.as_bytes()))
}

/// Captured from realtime-js 2.119.0, with all options.
const JOIN: &str = r#"["6","6","realtime:room:1","phx_join",{"config":{"broadcast":{"ack":true,"self":true,"replay":{"since":123,"limit":5},"replication_ready":true},"presence":{"key":"me","enabled":true},"postgres_changes":[{"event":"*","schema":"public","table":"t","filter":"a=eq.1","select":["a"]},{"event":"INSERT","schema":"public"}],"private":true,"postgres_changes_options":{"wait":true,"timeout":9000}},"access_token":"a.b.c"}]"#;

#[test]
fn a_captured_join_is_read_as_a_whole() {
    let push = v2(JOIN).unwrap();
    assert_eq!(push.join_ref.as_deref(), Some("6"));
    assert_eq!(push.reference.as_deref(), Some("6"));
    assert_eq!(&*push.topic, "realtime:room:1");
    let Says::Join(join) = push.says else {
        panic!("{:?}", push.says);
    };
    assert!(join.ack && join.to_self && join.private && join.replication_ready);
    assert!(join.presence && join.replay);
    assert_eq!(join.access_token.as_ref().unwrap().expose_secret(), "a.b.c");
    let [one, all] = &*join.bindings else {
        panic!("{:?}", join.bindings);
    };
    assert_eq!(
        &*one.echo,
        r#"{"event":"*","schema":"public","table":"t","filter":"a=eq.1","select":["a"]}"#
    );
    assert_eq!(
        &*one.described,
        r#"[event: *, schema: public, table: t, filters: a=eq.1, select: ["a"]]"#
    );
    let asks = one.asks.as_ref().unwrap();
    assert_eq!(asks.operations, Operations::ALL);
    assert_eq!(asks.schema.as_deref(), Some("public"));
    assert_eq!(asks.table.as_deref(), Some("t"));
    assert!(asks.filter.is_some() && asks.filter_text.as_deref() == Some("a=eq.1"));
    assert_eq!(asks.columns.as_deref(), Some(&["a".into()][..]));
    let asks = all.asks.as_ref().unwrap();
    assert_eq!(asks.operations, Operations::only(Operation::Insert));
    assert_eq!(
        (asks.schema.as_deref(), &asks.table),
        (Some("public"), &None)
    );
    assert!(asks.filter.is_none() && asks.columns.is_none());
    assert_ne!(one.id, all.id);
    assert!(join.cost() > 1000);
    // Nobody's token stands in a log.
    assert!(!format!("{join:?}").contains("a.b.c"));
}

#[test]
fn a_captured_small_join_has_the_defaults() {
    let join = join(
        &json!({"config":{"broadcast":{"ack":false,"self":false},"presence":{"key":"","enabled":false},"postgres_changes":[],"private":false}}),
    );
    assert!(!join.ack && !join.to_self && !join.private);
    assert!(!join.presence && !join.replay);
    assert!(join.bindings.is_empty() && join.access_token.is_none() && !join.replay);
}

#[test]
fn what_has_no_sense_in_a_join_is_not_there() {
    for payload in [
        json!({}),
        json!(null),
        json!([1]),
        json!("x"),
        json!({"config": 7}),
        json!({"config": {"broadcast": [], "presence": "x", "postgres_changes": {"a": 1}, "private": 3}}),
        json!({"config": {"postgres_changes": "all", "postgres_changes_options": [true]}}),
        json!({"config": {"postgres_changes": [null, null]}, "access_token": 7}),
        json!({"access_token": ""}),
        json!({"access_token": "sb_publishable_x", "version": "realtime-js/2.119.0"}),
    ] {
        let join = join(&payload);
        assert!(!join.ack && !join.to_self && !join.private, "{payload}");
        // Clients of before August 2025 do not say that they want it, and do.
        assert!(join.presence && !join.replay, "{payload}");
        assert!(
            join.bindings.is_empty() && join.access_token.is_none(),
            "{payload}"
        );
    }
    let odd = join(&json!({
        "config": {
            "broadcast": {"ack": "True", "self": "FALSE", "replay": {"since": "x"}},
            "presence": {"enabled": "false", "key": "a\nb"},
            "private": "true",
        },
        "user_token": " a.\nb ",
    }));
    assert!(odd.ack && !odd.to_self && odd.private && !odd.presence);
    assert!(odd.replay);
    assert_eq!(odd.access_token.unwrap().expose_secret(), "a.b");
}

#[test]
fn bindings_are_read_with_patience_and_numbered() {
    let bindings = join(&json!({"config": {"postgres_changes": [
        {"event": "insert", "table": "t"},
        null,
        {"event": "EVERYTHING", "schema": "*", "table": "*", "filter": null, "select": []},
        {"schema": "s", "table": "*", "filter": "  "},
        {"event": "DELETE"},
        {"schema": "public", "table": "t", "filter": "a"},
        {"schema": "public", "select": ["a"]},
        {"schema": "public", "table": "t", "select": "a"},
        {"schema": "", "table": "t"},
        {"schema": "public", "table": "t", "filter": 7},
        7,
        {"event": "INSERT", "table": "t"},
    ]}}))
    .bindings;
    assert_eq!(bindings.len(), 11);
    let asks = |at: usize| bindings[at].asks.as_ref().unwrap();
    assert_eq!(asks(0).operations, Operations::only(Operation::Insert));
    assert_eq!(asks(0).schema.as_deref(), Some("public"));
    assert_eq!(asks(1).operations, Operations::ALL);
    assert!(asks(1).schema.is_none() && asks(1).table.is_none());
    assert!(asks(1).filter.is_none() && asks(1).columns.is_none());
    assert_eq!(
        (asks(2).schema.as_deref(), &asks(2).table),
        (Some("s"), &None)
    );
    assert!(asks(2).filter.is_none());
    for (at, part) in [
        (
            3,
            "No subscription params provided. Please provide at least a `schema` or `table` to subscribe to: [event: DELETE, schema: , table: , filters: , select: ]",
        ),
        (4, "Error parsing `filter` params: `a` is not a condition"),
        (
            5,
            "Column selection is not supported for wildcard subscriptions.",
        ),
        (6, "Error parsing `select` params: it must be a list"),
        (7, "`schema` must be a text"),
        (8, "Error parsing `filter` params: a filter is a text"),
        (9, "No subscription params provided."),
    ] {
        let error = bindings[at].asks.as_ref().unwrap_err().to_string();
        assert!(error.starts_with(part), "{at}: {error}");
    }
    assert_eq!(&*bindings[9].echo, "{}");
    // Equal ones have one number, others another.
    assert_eq!(bindings[0].id, bindings[10].id);
    let mut ids: Vec<u32> = bindings[..10].iter().map(|binding| binding.id).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 10);
    assert!(ids.iter().all(|id| (1..1 << 27).contains(id)));
}

#[test]
fn too_many_bindings_are_a_refused_join() {
    let many = vec![json!({"table": "t"}); 65];
    let text = json!(["1", "2", "realtime:x", "phx_join", {"config": {"postgres_changes": many}}]);
    let error = v2(&text.to_string()).unwrap_err();
    assert_eq!(error.fault, PushFault::TooManyBindings(64));
    let address = error.address.unwrap();
    assert!(address.join && address.reference.as_deref() == Some("2"));
}

#[test]
fn captured_frames_of_clients() {
    let push = v2(r#"[null,"2","phoenix","heartbeat",{}]"#).unwrap();
    assert!(matches!(push.says, Says::Heartbeat) && push.join_ref.is_none());
    let push = v1(r#"{"topic":"phoenix","event":"heartbeat","payload":{},"ref":"2"}"#).unwrap();
    assert!(matches!(push.says, Says::Heartbeat));
    assert_eq!(push.reference.as_deref(), Some("2"));
    let push =
        v1(r#"{"topic":"realtime:a","event":"phx_leave","payload":{},"ref":"4","join_ref":"1"}"#)
            .unwrap();
    assert!(matches!(push.says, Says::Leave));
    assert_eq!(push.join_ref.as_deref(), Some("1"));
    let says = |text: &str| v2(text).unwrap().says;
    match says(r#"["1","5","realtime:a","access_token",{"access_token":"a.b"}]"#) {
        Says::AccessToken(Some(token)) => assert_eq!(token.expose_secret(), "a.b"),
        other => panic!("{other:?}"),
    }
    for none in ["null", r#""sb_secret_x""#, "7"] {
        let text = format!(r#"["1","5","realtime:a","access_token",{{"access_token":{none}}}]"#);
        assert!(matches!(says(&text), Says::AccessToken(None)), "{none}");
    }
    let text = r#"["1","5","realtime:a","broadcast",{"type":"broadcast","event":"e v","payload":{"a": 1}}]"#;
    match says(text) {
        Says::Broadcast(broadcast) => assert_eq!(
            broadcast,
            Broadcast {
                event: "e v".into(),
                payload: json_of(r#"{"a": 1}"#),
                persist: false,
            }
        ),
        other => panic!("{other:?}"),
    }
    let presence =
        |payload: &str| match says(&format!(r#"["1","5","realtime:a","presence",{payload}]"#)) {
            Says::Presence(presence) => presence,
            other => panic!("{other:?}"),
        };
    assert_eq!(
        presence(r#"{"type":"presence","event":"TRACK","payload":{"at":1}}"#),
        PresencePush::Track(Bytes::from_static(br#"{"at":1}"#))
    );
    assert_eq!(
        presence(r#"{"event":"track"}"#),
        PresencePush::Track(Bytes::from_static(b"{}"))
    );
    assert_eq!(presence(r#"{"event":"untrack"}"#), PresencePush::Untrack);
    assert_eq!(
        presence(r#"{"event":"track","payload":7}"#),
        PresencePush::NoMap
    );
    assert_eq!(
        presence(r#"{"event":"track","payload":{"a":"\udc00"}}"#),
        PresencePush::NoMap
    );
    assert_eq!(presence(r#"{"event":"hide"}"#), PresencePush::Unknown);
    assert_eq!(presence("null"), PresencePush::Unknown);
    assert!(matches!(
        says(r#"["1","5","realtime:a","shout",7,"more",{}]"#),
        Says::Unknown
    ));
    // A number for a reference is its digits.
    let push = v2(r#"[1,2,"realtime:a","phx_leave",{}]"#).unwrap();
    assert_eq!(
        (push.join_ref.as_deref(), push.reference.as_deref()),
        (Some("1"), Some("2"))
    );
}

/// Captured: `03 01 01 0f 02 16 01`, and the fields.
#[test]
fn a_captured_binary_broadcast() {
    let frame =
        b"\x03\x01\x01\x0f\x02\x16\x0167realtime:room:1ev{\"persist\":{\"ttl\":60}}{\"a\":1}";
    let push = parse_binary(frame, &Limits::default()).unwrap();
    assert_eq!(
        (push.join_ref.as_deref(), push.reference.as_deref()),
        (Some("6"), Some("7"))
    );
    assert_eq!(&*push.topic, "realtime:room:1");
    match push.says {
        Says::Broadcast(broadcast) => assert_eq!(
            broadcast,
            Broadcast {
                event: "ev".into(),
                payload: json_of(r#"{"a":1}"#),
                persist: true,
            }
        ),
        other => panic!("{other:?}"),
    }
    // Whatever is cut off is noticed, but for the payload itself, which has no size.
    for end in 0..frame.len() - 7 {
        assert!(
            parse_binary(&frame[..end], &Limits::default()).is_err(),
            "{end}"
        );
    }
    let bytes = b"\x03\0\x01\x03\x01\0\x007a:be\0\xff";
    match parse_binary(bytes, &Limits::default()).unwrap().says {
        Says::Broadcast(broadcast) => {
            assert_eq!(
                broadcast.payload,
                Payload::Binary(Bytes::from_static(b"\0\xff"))
            );
        }
        other => panic!("{other:?}"),
    }
    for bad in [
        &b"\x04\0\0\0\0"[..],
        b"\x00\0\0\0\0\0\0",
        b"\x03\0\x01\x03\x01\0\x027a:be{}",
        b"\x03\0\x01\x03\x01\0\x017a:be{]",
        b"\x03\0\x01\x03\x01\0\x017a:b\xff{}",
        b"\x03\0\x01\x00\x01\0\x017e{}",
        b"\x03\0\x01\x03\0\0\x017a:b{}",
    ] {
        assert!(parse_binary(bad, &Limits::default()).is_err(), "{bad:?}");
    }
}

#[test]
fn malformed_frames_are_errors_and_no_more() {
    for bad in [
        "",
        "7",
        "[]",
        "{}",
        r#"["1","2","t","e"]"#,
        r#"["1","2",7,"e",{}]"#,
        r#"["1","2","t",null,{}]"#,
        r#"[{},"2","t","e",{}]"#,
        r#"["1",[],"t","e",{}]"#,
        r#"["1","2","t","e",{]"#,
        r#"{"topic":"t","event":"e","payload":{}}"#,
        r#"{"topic":"t","event":"e","ref":"1"}"#,
        r#"{"topic":"t","payload":{},"ref":"1"}"#,
        r#"{"event":"t","payload":{},"ref":"1"}"#,
        r#"{"topic":"","event":"e","payload":{},"ref":"1"}"#,
        "[\"1\",\"2\",\"a\\nb\",\"e\",{}]",
    ] {
        for version in [Version::V1, Version::V2] {
            let error = parse(version, bad.as_bytes(), &Limits::default());
            assert!(error.is_err(), "{bad}");
        }
    }
    assert!(v2(r#"{"topic":"t","event":"e","payload":{},"ref":"1"}"#).is_err());
    assert!(v1(r#"["1","2","t","e",{}]"#).is_err());
    let limits = Limits {
        frame_bytes: 64,
        json_depth: 3,
        ..Limits::default()
    };
    let fault = |text: &str| {
        parse(Version::V2, text.as_bytes(), &limits)
            .unwrap_err()
            .fault
    };
    assert_eq!(fault(&" ".repeat(65)), PushFault::TooLarge(64));
    assert_eq!(
        fault(r#"["1","2","t","e",{"a":[[]]}]"#),
        PushFault::TooDeep(3)
    );
    let deep = b"\x03\0\x01\x03\x01\0\x017a:be[[[[]]]]";
    assert_eq!(
        parse_binary(deep, &limits).unwrap_err().fault,
        PushFault::TooDeep(3)
    );
    // What somebody waits for can be answered.
    for (payload, field) in [
        (r#"{"type":"broadcast","payload":{}}"#, "event"),
        (r#"{"event":"","payload":{}}"#, "event"),
        (r#"{"event":"e","payload":"\udc00"}"#, "payload"),
    ] {
        let error = v2(&format!(r#"["1","2","realtime:a","broadcast",{payload}]"#)).unwrap_err();
        assert!(error.to_string().contains(field), "{error}");
        assert_eq!(error.address.unwrap().reference.as_deref(), Some("2"));
    }
    let long = "x".repeat(65);
    assert!(v2(&format!(r#"["{long}","2","t","e",{{}}]"#)).is_err());
    let long = "x".repeat(513);
    assert!(v2(&format!(r#"["1","2","{long}","e",{{}}]"#)).is_err());
}

proptest! {
    /// What one version says, the other says as well.
    #[test]
    fn both_versions_say_the_same(
        join_ref in prop::option::of("[0-9a-z\"]{0,9}"),
        reference in prop::option::of("[0-9é]{0,9}"),
        topic in "realtime:[a-z\"\\\\é]{1,9}",
        event in prop::sample::select(vec!["phx_join", "phx_leave", "broadcast", "presence", "access_token", "x"]),
        payload in prop::sample::select(vec![
            json!({}), json!({"event": "e", "payload": [1]}), json!({"event": "track", "payload": {}}),
            json!({"config": {"postgres_changes": [{"table": "t", "filter": "a=in.(1,2)"}]}}), json!(null),
        ]),
    ) {
        let object = json!({"topic": topic, "event": event, "payload": payload, "ref": reference, "join_ref": join_ref});
        let list = json!([join_ref, reference, topic, event, payload]);
        let (one, two) = (v1(&object.to_string()), v2(&list.to_string()));
        prop_assert_eq!(format!("{one:?}"), format!("{two:?}"));
        if let Ok(push) = two {
            prop_assert_eq!(push.join_ref.as_deref(), join_ref.as_deref());
            prop_assert_eq!(push.reference.as_deref(), reference.as_deref());
            prop_assert_eq!(&*push.topic, topic);
        }
    }

    #[test]
    fn binary_frames_come_back(
        join_ref in "[0-9]{1,9}", reference in "[0-9]{1,9}", topic in "[a-zé]{1,99}", event in "[a-zé]{1,60}",
        payload in prop::collection::vec(any::<u8>(), 0..99),
    ) {
        let size = |text: &str| u8::try_from(text.len()).unwrap();
        let mut frame = vec![3, size(&join_ref), size(&reference), size(&topic), size(&event), 2, 0];
        frame.extend(format!("{join_ref}{reference}{topic}{event}{{}}").bytes());
        frame.extend(&payload);
        let push = parse_binary(&frame, &Limits::default()).unwrap();
        prop_assert_eq!(push.join_ref.as_deref(), Some(&*join_ref));
        prop_assert_eq!(push.reference.as_deref(), Some(&*reference));
        prop_assert_eq!(&*push.topic, topic);
        let Says::Broadcast(broadcast) = push.says else { panic!("{:?}", push.says) };
        prop_assert_eq!(&*broadcast.event, event);
        prop_assert_eq!(broadcast.payload, Payload::Binary(payload.into()));
        prop_assert!(!broadcast.persist);
    }

    #[test]
    fn never_panics(bytes in prop::collection::vec(any::<u8>(), 0..80), config in "[a-z\":,{}\\[\\]0-9]{0,60}") {
        let _ = parse_binary(&bytes, &Limits::default());
        let binary = [&b"\x03"[..], &bytes].concat();
        let _ = parse_binary(&binary, &Limits::default());
        for version in [Version::V1, Version::V2] {
            let _ = parse(version, &bytes, &Limits::default());
            let _ = parse(version, format!(r#"["1","1","realtime:a","phx_join",{{{config}}}]"#).as_bytes(), &Limits::default());
        }
    }
}
