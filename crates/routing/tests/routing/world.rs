//! Random statements that nest as triggers nest: their log, and what should come of it.

use std::sync::Arc;

use proptest::prelude::*;
use rowcast_model::*;
use rowcast_routing::Catalog;

use crate::support::*;

/// One row of a statement: where it was and where it is, as numbers of organizations; 0 is nowhere.
#[derive(Clone, Debug)]
struct RowPlan {
    record: u8,
    before: u8,
    after: u8,
}

#[derive(Clone, Debug)]
struct Statement {
    table: usize,
    op: Operation,
    rows: Vec<RowPlan>,
    /// Statements of triggers before the first row, and after the last.
    ahead: Vec<Statement>,
    behind: Vec<Statement>,
    /// Above the row limit.
    bulk: bool,
}

/// What an organization should be told.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Expected {
    pub index: u32,
    pub org: String,
    pub op: Operation,
    pub table: String,
    /// `None`: the table as a whole.
    pub value: Option<String>,
}

fn statement() -> impl Strategy<Value = Statement> {
    let row = (0..4u8, 0..4u8, 0..4u8).prop_map(|(record, before, after)| RowPlan {
        record,
        before,
        after,
    });
    let ops = vec![Operation::Insert, Operation::Update, Operation::Delete];
    let leaf = (
        0..4usize,
        prop::sample::select(ops.clone()),
        prop::collection::vec(row, 0..4),
        prop::bool::weighted(0.1),
    )
        .prop_map(|(table, op, mut rows, bulk)| {
            // Inside a statement a record changes once.
            let mut seen = std::collections::HashSet::new();
            rows.retain(|row| seen.insert(row.record));
            Statement {
                table,
                op,
                rows,
                ahead: Vec::new(),
                behind: Vec::new(),
                bulk,
            }
        });
    leaf.prop_recursive(3, 12, 3, |inner| {
        (
            inner.clone(),
            prop::collection::vec(inner.clone(), 0..2),
            prop::collection::vec(inner, 0..3),
        )
            .prop_map(|(mut outer, ahead, behind)| {
                outer.ahead.extend(ahead);
                outer.behind.extend(behind);
                outer
            })
    })
}

struct World {
    tables: Vec<Arc<Relation>>,
    log: Log,
    index: u32,
    serial: u32,
    expected: Vec<Expected>,
}

/// Tables by storage and by replica identity.
pub fn tables() -> Vec<Arc<Relation>> {
    vec![
        table(10, "logged", &["id*", "v"]),
        full_table(11, "logged_full", &["id*", "v"]),
        table(12, "stored", &["id*", "v"]),
        full_table(13, "stored_full", &["id*", "v"]),
    ]
}

pub fn rules(tables: &[Arc<Relation>], columns: Option<&str>) -> Catalog {
    catalog(tables.iter().map(|table| {
        let storage = if table.name.starts_with("logged") {
            "log"
        } else {
            "table"
        };
        let mut settings = vec![("storage", storage)];
        settings.extend(columns.map(|columns| ("columns", columns)));
        rule(table, &settings)
    }))
}

/// The id of a row. A row of `realtime_table_events` is not written for a row that belongs nowhere,
/// so that a nested statement on the same record could not be told apart: such rows are apart here.
fn record(table: &Relation, statement: &Statement, row: &RowPlan) -> String {
    let nowhere = row.after == 0 || (row.before == 0 && statement.op == Operation::Update);
    match nowhere && table.name.starts_with("stored") {
        true => format!("{}-{:p}", row.record, statement),
        false => row.record.to_string(),
    }
}

fn org(number: u8) -> Option<String> {
    (number > 0).then(|| format!("org{number}"))
}

impl World {
    fn new() -> World {
        World {
            tables: tables(),
            log: Log::at(50),
            index: 0,
            serial: 0,
            expected: Vec::new(),
        }
    }

    fn run(&mut self, statement: &Statement) {
        for inner in &statement.ahead {
            self.run(inner);
        }
        let table = self.tables[statement.table].clone();
        let mut values = Vec::new();
        for row in &statement.rows {
            values.push((self.index, self.change(&table, statement, row)));
        }
        for inner in &statement.behind {
            self.run(inner);
        }
        if !statement.rows.is_empty() {
            self.tell(&table, statement, &values);
        }
    }

    /// Writes a change; gives the value by which it is known.
    fn change(&mut self, table: &Arc<Relation>, statement: &Statement, row: &RowPlan) -> String {
        self.serial += 1;
        let op = statement.op;
        let value = self.serial.to_string();
        let id = record(table, statement, row);
        let image = [Some(id.as_str()), Some(value.as_str())];
        let full = table.identity == ReplicaIdentity::Full;
        let old = match full {
            true => OldTuple::Full(tuple(&image)),
            false => OldTuple::Key(tuple(&[Some(&id), NULL])),
        };
        match op {
            Operation::Insert => self.log.insert(table, &image),
            Operation::Update => self.log.update(table, full.then_some(old), &image),
            _ => self.log.delete(table, old),
        };
        self.index += if op == Operation::Update { 2 } else { 1 };
        value
    }

    fn tell(&mut self, table: &Arc<Relation>, statement: &Statement, values: &[(u32, String)]) {
        let op = statement.op;
        let n = statement.rows.len() as u32;
        let update = op == Operation::Update;
        let now = |row: &RowPlan| org(row.after);
        let before = |row: &RowPlan| {
            if update {
                org(row.before)
            } else {
                org(row.after)
            }
        };
        let logged = table.name.starts_with("logged");
        let mut all: Vec<String> = statement
            .rows
            .iter()
            .flat_map(|row| [now(row), before(row)])
            .flatten()
            .collect();
        all.sort();
        all.dedup();
        if statement.bulk {
            for (k, org) in all.iter().enumerate() {
                self.expect(self.index + k as u32, org, op, table, None);
            }
            if logged {
                self.log.message(
                    serde_json::json!({"v":1,"t":table.id,"op":op,"n":n,"bulk":all}).to_string(),
                );
                self.index += (all.len() as u32).max(1);
            }
            for org in all.iter().filter(|_| !logged) {
                let row = EventRow {
                    org,
                    event: op.as_str(),
                    row_count: Some(n.into()),
                    ..EventRow::default()
                };
                self.log.event(table, row);
                self.index += 1;
            }
            return;
        }
        for (row, (index, value)) in statement.rows.iter().zip(values) {
            let (was, is) = (before(row), now(row));
            if was == is {
                if let Some(org) = is {
                    self.expect(*index, &org, op, table, Some(value));
                }
                continue;
            }
            if let Some(org) = was {
                self.expect(*index, &org, Operation::Delete, table, Some(value));
            }
            if let Some(org) = is {
                self.expect(*index + 1, &org, Operation::Insert, table, Some(value));
            }
        }
        if logged {
            let orgs: Vec<_> = statement.rows.iter().map(now).collect();
            let mut message = serde_json::json!({"v":1,"t":table.id,"op":op,"n":n});
            let old: Vec<_> = statement.rows.iter().map(before).collect();
            if orgs.iter().all(|org| *org == orgs[0]) && orgs[0].is_some() {
                message["org"] = serde_json::json!(orgs[0]);
                self.index += 1;
            } else {
                message["orgs"] = serde_json::json!(orgs);
                self.index += n;
            }
            if old != orgs {
                message["old"] = serde_json::json!(old);
                self.index += n;
            }
            self.log.message(message.to_string());
            return;
        }
        for row in &statement.rows {
            let (was, is, id) = (before(row), now(row), record(table, statement, row));
            let mut event = |org: Option<String>, event, operation| {
                let Some(org) = org else { return };
                let record = Some(id.as_str());
                let row = EventRow {
                    org: &org,
                    event,
                    record,
                    operation,
                    ..EventRow::default()
                };
                self.log.event(table, row);
                self.index += 1;
            };
            if was == is {
                event(is, op.as_str(), None);
            } else {
                event(was, "DELETE", Some("UPDATE"));
                event(is, "INSERT", Some("UPDATE"));
            }
        }
    }

    fn expect(
        &mut self,
        index: u32,
        org: &str,
        op: Operation,
        table: &Relation,
        value: Option<&String>,
    ) {
        self.expected.push(Expected {
            index,
            org: org.into(),
            op,
            table: table.name.to_string(),
            value: value.cloned(),
        });
    }

    /// The log, and what should come of it.
    fn finish(mut self) -> (Vec<SourceEvent>, Vec<Expected>) {
        self.expected.sort();
        // One event about a whole table stands for all of the transaction.
        let mut told = std::collections::HashSet::new();
        self.expected.retain(|event| {
            event.value.is_some() || told.insert((event.org.clone(), event.table.clone(), event.op))
        });
        (self.log.commit().events, self.expected)
    }
}

/// A log that prints itself briefly.
#[derive(Clone)]
pub struct Script(pub Vec<SourceEvent>);

impl std::ops::Deref for Script {
    type Target = [SourceEvent];
    fn deref(&self) -> &[SourceEvent] {
        &self.0
    }
}

impl std::fmt::Debug for Script {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for event in &self.0 {
            match event {
                SourceEvent::Item { item, .. } => match item {
                    WalItem::Change(change) => {
                        let values = change.new.as_ref().map(|new| &new.0);
                        writeln!(f, "{:?} {} {values:?}", change.op, change.relation.name)?;
                    }
                    other => writeln!(f, "{other:?}")?,
                },
                other => writeln!(f, "{other:?}")?,
            }
        }
        Ok(())
    }
}

pub fn script() -> impl Strategy<Value = (Script, Vec<Expected>)> {
    prop::collection::vec(statement(), 1..6).prop_map(|statements| {
        let mut world = World::new();
        for statement in &statements {
            world.run(statement);
        }
        let (log, expected) = world.finish();
        (Script(log), expected)
    })
}
