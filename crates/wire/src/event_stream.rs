//! Server-sent events: the frames of a socket as lines of text, without writing their JSON anew.
//!
//! The hub hands everybody the same bytes: complete WebSocket frames. For an event stream the header of each is
//! left out, `id: <cursor>` and `data: ` are put in front, and an empty line behind; the JSON between is
//! the shared one. Owns where in a frame the socket stopped taking bytes, and the text of the ids. Pure: says
//! what to write ([`EventStream::plan`]) and takes note of how much was ([`EventStream::written`]).

use std::ops::Range;

use rowcast_model::Cursor;

use crate::{CursorList, Frame, payload_of};

/// Frames of one write at most.
const FRAMES: usize = 64;
/// What stands behind a frame.
const END: &[u8] = b"\n\n";
/// Frames that have a cursor of their own. Others may hold what somebody said, and in it what looks like one.
const POSITIONED: [&[u8]; 9] = [
    b"postgres_changes\"",
    b"invalidate\"",
    b"broadcast\"",
    b"data\"",
    b"subscribed\"",
    b"commit\"",
    b"position\"",
    b"recovered\"",
    b"resync\"",
];
/// What every frame begins with.
const TYPE: &[u8] = br#"{"type":""#;
/// What stands before the cursor in those frames. Inside a JSON string the quotes would be escaped,
/// and none of them has an object behind its own cursor: so the last one found is it.
const CURSOR: &[u8] = br#","cursor":""#;
const CHANNEL: &[u8] = br#","channel":"#;

/// How far the stream of one client is.
#[derive(Debug, Default)]
pub struct EventStream {
    /// Goes out in front of the first frame.
    preface: Vec<u8>,
    /// The frame whose beginning was written.
    open: Option<Open>,
    /// Of a stream with several channels: their names as JSON, and where each is.
    channels: Vec<String>,
    places: CursorList,
}

/// The rest of a frame.
#[derive(Debug)]
struct Open {
    /// Text that goes before its JSON.
    owed: Vec<u8>,
    /// Bytes of JSON that do not count as written yet. The last one counts with the end behind it: as long as
    /// something is missing, the outbox has something to write.
    left: usize,
    /// Bytes beyond those that count: that last one, and of the end.
    beyond: usize,
}

/// What to write next.
#[derive(Debug, Default)]
pub struct Plan<'a> {
    text: Vec<u8>,
    pieces: Vec<Piece<'a>>,
    units: Vec<Unit>,
}

#[derive(Debug)]
enum Piece<'a> {
    Own(Range<usize>),
    Shared(&'a [u8]),
}

/// One frame of a plan.
#[derive(Debug)]
struct Unit {
    prefix: Range<usize>,
    header: usize,
    body: usize,
    beyond: usize,
    moved: Option<(Option<usize>, Cursor)>,
}

impl Plan<'_> {
    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.units.is_empty()
    }

    /// The bytes, piece by piece.
    pub fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        self.pieces.iter().map(|piece| match piece {
            Piece::Own(range) => self.text.get(range.clone()).unwrap_or_default(),
            Piece::Shared(bytes) => bytes,
        })
    }
}

impl EventStream {
    /// A stream to these channels that goes on behind `places`; `preface` goes out in front of everything.
    pub fn new(preface: Vec<u8>, channels: &[String], places: CursorList) -> EventStream {
        let several = channels.len() > 1;
        let named = channels.iter().filter(|_| several);
        EventStream {
            preface,
            open: None,
            channels: named
                .map(|name| serde_json::Value::from(name.as_str()).to_string())
                .collect(),
            places,
        }
    }

    /// The preface, if it was not sent.
    pub fn take_preface(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.preface)
    }

    /// What to write of `source`: whole frames, but for the first, whose beginning may have been written before.
    /// Empty when that is not what comes.
    pub fn plan<'a>(&self, source: impl IntoIterator<Item = &'a [u8]>) -> Plan<'a> {
        let mut plan = Plan {
            text: self.preface.clone(),
            ..Plan::default()
        };
        let mut open = self.open.as_ref();
        let mut places = self.places.clone();
        let mut begin = 0;
        for mut bytes in source {
            while !bytes.is_empty() {
                if plan.units.len() == FRAMES {
                    return plan;
                }
                let (unit, body, rest) = match open.take() {
                    Some(open) => {
                        let Some((body, rest)) = bytes.split_at_checked(open.left) else {
                            return plan;
                        };
                        plan.text.extend_from_slice(&open.owed);
                        let unit = (0, open.beyond, None);
                        (unit, body, rest)
                    }
                    None => {
                        let Some((body, rest)) = payload_of(bytes) else {
                            return plan;
                        };
                        let moved = self.moved_by(body);
                        write_prefix(&mut plan.text, &mut places, moved.as_ref());
                        let header = bytes.len() - rest.len() - body.len();
                        ((header, 0, moved), body, rest)
                    }
                };
                if body.is_empty() {
                    return plan;
                }
                let (header, beyond, moved) = unit;
                let prefix = begin..plan.text.len();
                plan.piece(Piece::Own(prefix.clone()));
                plan.body(body, beyond);
                begin = plan.text.len();
                plan.units.push(Unit {
                    prefix,
                    header,
                    body: body.len(),
                    beyond,
                    moved,
                });
                bytes = rest;
            }
        }
        plan
    }

    /// So many bytes of a plan were written. Returns how many of the source that are.
    pub fn written(&mut self, plan: &Plan<'_>, mut bytes: usize) -> usize {
        let mut consumed = 0;
        for unit in &plan.units {
            if bytes == 0 {
                break;
            }
            self.preface = Vec::new();
            self.open = None;
            if let Some((channel, cursor)) = unit.moved {
                self.places.set(channel, cursor);
            }
            consumed += unit.header;
            let prefix = unit.prefix.len();
            let whole = prefix + unit.body + END.len() - unit.beyond;
            if bytes >= whole {
                bytes -= whole;
                consumed += unit.body;
                continue;
            }
            let behind = (bytes + unit.beyond).saturating_sub(prefix);
            let counts = behind.min(unit.body - 1);
            consumed += counts;
            let owed = unit.prefix.start + bytes.min(prefix)..unit.prefix.end;
            self.open = Some(Open {
                owed: plan.text.get(owed).unwrap_or_default().to_vec(),
                left: unit.body - counts,
                beyond: behind - counts,
            });
            break;
        }
        consumed
    }

    /// Where a frame moves which channel to; no channel: all of them.
    fn moved_by(&self, json: &[u8]) -> Option<(Option<usize>, Cursor)> {
        let kind = json.strip_prefix(TYPE)?;
        if !POSITIONED.iter().any(|known| kind.starts_with(known)) {
            return None;
        }
        let (before, cursor) = last_after(json, CURSOR)?;
        let end = cursor.iter().position(|byte| *byte == b'"')?;
        let cursor = std::str::from_utf8(cursor.get(..end)?).ok()?.parse().ok()?;
        if self.channels.is_empty() {
            return Some((None, cursor));
        }
        let Some((_, name)) = last_after(before, CHANNEL) else {
            return Some((None, cursor));
        };
        let is = |channel: &String| {
            let rest = name.strip_prefix(channel.as_bytes());
            rest.is_some_and(|rest| rest.first().is_none_or(|next| *next == b','))
        };
        let at = self.channels.iter().position(is)?;
        Some((Some(at), cursor))
    }
}

impl<'a> Plan<'a> {
    fn piece(&mut self, piece: Piece<'a>) {
        if !matches!(&piece, Piece::Own(range) if range.is_empty()) {
            self.pieces.push(piece);
        }
    }

    /// The JSON and its end, behind the bytes of them that were written before.
    fn body(&mut self, json: &'a [u8], beyond: usize) {
        let json = json.get(beyond..).unwrap_or_default();
        // Between the tokens of a JSON text lines may end as its writer liked it; here that would end the event.
        let ends_line = |byte: &u8| matches!(byte, b'\n' | b'\r');
        match json.iter().fold(false, |any, byte| any | ends_line(byte)) {
            false => self.pieces.push(Piece::Shared(json)),
            true => {
                let start = self.text.len();
                let spaced = json.iter().map(|byte| match ends_line(byte) {
                    true => b' ',
                    false => *byte,
                });
                self.text.extend(spaced);
                self.piece(Piece::Own(start..self.text.len()));
            }
        }
        let end = END.get(beyond.saturating_sub(1)..).unwrap_or_default();
        self.pieces.push(Piece::Shared(end));
    }
}

/// The lines before the JSON. Where not every channel has a place yet, no id could tell where to go on.
fn write_prefix(
    text: &mut Vec<u8>,
    places: &mut CursorList,
    moved: Option<&(Option<usize>, Cursor)>,
) {
    if let Some((channel, cursor)) = moved {
        places.set(*channel, *cursor);
        if let Some(id) = places.id() {
            text.extend_from_slice(b"id: ");
            text.extend_from_slice(id.as_bytes());
            text.push(b'\n');
        }
    }
    text.extend_from_slice(b"data: ");
}

/// What stands before and behind the last place where `what` is found.
fn last_after<'a>(json: &'a [u8], what: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    let last = json.len().checked_sub(what.len())?;
    let at = (0..=last).rev().find(|at| {
        let here = json.get(*at..).unwrap_or_default();
        here.starts_with(what)
    })?;
    Some((json.get(..at)?, json.get(at + what.len()..)?))
}

/// One frame as an event without an id; for what is said when the stream is at its end.
pub fn event_of(frame: &Frame) -> Vec<u8> {
    let json = payload_of(frame).map_or(&[][..], |(json, _)| json);
    [b"data: ", json, END].concat()
}

#[cfg(test)]
mod tests;
