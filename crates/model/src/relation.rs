//! What Postgres says a table looks like. Owns the description of columns and of their JSON form.

use std::sync::{Arc, LazyLock};

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

impl Kind {
    /// The name of a type whose values are written so, for values of which no more is known. One text for all
    /// of a kind.
    pub fn type_name(&self) -> Arc<str> {
        const NAMES: [&str; 5] = ["numeric", "bool", "jsonb", "text", "timestamptz"];
        static ONE: LazyLock<[Arc<str>; 5]> = LazyLock::new(|| NAMES.map(Arc::from));
        static MANY: LazyLock<[Arc<str>; 5]> =
            LazyLock::new(|| NAMES.map(|name| format!("_{name}").into()));
        let (names, kind) = match self {
            // Deeper arrays have the type of flat ones.
            Kind::Array(element, _) => (&*MANY, &**element),
            one => (&*ONE, one),
        };
        let [number, bool, json, text, timestamp] = names;
        let name = match kind {
            Kind::Number => number,
            Kind::Bool => bool,
            Kind::Json | Kind::Composite(_) | Kind::Array(..) => json,
            Kind::Text => text,
            Kind::Timestamp => timestamp,
        };
        name.clone()
    }
}

/// One column of a [`Relation`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// The column's name.
    pub name: Arc<str>,
    /// The oid of its type.
    pub type_oid: u32,
    /// The name of its type as `pg_type.typname` has it: `int8`, `_text`, a domain's or an enum's own name.
    pub type_name: Arc<str>,
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
