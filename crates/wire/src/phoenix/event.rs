//! Events as frames of Phoenix channels: rows, table events and broadcasts. Masked values are masked here as
//! everywhere.

use std::sync::{Arc, LazyLock};

use rowcast_model::{
    Body, ColumnMeta, JsonRow, Masks, Operation, RoutedEvent, Says, Sender, TableName, View,
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
/// Its payload is JSON text.
const JSON: u8 = 1;

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
                let meta = message.sender.as_ref().map(meta).unwrap_or_default();
                let said = Said {
                    topic: &spoken.topic,
                    event,
                    payload,
                    meta: &meta,
                };
                say(out, spoken.version, &said);
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

/// Who has sent a broadcast, as the service knows him: the payload is whatever he said.
fn meta(sender: &Sender) -> Vec<u8> {
    let (label, id) = match sender {
        Sender::User(user) => ("userId", user.as_str()),
        Sender::ApiKey(id) => ("apiKeyId", &**id),
    };
    let mut json = format!(r#"{{"sender":{{"{label}":"#).into_bytes();
    string(&mut json, id);
    json.extend_from_slice(b"}}");
    json
}

/// A broadcast whose payload is JSON text.
struct Said<'a> {
    topic: &'a str,
    event: &'a str,
    payload: &'a [u8],
    /// What is known of it, as an object; nothing of most.
    meta: &'a [u8],
}

fn say(out: &mut Vec<u8>, version: Version, said: &Said<'_>) {
    if version == Version::V2 && say_binary(out, said) {
        return;
    }
    let envelope = Envelope {
        version,
        join_ref: None,
        reference: None,
        topic: said.topic,
        event: BROADCAST,
    };
    let mut frame = FrameWriter::begin(out);
    let json = frame.payload();
    json.reserve(said.payload.len() + said.topic.len() + said.event.len() + said.meta.len() + 96);
    envelope.open(json);
    json.extend_from_slice(br#"{"type":"broadcast","event":"#);
    string(json, said.event);
    json.extend_from_slice(br#","payload":"#);
    json.extend_from_slice(said.payload);
    if !said.meta.is_empty() {
        json.extend_from_slice(br#","meta":"#);
        json.extend_from_slice(said.meta);
    }
    json.push(b'}');
    envelope.shut(json);
    frame.finish();
}

/// Appends a binary broadcast. False, and nothing appended, when something is too long for its header.
fn say_binary(out: &mut Vec<u8>, said: &Said<'_>) -> bool {
    let size = |text: &[u8]| u8::try_from(text.len());
    let sizes = (
        size(said.topic.as_bytes()),
        size(said.event.as_bytes()),
        size(said.meta),
    );
    let (Ok(topic), Ok(event), Ok(meta)) = sizes else {
        return false;
    };
    let mut frame = FrameWriter::begin_binary(out);
    let bytes = frame.payload();
    bytes.reserve(5 + said.topic.len() + said.event.len() + said.meta.len() + said.payload.len());
    bytes.extend_from_slice(&[USER_BROADCAST, topic, event, meta, JSON]);
    bytes.extend_from_slice(said.topic.as_bytes());
    bytes.extend_from_slice(said.event.as_bytes());
    bytes.extend_from_slice(said.meta);
    bytes.extend_from_slice(said.payload);
    frame.finish();
    true
}
