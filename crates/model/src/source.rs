//! What the source hands to routing: transactions in commit order, item by item.
//!
//! A transaction is never held as a whole: `Begin`, its items, `Commit`. Everything in it is
//! committed already when `Begin` is seen.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{Epoch, Lsn, Operation, Relation};

/// Microseconds since 1970-01-01 UTC.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Timestamp(pub i64);

/// What is known of a transaction from its first message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TxHeader {
    /// Low 32 bits of the transaction id.
    pub xid: u32,
    /// LSN of the commit record: the position of all its events.
    pub commit_lsn: Lsn,
    /// When it committed, by the clock of the server.
    pub commit_time: Timestamp,
}

/// One value of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// SQL null.
    Null,
    /// A stored-out-of-line value that the UPDATE did not touch: not in the log, and not null.
    Unchanged,
    /// The text form, UTF-8 as the server sent it; a slice of the message it came in.
    Text(Bytes),
}

/// The values of a row, in the order of [`Relation::columns`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tuple(pub Vec<Value>);

/// What the log holds of the row before the change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OldTuple {
    /// Only the columns with [`crate::Column::key`] are meaningful; the rest is [`Value::Null`].
    Key(Tuple),
    /// The whole row (REPLICA IDENTITY FULL).
    Full(Tuple),
}

/// One changed row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowChange {
    /// The table as it was when the row changed.
    pub relation: Arc<Relation>,
    /// Insert, update or delete.
    pub op: Operation,
    /// The row after the change; `None` for a delete.
    pub new: Option<Tuple>,
    /// What is known of the row before.
    pub old: Option<OldTuple>,
}

/// One message inside a transaction, in the order of the writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WalItem {
    /// A changed row.
    Change(RowChange),
    /// TRUNCATE of one or more tables.
    Truncate(Vec<Arc<Relation>>),
    /// A transactional logical message (`pg_logical_emit_message(true, prefix, content)`).
    Message {
        /// The prefix; ours begin with `rowcast`.
        prefix: Arc<str>,
        /// The content.
        content: Bytes,
    },
}

/// What [`crate::Batch`]es are made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceEvent {
    /// The stream (re)starts; transactions may be repeated from an earlier position. When `reason` is
    /// there, positions of before mean nothing any more.
    Start {
        /// The epoch of all that follows.
        epoch: Epoch,
        /// Why the epoch is new, if it is.
        reason: Option<Arc<str>>,
    },
    /// A transaction begins.
    Begin(TxHeader),
    /// One item of it.
    Item {
        /// The item.
        item: WalItem,
        /// Bytes of the message it came from: what it costs to keep it.
        bytes: u32,
    },
    /// The transaction ends; `end_lsn` is what may be acknowledged once it is handed on.
    Commit {
        /// End of the commit record.
        end_lsn: Lsn,
    },
    /// Nothing of interest happened up to here; may be acknowledged when all before is.
    Idle {
        /// The server's position.
        lsn: Lsn,
    },
}
