//! What the catalog says of types and primary keys.

use tokio_postgres::Client;

use crate::{error::SourceError, relation::TypeRow};

fn broken(error: tokio_postgres::Error) -> SourceError {
    SourceError::Connection(format!("asking for types: {error}"))
}

/// The rows of these types; those that do not exist (any more) are left out.
pub(crate) async fn types(sql: &Client, oids: &[u32]) -> Result<Vec<TypeRow>, SourceError> {
    let rows = sql
        .query(
            "SELECT t.oid, t.typtype::text, t.typcategory::text, t.typelem, t.typbasetype, t.typdelim::text,
                    ARRAY(SELECT a.attname::text FROM pg_attribute a WHERE a.attrelid = t.typrelid
                          AND t.typrelid <> 0 AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum),
                    ARRAY(SELECT a.atttypid FROM pg_attribute a WHERE a.attrelid = t.typrelid
                          AND t.typrelid <> 0 AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum)
             FROM pg_type t WHERE t.oid = ANY($1)",
            &[&oids],
        )
        .await
        .map_err(broken)?;
    let first = |text: String| text.chars().next().unwrap_or(' ');
    Ok(rows
        .into_iter()
        .map(|row| {
            let (names, oids): (Vec<String>, Vec<u32>) = (row.get(6), row.get(7));
            TypeRow {
                oid: row.get(0),
                class: first(row.get(1)),
                category: first(row.get(2)),
                element: row.get(3),
                base: row.get(4),
                delimiter: u8::try_from(first(row.get(5))).unwrap_or(b','),
                attributes: names.into_iter().zip(oids).collect(),
            }
        })
        .collect())
}

/// The names of the primary key columns of a table.
pub(crate) async fn primary_key(sql: &Client, relation: u32) -> Result<Vec<String>, SourceError> {
    let rows = sql
        .query(
            "SELECT a.attname::text FROM pg_index i
             JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey)
             WHERE i.indrelid = $1 AND i.indisprimary",
            &[&relation],
        )
        .await
        .map_err(broken)?;
    Ok(rows.into_iter().map(|row| row.get(0)).collect())
}
