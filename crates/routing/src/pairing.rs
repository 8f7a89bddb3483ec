//! Which change belongs to which table event, inside one transaction.
//!
//! Triggers fire after their statement and statements nest, so a log message about n rows means the
//! last n changes of that table and operation which no message named yet. A row of
//! `realtime_table_events` names its record; of several unpaired changes of one record the latest is
//! meant, for the same reason (inside one statement a record changes once). What cannot be paired for
//! certain is never guessed: the caller tells it as an invalidation of the table.

use std::{hash::BuildHasher, sync::Arc};

use hashbrown::HashMap;
use rowcast_model::{Operation, RelationId};

use crate::{
    Storage,
    group::{Group, slot_of},
    plan::{DataPlan, Row, Side},
    queue::{Delivery, Queue, Slot, State, Target},
};

/// One changed row of a statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    /// One change.
    One(u64),
    /// An UPDATE that changed the partition: in the log a DELETE, and this INSERT behind it.
    Twin(u64),
}

/// What a statement's rows were found to be.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    /// All of them, in order.
    All(Vec<Unit>),
    /// Some were given up for lack of memory; the others are given up now.
    Shed,
    /// Some were not in the log; the others are given up now.
    Missing,
}

/// Which half of a move a table event is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// Not a move.
    Whole,
    /// The departure.
    Leave,
    /// The arrival.
    Enter,
}

/// The outcome of looking for the change of one table event.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// It is paired now.
    Paired,
    /// It was given up for lack of memory.
    Shed,
    /// It is not in the log.
    Missing,
}

/// The unpaired changes of a transaction, with everything that waits behind them.
#[derive(Debug, Default)]
pub(crate) struct Pairing {
    pub(crate) queue: Queue,
    groups: HashMap<RelationId, Group, foldhash::fast::FixedState>,
    hasher: foldhash::fast::RandomState,
    /// A DELETE that nobody expects an event for; of use only if its INSERT follows at once.
    loose: Option<u64>,
}

impl Pairing {
    /// Takes in a change that stands at `index`. `cost` are the bytes of its message.
    pub(crate) fn add(&mut self, plan: &Arc<DataPlan>, row: Row, index: u32, cost: usize) {
        let wanted = plan.rule.delivers(row.op);
        let (op, relation) = (row.op, plan.relation.id);
        let before = self.queue.last_seq().filter(|&seq| {
            op == Operation::Insert
                && plan.rule.delivers(Operation::Update)
                && self.queue.get(seq).is_some_and(|slot| {
                    slot.is_waiting() && slot.index.checked_add(1) == Some(index)
                })
                && self.queue.change(seq).is_some_and(|(plan, row)| {
                    plan.relation.id == relation && row.op == Operation::Delete
                })
        });
        self.end_loose(before);
        let maybe_twin = op == Operation::Delete && plan.rule.delivers(Operation::Update);
        if !wanted && before.is_none() && !maybe_twin {
            return;
        }
        let cost = cost + row.overhead();
        let seq = self.queue.push(Slot {
            index,
            twin: before.is_some(),
            wanted,
            cost,
            change: Some((plan.clone(), row)),
            state: State::Waiting,
        });
        if !wanted && before.is_none() {
            self.loose = Some(seq);
            return;
        }
        let group = self.groups.entry(relation).or_default();
        if let Some(before) = before {
            group.twins.push_back(seq);
            if self.queue.get(before).is_some_and(|slot| !slot.wanted) {
                self.list(before);
            }
        }
        self.list(seq);
    }

    /// Puts a change where messages and events find it.
    fn list(&mut self, seq: u64) {
        let Some((plan, row)) = self.queue.change(seq) else {
            return;
        };
        let group = self.groups.entry(plan.relation.id).or_default();
        let at = slot_of(row.op);
        let Some(stack) = group.stacks.get_mut(at) else {
            return;
        };
        stack.push_back(seq);
        if plan.rule.storage == Storage::Log || !plan.has_key() {
            return;
        }
        let side = match row.op {
            Operation::Delete => Side::Old,
            _ => Side::New,
        };
        let hash = |id: &[u8]| self.hasher.hash_one(id);
        let first = plan.with_record_id(row, side, hash);
        // An UPDATE of the key itself: its departure is told with the old one.
        let second = match (row.op, &row.old) {
            (Operation::Update, Some(_)) => plan.with_record_id(row, Side::Old, hash),
            _ => None,
        };
        let second = second.filter(|_| second != first);
        if let Some(keys) = group.keys.get_mut(at) {
            for hash in [first, second].into_iter().flatten() {
                keys.insert_unique(hash, (hash, seq), |entry| entry.0);
            }
        }
    }

    /// Something else than the INSERT half came: the DELETE was only a DELETE.
    pub(crate) fn end_loose(&mut self, taken: Option<u64>) {
        if let Some(seq) = self.loose.take()
            && taken != Some(seq)
        {
            self.queue.drop_slot(seq);
        }
    }

    /// Takes the last `n` unpaired changes of a statement, oldest first.
    pub(crate) fn take_last(&mut self, relation: RelationId, op: Operation, n: u64) -> Taken {
        let Some(group) = self.groups.get_mut(&relation) else {
            return match n {
                0 => Taken::All(Vec::new()),
                _ => Taken::Missing,
            };
        };
        let at = slot_of(op);
        let (Some(stack), Some(shed)) = (group.stacks.get_mut(at), group.shed.get_mut(at)) else {
            return Taken::Missing;
        };
        let mut units = Vec::new();
        while (units.len() as u64) < n
            && let Some(seq) = stack.pop_back()
        {
            if self.queue.is_waiting(seq) {
                units.push(Unit::One(seq));
            }
        }
        let mut missing = n - units.len() as u64;
        if missing > 0 && *shed == 0 && op == Operation::Update {
            let found = units.len();
            while (units.len() as u64) < n
                && let Some(seq) = group.twins.pop_back()
            {
                if self.queue.is_waiting_twin(seq) {
                    units.push(Unit::Twin(seq));
                }
            }
            if units.len() > found {
                units.sort_by_key(|unit| std::cmp::Reverse(unit.seq()));
            }
            missing = n - units.len() as u64;
        }
        let taken = *shed;
        *shed = shed.saturating_sub(missing);
        group.trim(&self.queue);
        if missing == 0 {
            units.reverse();
            return Taken::All(units);
        }
        for unit in units {
            self.give_up(unit);
        }
        match taken >= missing {
            true => Taken::Shed,
            false => Taken::Missing,
        }
    }

    /// Says where a change goes.
    pub(crate) fn pair(&mut self, unit: Unit, delivery: Delivery) {
        match unit {
            Unit::One(seq) => {
                self.queue.set(seq, State::Paired(delivery));
                self.end_partner(seq);
            }
            Unit::Twin(seq) => self.pair_twin(seq, delivery),
        }
    }

    /// A DELETE and an INSERT that are one UPDATE: delivered as what they are when the row moved
    /// between organizations, else as one UPDATE in the place of the INSERT.
    fn pair_twin(&mut self, seq: u64, delivery: Delivery) {
        let Some(before) = seq.checked_sub(1) else {
            return;
        };
        match delivery {
            Delivery::Here(_) => {
                let old = self.queue.row_mut(before).and_then(|row| row.old.take());
                if let Some(row) = self.queue.row_mut(seq) {
                    row.op = Operation::Update;
                    row.old = old;
                }
                self.queue.move_cost(before, seq);
                self.queue.drop_slot(before);
                self.queue.set(seq, State::Paired(delivery));
            }
            Delivery::Moved { leave, enter } => {
                self.settle_half(before, Part::Leave, leave);
                self.settle_half(seq, Part::Enter, enter);
            }
        }
    }

    fn settle_half(&mut self, seq: u64, part: Part, target: Option<Target>) {
        let delivery = match (part, target) {
            (_, None) => return self.queue.drop_slot(seq),
            (Part::Leave, leave) => Delivery::Moved { leave, enter: None },
            (_, enter) => Delivery::Moved { leave: None, enter },
        };
        self.queue.set(seq, State::Paired(delivery));
    }

    /// Gives up a change and frees its memory.
    pub(crate) fn give_up(&mut self, unit: Unit) {
        match unit {
            Unit::One(seq) => {
                self.queue.drop_slot(seq);
                self.end_partner(seq);
            }
            Unit::Twin(seq) => {
                self.queue.drop_slot(seq);
                if let Some(before) = seq.checked_sub(1) {
                    self.queue.drop_slot(before);
                }
            }
        }
    }

    /// A half of a possible UPDATE was found to be a change of its own: nobody expects the other half
    /// if its operation is not delivered.
    fn end_partner(&mut self, seq: u64) {
        if let Some(partner) = self.queue.partner(seq)
            && self
                .queue
                .get(partner)
                .is_some_and(|slot| slot.is_waiting() && !slot.wanted)
        {
            self.queue.drop_slot(partner);
        }
    }

    /// Pairs one row of `realtime_table_events` that names its record.
    pub(crate) fn pair_record(
        &mut self,
        relation: RelationId,
        op: Operation,
        part: Part,
        record_id: &str,
        target: Target,
    ) -> Found {
        let hash = self.hasher.hash_one(record_id.as_bytes());
        if let Some(seq) = self.find(relation, op, part, hash, record_id) {
            match part {
                Part::Whole => self.pair(Unit::One(seq), Delivery::Here(target)),
                Part::Leave | Part::Enter => self.pair_half(seq, part, target),
            }
            self.trim(relation);
            return Found::Paired;
        }
        if op == Operation::Update {
            let (other, want) = match part {
                Part::Leave => (Operation::Delete, Part::Whole),
                Part::Whole | Part::Enter => (Operation::Insert, Part::Whole),
            };
            let twin = self
                .find(relation, other, want, hash, record_id)
                .filter(|&seq| self.queue.partner(seq).is_some());
            if let Some(seq) = twin {
                match part {
                    Part::Whole if self.queue.is_waiting_twin(seq) => {
                        self.pair_twin(seq, Delivery::Here(target));
                    }
                    // Its DELETE went elsewhere: no longer an UPDATE that can be told as one.
                    Part::Whole => return Found::Missing,
                    _ => self.settle_half(seq, part, Some(target)),
                }
                self.trim(relation);
                return Found::Paired;
            }
        }
        let shed = self
            .groups
            .get_mut(&relation)
            .and_then(|group| group.shed.get_mut(slot_of(op)));
        match shed {
            Some(shed) if *shed > 0 => {
                *shed -= 1;
                Found::Shed
            }
            _ => Found::Missing,
        }
    }

    fn pair_half(&mut self, seq: u64, part: Part, target: Target) {
        let (mut leave, mut enter) = self.queue.halves(seq);
        match part {
            Part::Leave => leave = Some(target),
            _ => enter = Some(target),
        }
        let whole = leave.is_some() && enter.is_some();
        let state = match whole {
            true => State::Paired(Delivery::Moved { leave, enter }),
            false => State::Half { leave, enter },
        };
        self.queue.set(seq, state);
    }

    /// The latest change of a record that still lacks this part.
    fn find(
        &mut self,
        relation: RelationId,
        op: Operation,
        part: Part,
        hash: u64,
        record_id: &str,
    ) -> Option<u64> {
        let queue = &self.queue;
        let keys = self.groups.get_mut(&relation)?.keys.get_mut(slot_of(op))?;
        let lacks = |seq: u64| match queue.get(seq).map(|slot| &slot.state) {
            Some(State::Waiting) => true,
            Some(State::Half { leave, .. }) if part == Part::Leave => leave.is_none(),
            Some(State::Half { enter, .. }) if part == Part::Enter => enter.is_none(),
            _ => false,
        };
        let side = match (op, part) {
            (Operation::Delete, _) | (_, Part::Leave) => Side::Old,
            _ => Side::New,
        };
        let is_it = |seq: u64| {
            lacks(seq)
                && queue.change(seq).is_some_and(|(plan, row)| {
                    plan.with_record_id(row, side, |id| id == record_id.as_bytes()) == Some(true)
                })
        };
        let seq = keys
            .iter_hash(hash)
            .filter(|entry| entry.0 == hash && is_it(entry.1))
            .map(|entry| entry.1)
            .max()?;
        // A half that came first needs to be found again by the other one.
        let done = part == Part::Whole
            || queue
                .get(seq)
                .is_some_and(|slot| matches!(slot.state, State::Half { .. }));
        if done && let Ok(entry) = keys.find_entry(hash, |entry| *entry == (hash, seq)) {
            entry.remove();
        }
        Some(seq)
    }

    /// All unpaired changes of a table without a key, oldest first.
    pub(crate) fn take_all(&mut self, relation: RelationId, op: Operation) -> (Vec<Unit>, u64) {
        let Some(group) = self.groups.get_mut(&relation) else {
            return (Vec::new(), 0);
        };
        let at = slot_of(op);
        let units = group
            .stacks
            .get_mut(at)
            .map(std::mem::take)
            .unwrap_or_default()
            .into_iter()
            .filter(|&seq| self.queue.is_waiting(seq))
            .map(Unit::One)
            .collect();
        let shed = group.shed.get_mut(at).map_or(0, std::mem::take);
        group.trim(&self.queue);
        (units, shed)
    }

    /// Gives up all unpaired changes of the table and operation that the oldest slot belongs to.
    /// Says how many there were; `None` when the oldest slot waits for nothing.
    pub(crate) fn shed_oldest(&mut self) -> Option<u64> {
        let (seq, slot) = self.queue.front()?;
        match &slot.state {
            State::Waiting => {}
            State::Half { leave, enter } => {
                let (leave, enter) = (leave.clone(), enter.clone());
                let state = State::Paired(Delivery::Moved { leave, enter });
                self.queue.set(seq, state);
                return Some(0);
            }
            _ => return None,
        }
        let (plan, row) = slot.change.as_ref()?;
        let (relation, at) = (plan.relation.id, slot_of(row.op));
        let mut count = 0;
        if let Some(group) = self.groups.get_mut(&relation)
            && let Some(stack) = group.stacks.get_mut(at)
        {
            for seq in std::mem::take(stack) {
                if !self.queue.is_waiting(seq) {
                    continue;
                }
                count += u64::from(self.queue.get(seq).is_some_and(|slot| slot.wanted));
                self.queue.drop_slot(seq);
            }
            if let Some(shed) = group.shed.get_mut(at) {
                *shed += count;
            }
            group.trim(&self.queue);
        }
        // It may be in no list: a loose half.
        self.queue.drop_slot(seq);
        Some(count)
    }

    fn trim(&mut self, relation: RelationId) {
        if let Some(group) = self.groups.get_mut(&relation) {
            group.trim(&self.queue);
        }
    }

    /// Forgets the transaction.
    pub(crate) fn clear(&mut self) {
        self.queue.clear();
        self.groups.clear();
        self.loose = None;
    }
}

impl Unit {
    fn seq(self) -> u64 {
        match self {
            Unit::One(seq) | Unit::Twin(seq) => seq,
        }
    }
}
