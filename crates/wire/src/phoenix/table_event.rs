//! Table events as rows of a table that is not there. Owns the columns of that table, and which events a filter on
//! them lets pass.

use std::{
    hash::{Hash, Hasher},
    sync::{Arc, LazyLock},
};

use rowcast_model::{Cursor, Kind, Operation, RoutedEvent};

use crate::{Filter, Operand, event::string, filter::Truth, time::write_iso_millis};

/// The name by which clients ask for table events: each comes as an INSERT into this table of schema `public`.
pub const TABLE_EVENTS: &str = "realtime_table_events";

/// `columns` of the frames.
pub(super) const COLUMNS: &str = r#"[{"name":"id","type":"text"},{"name":"organization_id","type":"text"},{"name":"table_schema","type":"text"},{"name":"table_name","type":"text"},{"name":"event_type","type":"text"},{"name":"record_id","type":"text"},{"name":"created_at","type":"timestamptz"}]"#;

/// The columns, and whether one is a time.
const NAMES: [(&str, bool); 7] = [
    ("id", false),
    ("organization_id", false),
    ("table_schema", false),
    ("table_name", false),
    ("event_type", false),
    ("record_id", false),
    ("created_at", true),
];

/// A filter on table events. Two are equal when their texts are.
#[derive(Clone, Debug)]
pub struct TableEventFilter {
    source: Arc<str>,
    filter: Arc<Filter>,
}

/// A filter names a column that table events do not have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a column of realtime_table_events; it has id, organization_id, table_schema, table_name, event_type, record_id, created_at"
)]
pub struct UnknownColumn(pub String);

impl PartialEq for TableEventFilter {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

impl Eq for TableEventFilter {}

impl Hash for TableEventFilter {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.source.hash(state);
    }
}

impl TableEventFilter {
    /// `filter` is what `source` was read as.
    ///
    /// # Errors
    /// A column that table events do not have.
    pub fn new(source: Arc<str>, filter: Filter) -> Result<TableEventFilter, UnknownColumn> {
        let mut unknown = None;
        filter.each_column(&mut |column| {
            if !NAMES.iter().any(|(name, _)| *name == column) {
                unknown.get_or_insert_with(|| column.chars().take(63).collect());
            }
        });
        match unknown {
            Some(column) => Err(UnknownColumn(column)),
            None => Ok(TableEventFilter {
                source,
                filter: Arc::new(filter),
            }),
        }
    }

    /// Bytes that it takes in memory, roughly.
    pub fn cost(&self) -> usize {
        self.source.len() + self.filter.cost()
    }

    /// Whether one of the rows that an event makes passes.
    pub(super) fn wants(&self, event: &RoutedEvent) -> bool {
        rows(event).any(|row| self.passes(&row))
    }

    /// What is for all organizations is of none that a filter could name: it passes.
    pub(super) fn passes(&self, row: &TableEvent<'_>) -> bool {
        self.truth(row).may_hold()
    }

    fn truth(&self, row: &TableEvent<'_>) -> Truth {
        static TEXT: LazyLock<Kind> = LazyLock::new(|| Kind::Text);
        static TIME: LazyLock<Kind> = LazyLock::new(|| Kind::Timestamp);
        // Only what the filter asks for is written: mostly the organization alone.
        let mut values: Vec<(&str, Option<Vec<u8>>)> = Vec::with_capacity(2);
        self.filter.each_column(&mut |column| {
            if !values.iter().any(|(name, _)| *name == column) {
                let mut json = Vec::with_capacity(64);
                let known = row.write(column, None, &mut json);
                values.push((column, known.then_some(json)));
            }
        });
        self.filter.evaluate(&|name: &str| {
            let time = NAMES.iter().any(|(known, time)| *known == name && *time);
            match values.iter().find(|(known, _)| *known == name) {
                Some((_, Some(json))) => Operand::Value(if time { &TIME } else { &TEXT }, json),
                _ => Operand::Missing,
            }
        })
    }
}

/// One row of that table.
#[derive(Clone, Copy, Debug)]
pub(super) struct TableEvent<'a> {
    event: &'a RoutedEvent,
    id: Cursor,
    operation: Operation,
    record_id: Option<&'a str>,
}

/// The rows that an event makes: two, where the record has another key than before.
pub(super) fn rows(event: &RoutedEvent) -> impl Iterator<Item = TableEvent<'_>> {
    let gone = event.old_record_id.as_deref().map(|old| TableEvent {
        event,
        id: event.cursor.just_before(),
        operation: Operation::Delete,
        record_id: Some(old),
    });
    gone.into_iter().chain(std::iter::once(TableEvent {
        event,
        id: event.cursor,
        operation: event.op,
        record_id: event.record_id.as_deref(),
    }))
}

impl TableEvent<'_> {
    /// Appends the JSON value of a column. An event for all organizations is told to `organization` as its own;
    /// without, that column is not known, and nothing is appended.
    fn write(&self, column: &str, organization: Option<&str>, json: &mut Vec<u8>) -> bool {
        let table = &self.event.table;
        match column {
            "id" => {
                json.push(b'"');
                crate::event::cursor(json, self.id);
                json.push(b'"');
            }
            "organization_id" => match (self.event.topic.organization(), organization) {
                (Some(own), _) => string(json, own.as_str()),
                (None, Some("")) => json.extend_from_slice(b"null"),
                (None, Some(theirs)) => string(json, theirs),
                (None, None) => return false,
            },
            "table_schema" => string(json, &table.schema),
            "table_name" => string(json, &table.name),
            "event_type" => string(json, self.operation.as_str()),
            "record_id" => match self.record_id {
                Some(id) => string(json, id),
                None => json.extend_from_slice(b"null"),
            },
            _ => {
                json.push(b'"');
                write_iso_millis(self.event.commit_time, json);
                if json.last() == Some(&b'Z') {
                    json.pop();
                }
                json.extend_from_slice(b"+00:00\"");
            }
        }
        true
    }

    /// Appends the row as an object.
    pub(super) fn write_object(&self, organization: &str, json: &mut Vec<u8>) {
        for (i, (name, _)) in NAMES.iter().enumerate() {
            json.push(if i == 0 { b'{' } else { b',' });
            string(json, name);
            json.push(b':');
            self.write(name, Some(organization), json);
        }
        json.push(b'}');
    }
}
