//! Properties of the protocol: filters against a naive model, frames that always parse, no panic.
#![allow(clippy::unwrap_used)] // Helpers of tests are tests.

use std::{cmp::Ordering, sync::Arc};

use bytes::BytesMut;
use proptest::prelude::*;
use rowcast_model::{
    Audience, Body, ColumnMeta, Cursor, Epoch, JsonRow, JsonRowBuilder, Kind, Lsn, Operation,
    RoutedEvent, TableName, Timestamp, Topic, View,
};
use rowcast_wire::{
    EventClass, Filter, FilterLimits, Forms, Limits, Operand, Truth, encode_event,
    eq_key_of_literal, eq_key_of_value, parse, payload_of, should_deliver,
};
use serde_json::{Value, json};

/// A value of a column, as a person thinks of it.
#[derive(Clone, Debug, PartialEq)]
enum Cell {
    Null,
    /// Hundredths.
    Number(i64),
    Text(String),
    Bool(bool),
    /// Not in the log.
    Missing,
}

impl Cell {
    fn json(&self) -> Option<String> {
        match self {
            Cell::Null => Some("null".into()),
            Cell::Number(n) => Some(decimal(*n)),
            Cell::Text(text) => Some(Value::from(text.as_str()).to_string()),
            Cell::Bool(b) => Some(b.to_string()),
            Cell::Missing => None,
        }
    }
}

/// Hundredths as digits, sometimes with zeros that change nothing.
fn decimal(hundredths: i64) -> String {
    let sign = if hundredths < 0 { "-" } else { "" };
    let n = hundredths.unsigned_abs();
    match (n % 100, n % 7) {
        (0, 0..3) => format!("{sign}{}", n / 100),
        (_, 3) => format!("{sign}{n}e-2"),
        (_, 4) => format!("{sign}{}.{:02}000", n / 100, n % 100),
        _ => format!("{sign}{}.{:02}", n / 100, n % 100),
    }
}

fn number() -> impl Strategy<Value = Cell> {
    prop_oneof![
        3 => (-300_i64..300).prop_map(Cell::Number),
        1 => any::<i64>().prop_map(Cell::Number),
        1 => Just(Cell::Null),
        1 => Just(Cell::Missing),
    ]
}

fn text() -> impl Strategy<Value = Cell> {
    prop_oneof![
        4 => "[ab\"\\\\é%_\n]{0,3}".prop_map(Cell::Text),
        1 => Just(Cell::Null),
        1 => Just(Cell::Missing),
    ]
}

fn boolean() -> impl Strategy<Value = Cell> {
    prop_oneof![
        2 => any::<bool>().prop_map(Cell::Bool),
        1 => Just(Cell::Null),
        1 => Just(Cell::Missing),
    ]
}

type Cells = [Cell; 3];
const NAMES: [&str; 3] = ["n", "s", "b"];

fn columns() -> Arc<[ColumnMeta]> {
    let kinds = [Kind::Number, Kind::Text, Kind::Bool];
    let both = NAMES.iter().zip(kinds);
    both.map(|(name, kind)| ColumnMeta::new((*name).into(), kind))
        .collect()
}

fn row(cells: &Cells) -> JsonRow {
    let mut buffer = BytesMut::new();
    let mut builder = JsonRowBuilder::new(columns(), &mut buffer);
    for cell in cells {
        builder.column(|out| out.extend_from_slice(cell.json().unwrap_or_default().as_bytes()));
    }
    builder.finish()
}

fn cells() -> impl Strategy<Value = Cells> {
    (number(), text(), boolean()).prop_map(|(n, s, b)| [n, s, b])
}

/// A filter in the model: what it says, and how it is written.
#[derive(Clone, Debug)]
enum Model {
    And(Vec<Model>),
    Or(Vec<Model>),
    Not(Box<Model>),
    Compare(usize, &'static str, Cell),
    In(usize, Vec<Cell>),
    Is(usize, Option<bool>),
}

impl Model {
    fn json(&self) -> String {
        let list = |parts: &[Model]| {
            let parts: Vec<String> = parts.iter().map(Model::json).collect();
            parts.join(",")
        };
        let literal = |cell: &Cell| cell.json().unwrap();
        match self {
            Model::And(parts) => format!(r#"{{"and":[{}]}}"#, list(parts)),
            Model::Or(parts) => format!(r#"{{"or":[{}]}}"#, list(parts)),
            Model::Not(inner) => format!(r#"{{"not":{}}}"#, inner.json()),
            Model::Compare(column, op, cell) => format!(
                r#"{{"column":"{}","op":"{op}","value":{}}}"#,
                NAMES[*column],
                literal(cell)
            ),
            Model::In(column, cells) => {
                let cells: Vec<String> = cells.iter().map(literal).collect();
                let list = cells.join(",");
                format!(
                    r#"{{"column":"{}","op":"in","value":[{list}]}}"#,
                    NAMES[*column]
                )
            }
            Model::Is(column, what) => {
                json!({"column": NAMES[*column], "op": "is", "value": what}).to_string()
            }
        }
    }

    /// What SQL answers; `None` is its unknown.
    fn answers(&self, row: &Cells) -> Option<bool> {
        match self {
            Model::And(parts) => {
                let parts: Vec<_> = parts.iter().map(|part| part.answers(row)).collect();
                match () {
                    () if parts.contains(&Some(false)) => Some(false),
                    () if parts.contains(&None) => None,
                    () => Some(true),
                }
            }
            Model::Or(parts) => {
                let parts: Vec<_> = parts.iter().map(|part| part.answers(row)).collect();
                match () {
                    () if parts.contains(&Some(true)) => Some(true),
                    () if parts.contains(&None) => None,
                    () => Some(false),
                }
            }
            Model::Not(inner) => inner.answers(row).map(|holds| !holds),
            Model::Compare(column, op, cell) => {
                let order = match (&row[*column], cell) {
                    (Cell::Number(a), Cell::Number(b)) => a.cmp(b),
                    (Cell::Text(a), Cell::Text(b)) => a.as_bytes().cmp(b.as_bytes()),
                    (Cell::Bool(a), Cell::Bool(b)) => a.cmp(b),
                    _ => return None,
                };
                Some(match *op {
                    "eq" => order == Ordering::Equal,
                    "neq" => order != Ordering::Equal,
                    "lt" => order == Ordering::Less,
                    "lte" => order != Ordering::Greater,
                    "gt" => order == Ordering::Greater,
                    _ => order != Ordering::Less,
                })
            }
            Model::In(column, cells) => {
                let each = cells
                    .iter()
                    .map(|cell| Model::Compare(*column, "eq", cell.clone()));
                Model::Or(each.collect()).answers(row)
            }
            Model::Is(column, what) => match (&row[*column], what) {
                (cell, None) => Some(*cell == Cell::Null),
                (Cell::Null, Some(_)) => Some(false),
                (Cell::Bool(a), Some(b)) => Some(a == b),
                _ => None,
            },
        }
    }
}

fn model() -> impl Strategy<Value = Model> {
    let op = || prop::sample::select(vec!["eq", "neq", "lt", "lte", "gt", "gte"]);
    let literal = |cells: BoxedStrategy<Cell>| {
        cells.prop_filter("a value", |cell| {
            !matches!(cell, Cell::Null | Cell::Missing)
        })
    };
    let typed = [number().boxed(), text().boxed(), boolean().boxed()];
    let compare = (0_usize..3, op()).prop_flat_map({
        let typed = typed.clone();
        move |(column, op)| {
            literal(typed[column].clone()).prop_map(move |cell| Model::Compare(column, op, cell))
        }
    });
    let within = (0_usize..3).prop_flat_map(move |column| {
        prop::collection::vec(literal(typed[column].clone()), 0..4)
            .prop_map(move |cells| Model::In(column, cells))
    });
    let is = (0_usize..3, prop::option::of(any::<bool>())).prop_map(|(c, what)| Model::Is(c, what));
    prop_oneof![3 => compare, 1 => within, 1 => is].prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Model::And),
            prop::collection::vec(inner.clone(), 0..3).prop_map(Model::Or),
            inner.prop_map(|inner| Model::Not(Box::new(inner))),
        ]
    })
}

fn read(model: &Model) -> Filter {
    Filter::parse(&model.json(), &FilterLimits::default()).unwrap()
}

fn has_missing(row: &Cells) -> bool {
    row.contains(&Cell::Missing)
}

fn evaluate(filter: &Filter, row: &JsonRow) -> Truth {
    let kinds = columns();
    filter.evaluate(&|name: &str| {
        let kind = &kinds
            .iter()
            .find(|column| &*column.name == name)
            .unwrap()
            .kind;
        match row.get(name) {
            Some((_, json)) => Operand::Value(kind, json),
            None => Operand::Missing,
        }
    })
}

proptest! {
    #[test]
    fn filters_answer_as_sql_does(model in model(), cells in cells()) {
        let truth = evaluate(&read(&model), &row(&cells));
        if !has_missing(&cells) {
            let expected = match model.answers(&cells) {
                Some(true) => Truth::TRUE,
                Some(false) => Truth::FALSE,
                None => Truth::NULL,
            };
            prop_assert_eq!(truth, expected);
        }
    }

    /// Whatever the missing values are, the answer is one of those that were thought possible.
    #[test]
    fn missing_values_deny_nothing(model in model(), known in cells(), filled in cells()) {
        let fill = |cell: &Cell, by: &Cell| match cell {
            Cell::Missing if *by == Cell::Missing => Cell::Null,
            Cell::Missing => by.clone(),
            other => other.clone(),
        };
        let whole: Cells = [0, 1, 2].map(|i| fill(&known[i], &filled[i]));
        prop_assert!(evaluate(&read(&model), &row(&known)).may_be(model.answers(&whole)));
    }

    #[test]
    fn delivery_follows_its_rule(model in model(), new in cells(), old in prop::option::of(cells())) {
        let filter = read(&model);
        let body = |new: Option<&Cells>, old: Option<&Cells>| Body::Change {
            new: new.map(row),
            old: old.map(row),
            unchanged: Arc::new([]),
        };
        let truth = |cells: &Cells| evaluate(&filter, &row(cells));
        let insert = should_deliver(&filter, Operation::Insert, &body(Some(&new), None));
        prop_assert_eq!(insert, truth(&new).holds());
        let delete = should_deliver(&filter, Operation::Delete, &body(None, Some(&new)));
        prop_assert_eq!(delete, truth(&new).may_hold());
        let update = should_deliver(&filter, Operation::Update, &body(Some(&new), old.as_ref()));
        if truth(&new).holds() || old.as_ref().is_some_and(|old| truth(old).holds()) {
            prop_assert!(update);
        } else if !has_missing(&new) {
            prop_assert!(!update);
        }
    }

    #[test]
    fn equality_keys_agree_with_equality(a in cells(), b in cells(), column in 0_usize..3) {
        let (Some(json), Cell::Number(_) | Cell::Text(_) | Cell::Bool(_)) = (a[column].json(), &b[column]) else {
            return Ok(());
        };
        let model = Model::Compare(column, "eq", b[column].clone());
        let mut key = Vec::new();
        let found = eq_key_of_value(&columns()[column].kind, json.as_bytes(), &mut key);
        let filter = read(&model);
        let (_, literal) = filter.needed_equality().unwrap();
        let found = found && eq_key_of_literal(literal).contains(&key);
        prop_assert_eq!(found, model.answers(&a) == Some(true));
    }

    #[test]
    fn no_bytes_make_it_panic(bytes: Vec<u8>, limit in 0_usize..200) {
        let limits = Limits { frame_bytes: limit, ..Limits::default() };
        let _ = parse(&bytes, &limits);
        let _ = payload_of(&bytes);
    }

    #[test]
    fn nearly_right_frames_do_not_make_it_panic(
        text in r#"\{"type":"(subscribe|auth|ping|unsubscribe|token|x)"(,"(ref|channel|token|cursor|mode|tables|events|organizationId)":("[a-z:1-]{0,12}"|[0-9]{1,4}|null|\[\]|\{\}|\["changes"\]|\[\{"table":"t","filter":\{"column":"a","op":"(eq|in|is|like)","value":("%"|1e5|\[1\]|null)\}\}\])){0,6}\}"#,
        cut in 0_usize..300,
    ) {
        let _ = parse(text.as_bytes(), &Limits::default());
        let cut = cut.min(text.len());
        if let Some(part) = text.get(..cut) {
            let error = parse(part.as_bytes(), &Limits::default());
            prop_assert!(cut == text.len() || error.is_err());
        }
    }

    #[test]
    fn events_are_json_whatever_they_hold(
        names in (".{0,8}", ".{0,8}", ".{0,8}", ".{1,8}"),
        new in prop::option::of(cells()),
        old in prop::option::of(cells()),
        (changes, invalidations, last) in (any::<bool>(), any::<bool>(), any::<bool>()),
        padding in 0_usize..70_000,
    ) {
        let (schema, name, id, channel) = names;
        let id = format!("{id}{}", "x".repeat(padding));
        let event = RoutedEvent {
            cursor: Cursor { epoch: Epoch(1), commit_lsn: Lsn(2), index: 3 },
            commit_time: Timestamp(0),
            topic: Topic::Org("acme".into()),
            audience: Audience::default(),
            table: Arc::new(TableName { schema: schema.as_str().into(), name: name.as_str().into() }),
            op: Operation::Update,
            record_id: Some(id.as_str().into()),
            old_record_id: None,
            body: Body::Change { new: new.as_ref().map(row), old: old.as_ref().map(row), unchanged: Arc::new(["s".into()]) },
            last,
        };
        let class = EventClass {
            channel: &channel,
            organization: "acme",
            forms: Forms { changes, invalidations, broadcasts: true },
            columns: None,
            view: View::PLAIN,
            mark_last: true,
            voice: rowcast_wire::phoenix::Voice::NATIVE,
        };
        let frames = encode_event(&event, &class);
        let mut left = &frames[..];
        let mut seen = 0;
        while !left.is_empty() {
            let (payload, rest) = payload_of(left).unwrap();
            left = rest;
            seen += 1;
            let value: Value = serde_json::from_slice(payload).unwrap();
            prop_assert_eq!(&value["channel"], &channel);
            prop_assert_eq!(&value["table"], &name);
            prop_assert_eq!(value["last"] == true, last && left.is_empty());
            if value["type"] == "invalidate" {
                prop_assert_eq!(&value["recordId"], &id);
            }
        }
        prop_assert_eq!(seen, usize::from(changes) + usize::from(invalidations));
    }
}
