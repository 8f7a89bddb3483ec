//! The events of a transaction on their way out, in order. Owns the `last` flag and the cutting of a
//! large transaction into batches.
//!
//! An event may be the last of its topic until the next one of that topic comes. A transaction that
//! fits into one batch leaves in the order of the log. Of a larger one, each batch holds back the
//! latest event of every topic: on a topic the order stays, between topics it may not.

use rowcast_model::{Audience, Batch, Body, HubOp, Operation, RoutedEvent, TableName, Topic};
use std::sync::Arc;

use hashbrown::{HashMap, HashSet};

use crate::{
    Stats,
    delivery::{About, Head},
    rows::compact,
};

type Told = (Topic, Arc<TableName>, Operation, Option<u64>);

type Map<V> = HashMap<Topic, V, foldhash::fast::RandomState>;

/// What is remembered of a topic whose latest event had to leave early.
#[derive(Debug)]
struct Open {
    table: Arc<TableName>,
    op: Operation,
    audience: Audience,
}

/// Memory of a topic in a map.
const TOPIC_BYTES: usize = 160;

/// So many table-level events are remembered at most.
const MOST_TOLD: usize = 65_536;

/// Events of one transaction that have not left yet.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    ops: Vec<HubOp>,
    bytes: usize,
    /// Where in `ops` the latest event of each topic is, except that of `recent`.
    latest: Map<usize>,
    recent: Option<(Topic, usize)>,
    /// The latest event of topics that have none in `ops`.
    kept: Map<Arc<RoutedEvent>>,
    kept_bytes: usize,
    /// Topics whose latest event left without being called the last.
    open: Map<Open>,
    /// Table-level events that came in already: one says it for the whole transaction.
    told: HashSet<Told, foldhash::fast::RandomState>,
    /// Positions up to here came in already.
    pub(crate) upto: Option<u32>,
    /// What comes in at this position came in before.
    repeating: bool,
    /// Something left or waits to leave.
    pub(crate) used: bool,
    finished: bool,
}

/// Bytes that an operation keeps.
pub(crate) fn op_bytes(op: &HubOp) -> usize {
    let more = match op {
        HubOp::Event(event) => size_of::<RoutedEvent>() + event_bytes(event),
        HubOp::Membership(change) => change.key.len() + 128,
        HubOp::ApiKey(change) => change.id.len() + 256,
        HubOp::Channel(change) => change.pattern.len() + 512,
        HubOp::Namespace(change) => change.namespace.len() + 256,
        HubOp::ClientEvent(change) => change.pattern.len() + 1024,
        HubOp::Revoke(revocation) => revocation.channel.len() + 256,
        HubOp::Rule { .. } => 256,
        _ => 0,
    };
    size_of::<HubOp>() + more
}

fn event_bytes(event: &RoutedEvent) -> usize {
    let rows = match &event.body {
        Body::Change { new, old, .. } => [new, old]
            .into_iter()
            .flatten()
            .map(rowcast_model::JsonRow::cost)
            .sum(),
        Body::Message(message) => message.cost() + 64,
        Body::Invalidate => 0,
    };
    let masked = event.audience.masked.as_ref().map_or(0, |_| 160);
    rows + masked + event.record_id.as_ref().map_or(0, |id| id.len() + 16)
}

impl Outbox {
    /// Bytes held.
    pub(crate) fn held(&self) -> usize {
        let topics = self.latest.len() + self.open.len() + self.told.len();
        self.bytes + self.kept_bytes + topics * TOPIC_BYTES
    }

    /// Whether a batch is due.
    pub(crate) fn is_full(&self, batch_bytes: usize) -> bool {
        self.bytes >= batch_bytes
    }

    /// Takes in what comes next, unless it came in before a reconnect.
    #[inline]
    pub(crate) fn emit(&mut self, index: u32, op: HubOp, stats: &mut Stats) {
        self.emit_part(index, 0, op, stats);
    }

    /// The same for one of several operations at one position; `part` counts them.
    #[inline]
    pub(crate) fn emit_part(&mut self, index: u32, part: usize, op: HubOp, stats: &mut Stats) {
        if part == 0 {
            self.repeating = self.upto.is_some_and(|upto| index <= upto);
            if !self.repeating {
                self.upto = Some(index);
            }
        }
        if let HubOp::Event(event) = &op
            && event.record_id.is_none()
            && event.body == Body::Invalidate
            && event.op != Operation::Truncate
        {
            let masked = event.audience.masked.as_ref();
            let only = masked.and_then(|masked| masked.only);
            let key = (event.topic.clone(), event.table.clone(), event.op, only);
            if !self.told.insert(key) {
                return;
            }
            if self.told.len() > MOST_TOLD {
                // Then some are told twice: better than to hold ever more.
                self.told = HashSet::default();
            }
        }
        if self.repeating {
            stats.repeated += 1;
            return;
        }
        stats.events += u64::from(matches!(op, HubOp::Event(_)));
        self.push(op);
    }

    #[inline]
    fn push(&mut self, op: HubOp) {
        self.used = true;
        if let HubOp::Event(event) = &op {
            self.note(event.topic.clone());
        }
        self.bytes += op_bytes(&op);
        self.ops.push(op);
    }

    /// Notes that the next event is the latest of this topic.
    fn note(&mut self, topic: Topic) {
        if let Some((recent, at)) = &mut self.recent
            && *recent == topic
        {
            *at = self.ops.len();
            return;
        }
        self.flush_recent();
        if !self.kept.is_empty()
            && let Some(event) = self.kept.remove(&topic)
        {
            let op = HubOp::Event(event);
            let bytes = op_bytes(&op);
            self.kept_bytes -= bytes + TOPIC_BYTES;
            self.bytes += bytes;
            self.ops.push(op);
        }
        self.open.remove(&topic);
        self.recent = Some((topic, self.ops.len()));
    }

    fn flush_recent(&mut self) {
        if let Some((topic, at)) = self.recent.take() {
            self.latest.insert(topic, at);
        }
    }

    /// Hands out what is there, holding back the latest event of each topic, within `keep_bytes`.
    pub(crate) fn cut(&mut self, keep_bytes: usize) -> (Vec<HubOp>, usize) {
        self.flush_recent();
        let kept_before = self.kept_bytes;
        let mut out = Vec::with_capacity(self.ops.len());
        for (at, op) in std::mem::take(&mut self.ops).into_iter().enumerate() {
            match op {
                HubOp::Event(event) if self.latest.get(&event.topic) == Some(&at) => {
                    self.keep(event);
                }
                other => out.push(other),
            }
        }
        // The next part is likely to be as long.
        self.ops.reserve(out.len());
        self.latest.clear();
        let newly_kept = self.kept_bytes - kept_before;
        let mut bytes = self.bytes.saturating_sub(newly_kept);
        self.bytes = 0;
        if self.kept_bytes > keep_bytes {
            let kept = self.kept_bytes;
            self.release(&mut out, keep_bytes);
            bytes += kept - self.kept_bytes;
        }
        (out, bytes)
    }

    fn keep(&mut self, mut event: Arc<RoutedEvent>) {
        // Its JSON shares memory with that of other rows: that must not be kept for its sake.
        if let Body::Change { new, old, .. } = &mut Arc::make_mut(&mut event).body {
            for row in [new, old].into_iter().flatten() {
                *row = compact(row);
            }
        }
        let op = HubOp::Event(event);
        self.kept_bytes += op_bytes(&op) + TOPIC_BYTES;
        if let HubOp::Event(event) = op {
            self.kept.insert(event.topic.clone(), event);
        }
    }

    /// Too many topics: lets the older half of what is held back go, and closes those topics at the
    /// end. When even remembering them is too much, their end is told by the commit alone.
    fn release(&mut self, out: &mut Vec<HubOp>, keep_bytes: usize) {
        let mut kept: Vec<Arc<RoutedEvent>> =
            std::mem::take(&mut self.kept).into_values().collect();
        self.kept_bytes = 0;
        kept.sort_by_key(|event| event.cursor.index);
        let later = kept.split_off(kept.len().div_ceil(2));
        for event in kept {
            // An invalidation of its table closes a topic; what is of no table leaves that to the commit.
            let of_a_table = event.as_message().is_none();
            if of_a_table && self.open.len() * TOPIC_BYTES < keep_bytes {
                let open = Open {
                    table: event.table.clone(),
                    op: event.op,
                    audience: event.audience.clone(),
                };
                self.open.insert(event.topic.clone(), open);
            }
            out.push(HubOp::Event(event));
        }
        for event in later {
            self.kept_bytes += op_bytes(&HubOp::Event(event.clone())) + TOPIC_BYTES;
            self.kept.insert(event.topic.clone(), event);
        }
    }

    /// The transaction is complete at `index`: nothing is held back any more.
    pub(crate) fn finish(&mut self, head: Head, index: u32) {
        self.finished = true;
        if !self.used {
            return;
        }
        self.flush_recent();
        for (_, at) in self.latest.drain() {
            if let Some(HubOp::Event(event)) = self.ops.get_mut(at) {
                Arc::make_mut(event).last = true;
            }
        }
        if !self.kept.is_empty() || !self.open.is_empty() {
            let mut kept: Vec<Arc<RoutedEvent>> =
                self.kept.drain().map(|(_, event)| event).collect();
            kept.sort_by_key(|event| event.cursor.index);
            let kept = kept.into_iter().map(|mut event| {
                Arc::make_mut(&mut event).last = true;
                HubOp::Event(event)
            });
            self.ops.splice(0..0, kept);
            self.bytes += std::mem::take(&mut self.kept_bytes);
            let mut open: Vec<(Topic, Open)> = self.open.drain().collect();
            open.sort_by(|(a, _), (b, _)| topic_text(a).cmp(topic_text(b)));
            for (topic, open) in open {
                let about = About {
                    topic,
                    audience: Audience {
                        user: None,
                        ..open.audience
                    },
                    table: &open.table,
                    op: open.op,
                    record_id: None,
                };
                let mut event = head.invalidation(index, about);
                event.last = true;
                let op = HubOp::from(event);
                self.bytes += op_bytes(&op);
                self.ops.push(op);
            }
        }
        self.bytes += size_of::<HubOp>();
        self.ops.push(HubOp::Commit {
            cursor: head.end(),
            commit_time: head.time(),
        });
    }

    /// After [`Outbox::finish`]: the next part of about `batch_bytes`, its bytes, and whether it is
    /// the last.
    pub(crate) fn rest(&mut self, batch_bytes: usize) -> (Vec<HubOp>, usize, bool) {
        if self.bytes < batch_bytes {
            return (
                std::mem::take(&mut self.ops),
                std::mem::take(&mut self.bytes),
                true,
            );
        }
        let mut bytes = 0;
        let fits = self
            .ops
            .iter()
            .position(|op| {
                bytes += op_bytes(op);
                bytes >= batch_bytes
            })
            .map_or(self.ops.len(), |at| at + 1);
        let later = self.ops.split_off(fits);
        let now = std::mem::replace(&mut self.ops, later);
        self.bytes = self.bytes.saturating_sub(bytes);
        (now, bytes, self.ops.is_empty())
    }

    /// Whether [`Outbox::finish`] was called.
    pub(crate) fn is_finished(&self) -> bool {
        self.finished
    }
}

fn topic_text(topic: &Topic) -> &str {
    match topic {
        Topic::Org(org) => org.as_str(),
        Topic::AllOrgs => "",
        Topic::Channel(_, name) => name,
        Topic::User(user) => user.as_str(),
    }
}

/// A part of a transaction.
pub(crate) fn batch(xid: Option<u32>, ops: Vec<HubOp>, bytes: usize) -> Batch {
    Batch {
        xid,
        ops,
        bytes,
        ack: None,
    }
}

/// What is told between transactions.
pub(crate) fn news(ops: Vec<HubOp>) -> Batch {
    let bytes = ops.iter().map(op_bytes).sum();
    batch(None, ops, bytes)
}
