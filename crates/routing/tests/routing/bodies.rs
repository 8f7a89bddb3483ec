//! What an event shows of a row, and what it never shows.

use rowcast_model::*;

use crate::support::*;

const ONE: &str = r#"{"v":1,"t":10,"op":"UPDATE","n":1,"org":"a"}"#;

fn message(op: &str) -> String {
    ONE.replace("UPDATE", op)
}

#[test]
fn inserts_updates_and_deletes_with_a_key() {
    let items = table(10, "items", &["id*", "name"]);
    let mut router = router([rule(&items, &[])]);
    let log = Log::at(1)
        .insert(&items, &[Some("1"), Some("x")])
        .message(message("INSERT"))
        .update(&items, None, &[Some("1"), NULL])
        .message(message("UPDATE"))
        .update(
            &items,
            Some(OldTuple::Key(tuple(&[Some("1"), NULL]))),
            &[Some("2"), Some("<unchanged>")],
        )
        .message(message("UPDATE"))
        .delete(&items, OldTuple::Key(tuple(&[Some("2"), NULL])))
        .message(message("DELETE"))
        .commit();
    assert_eq!(
        lines(&events(&mut router, &log)),
        [
            r#"a INSERT items#1 {"id":"1","name":"x"} <- null"#,
            r#"a UPDATE items#1 {"id":"1","name":null} <- {"id":"1"}"#,
            r#"a UPDATE items#2 {"id":"2"} <- {"id":"1"} unchanged name"#,
            r#"a DELETE items#2 null <- {"id":"2"}"#,
        ]
    );
    assert_eq!(router.stats().unpaired, 0);
}

#[test]
fn a_full_old_row_is_shown_within_the_visible_columns() {
    let items = full_table(10, "items", &["id*", "name", "secret"]);
    let mut router = router([rule(&items, &[("columns", "{id,name}")])]);
    let full = |name| OldTuple::Full(tuple(&[Some("1"), Some(name), Some("s")]));
    let log = Log::at(1)
        .update(
            &items,
            Some(full("x")),
            &[Some("1"), Some("<unchanged>"), Some("t")],
        )
        .message(message("UPDATE"))
        .update(&items, Some(full("x")), &[Some("1"), Some("y"), Some("t")])
        .message(message("UPDATE"))
        .delete(&items, full("y"))
        .message(message("DELETE"))
        .commit();
    assert_eq!(
        lines(&events(&mut router, &log)),
        [
            r#"a UPDATE items#1 {"id":"1","name":"y"} <- {"id":"1","name":"x"}"#,
            r#"a DELETE items#1 null <- {"id":"1","name":"y"}"#,
        ],
        "the first update touched only a hidden column"
    );
}

#[test]
fn an_unchanged_value_is_filled_in_from_a_full_old_row() {
    let items = full_table(10, "items", &["id*", "big"]);
    let mut router = router([rule(&items, &[])]);
    let log = Log::at(1)
        .update(
            &items,
            Some(OldTuple::Full(tuple(&[Some("1"), Some("B")]))),
            &[Some("2"), Some("<unchanged>")],
        )
        .message(message("UPDATE"))
        .commit();
    assert_eq!(
        lines(&events(&mut router, &log)),
        [r#"a UPDATE items#2 {"id":"2","big":"B"} <- {"id":"1","big":"B"}"#]
    );
}

#[test]
fn a_move_is_a_delete_with_the_key_only_and_an_insert() {
    let items = full_table(10, "items", &["id*", "name"]);
    let mut router = router([rule(&items, &[])]);
    let log = Log::at(1)
        .update(
            &items,
            Some(OldTuple::Full(tuple(&[Some("1"), Some("x")]))),
            &[Some("2"), Some("y")],
        )
        .insert(&items, &[Some("3"), Some("z")])
        .message(message("INSERT"))
        .message(r#"{"v":1,"t":10,"op":"UPDATE","n":1,"orgs":["b"],"old":["a"]}"#)
        .commit();
    let events = events(&mut router, &log);
    assert_eq!(
        lines(&events),
        [
            r#"a DELETE items#1 null <- {"id":"1"}"#,
            r#"b INSERT items#2 {"id":"2","name":"y"} <- null"#,
            r#"a INSERT items#3 {"id":"3","name":"z"} <- null"#,
        ]
    );
    let indexes: Vec<u32> = events.iter().map(|event| event.cursor.index).collect();
    assert_eq!(indexes, [0, 1, 2], "every event has a position of its own");
    let last: Vec<bool> = events.iter().map(|event| event.last).collect();
    assert_eq!(last, [false, true, true]);
}

#[test]
fn a_row_may_leave_or_come_from_nowhere() {
    let items = table(10, "items", &["id*"]);
    let mut router = router([rule(&items, &[])]);
    let log = Log::at(1)
        .update(&items, None, &[Some("1")])
        .update(&items, None, &[Some("2")])
        .update(&items, None, &[Some("3")])
        .message(
            r#"{"v":1,"t":10,"op":"UPDATE","n":3,"orgs":[null,"b",null],"old":["a",null,null]}"#,
        )
        .commit();
    assert_eq!(
        lines(&events(&mut router, &log)),
        [
            r#"a DELETE items#1 null <- {"id":"1"}"#,
            r#"b INSERT items#2 {"id":"2"} <- null"#,
        ]
    );
}

#[test]
fn only_the_user_of_a_row_gets_it() {
    let items = table(10, "items", &["id*", "person"]);
    let mut router = router([rule(
        &items,
        &[("user_column", "person"), ("required_roles", "{admin}")],
    )]);
    let log = Log::at(1)
        .insert(&items, &[Some("1"), Some("ann")])
        .insert(&items, &[Some("2"), NULL])
        .message(r#"{"v":1,"t":10,"op":"INSERT","n":2,"org":"a","users":["wrong","wrong"]}"#)
        .update(&items, None, &[Some("1"), Some("bob")])
        .message(
            r#"{"v":1,"t":10,"op":"UPDATE","n":1,"org":"a","users":["bob"],"old_users":["ann"]}"#,
        )
        .delete(&items, OldTuple::Key(tuple(&[Some("1"), NULL])))
        .delete(&items, OldTuple::Key(tuple(&[Some("2"), NULL])))
        .message(r#"{"v":1,"t":10,"op":"DELETE","n":2,"org":"a","users":["bob",null]}"#)
        .commit();
    let events = events(&mut router, &log);
    assert_eq!(
        lines(&events),
        [
            r#"a@ann INSERT items#1 {"id":"1","person":"ann"} <- null"#,
            r#"a@ann DELETE items#1 null <- {"id":"1"}"#,
            r#"a@bob INSERT items#1 {"id":"1","person":"bob"} <- null"#,
            r#"a@bob DELETE items#1 null <- {"id":"1"}"#,
        ]
    );
    assert!(
        events
            .iter()
            .all(|event| *event.audience.required_roles == ["admin".into()])
    );
}

#[test]
fn a_move_between_users_is_seen_in_a_full_old_row() {
    let items = full_table(10, "items", &["id*", "person"]);
    let mut router = router([rule(&items, &[("user_column", "person")])]);
    let log = Log::at(1)
        .update(
            &items,
            Some(OldTuple::Full(tuple(&[Some("1"), Some("ann")]))),
            &[Some("1"), Some("bob")],
        )
        .message(message("UPDATE"))
        .commit();
    assert_eq!(
        lines(&events(&mut router, &log)),
        [
            r#"a@ann DELETE items#1 null <- {"id":"1"}"#,
            r#"a@bob INSERT items#1 {"id":"1","person":"bob"} <- null"#,
        ]
    );
}

#[test]
fn unlisted_columns_never_get_in() {
    let items = full_table(10, "items", &["id*", "mail", "secret"]);
    let mut router = router([rule(&items, &[("columns", "{id,mail}")])]);
    let old = OldTuple::Full(tuple(&[Some("1"), Some("m"), Some("s")]));
    let log = Log::at(1)
        .insert(&items, &[Some("1"), Some("m"), Some("s")])
        .message(message("INSERT"))
        .delete(&items, old)
        .message(message("DELETE"))
        .commit();
    assert_eq!(
        lines(&events(&mut router, &log)),
        [
            r#"a INSERT items#1 {"id":"1","mail":"m"} <- null"#,
            r#"a DELETE items#1 null <- {"id":"1","mail":"m"}"#,
        ]
    );
}

#[test]
fn tables_without_rows_tell_records_and_policies_tell_tables() {
    let records = table(10, "records", &["id*"]);
    let policies = table(11, "policies", &["id*"]);
    let mut router = router([
        rule(&records, &[("rows", "f")]),
        rule(&policies, &[("visibility", "policies")]),
    ]);
    let log = Log::at(1)
        .insert(&records, &[Some("1")])
        .message(message("INSERT"))
        .insert(&policies, &[Some("1")])
        .insert(&policies, &[Some("2")])
        .message(r#"{"v":1,"t":11,"op":"INSERT","n":2,"org":"a"}"#)
        .commit();
    assert_eq!(
        lines(&events(&mut router, &log)),
        [
            "a INSERT records#1 invalidate",
            "a INSERT policies invalidate",
        ]
    );
}

#[test]
fn composite_keys_have_the_documented_record_id() {
    let items = table(10, "items", &["b*", "a*"]);
    let mut router = router([rule(&items, &[("key_columns", "{a,b}")])]);
    let log = Log::at(1)
        .insert(&items, &[Some("1\""), Some("x")])
        .message(message("INSERT"))
        .commit();
    let events = events(&mut router, &log);
    assert_eq!(events[0].record_id.as_deref(), Some(r#"["x","1\""]"#));
}

#[test]
fn a_row_that_names_another_organization_than_its_event_is_not_shown() {
    let items = table(10, "items", &["id*", "org"]);
    let mut router = router([rule(&items, &[("organization_column", "org")])]);
    let log = Log::at(1)
        .insert(&items, &[Some("1"), Some("b")])
        .insert(&items, &[Some("2"), Some("a   ")])
        .message(r#"{"v":1,"t":10,"op":"INSERT","n":2,"org":"a"}"#)
        .commit();
    assert_eq!(
        lines(&events(&mut router, &log)),
        [
            "a INSERT items invalidate",
            r#"a INSERT items#2 {"id":"2","org":"a   "} <- null"#,
        ]
    );
    assert_eq!(router.stats().mismatched, 1);
}

/// The name of a column's type is that of the log, not one that only its values have.
#[test]
fn a_column_says_the_name_of_its_type() {
    let mut items = (*table(10, "items", &["id*", "name"])).clone();
    items.columns[0].type_name = "item_id".into();
    let items = std::sync::Arc::new(items);
    let mut router = router([rule(&items, &[])]);
    let log = Log::at(1)
        .insert(&items, &[Some("1"), Some("x")])
        .message(message("INSERT"))
        .commit();
    let event = events(&mut router, &log).remove(0);
    let Body::Change { new: Some(row), .. } = &event.body else {
        panic!("{event:?}");
    };
    let columns = row.columns().iter();
    let types: Vec<&str> = columns.map(|column| &*column.type_name).collect();
    assert_eq!(types, ["item_id", "text"]);
}
