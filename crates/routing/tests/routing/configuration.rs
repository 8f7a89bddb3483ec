//! Rules, memberships and keys as the log changes them.

use rowcast_model::*;

use crate::support::*;

const INSERT: &str = r#"{"v":1,"t":10,"op":"INSERT","n":1,"org":"a"}"#;

fn ops(batches: &[Batch]) -> Vec<HubOp> {
    batches
        .iter()
        .flat_map(|batch| batch.ops.clone())
        .filter(|op| !matches!(op, HubOp::Commit { .. } | HubOp::Position(_)))
        .collect()
}

fn own(id: u32, name: &str, columns: &[&str]) -> std::sync::Arc<Relation> {
    relation(id, "rowcast", name, columns, ReplicaIdentity::Default)
}

#[test]
fn rules_change_in_the_order_of_the_log() {
    let items = table(10, "items", &["id*", "v"]);
    let tables = own(
        91,
        "tables",
        &[
            "relid*",
            "schema_name",
            "table_name",
            "columns",
            "storage",
            "published",
        ],
    );
    let row = |columns, storage| {
        [
            Some("10"),
            Some("public"),
            Some("items"),
            columns,
            Some(storage),
            Some("t"),
        ]
    };
    let mut router = router([]);
    let log = Log::at(1)
        .insert(&items, &[Some("0"), Some("x")])
        .insert(&tables, &row(None, "log"))
        .insert(&items, &[Some("1"), Some("x")])
        .message(INSERT)
        .update(&tables, None, &row(Some("{id}"), "log"))
        .insert(&items, &[Some("2"), Some("x")])
        .message(INSERT)
        .update(&tables, None, &row(Some("<unchanged>"), "log"))
        .insert(&items, &[Some("3"), Some("x")])
        .message(INSERT)
        .update(&tables, None, &row(None, "nonsense"))
        .insert(&items, &[Some("4"), Some("x")])
        .message(INSERT)
        .insert(&tables, &row(None, "log"))
        .delete(&tables, OldTuple::Key(tuple(&[Some("10")])))
        .insert(&items, &[Some("5"), Some("x")])
        .message(INSERT)
        .commit();
    assert_eq!(
        lines(&events(&mut router, &log)),
        [
            r#"a INSERT items#1 {"id":"1","v":"x"} <- null"#,
            r#"a INSERT items#2 {"id":"2"} <- null"#,
            r#"a INSERT items#3 {"id":"3"} <- null"#,
        ]
    );
    let problems = router.take_problems();
    assert_eq!(problems.len(), 1);
    assert_eq!(problems[0].code(), "routing_config_invalid");
    assert_eq!(router.catalog().tables().count(), 0);
}

#[test]
fn memberships_follow_the_log() {
    let memberships = own(92, "memberships", &["user_id*", "organization_id*", "role"]);
    let mut router = router([]);
    let key = |user, org| OldTuple::Key(tuple(&[Some(user), Some(org), NULL]));
    let log = Log::at(1)
        .insert(&memberships, &[Some("u"), Some("a"), Some("admin")])
        .update(&memberships, None, &[Some("u"), Some("a"), NULL])
        .update(
            &memberships,
            Some(key("u", "a")),
            &[Some("u"), Some("b"), NULL],
        )
        .delete(&memberships, key("u", "b"))
        .truncate(&memberships)
        .commit();
    let change = |key: &str, now: Option<(&str, &str, Option<&str>)>| {
        HubOp::Membership(MembershipChange {
            key: key.into(),
            now: now.map(|(user, org, role)| (user.into(), org.into(), role.map(Role::from))),
        })
    };
    let (a, b) = (r#"["u","a"]"#, r#"["u","b"]"#);
    assert_eq!(
        ops(&feed(&mut router, &log.events)),
        [
            change(a, Some(("u", "a", Some("admin")))),
            change(a, Some(("u", "a", None))),
            change(a, None),
            change(b, Some(("u", "b", None))),
            change(b, None),
            HubOp::MembershipsCleared,
        ]
    );
}

#[test]
fn memberships_move_to_the_applications_own_table() {
    let team = table(20, "team", &["id*", "person", "company"]);
    let source = own(
        93,
        "membership_source",
        &[
            "one*",
            "relid",
            "schema_name",
            "table_name",
            "user_column",
            "organization_column",
            "role_column",
            "key_columns",
        ],
    );
    let row = [
        Some("t"),
        Some("20"),
        Some("public"),
        Some("team"),
        Some("person"),
        Some("company"),
        NULL,
        Some("{id}"),
    ];
    // The table is tracked as well.
    let mut router = router([rule(&team, &[])]);
    let log = Log::at(1)
        .insert(&team, &[Some("1"), Some("u"), Some("a")])
        .update(&source, None, &row)
        .update(&source, None, &row)
        .insert(&team, &[Some("2"), Some("u"), Some("b")])
        .delete(&team, OldTuple::Key(tuple(&[Some("2"), NULL, NULL])))
        .commit();
    let change = |now| {
        HubOp::Membership(MembershipChange {
            key: "2".into(),
            now,
        })
    };
    assert_eq!(
        ops(&feed(&mut router, &log.events)),
        [
            HubOp::MembershipsCleared,
            change(Some(("u".into(), "b".into(), None))),
            change(None),
        ]
    );
    let reload = router.take_reload().unwrap();
    assert_eq!(&*reload.name.name, "team");
    assert_eq!(router.take_reload(), None);
}

#[test]
fn api_keys_follow_the_log() {
    let keys = own(
        94,
        "api_keys",
        &["id*", "hash", "organization_id", "roles", "revoked_at"],
    );
    let mut router = router([]);
    let row = |id, roles, revoked| [Some(id), Some("ab"), Some("a"), Some(roles), revoked];
    let log = Log::at(1)
        .insert(&keys, &row("k", "{admin}", None))
        .update(&keys, None, &row("k", "{admin}", Some("2026-01-01")))
        .insert(&keys, &row("bad", "nonsense", None))
        .delete(&keys, OldTuple::Key(tuple(&[Some("k")])))
        .truncate(&keys)
        .commit();
    let key = |now| {
        HubOp::ApiKey(KeyChange {
            id: "k".into(),
            now,
        })
    };
    assert_eq!(
        ops(&feed(&mut router, &log.events)),
        [
            key(Some(KeyFacts::new("ab", "a", vec!["admin".into()]))),
            key(None),
            key(None),
            HubOp::ApiKeysCleared,
        ]
    );
    assert_eq!(router.take_problems().len(), 1);
}

/// G35: whoever connects next asks anew.
#[test]
fn changes_of_plans_are_told_in_the_order_of_the_log() {
    let plans = own(96, "plans", &["name*", "ws_connections"]);
    let given = own(97, "organization_plans", &["organization_id*", "plan"]);
    let mut router = router([]);
    let log = Log::at(1)
        .insert(&plans, &[Some("pro"), Some("500")])
        .update(&given, None, &[Some("acme"), Some("pro")])
        .delete(&given, OldTuple::Key(tuple(&[Some("acme")])))
        .truncate(&plans)
        .commit();
    let told = ops(&feed(&mut router, &log.events));
    assert_eq!(told, vec![HubOp::PlansChanged; 4]);
}

#[test]
fn a_membership_change_keeps_its_place_among_the_events() {
    let items = table(10, "items", &["id*"]);
    let memberships = own(92, "memberships", &["user_id*", "organization_id*", "role"]);
    let mut router = router([rule(&items, &[])]);
    let log = Log::at(1)
        .insert(&items, &[Some("1")])
        .insert(&memberships, &[Some("u"), Some("a"), NULL])
        .message(INSERT)
        .insert(&items, &[Some("2")])
        .message(INSERT)
        .commit();
    let kinds: Vec<&str> = ops(&feed(&mut router, &log.events))
        .iter()
        .map(|op| match op {
            HubOp::Event(_) => "event",
            HubOp::Membership(_) => "membership",
            _ => "other",
        })
        .collect();
    assert_eq!(kinds, ["event", "membership", "event"]);
}

#[test]
fn a_renamed_table_keeps_its_rule_and_shows_its_new_name() {
    let (before, after) = (
        table(10, "items", &["id*"]),
        table(10, "things", &["id*", "v"]),
    );
    let mut router = router([rule(&before, &[])]);
    let log = Log::at(1)
        .insert(&before, &[Some("1")])
        .message(INSERT)
        .insert(&after, &[Some("2"), Some("x")])
        .message(INSERT)
        .commit();
    assert_eq!(
        lines(&events(&mut router, &log)),
        [
            r#"a INSERT items#1 {"id":"1"} <- null"#,
            r#"a INSERT things#2 {"id":"2","v":"x"} <- null"#,
        ]
    );
}
