//! One organization's data as a subscriber rebuilds it from nothing but what the service sends.

use std::collections::{BTreeMap, BTreeSet};

use tokio_postgres::{Client, error::SqlState};

use super::schema::Schema;
use crate::harness::{
    client::Frame,
    json::{Row, row},
};

/// What a copy is made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Changes,
    Invalidations,
    Latest,
}

/// Record id to row, by table.
pub type Rows = BTreeMap<String, BTreeMap<String, Row>>;

/// The copy of one subscriber.
pub struct Copy<'a> {
    schema: &'a Schema,
    organization: String,
    pub rows: Rows,
    /// Table-level events: how often the copy had to read a table as a whole.
    pub reloads: usize,
}

impl<'a> Copy<'a> {
    pub fn new(schema: &'a Schema, organization: &str) -> Self {
        let rows = schema
            .tables
            .iter()
            .map(|table| (table.name.clone(), BTreeMap::new()))
            .collect();
        Copy {
            schema,
            organization: organization.into(),
            rows,
            reloads: 0,
        }
    }

    /// Applies one event; what it only points to is read through `database`, at once: promise 8 says
    /// that the change is visible by now.
    /// Says which record it was about; `None` is the whole table.
    pub async fn apply(&mut self, event: &Frame, database: &Client) -> Option<String> {
        let name = event.table().to_owned();
        let Some(table) = self
            .schema
            .tables
            .iter()
            .position(|table| table.name == name)
        else {
            panic!("an event of a table nobody tracks: {}", event.text);
        };
        if event.is("invalidate") {
            match event.json["recordId"].as_str() {
                Some(record) => {
                    let found = self.read(database, table, Some(record)).await;
                    let rows = self.rows.get_mut(&name).unwrap();
                    rows.remove(record);
                    rows.extend(found);
                    return Some(record.to_owned());
                }
                None => {
                    self.reloads += 1;
                    let found = self.read(database, table, None).await;
                    self.rows.insert(name, found);
                    return None;
                }
            }
        }
        assert!(event.is("postgres_changes"), "{}", event.text);
        let keys = self.schema.tables[table].key_columns();
        let rows = self.rows.get_mut(&name).unwrap();
        let (new, old) = (event.new_row(), event.old_row());
        let before = old.as_ref().map(|old| record_id(old, &keys));
        let about = match event.event_type() {
            "INSERT" => {
                assert!(old.is_none(), "an insert has no old row: {}", event.text);
                let new = new.unwrap();
                let id = record_id(&new, &keys);
                rows.insert(id.clone(), new);
                id
            }
            "UPDATE" => {
                let new = new.unwrap();
                let id = record_id(&new, &keys);
                let base = before.and_then(|before| rows.remove(&before));
                let mut merged = base.or_else(|| rows.remove(&id)).unwrap_or_default();
                merged.extend(new);
                rows.insert(id.clone(), merged);
                id
            }
            "DELETE" => {
                assert!(new.is_none(), "a delete has no new row: {}", event.text);
                let before = before.unwrap();
                rows.remove(&before);
                before
            }
            other => panic!("unexpected event type {other}: {}", event.text),
        };
        self.complete(event, table, database).await;
        Some(about)
    }

    /// Reads what the log did not hold, as a client has to: a big value that a move left alone, say.
    async fn complete(&mut self, event: &Frame, table: usize, database: &Client) {
        let Some(unchanged) = event.json["unchanged"].as_array() else {
            return;
        };
        let table_ref = &self.schema.tables[table];
        let id = record_id(&event.new_row().unwrap(), &table_ref.key_columns());
        let rows = &self.rows[&table_ref.name];
        let has = |name: &serde_json::Value| rows[&id].contains_key(name.as_str().unwrap());
        if !unchanged.iter().all(has) {
            let found = self.read(database, table, Some(&id)).await;
            self.rows.get_mut(&table_ref.name).unwrap().extend(found);
        }
    }

    /// What Postgres holds for the organization: one record or all.
    pub async fn read(
        &self,
        database: &Client,
        table: usize,
        record: Option<&str>,
    ) -> BTreeMap<String, Row> {
        let id = self.schema.record_id(table, "t");
        let sql = format!(
            "SELECT {id}, row_to_json(t)::text FROM {} t WHERE {} = $1 AND ($2::text IS NULL OR {id} = $2)",
            self.schema.tables[table].name,
            self.schema.organization_of(table, "t"),
        );
        let rows = loop {
            match database.query(&sql, &[&self.organization, &record]).await {
                Ok(rows) => break rows,
                // A TRUNCATE of several tables may lock them the other way round.
                Err(error) if error.code() == Some(&SqlState::T_R_DEADLOCK_DETECTED) => {}
                Err(error) => panic!("{error:?}: {sql}"),
            }
        };
        rows.iter()
            .map(|found| (found.get(0), row(found.get(1))))
            .collect()
    }

    /// What Postgres holds for the organization in every table.
    pub async fn truth(&self, database: &Client) -> Rows {
        let mut rows = Rows::new();
        for (i, table) in self.schema.tables.iter().enumerate() {
            rows.insert(table.name.clone(), self.read(database, i, None).await);
        }
        rows
    }
}

/// The record id of a row, from its key columns.
fn record_id(row: &Row, keys: &[&str]) -> String {
    let text = |key: &&str| {
        let value = row
            .get(*key)
            .unwrap_or_else(|| panic!("no key column {key} in {row:?}"));
        match serde_json::from_str::<String>(value) {
            Ok(text) => text,
            Err(_) => value.clone(),
        }
    };
    match keys {
        [one] => text(one),
        several => {
            let parts: Vec<String> = several
                .iter()
                .map(|key| serde_json::Value::from(text(key)).to_string())
                .collect();
            format!("[{}]", parts.join(","))
        }
    }
}

/// A record on which a copy and Postgres differ.
pub struct Difference {
    pub table: String,
    pub record: String,
    /// How, for people.
    pub how: String,
}

/// Where a copy differs from the truth.
pub fn differences(copy: &Rows, truth: &Rows) -> Vec<Difference> {
    let mut found = Vec::new();
    for (table, expected) in truth {
        let actual = &copy[table];
        let records: BTreeSet<&String> = expected.keys().chain(actual.keys()).collect();
        for record in records {
            let how = match (actual.get(record), expected.get(record)) {
                (None, Some(row)) => format!("missing; Postgres has {row:?}"),
                (Some(row), None) => {
                    format!("too much; Postgres has it not, or not there: {row:?}")
                }
                (Some(got), Some(row)) if got != row => format!("got {got:?}\nPostgres {row:?}"),
                _ => continue,
            };
            found.push(Difference {
                table: table.clone(),
                record: record.clone(),
                how,
            });
        }
    }
    found
}
