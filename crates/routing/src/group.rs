//! The unpaired changes of one table, by operation. Owns these lists and keeps them as short as what
//! waits.

use std::collections::VecDeque;

use hashbrown::HashTable;
use rowcast_model::Operation;

use crate::queue::{Queue, State};

/// Numbers of slots in the queue.
#[derive(Debug, Default)]
pub(crate) struct Group {
    /// Changes by operation, oldest first; may hold numbers of changes that wait no more.
    pub(crate) stacks: [VecDeque<u64>; 3],
    /// INSERT halves of updates that changed the partition.
    pub(crate) twins: VecDeque<u64>,
    /// Changes given up, all older than those in the stacks.
    pub(crate) shed: [u64; 3],
    /// By hash of the record id; only for tables whose events are rows.
    pub(crate) keys: [HashTable<(u64, u64)>; 3],
}

/// Where the lists of an operation are.
pub(crate) fn slot_of(op: Operation) -> usize {
    match op {
        Operation::Insert => 0,
        Operation::Update => 1,
        Operation::Delete | Operation::Truncate => 2,
    }
}

impl Group {
    /// Takes away what waits no more from both ends, so that lists stay as short as what waits.
    pub(crate) fn trim(&mut self, queue: &Queue) {
        let live = |seq: &u64| {
            queue
                .get(*seq)
                .is_some_and(|slot| matches!(slot.state, State::Waiting | State::Half { .. }))
        };
        for (stack, keys) in self.stacks.iter_mut().zip(&mut self.keys) {
            while stack.front().is_some_and(|seq| !live(seq)) {
                stack.pop_front();
            }
            while stack.back().is_some_and(|seq| !live(seq)) {
                stack.pop_back();
            }
            if stack.is_empty() && !keys.is_empty() {
                keys.clear();
            }
        }
        while self.twins.front().is_some_and(|seq| !live(seq)) {
            self.twins.pop_front();
        }
        while self.twins.back().is_some_and(|seq| !live(seq)) {
            self.twins.pop_back();
        }
    }
}
