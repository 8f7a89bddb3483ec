//! A table event as a row of `public.realtime_table_events`. Owns reading its columns.

use rowcast_model::{Operation, Relation, RelationId, Tuple, Value};

use crate::rule::operation;

/// Where the columns stand; the table may have more, in any order.
#[derive(Debug)]
pub(crate) struct EventColumns {
    organization_id: Option<usize>,
    table_schema: Option<usize>,
    table_name: Option<usize>,
    event_type: Option<usize>,
    record_id: Option<usize>,
    relation_id: Option<usize>,
    operation: Option<usize>,
    user_id: Option<usize>,
    row_count: Option<usize>,
    changed: Option<usize>,
}

/// One row of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EventRow<'a> {
    pub(crate) org: &'a str,
    pub(crate) schema: &'a str,
    pub(crate) table: &'a str,
    /// What its organization sees.
    pub(crate) event: Operation,
    /// What the log says.
    pub(crate) operation: Operation,
    pub(crate) record_id: Option<&'a str>,
    pub(crate) relation: Option<RelationId>,
    pub(crate) user: Option<&'a str>,
    /// For an event about the whole table: rows of its statement.
    pub(crate) row_count: Option<u64>,
    /// Which columns changed, where not all may know of it.
    pub(crate) changed: Option<&'a str>,
}

impl EventColumns {
    pub(crate) fn new(relation: &Relation) -> EventColumns {
        let at = |name: &str| {
            relation
                .columns
                .iter()
                .position(|column| &*column.name == name)
        };
        EventColumns {
            organization_id: at("organization_id"),
            table_schema: at("table_schema"),
            table_name: at("table_name"),
            event_type: at("event_type"),
            record_id: at("record_id"),
            relation_id: at("relation_id"),
            operation: at("operation"),
            user_id: at("user_id"),
            row_count: at("row_count"),
            changed: at("changed"),
        }
    }

    /// Reads a row; `None` when it is not one that a trigger would write.
    pub(crate) fn read<'a>(&self, tuple: &'a Tuple) -> Option<EventRow<'a>> {
        let text = |at: Option<usize>| match tuple.0.get(at?)? {
            Value::Text(bytes) => std::str::from_utf8(bytes).ok(),
            Value::Null | Value::Unchanged => None,
        };
        let event = operation(text(self.event_type)?)?;
        Some(EventRow {
            org: text(self.organization_id)?,
            schema: text(self.table_schema).unwrap_or("public"),
            table: text(self.table_name)?,
            event,
            operation: match text(self.operation) {
                Some(word) => operation(word)?,
                None => event,
            },
            record_id: text(self.record_id),
            relation: match text(self.relation_id) {
                Some(oid) => Some(RelationId(oid.parse().ok()?)),
                None => None,
            },
            user: text(self.user_id),
            row_count: match text(self.row_count) {
                Some(count) => Some(count.parse().ok()?),
                None => None,
            },
            changed: text(self.changed),
        })
    }
}
