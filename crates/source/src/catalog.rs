//! The configuration as it is now, as text, for routing to begin with; the log brings the changes.

use std::collections::HashMap;

use tokio_postgres::{Client, SimpleQueryMessage};

use crate::{conninfo::ConnInfo, error::SourceError, snapshot::Snapshot};

/// A row, by column name, as text.
pub type TextRow = HashMap<String, Option<String>>;

/// What routing begins with.
#[derive(Clone, Debug, Default)]
pub struct CatalogRows {
    /// `rowcast.tables`.
    pub tables: Vec<TextRow>,
    /// The one row of `rowcast.membership_source`.
    pub membership_source: Option<TextRow>,
    /// The membership table: its key columns, user, organization and role only.
    pub memberships: Vec<TextRow>,
    /// `rowcast.api_keys`.
    pub api_keys: Vec<TextRow>,
    /// `rowcast.channels`.
    pub channels: Vec<TextRow>,
    /// `rowcast.event_namespaces`.
    pub namespaces: Vec<TextRow>,
    /// `rowcast.client_events`.
    pub client_events: Vec<TextRow>,
    /// Whose changes all this holds.
    pub snapshot: Option<Snapshot>,
}

/// Reads the catalog, all as of one moment. Read it after streaming has begun: what changes in between comes by
/// the log too, and [`CatalogRows::snapshot`] tells which of that is known already.
///
/// # Errors
/// Why the database cannot be asked.
pub async fn load(info: &ConnInfo) -> Result<CatalogRows, SourceError> {
    let sql = info.connect("rowcast catalog").await?;
    sql.batch_execute(
        "SET datestyle = ISO; SET timezone = UTC; SET extra_float_digits = 1;
         BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY",
    )
    .await
    .map_err(|error| info.explain(&error))?;
    let read = async |query: String| {
        rows(&sql, &query)
            .await
            .map_err(|error| info.explain(&error))
    };
    let snapshot = read("SELECT pg_current_snapshot()::text AS now".into()).await?;
    let snapshot = snapshot
        .into_iter()
        .find_map(|mut row| Snapshot::parse(&row.remove("now")??));
    let tables = read("SELECT * FROM rowcast.tables".into()).await?;
    let membership_source = read("SELECT * FROM rowcast.membership_source".into())
        .await?
        .into_iter()
        .next();
    let query = read(MEMBERSHIP_QUERY.into()).await?;
    let memberships = match query.into_iter().find_map(|mut row| row.remove("query")?) {
        Some(query) => read(query).await?,
        None => Vec::new(),
    };
    let api_keys = read("SELECT * FROM rowcast.api_keys WHERE revoked_at IS NULL".into()).await?;
    let channels = read("SELECT * FROM rowcast.channels".into()).await?;
    let namespaces = read("SELECT * FROM rowcast.event_namespaces".into()).await?;
    let client_events = read("SELECT * FROM rowcast.client_events".into()).await?;
    Ok(CatalogRows {
        client_events,
        channels,
        namespaces,
        tables,
        membership_source,
        memberships,
        api_keys,
        snapshot,
    })
}

/// The statement that reads the membership table: nothing but what a membership is made of, by the name the
/// table has now. No casts: a `char(5)` or a `boolean` cast to text is not what the log says.
const MEMBERSHIP_QUERY: &str = "SELECT format('SELECT %s FROM %s',
        (SELECT string_agg(DISTINCT quote_ident(name), ', ')
         FROM unnest(key_columns || user_column || organization_column || coalesce(role_column, user_column)) name),
        relid::regclass) AS query
    FROM rowcast.membership_source WHERE EXISTS (SELECT FROM pg_class WHERE oid = relid)";

async fn rows(sql: &Client, query: &str) -> Result<Vec<TextRow>, tokio_postgres::Error> {
    let messages = sql.simple_query(query).await?;
    Ok(messages
        .into_iter()
        .filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(
                row.columns()
                    .iter()
                    .enumerate()
                    .map(|(i, column)| (column.name().to_owned(), row.get(i).map(str::to_owned)))
                    .collect(),
            ),
            _ => None,
        })
        .collect())
}
