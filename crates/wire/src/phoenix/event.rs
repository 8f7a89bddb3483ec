//! Events as frames of Phoenix channels: rows, table events and broadcasts. Masked values are masked here as
//! everywhere.

use std::sync::{Arc, LazyLock};

use rowcast_model::{
    Body, ColumnMeta, JsonRow, Masks, Operation, RoutedEvent, Says, TableName, View,
};

use super::{
    Spoken, Version, What,
    envelope::Envelope,
    table_event::{self, COLUMNS, TABLE_EVENTS},
};
use crate::{
    EventClass,
    event::string,
    frame::FrameWriter,
    mask::{MaskedRow, write_masked_row},
    time::write_iso_millis,
};

/// The event of rows.
const ROWS: &str = "postgres_changes";
/// The event of broadcasts.
const BROADCAST: &str = "broadcast";
/// A binary frame for a broadcast begins with this.
const USER_BROADCAST: u8 = 4;

/// Text that one event of a class shares with the next, most of the time.
#[derive(Debug, Default)]
pub(crate) struct Memo {
    /// From the beginning to the commit time, and what it was written for.
    head: Vec<u8>,
    head_of: Option<(Arc<TableName>, Operation)>,
    /// The list of columns, where none is masked, and of which row it is.
    columns: Vec<u8>,
    columns_of: Option<Arc<[ColumnMeta]>>,
}

/// Appends the frame or frames of an event; nothing when the voice does not want it.
pub(crate) fn encode(
    out: &mut Vec<u8>,
    event: &RoutedEvent,
    class: &EventClass<'_>,
    spoken: &Spoken,
    memo: &mut Memo,
) {
    match (&spoken.what, &event.body) {
        (What::Room, Body::Message(message)) => {
            if let Says::Broadcast { event, payload } = &message.says {
                say(out, spoken.version, &spoken.topic, event, payload);
            }
        }
        (
            What::Rows { id, .. },
            Body::Change {
                new,
                old,
                unchanged,
            },
        ) if spoken.what.wants(event) => {
            let both = (new.as_ref(), old.as_ref(), &**unchanged);
            rows(out, event, class, (spoken, *id), both, memo);
        }
        (What::TableEvents { id, filter }, Body::Change { .. } | Body::Invalidate) => {
            for row in table_event::rows(event) {
                if filter.as_ref().is_none_or(|filter| filter.passes(&row)) {
                    table_event(out, event, class, spoken, *id, &row);
                }
            }
        }
        _ => {}
    }
}

fn envelope(spoken: &Spoken) -> Envelope<'_> {
    Envelope {
        version: spoken.version,
        join_ref: None,
        reference: None,
        topic: &spoken.topic,
        event: ROWS,
    }
}

/// Appends everything up to the commit time.
fn head(json: &mut Vec<u8>, spoken: &Spoken, id: u32, operation: Operation, table: &TableName) {
    envelope(spoken).open(json);
    json.extend_from_slice(br#"{"ids":["#);
    json.extend_from_slice(id.to_string().as_bytes());
    json.extend_from_slice(br#"],"data":{"type":""#);
    json.extend_from_slice(operation.as_str().as_bytes());
    json.extend_from_slice(br#"","schema":"#);
    string(json, &table.schema);
    json.extend_from_slice(br#","table":"#);
    string(json, &table.name);
    json.extend_from_slice(br#","commit_timestamp":""#);
}

/// Appends everything behind the rows.
fn tail(json: &mut Vec<u8>, spoken: &Spoken) {
    json.extend_from_slice(br#","errors":null}}"#);
    envelope(spoken).shut(json);
}

/// The rows of a change, and the columns whose value the log does not hold.
type Rows<'a> = (Option<&'a JsonRow>, Option<&'a JsonRow>, &'a [Arc<str>]);

fn rows(
    out: &mut Vec<u8>,
    event: &RoutedEvent,
    class: &EventClass<'_>,
    (spoken, id): (&Spoken, u32),
    (new, old, unchanged): Rows<'_>,
    memo: &mut Memo,
) {
    let mut frame = FrameWriter::begin(out);
    let json = frame.payload();
    json.reserve((new.map_or(0, JsonRow::cost) + old.map_or(0, JsonRow::cost)) * 2 + 512);
    let known = memo.head_of.as_ref();
    if !known.is_some_and(|(table, op)| Arc::ptr_eq(table, &event.table) && *op == event.op) {
        memo.head.clear();
        head(&mut memo.head, spoken, id, event.op, &event.table);
        memo.head_of = Some((event.table.clone(), event.op));
    }
    json.extend_from_slice(&memo.head);
    write_iso_millis(event.commit_time, json);
    json.extend_from_slice(br#"","columns":"#);
    let masked = event.audience.masked.as_deref();
    let masks = masked.map(|masked| &*masked.masks);
    let masks = masks.filter(|_| class.view != View::PLAIN);
    let plain = |row: Option<&JsonRow>, plain| if row.is_some() { plain } else { u64::MAX };
    let plain = plain(new, class.view.new) & plain(old, class.view.old);
    match (new.or(old), masks) {
        (Some(row), Some(masks)) => columns(json, row, class, |name| hides(masks, plain, name)),
        (Some(row), None) => json.extend_from_slice(memo.columns(row, class)),
        (None, _) => json.extend_from_slice(b"[]"),
    }
    let empty: &[Arc<str>] = &[];
    let record = (br#","record":"#.as_slice(), new, class.view.new, unchanged);
    let old_record = (br#","old_record":"#.as_slice(), old, class.view.old, empty);
    let sides = match event.op {
        Operation::Insert => [Some(record), None],
        Operation::Update => [Some(record), Some(old_record)],
        Operation::Delete | Operation::Truncate => [None, Some(old_record)],
    };
    for (label, row, plain, unchanged) in sides.into_iter().flatten() {
        json.extend_from_slice(label);
        match (row, masks) {
            (Some(row), Some(masks)) => {
                let row = MaskedRow {
                    row,
                    masks,
                    plain,
                    unchanged,
                };
                write_masked_row(json, &row, |column| wants(class, column), write_value);
            }
            (Some(row), None) => write_row(json, row, class),
            (None, _) => json.extend_from_slice(b"{}"),
        }
    }
    tail(json, spoken);
    frame.finish();
}

impl Memo {
    /// The list of the columns of a row of which none is masked.
    fn columns(&mut self, row: &JsonRow, class: &EventClass<'_>) -> &[u8] {
        let same = |of: &Arc<[ColumnMeta]>| Arc::ptr_eq(of, row.columns());
        if !self.columns_of.as_ref().is_some_and(same) {
            self.columns.clear();
            columns(&mut self.columns, row, class, |_| false);
            self.columns_of = Some(row.columns().clone());
        }
        &self.columns
    }
}

/// Whether a column is sent: what tells one record from another always is.
fn wants(class: &EventClass<'_>, column: &ColumnMeta) -> bool {
    let listed = |columns: &[Arc<str>]| columns.contains(&column.name);
    column.key || class.columns.is_none_or(listed)
}

/// Whether a column is masked, where the masks of `plain` do not hold.
fn hides(masks: &Masks, plain: u64, name: &str) -> bool {
    masks.of(name).is_some_and(|(i, _)| plain & 1 << i == 0)
}

/// Appends the list of columns. A masked value is text, whatever its column is: clients must not read it as a number.
fn columns(
    json: &mut Vec<u8>,
    row: &JsonRow,
    class: &EventClass<'_>,
    masked: impl Fn(&str) -> bool,
) {
    json.push(b'[');
    let mut first = true;
    for column in row.columns().iter().filter(|column| wants(class, column)) {
        if !first {
            json.push(b',');
        }
        first = false;
        json.extend_from_slice(br#"{"name":"#);
        string(json, &column.name);
        json.extend_from_slice(br#","type":"#);
        string(
            json,
            if masked(&column.name) {
                "text"
            } else {
                &column.type_name
            },
        );
        json.push(b'}');
    }
    json.push(b']');
}

/// Appends a row of which nothing is masked.
fn write_row(json: &mut Vec<u8>, row: &JsonRow, class: &EventClass<'_>) {
    json.push(b'{');
    let mut first = true;
    for (column, value) in row.present().filter(|(column, _)| wants(class, column)) {
        if !first {
            json.push(b',');
        }
        first = false;
        json.extend_from_slice(column.label.as_bytes());
        write_value(json, column, value);
    }
    json.push(b'}');
}

fn write_value(json: &mut Vec<u8>, column: &ColumnMeta, value: &[u8]) {
    match value {
        // Clients know the digits without the sign that they are such.
        [b'"', b'\\', b'\\', b'x', digits @ ..] if &*column.type_name == "bytea" => {
            json.push(b'"');
            json.extend_from_slice(digits);
        }
        value => json.extend_from_slice(value),
    }
}

/// The table that is not there.
static TABLE: LazyLock<TableName> = LazyLock::new(|| TableName {
    schema: "public".into(),
    name: TABLE_EVENTS.into(),
});

fn table_event(
    out: &mut Vec<u8>,
    event: &RoutedEvent,
    class: &EventClass<'_>,
    spoken: &Spoken,
    id: u32,
    row: &table_event::TableEvent<'_>,
) {
    let mut frame = FrameWriter::begin(out);
    let json = frame.payload();
    head(json, spoken, id, Operation::Insert, &TABLE);
    write_iso_millis(event.commit_time, json);
    json.extend_from_slice(br#"","columns":"#);
    json.extend_from_slice(COLUMNS.as_bytes());
    json.extend_from_slice(br#","record":"#);
    row.write_object(class.organization, json);
    tail(json, spoken);
    frame.finish();
}

/// Appends a broadcast whose payload is JSON text.
pub(super) fn say(out: &mut Vec<u8>, version: Version, topic: &str, event: &str, payload: &[u8]) {
    if version == Version::V2 && say_binary(out, topic, event, 1, payload) {
        return;
    }
    let envelope = Envelope {
        version,
        join_ref: None,
        reference: None,
        topic,
        event: BROADCAST,
    };
    let mut frame = FrameWriter::begin(out);
    let json = frame.payload();
    json.reserve(payload.len() + topic.len() + event.len() + 96);
    envelope.open(json);
    json.extend_from_slice(br#"{"type":"broadcast","event":"#);
    string(json, event);
    json.extend_from_slice(br#","payload":"#);
    json.extend_from_slice(payload);
    json.push(b'}');
    envelope.shut(json);
    frame.finish();
}

/// Appends a binary broadcast, of JSON (1) or of bytes (0). False, and nothing appended, when the topic or the name
/// of the event is too long for its header.
pub(super) fn say_binary(
    out: &mut Vec<u8>,
    topic: &str,
    event: &str,
    encoding: u8,
    payload: &[u8],
) -> bool {
    let (Ok(topic_size), Ok(event_size)) = (u8::try_from(topic.len()), u8::try_from(event.len()))
    else {
        return false;
    };
    let mut frame = FrameWriter::begin_binary(out);
    let bytes = frame.payload();
    bytes.reserve(5 + topic.len() + event.len() + payload.len());
    bytes.extend_from_slice(&[USER_BROADCAST, topic_size, event_size, 0, encoding]);
    bytes.extend_from_slice(topic.as_bytes());
    bytes.extend_from_slice(event.as_bytes());
    bytes.extend_from_slice(payload);
    frame.finish();
    true
}
