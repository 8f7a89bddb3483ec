//! What the log does not tell because it happened before: rules, members, API keys and channels, by SELECT.

use rowcast_model::{Batch, Cursor, Epoch, HubOp, Lsn};
use rowcast_routing::{
    Catalog, MembershipSource, RoutingError, TableRule, channel_from_text, client_event_from_text,
    key_from_text, namespace_from_text,
};
use rowcast_source::{CatalogRows, ConnInfo, Snapshot, SourceError, TextRow, load_catalog};

/// The state to begin with.
#[derive(Debug, Default)]
pub struct Beginning {
    /// For routing.
    pub catalog: Catalog,
    /// For the hub.
    pub ops: Vec<HubOp>,
    /// How far the log was written when this was read: current is who has handed on so much.
    pub written: Lsn,
    /// Which transactions this holds already.
    pub snapshot: Option<Snapshot>,
}

/// Members and keys that were read hold what the log tells up to then: told once more, it would make members
/// of those who were members once.
#[derive(Debug)]
pub struct Known {
    snapshot: Snapshot,
    /// From here on the log tells nothing that is known.
    until: Lsn,
}

impl Beginning {
    /// What the log need not tell again.
    pub fn known(&self) -> Option<Known> {
        let until = self.written;
        let snapshot = self.snapshot.clone()?;
        Some(Known { snapshot, until })
    }
}

impl Known {
    /// Whether this holds what that transaction did.
    fn holds(&self, batch: &Batch) -> bool {
        batch.xid.is_some_and(|xid| self.snapshot.sees(xid))
    }

    /// Whether all that was known has gone by with this batch.
    fn is_over(&self, batch: &Batch) -> bool {
        batch.ack.is_some_and(|lsn| lsn >= self.until)
    }
}

/// Takes out of a batch what was read by SELECT, about members and about keys.
pub fn forget_known(batch: &mut Batch, members: &mut Option<Known>, keys: &mut Option<Known>) {
    let holds = |known: &Option<Known>| known.as_ref().is_some_and(|known| known.holds(batch));
    let (members_known, keys_known) = (holds(members), holds(keys));
    if members_known || keys_known {
        batch.ops.retain(|op| match op {
            HubOp::Membership(_) | HubOp::MembershipsCleared => !members_known,
            HubOp::ApiKey(_) | HubOp::ApiKeysCleared => !keys_known,
            // Read at the same moment as the keys.
            HubOp::Rule { .. } | HubOp::RulesCleared => !keys_known,
            _ => true,
        });
    }
    for known in [members, keys] {
        if known.as_ref().is_some_and(|known| known.is_over(batch)) {
            *known = None;
        }
    }
}

/// Reads everything.
pub async fn load(sql: &ConnInfo) -> Result<Beginning, SourceError> {
    let rows = load_catalog(sql).await?;
    let client = sql.connect("rowcast position").await?;
    let written: String = client
        .query_one("SELECT pg_current_wal_flush_lsn()::text", &[])
        .await
        .map_err(|error| sql.explain(&error))?
        .get(0);
    let mut beginning = understand(&rows);
    beginning.written = written.parse().unwrap_or(Lsn::ZERO);
    tracing::info!(
        tables = rows.tables.len(),
        memberships = rows.memberships.len(),
        api_keys = rows.api_keys.len(),
        "read the configuration"
    );
    Ok(beginning)
}

/// Reads the memberships again: they are in another table from here on.
pub async fn memberships(sql: &ConnInfo) -> Result<Beginning, SourceError> {
    let mut beginning = load(sql).await?;
    beginning
        .ops
        .retain(|op| matches!(op, HubOp::MembershipsCleared | HubOp::Membership(_)));
    Ok(beginning)
}

/// Says where the log begins, and where that becomes the present. The position before a place in the log is
/// the last one that is known to be over.
pub fn log_begins(epoch: Epoch, floor: Lsn, written: Lsn) -> HubOp {
    HubOp::LogBegins {
        floor: Cursor::before(epoch, floor),
        target: Cursor::before(epoch, written.max(floor)),
    }
}

/// Steps that belong to no transaction.
pub fn batch(ops: Vec<HubOp>) -> Batch {
    Batch {
        bytes: ops.len() * 128,
        ops,
        ..Batch::default()
    }
}

/// Pure: rows to state. What cannot be understood is left out and said.
fn understand(rows: &CatalogRows) -> Beginning {
    let mut catalog = Catalog::new();
    let mut rules = vec![HubOp::RulesCleared];
    for row in &rows.tables {
        if let Some(rule) = said(TableRule::from_text(&|name| text(row, name))) {
            rules.push(HubOp::Rule {
                table: rule.name.clone(),
                now: Some(rule.shown()),
            });
            catalog.set_table(rule);
        }
    }
    let source = rows
        .membership_source
        .as_ref()
        .and_then(|row| said(MembershipSource::from_text(&|name| text(row, name))))
        .unwrap_or_default();
    let mut ops = vec![HubOp::MembershipsCleared];
    ops.extend(
        rows.memberships
            .iter()
            .map(|row| HubOp::Membership(source.change_from_text(&|name| text(row, name)))),
    );
    catalog.set_membership_source(source);
    ops.push(HubOp::ApiKeysCleared);
    ops.extend(
        rows.api_keys
            .iter()
            .filter_map(|row| said(key_from_text(&|name| text(row, name))))
            .map(HubOp::ApiKey),
    );
    ops.push(HubOp::ChannelsCleared);
    ops.extend(
        rows.channels
            .iter()
            .filter_map(|row| said(channel_from_text(&|name| text(row, name))))
            .map(HubOp::Channel),
    );
    ops.push(HubOp::NamespacesCleared);
    ops.extend(
        rows.namespaces
            .iter()
            .filter_map(|row| said(namespace_from_text(&|name| text(row, name))))
            .map(HubOp::Namespace),
    );
    // Nobody followed the plans until now.
    ops.push(HubOp::PlansChanged);
    ops.push(HubOp::ClientEventsCleared);
    ops.extend(
        rows.client_events
            .iter()
            .filter_map(|row| said(client_event_from_text(&|name| text(row, name))))
            .map(HubOp::ClientEvent),
    );
    ops.append(&mut rules);
    Beginning {
        catalog,
        ops,
        written: Lsn::ZERO,
        snapshot: rows.snapshot.clone(),
    }
}

fn text<'a>(row: &'a TextRow, name: &str) -> Option<&'a str> {
    row.get(name)?.as_deref()
}

fn said<T>(result: Result<T, RoutingError>) -> Option<T> {
    result
        .inspect_err(|problem| tracing::warn!(code = problem.code(), "{problem}"))
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(pairs: &[(&str, &str)]) -> TextRow {
        pairs
            .iter()
            .map(|(name, value)| (name.to_string(), Some(value.to_string())))
            .collect()
    }

    #[test]
    fn what_was_read_is_not_told_again_until_the_log_is_past_it() {
        let snapshot = || Snapshot::parse("10:20:12").unwrap();
        let known = || {
            let until = Lsn(100);
            let snapshot = snapshot();
            Some(Known { snapshot, until })
        };
        let batch = |xid, ack| Batch {
            xid: Some(xid),
            ops: vec![HubOp::MembershipsCleared, HubOp::ApiKeysCleared],
            ack: Some(Lsn(ack)),
            bytes: 0,
        };
        let left = |xid, members: &mut Option<Known>, keys: &mut Option<Known>| {
            let mut batch = batch(xid, 50);
            forget_known(&mut batch, members, keys);
            batch.ops.len()
        };
        let (mut members, mut keys) = (known(), None);
        // Known; still running then; later.
        assert_eq!(left(11, &mut members, &mut keys), 1);
        assert_eq!(left(12, &mut members, &mut keys), 2);
        assert_eq!(left(20, &mut members, &mut keys), 2);
        keys = known();
        assert_eq!(left(11, &mut members, &mut keys), 0);
        forget_known(&mut batch(21, 100), &mut members, &mut keys);
        assert!(members.is_none() && keys.is_none());
        assert_eq!(left(11, &mut members, &mut keys), 2);
    }

    #[test]
    fn rows_become_rules_members_and_keys_and_nonsense_is_left_out() {
        let table = row(&[
            ("relid", "77"),
            ("schema_name", "public"),
            ("table_name", "tasks"),
            ("organization_column", "organization_id"),
            ("operations", "{INSERT,UPDATE,DELETE}"),
            ("required_roles", "{}"),
            ("rows", "t"),
            ("visibility", "organization"),
            ("storage", "table"),
            ("strict", "f"),
            ("max_rows", "10000"),
            ("key_columns", "{id}"),
            ("published", "t"),
        ]);
        let rows = CatalogRows {
            tables: vec![table, row(&[("relid", "not a number")])],
            membership_source: None,
            memberships: vec![row(&[("user_id", "u"), ("organization_id", "o")])],
            api_keys: vec![
                row(&[("id", "k"), ("hash", "h"), ("organization_id", "o")]),
                row(&[]),
            ],
            channels: vec![
                row(&[
                    ("pattern", "room:*"),
                    ("rule", "public"),
                    ("scope", "global"),
                ]),
                row(&[
                    ("pattern", "room:x"),
                    ("rule", "nonsense"),
                    ("scope", "global"),
                ]),
            ],
            namespaces: Vec::new(),
            client_events: Vec::new(),
            snapshot: None,
        };
        let beginning = understand(&rows);
        assert!(beginning.catalog.table_named("public", "tasks").is_some());
        assert_eq!(beginning.catalog.tables().count(), 1);
        let keys = beginning
            .ops
            .iter()
            .filter(|op| matches!(op, HubOp::ApiKey(_)))
            .count();
        let members = beginning
            .ops
            .iter()
            .filter(|op| matches!(op, HubOp::Membership(_)))
            .count();
        let channels = beginning.ops.iter();
        let channels = channels.filter(|op| matches!(op, HubOp::Channel(_)));
        assert_eq!((keys, members, channels.count()), (1, 1, 1));
        assert_eq!(beginning.ops.first(), Some(&HubOp::MembershipsCleared));
    }
}
