//! What Postgres says a table looks like. Owns the description of columns and of their JSON form.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// The oid of a table, as it stands in the write-ahead log (the root, for partitioned tables).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RelationId(pub u32);

/// What an UPDATE or DELETE writes of the old row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplicaIdentity {
    /// `d`: the primary key.
    Default,
    /// `n`: nothing.
    Nothing,
    /// `f`: the whole row.
    Full,
    /// `i`: the columns of an index.
    Index,
}

/// How the text form of a value becomes JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// Digits as Postgres prints them; NaN and infinities become strings.
    Number,
    /// `t` and `f`.
    Bool,
    /// `json` and `jsonb`: passed through.
    Json,
    /// Everything without a better form: a string.
    Text,
    /// `timestamp` and `timestamptz`: a string with `T` between date and time and a full offset.
    Timestamp,
    /// An array of a kind, with the delimiter of its type (`,`, for `box` `;`).
    Array(Box<Kind>, u8),
    /// A composite: a JSON object of its attributes, in order.
    Composite(Arc<[(Arc<str>, Kind)]>),
}

/// One column of a [`Relation`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// The column's name.
    pub name: Arc<str>,
    /// The oid of its type.
    pub type_oid: u32,
    /// Part of the replica identity.
    pub key: bool,
    /// Part of the primary key (or, without one, of the replica identity index): what `record_id` is made of.
    pub record_key: bool,
    /// How its values become JSON.
    pub kind: Kind,
}

/// One version of a table's description; a new one comes with every change of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relation {
    /// The table's oid.
    pub id: RelationId,
    /// Its schema.
    pub schema: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
    /// What old rows hold.
    pub identity: ReplicaIdentity,
    /// Its published columns, in order.
    pub columns: Vec<Column>,
}
