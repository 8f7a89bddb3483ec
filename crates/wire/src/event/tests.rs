use super::*;
use bytes::BytesMut;
use rowcast_model::{Audience, Cursor, Epoch, JsonRowBuilder, Kind, Lsn, TableName, Timestamp};

fn row(values: &[(&str, &str)]) -> JsonRow {
    let columns: Arc<[ColumnMeta]> = values
        .iter()
        .map(|(name, _)| ColumnMeta::new((*name).into(), Kind::Text))
        .collect();
    let mut buffer = BytesMut::new();
    let mut builder = JsonRowBuilder::new(columns, &mut buffer);
    for (_, value) in values {
        builder.column(|out| out.extend_from_slice(value.as_bytes()));
    }
    builder.finish()
}

fn event(op: Operation, body: Body) -> RoutedEvent {
    RoutedEvent {
        cursor: Cursor {
            epoch: Epoch(1),
            commit_lsn: Lsn(0x16b),
            index: 2,
        },
        commit_time: Timestamp(0),
        topic: Topic::Org("org_123".into()),
        audience: Audience::default(),
        table: Arc::new(TableName {
            schema: "public".into(),
            name: "materials".into(),
        }),
        op,
        record_id: Some("mat_123".into()),
        old_record_id: None,
        body,
        last: true,
    }
}

const CLASS: EventClass<'static> = EventClass {
    channel: "org:org_123",
    organization: "org_123",
    forms: Forms {
        changes: true,
        invalidations: false,
        broadcasts: true,
    },
    columns: None,
    view: View::PLAIN,
    mark_last: true,
    voice: Voice::NATIVE,
};

fn texts(event: &RoutedEvent, class: &EventClass<'_>) -> Vec<String> {
    let frames = encode_event(event, class);
    let mut left = &frames[..];
    let mut texts = Vec::new();
    while !left.is_empty() {
        let (payload, rest) = crate::payload_of(left).unwrap();
        texts.push(String::from_utf8(payload.to_vec()).unwrap());
        left = rest;
    }
    texts
}

const PLACE: &str = r#""channel":"org:org_123","cursor":"00000001-16b-2","commitTimestamp":"1970-01-01T00:00:00.000Z""#;

/// MISSION Q8 to Q10.
#[test]
fn changes_have_the_documented_fields_in_order() {
    let change = |new, old| Body::Change {
        new,
        old,
        unchanged: Arc::new([]),
    };
    let key = row(&[("id", r#""mat_123""#)]);
    let insert = event(Operation::Insert, change(Some(key.clone()), None));
    assert_eq!(
        texts(&insert, &CLASS),
        [format!(
            r#"{{"type":"postgres_changes","table":"materials","eventType":"INSERT","schema":"public","new":{{"id":"mat_123"}},"old":null,{PLACE},"last":true}}"#
        )]
    );
    let delete = event(Operation::Delete, change(None, Some(key)));
    assert!(texts(&delete, &CLASS)[0].contains(r#""new":null,"old":{"id":"mat_123"},"#));
}

#[test]
fn a_memo_changes_nothing() {
    let body = || Body::Change {
        new: Some(row(&[("id", "1")])),
        old: None,
        unchanged: Arc::new([]),
    };
    let mut memo = EventMemo::default();
    let table = |event: RoutedEvent, name: &str| RoutedEvent {
        table: Arc::new(TableName {
            schema: "other".into(),
            name: name.into(),
        }),
        ..event
    };
    let mut later = event(Operation::Update, body());
    later.commit_time = Timestamp(1_795_254_067_123_999);
    let at = |epoch, lsn, index| {
        let mut event = event(Operation::Insert, body());
        event.cursor = Cursor {
            epoch: Epoch(epoch),
            commit_lsn: Lsn(lsn),
            index,
        };
        event
    };
    let events = [
        event(Operation::Insert, body()),
        event(Operation::Update, body()),
        table(event(Operation::Update, body()), "a\"b"),
        later,
        event(Operation::Delete, Body::Invalidate),
        at(1, 0xfff8, u32::MAX),
        at(1, 0x10000, 0),
        at(1, 0x10000, 16),
        at(2, 0x10000, 16),
    ];
    for event in events.iter().chain(events.iter().rev()) {
        let mut out = Vec::new();
        encode_event_into(&mut out, event, &CLASS, &mut memo);
        assert_eq!(out, encode_event(event, &CLASS));
    }
}

proptest::proptest! {
    #[test]
    fn cursors_are_written_as_they_print(epoch: u32, lsn: u64, index: u32, end: bool) {
        let it = Cursor {
            epoch: Epoch(epoch),
            commit_lsn: Lsn(lsn >> (index % 64)),
            index: if end { u32::MAX } else { index },
        };
        let mut out = Vec::new();
        transaction(&mut out, it.epoch, it.commit_lsn);
        index_in(&mut out, it.index);
        proptest::prop_assert_eq!(String::from_utf8(out).unwrap(), it.to_string());
    }
}

#[test]
fn column_lists_cut_rows_and_unchanged() {
    let body = Body::Change {
        new: Some(row(&[("id", "1"), ("title", r#""t""#), ("body", "")])),
        old: None,
        unchanged: Arc::new(["body".into(), "other".into()]),
    };
    let columns: [Arc<str>; 2] = ["title".into(), "body".into()];
    let class = EventClass {
        columns: Some(&columns),
        mark_last: false,
        ..CLASS
    };
    let texts = texts(&event(Operation::Update, body), &class);
    assert!(texts[0].contains(r#""new":{"title":"t"},"old":null"#));
    assert!(texts[0].ends_with(r#""unchanged":["body"]}"#));
}

const BOTH: EventClass<'static> = EventClass {
    forms: Forms {
        changes: true,
        invalidations: true,
        broadcasts: true,
    },
    ..CLASS
};
/// Where an event is told that another frame of the same event follows.
const BEFORE: &str = r#""cursor":"00000001-16b-1""#;

#[test]
fn of_both_forms_the_row_is_the_last() {
    let body = Body::Change {
        new: Some(row(&[("id", "1")])),
        old: None,
        unchanged: Arc::new([]),
    };
    let mut event = event(Operation::Insert, body);
    let first = texts(&event, &BOTH);
    assert!(first[0].starts_with(r#"{"type":"invalidate","table":"materials""#));
    assert!(first[0].contains(BEFORE) && !first[0].contains("last"));
    assert!(first[1].starts_with(r#"{"type":"postgres_changes""#));
    assert!(first[1].contains(PLACE) && first[1].ends_with(r#","last":true}"#));
    assert_eq!(first.len(), 2);
    // Before the first event of a transaction is behind everything of the one before it.
    event.cursor.index = 0;
    assert!(texts(&event, &BOTH)[0].contains(r#""cursor":"00000001-16a-z""#));
}

#[test]
fn an_update_of_the_key_invalidates_both_records() {
    let mut moved = event(Operation::Update, Body::Invalidate);
    moved.old_record_id = Some("mat_1".into());
    for class in [CLASS, BOTH] {
        let texts = texts(&moved, &class);
        assert!(texts[0].contains(r#""eventType":"DELETE","recordId":"mat_1""#));
        assert!(texts[0].contains(BEFORE) && !texts[0].contains("last"));
        assert!(texts[1].contains(r#""eventType":"UPDATE","recordId":"mat_123""#));
        assert!(texts[1].contains(PLACE) && texts[1].ends_with(r#","last":true}"#));
        assert_eq!(texts.len(), 2);
    }
    moved.body = Body::Change {
        new: Some(row(&[("id", r#""mat_123""#)])),
        old: Some(row(&[("id", r#""mat_1""#)])),
        unchanged: Arc::new([]),
    };
    let texts = texts(&moved, &BOTH);
    assert!(texts[..2].iter().all(|text| text.contains(BEFORE)));
    assert!(texts[2].contains(PLACE) && texts.len() == 3);
}

#[test]
fn what_has_no_row_reaches_subscribers_of_changes_too() {
    let mut truncate = event(Operation::Truncate, Body::Invalidate);
    truncate.record_id = None;
    truncate.topic = Topic::AllOrgs;
    let text = &texts(&truncate, &CLASS)[0];
    assert!(text.starts_with(r#"{"type":"invalidate","table":"materials","eventType":"TRUNCATE","recordId":null,"organizationId":"org_123""#));
}
