//! The way through routing: source events in, batches out.

use std::collections::VecDeque;

use rowcast_model::{Batch, Cursor, Epoch, HubOp, Lsn, Operation, SourceEvent, TxHeader, WalItem};

use crate::{
    Catalog, MembershipSource, RoutingError, Stats,
    delivery::Head,
    live,
    message::LogMessage,
    outbox::{Outbox, batch, news},
    plan::Row,
    plans::{Own, Plans},
    saying::Saying,
    statement::Context,
    transaction::Transaction,
};

/// The prefix of the messages that the triggers write.
const PREFIX: &str = "rowcast";

/// So many unusable configuration rows are remembered for the service's log.
const MOST_PROBLEMS: usize = 16;

/// How much memory routing may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one transaction that may be held while its table events have not come.
    pub transaction_bytes: usize,
    /// A transaction is handed on in parts of about this many bytes.
    pub batch_bytes: usize,
}

impl Default for Limits {
    /// 64 MiB and 256 KiB.
    fn default() -> Self {
        Limits {
            transaction_bytes: 64 << 20,
            batch_bytes: 256 << 10,
        }
    }
}

/// Where the stream is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    /// Between transactions.
    Between,
    /// In a transaction that is routed.
    Inside,
    /// In a transaction that was handed on before a reconnect.
    Repeat,
}

/// Turns what the source says into what the hub does.
#[derive(Debug)]
pub struct Router {
    limits: Limits,
    catalog: Catalog,
    plans: Plans,
    epoch: Option<Epoch>,
    at: At,
    tx: Transaction,
    /// Commit position of the last transaction that was handed on as a whole.
    done: Option<Lsn>,
    /// A transaction that a reconnect cut off, with what it handed on so far.
    cut_off: Option<(Head, Outbox)>,
    /// The last position told while nothing happened.
    idle: Lsn,
    ready: VecDeque<Batch>,
    stats: Stats,
    problems: Vec<RoutingError>,
    reload: Option<MembershipSource>,
}

impl Router {
    /// A router that knows this configuration.
    pub fn new(limits: Limits, catalog: Catalog) -> Router {
        let nothing = Head {
            epoch: Epoch(0),
            tx: TxHeader {
                xid: 0,
                commit_lsn: Lsn::ZERO,
                commit_time: rowcast_model::Timestamp(0),
            },
        };
        Router {
            limits,
            catalog,
            plans: Plans::default(),
            epoch: None,
            at: At::Between,
            tx: Transaction::new(nothing),
            done: None,
            cut_off: None,
            idle: Lsn::ZERO,
            ready: VecDeque::new(),
            stats: Stats::default(),
            problems: Vec::new(),
            reload: None,
        }
    }

    /// Takes in the next event of the source. Call [`Router::take_batch`] until it gives nothing.
    pub fn apply(&mut self, event: SourceEvent) {
        match event {
            SourceEvent::Start { epoch, reason } => self.start(epoch, reason),
            SourceEvent::Begin(tx) => self.begin(tx),
            SourceEvent::Item { item, bytes } => {
                if self.at == At::Inside && !self.tx.is_complete() {
                    self.item(item, bytes as usize);
                    self.tx.keep_within(self.limits, &mut self.stats);
                }
            }
            SourceEvent::Commit { end_lsn } => self.commit(end_lsn),
            SourceEvent::Idle { lsn } => self.idle(lsn),
        }
    }

    /// The next batch for the hub, in order.
    pub fn take_batch(&mut self) -> Option<Batch> {
        if let Some(ready) = self.ready.pop_front() {
            return Some(ready);
        }
        if self.at != At::Inside {
            return None;
        }
        let (batch, done) = self.tx.next_batch(self.limits, &mut self.stats)?;
        if done {
            self.at = At::Between;
            self.done = Some(self.tx.head.tx.commit_lsn);
            self.stats.transactions += 1;
        }
        Some(batch)
    }

    /// What was counted, and what is held.
    pub fn stats(&self) -> Stats {
        let (bytes, changes) = match self.at {
            At::Inside => (self.tx.held(), self.tx.held_changes()),
            At::Between | At::Repeat => (0, 0),
        };
        let cut_off = self.cut_off.as_ref().map_or(0, |(_, outbox)| outbox.held());
        let ready: usize = self.ready.iter().map(|batch| batch.bytes).sum();
        Stats {
            pending_bytes: bytes + cut_off + ready,
            pending_changes: changes,
            ..self.stats
        }
    }

    /// The configuration as the log says it is now.
    pub fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    /// Configuration rows that could not be used since the last call, for the log of the service.
    pub fn take_problems(&mut self) -> Vec<RoutingError> {
        std::mem::take(&mut self.problems)
    }

    /// Memberships are read from another table from here on: its present rows are not in the log, so
    /// the caller selects them and hands them to the hub as membership changes.
    pub fn take_reload(&mut self) -> Option<MembershipSource> {
        self.reload.take()
    }

    /// Moves what is due of a complete transaction to `ready`, before something else comes.
    fn drain(&mut self) {
        while self.at == At::Inside && self.tx.is_complete() {
            let Some((batch, done)) = self.tx.next_batch(self.limits, &mut self.stats) else {
                return;
            };
            self.ready.push_back(batch);
            if done {
                self.at = At::Between;
                self.done = Some(self.tx.head.tx.commit_lsn);
                self.stats.transactions += 1;
            }
        }
    }

    fn start(&mut self, epoch: Epoch, reason: Option<std::sync::Arc<str>>) {
        self.drain();
        let known = self.epoch.replace(epoch);
        let reason = match (reason, known) {
            (Some(reason), _) => Some(reason),
            (None, Some(known)) if known != epoch => {
                Some("the positions of the log changed".into())
            }
            _ => None,
        };
        if let Some(reason) = reason {
            self.done = None;
            self.cut_off = None;
            self.idle = Lsn::ZERO;
            let ops = vec![HubOp::NewEpoch { epoch, reason }];
            self.ready.push_back(news(ops));
        } else if self.at == At::Inside {
            let outbox = std::mem::take(&mut self.tx.outbox);
            self.cut_off = outbox.used.then_some((self.tx.head, outbox));
        }
        self.at = At::Between;
    }

    fn begin(&mut self, tx: TxHeader) {
        self.drain();
        if self.done.is_some_and(|done| tx.commit_lsn <= done) {
            self.at = At::Repeat;
            return;
        }
        let head = Head {
            epoch: self.epoch.unwrap_or_default(),
            tx,
        };
        let mut outbox = Outbox::default();
        if let Some((before, cut_off)) = self.cut_off.take() {
            match before.tx.commit_lsn.cmp(&tx.commit_lsn) {
                std::cmp::Ordering::Equal => outbox = cut_off,
                std::cmp::Ordering::Greater => self.cut_off = Some((before, cut_off)),
                // It never came again: what is held back of it still has to go out.
                std::cmp::Ordering::Less => self.finish_cut_off(before, cut_off),
            }
        }
        self.tx.begin(head, outbox);
        self.at = At::Inside;
    }

    fn finish_cut_off(&mut self, head: Head, mut outbox: Outbox) {
        let after = outbox.upto.map_or(0, |upto| upto.saturating_add(1));
        outbox.finish(head, after);
        loop {
            let (ops, bytes, last) = outbox.rest(self.limits.batch_bytes);
            self.ready.push_back(batch(Some(head.tx.xid), ops, bytes));
            if last {
                return;
            }
        }
    }

    fn commit(&mut self, end_lsn: Lsn) {
        match self.at {
            At::Between => {}
            At::Inside => {
                let mut context = Context {
                    plans: &self.plans,
                    stats: &mut self.stats,
                };
                self.tx.end_nameless(&mut context);
                self.tx.commit(end_lsn);
            }
            At::Repeat => {
                self.at = At::Between;
                self.acknowledge(Vec::new(), end_lsn);
            }
        }
    }

    fn idle(&mut self, lsn: Lsn) {
        self.drain();
        if self.at == At::Inside || lsn <= self.idle {
            return;
        }
        self.idle = lsn;
        // The next transaction may commit at this very position: the one before it is the last known.
        let before = |epoch| Cursor::before(epoch, lsn);
        let is_news = |cursor: &Cursor| self.done.is_none_or(|done| cursor.commit_lsn > done);
        let ops = match self.epoch.map(before).filter(is_news) {
            Some(cursor) => vec![HubOp::Position(cursor)],
            None => Vec::new(),
        };
        self.acknowledge(ops, lsn);
    }

    fn acknowledge(&mut self, ops: Vec<HubOp>, lsn: Lsn) {
        let mut next = news(ops);
        next.ack = Some(lsn);
        self.ready.push_back(next);
    }

    fn item(&mut self, item: WalItem, bytes: usize) {
        match item {
            WalItem::Change(change) => {
                let plan = self.plans.of(&self.catalog, &change.relation);
                let positions = match change.op {
                    Operation::Update => 2,
                    _ => 1,
                };
                let index = self.tx.take_positions(positions);
                let mut context = Context {
                    plans: &self.plans,
                    stats: &mut self.stats,
                };
                if let Some(Own::Events(columns)) = &plan.own {
                    self.tx.pairing.end_loose(None);
                    let new = change
                        .new
                        .as_ref()
                        .filter(|_| change.op == Operation::Insert);
                    let Some(new) = new else { return };
                    let Some(row) = columns.read(new) else {
                        context.stats.malformed += 1;
                        return;
                    };
                    let rule = match row.relation {
                        Some(id) => self.catalog.table(id),
                        None => self.catalog.table_named(row.schema, row.table),
                    };
                    return self.tx.event_row(&mut context, rule, &row, index);
                }
                self.tx.end_nameless(&mut context);
                if let Some(own) = &plan.own {
                    let effects = live::changed(&mut self.catalog, own, &change);
                    if let Some(problem) = effects.problem {
                        self.note(problem);
                    }
                    self.reload = effects.reload.or(self.reload.take());
                    self.tell(index, effects.ops);
                }
                if plan.memberships {
                    let ops = live::membership_changed(self.catalog.membership_source(), &change);
                    self.tell(index, ops);
                }
                match &plan.data {
                    Some(data) => self.tx.change(data, Row::from_change(change), index, bytes),
                    None => self.tx.pairing.end_loose(None),
                }
            }
            WalItem::Truncate(relations) => {
                self.between_statements();
                for relation in relations {
                    let plan = self.plans.of(&self.catalog, &relation);
                    let index = self.tx.take_positions(1);
                    let cleared = plan
                        .own
                        .as_ref()
                        .and_then(|own| live::truncated(&mut self.catalog, own));
                    let memberships = plan.memberships.then_some(HubOp::MembershipsCleared);
                    self.tell(index, cleared.into_iter().chain(memberships).collect());
                }
            }
            WalItem::Message { prefix, content } => {
                self.between_statements();
                let ours = *prefix == *PREFIX;
                if !ours || Saying::is_one(&content) {
                    let index = self.tx.take_positions(1);
                    if ours {
                        self.say(index, &content);
                    }
                    return;
                }
                let message = LogMessage::parse(&content);
                let positions = message.as_ref().map_or(1, LogMessage::positions);
                let index = self.tx.take_positions(positions);
                let Some(message) = message else {
                    self.stats.malformed += 1;
                    return;
                };
                let mut context = Context {
                    plans: &self.plans,
                    stats: &mut self.stats,
                };
                match self.catalog.table(rowcast_model::RelationId(message.t)) {
                    Some(rule) => self.tx.message(&mut context, rule, &message, index),
                    None => context.stats.unmapped += 1,
                }
            }
        }
    }

    /// What an application says by `rowcast.broadcast` and the like.
    fn say(&mut self, index: u32, content: &[u8]) {
        match Saying::parse(content) {
            Some(saying) => {
                let op = saying.into_op(self.tx.head, index);
                self.tell(index, vec![op]);
            }
            None => self.stats.malformed += 1,
        }
    }

    fn between_statements(&mut self) {
        self.tx.pairing.end_loose(None);
        let mut context = Context {
            plans: &self.plans,
            stats: &mut self.stats,
        };
        self.tx.end_nameless(&mut context);
    }

    fn tell(&mut self, index: u32, ops: Vec<HubOp>) {
        self.tx.tell(index, ops.into_iter().map(Box::new).collect());
    }

    fn note(&mut self, problem: RoutingError) {
        self.stats.malformed += 1;
        if self.problems.len() < MOST_PROBLEMS {
            self.problems.push(problem);
        }
    }
}
