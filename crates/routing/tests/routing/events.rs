//! Table events of every kind, and what happens when their change is not there.

use rowcast_model::*;

use crate::support::*;

#[test]
fn event_rows_pair_by_record() {
    let items = table(10, "items", &["id*", "v"]);
    let mut router = router([rule(&items, &[("storage", "table")])]);
    let event = |org, event, record| EventRow {
        org,
        event,
        record: Some(record),
        ..EventRow::default()
    };
    let log = Log::at(1)
        .insert(&items, &[Some("1"), Some("x")])
        .insert(&items, &[Some("2"), Some("y")])
        .event(&items, event("a", "INSERT", "1"))
        .event(&items, event("b", "INSERT", "2"))
        .update(&items, None, &[Some("1"), Some("z")])
        .event(
            &items,
            EventRow {
                operation: Some("UPDATE"),
                ..event("a", "DELETE", "1")
            },
        )
        .event(
            &items,
            EventRow {
                operation: Some("UPDATE"),
                ..event("b", "INSERT", "1")
            },
        )
        .event(&items, event("a", "DELETE", "9"))
        .commit();
    assert_eq!(
        lines(&events(&mut router, &log)),
        [
            r#"a INSERT items#1 {"id":"1","v":"x"} <- null"#,
            r#"b INSERT items#2 {"id":"2","v":"y"} <- null"#,
            r#"a DELETE items#1 null <- {"id":"1"}"#,
            r#"b INSERT items#1 {"id":"1","v":"z"} <- null"#,
            "a DELETE items#9 invalidate",
        ]
    );
    assert_eq!(router.stats().unmatched_events, 1);
}

#[test]
fn a_new_key_that_moves_is_found_by_both_keys() {
    let items = table(10, "items", &["id*", "v"]);
    let mut router = router([rule(&items, &[("storage", "table")])]);
    let half = |org, event, record| EventRow {
        org,
        event,
        record: Some(record),
        operation: Some("UPDATE"),
        ..EventRow::default()
    };
    let log = Log::at(1)
        .update(
            &items,
            Some(OldTuple::Key(tuple(&[Some("1"), NULL]))),
            &[Some("2"), Some("x")],
        )
        .event(&items, half("a", "DELETE", "1"))
        .event(&items, half("b", "INSERT", "2"))
        .commit();
    assert_eq!(
        lines(&events(&mut router, &log)),
        [
            r#"a DELETE items#1 null <- {"id":"1"}"#,
            r#"b INSERT items#2 {"id":"2","v":"x"} <- null"#,
        ]
    );
}

#[test]
fn half_a_move_is_told_at_the_end() {
    let items = table(10, "items", &["id*"]);
    let mut router = router([rule(&items, &[("storage", "table")])]);
    let log = Log::at(1)
        .update(&items, None, &[Some("1")])
        .event(
            &items,
            EventRow {
                org: "a",
                event: "DELETE",
                record: Some("1"),
                operation: Some("UPDATE"),
                ..EventRow::default()
            },
        )
        .commit();
    assert_eq!(
        lines(&events(&mut router, &log)),
        [r#"a DELETE items#1 null <- {"id":"1"}"#]
    );
}

#[test]
fn rows_without_a_key_pair_by_number_or_not_at_all() {
    let items = full_table(10, "items", &["v"]);
    let mut router = router([rule(&items, &[("storage", "table")])]);
    let event = |org| EventRow {
        org,
        event: "INSERT",
        ..EventRow::default()
    };
    let log = Log::at(1)
        .insert(&items, &[Some("x")])
        .insert(&items, &[Some("y")])
        .event(&items, event("a"))
        .event(&items, event("b"))
        .insert(&items, &[Some("z")])
        .insert(&items, &[Some("not mapped")])
        .event(&items, event("a"))
        .commit();
    assert_eq!(
        lines(&events(&mut router, &log)),
        [
            r#"a INSERT items {"v":"x"} <- null"#,
            r#"b INSERT items {"v":"y"} <- null"#,
            "a INSERT items invalidate",
        ]
    );
}

#[test]
fn statements_above_the_limit_tell_the_table() {
    let (log_table, row_table) = (table(10, "logged", &["id*"]), table(11, "stored", &["id*"]));
    let mut router = router([
        rule(&log_table, &[]),
        rule(&row_table, &[("storage", "table")]),
    ]);
    let bulk = |org, rows| EventRow {
        org,
        event: "INSERT",
        row_count: Some(rows),
        ..EventRow::default()
    };
    let log = Log::at(1)
        .insert(&log_table, &[Some("1")])
        .message(r#"{"v":1,"t":10,"op":"INSERT","n":1,"org":"a"}"#)
        .insert(&log_table, &[Some("2")])
        .insert(&log_table, &[Some("3")])
        .message(r#"{"v":1,"t":10,"op":"INSERT","n":2,"bulk":["a","b"]}"#)
        .insert(&row_table, &[Some("1")])
        .insert(&row_table, &[Some("2")])
        .insert(&row_table, &[Some("3")])
        .event(&row_table, bulk("a", 2))
        .event(&row_table, bulk("b", 2))
        .event(
            &row_table,
            EventRow {
                org: "c",
                event: "INSERT",
                record: Some("1"),
                ..EventRow::default()
            },
        )
        .commit();
    assert_eq!(
        lines(&events(&mut router, &log)),
        [
            r#"a INSERT logged#1 {"id":"1"} <- null"#,
            "a INSERT logged invalidate",
            "b INSERT logged invalidate",
            r#"c INSERT stored#1 {"id":"1"} <- null"#,
            "a INSERT stored invalidate",
            "b INSERT stored invalidate",
        ]
    );
    assert_eq!(router.stats().unpaired, 0);
}

#[test]
fn truncate_tells_everybody_nothing_but_that() {
    let items = table(10, "items", &["id*"]);
    let mut router = router([rule(&items, &[("required_roles", "{admin}")])]);
    let log = Log::at(1)
        .truncate(&items)
        .message(r#"{"v":1,"t":10,"op":"TRUNCATE","n":0}"#)
        .event(
            &items,
            EventRow {
                org: "*",
                event: "TRUNCATE",
                ..EventRow::default()
            },
        )
        .commit();
    let events = events(&mut router, &log);
    assert_eq!(
        lines(&events),
        ["* TRUNCATE items invalidate", "* TRUNCATE items invalidate"]
    );
    assert_eq!(*events[0].audience.required_roles, ["admin".into()]);
    assert_eq!(events[0].cursor.index, 1);
}

#[test]
fn unpublished_tables_tell_records() {
    let items = table(10, "items", &["id*"]);
    let mut router = router([rule(&items, &[("published", "f")])]);
    let log = Log::at(1)
        .message(r#"{"v":1,"t":10,"op":"UPDATE","n":2,"orgs":["a","b"],"old":["a","a"],"ids":["1","2"]}"#)
        .event(
            &items,
            EventRow {
                org: "c",
                event: "DELETE",
                record: Some("3"),
                ..EventRow::default()
            },
        )
        .commit();
    let events = events(&mut router, &log);
    assert_eq!(
        lines(&events),
        [
            "a UPDATE items#1 invalidate",
            "a DELETE items#2 invalidate",
            "b INSERT items#2 invalidate",
            "c DELETE items#3 invalidate",
        ]
    );
    let indexes: Vec<u32> = events.iter().map(|event| event.cursor.index).collect();
    assert_eq!(indexes, [0, 2, 3, 4]);
}

#[test]
fn without_its_change_a_message_tells_the_table() {
    let items = table(10, "items", &["id*"]);
    let mut router = router([rule(&items, &[])]);
    let log = Log::at(1)
        .insert(&items, &[Some("1")])
        .message(r#"{"v":1,"t":10,"op":"INSERT","n":2,"orgs":["a","b"]}"#)
        .commit();
    assert_eq!(
        lines(&events(&mut router, &log)),
        ["a INSERT items invalidate", "b INSERT items invalidate"]
    );
    assert_eq!(router.stats().unmatched_events, 1);
}

#[test]
fn without_an_event_nothing_is_told() {
    let (items, other) = (table(10, "items", &["id*"]), table(11, "other", &["id*"]));
    let mut router = router([rule(&items, &[])]);
    let log = Log::at(1)
        .insert(&items, &[Some("1")])
        .insert(&other, &[Some("1")])
        .message(r#"{"v":1,"t":11,"op":"INSERT","n":1,"org":"a"}"#)
        .message("no message at all")
        .commit();
    let batches = feed(&mut router, &log.events);
    assert_eq!(batches.len(), 1);
    assert_eq!(
        batches[0].ops,
        [HubOp::Position(Cursor::after_commit(Epoch(1), Lsn(1)))]
    );
    assert_eq!((batches[0].ack, batches[0].xid), (Some(Lsn(9)), None));
    let stats = router.stats();
    assert_eq!((stats.unpaired, stats.unmapped, stats.malformed), (1, 1, 1));
}

#[test]
fn an_event_of_a_hand_made_trigger_tells_the_record() {
    let items = table(10, "items", &["id*"]);
    let mut router = router([]);
    let log = Log::at(1)
        .insert(&items, &[Some("1")])
        .event(
            &items,
            EventRow {
                org: "a",
                event: "INSERT",
                record: Some("1"),
                ..EventRow::default()
            },
        )
        .commit();
    assert_eq!(
        lines(&events(&mut router, &log)),
        ["a INSERT items#1 invalidate"]
    );
}

/// One UPDATE that changed the partition stands in the log as a DELETE and an INSERT.
#[test]
fn an_update_across_partitions() {
    for storage in ["log", "table"] {
        let items = table(10, "items", &["id*", "v"]);
        let mut router = router([rule(
            &items,
            &[("storage", storage), ("operations", "{UPDATE}")],
        )]);
        let mut log = Log::at(1);
        let key = |id| OldTuple::Key(tuple(&[Some(id), NULL]));
        log.delete(&items, key("0")) // only a DELETE, which is not delivered
            .update(&items, None, &[Some("1"), Some("x")])
            .delete(&items, key("2"))
            .insert(&items, &[Some("2"), Some("y")])
            .delete(&items, key("3"))
            .insert(&items, &[Some("3"), Some("z")]);
        let log = match storage {
            "log" => log.message(
                r#"{"v":1,"t":10,"op":"UPDATE","n":3,"orgs":["a","a","b"],"old":["a","a","a"]}"#,
            ),
            _ => {
                let event = |org, event, record| EventRow {
                    org,
                    event,
                    record: Some(record),
                    operation: Some("UPDATE"),
                    ..EventRow::default()
                };
                log.event(&items, event("a", "UPDATE", "1"))
                    .event(&items, event("a", "UPDATE", "2"))
                    .event(&items, event("a", "DELETE", "3"))
                    .event(&items, event("b", "INSERT", "3"))
            }
        }
        .commit();
        assert_eq!(
            lines(&events(&mut router, &log)),
            [
                r#"a UPDATE items#1 {"id":"1","v":"x"} <- {"id":"1"}"#,
                r#"a UPDATE items#2 {"id":"2","v":"y"} <- {"id":"2"}"#,
                r#"a DELETE items#3 null <- {"id":"3"}"#,
                r#"b INSERT items#3 {"id":"3","v":"z"} <- null"#,
            ],
            "{storage}"
        );
        assert_eq!(router.stats().unpaired, 0, "{storage}");
    }
}

/// The triggers may also tell the rows that changed the partition as what they are in the log.
#[test]
fn an_update_across_partitions_told_in_parts() {
    let items = table(10, "items", &["id*", "v"]);
    let mut router = router([rule(&items, &[])]);
    let log = Log::at(1)
        .update(&items, None, &[Some("1"), Some("x")])
        .delete(&items, OldTuple::Key(tuple(&[Some("2"), NULL])))
        .insert(&items, &[Some("2"), Some("y")])
        .update(&items, None, &[Some("3"), Some("z")])
        .message(r#"{"v":1,"t":10,"op":"UPDATE","n":2,"orgs":["a","c"]}"#)
        .message(r#"{"v":1,"t":10,"op":"DELETE","n":1,"orgs":["a"]}"#)
        .message(r#"{"v":1,"t":10,"op":"INSERT","n":1,"orgs":["b"]}"#)
        .commit();
    assert_eq!(
        lines(&events(&mut router, &log)),
        [
            r#"a UPDATE items#1 {"id":"1","v":"x"} <- {"id":"1"}"#,
            r#"a DELETE items#2 null <- {"id":"2"}"#,
            r#"b INSERT items#2 {"id":"2","v":"y"} <- null"#,
            r#"c UPDATE items#3 {"id":"3","v":"z"} <- {"id":"3"}"#,
        ]
    );
}
