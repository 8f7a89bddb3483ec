//! What is tracked and declared, read from the database as of one moment.

use std::collections::HashMap;

use serde_json::{Map, Value as Json};
use tokio_postgres::{Client, Row};

use crate::helper::{Column, HelperError, Namespace, PgType, Schema, Table, value_of};

const TABLES: &str = "
    SELECT t.relid, n.nspname, c.relname, t.columns, t.key_columns, t.rows, t.visibility = 'organization', t.operations,
        t.required_roles, t.user_column, t.owner_column, t.mask::text, t.organization_column
    FROM rowcast.tables t JOIN pg_class c ON c.oid = t.relid JOIN pg_namespace n ON n.oid = c.relnamespace";

const COLUMNS: &str = "
    SELECT attrelid, attname, format_type(atttypid, atttypmod), atttypid, attnotnull, attgenerated <> ''
    FROM pg_attribute WHERE attrelid = ANY ($1) AND attnum > 0 AND NOT attisdropped ORDER BY attrelid, attnum";

/// The types of columns, and all that those are made of.
const TYPES: &str = "
    WITH RECURSIVE wanted AS (
        SELECT DISTINCT atttypid AS oid FROM pg_attribute WHERE attrelid = ANY ($1) AND attnum > 0 AND NOT attisdropped
        UNION
        SELECT part FROM wanted w JOIN pg_type t ON t.oid = w.oid
        CROSS JOIN LATERAL (VALUES (t.typelem), (t.typbasetype)) parts(part) WHERE part <> 0
    )
    SELECT t.oid, t.typtype::text, t.typcategory::text, t.typelem, t.typbasetype,
        ARRAY(SELECT e.enumlabel::text FROM pg_enum e WHERE e.enumtypid = t.oid ORDER BY e.enumsortorder)
    FROM wanted w JOIN pg_type t ON t.oid = w.oid";

const NAMESPACES: &str = "SELECT namespace, events, description FROM rowcast.event_namespaces";

/// Reads it.
pub async fn schema(client: &Client) -> anyhow::Result<Schema> {
    let read = read(client).await;
    read.map_err(|error| match error.is::<HelperError>() {
        true => error,
        false => error.context("what is tracked and declared cannot be read"),
    })
}

async fn read(client: &Client) -> anyhow::Result<Schema> {
    // Names of the catalog are those of the catalog, whatever the role's path has.
    client
        .batch_execute(
            "SET search_path = pg_catalog; BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY",
        )
        .await?;
    let there = "SELECT to_regclass('rowcast.tables') IS NOT NULL";
    if !client.query_one(there, &[]).await?.get::<_, bool>(0) {
        return Err(HelperError::NotInstalled.into());
    }
    let rows = client.query(TABLES, &[]).await?;
    let ids: Vec<u32> = rows.iter().map(|row| row.get(0)).collect();
    let types = client.query(TYPES, &[&ids]).await?;
    let types: HashMap<u32, PgType> = types.iter().map(type_of).collect();
    let mut columns: HashMap<u32, Vec<Column>> = HashMap::new();
    for row in client.query(COLUMNS, &[&ids]).await? {
        let of = columns.entry(row.get(0)).or_default();
        of.push(column_of(&row, &types));
    }
    let tables = rows
        .iter()
        .map(|row| table_of(row, columns.remove(&row.get(0)).unwrap_or_default()));
    let namespaces = client.query(NAMESPACES, &[]).await?;
    let namespaces = namespaces.iter().map(|row| Namespace {
        name: row.get(0),
        events: row.get(1),
        description: row.get(2),
    });
    Ok(Schema {
        tables: tables.collect::<anyhow::Result<_>>()?,
        namespaces: namespaces.collect(),
    })
}

fn type_of(row: &Row) -> (u32, PgType) {
    let char = |at: usize| row.get::<_, &str>(at).chars().next().unwrap_or(' ');
    let found = PgType {
        class: char(1),
        category: char(2),
        element: row.get(3),
        base: row.get(4),
        labels: row.get(5),
    };
    (row.get(0), found)
}

fn column_of(row: &Row, types: &HashMap<u32, PgType>) -> Column {
    let not_null: bool = row.get(4);
    Column {
        name: row.get(1),
        type_name: row.get(2),
        value: value_of(row.get(3), types),
        nullable: !not_null,
        generated: row.get(5),
    }
}

fn table_of(row: &Row, columns: Vec<Column>) -> anyhow::Result<Table> {
    let masks: Option<&str> = row.get(11);
    let masks: Option<Map<String, Json>> = masks.map(serde_json::from_str).transpose()?;
    Ok(Table {
        schema: row.get(1),
        name: row.get(2),
        columns,
        told: row.get(3),
        key: row.get(4),
        rows: row.get(5),
        open: row.get(6),
        operations: row.get(7),
        roles: row.get(8),
        user: row.get(9),
        owner: row.get(10),
        organization: row.get(12),
        masks: masks.unwrap_or_default(),
    })
}
