//! Events as frames. Owns the order of their fields, which documents and clients rely on.
//!
//! One event has the same bytes for everybody of one [`EventClass`]; the hub encodes once per class. Masked
//! values are masked here, as every byte of a row passes here.

use std::sync::Arc;

use bytes::Bytes;
use rowcast_model::{
    Body, ColumnMeta, Cursor, Epoch, JsonRow, Lsn, MaskKind, Message, Operation, RoutedEvent, Says,
    Sender, TableName, Topic, View,
};

use crate::{
    Forms, Frame,
    frame::FrameWriter,
    mask::{MaskedRow, write_masked_row},
    time::write_iso_millis,
};

/// What the bytes of an event depend on besides the event.
#[derive(Clone, Copy, Debug)]
pub struct EventClass<'a> {
    /// The channel's name, as its subscribers wrote it.
    pub channel: &'a str,
    /// The organization of the subscribers; names it where the event is for all organizations.
    pub organization: &'a str,
    /// Rows, invalidations, or both (several frames, the row last); and what is not of a row, or not.
    pub forms: Forms,
    /// Only these columns.
    pub columns: Option<&'a [Arc<str>]>,
    /// Which masked columns are shown plain, where the event has masks.
    pub view: View,
    /// Whether to mark the last event of a transaction (not where a channel sees several topics).
    pub mark_last: bool,
}

/// Text that one event of a class shares with the next, most of the time. Belongs to one class.
#[derive(Debug, Default)]
pub struct EventMemo {
    /// From the channel to the index in the cursor: what comes before the cursor has this length, and behind it is
    /// the transaction.
    place: Vec<u8>,
    label: usize,
    transaction_of: Option<(Epoch, Lsn)>,
    /// From the beginning to `"new":`, and what it was written for.
    head: Vec<u8>,
    head_of: Option<(Arc<TableName>, Operation)>,
    /// A commit time in milliseconds, and its text.
    time_of: i64,
    time: Vec<u8>,
}

impl EventMemo {
    fn head(&mut self, event: &RoutedEvent) -> &[u8] {
        let known = self.head_of.as_ref();
        if !known.is_some_and(|(table, op)| Arc::ptr_eq(table, &event.table) && *op == event.op) {
            self.head.clear();
            let json = &mut self.head;
            json.extend_from_slice(br#"{"type":"postgres_changes","table":"#);
            string(json, &event.table.name);
            operation(json, event.op);
            json.extend_from_slice(br#","schema":"#);
            string(json, &event.table.schema);
            json.extend_from_slice(br#","new":"#);
            self.head_of = Some((event.table.clone(), event.op));
        }
        &self.head
    }

    fn write_place(
        &mut self,
        json: &mut Vec<u8>,
        event: &RoutedEvent,
        cursor: Cursor,
        class: &EventClass<'_>,
    ) {
        let Cursor {
            epoch,
            commit_lsn,
            index,
        } = cursor;
        if self.place.is_empty() {
            self.place.extend_from_slice(br#","channel":"#);
            string(&mut self.place, class.channel);
            self.place.extend_from_slice(br#","cursor":""#);
            self.label = self.place.len();
        }
        if self.transaction_of != Some((epoch, commit_lsn)) {
            self.place.truncate(self.label);
            transaction(&mut self.place, epoch, commit_lsn);
            self.transaction_of = Some((epoch, commit_lsn));
        }
        json.extend_from_slice(&self.place);
        index_in(json, index);
        let time = event.commit_time.0.div_euclid(1000);
        if self.time.is_empty() || self.time_of != time {
            self.time.clear();
            self.time.extend_from_slice(br#"","commitTimestamp":""#);
            write_iso_millis(event.commit_time, &mut self.time);
            self.time.push(b'"');
            self.time_of = time;
        }
        json.extend_from_slice(&self.time);
    }
}

/// Appends the frame or frames of an event to `out`. `memo` is used for this class alone.
pub fn encode_event_into(
    out: &mut Vec<u8>,
    event: &RoutedEvent,
    class: &EventClass<'_>,
    memo: &mut EventMemo,
) {
    let last = event.last && class.mark_last;
    match &event.body {
        Body::Change {
            new,
            old,
            unchanged,
        } => {
            if class.forms.invalidations {
                invalidate(out, event, class, memo, last, class.forms.changes);
            }
            if class.forms.changes {
                let rows = (new.as_ref(), old.as_ref(), &**unchanged);
                change(out, event, class, memo, rows, last);
            }
        }
        Body::Message(message) if class.forms.broadcasts => {
            say(out, event, class, memo, message, last);
        }
        Body::Message(_) => {}
        // There is no row to send: whoever asked for changes is told at least that there was one.
        Body::Invalidate => invalidate(out, event, class, memo, last, false),
    }
}

/// The frame or frames of an event behind each other.
pub fn encode_event(event: &RoutedEvent, class: &EventClass<'_>) -> Frame {
    let mut out = Vec::with_capacity(512);
    encode_event_into(&mut out, event, class, &mut EventMemo::default());
    Bytes::from(out)
}

type Rows<'a> = (Option<&'a JsonRow>, Option<&'a JsonRow>, &'a [Arc<str>]);

fn change(
    out: &mut Vec<u8>,
    event: &RoutedEvent,
    class: &EventClass<'_>,
    memo: &mut EventMemo,
    (new, old, unchanged): Rows<'_>,
    last: bool,
) {
    let wanted = |name: &str| {
        class
            .columns
            .is_none_or(|columns| columns.iter().any(|column| &**column == name))
    };
    let mut frame = FrameWriter::begin(out);
    let json = frame.payload();
    let rows = new.map_or(0, JsonRow::cost) + old.map_or(0, JsonRow::cost);
    json.reserve(rows * 2 + 512);
    json.extend_from_slice(memo.head(event));
    let masked = event.audience.masked.as_deref();
    let object =
        |json: &mut Vec<u8>, row: Option<&JsonRow>, plain: u64, unchanged: &[Arc<str>]| match (
            row, masked,
        ) {
            (None, _) => json.extend_from_slice(b"null"),
            (Some(row), Some(masked)) if plain != u64::MAX => {
                let row = MaskedRow {
                    row,
                    masks: &masked.masks,
                    plain,
                    unchanged,
                };
                write_masked_row(json, &row, wanted);
            }
            (Some(row), _) => row.write_object(json, |column: &ColumnMeta| wanted(&column.name)),
        };
    object(json, new, class.view.new, unchanged);
    json.extend_from_slice(br#","old":"#);
    object(json, old, class.view.old, &[]);
    memo.write_place(json, event, event.cursor, class);
    // A column of which nothing is shown does not say either whether it changed.
    let silent = |name: &str| {
        let of = masked.and_then(|masked| masked.masks.of(name));
        of.is_some_and(|(i, mask)| mask.kind == MaskKind::Redact && class.view.new & 1 << i == 0)
    };
    let kept = unchanged.iter();
    let mut kept = kept.filter(|name| wanted(name) && !silent(name)).peekable();
    if kept.peek().is_some() {
        json.extend_from_slice(br#","unchanged":["#);
        for (i, name) in kept.enumerate() {
            if i > 0 {
                json.push(b',');
            }
            string(json, name);
        }
        json.push(b']');
    }
    end(json, last);
    frame.finish();
}

fn say(
    out: &mut Vec<u8>,
    event: &RoutedEvent,
    class: &EventClass<'_>,
    memo: &mut EventMemo,
    message: &Message,
    last: bool,
) {
    let mut frame = FrameWriter::begin(out);
    let json = frame.payload();
    json.reserve(message.cost() + 512);
    match &message.says {
        Says::Broadcast { event, payload } => {
            json.extend_from_slice(br#"{"type":"broadcast","event":"#);
            string(json, event);
            json.extend_from_slice(br#","payload":"#);
            json.extend_from_slice(payload);
        }
        Says::Stale { key, .. } => {
            json.extend_from_slice(br#"{"type":"invalidate","key":"#);
            string(json, key);
        }
        Says::Data { key, data } => {
            json.extend_from_slice(br#"{"type":"data","key":"#);
            string(json, key);
            json.extend_from_slice(br#","data":"#);
            json.extend_from_slice(data);
        }
    }
    let sender = message.sender.as_ref().map(|sender| match sender {
        Sender::User(user) => (&br#","sender":{"userId":"#[..], user.as_str()),
        Sender::ApiKey(id) => (&br#","sender":{"apiKeyId":"#[..], &**id),
    });
    if let Some((label, id)) = sender {
        json.extend_from_slice(label);
        string(json, id);
        json.push(b'}');
    }
    if let Some(organization) = event.topic.organization() {
        json.extend_from_slice(br#","organizationId":"#);
        string(json, organization.as_str());
    }
    memo.write_place(json, event, event.cursor, class);
    end(json, last);
    frame.finish();
}

/// Whoever has lost the line between the frames of one event must hear all of it: only the last frame has its
/// position, those before it that before the event. So an invalidation may be told twice, and a row never is.
fn invalidate(
    out: &mut Vec<u8>,
    event: &RoutedEvent,
    class: &EventClass<'_>,
    memo: &mut EventMemo,
    last: bool,
    row_follows: bool,
) {
    let before = event.cursor.just_before();
    // Who shows the record under its old key has to learn that it is gone.
    if let Some(old) = &event.old_record_id {
        let gone = (Operation::Delete, Some(&**old));
        invalidate_one(out, event, class, memo, gone, (before, false));
    }
    let now = (event.op, event.record_id.as_deref());
    let place = match row_follows {
        true => (before, false),
        false => (event.cursor, last),
    };
    invalidate_one(out, event, class, memo, now, place);
}

fn invalidate_one(
    out: &mut Vec<u8>,
    event: &RoutedEvent,
    class: &EventClass<'_>,
    memo: &mut EventMemo,
    (op, record_id): (Operation, Option<&str>),
    (cursor, last): (Cursor, bool),
) {
    let mut frame = FrameWriter::begin(out);
    let json = frame.payload();
    json.extend_from_slice(br#"{"type":"invalidate","table":"#);
    string(json, &event.table.name);
    operation(json, op);
    json.extend_from_slice(br#","recordId":"#);
    match record_id {
        Some(id) => string(json, id),
        None => json.extend_from_slice(b"null"),
    }
    json.extend_from_slice(br#","organizationId":"#);
    match &event.topic {
        Topic::Org(organization) => string(json, organization.as_str()),
        _ => string(json, class.organization),
    }
    json.extend_from_slice(br#","schema":"#);
    string(json, &event.table.schema);
    memo.write_place(json, event, cursor, class);
    end(json, last);
    frame.finish();
}

fn operation(json: &mut Vec<u8>, op: Operation) {
    json.extend_from_slice(br#","eventType":""#);
    json.extend_from_slice(op.as_str().as_bytes());
    json.push(b'"');
}

/// The text of a cursor up to its index, as its `Display` form has it; this is written for every transaction and
/// class.
fn transaction(json: &mut Vec<u8>, epoch: Epoch, commit_lsn: Lsn) {
    hex(json, epoch.0.into(), 8);
    json.push(b'-');
    hex(json, commit_lsn.0, 1);
    json.push(b'-');
}

fn index_in(json: &mut Vec<u8>, index: u32) {
    match index {
        u32::MAX => json.push(b'z'),
        index => hex(json, index.into(), 1),
    }
}

fn hex(json: &mut Vec<u8>, value: u64, least_digits: u32) {
    let used = (u64::BITS - value.leading_zeros()).div_ceil(4);
    for place in (0..used.max(least_digits)).rev() {
        let digit = value >> (4 * place) & 0xf;
        json.push(b"0123456789abcdef"[digit as usize]);
    }
}

fn end(json: &mut Vec<u8>, last: bool) {
    if last {
        json.extend_from_slice(br#","last":true"#);
    }
    json.push(b'}');
}

/// Appends text as a JSON string; copies in one piece when nothing has to be escaped, as in nearly
/// every name.
pub(crate) fn string(json: &mut Vec<u8>, text: &str) {
    let plain = |b: &u8| *b >= 0x20 && *b != b'"' && *b != b'\\';
    if text.as_bytes().iter().all(plain) {
        json.push(b'"');
        json.extend_from_slice(text.as_bytes());
        json.push(b'"');
    } else {
        let _ = serde_json::to_writer(json, text);
    }
}

#[cfg(test)]
mod tests {
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
}
