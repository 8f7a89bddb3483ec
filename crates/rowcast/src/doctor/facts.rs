//! What is looked at: one plain value, gathered with a handful of queries that need no special rights.

use tokio_postgres::{Client, Error, error::SqlState};

use super::provider::Provider;
use crate::{config::Config, migrations};

/// Everything the judgement needs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Facts {
    /// Who runs the database.
    pub provider: Provider,
    /// `server_version_num`, such as 150018.
    pub version_num: i32,
    /// The server is a standby.
    pub standby: bool,
    /// The parameter.
    pub wal_level: String,
    /// The parameter, and how many slots there are.
    pub slots: (i64, i64),
    /// The parameter, and how many are in use.
    pub senders: (i64, i64),
    /// The parameter in bytes; `None` is without limit.
    pub keep_size: Option<i64>,
    /// The parameter in milliseconds; 0 is never.
    pub sender_timeout_ms: i64,
    /// The role we are.
    pub role: String,
    /// The role may replicate.
    pub may_replicate: bool,
    /// The schema `rowcast` is there.
    pub schema: bool,
    /// Rights that the role lacks, each with the statement.
    pub missing_rights: Vec<String>,
    /// Files of migrations that are missing or changed.
    pub pending: Vec<String>,
    /// Versions that the database has and this program does not know.
    pub newer: Vec<i32>,
    /// The wanted slot, and what there is under its name.
    pub slot_name: String,
    /// What there is.
    pub slot: Option<Slot>,
    /// Name of the publication.
    pub publication: String,
    /// Tables in it; `None`: there is no publication.
    pub published: Option<i64>,
    /// Tracked tables.
    pub tracked: i64,
    /// Memberships, counted to a thousand.
    pub memberships: Option<i64>,
    /// What `rowcast.check()` says: level, topic, what, fix.
    pub checks: Vec<(String, String, String, String)>,
    /// `replication.wal_limit` in bytes.
    pub wal_limit: Option<i64>,
    /// `history.wal_bytes`.
    pub history_wal: i64,
    /// The status interval that the service is configured for, in milliseconds.
    pub status_interval_ms: u64,
}

/// A replication slot.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Slot {
    /// The output plugin.
    pub plugin: String,
    /// In which database.
    pub database: String,
    /// It is in this database.
    pub here: bool,
    /// Somebody reads it.
    pub active: bool,
    /// `reserved`, `extended`, `unreserved`, `lost`.
    pub wal_status: String,
    /// WAL that it keeps on the disk, in bytes.
    pub retained: i64,
    /// How far its reader is behind, in bytes.
    pub behind: i64,
    /// Why it cannot be used any more, where the server says so.
    pub invalidation: Option<String>,
    /// Standbys keep a copy of it; `None`: the server does not know such slots.
    pub failover: Option<bool>,
}

/// Looks at a database.
pub async fn gather(client: &Client, config: &Config) -> Result<Facts, Error> {
    let roles: Vec<String> = Provider::ROLES.map(str::to_owned).to_vec();
    let row = client.query_one(SERVER, &[&roles]).await?;
    let found: Vec<String> = row.get("providers");
    let mut facts = Facts {
        provider: Provider::detect(found.iter().map(String::as_str)),
        version_num: row.get("version_num"),
        standby: row.get("standby"),
        wal_level: row.get("wal_level"),
        slots: (row.get("max_slots"), row.get("used_slots")),
        senders: (row.get("max_senders"), row.get("used_senders")),
        keep_size: row.get("keep_size"),
        sender_timeout_ms: row.get("sender_timeout"),
        role: row.get("role"),
        may_replicate: row.get("may_replicate"),
        schema: row.get("has_schema"),
        slot_name: config.replication.slot.clone(),
        publication: config.replication.publication.clone(),
        status_interval_ms: u64::try_from(config.replication.status_interval.0.as_millis())
            .unwrap_or(u64::MAX),
        wal_limit: config
            .replication
            .wal_limit
            .map(|limit| i64::try_from(limit.0).unwrap_or(i64::MAX)),
        history_wal: i64::try_from(config.history.wal_bytes.0).unwrap_or(i64::MAX),
        ..Facts::default()
    };
    if facts.standby {
        return Ok(facts);
    }
    facts.slot = client
        .query_opt(SLOT, &[&facts.slot_name])
        .await?
        .map(|row| Slot {
            plugin: row.get("plugin"),
            database: row.get("database"),
            here: row.get("here"),
            active: row.get("active"),
            wal_status: row.get("wal_status"),
            retained: row.get("retained"),
            behind: row.get("behind"),
            invalidation: row.get("invalidation"),
            failover: row.get("failover"),
        });
    let published = client.query_one(PUBLICATION, &[&facts.publication]).await?;
    facts.published = published.get(0);
    if facts.schema {
        in_schema(client, &mut facts).await?;
    } else {
        facts.pending = migrations::all()
            .iter()
            .map(|migration| migration.name.to_owned())
            .collect();
    }
    Ok(facts)
}

async fn in_schema(client: &Client, facts: &mut Facts) -> Result<(), Error> {
    if let Some(recorded) = allowed(migrations::recorded(client).await)? {
        let ours = migrations::all();
        let plan = migrations::plan(&ours, &recorded);
        facts.newer = plan.unknown;
        facts.pending = plan
            .apply
            .iter()
            .map(|(migration, _)| migration.name.to_owned())
            .collect();
    }
    let rows = client.query(RIGHTS, &[]).await?;
    facts.missing_rights = rows.iter().map(|row| row.get(0)).collect();
    let counted = client
        .query_one("SELECT count(*) FROM rowcast.tables", &[])
        .await;
    facts.tracked = allowed(counted)?.map_or(0, |row| row.get(0));
    facts.memberships = match allowed(client.query_one(MEMBERSHIP_SOURCE, &[]).await)? {
        Some(row) => {
            let name: String = row.get(0);
            let sql = format!("SELECT count(*) FROM (SELECT FROM {name} LIMIT 1000) AS few");
            allowed(client.query_one(&sql, &[]).await)?.map(|row| row.get(0))
        }
        None => None,
    };
    let checks = client
        .query("SELECT level, topic, what, fix FROM rowcast.check()", &[])
        .await;
    for row in allowed(checks)?.unwrap_or_default() {
        let text = |i: usize| row.get::<_, Option<String>>(i).unwrap_or_default();
        facts.checks.push((text(0), text(1), text(2), text(3)));
    }
    Ok(())
}

/// What the role may not see, or an older schema does not have, is told by other findings.
fn allowed<T>(result: Result<T, Error>) -> Result<Option<T>, Error> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(error)
            if matches!(
                error.code(),
                Some(
                    &SqlState::INSUFFICIENT_PRIVILEGE
                        | &SqlState::UNDEFINED_FUNCTION
                        | &SqlState::UNDEFINED_TABLE
                        | &SqlState::UNDEFINED_COLUMN
                )
            ) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

const SERVER: &str = "
SELECT current_setting('server_version_num')::int AS version_num,
       pg_is_in_recovery() AS standby,
       current_setting('wal_level') AS wal_level,
       current_setting('max_replication_slots')::bigint AS max_slots,
       (SELECT count(*) FROM pg_replication_slots) AS used_slots,
       current_setting('max_wal_senders')::bigint AS max_senders,
       (SELECT count(*) FROM pg_stat_replication) AS used_senders,
       (SELECT nullif(setting::bigint, -1) * 1024 * 1024 FROM pg_settings
        WHERE name = 'max_slot_wal_keep_size') AS keep_size,
       (SELECT setting::bigint FROM pg_settings WHERE name = 'wal_sender_timeout') AS sender_timeout,
       quote_ident(current_user) AS role,
       (SELECT rolreplication OR rolsuper FROM pg_roles WHERE rolname = current_user)
           OR coalesce((SELECT pg_has_role(current_user, oid, 'USAGE') FROM pg_roles
                        WHERE rolname = 'rds_replication'), false) AS may_replicate,
       EXISTS (SELECT FROM pg_namespace WHERE nspname = 'rowcast') AS has_schema,
       ARRAY(SELECT rolname::text FROM pg_roles WHERE rolname = ANY($1)) AS providers";

const SLOT: &str = "
SELECT coalesce(plugin, '(physical)')::text AS plugin, coalesce(database, '')::text AS database,
       database IS NOT DISTINCT FROM current_database() AS here, active,
       coalesce(wal_status, 'unknown') AS wal_status,
       coalesce(pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn), 0)::bigint AS retained,
       coalesce(pg_wal_lsn_diff(pg_current_wal_lsn(), confirmed_flush_lsn), 0)::bigint AS behind,
       nullif(to_jsonb(s) ->> 'invalidation_reason', '') AS invalidation,
       (to_jsonb(s) ->> 'failover')::bool AS failover
FROM pg_replication_slots s WHERE slot_name = $1";

const PUBLICATION: &str = "
SELECT (SELECT (SELECT count(*) FROM pg_publication_tables AS t WHERE t.pubname = p.pubname)
        FROM pg_publication AS p WHERE p.pubname = $1)";

const MEMBERSHIP_SOURCE: &str = "
SELECT format('%I.%I', schema_name, table_name) FROM rowcast.membership_source";

/// What the service reads and calls, and the role may not.
const RIGHTS: &str = "
SELECT 'schema rowcast' WHERE NOT has_schema_privilege('rowcast', 'USAGE')
UNION ALL
SELECT 'rowcast.' || c.relname FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname = 'rowcast' AND c.relname = ANY ('{tables,memberships,membership_source,api_keys,slots}')
  AND NOT has_table_privilege(c.oid, 'SELECT')
UNION ALL
SELECT p.oid::regprocedure::text FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace
WHERE n.nspname = 'rowcast' AND p.proname = ANY ('{note_slot,maintain,sync_publication,check}')
  AND NOT has_function_privilege(p.oid, 'EXECUTE')";
