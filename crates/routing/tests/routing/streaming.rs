//! Transactions of any size, reconnects, and positions.

use rowcast_model::*;
use rowcast_routing::Limits;

use crate::support::*;

const SMALL: Limits = Limits {
    transaction_bytes: 1 << 20,
    batch_bytes: 16 << 10,
};

fn insert(org: &str) -> String {
    format!(r#"{{"v":1,"t":10,"op":"INSERT","n":1,"org":"{org}"}}"#)
}

#[test]
fn a_small_transaction_is_one_batch() {
    let items = table(10, "items", &["id*"]);
    let mut router = router([rule(&items, &[])]);
    let log = Log::at(5)
        .insert(&items, &[Some("1")])
        .message(insert("a"))
        .commit();
    let batches = feed(&mut router, &log.events);
    assert_eq!(batches.len(), 1);
    let batch = &batches[0];
    assert_eq!((batch.xid, batch.ack), (Some(5), Some(Lsn(13))));
    assert!(batch.bytes > 0);
    let [HubOp::Event(event), HubOp::Commit { cursor, .. }] = &*batch.ops else {
        panic!("{batch:?}");
    };
    assert!(event.last);
    assert_eq!(cursor, &Cursor::after_commit(Epoch(1), Lsn(5)));
}

/// A million rows of one statement: beyond the budget, and told as such.
#[test]
fn a_million_rows_of_one_statement() {
    let items = table(10, "items", &["id*", "v"]);
    let mut router = router_within(SMALL, catalog([rule(&items, &[])]));
    let mut log = Log::at(1);
    log.insert(&items, &[Some("1"), Some("x")]);
    let begin = &log.events[..1];
    let row = &log.events[1..];
    assert!(feed(&mut router, begin).is_empty());
    for _ in 0..1_000_000 {
        assert!(feed(&mut router, row).is_empty());
        assert!(router.stats().pending_bytes <= SMALL.transaction_bytes);
    }
    let end = Log::at(1)
        .message(r#"{"v":1,"t":10,"op":"INSERT","n":1000000,"org":"a"}"#)
        .commit();
    let batches = feed(&mut router, &end.events[1..]);
    assert_eq!(lines(&events_of(&batches)), ["a INSERT items invalidate"]);
    assert!(router.stats().shed > 900_000);
    assert_eq!(router.stats().unmatched_events, 0);
    assert_eq!(router.stats().unpaired, 0);
    assert_eq!(router.stats().pending_bytes, 0);
}

/// The same with rows of `realtime_table_events`: one event about the table, not one for each record.
#[test]
fn given_up_rows_of_a_stored_table_are_told_once() {
    let items = table(10, "items", &["id*", "v"]);
    let rules = [rule(&items, &[("storage", "table")])];
    let mut router = router_within(SMALL, catalog(rules));
    let mut log = Log::at(1);
    let ids: Vec<String> = (0..10_000).map(|id| id.to_string()).collect();
    for id in &ids {
        log.insert(&items, &[Some(id), Some("x")]);
    }
    for id in &ids {
        let row = EventRow {
            org: "a",
            event: "INSERT",
            record: Some(id),
            ..EventRow::default()
        };
        log.event(&items, row);
    }
    let events = events(&mut router, &log.commit());
    let stats = router.stats();
    assert!(stats.shed > 1_000, "{stats:?}");
    assert_eq!((stats.unmatched_events, stats.unpaired), (0, 0));
    let (whole, rows): (Vec<_>, Vec<_>) = events.iter().partition(|e| e.record_id.is_none());
    assert_eq!(whole.len(), 1);
    assert_eq!(rows.len() as u64, 10_000 - stats.shed);
    assert!(rows.iter().all(|event| event.body != Body::Invalidate));
}

/// Statements that fit, far more of them than the budget holds: every row arrives, in parts.
#[test]
fn rows_of_small_statements_stream() {
    let items = table(10, "items", &["id*", "v"]);
    for storage in ["log", "table"] {
        let rules = [rule(&items, &[("storage", storage)])];
        let mut router = router_within(SMALL, catalog(rules));
        let mut log = Log::at(1);
        for id in 0..100 {
            log.insert(&items, &[Some(id.to_string().as_str()), Some("x")]);
        }
        match storage {
            "log" => {
                log.message(r#"{"v":1,"t":10,"op":"INSERT","n":100,"org":"a"}"#);
            }
            _ => {
                for id in 0..100 {
                    log.event(
                        &items,
                        EventRow {
                            org: "a",
                            event: "INSERT",
                            record: Some(&id.to_string()),
                            ..EventRow::default()
                        },
                    );
                }
            }
        }
        assert!(feed(&mut router, &log.events[..1]).is_empty());
        let mut batches = Vec::new();
        let mut events = 0;
        for _ in 0..500 {
            for batch in feed(&mut router, &log.events[1..]) {
                assert!(batch.bytes <= SMALL.batch_bytes + 4096, "{}", batch.bytes);
                assert_eq!((batch.xid, batch.ack), (Some(1), None));
                events += events_of(std::slice::from_ref(&batch)).len();
                batches.push(batch.ops.len());
            }
            assert!(router.stats().pending_bytes <= 128 << 10);
        }
        let end = feed(&mut router, &Log::at(1).commit().events[1..]);
        let rest = events_of(&end);
        assert_eq!(events + rest.len(), 50_000);
        assert_eq!(rest.iter().filter(|event| event.last).count(), 1);
        assert!(rest.last().is_some_and(|event| event.last));
        assert_eq!(router.stats().shed, 0);
    }
}

/// More organizations than can be held back: each still gets exactly one last event.
#[test]
fn very_many_organizations_in_one_transaction() {
    let items = table(10, "items", &["id*"]);
    let limits = Limits {
        transaction_bytes: 8 << 20,
        batch_bytes: 16 << 10,
    };
    let mut router = router_within(limits, catalog([rule(&items, &[])]));
    let mut batches = feed(&mut router, &Log::at(1).events);
    let orgs = 10_000;
    for org in 0..orgs {
        let log = Log::at(1)
            .insert(&items, &[Some("1")])
            .message(insert(&format!("org {org}")))
            .clone();
        batches.extend(feed(&mut router, &log.events[1..]));
        assert!(router.stats().pending_bytes <= limits.transaction_bytes);
    }
    batches.extend(feed(&mut router, &Log::at(1).commit().events[1..]));
    let events = events_of(&batches);
    let changes = events.iter().filter(|event| event.record_id.is_some());
    assert_eq!(changes.count(), orgs);
    let last = events.iter().filter(|event| event.last);
    let topics: std::collections::HashSet<_> = last.clone().map(|event| &event.topic).collect();
    assert_eq!((last.count(), topics.len()), (orgs, orgs));
}

/// One change waits for an event that never comes; what is behind it must not pile up.
#[test]
fn what_blocks_the_order_is_given_up_first() {
    let (items, stuck) = (table(10, "items", &["id*"]), table(11, "stuck", &["id*"]));
    let rules = [rule(&items, &[]), rule(&stuck, &[])];
    let mut router = router_within(SMALL, catalog(rules));
    let start = Log::at(1).insert(&stuck, &[Some("1")]).clone();
    assert!(feed(&mut router, &start.events).is_empty());
    let pair = Log::at(1)
        .insert(&items, &[Some("1")])
        .message(insert("a"))
        .clone();
    let mut batches = Vec::new();
    for _ in 0..20_000 {
        batches.extend(feed(&mut router, &pair.events[1..]));
        assert!(router.stats().pending_bytes <= SMALL.transaction_bytes);
    }
    let end = Log::at(1)
        .message(r#"{"v":1,"t":11,"op":"INSERT","n":1,"org":"b"}"#)
        .commit();
    batches.extend(feed(&mut router, &end.events[1..]));
    let events = events_of(&batches);
    assert_eq!(events.len(), 20_001);
    assert!(lines(&events).contains(&"b INSERT stuck invalidate".to_owned()));
    assert_eq!(router.stats().shed, 1);
}

#[test]
fn idle_positions_are_told_and_acknowledged() {
    let items = table(10, "items", &["id*"]);
    let mut router = router([rule(&items, &[])]);
    let idle = |lsn| SourceEvent::Idle { lsn: Lsn(lsn) };
    let batches = feed(&mut router, &[idle(100), idle(100), idle(90)]);
    assert_eq!(batches.len(), 1);
    assert_eq!(batches[0].ack, Some(Lsn(100)));
    let HubOp::Position(position) = &batches[0].ops[0] else {
        panic!("{batches:?}");
    };
    // A transaction may commit right there: its events come after that position.
    let log = Log::at(100)
        .insert(&items, &[Some("1")])
        .message(insert("a"))
        .commit();
    let event = &events(&mut router, &log)[0];
    assert_eq!(
        event.cursor.compare(position),
        Some(std::cmp::Ordering::Greater)
    );
}

#[test]
fn repeated_transactions_are_acknowledged_and_not_told_again() {
    let items = table(10, "items", &["id*"]);
    let memberships = relation(
        92,
        "rowcast",
        "memberships",
        &["user_id*", "organization_id*", "role"],
        ReplicaIdentity::Default,
    );
    let mut router = router([rule(&items, &[])]);
    let first = Log::at(10)
        .insert(&items, &[Some("1")])
        .message(insert("a"))
        .insert(&memberships, &[Some("u"), Some("a"), NULL])
        .commit();
    feed(&mut router, &first.events);
    let start = |epoch, reason: Option<&str>| SourceEvent::Start {
        epoch: Epoch(epoch),
        reason: reason.map(Into::into),
    };
    assert!(feed(&mut router, &[start(1, None)]).is_empty());
    let again = feed(&mut router, &first.events);
    assert_eq!(again.len(), 1);
    assert_eq!((again[0].ops.len(), again[0].ack), (0, Some(Lsn(18))));
    // A new epoch numbers anew.
    let news = feed(&mut router, &[start(2, Some("slot recreated"))]);
    assert!(matches!(
        &news[0].ops[0],
        HubOp::NewEpoch {
            epoch: Epoch(2),
            ..
        }
    ));
    assert_eq!(events(&mut router, &first).len(), 1);
}
