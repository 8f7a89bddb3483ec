//! What the facts mean: a pure function from [`Facts`] to findings, worst news with a way out.

use super::facts::{Facts, Slot};
use super::provider::Provider;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// As it should be.
    Good,
    /// Good to know.
    Note,
    /// Works, but will hurt some day.
    Warn,
    /// The service cannot work.
    Fail,
}

/// One verdict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub level: Level,
    /// A stable code for programs.
    pub code: &'static str,
    /// What was found.
    pub what: String,
    /// What mends it: statements, or comments where there is none.
    pub mend: Vec<String>,
}

fn finding(level: Level, code: &'static str, what: impl Into<String>) -> Finding {
    Finding {
        level,
        code,
        what: what.into(),
        mend: Vec::new(),
    }
}

impl Finding {
    fn mend(mut self, steps: impl IntoIterator<Item = impl Into<String>>) -> Finding {
        self.mend.extend(steps.into_iter().map(Into::into));
        self
    }
}

/// There is nothing to look at.
pub fn no_connection(why: &str) -> Finding {
    finding(Level::Fail, "connection", why)
        .mend(["-- check host, port, user, password and pg_hba.conf; psql \"$DATABASE_URL\" tries the same"])
}

/// Oldest version whose logical messages we can read.
const OLDEST: i32 = 140_000;

/// Judges.
pub fn judge(facts: &Facts) -> Vec<Finding> {
    let mut found = vec![server(facts)];
    if facts.standby {
        found.push(
            finding(
                Level::Fail,
                "standby",
                "this server is a standby: its triggers and slots are those of the primary",
            )
            .mend(["-- connect to the primary"]),
        );
        return found;
    }
    found.push(wal_level(facts));
    found.extend(capacity(facts));
    found.push(replication_right(facts));
    found.extend(schema(facts));
    found.push(slot(facts));
    found.extend(disk(facts));
    found.extend(timeouts(facts));
    if facts.schema {
        found.push(publication(facts));
        found.extend(content(facts));
        found.extend(facts.checks.iter().map(checked));
    }
    found.extend(facts.provider.notes().iter().map(|note| {
        finding(
            Level::Note,
            "provider",
            format!("{}: {note}", facts.provider.name()),
        )
    }));
    found
}

fn server(facts: &Facts) -> Finding {
    let (major, minor) = (facts.version_num / 10_000, facts.version_num % 10_000);
    let what = format!(
        "{} {major}.{minor}",
        match facts.provider {
            Provider::Own => "PostgreSQL".to_owned(),
            other => format!("PostgreSQL ({})", other.name()),
        }
    );
    match facts.version_num < OLDEST {
        true => finding(Level::Fail, "version", format!("{what} is too old"))
            .mend(["-- upgrade to PostgreSQL 14 or later"]),
        false => finding(Level::Good, "version", what),
    }
}

fn wal_level(facts: &Facts) -> Finding {
    match facts.wal_level.as_str() {
        "logical" => finding(Level::Good, "wal_level", "wal_level is logical"),
        other => finding(
            Level::Fail,
            "wal_level",
            format!("wal_level is {other}; reading row changes needs logical"),
        )
        .mend(facts.provider.switch_on_logical()),
    }
}

fn capacity(facts: &Facts) -> Vec<Finding> {
    let own_slot = facts.slot.is_some();
    let own_sender = facts.slot.as_ref().is_some_and(|slot| slot.active);
    let check = |name: &'static str, (most, used): (i64, i64), have_ours: bool| {
        if have_ours || used < most {
            return finding(
                Level::Good,
                name,
                format!("{name}: {used} of {most} in use"),
            );
        }
        let more = (most + 4).max(10).to_string();
        finding(Level::Fail, name, format!("{name}: all {most} are in use"))
            .mend(facts.provider.set(name, &more, true))
    };
    vec![
        check("max_replication_slots", facts.slots, own_slot),
        check("max_wal_senders", facts.senders, own_sender),
    ]
}

fn replication_right(facts: &Facts) -> Finding {
    let role = &facts.role;
    match facts.may_replicate {
        true => finding(
            Level::Good,
            "replication",
            format!("role {role} may replicate"),
        ),
        false => finding(
            Level::Fail,
            "replication",
            format!("role {role} may not replicate"),
        )
        .mend(facts.provider.allow_replication(role)),
    }
}

fn schema(facts: &Facts) -> Vec<Finding> {
    let mut found = Vec::new();
    if !facts.newer.is_empty() {
        let what = "a newer rowcast has migrated this database";
        found.push(finding(Level::Fail, "newer_schema", what).mend(["-- use the newer rowcast"]));
    }
    found.push(match (facts.schema, facts.pending.len()) {
        (false, _) => finding(Level::Fail, "schema", "the schema rowcast is not there")
            .mend(["rowcast migrate"]),
        (true, 0) => finding(Level::Good, "schema", "the schema rowcast is up to date"),
        (true, count) => finding(
            Level::Fail,
            "schema",
            format!("{count} migrations are missing, from {}", facts.pending[0]),
        )
        .mend(["rowcast migrate"]),
    });
    if facts.schema && !facts.missing_rights.is_empty() {
        let what = format!(
            "role {} lacks rights on {}",
            facts.role,
            facts.missing_rights.join(", ")
        );
        let statement = format!(
            "SELECT rowcast.grant_service('{}');  -- as the owner",
            facts.role.replace('\'', "''")
        );
        found.push(finding(Level::Fail, "rights", what).mend([statement]));
    }
    found
}

fn slot(facts: &Facts) -> Finding {
    let name = &facts.slot_name;
    let drop = format!(
        "SELECT pg_drop_replication_slot('{name}');  -- rowcast makes a new one and a new epoch"
    );
    let Some(slot) = &facts.slot else {
        let what = format!("slot {name} is not there yet; rowcast serve makes it");
        return finding(Level::Note, "slot", what);
    };
    let Slot {
        plugin,
        database,
        wal_status,
        ..
    } = slot;
    if plugin != "pgoutput" || !slot.here {
        let what =
            format!("slot {name} belongs to something else (plugin {plugin}, database {database})");
        return finding(Level::Fail, "slot", what).mend(["-- choose another name: ROWCAST_SLOT=…"]);
    }
    match wal_status.as_str() {
        status if status == "lost" || slot.invalidation.is_some() => finding(
            Level::Fail,
            "slot_lost",
            match &slot.invalidation {
                Some(why) => format!("slot {name} was given up by the server ({why})"),
                None => format!("slot {name} has lost WAL it needed"),
            },
        )
        .mend([drop]),
        "unreserved" => finding(
            Level::Warn,
            "slot_unreserved",
            format!(
                "slot {name} is about to lose WAL it needs ({} behind)",
                bytes(slot.behind)
            ),
        )
        .mend(["-- start rowcast now, or raise max_slot_wal_keep_size".to_owned()]),
        _ if !slot.active => finding(
            Level::Warn,
            "slot_idle",
            format!(
                "slot {name} is not read and keeps {} of WAL",
                bytes(slot.retained)
            ),
        )
        .mend([
            "rowcast serve".to_owned(),
            format!("-- or, if it is not needed any more: {drop}"),
        ]),
        _ => finding(
            Level::Good,
            "slot",
            format!(
                "slot {name} is read, {} behind, keeps {} of WAL",
                bytes(slot.behind),
                bytes(slot.retained)
            ),
        ),
    }
}

/// WAL that a slot may keep before it is worth a word.
const MUCH_WAL: i64 = 1 << 30;

fn disk(facts: &Facts) -> Vec<Finding> {
    let mut found = Vec::new();
    if let Some(slot) = facts.slot.as_ref().filter(|slot| slot.retained > MUCH_WAL) {
        let what = format!(
            "slot {} keeps {} of WAL on the disk",
            facts.slot_name,
            bytes(slot.retained)
        );
        found.push(finding(Level::Warn, "retained_wal", what).mend([
            "SELECT pid, backend_xmin, xact_start, query FROM pg_stat_activity WHERE xact_start < now() - interval '10 min';",
        ]));
    }
    if let (Some(slot), Some(limit)) = (&facts.slot, facts.wal_limit)
        && slot.retained > limit
    {
        let what = format!(
            "slot {} keeps {} of WAL, more than replication.wal_limit ({})",
            facts.slot_name,
            bytes(slot.retained),
            bytes(limit)
        );
        found.push(finding(Level::Warn, "wal_limit", what).mend([
            "-- end long transactions; replication.at_limit says what a running service does",
        ]));
    }
    let most = [facts.keep_size, facts.wal_limit]
        .into_iter()
        .flatten()
        .min();
    if let Some(most) = most.filter(|most| most / 2 < facts.history_wal) {
        let what = format!(
            "of history.wal_bytes ({}) only {} are used, half of what the slot may keep",
            bytes(facts.history_wal),
            bytes(most / 2)
        );
        found.push(finding(Level::Note, "history", what).mend([
            "-- raise max_slot_wal_keep_size (or replication.wal_limit), or lower history.wal_bytes",
        ]));
    }
    if facts
        .slot
        .as_ref()
        .is_some_and(|slot| slot.failover == Some(false))
    {
        let what = format!(
            "slot {} is not a failover slot: a promoted standby does not have it",
            facts.slot_name
        );
        found.push(finding(Level::Note, "failover", what).mend([format!(
            "SELECT pg_drop_replication_slot('{}');  -- rowcast makes a new one and a new epoch",
            facts.slot_name
        )]));
    }
    if facts.keep_size.is_none() {
        let what = "max_slot_wal_keep_size has no limit: a stopped rowcast can fill the disk";
        found.push(
            finding(Level::Warn, "max_slot_wal_keep_size", what).mend(facts.provider.set(
                "max_slot_wal_keep_size",
                "10GB",
                false,
            )),
        );
    }
    found
}

fn timeouts(facts: &Facts) -> Option<Finding> {
    let limit = u64::try_from(facts.sender_timeout_ms)
        .ok()
        .filter(|ms| *ms > 0)?;
    (facts.status_interval_ms.saturating_mul(3) > limit).then(|| {
        finding(
            Level::Warn,
            "wal_sender_timeout",
            format!("wal_sender_timeout is {limit} ms, too short for replication.status_interval"),
        )
        .mend([format!(
            "-- set replication.status_interval to {} ms",
            (limit / 4).max(1)
        )])
    })
}

fn publication(facts: &Facts) -> Finding {
    let name = &facts.publication;
    match facts.published {
        Some(count) => finding(
            Level::Good,
            "publication",
            format!("publication {name} holds {count} tables"),
        ),
        None => finding(
            Level::Fail,
            "publication",
            format!("there is no publication {name}"),
        )
        .mend(["SELECT rowcast.sync_publication();"]),
    }
}

fn content(facts: &Facts) -> Vec<Finding> {
    let tracked = match facts.tracked {
        0 => finding(
            Level::Warn,
            "tracked",
            "no table is tracked: nothing will be told",
        )
        .mend(["SELECT rowcast.track('public.your_table');"]),
        count => finding(
            Level::Good,
            "tracked",
            format!("{count} tables are tracked"),
        ),
    };
    let memberships = match facts.memberships {
        None => None,
        Some(0) => Some(
            finding(Level::Warn, "memberships", "nobody is a member of anything: nobody will be told").mend([
                "SELECT rowcast.use_memberships('public.your_members', 'user_id', 'organization_id', 'role');",
                "-- or: INSERT INTO rowcast.memberships (user_id, organization_id) VALUES (…);",
            ]),
        ),
        Some(count) => Some(finding(
            Level::Good,
            "memberships",
            match count {
                1 => "1 membership".to_owned(),
                1000.. => "1000 memberships or more".to_owned(),
                count => format!("{count} memberships"),
            },
        )),
    };
    [Some(tracked), memberships].into_iter().flatten().collect()
}

/// `rowcast.check()` looks at tables, triggers and problems; the parameters were judged above.
fn checked((level, topic, what, fix): &(String, String, String, String)) -> Finding {
    let level = match level.as_str() {
        "error" => Level::Fail,
        "warning" | "warn" => Level::Warn,
        _ => Level::Note,
    };
    finding(level, "check", format!("{topic}: {what}"))
        .mend(Some(fix.as_str()).filter(|fix| !fix.is_empty()))
}

fn bytes(count: i64) -> String {
    let units = [(1_i64 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match units.iter().find(|(size, _)| count >= *size) {
        Some((size, unit)) => format!("{:.1} {unit}", count as f64 / *size as f64),
        None => format!("{count} B"),
    }
}

#[cfg(test)]
mod tests;
