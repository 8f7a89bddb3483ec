//! Holding back all but the latest event of each record, for subscribers who asked for that.
//!
//! Pure. An event replaces what is held of its record only if nothing is lost by that: a subscriber
//! who puts every INSERT and UPDATE in place of the record of that key, and removes on DELETE, ends
//! with the same rows as one who got every event. So an UPDATE that leaves out unchanged values, or
//! that may have changed the key, is kept beside what was held before. Events leave in the order of
//! their positions.

use std::sync::Arc;

use hashbrown::HashMap;
use rowcast_model::{Body, ColumnMeta, JsonRow, Operation, RoutedEvent, TableName};
use rowcast_wire::Frame;

/// What an entry costs besides its bytes.
const ENTRY_BYTES: usize = 160;

/// A record as one subscription sees it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct RecordKey {
    /// The subscription.
    pub generation: u64,
    pub table: Arc<TableName>,
    pub record_id: Arc<str>,
}

/// Events held back for one connection.
#[derive(Default)]
pub(crate) struct Latest {
    order: Vec<Held>,
    by_record: HashMap<RecordKey, Vec<usize>, foldhash::fast::RandomState>,
    bytes: usize,
}

struct Held {
    generation: u64,
    /// `None` when a later event took its place.
    frame: Option<Frame>,
}

/// What an event does to what is held of its record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Takes the place of all that is held, and may be replaced itself.
    Replace,
    /// Is kept beside what is held; all of it may be replaced.
    Add,
    /// Is sent whatever comes later.
    Keep,
}

impl Latest {
    pub(crate) fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Holds a frame back.
    pub(crate) fn hold(
        &mut self,
        key: Option<RecordKey>,
        generation: u64,
        effect: Effect,
        frame: Frame,
    ) {
        let at = self.order.len();
        self.bytes += frame.len() + ENTRY_BYTES;
        match (key, effect) {
            (Some(key), Effect::Add | Effect::Replace) => {
                let held = self.by_record.entry(key).or_default();
                if effect == Effect::Replace {
                    for old in held.drain(..) {
                        let old = self.order.get_mut(old).and_then(|held| held.frame.take());
                        self.bytes -= old.map_or(0, |frame| frame.len());
                    }
                }
                held.push(at);
            }
            // It may speak of any record of the table, so nothing before it can be replaced any more.
            (Some(key), Effect::Keep) => self
                .by_record
                .retain(|held, _| held.generation != generation || held.table != key.table),
            (None, _) => {}
        }
        self.order.push(Held {
            generation,
            frame: Some(frame),
        });
    }

    /// Forgets what is held for an ended subscription.
    pub(crate) fn forget(&mut self, generation: u64) {
        for held in &mut self.order {
            if held.generation == generation {
                let gone = held.frame.take();
                self.bytes -= gone.map_or(0, |frame| frame.len());
            }
        }
        self.by_record.retain(|key, _| key.generation != generation);
    }

    /// All that is held, in order.
    pub(crate) fn take(&mut self) -> impl Iterator<Item = Frame> {
        self.by_record = HashMap::default();
        self.bytes = 0;
        std::mem::take(&mut self.order)
            .into_iter()
            .filter_map(|held| held.frame)
    }
}

/// How an event treats what is held of its record.
pub(crate) fn effect(event: &RoutedEvent) -> Effect {
    let Some(record_id) = &event.record_id else {
        return Effect::Keep;
    };
    if event.old_record_id.is_some() {
        // It speaks of two records.
        return Effect::Keep;
    }
    match &event.body {
        Body::Message(_) => Effect::Keep,
        Body::Invalidate => Effect::Replace,
        Body::Change {
            new,
            old,
            unchanged,
        } => match event.op {
            Operation::Update => match (new, old) {
                (Some(new), Some(old)) if !key_may_have_changed(record_id, new, old) => {
                    match unchanged.is_empty() {
                        true => Effect::Replace,
                        false => Effect::Add,
                    }
                }
                _ => Effect::Keep,
            },
            _ => Effect::Replace,
        },
    }
}

/// Whether an UPDATE may have given the record another id. Which columns the id is made of is not
/// known here, so every column whose value is the id, or a part of it, is looked at.
fn key_may_have_changed(record_id: &str, new: &JsonRow, old: &JsonRow) -> bool {
    let parts: Vec<String> = match serde_json::from_str(record_id) {
        Ok(parts) => parts,
        Err(_) => vec![record_id.to_owned()],
    };
    let same = |name: &str, json: &[u8]| old.get(name).is_some_and(|(_, before)| before == json);
    let whole = |(column, json): (&ColumnMeta, &[u8])| {
        is_text_of(record_id, json) && !same(&column.name, json)
    };
    new.present().any(whole)
        || parts.iter().any(|part| {
            let mut candidates = new
                .present()
                .filter(|(_, json)| is_text_of(part, json))
                .map(|(column, json)| same(&column.name, json))
                .peekable();
            candidates.peek().is_none() || candidates.any(|same| !same)
        })
}

fn is_text_of(text: &str, json: &[u8]) -> bool {
    match json {
        [b'"', inner @ .., b'"'] if !inner.contains(&b'\\') => inner == text.as_bytes(),
        [b'"', ..] => serde_json::from_slice::<String>(json).is_ok_and(|value| value == text),
        b"true" => text == "t" || text == "true",
        b"false" => text == "f" || text == "false",
        plain => plain == text.as_bytes(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::BytesMut;
    use rowcast_model::{JsonRowBuilder, Kind};

    fn row(values: &[(&str, &str)]) -> JsonRow {
        let meta = |(name, _): &(&str, &str)| ColumnMeta::new((*name).into(), Kind::Text);
        let mut buffer = BytesMut::new();
        let mut builder = JsonRowBuilder::new(values.iter().map(meta).collect(), &mut buffer);
        for (_, json) in values {
            builder.column(|out| out.extend_from_slice(json.as_bytes()));
        }
        builder.finish()
    }

    #[test]
    fn a_key_counts_as_changed_unless_it_is_seen_to_be_the_same() {
        let changed = |id: &str, new: &[(&str, &str)], old: &[(&str, &str)]| {
            key_may_have_changed(id, &row(new), &row(old))
        };
        let new = [("a", "\"x\""), ("b", "2"), ("c", "\"new\"")];
        assert!(!changed("x", &new, &[("a", "\"x\"")]));
        assert!(!changed("x", &new, &[("a", "\"x\""), ("c", "\"old\"")]));
        assert!(changed("x", &new, &[("a", "\"y\"")]));
        // The key column is not shown, or not recognised.
        assert!(changed("z", &new, &[("a", "\"x\"")]));
        // Two columns.
        let both = r#"["x","2"]"#;
        assert!(!changed(both, &new, &[("a", "\"x\""), ("b", "2")]));
        assert!(changed(both, &new, &[("a", "\"x\""), ("b", "1")]));
        assert!(changed(both, &new, &[("a", "\"x\"")]));
        // A text that looks like two keys.
        let odd = [("a", r#""[\"x\"]""#), ("b", "\"x\"")];
        assert!(changed(r#"["x"]"#, &odd, &[("a", "\"y\""), ("b", "\"x\"")]));
    }
}
