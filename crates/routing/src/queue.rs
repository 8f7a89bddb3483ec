//! What a transaction holds back, in the order of its positions: changes that wait for their table
//! event, and what waits behind them. Owns the count of bytes.

use std::{collections::VecDeque, sync::Arc};

use rowcast_model::{HubOp, OrgId, UserId};
use smallvec::SmallVec;

use crate::{
    changed::Changed,
    plan::{DataPlan, Row},
};

/// Where a row belongs, as its table event says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) org: OrgId,
    pub(crate) user: Option<UserId>,
    /// What its trigger says has changed.
    pub(crate) changed: Changed,
}

/// What becomes of a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Delivery {
    /// It stays where it was.
    Here(Target),
    /// It leaves one place, comes to another, or both.
    Moved {
        leave: Option<Target>,
        enter: Option<Target>,
    },
}

/// How far a slot is.
#[derive(Debug)]
pub(crate) enum State {
    /// Nothing comes of it.
    Gone,
    /// A change without its table event.
    Waiting,
    /// One of the two table events of a move came.
    Half {
        leave: Option<Target>,
        enter: Option<Target>,
    },
    /// A change that knows where it goes.
    Paired(Delivery),
    /// Ready as it is.
    Told(SmallVec<[Box<HubOp>; 1]>),
}

/// One place in the order of a transaction.
#[derive(Debug)]
pub(crate) struct Slot {
    /// Position in the transaction.
    pub(crate) index: u32,
    /// Together with the slot before it, this is an UPDATE that changed the partition.
    pub(crate) twin: bool,
    /// The table event of its own operation is expected.
    pub(crate) wanted: bool,
    /// Bytes that it keeps.
    pub(crate) cost: usize,
    pub(crate) change: Option<(Arc<DataPlan>, Row)>,
    pub(crate) state: State,
}

impl Slot {
    pub(crate) fn is_waiting(&self) -> bool {
        matches!(self.state, State::Waiting)
    }
}

/// Memory of a slot itself and of what refers to it.
pub(crate) const SLOT_BYTES: usize = size_of::<Slot>() + 32;

/// More room than this is given back when a transaction ends.
const KEPT_CAPACITY: usize = 4096;

/// The slots of a transaction, in order. A sequence number names a slot for as long as it exists.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    slots: VecDeque<Slot>,
    first: u64,
    bytes: usize,
}

impl Queue {
    pub(crate) fn push(&mut self, slot: Slot) -> u64 {
        self.bytes += slot.cost + SLOT_BYTES;
        self.slots.push_back(slot);
        self.first + self.slots.len() as u64 - 1
    }

    fn position(&self, seq: u64) -> Option<usize> {
        usize::try_from(seq.checked_sub(self.first)?).ok()
    }

    pub(crate) fn get(&self, seq: u64) -> Option<&Slot> {
        self.slots.get(self.position(seq)?)
    }

    fn get_mut(&mut self, seq: u64) -> Option<&mut Slot> {
        let at = self.position(seq)?;
        self.slots.get_mut(at)
    }

    /// The number of the slot pushed last.
    pub(crate) fn last_seq(&self) -> Option<u64> {
        (self.first + self.slots.len() as u64)
            .checked_sub(1)
            .filter(|_| !self.slots.is_empty())
    }

    /// The change of a slot.
    pub(crate) fn change(&self, seq: u64) -> Option<(&Arc<DataPlan>, &Row)> {
        let (plan, row) = self.get(seq)?.change.as_ref()?;
        Some((plan, row))
    }

    /// Takes what is known of a move so far.
    pub(crate) fn halves(&mut self, seq: u64) -> (Option<Target>, Option<Target>) {
        match self.get_mut(seq).map(|slot| &mut slot.state) {
            Some(State::Half { leave, enter }) => (leave.take(), enter.take()),
            _ => (None, None),
        }
    }

    /// The row of `to` took values of `from`: it keeps their bytes from here on.
    pub(crate) fn move_cost(&mut self, from: u64, to: u64) {
        let cost = match self.get_mut(from) {
            Some(slot) => std::mem::take(&mut slot.cost),
            None => return,
        };
        match self.get_mut(to) {
            Some(slot) => slot.cost += cost,
            None => self.bytes -= cost,
        }
    }

    /// Whether the slot is there and waits.
    pub(crate) fn is_waiting(&self, seq: u64) -> bool {
        self.get(seq).is_some_and(Slot::is_waiting)
    }

    /// Says what becomes of a slot.
    pub(crate) fn set(&mut self, seq: u64, state: State) {
        if let Some(slot) = self.get_mut(seq) {
            slot.state = state;
        }
    }

    /// Gives up a slot and the memory of its change.
    pub(crate) fn drop_slot(&mut self, seq: u64) {
        let Some(slot) = self.get_mut(seq) else {
            return;
        };
        let cost = std::mem::take(&mut slot.cost);
        slot.change = None;
        slot.state = State::Gone;
        self.bytes -= cost;
    }

    /// Changes the row of a slot.
    pub(crate) fn row_mut(&mut self, seq: u64) -> Option<&mut Row> {
        self.get_mut(seq)?.change.as_mut().map(|(_, row)| row)
    }

    /// Whether the slot makes an UPDATE of the slot before it, which still waits too.
    pub(crate) fn is_waiting_twin(&self, seq: u64) -> bool {
        self.get(seq)
            .is_some_and(|slot| slot.twin && slot.is_waiting())
            && seq
                .checked_sub(1)
                .is_some_and(|before| self.is_waiting(before))
    }

    /// The other half of an UPDATE that changed the partition.
    pub(crate) fn partner(&self, seq: u64) -> Option<u64> {
        if self.get(seq)?.twin {
            return seq.checked_sub(1);
        }
        self.get(seq + 1).filter(|next| next.twin).map(|_| seq + 1)
    }

    /// The first slot that is not gone, with its number.
    pub(crate) fn front(&mut self) -> Option<(u64, &Slot)> {
        while matches!(self.slots.front()?.state, State::Gone) {
            self.pop();
        }
        Some((self.first, self.slots.front()?))
    }

    pub(crate) fn pop(&mut self) -> Option<Slot> {
        let slot = self.slots.pop_front()?;
        self.first += 1;
        self.bytes -= slot.cost + SLOT_BYTES;
        Some(slot)
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    /// Forgets everything, and gives back memory that a large transaction took.
    pub(crate) fn clear(&mut self) {
        self.first += self.slots.len() as u64;
        self.slots.clear();
        self.slots.shrink_to(KEPT_CAPACITY);
        self.bytes = 0;
    }
}
