use std::sync::Arc;

use super::super::{Operations, TABLE_EVENTS, TableEventFilter, Version, Voice, What};
use crate::{
    EventClass, EventMemo, Filter, FilterLimits, Forms, encode_event, encode_event_into, is_binary,
    payload_of,
};
use bytes::{Bytes, BytesMut};
use proptest::prelude::*;
use rowcast_model::{
    Audience, Body, ColumnMeta, Cursor, Epoch, JsonRow, JsonRowBuilder, Kind, Lsn, Mask, MaskKind,
    Masked, Masks, Message, Operation, RoutedEvent, Says, Sender, TableName, Timestamp, Topic,
    View,
};
use serde_json::{Value, json};

const TOPIC: &str = "realtime:room:1";

fn columns() -> Arc<[ColumnMeta]> {
    let column =
        |name: &str, kind: &str, of: Kind| ColumnMeta::of_type(name.into(), kind.into(), of);
    [
        column("id", "int8", Kind::Number).in_key(true),
        column("title", "text", Kind::Text),
        column("data", "bytea", Kind::Text),
        column("phone", "int8", Kind::Number),
    ]
    .into()
}

/// A row of the columns above; what is empty is not there.
fn row(values: [&str; 4]) -> JsonRow {
    let mut buffer = BytesMut::new();
    let mut builder = JsonRowBuilder::new(columns(), &mut buffer);
    for value in values {
        builder.column(|out| out.extend_from_slice(value.as_bytes()));
    }
    builder.finish()
}

fn whole() -> JsonRow {
    row(["7", r#""a""#, r#""\\x0001ff""#, "5551234"])
}

fn key() -> JsonRow {
    row(["7", "", "", ""])
}

fn change(op: Operation) -> RoutedEvent {
    let (new, old) = match op {
        Operation::Insert => (Some(whole()), None),
        Operation::Update => (Some(whole()), Some(key())),
        _ => (None, Some(key())),
    };
    RoutedEvent {
        cursor: Cursor {
            epoch: Epoch(1),
            commit_lsn: Lsn(0x16b),
            index: 2,
        },
        commit_time: Timestamp(1_795_254_067_123_999),
        topic: Topic::Org("acme".into()),
        audience: Audience::default(),
        table: Arc::new(TableName {
            schema: "public".into(),
            name: "tasks".into(),
        }),
        op,
        record_id: Some("7".into()),
        old_record_id: None,
        body: Body::Change {
            new,
            old,
            unchanged: Arc::new([]),
        },
        last: true,
    }
}

fn message(says: Says) -> RoutedEvent {
    let message = Arc::new(Message { says, sender: None });
    let event = change(Operation::Insert);
    RoutedEvent::message(
        event.cursor,
        event.commit_time,
        event.topic,
        event.audience,
        message,
    )
}

fn broadcast(event: &str, payload: &'static str) -> RoutedEvent {
    message(Says::Broadcast {
        event: event.into(),
        payload: Bytes::from_static(payload.as_bytes()),
    })
}

fn rows(version: Version, operations: Operations, schema: Option<&str>) -> Voice {
    let schema = schema.map(Arc::from);
    let id = 42;
    Voice::phoenix(
        version,
        TOPIC,
        What::Rows {
            id,
            operations,
            schema,
        },
    )
}

fn table_events(filter: Option<&str>) -> Voice {
    let filter = filter.map(|text| {
        let filter = Filter::parse_supabase(text, &FilterLimits::default()).unwrap();
        TableEventFilter::new(text.into(), filter).unwrap()
    });
    Voice::phoenix(Version::V2, TOPIC, What::TableEvents { id: 42, filter })
}

fn class<'a>(voice: &'a Voice, columns: Option<&'a [Arc<str>]>) -> EventClass<'a> {
    EventClass {
        channel: "room:1",
        organization: "acme",
        // What it is told is the voice's to say.
        forms: Forms {
            changes: false,
            invalidations: true,
            broadcasts: false,
        },
        columns,
        view: View::PLAIN,
        mark_last: true,
        voice,
    }
}

fn texts(event: &RoutedEvent, class: &EventClass<'_>) -> Vec<String> {
    let frames = encode_event(event, class);
    assert_eq!(class.voice.wants(event), !frames.is_empty());
    let mut left = &frames[..];
    let mut texts = Vec::new();
    while !left.is_empty() {
        assert!(!is_binary(left));
        let (payload, rest) = payload_of(left).unwrap();
        texts.push(String::from_utf8(payload.to_vec()).unwrap());
        left = rest;
    }
    texts
}

const COLUMNS: &str = r#"[{"name":"id","type":"int8"},{"name":"title","type":"text"},{"name":"data","type":"bytea"},{"name":"phone","type":"int8"}]"#;
const RECORD: &str = r#"{"id":7,"title":"a","data":"0001ff","phone":5551234}"#;

#[test]
fn rows_come_as_clients_know_them() {
    let voice = rows(Version::V2, Operations::ALL, None);
    let class = class(&voice, None);
    for (op, both) in [
        (Operation::Insert, format!(r#""record":{RECORD}"#)),
        (
            Operation::Update,
            format!(r#""record":{RECORD},"old_record":{{"id":7}}"#),
        ),
        (Operation::Delete, r#""old_record":{"id":7}"#.to_owned()),
    ] {
        let op_text = op.as_str();
        assert_eq!(
            texts(&change(op), &class),
            [format!(
                r#"[null,null,"realtime:room:1","postgres_changes",{{"ids":[42],"data":{{"type":"{op_text}","schema":"public","table":"tasks","commit_timestamp":"2026-11-21T09:41:07.123Z","columns":{COLUMNS},{both},"errors":null}}}}]"#
            )]
        );
    }
}

#[test]
fn version_1_has_the_same_rows() {
    let voices = [Version::V1, Version::V2].map(|v| rows(v, Operations::ALL, None));
    let [one, two] = voices.each_ref().map(|voice| {
        let texts = texts(&change(Operation::Update), &class(voice, None));
        serde_json::from_str::<Value>(&texts[0]).unwrap()
    });
    let expected =
        json!({"topic": TOPIC, "event": "postgres_changes", "payload": two[4], "ref": null});
    assert_eq!(one, expected);
}

#[test]
fn selected_columns_come_with_the_key() {
    let voice = rows(Version::V2, Operations::ALL, None);
    let selected: [Arc<str>; 1] = ["title".into()];
    let texts = texts(&change(Operation::Update), &class(&voice, Some(&selected)));
    assert!(texts[0].contains(
        r#""columns":[{"name":"id","type":"int8"},{"name":"title","type":"text"}],"record":{"id":7,"title":"a"},"old_record":{"id":7},"#
    ));
}

#[test]
fn what_the_log_does_not_hold_is_absent() {
    let mut event = change(Operation::Update);
    event.body = Body::Change {
        new: Some(row(["7", "", "null", "1"])),
        old: None,
        unchanged: Arc::new(["title".into()]),
    };
    let voice = rows(Version::V2, Operations::ALL, None);
    let texts = texts(&event, &class(&voice, None));
    let expected = format!(
        r#""columns":{COLUMNS},"record":{{"id":7,"data":null,"phone":1}},"old_record":{{}},"#
    );
    assert!(texts[0].contains(&expected), "{}", texts[0]);
}

#[test]
fn a_binding_is_told_what_it_asks_for() {
    let told = |voice: &Voice, event: &RoutedEvent| !texts(event, &class(voice, None)).is_empty();
    let all = [Operation::Insert, Operation::Update, Operation::Delete];
    for op in all {
        for wanted in all {
            let voice = rows(Version::V2, Operations::only(wanted), Some("public"));
            assert_eq!(told(&voice, &change(op)), op == wanted);
        }
        let elsewhere = rows(Version::V2, Operations::ALL, Some("other"));
        assert!(!told(&elsewhere, &change(op)));
    }
    let invalidated = RoutedEvent {
        body: Body::Invalidate,
        ..change(Operation::Truncate)
    };
    let everything = rows(Version::V2, Operations::ALL, None);
    let room = Voice::phoenix(Version::V1, TOPIC, What::Room);
    let stale = message(Says::Stale {
        key: "k".into(),
        refresh: false,
    });
    assert!(!told(&everything, &invalidated) && !told(&everything, &broadcast("e", "1")));
    assert!(!told(&everything, &stale) && !told(&room, &stale));
    assert!(!told(&room, &change(Operation::Insert)) && !told(&room, &invalidated));
    assert!(told(&room, &broadcast("e", "1")));
    let events = table_events(None);
    assert!(told(&events, &invalidated) && told(&events, &change(Operation::Delete)));
    assert!(!told(&events, &stale) && !told(&events, &broadcast("e", "1")));
}

#[test]
fn broadcasts_come_as_text_or_binary() {
    let event = broadcast("typing", r#"{"x": 1}"#);
    let room = |version| Voice::phoenix(version, TOPIC, What::Room);
    assert_eq!(
        texts(&event, &class(&room(Version::V1), None)),
        [
            r#"{"topic":"realtime:room:1","event":"broadcast","payload":{"type":"broadcast","event":"typing","payload":{"x": 1}},"ref":null}"#
        ]
    );
    let frame = encode_event(&event, &class(&room(Version::V2), None));
    let (payload, rest) = payload_of(&frame).unwrap();
    assert!(is_binary(&frame) && rest.is_empty());
    assert_eq!(
        payload,
        b"\x04\x0f\x06\x00\x01realtime:room:1typing{\"x\": 1}"
    );
}

/// MISSION X15: the service says who it was, beside what he said.
#[test]
fn broadcasts_of_clients_say_who_it_was() {
    let said = |sender: Sender| {
        let mut event = broadcast("e", r#"{"sender":"somebody else"}"#);
        if let Body::Message(message) = &mut event.body {
            Arc::make_mut(message).sender = Some(sender);
        }
        event
    };
    let room = |version, topic: &str| Voice::phoenix(version, topic, What::Room);
    let event = said(Sender::User("anna".into()));
    let meta = r#"{"sender":{"userId":"anna"}}"#;
    let [text] = &texts(&event, &class(&room(Version::V1, TOPIC), None))[..] else {
        panic!("one frame")
    };
    let frame: Value = serde_json::from_str(text).unwrap();
    assert_eq!(frame["payload"]["meta"].to_string(), meta);
    let frame = encode_event(&event, &class(&room(Version::V2, TOPIC), None));
    let (payload, _) = payload_of(&frame).unwrap();
    let size = u8::try_from(meta.len()).unwrap();
    let mut expected = vec![4, 15, 1, size, 1];
    expected.extend_from_slice(br#"realtime:room:1e"#);
    expected.extend_from_slice(meta.as_bytes());
    expected.extend_from_slice(br#"{"sender":"somebody else"}"#);
    assert_eq!(payload, expected);
    // What does not fit in a header comes as text, which clients take as well.
    let long = "realtime:".to_owned() + &"é".repeat(130);
    let key = said(Sender::ApiKey("k".repeat(300).into()));
    for (event, topic) in [(&event, long.as_str()), (&key, TOPIC)] {
        let [text] = &texts(event, &class(&room(Version::V2, topic), None))[..] else {
            panic!("one frame")
        };
        let frame: Value = serde_json::from_str(text).unwrap();
        assert_eq!(frame[2], topic);
        assert_eq!(frame[4]["payload"]["sender"], "somebody else");
        assert!(frame[4]["meta"]["sender"].is_object());
    }
}

fn virtual_rows(event: &RoutedEvent, voice: &Voice) -> Vec<Value> {
    let texts = texts(event, &class(voice, None));
    let rows = texts.iter().map(|text| {
        let mut frame: Value = serde_json::from_str(text).unwrap();
        let data = frame[4]["data"].take();
        assert_eq!(frame[4]["ids"], json!([42]));
        assert_eq!(data["type"], "INSERT");
        assert_eq!(
            (&data["schema"], &data["table"]),
            (&json!("public"), &json!(TABLE_EVENTS))
        );
        assert_eq!(data["columns"].as_array().unwrap().len(), 7);
        assert!(data.get("old_record").is_none());
        data["record"].clone()
    });
    rows.collect()
}

#[test]
fn table_events_are_rows_of_a_table_that_is_not_there() {
    let voice = table_events(None);
    assert_eq!(
        virtual_rows(&change(Operation::Update), &voice),
        [json!({
            "id": "00000001-16b-2", "organization_id": "acme", "table_schema": "public",
            "table_name": "tasks", "event_type": "UPDATE", "record_id": "7",
            "created_at": "2026-11-21T09:41:07.123+00:00",
        })]
    );
    let mut truncate = change(Operation::Truncate);
    (truncate.body, truncate.record_id, truncate.topic) = (Body::Invalidate, None, Topic::AllOrgs);
    let rows = virtual_rows(&truncate, &voice);
    assert_eq!(rows[0]["organization_id"], "acme");
    assert_eq!(rows[0]["record_id"], Value::Null);
    // The record under its old key is gone, and both rows have an id of their own.
    let mut moved = change(Operation::Update);
    moved.old_record_id = Some("6".into());
    let rows = virtual_rows(&moved, &voice);
    assert_eq!(
        (&rows[0]["event_type"], &rows[0]["record_id"]),
        (&json!("DELETE"), &json!("6"))
    );
    assert_eq!(
        (&rows[1]["event_type"], &rows[1]["record_id"]),
        (&json!("UPDATE"), &json!("7"))
    );
    assert_ne!(rows[0]["id"], rows[1]["id"]);
}

#[test]
fn table_events_are_filtered_as_rows() {
    let mut moved = change(Operation::Update);
    moved.old_record_id = Some("6".into());
    let mut truncate = change(Operation::Truncate);
    (truncate.body, truncate.record_id, truncate.topic) = (Body::Invalidate, None, Topic::AllOrgs);
    for (filter, of_moved, of_truncate) in [
        ("organization_id=eq.acme", 2, 1),
        // For whom it is, who is told says: a class of that organization.
        ("organization_id=eq.other", 0, 1),
        ("table_name=eq.tasks,event_type=eq.DELETE", 1, 0),
        ("table_name=in.(tasks,labels),event_type=neq.DELETE", 1, 1),
        ("table_schema=eq.other", 0, 0),
        ("record_id=eq.7", 1, 0),
        ("record_id=is.null", 0, 1),
        ("created_at=gte.2026-11-21 09:00:00+00", 2, 1),
        ("created_at=lt.2026-11-21", 0, 0),
        ("id=eq.00000001-16b-2", 1, 1),
    ] {
        let voice = table_events(Some(filter));
        assert_eq!(virtual_rows(&moved, &voice).len(), of_moved, "{filter}");
        assert_eq!(
            virtual_rows(&truncate, &voice).len(),
            of_truncate,
            "{filter}"
        );
    }
    let filter = Filter::parse_supabase("title=eq.a", &FilterLimits::default()).unwrap();
    let error = TableEventFilter::new("title=eq.a".into(), filter).unwrap_err();
    assert!(error.to_string().starts_with("`title` is not a column"));
    assert_eq!(table_events(Some("id=eq.1")), table_events(Some("id=eq.1")));
    assert_ne!(table_events(Some("id=eq.1")), table_events(Some("id=eq.2")));
}

fn masked(kind: MaskKind, view: u64) -> Arc<Masked> {
    let mask = |column: &str| Mask {
        column: column.into(),
        kind,
        roles: Arc::new([]),
        owner: false,
    };
    let columns = ["title", "data", "phone"].map(mask).to_vec();
    assert!(view < 8);
    Arc::new(Masked {
        masks: Arc::new(Masks::new(columns).unwrap()),
        owner: None,
        old_owner: None,
        only: None,
    })
}

#[test]
fn masked_columns_are_text() {
    let mut event = change(Operation::Insert);
    event.audience.masked = Some(masked(MaskKind::Phone, 0));
    let voice = rows(Version::V2, Operations::ALL, None);
    let mut class = class(&voice, None);
    (class.view.new, class.view.old) = (0b010, 0b010);
    let texts = texts(&event, &class);
    let expected = r#"{"name":"data","type":"bytea"},{"name":"phone","type":"text"}],"record":{"id":7,"title":"*","data":"0001ff","phone":"****234"}"#;
    assert!(texts[0].contains(expected), "{}", texts[0]);
    // Whoever sees all of it shares its class with nobody's masks.
    class.view = View::PLAIN;
    assert!(
        encode_event(&event, &class)
            .windows(7)
            .any(|w| w == b"5551234")
    );
}

proptest! {
    /// A masked value stands in no frame of those who do not see it.
    #[test]
    fn masked_values_are_not_in_the_bytes(
        secrets in ("[g-z]{12,20}", "[g-z]{12,20}", "[g-z]{12,20}", "[g-z]{12,20}"),
        kind in 0_usize..6,
        (new_view, old_view) in (0_u64..8, 0_u64..8),
        op in prop::sample::select(vec![Operation::Insert, Operation::Update, Operation::Delete]),
        (v1, selected, unchanged) in (any::<bool>(), any::<bool>(), any::<bool>()),
        more in prop::collection::vec((0_u64..8, 0_u64..8), 0..3),
    ) {
        let quoted = |text: &str| format!("\"{text}\"");
        let new = row(["7", &quoted(&secrets.0), &quoted(&secrets.1), if unchanged { "" } else { "null" }]);
        let old = row(["7", &quoted(&secrets.2), &quoted(&secrets.3), "1"]);
        let mut event = change(op);
        event.body = Body::Change {
            new: (op != Operation::Delete).then_some(new),
            old: (op != Operation::Insert).then_some(old),
            unchanged: if unchanged { Arc::new(["phone".into()]) } else { Arc::new([]) },
        };
        event.audience.masked = Some(masked(MaskKind::ALL[kind], 0));
        let voice = rows(if v1 { Version::V1 } else { Version::V2 }, Operations::ALL, None);
        let names: [Arc<str>; 2] = ["title".into(), "data".into()];
        let mut class = class(&voice, selected.then_some(&names));
        let mut memo = EventMemo::default();
        // All views of a class share one memo.
        for (new_view, old_view) in more.into_iter().chain([(new_view, old_view)]) {
            class.view = View { new: new_view, old: old_view };
            let mut out = Vec::new();
            encode_event_into(&mut out, &event, &class, &mut memo);
            prop_assert_eq!(&out, &encode_event(&event, &class));
            let (payload, _) = payload_of(&out).unwrap();
            let text = std::str::from_utf8(payload).unwrap();
            prop_assert!(serde_json::from_str::<Value>(text).is_ok(), "{}", text);
            for (secret, there, view, bit) in [
                (&secrets.0, op != Operation::Delete, new_view, 0b001),
                (&secrets.1, op != Operation::Delete, new_view, 0b010),
                (&secrets.2, op != Operation::Insert, old_view, 0b001),
                (&secrets.3, op != Operation::Insert, old_view, 0b010),
            ] {
                prop_assert_eq!(text.contains(secret.as_str()), there && view & bit != 0, "{}", text);
                // Nor a good part of it.
                prop_assert!(view & bit != 0 || !text.contains(&secret[..8]));
            }
        }
    }

    /// A memo is only there to be fast.
    #[test]
    fn a_memo_changes_nothing(
        steps in prop::collection::vec((0_usize..3, any::<bool>(), any::<bool>(), -9_i64..9), 1..8),
        v1: bool,
    ) {
        let voice = rows(if v1 { Version::V1 } else { Version::V2 }, Operations::ALL, None);
        let class = class(&voice, None);
        let mut memo = EventMemo::default();
        let tables = ["tasks", "a\"b"].map(|name| Arc::new(TableName { schema: "s".into(), name: name.into() }));
        for (op, table, masks, time) in steps {
            let mut event = change([Operation::Insert, Operation::Update, Operation::Delete][op]);
            event.table = tables[usize::from(table)].clone();
            event.commit_time = Timestamp(time * 999_999);
            event.audience.masked = masks.then(|| masked(MaskKind::Redact, 0));
            let mut out = Vec::new();
            encode_event_into(&mut out, &event, &class, &mut memo);
            prop_assert_eq!(&out, &encode_event(&event, &class));
        }
    }

    /// Every frame of rows and of table events is JSON, whatever names and values hold.
    #[test]
    fn frames_are_json(
        (schema, name, id, topic) in (".{0,8}", ".{0,8}", ".{0,8}", ".{1,8}"),
        (title, padding) in (".{0,20}", 0_usize..70_000),
        v1: bool,
    ) {
        let mut event = change(Operation::Update);
        event.table = Arc::new(TableName { schema: schema.as_str().into(), name: name.as_str().into() });
        event.record_id = Some(id.as_str().into());
        let title = format!("{title}{}", "x".repeat(padding));
        event.body = Body::Change {
            new: Some(row(["7", &Value::from(title.as_str()).to_string(), "null", "1"])),
            old: Some(key()),
            unchanged: Arc::new([]),
        };
        let version = if v1 { Version::V1 } else { Version::V2 };
        let what = [
            What::Rows { id: 1, operations: Operations::ALL, schema: None },
            What::TableEvents { id: 1, filter: None },
        ];
        for what in what {
            let of_rows = matches!(what, What::Rows { .. });
            let voice = Voice::phoenix(version, topic.as_str(), what);
            let text = texts(&event, &class(&voice, None)).remove(0);
            let frame: Value = serde_json::from_str(&text).unwrap();
            let (said, payload) = match version {
                Version::V1 => (&frame["topic"], &frame["payload"]),
                Version::V2 => (&frame[2], &frame[4]),
            };
            prop_assert_eq!(said, &topic);
            let record = &payload["data"]["record"];
            match of_rows {
                true => prop_assert_eq!(&record["title"], &title),
                false => prop_assert_eq!(&record["record_id"], &id),
            }
        }
    }
}
