//! Before streaming: is everything there, and where do we stand?
//!
//! Checks wal_level, the publication and the slot; makes the slot when it is missing; has the epoch noted.
//! Each refusal is an error with the statement that mends it.

use std::sync::Arc;

use rowcast_model::{Epoch, Lsn};
use tokio_postgres::Client;

use crate::{
    conninfo::ConnInfo,
    error::{SourceError, classify},
};

/// What the set-up found or made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The epoch of all positions that follow.
    pub epoch: Epoch,
    /// The slot had to be made (anew).
    pub created: bool,
    /// Why it was made anew, when an old one had to go.
    pub reason: Option<Arc<str>>,
    /// Transactions that committed from here on are told, those before are not.
    pub confirmed: Lsn,
    /// How far the log was written.
    pub written: Lsn,
}

/// Names of slots that Postgres takes.
pub fn check_slot_name(slot: &str) -> Result<(), SourceError> {
    let fits = (1..=63).contains(&slot.len());
    let letters = slot
        .bytes()
        .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_'));
    (fits && letters)
        .then_some(())
        .ok_or_else(|| SourceError::SlotName(slot.chars().take(80).collect()))
}

/// Checks everything and returns where we stand. With `renew`, a slot that is there is made anew for that reason.
///
/// # Errors
/// What is missing, with the statement that mends it.
pub async fn prepare(
    info: &ConnInfo,
    slot: &str,
    publication: &str,
    renew: Option<Arc<str>>,
) -> Result<Standing, SourceError> {
    check_slot_name(slot)?;
    let sql = info.connect("rowcast set-up").await?;
    let failed = |error: tokio_postgres::Error| match error.as_db_error() {
        Some(db) => classify(
            Some(db.code().code()),
            db.message(),
            slot,
            publication,
            info.user(),
        ),
        None => info.explain(&error),
    };
    let row = sql
        .query_one(
            "SELECT current_setting('wal_level'), pg_is_in_recovery(), current_setting('server_version_num')::int",
            &[],
        )
        .await
        .map_err(failed)?;
    let wal_level: String = row.get(0);
    if row.get(1) {
        return Err(SourceError::Standby);
    }
    let version: i32 = row.get(2);
    if wal_level != "logical" {
        return Err(SourceError::WalLevel(wal_level));
    }
    let row = sql
        .query_one(
            "SELECT to_regclass('rowcast.tables') IS NOT NULL
                    AND to_regprocedure('rowcast.note_slot(text,boolean,text,integer)') IS NOT NULL,
                    EXISTS (SELECT FROM pg_publication WHERE pubname = $1),
                    (SELECT rolreplication OR rolsuper FROM pg_roles WHERE rolname = current_user),
                    EXISTS (SELECT FROM pg_roles r WHERE r.rolname IN ('rds_replication', 'cloudsqlsuperuser', 'azure_pg_admin')
                            AND pg_has_role(current_user, r.oid, 'MEMBER'))",
            &[&publication],
        )
        .await
        .map_err(failed)?;
    if !row.get::<_, bool>(0) {
        return Err(SourceError::NotMigrated(
            "rowcast.note_slot is missing".into(),
        ));
    }
    if !row.get::<_, bool>(1) {
        return Err(SourceError::PublicationMissing(publication.into()));
    }
    if !row.get::<_, bool>(2) && !row.get::<_, bool>(3) {
        return Err(SourceError::PermissionDenied {
            role: info.user().into(),
            detail: "it has not the attribute REPLICATION".into(),
        });
    }
    let found = look(&sql, slot).await.map_err(failed)?;
    let reason = match &found {
        Found::Foreign { owner } => {
            return Err(SourceError::SlotForeign {
                slot: slot.into(),
                owner: owner.clone(),
            });
        }
        // Before anything is noted: whoever stands by changes nothing.
        Found::Active { pid } => {
            let who = format!("process {pid} of the server sends to it");
            return Err(SourceError::SlotInUse(slot.into(), who));
        }
        Found::Lost => Some(Arc::from(
            "the log that the replication slot needed was removed",
        )),
        Found::Missing => renew.or_else(|| Some("the replication slot was gone".into())),
        Found::Usable { .. } => renew,
    };
    let created = found == Found::Missing || reason.is_some();
    // Noted before the slot is made: whoever dies in between has raised the number for nothing, while the
    // other way round a new slot would pass for the old one, and a hole for none.
    let row = sql
        .query_one(
            "SELECT s.system_identifier::text, t.timeline,
                    rowcast.note_slot($1, $2, s.system_identifier::text, t.timeline),
                    pg_current_wal_flush_lsn()::text
             FROM pg_control_system() s,
                  (SELECT ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int AS timeline) t",
            &[&slot, &created],
        )
        .await
        .map_err(failed)?;
    let (system, timeline, generation): (String, i32, i32) = (row.get(0), row.get(1), row.get(2));
    let written: &str = row.get(3);
    let written = written.parse().unwrap_or(Lsn::ZERO);
    if created && found != Found::Missing {
        sql.execute("SELECT pg_drop_replication_slot($1)", &[&slot])
            .await
            .map_err(failed)?;
    }
    let confirmed = match found {
        Found::Usable { confirmed } if !created => confirmed,
        _ => create(&sql, slot, version).await.map_err(failed)?,
    };
    Ok(Standing {
        epoch: epoch_of(&system, timeline, slot, generation),
        created,
        reason,
        confirmed,
        written,
    })
}

/// Makes the slot, as one that standbys keep a copy of where the server knows that; returns where it begins.
async fn create(sql: &Client, slot: &str, version: i32) -> Result<Lsn, tokio_postgres::Error> {
    const PLAIN: &str = "SELECT lsn::text FROM pg_create_logical_replication_slot($1, 'pgoutput')";
    const FAILOVER: &str = "SELECT lsn::text FROM pg_create_logical_replication_slot($1, 'pgoutput', failover => true)";
    let made = match version >= 170_000 {
        true => sql.query_one(FAILOVER, &[&slot]).await,
        false => sql.query_one(PLAIN, &[&slot]).await,
    };
    let row = match made {
        // Where it is not allowed, a plain one does as well.
        Err(error) if version >= 170_000 && error.as_db_error().is_some() => {
            tracing::info!("the slot cannot be a failover slot: {error}");
            sql.query_one(PLAIN, &[&slot]).await?
        }
        other => other?,
    };
    let lsn: &str = row.get(0);
    Ok(lsn.parse().unwrap_or(Lsn::ZERO))
}

/// What there is under the name of our slot.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Found {
    Missing,
    Usable {
        confirmed: Lsn,
    },
    /// Ours by name, but somebody reads from it.
    Active {
        pid: i32,
    },
    /// Ours, but the log it needs is gone.
    Lost,
    Foreign {
        owner: String,
    },
}

async fn look(sql: &Client, slot: &str) -> Result<Found, tokio_postgres::Error> {
    let found = sql
        .query_opt(
            "SELECT coalesce(plugin, 'physical replication'), coalesce(database, ''), wal_status = 'lost',
                    database = current_database(), active_pid, confirmed_flush_lsn::text
             FROM pg_replication_slots WHERE slot_name = $1",
            &[&slot],
        )
        .await?;
    let Some(row) = found else {
        return Ok(Found::Missing);
    };
    let (plugin, database): (String, String) = (row.get(0), row.get(1));
    let (lost, ours): (Option<bool>, Option<bool>) = (row.get(2), row.get(3));
    let (pid, confirmed): (Option<i32>, Option<&str>) = (row.get(4), row.get(5));
    let confirmed = confirmed.and_then(|lsn| lsn.parse().ok());
    Ok(match (plugin.as_str(), ours, lost, pid) {
        ("pgoutput", Some(true), _, Some(pid)) => Found::Active { pid },
        ("pgoutput", Some(true), Some(true), None) => Found::Lost,
        ("pgoutput", Some(true), _, None) => Found::Usable {
            confirmed: confirmed.unwrap_or(Lsn::ZERO),
        },
        _ => Found::Foreign {
            owner: format!("{plugin} of database `{database}`"),
        },
    })
}

/// Mixes what makes positions comparable into one number (FNV-1a).
fn epoch_of(system: &str, timeline: i32, slot: &str, generation: i32) -> Epoch {
    let text = format!("{system}|{timeline}|{slot}|{generation}");
    Epoch(text.bytes().fold(0x811c_9dc5, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn epochs_differ_by_each_part() {
        let one = epoch_of("7", 1, "rowcast", 1);
        assert_eq!(one, epoch_of("7", 1, "rowcast", 1));
        for other in [
            epoch_of("8", 1, "rowcast", 1),
            epoch_of("7", 2, "rowcast", 1),
            epoch_of("7", 1, "x", 1),
            epoch_of("7", 1, "rowcast", 2),
        ] {
            assert_ne!(one, other);
        }
    }

    #[test]
    fn slot_names() {
        assert!(check_slot_name("rowcast_1").is_ok());
        for bad in ["", "Rowcast", "a-b", "a'b", &"x".repeat(64)] {
            assert!(check_slot_name(bad).is_err(), "{bad}");
        }
    }
}
