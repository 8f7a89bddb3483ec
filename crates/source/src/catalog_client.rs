//! The connection beside the stream: what the catalog says of types and primary keys, and heartbeats.
//!
//! Every question has a limit in time: the stream stands still while it is asked.

use std::time::Duration;

use rowcast_model::Lsn;
use tokio_postgres::{
    Client, Row,
    types::{ToSql, Type},
};

use crate::{conninfo::ConnInfo, error::SourceError, liveness::Walsender, relation::TypeRow};

/// The prefix of heartbeats: written into the log, expected back, told to nobody.
pub const HEARTBEAT_PREFIX: &str = "rowcast.heartbeat";

/// How long an answer may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// Asks the catalog.
pub(crate) struct CatalogClient {
    info: ConnInfo,
    sql: Client,
}

impl CatalogClient {
    pub(crate) async fn connect(info: ConnInfo) -> Result<CatalogClient, SourceError> {
        let sql = info.connect("rowcast catalog").await?;
        Ok(CatalogClient { info, sql })
    }

    /// Whether the server, or the line to it, has ended the connection.
    pub(crate) fn is_closed(&self) -> bool {
        self.sql.is_closed()
    }

    async fn query(
        &self,
        statement: &str,
        parameters: &[(&(dyn ToSql + Sync), Type)],
    ) -> Result<Vec<Row>, SourceError> {
        // Typed, so that it takes one turn and leaves nothing prepared behind.
        let asking = self.sql.query_typed(statement, parameters);
        match tokio::time::timeout(ANSWER_LIMIT, asking).await {
            Ok(Ok(rows)) => Ok(rows),
            Ok(Err(error)) => Err(self.info.explain(&error)),
            Err(_) => Err(SourceError::Connection(
                "the catalog has not answered within 5 s".into(),
            )),
        }
    }

    /// Writes a heartbeat; returns where it stands, and what the server says of the stream of this slot.
    pub(crate) async fn heartbeat(
        &self,
        slot: &str,
    ) -> Result<(Lsn, Option<Walsender>), SourceError> {
        let rows = self
            .query(
                "SELECT pg_logical_emit_message(false, $1, '')::text, w.sent_lsn::text, w.reply_time::text
                 FROM (SELECT) one
                 LEFT JOIN pg_replication_slots s ON s.slot_name = $2
                 LEFT JOIN pg_stat_replication w ON w.pid = s.active_pid",
                &[(&HEARTBEAT_PREFIX, Type::TEXT), (&slot, Type::TEXT)],
            )
            .await?;
        let lsn = |row: &Row, i| {
            let text: Option<String> = row.get(i);
            text.and_then(|text| text.parse::<Lsn>().ok())
        };
        let row = rows.first();
        let written = row.and_then(|row| lsn(row, 0)).unwrap_or(Lsn::ZERO);
        let walsender = row.and_then(|row| {
            Some(Walsender {
                sent: lsn(row, 1)?,
                heard_us: row.get(2),
            })
        });
        Ok((written, walsender))
    }

    /// Whether there is a publication of this name.
    pub(crate) async fn has_publication(&self, name: &str) -> Result<bool, SourceError> {
        let rows = self
            .query(
                "SELECT EXISTS (SELECT FROM pg_publication WHERE pubname = $1)",
                &[(&name, Type::TEXT)],
            )
            .await?;
        Ok(rows.first().is_some_and(|row| row.get(0)))
    }

    /// The rows of these types; those that do not exist (any more) are left out.
    pub(crate) async fn types(&self, oids: &[u32]) -> Result<Vec<TypeRow>, SourceError> {
        let rows = self
            .query(
                "SELECT t.oid, t.typtype::text, t.typcategory::text, t.typelem, t.typbasetype, t.typdelim::text,
                        ARRAY(SELECT a.attname::text FROM pg_attribute a WHERE a.attrelid = t.typrelid
                              AND t.typrelid <> 0 AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum),
                        ARRAY(SELECT a.atttypid FROM pg_attribute a WHERE a.attrelid = t.typrelid
                              AND t.typrelid <> 0 AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum),
                        t.typname::text
                 FROM pg_type t WHERE t.oid = ANY($1)",
                &[(&oids, Type::OID_ARRAY)],
            )
            .await?;
        let first = |text: String| text.chars().next().unwrap_or(' ');
        Ok(rows
            .into_iter()
            .map(|row| {
                let (names, oids): (Vec<String>, Vec<u32>) = (row.get(6), row.get(7));
                TypeRow {
                    oid: row.get(0),
                    name: row.get::<_, String>(8).into(),
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
    pub(crate) async fn primary_key(&self, relation: u32) -> Result<Vec<String>, SourceError> {
        let rows = self
            .query(
                "SELECT a.attname::text FROM pg_index i
                 JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey)
                 WHERE i.indrelid = $1 AND i.indisprimary",
                &[(&relation, Type::OID)],
            )
            .await?;
        Ok(rows.into_iter().map(|row| row.get(0)).collect())
    }
}
