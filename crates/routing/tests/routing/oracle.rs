//! Random statements that nest as triggers nest, with an oracle that knows which change belongs where.

use std::{collections::BTreeMap, sync::Arc};

use proptest::prelude::*;
use rowcast_model::*;
use rowcast_routing::{Catalog, Limits};

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
struct Expected {
    index: u32,
    org: String,
    op: Operation,
    table: String,
    /// `None`: the table as a whole.
    value: Option<String>,
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
fn tables() -> Vec<Arc<Relation>> {
    vec![
        table(10, "logged", &["id*", "v"]),
        full_table(11, "logged_full", &["id*", "v"]),
        table(12, "stored", &["id*", "v"]),
        full_table(13, "stored_full", &["id*", "v"]),
    ]
}

fn rules(tables: &[Arc<Relation>], columns: Option<&str>) -> Catalog {
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
struct Script(Vec<SourceEvent>);

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

fn script() -> impl Strategy<Value = (Script, Vec<Expected>)> {
    prop::collection::vec(statement(), 1..6).prop_map(|statements| {
        let mut world = World::new();
        for statement in &statements {
            world.run(statement);
        }
        let (log, expected) = world.finish();
        (Script(log), expected)
    })
}

/// What an event told, in the words of the oracle. The value of a DELETE is in the old row only with
/// REPLICA IDENTITY FULL, and never when the row moved.
fn told(event: &RoutedEvent) -> Expected {
    let Topic::Org(org) = &event.topic else {
        panic!("{event:?}");
    };
    let value = match &event.body {
        Body::Invalidate => None,
        Body::Change { new, old, .. } => {
            let row = new.as_ref().or(old.as_ref()).unwrap();
            let value = row.get("v").map(|(_, json)| json.to_vec());
            let text = value.map(|json| serde_json::from_slice(&json).unwrap());
            Some(text.unwrap_or_else(|| "?".to_owned()))
        }
    };
    Expected {
        index: event.cursor.index,
        org: org.to_string(),
        op: event.op,
        table: event.table.name.to_string(),
        value,
    }
}

fn matches(told: &Expected, expected: &Expected) -> bool {
    let mut expected = expected.clone();
    if told.value.as_deref() == Some("?") && told.op == Operation::Delete {
        expected.value = expected.value.map(|_| "?".to_owned());
    }
    *told == expected
}

fn by_topic(events: &[RoutedEvent]) -> BTreeMap<String, Vec<RoutedEvent>> {
    let mut topics: BTreeMap<String, Vec<RoutedEvent>> = BTreeMap::new();
    for event in events {
        topics
            .entry(told(event).org)
            .or_default()
            .push(event.clone());
    }
    topics
}

fn limits(batch_bytes: usize) -> Limits {
    Limits {
        batch_bytes,
        ..Limits::default()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Every change goes exactly where the oracle says, in the order of the writes.
    #[test]
    fn every_change_finds_its_event((log, expected) in script()) {
        let mut router = router_within(Limits::default(), rules(&tables(), None));
        let events = events_of(&feed(&mut router, &log));
        let all: Vec<_> = events.iter().map(told).collect();
        prop_assert_eq!(all.len(), expected.len(), "{:#?}\n{:#?}", all, expected);
        for (told, expected) in all.iter().zip(&expected) {
            prop_assert!(matches(told, expected), "{:?}\n{:?}", told, expected);
        }
        prop_assert_eq!(router.stats().unmatched_events, 0);
        prop_assert_eq!(router.stats().pending_bytes, 0);
    }

    /// In parts of any size, each topic has the same events in the same order and one last event.
    #[test]
    fn parts_change_nothing_on_a_topic((log, _) in script(), batch_bytes in 1..4000usize) {
        let mut whole = router_within(Limits::default(), rules(&tables(), None));
        let mut parts = router_within(limits(batch_bytes), rules(&tables(), None));
        let whole = by_topic(&events_of(&feed(&mut whole, &log)));
        let batches = feed(&mut parts, &log);
        prop_assert_eq!(&whole, &by_topic(&events_of(&batches)));
        for events in whole.values() {
            let last: Vec<_> = events.iter().map(|event| event.last).collect();
            prop_assert_eq!(last.iter().filter(|last| **last).count(), 1);
            prop_assert_eq!(last.last(), Some(&true));
        }
        let acks: Vec<_> = batches.iter().map(|batch| batch.ack).collect();
        prop_assert!(acks.iter().rev().skip(1).all(Option::is_none));
        prop_assert_eq!(acks.last(), Some(&Some(Lsn(58))));
    }

    /// A reconnect anywhere, with everything repeated, changes nothing.
    #[test]
    fn a_reconnect_changes_nothing((log, _) in script(), batch_bytes in 1..4000usize, cut in 0..100usize) {
        let mut once = router_within(limits(batch_bytes), rules(&tables(), None));
        let once = by_topic(&events_of(&feed(&mut once, &log)));
        let mut twice = router_within(limits(batch_bytes), rules(&tables(), None));
        let mut batches = feed(&mut twice, &log[..cut % log.len()]);
        batches.extend(feed(&mut twice, &[SourceEvent::Start { epoch: Epoch(1), reason: None }]));
        batches.extend(feed(&mut twice, &log));
        prop_assert_eq!(once, by_topic(&events_of(&batches)));
        prop_assert_eq!(batches.last().and_then(|batch| batch.ack), Some(Lsn(58)));
    }

    /// Other rules, same positions.
    #[test]
    fn rules_renumber_nothing((log, _) in script(), dropped in 0..4usize) {
        let all = tables();
        let mut every = router_within(Limits::default(), rules(&all, None));
        let mut fewer = all.clone();
        let gone = fewer.remove(dropped);
        let mut some = router_within(Limits::default(), rules(&fewer, Some("{id,v}")));
        let position = |event: &RoutedEvent| (event.cursor, event.topic.clone(), event.op);
        let every = events_of(&feed(&mut every, &log));
        let every: Vec<_> = every.iter().filter(|event| event.table.name != gone.name).map(position).collect();
        let some = events_of(&feed(&mut some, &log));
        // A hand-made trigger may tell of a table without a rule.
        let some: Vec<_> = some.iter().filter(|event| event.table.name != gone.name).map(position).collect();
        prop_assert_eq!(every, some);
    }

    /// Whatever the budget: every change is told, as itself or by an event about its table; and
    /// nothing is told that is not true.
    #[test]
    fn a_small_budget_never_lies((log, expected) in script(), transaction_bytes in 0..6000usize, batch_bytes in 1..3000usize) {
        let limits = Limits { transaction_bytes, batch_bytes };
        let mut router = router_within(limits, rules(&tables(), None));
        let events = events_of(&feed(&mut router, &log));
        let all: Vec<_> = events.iter().map(told).collect();
        for expected in &expected {
            let whole = |told: &&Expected| told.value.is_none() && told.org == expected.org && told.table == expected.table;
            prop_assert!(
                all.iter().any(|told| matches(told, expected)) || all.iter().any(|told| whole(&told)),
                "{:?} is missing in {:#?}", expected, all
            );
        }
        for told in all.iter().filter(|told| told.value.is_some()) {
            prop_assert!(expected.iter().any(|expected| matches(told, expected)), "{:?}", told);
        }
        for events in by_topic(&events).values() {
            let last = events.iter().filter(|event| event.last).count();
            prop_assert!(last <= 1);
        }
    }

    /// Any items in any order, with any text: no panic, and no event of a table without a rule.
    #[test]
    fn total_on_anything(items in prop::collection::vec(anything(), 0..40)) {
        let mut router = router_within(limits(500), rules(&tables(), None));
        for event in events_of(&feed(&mut router, &items)) {
            prop_assert!(event.cursor.index < 10_000);
        }
    }
}

fn anything() -> impl Strategy<Value = SourceEvent> {
    let text = prop_oneof![
        Just("1".to_owned()),
        Just("10".to_owned()),
        Just("INSERT".to_owned()),
        Just("<unchanged>".to_owned()),
        ".{0,6}",
    ];
    let values = prop::collection::vec(prop::option::of(text), 0..12);
    let relations = {
        let mut all = tables();
        all.push(events_table());
        for (id, name) in [
            (91, "tables"),
            (92, "memberships"),
            (93, "membership_source"),
            (94, "api_keys"),
        ] {
            all.push(relation(
                id,
                "rowcast",
                name,
                &["relid*", "id", "user_id"],
                ReplicaIdentity::Default,
            ));
        }
        all
    };
    let ops = vec![
        Operation::Insert,
        Operation::Update,
        Operation::Delete,
        Operation::Truncate,
    ];
    let change = (
        prop::sample::select(relations),
        prop::sample::select(ops.clone()),
        values.clone(),
        values,
        0..3u8,
        any::<u32>(),
    )
        .prop_map(|(relation, op, new, old, old_kind, bytes)| {
            let image = |values: &[Option<String>]| {
                tuple(
                    &values
                        .iter()
                        .map(|value| value.as_deref())
                        .collect::<Vec<_>>(),
                )
            };
            let old = match old_kind {
                0 => None,
                1 => Some(OldTuple::Key(image(&old))),
                _ => Some(OldTuple::Full(image(&old))),
            };
            let item = WalItem::Change(RowChange {
                relation,
                op,
                new: Some(image(&new)).filter(|_| op != Operation::Delete),
                old,
            });
            SourceEvent::Item {
                item,
                bytes: bytes % 10_000,
            }
        });
    let message = (
        10..14u32,
        prop::sample::select(ops.clone()),
        any::<u64>(),
        "[a-c\"\\[\\],{}:]{0,30}",
    )
        .prop_map(|(table, op, n, tail)| {
            let op = op.as_str();
            let n = if n % 3 == 0 { n } else { n % 4 };
            let content = match n % 2 {
                0 => format!(r#"{{"v":1,"t":{table},"op":"{op}","n":{n},"org":"a"}}"#),
                _ => format!(r#"{{"v":1,"t":{table},"op":"{op}","n":{n},{tail}}}"#),
            };
            let item = WalItem::Message {
                prefix: "rowcast".into(),
                content: content.into(),
            };
            SourceEvent::Item { item, bytes: 10 }
        });
    prop_oneof![
        6 => change,
        2 => message,
        1 => (1..5u64).prop_map(|lsn| Log::at(lsn).events[0].clone()),
        1 => (1..5u64).prop_map(|lsn| SourceEvent::Commit { end_lsn: Lsn(lsn) }),
        1 => (0..2u32).prop_map(|epoch| SourceEvent::Start { epoch: Epoch(epoch), reason: None }),
        1 => (0..9u64).prop_map(|lsn| SourceEvent::Idle { lsn: Lsn(lsn) }),
    ]
}
