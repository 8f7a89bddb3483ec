use super::*;

fn rule(relation: u32, name: &str, more: &[(&str, &str)]) -> PastTable {
    let relid = relation.to_string();
    let mut columns = vec![
        ("relid", relid.as_str()),
        ("schema_name", "public"),
        ("table_name", name),
        ("organization_column", "organization_id"),
        ("published", "t"),
    ];
    columns.extend(more);
    let get = |column: &str| {
        let found = columns.iter().rev().find(|(name, _)| *name == column);
        found.map(|(_, value)| *value)
    };
    let rule = TableRule::from_text(&get).unwrap();
    PastTable {
        name: rule.name.clone(),
        rule: Arc::new(rule),
        changed: 10,
    }
}

fn row(relation: u32, name: &str, record: Option<&str>, newest: u64) -> PastRow {
    PastRow {
        relation: Some(RelationId(relation)),
        table: TableName {
            schema: "public".into(),
            name: name.into(),
        },
        record_id: record.map(Arc::from),
        user: None,
        operations: vec![Operation::Insert],
        newest,
        at: Timestamp(7),
        changed: None,
    }
}

/// What is told to who has to be told everything from `horizon` on, as `table record op roles user`.
fn told(past: &Past, rows: Vec<PastRow>, horizon: u64) -> Vec<String> {
    let told = past.tell(&"a".into(), rows, horizon, Timestamp(0)).unwrap();
    told.iter()
        .filter(|changed| changed.newest >= horizon)
        .map(|changed| {
            let event = &changed.event;
            let mut words = vec![event.table.name.to_string()];
            words.push(event.record_id.as_deref().unwrap_or("-").into());
            words.push(event.op.as_str().into());
            words.extend(event.audience.required_roles.iter().map(|r| r.to_string()));
            words.extend(event.audience.user.iter().map(|user| user.to_string()));
            if changed.personal {
                words.push("personal".into());
            }
            words.join(" ")
        })
        .collect()
}

/// A change of masked columns alone is told to those who see one of them, also long after.
#[test]
fn what_changed_for_few_is_told_to_few() {
    let mask = (
        "mask",
        r#"{"mail":{"type":"email","show":{"roles":["admin"]}}}"#,
    );
    let mut past = Past::default();
    past.table(rule(1, "people", &[mask, ("columns", "{id,mail}")]));
    past.table(rule(2, "letters", &[mask, ("user_column", "user_id")]));
    let changed = |row: PastRow, names: &str| PastRow {
        changed: Some(names.into()),
        ..row
    };
    let rows = vec![
        changed(row(1, "people", Some("hidden"), 20), "{}"),
        changed(row(1, "people", Some("other"), 21), "{salary}"),
        changed(row(1, "people", Some("mail"), 22), "{mail}"),
        changed(row(1, "people", None, 23), "{mail}"),
        row(1, "people", Some("all"), 24),
        changed(row(2, "letters", Some("l"), 25), "{mail}"),
    ];
    let told = past.tell(&"a".into(), rows, 20, Timestamp(0)).unwrap();
    let told: Vec<(&str, Option<&str>, Option<u64>, bool)> = told
        .iter()
        .map(|changed| {
            let event = &changed.event;
            let only = event
                .audience
                .masked
                .as_ref()
                .and_then(|masked| masked.only);
            let record = event.record_id.as_deref();
            (&*event.table.name, record, only, changed.personal)
        })
        .collect();
    assert_eq!(
        told,
        [
            ("people", Some("mail"), Some(1), false),
            ("people", None, Some(1), false),
            ("people", Some("all"), None, false),
            ("letters", None, Some(1), true),
        ]
    );
}

#[test]
fn records_are_told_by_the_rule_of_today() {
    let mut past = Past::default();
    past.table(rule(1, "tasks", &[]));
    past.table(rule(2, "salaries", &[("required_roles", "{admin}")]));
    past.table(rule(3, "letters", &[("user_column", "user_id")]));
    past.table(rule(4, "secrets", &[("visibility", "policies")]));
    let mut letter = row(3, "letters", Some("l"), 24);
    letter.user = Some("anna".into());
    // Once it was of one user, now the rule names none: still nobody else is told.
    let mut was_personal = row(1, "tasks", Some("t2"), 25);
    was_personal.user = Some("anna".into());
    let rows = vec![
        row(1, "tasks_as_it_was_called", Some("t"), 20),
        row(2, "salaries", Some("s"), 21),
        row(4, "secrets", Some("x"), 23),
        letter,
        was_personal,
    ];
    assert_eq!(
        told(&past, rows, 20),
        [
            "tasks t INSERT",
            "salaries s INSERT admin",
            "secrets - INSERT",
            "letters l INSERT anna",
            "tasks t2 INSERT anna"
        ]
    );
    // Of a table that names a user, a row that names none.
    let nobodys = vec![row(3, "letters", Some("l"), 24)];
    assert_eq!(told(&past, nobodys, 20), ["letters - INSERT personal"]);
}

#[test]
fn what_is_not_kept_is_told_of_the_table() {
    let mut past = Past::default();
    past.table(rule(1, "tasks", &[]));
    past.table(rule(2, "logs", &[("storage", "log")]));
    past.table(rule(3, "orders", &[]));
    past.mark(RelationId(3), Mark::Truncated, None, 30);
    past.mark(RelationId(1), Mark::Moved, Some("b".into()), 31);
    past.mark(RelationId(9), Mark::Truncated, None, 32);
    let rows = vec![
        row(3, "orders", Some("before"), 29),
        row(3, "orders", Some("after"), 31),
        row(1, "tasks", Some("t"), 33),
    ];
    assert_eq!(
        told(&past, rows.clone(), 20),
        [
            "orders - TRUNCATE",
            "orders after INSERT",
            "tasks t INSERT",
            "logs - UPDATE"
        ]
    );
    assert_eq!(
        told(&past, rows.clone(), 31),
        ["orders after INSERT", "tasks t INSERT", "logs - UPDATE"]
    );
    // The other organization learns that rows came or went.
    past.mark(RelationId(1), Mark::Moved, Some("a".into()), 34);
    assert_eq!(told(&past, rows, 32), ["tasks - UPDATE", "logs - UPDATE"]);
    let bulk = vec![row(1, "tasks", None, 40), row(1, "tasks", Some("t"), 39)];
    // A statement of many rows came behind it.
    assert_eq!(told(&past, bulk, 35), ["tasks - INSERT", "logs - UPDATE"]);
}

#[test]
fn a_rule_that_changed_hides_what_was_told_before() {
    let mut past = Past::default();
    let mut changed = rule(1, "tasks", &[("required_roles", "{admin}")]);
    changed.changed = 50;
    past.table(changed);
    let rows = || {
        vec![
            row(1, "tasks", Some("before"), 40),
            row(1, "tasks", Some("after"), 60),
        ]
    };
    assert_eq!(
        told(&past, rows(), 30),
        ["tasks - UPDATE admin", "tasks after INSERT admin"]
    );
    assert_eq!(told(&past, rows(), 51), ["tasks after INSERT admin"]);
}

#[test]
fn a_table_without_a_rule_is_everybodys_unless_it_had_one() {
    let mut past = Past::default();
    let rows = || vec![row(5, "seeds", Some("s"), 20)];
    assert_eq!(told(&past, rows(), 0), ["seeds s INSERT"]);
    past.mark(RelationId(5), Mark::Untracked, None, 3);
    assert_eq!(past.tell(&"a".into(), rows(), 0, Timestamp(0)), None);
    assert!(
        past.tell(&"a".into(), Vec::new(), 0, Timestamp(0))
            .is_some()
    );
    let mut by_hand = row(1, "tasks", Some("t"), 20);
    by_hand.relation = None;
    assert_eq!(
        past.tell(&"a".into(), vec![by_hand.clone()], 0, Timestamp(0)),
        None
    );
    past.table(rule(1, "tasks", &[("required_roles", "{admin}")]));
    assert_eq!(told(&past, vec![by_hand], 11), ["tasks t INSERT admin"]);
}

#[test]
fn several_operations_are_one_that_says_read_again() {
    let mut past = Past::default();
    past.table(rule(1, "tasks", &[]));
    let mut several = row(1, "tasks", Some("t"), 20);
    several.operations = vec![Operation::Insert, Operation::Delete];
    let mut gone = row(1, "tasks", Some("u"), 21);
    gone.operations = vec![Operation::Delete];
    assert_eq!(
        told(&past, vec![several, gone], 11),
        ["tasks t UPDATE", "tasks u DELETE"]
    );
}
