//! Past events as bytes, one behind the other.
//!
//! Owns how an event is kept. What it has in common with those before it (its table, its columns, its rule) is
//! kept once for each chunk and shared with everybody, the rest is copied into one buffer: keeping an event
//! touches no memory but the end of that buffer and keeps no buffer of the reader alive, and a whole chunk is
//! forgotten without a look at its events. Promises: [`Chunk::read`] yields what was pushed, [`Chunk::cost`] counts
//! everything that is kept alive, and a chunk that has room never grows.

use std::{mem::size_of, sync::Arc, time::Duration};

use bytes::Bytes;
use rowcast_model::{
    Audience, Body, ColumnMeta, Cursor, Epoch, JsonRow, Lsn, Masked, Message, Operation,
    RoutedEvent, TableName, Timestamp, Topic,
};

/// What an allocation costs besides its bytes, roughly: the allocator's rounding, and counts of owners.
const ALLOCATION: usize = 24;
/// How many of the last things that events had in common are looked at for the next one.
const LOOK_BACK: usize = 4;

/// Events of one topic.
pub(crate) struct Chunk {
    bytes: Vec<u8>,
    common: Vec<Common>,
    /// Bytes that `common` keeps alive and nobody else counts.
    apart: usize,
    /// Events.
    pub count: usize,
    /// Number of the first event.
    pub number: u64,
    /// When the first event was handed on.
    pub began: Duration,
    /// When the last one was.
    pub ended: Duration,
    /// Its position.
    pub last: Cursor,
}

/// What neighbours have in common, most of the time.
struct Common {
    table: Arc<TableName>,
    audience: Audience,
    body: Alike,
}

enum Alike {
    Change {
        new: Option<Arc<[ColumnMeta]>>,
        old: Option<Arc<[ColumnMeta]>>,
        unchanged: Arc<[Arc<str>]>,
    },
    Invalidate,
    Message(Arc<Message>),
}

/// The fixed part of an event; behind it come its texts and rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Head {
    /// Counts all events that were ever kept.
    pub number: u64,
    lsn: u64,
    time: i64,
    index: u32,
    /// What it has in common with others.
    common: u32,
    record_id: u32,
    old_record_id: u32,
    new: Extent,
    old: Extent,
    op: u8,
    last: bool,
}

/// Lengths of a row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Extent {
    columns: u32,
    json: u32,
}

/// Length of a text that is not there.
const NONE: u32 = u32::MAX;

/// A length; what is longer than Postgres can make it is cut.
fn short(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(NONE - 1)
}

impl Extent {
    fn of(row: Option<&JsonRow>) -> Extent {
        row.map_or_else(Extent::default, |row| Extent {
            columns: short(row.ends().len()),
            json: short(row.json().len()),
        })
    }

    fn bytes(self) -> usize {
        size_of::<u32>() * self.columns as usize + self.json as usize
    }
}

impl Head {
    const BYTES: usize = 8 * 3 + 4 * 8 + 2;

    fn of(event: &RoutedEvent) -> Head {
        let text = |text: &Option<Arc<str>>| text.as_ref().map_or(NONE, |text| short(text.len()));
        let (new, old) = match &event.body {
            Body::Change { new, old, .. } => (new.as_ref(), old.as_ref()),
            Body::Invalidate | Body::Message(_) => (None, None),
        };
        Head {
            number: 0,
            lsn: event.cursor.commit_lsn.0,
            time: event.commit_time.0,
            index: event.cursor.index,
            common: 0,
            record_id: text(&event.record_id),
            old_record_id: text(&event.old_record_id),
            new: Extent::of(new),
            old: Extent::of(old),
            op: match event.op {
                Operation::Insert => 0,
                Operation::Update => 1,
                Operation::Delete => 2,
                Operation::Truncate => 3,
            },
            last: event.last,
        }
    }

    /// Bytes of the event.
    fn total(&self) -> usize {
        let text = |length: u32| if length == NONE { 0 } else { length as usize };
        Head::BYTES
            + text(self.record_id)
            + text(self.old_record_id)
            + self.new.bytes()
            + self.old.bytes()
    }

    fn write(&self, out: &mut Vec<u8>) {
        let mut head = [0; Head::BYTES];
        let mut rest = &mut head[..];
        let mut put = |bytes: &[u8]| {
            if let Some((at, more)) = std::mem::take(&mut rest).split_at_mut_checked(bytes.len()) {
                at.copy_from_slice(bytes);
                rest = more;
            }
        };
        put(&self.number.to_le_bytes());
        put(&self.lsn.to_le_bytes());
        put(&self.time.to_le_bytes());
        for number in [
            self.index,
            self.common,
            self.record_id,
            self.old_record_id,
            self.new.columns,
            self.new.json,
            self.old.columns,
            self.old.json,
        ] {
            put(&number.to_le_bytes());
        }
        put(&[self.op, self.last.into()]);
        out.extend_from_slice(&head);
    }

    fn read(rest: &mut Rest<'_>) -> Option<Head> {
        Some(Head {
            number: u64::from_le_bytes(rest.array()?),
            lsn: u64::from_le_bytes(rest.array()?),
            time: i64::from_le_bytes(rest.array()?),
            index: rest.u32()?,
            common: rest.u32()?,
            record_id: rest.u32()?,
            old_record_id: rest.u32()?,
            new: Extent {
                columns: rest.u32()?,
                json: rest.u32()?,
            },
            old: Extent {
                columns: rest.u32()?,
                json: rest.u32()?,
            },
            op: u8::from_le_bytes(rest.array()?),
            last: rest.array()? != [0],
        })
    }

    /// Its position, in this epoch.
    pub(crate) fn cursor(&self, epoch: Epoch) -> Cursor {
        Cursor {
            epoch,
            commit_lsn: Lsn(self.lsn),
            index: self.index,
        }
    }

    fn op(&self) -> Operation {
        match self.op {
            0 => Operation::Insert,
            1 => Operation::Update,
            2 => Operation::Delete,
            _ => Operation::Truncate,
        }
    }
}

/// What has not been read yet.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn text(&mut self, length: u32) -> Option<Option<Arc<str>>> {
        if length == NONE {
            return Some(None);
        }
        let text = std::str::from_utf8(self.take(length as usize)?).ok()?;
        Some(Some(text.into()))
    }

    fn row(&mut self, of: Extent, columns: &Arc<[ColumnMeta]>) -> Option<JsonRow> {
        let mut ends = Rest(self.take(size_of::<u32>() * of.columns as usize)?);
        let json = Bytes::copy_from_slice(self.take(of.json as usize)?);
        let ends = std::iter::from_fn(|| ends.u32());
        Some(JsonRow::from_parts(columns.clone(), json, ends))
    }
}

/// An event on its way into a chunk.
pub(crate) struct Packed<'a> {
    event: &'a RoutedEvent,
    head: Head,
}

impl<'a> Packed<'a> {
    pub(crate) fn new(event: &'a RoutedEvent, number: u64) -> Packed<'a> {
        let head = Head {
            number,
            ..Head::of(event)
        };
        Packed { event, head }
    }

    /// Bytes it takes in a chunk.
    pub(crate) fn bytes(&self) -> usize {
        self.head.total()
    }
}

impl Chunk {
    /// An empty one with room for so many bytes, for events from this one on.
    pub(crate) fn new(room: usize, first: &Packed<'_>, now: Duration) -> Chunk {
        Chunk {
            bytes: Vec::with_capacity(room),
            common: Vec::with_capacity(1),
            apart: 0,
            count: 0,
            number: first.head.number,
            began: now,
            ended: now,
            last: first.event.cursor,
        }
    }

    /// Whether there is room for so many bytes more.
    pub(crate) fn has_room(&self, bytes: usize) -> bool {
        self.bytes.capacity() - self.bytes.len() >= bytes
    }

    /// Bytes kept alive.
    pub(crate) fn cost(&self) -> usize {
        let common = self.common.capacity() * size_of::<Common>();
        size_of::<Chunk>() + self.bytes.capacity() + common + 2 * ALLOCATION + self.apart
    }

    /// Keeps an event behind the others.
    pub(crate) fn push(&mut self, packed: &Packed<'_>, now: Duration) {
        let event = packed.event;
        let recent = self.common.iter().enumerate().rev().take(LOOK_BACK);
        let known = recent
            .into_iter()
            .find(|(_, common)| common.is_of(event))
            .map(|(at, _)| at);
        let at = known.unwrap_or_else(|| {
            let (common, apart) = Common::of(event);
            self.apart += apart;
            self.common.push(common);
            self.common.len() - 1
        });
        let head = Head {
            common: short(at),
            ..packed.head
        };
        let out = &mut self.bytes;
        head.write(out);
        for text in [&event.record_id, &event.old_record_id]
            .into_iter()
            .flatten()
        {
            out.extend_from_slice(text.as_bytes());
        }
        if let Body::Change { new, old, .. } = &event.body {
            for row in [new, old].into_iter().flatten() {
                for end in row.ends() {
                    out.extend_from_slice(&end.to_le_bytes());
                }
                out.extend_from_slice(row.json());
            }
        }
        self.count += 1;
        self.ended = now;
        self.last = event.cursor;
    }

    /// The event that begins at this byte, and where the next one does; `None` behind the last one.
    pub(crate) fn head(&self, at: usize) -> Option<(Head, usize)> {
        let head = Head::read(&mut Rest(self.bytes.get(at..)?))?;
        Some((head, at + head.total()))
    }

    /// Where its events begin, in order.
    pub(crate) fn places(&self) -> impl Iterator<Item = usize> {
        let end = |at: &usize| self.head(*at).map(|(_, end)| end);
        let places = std::iter::successors(Some(0), end);
        places.take(self.count)
    }

    /// The whole event that begins at this byte.
    pub(crate) fn read(&self, at: usize, topic: &Topic) -> Option<RoutedEvent> {
        let mut rest = Rest(self.bytes.get(at..)?);
        let head = Head::read(&mut rest)?;
        let common = self.common.get(head.common as usize)?;
        let record_id = rest.text(head.record_id)?;
        let old_record_id = rest.text(head.old_record_id)?;
        let body = match &common.body {
            Alike::Invalidate => Body::Invalidate,
            Alike::Message(message) => Body::Message(message.clone()),
            Alike::Change {
                new,
                old,
                unchanged,
            } => {
                let mut row = |of: Extent, columns: &Option<Arc<[ColumnMeta]>>| match columns {
                    None => Some(None),
                    Some(columns) => rest.row(of, columns).map(Some),
                };
                Body::Change {
                    new: row(head.new, new)?,
                    old: row(head.old, old)?,
                    unchanged: unchanged.clone(),
                }
            }
        };
        Some(RoutedEvent {
            cursor: head.cursor(self.last.epoch),
            commit_time: Timestamp(head.time),
            topic: topic.clone(),
            audience: common.audience.clone(),
            table: common.table.clone(),
            op: head.op(),
            record_id,
            old_record_id,
            body,
            last: head.last,
        })
    }
}

impl Common {
    /// What is kept of an event by reference, and bytes of it that only this event has. Names of tables, columns
    /// and topics are shared by all, and not counted.
    fn of(event: &RoutedEvent) -> (Common, usize) {
        let masked = event.audience.masked.as_ref();
        let mut apart = masked.map_or(0, |_| size_of::<Masked>() + ALLOCATION);
        let body = match &event.body {
            Body::Invalidate => Alike::Invalidate,
            Body::Message(message) => {
                apart += message.cost() + size_of::<Message>() + 2 * ALLOCATION;
                Alike::Message(message.clone())
            }
            Body::Change {
                new,
                old,
                unchanged,
            } => {
                let columns = |row: &Option<JsonRow>| row.as_ref().map(|row| row.columns().clone());
                Alike::Change {
                    new: columns(new),
                    old: columns(old),
                    unchanged: unchanged.clone(),
                }
            }
        };
        let common = Common {
            table: event.table.clone(),
            audience: event.audience.clone(),
            body,
        };
        (common, apart)
    }

    fn is_of(&self, event: &RoutedEvent) -> bool {
        let (own, other) = (&self.audience, &event.audience);
        let masked = match (&own.masked, &other.masked) {
            (None, None) => true,
            (Some(own), Some(other)) => Arc::ptr_eq(own, other),
            _ => false,
        };
        let columns = |own: &Option<Arc<[ColumnMeta]>>, other: &Option<JsonRow>| match (own, other)
        {
            (None, None) => true,
            (Some(own), Some(other)) => Arc::ptr_eq(own, other.columns()),
            _ => false,
        };
        let body = match (&self.body, &event.body) {
            (Alike::Invalidate, Body::Invalidate) => true,
            (Alike::Message(own), Body::Message(other)) => Arc::ptr_eq(own, other),
            (
                Alike::Change {
                    new,
                    old,
                    unchanged,
                },
                Body::Change {
                    new: other_new,
                    old: other_old,
                    unchanged: other_unchanged,
                },
            ) => columns(new, other_new) && columns(old, other_old) && unchanged == other_unchanged,
            _ => false,
        };
        body && masked
            && self.table == event.table
            && own.user == other.user
            && own.required_roles == other.required_roles
    }
}

#[cfg(test)]
#[path = "chunk_tests.rs"]
mod tests;
