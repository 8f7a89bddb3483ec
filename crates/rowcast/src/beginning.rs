//! What the log does not tell because it happened before: rules, members and API keys, by SELECT.

use rowcast_model::{Batch, HubOp, Lsn};
use rowcast_routing::{Catalog, MembershipSource, RoutingError, TableRule, key_from_text};
use rowcast_source::{CatalogRows, ConnInfo, SourceError, TextRow, load_catalog};

/// The state to begin with.
#[derive(Debug, Default)]
pub struct Beginning {
    /// For routing.
    pub catalog: Catalog,
    /// For the hub.
    pub ops: Vec<HubOp>,
    /// How far the log was written when this was read: current is who has handed on so much.
    pub written: Lsn,
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
pub async fn memberships(sql: &ConnInfo) -> Result<Vec<HubOp>, SourceError> {
    let rows = load_catalog(sql).await?;
    let mut ops = understand(&rows).ops;
    ops.retain(|op| matches!(op, HubOp::MembershipsCleared | HubOp::Membership(_)));
    Ok(ops)
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
    for row in &rows.tables {
        if let Some(rule) = said(TableRule::from_text(&|name| text(row, name))) {
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
    Beginning {
        catalog,
        ops,
        written: Lsn::ZERO,
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
        assert_eq!((keys, members), (1, 1));
        assert_eq!(beginning.ops.first(), Some(&HubOp::MembershipsCleared));
    }
}
