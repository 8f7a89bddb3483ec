//! What clients of Supabase send: frames of Phoenix channels, text and binary, and the filters in them.

use std::collections::BTreeMap;

use rowcast_model::{
    Audience, Cursor, Kind, Message, RoutedEvent, Says as MessageSays, Sender, Timestamp, Topic,
    View,
};
use rowcast_wire::{
    EventClass, Filter, FilterLimits, Forms, Frame, Limits, Operand, encode_event,
    phoenix::{self, Payload, PresencePush, Push, PushError, Says, Version, Voice, What},
};
use serde::{Deserialize, de::IgnoredAny};
use serde_json::value::RawValue;

use super::engine::fuzz;

fn frames() -> Vec<Vec<u8>> {
    [
        r#"["6","6","realtime:room:1","phx_join",{"config":{"broadcast":{"ack":true,"self":"False","replay":{"since":123,"limit":5},"replication_ready":true},"presence":{"key":"me","enabled":true},"postgres_changes":[{"event":"*","schema":"public","table":"t","filter":"a=eq.1,b=not.in.(1,\"x,y\")","select":["a"]},null,{"event":"insert","schema":"*"},{"table":"t"}],"private":true,"postgres_changes_options":{"wait":true,"timeout":9000}},"access_token":"a.b.c"}]"#,
        r#"{"topic":"realtime:room:1","event":"phx_join","payload":{"config":{"postgres_changes":[{"event":"UPDATE","table":"t"}]},"user_token":"a.b.c"},"ref":"1","join_ref":"1"}"#,
        r#"["1","5","realtime:a","broadcast",{"type":"broadcast","event":"e v","payload":{"a":"\ud83d\ude00"}}]"#,
        r#"{"topic":"realtime:a","event":"broadcast","payload":{"type":"broadcast","event":"e","payload":[]},"ref":null,"join_ref":null}"#,
        r#"["1","5","realtime:a","presence",{"type":"presence","event":"TRACK","payload":{"at":1}}]"#,
        r#"["1","5","realtime:a","presence",{"type":"presence","event":"untrack"}]"#,
        r#"["1","5","realtime:a","access_token",{"access_token":"a.b.c"}]"#,
        r#"[null,"2","phoenix","heartbeat",{}]"#,
        r#"["1","4","realtime:a","phx_leave",{}]"#,
        "\x03\x01\x01\x0f\x02\x16\x0167realtime:room:1ev{\"persist\":{\"ttl\":60}}{\"a\":1}",
        "\x03\0\x01\x03\x01\0\x007a:be\0\x7f",
    ]
    .iter()
    .map(|text| text.as_bytes().to_vec())
    .collect()
}

type Members<'a> = BTreeMap<String, &'a RawValue>;

/// A text frame of the service: its JSON.
fn text(frame: &[u8]) -> &str {
    let (payload, rest) = rowcast_wire::payload_of(frame).expect("a whole frame");
    assert!(rest.is_empty());
    // Reads any number: `1e999` is JSON, too.
    serde_json::from_slice::<IgnoredAny>(payload).expect("JSON");
    std::str::from_utf8(payload).expect("text")
}

/// What the others on the channel are told of a broadcast.
fn said(voice: &Voice, event: &str, payload: &bytes::Bytes) -> Frame {
    let message = Message {
        says: MessageSays::Broadcast {
            event: event.into(),
            payload: payload.clone(),
        },
        sender: Some(Sender::User("anna".into())),
    };
    let topic = Topic::Channel(None, "room:1".into());
    let (cursor, time) = (Cursor::NOWHERE, Timestamp(0));
    let event = RoutedEvent::message(cursor, time, topic, Audience::default(), message.into());
    let class = EventClass {
        channel: "room:1",
        organization: "",
        forms: Forms::default(),
        columns: None,
        view: View::PLAIN,
        mark_last: false,
        voice,
    };
    encode_event(&event, &class)
}

fn read<'a, T: Deserialize<'a>>(json: &'a str) -> T {
    serde_json::from_str(json).expect("of this shape")
}

/// What has to hold for anything that was taken.
fn check(push: &Push, version: Version, limits: &Limits) -> String {
    let (join_ref, reference) = (push.join_ref.as_deref(), push.reference.as_deref());
    text(&phoenix::reply(
        version,
        join_ref,
        reference,
        &push.topic,
        Ok("{}"),
    ));
    match &push.says {
        Says::Join(join) => {
            assert!(join.bindings.len() <= limits.tables);
            let echoes = join.bindings.iter().map(|b| (b.echo.clone(), b.id));
            let echoes: Vec<_> = echoes.collect();
            let frame = phoenix::joined(Version::V2, join_ref, reference, &push.topic, &echoes);
            let reply: Vec<&RawValue> = read(text(&frame));
            let payload: Members<'_> = read(reply[4].get());
            let response: Members<'_> = read(payload["response"].get());
            let told: Vec<Members<'_>> = read(response["postgres_changes"].get());
            assert_eq!(told.len(), join.bindings.len());
            for (told, binding) in told.iter().zip(&join.bindings) {
                assert!((1..1 << 27).contains(&binding.id));
                assert_eq!(told["id"].get(), binding.id.to_string());
                if let Err(error) = &binding.asks {
                    // It goes back to whoever sent it: short, whatever was sent.
                    assert!(error.to_string().len() < 3000, "{error}");
                }
            }
            let errors = join.bindings.iter().filter(|b| b.asks.is_err()).count();
            format!("join {} {errors}", join.bindings.len())
        }
        Says::Broadcast(broadcast) => match &broadcast.payload {
            Payload::Json(json) => {
                let voice = Voice::phoenix(Version::V1, push.topic.clone(), What::Room);
                text(&said(&voice, &broadcast.event, json));
                "broadcast".to_owned()
            }
            Payload::Binary(_) => "bytes".to_owned(),
        },
        Says::Presence(PresencePush::Track(state)) => {
            let diff = phoenix::presence_diff(version, &push.topic, state, b"{}");
            text(&diff);
            "track".to_owned()
        }
        other => {
            let shown = format!("{other:?}");
            assert!(!shown.contains("a.b.c"), "a token is shown");
            shown
        }
    }
}

fn refused(error: &PushError, version: Version) -> String {
    let said = error.to_string();
    assert!(said.len() < 300, "{said}");
    if let Some(address) = &error.address {
        let reference = address.reference.as_deref();
        text(&phoenix::reply(
            version,
            None,
            reference,
            &address.topic,
            Err(&said),
        ));
    }
    error.fault.code().to_owned()
}

#[test]
fn fuzz_phoenix_frames() {
    let limits = Limits {
        frame_bytes: 8 * 1024,
        ..Limits::default()
    };
    fuzz("Phoenix frames", frames(), |input| {
        let outcome = |version, parsed: Result<Push, PushError>| match parsed {
            Ok(push) => {
                assert!(input.len() <= limits.frame_bytes);
                check(&push, version, &limits)
            }
            Err(error) => refused(&error, version),
        };
        let [one, two] = [Version::V1, Version::V2]
            .map(|version| outcome(version, phoenix::parse(version, input, &limits)));
        let binary = outcome(Version::V2, phoenix::parse_binary(input, &limits));
        (one, two, binary)
    });
}

#[test]
fn fuzz_supabase_filters() {
    let kept = [
        r#"id=eq.7,title=not.like.a%"#,
        r#"title=in.(a,"b,\"c\"",NULL)"#,
        r#"title=imatch.^[a-z\d]+\y"#,
        r#"title=eq."a\"b""#,
        "id=isdistinct.8,done=is.unknown",
        "id=not.in.(1,7.0,8)",
        "at=gte.2026-11-21 10:00:00.5+02",
        "title=ilike.%A_b%,id=lt.1e3",
    ];
    let row: [(&str, Kind, &[u8]); 4] = [
        ("id", Kind::Number, b"7"),
        ("title", Kind::Text, b"\"a\\\"b\""),
        ("done", Kind::Bool, b"null"),
        ("at", Kind::Timestamp, b"\"2026-11-21T10:34:56.1+00:00\""),
    ];
    let column = |name: &str| match row.iter().find(|(known, ..)| *known == name) {
        Some((_, kind, json)) => Operand::Value(kind, json),
        None => Operand::Hidden,
    };
    let kept = kept.iter().map(|text| text.as_bytes().to_vec()).collect();
    fuzz("filters of Supabase", kept, |input| {
        let Ok(text) = std::str::from_utf8(input) else {
            return (9, String::new());
        };
        match Filter::parse_supabase(text, &FilterLimits::default()) {
            Ok(filter) => {
                assert!(filter.cost() >= text.len() / 1024);
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
                let outcome = u8::from(truth.holds()) + 2 * u8::from(truth.may_hold());
                (outcome, filter.cost().ilog2().to_string())
            }
            Err(error) => {
                let said = error.to_string();
                assert!(said.len() < 600, "{said}");
                (
                    8,
                    said.split('`').next_back().unwrap_or_default().to_owned(),
                )
            }
        }
    });
}
