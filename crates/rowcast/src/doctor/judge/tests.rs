//! Every fault alone, each with its code and a way out.

use super::*;

fn healthy() -> Facts {
    Facts {
        version_num: 150_018,
        wal_level: "logical".into(),
        slots: (10, 1),
        senders: (10, 1),
        keep_size: Some(1 << 33),
        sender_timeout_ms: 60_000,
        status_interval_ms: 1_000,
        role: "app".into(),
        may_replicate: true,
        schema: true,
        slot_name: "rowcast".into(),
        publication: "rowcast".into(),
        published: Some(7),
        tracked: 3,
        memberships: Some(2),
        slot: Some(Slot {
            plugin: "pgoutput".into(),
            database: "app".into(),
            here: true,
            active: true,
            wal_status: "reserved".into(),
            retained: 100,
            behind: 10,
            invalidation: None,
            failover: Some(true),
        }),
        ..Facts::default()
    }
}

/// How bad, the code, and what mends it.
type Trouble = (Level, &'static str, Vec<String>);

/// What is not good.
fn trouble(facts: &Facts) -> Vec<Trouble> {
    judge(facts)
        .into_iter()
        .filter(|found| found.level != Level::Good)
        .map(|found| (found.level, found.code, found.mend))
        .collect()
}

fn only(change: impl FnOnce(&mut Facts)) -> Trouble {
    let mut facts = healthy();
    change(&mut facts);
    let mut found = trouble(&facts);
    assert_eq!(found.len(), 1, "{found:?}");
    found.remove(0)
}

#[test]
fn a_healthy_database_has_no_trouble() {
    assert_eq!(trouble(&healthy()), vec![]);
}

#[test]
fn each_fault_is_found_alone_and_comes_with_a_way_out() {
    let lost = |status: &str| {
        let status = status.to_owned();
        move |facts: &mut Facts| {
            if let Some(slot) = &mut facts.slot {
                slot.wal_status = status;
            }
        }
    };
    let cases: Vec<(&str, Level, Trouble)> = vec![
        ("version", Level::Fail, only(|f| f.version_num = 130_005)),
        (
            "wal_level",
            Level::Fail,
            only(|f| f.wal_level = "replica".into()),
        ),
        (
            "replication",
            Level::Fail,
            only(|f| f.may_replicate = false),
        ),
        (
            "schema",
            Level::Fail,
            only(|f| f.pending = vec!["0002_x.sql".into()]),
        ),
        ("newer_schema", Level::Fail, only(|f| f.newer = vec![99])),
        (
            "rights",
            Level::Fail,
            only(|f| f.missing_rights = vec!["rowcast.tables".into()]),
        ),
        ("publication", Level::Fail, only(|f| f.published = None)),
        ("slot_lost", Level::Fail, only(lost("lost"))),
        (
            "slot_idle",
            Level::Warn,
            only(|f| f.slot.as_mut().unwrap().active = false),
        ),
        (
            "slot",
            Level::Fail,
            only(|f| f.slot.as_mut().unwrap().here = false),
        ),
        ("standby", Level::Fail, only(|f| f.standby = true)),
        (
            "slot_lost",
            Level::Fail,
            only(|f| f.slot.as_mut().unwrap().invalidation = Some("idle_timeout".into())),
        ),
        (
            "failover",
            Level::Note,
            only(|f| f.slot.as_mut().unwrap().failover = Some(false)),
        ),
        (
            "history",
            Level::Note,
            only(|f| f.history_wal = (1 << 32) + 1),
        ),
        ("wal_limit", Level::Warn, only(|f| f.wal_limit = Some(99))),
        ("slot_unreserved", Level::Warn, only(lost("unreserved"))),
        (
            "max_slot_wal_keep_size",
            Level::Warn,
            only(|f| f.keep_size = None),
        ),
        (
            "wal_sender_timeout",
            Level::Warn,
            only(|f| f.sender_timeout_ms = 2_000),
        ),
        ("tracked", Level::Warn, only(|f| f.tracked = 0)),
        (
            "memberships",
            Level::Warn,
            only(|f| f.memberships = Some(0)),
        ),
    ];
    let full = trouble(&Facts {
        slot: None,
        slots: (4, 4),
        senders: (2, 2),
        ..healthy()
    });
    let codes: Vec<_> = full.iter().map(|found| found.1).collect();
    assert_eq!(codes, ["max_replication_slots", "max_wal_senders", "slot"]);
    for (code, level, (found_level, found_code, mend)) in cases {
        assert_eq!((found_code, found_level), (code, level));
        assert!(!mend.is_empty(), "{code}");
    }
}
