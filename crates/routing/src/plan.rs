//! What is worked out once for each version of a table: which columns are seen, what the record id is
//! made of, where organization and user stand. Owns reading values out of a changed row.

use std::sync::Arc;

use rowcast_model::{
    ColumnMeta, OldTuple, Operation, Relation, RowChange, TableName, Tuple, Value,
};
use smallvec::SmallVec;

use crate::{Detail, TableRule, changed::Changed, record_id::write_key};

/// A changed row without its relation, which the plan knows.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) op: Operation,
    pub(crate) new: Option<Tuple>,
    pub(crate) old: Option<OldTuple>,
}

impl Row {
    pub(crate) fn from_change(change: RowChange) -> Row {
        Row {
            op: change.op,
            new: change.new,
            old: change.old,
        }
    }

    /// Memory of the values besides the bytes of the message.
    pub(crate) fn overhead(&self) -> usize {
        let values = |tuple: &Tuple| tuple.0.len() * size_of::<Value>();
        let old = match &self.old {
            Some(OldTuple::Key(tuple) | OldTuple::Full(tuple)) => values(tuple),
            None => 0,
        };
        self.new.as_ref().map_or(0, values) + old
    }
}

/// Which image of a row is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    New,
    Old,
}

/// One visible column.
#[derive(Debug)]
pub(crate) struct Seen {
    /// Where it stands in the relation.
    pub(crate) at: usize,
    /// Part of the record id.
    pub(crate) record_key: bool,
    /// The number of its mask.
    mask: Option<usize>,
}

/// What is needed to deliver the changes of one version of a tracked table.
#[derive(Debug)]
pub(crate) struct DataPlan {
    pub(crate) rule: Arc<TableRule>,
    pub(crate) relation: Arc<Relation>,
    pub(crate) table: Arc<TableName>,
    /// The visible columns, as they are named in JSON.
    pub(crate) columns: Arc<[ColumnMeta]>,
    pub(crate) seen: Vec<Seen>,
    /// Where the parts of the record id stand, in its order; empty: records have no id.
    key: SmallVec<[usize; 2]>,
    /// Where the organization stands, when it is a column of the table.
    org: Option<usize>,
    user: Option<usize>,
    owner: Option<usize>,
    /// How much an event may say.
    pub(crate) detail: Detail,
    /// An unchanged list that is empty, shared by all events.
    pub(crate) none_unchanged: Arc<[Arc<str>]>,
}

impl DataPlan {
    pub(crate) fn new(rule: Arc<TableRule>, relation: Arc<Relation>) -> DataPlan {
        let position = |name: &str| {
            relation
                .columns
                .iter()
                .position(|column| &*column.name == name)
        };
        let mut key: SmallVec<[usize; 2]> = SmallVec::new();
        if rule.key_columns.is_empty() {
            let own = relation.columns.iter().enumerate();
            key.extend(own.filter(|(_, c)| c.record_key).map(|(at, _)| at));
        } else {
            // A renamed or unpublished key column: then there is no record id until the rule follows.
            let found: Option<SmallVec<[usize; 2]>> =
                rule.key_columns.iter().map(|name| position(name)).collect();
            key = found.unwrap_or_default();
        }
        let mask_of = |at: usize| {
            let column = relation.columns.get(at)?;
            Some(rule.masks.as_ref()?.of(&column.name)?.0)
        };
        let seen: Vec<Seen> = relation
            .columns
            .iter()
            .enumerate()
            .filter(|(_, column)| rule.shows(&column.name))
            .map(|(at, _)| Seen {
                at,
                record_key: key.contains(&at),
                mask: mask_of(at),
            })
            .collect();
        // A record id would show what its mask hides.
        let detail = match key.iter().any(|at| mask_of(*at).is_some()) {
            true => Detail::Table,
            false => rule.detail,
        };
        let columns = seen
            .iter()
            .filter_map(|seen| Some((seen, relation.columns.get(seen.at)?)))
            .map(|(seen, column)| {
                let (name, type_name) = (column.name.clone(), column.type_name.clone());
                ColumnMeta::of_type(name, type_name, column.kind.clone()).in_key(seen.record_key)
            })
            .collect();
        DataPlan {
            table: Arc::new(TableName {
                schema: relation.schema.clone(),
                name: relation.name.clone(),
            }),
            columns,
            seen,
            key,
            org: rule.organization_column.as_deref().and_then(position),
            user: rule.user_column.as_deref().and_then(position),
            owner: rule.owner_column.as_deref().and_then(position),
            detail,
            none_unchanged: Arc::new([]),
            rule,
            relation,
        }
    }

    /// Whether some column is kept from everybody.
    pub(crate) fn hides(&self) -> bool {
        self.seen.len() < self.relation.columns.len()
    }

    /// A value of one image of the row. The log repeats the old key only when it changed, and no
    /// other old value at all; so ask for the old image of key columns only, unless the row is whole.
    pub(crate) fn value<'r>(&self, row: &'r Row, side: Side, at: usize) -> Option<&'r Value> {
        let new = |at| row.new.as_ref().and_then(|tuple: &Tuple| tuple.0.get(at));
        match (side, &row.old) {
            (Side::Old, Some(OldTuple::Full(tuple))) => tuple.0.get(at),
            (Side::Old, Some(OldTuple::Key(tuple))) if self.relation.columns.get(at)?.key => {
                tuple.0.get(at)
            }
            (Side::Old, _) => new(at),
            (Side::New, old) => match (new(at), old) {
                (Some(Value::Unchanged), Some(OldTuple::Full(tuple))) => {
                    tuple.0.get(at).or(Some(&Value::Unchanged))
                }
                (value, _) => value,
            },
        }
    }

    fn text<'r>(&self, row: &'r Row, side: Side, at: usize) -> Option<&'r [u8]> {
        match self.value(row, side, at)? {
            Value::Text(bytes) => Some(bytes),
            Value::Null | Value::Unchanged => None,
        }
    }

    /// Whether records of this table have an id at all.
    pub(crate) fn has_key(&self) -> bool {
        !self.key.is_empty()
    }

    /// Hands the record id to `read`; `None` when the row has none.
    pub(crate) fn with_record_id<T>(
        &self,
        row: &Row,
        side: Side,
        read: impl FnOnce(&[u8]) -> T,
    ) -> Option<T> {
        if let [only] = *self.key {
            return self.text(row, side, only).map(read);
        }
        if self.key.is_empty() {
            return None;
        }
        let parts: Option<SmallVec<[&[u8]; 4]>> = self
            .key
            .iter()
            .map(|&at| self.text(row, side, at))
            .collect();
        let mut out = Vec::new();
        write_key(parts?.into_iter(), &mut out);
        Some(read(&out))
    }

    /// Whether the row's own organization column says something else than `org`. What the log does
    /// not hold contradicts nothing. `char(n)` is padded in the log and not in the event.
    pub(crate) fn contradicts(&self, row: &Row, side: Side, org: &str) -> bool {
        let Some(at) = self.org else { return false };
        if side == Side::Old && !self.knows_old(row, at) {
            return false;
        }
        match self.value(row, side, at) {
            Some(Value::Text(bytes)) => {
                **bytes != *org.as_bytes()
                    && bytes.trim_ascii_end() != org.as_bytes().trim_ascii_end()
            }
            Some(Value::Null) => true,
            Some(Value::Unchanged) | None => false,
        }
    }

    /// The user that a row's own column names: `None` when the log does not say, `Some(None)` for null.
    pub(crate) fn own_user<'r>(&self, row: &'r Row, side: Side) -> Option<Option<&'r [u8]>> {
        self.own(row, side, self.user?)
    }

    /// The owner that the row's own column names, if the log says.
    pub(crate) fn owner<'r>(&self, row: &'r Row, side: Side) -> Option<&'r [u8]> {
        self.own(row, side, self.owner?).flatten()
    }

    fn own<'r>(&self, row: &'r Row, side: Side, at: usize) -> Option<Option<&'r [u8]>> {
        if side == Side::Old && !self.knows_old(row, at) {
            return None;
        }
        match self.value(row, side, at)? {
            Value::Text(bytes) => Some(Some(bytes)),
            Value::Null => Some(None),
            Value::Unchanged => None,
        }
    }

    /// Whether the log holds the old value of a column for sure. An UPDATE of a table with a key
    /// leaves the key away only when it is the same.
    fn knows_old(&self, row: &Row, at: usize) -> bool {
        match &row.old {
            Some(OldTuple::Full(_)) => true,
            Some(OldTuple::Key(_)) => self.is_identity(at),
            None => row.op == Operation::Update && self.is_identity(at),
        }
    }

    /// Whether a column is part of the replica identity.
    pub(crate) fn is_identity(&self, at: usize) -> bool {
        self.relation
            .columns
            .get(at)
            .is_some_and(|column| column.key)
    }

    /// What an UPDATE changed, where the log has the whole row from before it.
    pub(crate) fn changed(&self, row: &Row) -> Changed {
        let (Some(new), Some(OldTuple::Full(old))) = (&row.new, &row.old) else {
            return Changed::Seen;
        };
        let masks = self.rule.masks.as_ref();
        if row.op != Operation::Update || !(self.hides() || masks.is_some()) {
            return Changed::Seen;
        }
        let same = |at: usize| match (new.0.get(at), old.0.get(at)) {
            (Some(Value::Unchanged), _) => true,
            (new, old) => new == old,
        };
        let mut only = 0;
        for seen in self.seen.iter().filter(|seen| !same(seen.at)) {
            match seen.mask {
                Some(mask) => only |= 1 << mask,
                None => return Changed::Seen,
            }
        }
        // The record id is told even where its columns are hidden.
        if !self.key.iter().all(|at| same(*at)) {
            return Changed::Seen;
        }
        // Who became the owner, or was, sees other values now.
        if let (Some(masks), Some(owner)) = (masks, self.owner)
            && !same(owner)
        {
            only |= masks.plain_by_owner();
        }
        Changed::Only(only)
    }
}
