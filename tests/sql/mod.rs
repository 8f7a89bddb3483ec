//! What lives in the database, alone: no service runs. Events are read from `realtime_table_events`
//! and messages from a slot.

mod client_events;
mod describe;
mod paths;
mod rules;
mod supabase;
mod tell;
mod upkeep;

use crate::harness::{
    postgres::{Database, Sql},
    world::migrate,
};

/// A migrated database with a connection.
async fn fresh() -> (Database, Sql) {
    let database = Database::fresh().await;
    migrate(&database).await;
    let sql = database.connect().await;
    (database, sql)
}

/// The rows of `realtime_table_events` as `event table organization record operation user count`, and
/// none after that.
async fn told(sql: &Sql) -> String {
    let said = sql
        .text(
            "SELECT string_agg(concat_ws(' ', event_type, table_name, organization_id,
                coalesce(record_id, '-'), 'by ' || operation, 'for ' || user_id, 'of ' || row_count), ', ' ORDER BY id)
             FROM realtime_table_events",
        )
        .await;
    sql.exec("DELETE FROM realtime_table_events").await;
    said
}

/// A slot from which the messages of a test are read.
struct Messages<'a> {
    sql: &'a Sql,
    slot: String,
}

impl<'a> Messages<'a> {
    async fn of(database: &Database, sql: &'a Sql) -> Messages<'a> {
        let slot = format!("said_{}", database.name);
        sql.exec(&format!(
            "SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput')"
        ))
        .await;
        Messages { sql, slot }
    }

    /// The contents of the messages since the last call, with names of tables for oids.
    async fn said(&self) -> Vec<String> {
        let contents = self
            .sql
            .text(&format!(
                r"SELECT string_agg(content, E'\n') FROM (
                    SELECT convert_from(substr(data, position('rowcast'::bytea IN data) + 12), 'UTF8') AS content
                    FROM pg_logical_slot_get_binary_changes('{}', NULL, NULL,
                        'proto_version', '1', 'publication_names', 'rowcast', 'messages', 'true')
                    WHERE substr(data, 1, 1) = 'M' AND position('rowcast'::bytea IN data) > 0) said",
                self.slot
            ))
            .await;
        let mut said = Vec::new();
        for content in contents.lines() {
            let mut json: serde_json::Value = serde_json::from_str(content).unwrap();
            let oid = json["t"].clone();
            json["t"] = self
                .sql
                .text(&format!("SELECT {oid}::oid::regclass"))
                .await
                .into();
            assert_eq!(json["v"], 1);
            json.as_object_mut().unwrap().remove("v");
            said.push(json.to_string());
        }
        said
    }

    /// Slots are shared by all tests, and few.
    async fn end(self) {
        self.sql
            .exec(&format!("SELECT pg_drop_replication_slot('{}')", self.slot))
            .await;
    }
}
