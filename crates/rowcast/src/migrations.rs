//! The migrations of `sql/`: what is in this program, what a database has, and what is to be done.
//!
//! Every file may be applied again. When one has changed since it was applied, it and all after it
//! are applied, since later files may replace what earlier ones made.

use sha2::{Digest, Sha256};
use tokio_postgres::Client;

/// Key of the advisory lock, so that two services do not migrate at once.
const LOCK: i64 = 0x726f_7763_6173_7400;

const FILES: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/migrations.rs"));

/// What is made only where it is wanted: its name in `sql/`, and its text. No version: it may be applied whenever.
pub const SUPABASE: (&str, &str) = (
    "optional/supabase.sql",
    include_str!("../../../sql/optional/supabase.sql"),
);

/// One file of `sql/`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Migration {
    /// The number its name begins with.
    pub version: i32,
    /// The name of the file.
    pub name: &'static str,
    /// Its text.
    pub sql: &'static str,
    /// Hex SHA-256 of its text.
    pub checksum: String,
}

/// A migration as the database remembers it: version and checksum.
pub type Recorded = (i32, String);

/// What is to be done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan<'a> {
    /// To apply, in order, each with "it has changed since it was applied".
    pub apply: Vec<(&'a Migration, bool)>,
    /// Versions that the database has and this program does not know: a newer one was here.
    pub unknown: Vec<i32>,
}

/// All migrations of this program, in order.
pub fn all() -> Vec<Migration> {
    FILES
        .iter()
        .filter_map(|(name, sql)| {
            Some(Migration {
                version: name.split('_').next()?.parse().ok()?,
                name,
                sql,
                checksum: hex(&Sha256::digest(sql.as_bytes())),
            })
        })
        .collect()
}

/// Decides what to apply.
pub fn plan<'a>(ours: &'a [Migration], recorded: &[Recorded]) -> Plan<'a> {
    let checksum = |version: i32| {
        recorded
            .iter()
            .find(|(known, _)| *known == version)
            .map(|(_, checksum)| checksum.as_str())
    };
    let first = ours
        .iter()
        .position(|migration| checksum(migration.version) != Some(&migration.checksum))
        .unwrap_or(ours.len());
    Plan {
        apply: ours[first..]
            .iter()
            .map(|migration| (migration, checksum(migration.version).is_some()))
            .collect(),
        unknown: recorded
            .iter()
            .map(|(version, _)| *version)
            .filter(|version| !ours.iter().any(|known| known.version == *version))
            .collect(),
    }
}

/// What the database remembers; empty when it was never migrated.
pub async fn recorded(client: &Client) -> Result<Vec<Recorded>, tokio_postgres::Error> {
    let there = client
        .query_one("SELECT to_regclass('rowcast.migrations') IS NOT NULL", &[])
        .await?
        .get::<_, bool>(0);
    if !there {
        return Ok(Vec::new());
    }
    let rows = client
        .query(
            "SELECT version, checksum FROM rowcast.migrations ORDER BY version",
            &[],
        )
        .await?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// A migration failed.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    /// The database refused.
    #[error("{step}: {}", explain(.source))]
    Database {
        /// Which step.
        step: String,
        /// What the database said.
        source: tokio_postgres::Error,
    },
    /// A newer program was here.
    #[error(
        "the database has migrations that this version does not know ({}); use the newer rowcast",
        .0.iter().map(i32::to_string).collect::<Vec<_>>().join(", ")
    )]
    Newer(Vec<i32>),
}

impl MigrateError {
    /// A stable code for programs.
    pub fn code(&self) -> &'static str {
        match self {
            MigrateError::Database { .. } => "migration_failed",
            MigrateError::Newer(_) => "schema_newer",
        }
    }
}

/// What the server said, with hint; the client's own text names only the severity.
pub fn explain(error: &tokio_postgres::Error) -> String {
    let Some(db) = error.as_db_error() else {
        let cause = std::error::Error::source(error);
        return cause.map_or(error.to_string(), |cause| format!("{error}: {cause}"));
    };
    let mut text = format!("{} (SQLSTATE {})", db.message(), db.code().code());
    for more in [db.detail(), db.hint()].into_iter().flatten() {
        text.push_str("; ");
        text.push_str(more);
    }
    text
}

/// Applies what is missing, under a lock; says each step to `report`.
pub async fn apply(
    client: &mut Client,
    mut report: impl FnMut(&Migration, bool),
) -> Result<usize, MigrateError> {
    let failed = |step: &str| {
        let step = step.to_owned();
        move |source| MigrateError::Database { step, source }
    };
    client
        .execute("SELECT pg_advisory_lock($1)", &[&LOCK])
        .await
        .map_err(failed("waiting for another migration"))?;
    let ours = all();
    let recorded = recorded(client)
        .await
        .map_err(failed("reading rowcast.migrations"))?;
    let plan = plan(&ours, &recorded);
    if !plan.unknown.is_empty() {
        return Err(MigrateError::Newer(plan.unknown));
    }
    let count = plan.apply.len();
    for (migration, again) in plan.apply {
        let step = format!("applying {}", migration.name);
        apply_one(client, migration).await.map_err(failed(&step))?;
        report(migration, again);
    }
    client
        .execute("SELECT pg_advisory_unlock($1)", &[&LOCK])
        .await
        .map_err(failed("letting go of the lock"))?;
    Ok(count)
}

/// Applies [`SUPABASE`], as one transaction.
pub async fn apply_supabase(client: &mut Client) -> Result<(), MigrateError> {
    let (name, sql) = SUPABASE;
    let apply = async {
        let transaction = client.transaction().await?;
        transaction.batch_execute(sql).await?;
        transaction.commit().await
    };
    apply.await.map_err(|source| MigrateError::Database {
        step: format!("applying {name}"),
        source,
    })
}

async fn apply_one(
    client: &mut Client,
    migration: &Migration,
) -> Result<(), tokio_postgres::Error> {
    let transaction = client.transaction().await?;
    transaction.batch_execute(migration.sql).await?;
    // The session settings of a file end with it.
    transaction
        .batch_execute(
            "CREATE SCHEMA IF NOT EXISTS rowcast;
             CREATE TABLE IF NOT EXISTS rowcast.migrations (
                 version integer PRIMARY KEY,
                 name text NOT NULL,
                 checksum text NOT NULL,
                 applied_at timestamptz NOT NULL DEFAULT now()
             )",
        )
        .await?;
    transaction
        .execute(
            "INSERT INTO rowcast.migrations (version, name, checksum) VALUES ($1, $2, $3)
             ON CONFLICT (version) DO UPDATE
             SET name = excluded.name, checksum = excluded.checksum, applied_at = now()",
            &[&migration.version, &migration.name, &migration.checksum],
        )
        .await?;
    transaction.commit().await
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn migrations(checksums: &[&str]) -> Vec<Migration> {
        (1..)
            .zip(checksums)
            .map(|(version, checksum)| Migration {
                version,
                name: "x.sql",
                sql: "",
                checksum: checksum.to_string(),
            })
            .collect()
    }

    fn steps(ours: &[&str], recorded: &[(i32, &str)]) -> (Vec<(i32, bool)>, Vec<i32>) {
        let ours = migrations(ours);
        let recorded: Vec<Recorded> = recorded.iter().map(|(v, c)| (*v, c.to_string())).collect();
        let plan = plan(&ours, &recorded);
        let apply = plan
            .apply
            .iter()
            .map(|(m, again)| (m.version, *again))
            .collect();
        (apply, plan.unknown)
    }

    #[test]
    fn applies_what_is_missing_or_changed_and_all_after_it() {
        assert_eq!(
            steps(&["a", "b"], &[]),
            (vec![(1, false), (2, false)], vec![])
        );
        assert_eq!(steps(&["a", "b"], &[(1, "a")]), (vec![(2, false)], vec![]));
        assert_eq!(steps(&["a", "b"], &[(1, "a"), (2, "b")]), (vec![], vec![]));
        assert_eq!(
            steps(&["a", "B", "c", "d"], &[(1, "a"), (2, "b"), (3, "c")]),
            (vec![(2, true), (3, true), (4, false)], vec![])
        );
        assert_eq!(steps(&["a"], &[(1, "a"), (9, "z")]), (vec![], vec![9]));
    }

    #[test]
    fn the_files_are_numbered_without_a_gap() {
        let versions: Vec<i32> = all().iter().map(|migration| migration.version).collect();
        let expected: Vec<i32> = (1..).take(FILES.len()).collect();
        assert_eq!(versions, expected);
    }
}
