//! Writes logs as Postgres would, and reads what comes out.

use std::sync::Arc;

use bytes::Bytes;
use rowcast_model::*;
use rowcast_routing::{Catalog, Limits, Router, TableRule};

pub const NULL: Option<&str> = None;

/// A table with text columns; those whose name ends with `*` are its key.
pub fn table(id: u32, name: &str, columns: &[&str]) -> Arc<Relation> {
    relation(id, "public", name, columns, ReplicaIdentity::Default)
}

/// The same with REPLICA IDENTITY FULL.
pub fn full_table(id: u32, name: &str, columns: &[&str]) -> Arc<Relation> {
    relation(id, "public", name, columns, ReplicaIdentity::Full)
}

pub fn relation(
    id: u32,
    schema: &str,
    name: &str,
    columns: &[&str],
    identity: ReplicaIdentity,
) -> Arc<Relation> {
    let columns = columns
        .iter()
        .map(|column| {
            let record_key = column.ends_with('*');
            Column {
                name: column.trim_end_matches('*').into(),
                type_oid: 25,
                type_name: "text".into(),
                key: record_key || identity == ReplicaIdentity::Full,
                record_key,
                kind: Kind::Text,
            }
        })
        .collect();
    Arc::new(Relation {
        id: RelationId(id),
        schema: schema.into(),
        name: name.into(),
        identity,
        columns,
    })
}

/// A rule for a table, all columns as text.
pub fn rule(relation: &Relation, settings: &[(&str, &str)]) -> TableRule {
    let id = relation.id.0.to_string();
    let get = |column: &str| {
        let set = settings.iter().find(|(name, _)| *name == column);
        match (set, column) {
            (Some((_, text)), _) => Some(*text),
            (None, "relid") => Some(id.as_str()),
            (None, "schema_name") => Some(&*relation.schema),
            (None, "table_name") => Some(&*relation.name),
            (None, "storage") => Some("log"),
            (None, "published") => Some("t"),
            _ => None,
        }
    };
    TableRule::from_text(&get).unwrap()
}

pub fn catalog(rules: impl IntoIterator<Item = TableRule>) -> Catalog {
    let mut catalog = Catalog::new();
    for rule in rules {
        catalog.set_table(rule);
    }
    catalog
}

pub fn router(rules: impl IntoIterator<Item = TableRule>) -> Router {
    router_within(Limits::default(), catalog(rules))
}

pub fn router_within(limits: Limits, catalog: Catalog) -> Router {
    let mut router = Router::new(limits, catalog);
    router.apply(SourceEvent::Start {
        epoch: Epoch(1),
        reason: None,
    });
    router
}

pub fn tuple(values: &[Option<&str>]) -> Tuple {
    Tuple(
        values
            .iter()
            .map(|value| match value {
                None => Value::Null,
                Some("<unchanged>") => Value::Unchanged,
                Some(text) => Value::Text(Bytes::copy_from_slice(text.as_bytes())),
            })
            .collect(),
    )
}

/// The log of one transaction.
#[derive(Clone, Debug)]
pub struct Log {
    pub events: Vec<SourceEvent>,
    end: Lsn,
}

impl Log {
    pub fn at(lsn: u64) -> Log {
        let header = TxHeader {
            xid: u32::try_from(lsn).unwrap(),
            commit_lsn: Lsn(lsn),
            commit_time: Timestamp(7),
        };
        Log {
            events: vec![SourceEvent::Begin(header)],
            end: Lsn(lsn + 8),
        }
    }

    pub fn item(&mut self, item: WalItem, bytes: u32) -> &mut Log {
        self.events.push(SourceEvent::Item { item, bytes });
        self
    }

    fn change(
        &mut self,
        relation: &Arc<Relation>,
        op: Operation,
        new: Option<Tuple>,
        old: Option<OldTuple>,
    ) -> &mut Log {
        let relation = relation.clone();
        self.item(
            WalItem::Change(RowChange {
                relation,
                op,
                new,
                old,
            }),
            100,
        )
    }

    pub fn insert(&mut self, relation: &Arc<Relation>, new: &[Option<&str>]) -> &mut Log {
        self.change(relation, Operation::Insert, Some(tuple(new)), None)
    }

    pub fn update(
        &mut self,
        relation: &Arc<Relation>,
        old: Option<OldTuple>,
        new: &[Option<&str>],
    ) -> &mut Log {
        self.change(relation, Operation::Update, Some(tuple(new)), old)
    }

    pub fn delete(&mut self, relation: &Arc<Relation>, old: OldTuple) -> &mut Log {
        self.change(relation, Operation::Delete, None, Some(old))
    }

    pub fn truncate(&mut self, relation: &Arc<Relation>) -> &mut Log {
        self.item(WalItem::Truncate(vec![relation.clone()]), 20)
    }

    pub fn message(&mut self, content: impl AsRef<str>) -> &mut Log {
        let content = Bytes::copy_from_slice(content.as_ref().as_bytes());
        let bytes = u32::try_from(content.len()).unwrap();
        let prefix = "rowcast".into();
        self.item(WalItem::Message { prefix, content }, bytes)
    }

    /// A row of `realtime_table_events`.
    pub fn event(&mut self, relation: &Relation, row: EventRow<'_>) -> &mut Log {
        let id = relation.id.0.to_string();
        let rows = row.row_count.map(|count| count.to_string());
        self.insert(
            &events_table(),
            &[
                Some("1"),
                Some(row.org),
                Some(&*relation.schema),
                Some(&*relation.name),
                Some(row.event),
                row.record,
                Some("2026-01-01 00:00:00+00"),
                Some(&id),
                row.operation,
                row.user,
                rows.as_deref(),
                row.changed,
            ],
        )
    }

    pub fn commit(&mut self) -> Log {
        let end_lsn = self.end;
        self.events.push(SourceEvent::Commit { end_lsn });
        self.clone()
    }
}

#[derive(Clone, Copy, Debug, Default)]
pub struct EventRow<'a> {
    pub org: &'a str,
    pub event: &'a str,
    pub record: Option<&'a str>,
    pub operation: Option<&'a str>,
    pub user: Option<&'a str>,
    pub row_count: Option<u64>,
    pub changed: Option<&'a str>,
}

pub fn events_table() -> Arc<Relation> {
    relation(
        90,
        "public",
        "realtime_table_events",
        &[
            "id",
            "organization_id",
            "table_schema",
            "table_name",
            "event_type",
            "record_id",
            "created_at",
            "relation_id",
            "operation",
            "user_id",
            "row_count",
            "changed",
        ],
        ReplicaIdentity::Full,
    )
}

/// Feeds a log and gives all batches.
pub fn feed(router: &mut Router, events: &[SourceEvent]) -> Vec<Batch> {
    let mut out = Vec::new();
    for event in events {
        router.apply(event.clone());
        while let Some(batch) = router.take_batch() {
            out.push(batch);
        }
    }
    out
}

/// Feeds the log of one transaction and gives its events.
pub fn events(router: &mut Router, log: &Log) -> Vec<RoutedEvent> {
    events_of(&feed(router, &log.events))
}

pub fn events_of(batches: &[Batch]) -> Vec<RoutedEvent> {
    let ops = batches.iter().flat_map(|batch| &batch.ops);
    ops.filter_map(|op| match op {
        HubOp::Event(event) => Some(RoutedEvent::clone(event)),
        _ => None,
    })
    .collect()
}

pub fn object(row: &JsonRow) -> String {
    let mut out = Vec::new();
    row.write_object(&mut out, |_| true);
    String::from_utf8(out).unwrap()
}

/// One line about an event: `acme INSERT items#1 {"id":"1"} <- null`.
pub fn line(event: &RoutedEvent) -> String {
    let topic = match &event.topic {
        Topic::Org(org) => org.to_string(),
        Topic::AllOrgs => "*".into(),
        Topic::Channel(org, name) => format!("{}/{name}", org.as_ref().map_or("*", OrgId::as_str)),
        Topic::User(user) => user.to_string(),
    };
    let user = event
        .audience
        .user
        .as_ref()
        .map_or(String::new(), |user| format!("@{user}"));
    let record = event
        .record_id
        .as_ref()
        .map_or(String::new(), |id| format!("#{id}"));
    let row = |row: &Option<JsonRow>| row.as_ref().map_or("null".into(), object);
    let body = match &event.body {
        Body::Invalidate => "invalidate".into(),
        Body::Message(message) => return format!("{topic}{user} says {:?}", message.says),
        Body::Change {
            new,
            old,
            unchanged,
        } => {
            let unchanged = match unchanged.is_empty() {
                true => String::new(),
                false => format!(" unchanged {}", unchanged.join(",")),
            };
            format!("{} <- {}{unchanged}", row(new), row(old))
        }
    };
    let (op, table) = (event.op.as_str(), &event.table.name);
    format!("{topic}{user} {op} {table}{record} {body}")
}

pub fn lines(events: &[RoutedEvent]) -> Vec<String> {
    events.iter().map(line).collect()
}
