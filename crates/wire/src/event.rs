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
    phoenix::{self, Voice},
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
    /// In which frames it is said.
    pub voice: &'a Voice,
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
    phoenix: phoenix::Memo,
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
    if let Voice::Phoenix(spoken) = class.voice {
        return phoenix::encode(out, event, class, spoken, &mut memo.phoenix);
    }
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
                write_masked_row(
                    json,
                    &row,
                    |column| wanted(&column.name),
                    |out, _, value| out.extend_from_slice(value),
                );
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

/// Appends a cursor as it prints.
pub(crate) fn cursor(json: &mut Vec<u8>, cursor: Cursor) {
    transaction(json, cursor.epoch, cursor.commit_lsn);
    index_in(json, cursor.index);
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
mod tests;
