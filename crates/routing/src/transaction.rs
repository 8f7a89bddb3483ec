//! The transaction that is coming in: positions, table events, and what leaves. Owns the order: events
//! leave in the order of their positions, and a position depends on the log alone.

use std::sync::Arc;

use rowcast_model::{Batch, HubOp, Lsn, Operation, RelationId};
use smallvec::SmallVec;

use crate::{
    Limits, Stats,
    changed::Changed,
    delivery::{About, Deliverer, Head},
    intern::Intern,
    outbox::{Outbox, batch, news},
    pairing::Pairing,
    plan::{DataPlan, Row},
    queue::{Delivery, Slot, State, Target},
    statement::{BulkRun, Nameless},
};

/// One transaction on its way through.
#[derive(Debug)]
pub(crate) struct Transaction {
    pub(crate) head: Head,
    /// The next position.
    index: u32,
    pub(crate) pairing: Pairing,
    pub(crate) outbox: Outbox,
    pub(crate) deliverer: Deliverer,
    pub(crate) intern: Intern,
    /// Rows of `realtime_table_events` of one statement that say the same of several organizations.
    pub(crate) bulk: Option<BulkRun>,
    /// Rows of `realtime_table_events` of one statement on a table without a key.
    pub(crate) nameless: Nameless,
    /// The transaction is complete; acknowledge this.
    end: Option<Lsn>,
}

impl Transaction {
    pub(crate) fn new(head: Head) -> Transaction {
        Transaction {
            head,
            index: 0,
            pairing: Pairing::default(),
            outbox: Outbox::default(),
            deliverer: Deliverer::default(),
            intern: Intern::default(),
            bulk: None,
            nameless: Nameless::default(),
            end: None,
        }
    }

    /// Starts the next transaction, with the memory of the one before.
    pub(crate) fn begin(&mut self, head: Head, outbox: Outbox) {
        self.head = head;
        self.index = 0;
        self.pairing.clear();
        self.outbox = outbox;
        self.bulk = None;
        self.nameless = Nameless::default();
        self.end = None;
    }

    /// Takes `count` positions; gives the first.
    pub(crate) fn take_positions(&mut self, count: u32) -> u32 {
        let at = self.index;
        self.index = self.index.saturating_add(count).min(u32::MAX - 1);
        at
    }

    /// Bytes held.
    pub(crate) fn held(&self) -> usize {
        self.pairing.queue.bytes() + self.outbox.held() + self.nameless.bytes()
    }

    /// Changes held.
    pub(crate) fn held_changes(&self) -> usize {
        self.pairing.queue.len()
    }

    /// A change of a tracked table.
    pub(crate) fn change(&mut self, plan: &Arc<DataPlan>, row: Row, index: u32, bytes: usize) {
        self.pairing.add(plan, row, index, bytes);
    }

    /// Puts something that is ready into the order.
    pub(crate) fn tell(&mut self, index: u32, ops: SmallVec<[Box<HubOp>; 1]>) {
        if ops.is_empty() {
            return;
        }
        let cost = ops.iter().map(|op| crate::outbox::op_bytes(op)).sum();
        self.pairing.queue.push(Slot {
            index,
            twin: false,
            wanted: false,
            cost,
            change: None,
            state: State::Told(ops),
        });
    }

    /// Puts an event without row data into the order.
    pub(crate) fn invalidate(&mut self, index: u32, about: About<'_>) {
        let event = self.head.invalidation(index, about);
        self.tell(index, SmallVec::from_elem(Box::new(HubOp::from(event)), 1));
    }

    /// Keeps to the budget: what blocks the order is given up first.
    pub(crate) fn keep_within(&mut self, limits: Limits, stats: &mut Stats) {
        while self.held() > limits.transaction_bytes {
            match self.pairing.shed_oldest() {
                Some(count) => stats.shed += count,
                None => break,
            }
        }
    }

    /// Everything came in.
    pub(crate) fn commit(&mut self, end_lsn: Lsn) {
        self.pairing.end_loose(None);
        self.end = Some(end_lsn);
    }

    /// Whether everything came in.
    pub(crate) fn is_complete(&self) -> bool {
        self.end.is_some()
    }

    /// The next batch, if one is due. With the last batch of a complete transaction comes `true`.
    pub(crate) fn next_batch(
        &mut self,
        limits: Limits,
        stats: &mut Stats,
    ) -> Option<(Batch, bool)> {
        let xid = Some(self.head.tx.xid);
        while !self.outbox.is_finished() {
            while !self.outbox.is_full(limits.batch_bytes) && self.step(stats) {}
            if !self.outbox.is_full(limits.batch_bytes) {
                break;
            }
            let (ops, bytes) = self.outbox.cut(limits.transaction_bytes / 4);
            // Everything may have been held back: then go on, there is room again.
            if !ops.is_empty() {
                return Some((batch(xid, ops, bytes), false));
            }
        }
        let end = self.end?;
        if !self.outbox.is_finished() {
            self.outbox.finish(self.head, self.index);
        }
        if !self.outbox.used {
            let mut nothing = news(vec![HubOp::Position(self.head.end())]);
            nothing.ack = Some(end);
            return Some((nothing, true));
        }
        let (ops, bytes, done) = self.outbox.rest(limits.batch_bytes);
        let mut next = batch(xid, ops, bytes);
        next.ack = done.then_some(end);
        Some((next, done))
    }

    /// Moves the oldest slot on; `false` when it cannot move.
    fn step(&mut self, stats: &mut Stats) -> bool {
        let complete = self.end.is_some();
        let Some((seq, slot)) = self.pairing.queue.front() else {
            return false;
        };
        match &slot.state {
            State::Waiting if complete => {
                stats.unpaired += u64::from(slot.wanted);
                self.pairing.queue.drop_slot(seq);
                return true;
            }
            State::Waiting => return false,
            State::Half { .. } if !complete => return false,
            _ => {}
        }
        let Some(slot) = self.pairing.queue.pop() else {
            return false;
        };
        match (slot.state, slot.change) {
            (State::Told(ops), _) => {
                for (part, op) in ops.into_iter().enumerate() {
                    self.outbox.emit_part(slot.index, part, *op, stats);
                }
            }
            (State::Paired(delivery), Some((plan, row))) => {
                self.deliver(slot.index, &plan, &row, delivery, stats);
            }
            (State::Half { leave, enter }, Some((plan, row))) => {
                let delivery = Delivery::Moved { leave, enter };
                self.deliver(slot.index, &plan, &row, delivery, stats);
            }
            _ => {}
        }
        true
    }

    fn deliver(
        &mut self,
        index: u32,
        plan: &DataPlan,
        row: &Row,
        delivery: Delivery,
        stats: &mut Stats,
    ) {
        let outbox = &mut self.outbox;
        self.deliverer
            .deliver(self.head, index, plan, row, delivery, outbox, stats);
    }

    /// The place that a table event names.
    pub(crate) fn target(&mut self, org: &str, user: Option<&str>, changed: Changed) -> Target {
        Target {
            org: self.intern.org(org),
            user: user.map(|user| self.intern.user(user)),
            changed,
        }
    }

    /// Gives up the changes of a statement whose events are told for the whole table.
    pub(crate) fn give_up_last(&mut self, relation: RelationId, op: Operation, rows: u64) {
        if let crate::pairing::Taken::All(units) = self.pairing.take_last(relation, op, rows) {
            for unit in units {
                self.pairing.give_up(unit);
            }
        }
    }
}
