//! What one row costs in routing: `cargo run --release -p rowcast-routing --example per_row`.

#![allow(clippy::print_stdout)]

use std::{sync::Arc, time::Instant};

use bytes::Bytes;
use rowcast_model::{
    Column, Epoch, Kind, Lsn, Operation, Relation, RelationId, ReplicaIdentity, RowChange,
    SourceEvent, Timestamp, Tuple, TxHeader, Value, WalItem,
};
use rowcast_routing::{Catalog, Limits, Router, TableRule};

const ROWS: usize = 1_000_000;

fn relation() -> Arc<Relation> {
    let column = |name: &str, kind, key| Column {
        name: name.into(),
        type_oid: 25,
        type_name: "text".into(),
        key,
        record_key: key,
        kind,
    };
    Arc::new(Relation {
        id: RelationId(10),
        schema: "public".into(),
        name: "items".into(),
        identity: ReplicaIdentity::Default,
        columns: vec![
            column("id", Kind::Number, true),
            column("organization_id", Kind::Text, false),
            column("name", Kind::Text, false),
            column("created_at", Kind::Timestamp, false),
        ],
    })
}

fn rule() -> Option<TableRule> {
    TableRule::from_text(&|column| match column {
        "relid" => Some("10"),
        "schema_name" => Some("public"),
        "table_name" => Some("items"),
        "organization_column" => Some("organization_id"),
        "storage" => Some("log"),
        "published" => Some("t"),
        _ => None,
    })
    .ok()
}

/// Nanoseconds a row, with so many rows in each transaction.
fn measure(rows: usize) -> f64 {
    let relation = relation();
    let mut catalog = Catalog::new();
    if let Some(rule) = rule() {
        catalog.set_table(rule);
    }
    let mut router = Router::new(Limits::default(), catalog);
    let wal =
        Bytes::from_static(b"12345678acmea name of usual length2026-01-02 03:04:05.678901+00");
    let text = |from: usize, to: usize| Value::Text(wal.slice(from..to));
    let prefix: Arc<str> = "rowcast".into();
    let content: Bytes =
        format!(r#"{{"v":1,"t":10,"op":"INSERT","n":{rows},"org":"acme"}}"#).into();
    let (mut events, mut bytes) = (0, 0);
    let begin = Instant::now();
    for tx in 0..ROWS / rows {
        let mut say = |event| {
            router.apply(event);
            while let Some(batch) = router.take_batch() {
                events += batch.ops.len();
                bytes += batch.bytes;
            }
        };
        say(SourceEvent::Start {
            epoch: Epoch(0),
            reason: None,
        });
        say(SourceEvent::Begin(TxHeader {
            xid: 1,
            commit_lsn: Lsn(tx as u64 + 1),
            commit_time: Timestamp(0),
        }));
        for _ in 0..rows {
            let new = vec![text(0, 8), text(8, 12), text(12, 34), text(34, 63)];
            let change = RowChange {
                relation: relation.clone(),
                op: Operation::Insert,
                new: Some(Tuple(new)),
                old: None,
            };
            say(SourceEvent::Item {
                item: WalItem::Change(change),
                bytes: 80,
            });
        }
        let (prefix, content) = (prefix.clone(), content.clone());
        say(SourceEvent::Item {
            item: WalItem::Message { prefix, content },
            bytes: 60,
        });
        say(SourceEvent::Commit {
            end_lsn: Lsn(tx as u64 + 2),
        });
    }
    let spent = begin.elapsed();
    assert!(events >= ROWS && bytes > 0, "every row must come out");
    spent.as_nanos() as f64 / ROWS as f64
}

fn main() {
    let given: Vec<usize> = std::env::args()
        .skip(1)
        .filter_map(|arg| arg.parse().ok())
        .collect();
    let rows = if given.is_empty() {
        vec![1, 1_000]
    } else {
        given
    };
    for rows in rows {
        let mut runs: Vec<f64> = (0..5).map(|_| measure(rows)).collect();
        runs.sort_by(f64::total_cmp);
        println!(
            "{rows:>5} rows a transaction: {:.0} ns a row (median of 5)",
            runs[2]
        );
    }
}
