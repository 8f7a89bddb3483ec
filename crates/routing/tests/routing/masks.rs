//! Masks and hidden columns: what crosses to the hub, and whom a change concerns.

use std::sync::Arc;

use rowcast_model::*;

use crate::support::*;

const MASK: &str = r#"{"email":{"type":"email","show":{"roles":["admin"],"or":"owner"}},"ssn":{"type":"ssn","show":{"roles":["hr"]}}}"#;

fn settings(storage: &'static str) -> Vec<(&'static str, &'static str)> {
    vec![
        ("columns", "{id,name,email,ssn}"),
        ("owner_column", "owner"),
        ("mask", MASK),
        ("storage", storage),
    ]
}

const COLUMNS: [&str; 6] = ["id*", "name", "email", "ssn", "owner", "hidden"];

fn values<'a>(email: &'a str, owner: &'a str) -> [Option<&'a str>; 6] {
    let [id, name, ssn, hidden] = ["1", "Ann", "123456789", "h"].map(Some);
    [id, name, Some(email), ssn, Some(owner), hidden]
}

fn message(op: &str, more: &str) -> String {
    format!(r#"{{"v":1,"t":10,"op":"{op}","n":1,"org":"a"{more}}}"#)
}

fn masked(event: &RoutedEvent) -> &Masked {
    event.audience.masked.as_ref().unwrap()
}

fn owners(event: &RoutedEvent) -> (Option<&str>, Option<&str>) {
    let Masked {
        owner, old_owner, ..
    } = masked(event);
    let text = |user: &'_ Option<UserId>| user.as_ref().map(|user| user.as_str().to_owned());
    let leak = |text: Option<String>| text.map(|text| &*text.leak());
    (leak(text(owner)), leak(text(old_owner)))
}

/// MISSION Q19, Q23: the owner of each image, where the log says who that is.
#[test]
fn q19_each_image_has_the_owner_that_the_log_names() {
    let people = table(10, "people", &COLUMNS);
    let whole = full_table(11, "whole", &COLUMNS);
    let mut router = router([
        rule(&people, &settings("log")),
        rule(&whole, &settings("log")),
    ]);
    let key = OldTuple::Key(tuple(&[Some("1"), NULL, NULL, NULL, NULL, NULL]));
    let full = |owner| OldTuple::Full(tuple(&values("a@b.org", owner)));
    let of_whole = |op| message(op, "").replace("\"t\":10", "\"t\":11");
    let log = Log::at(1)
        .insert(&people, &values("a@b.org", "ann"))
        .message(message("INSERT", ""))
        .update(&people, None, &values("c@b.org", "bob"))
        .message(message("UPDATE", ""))
        .delete(&people, key)
        .message(message("DELETE", ""))
        .update(&whole, Some(full("ann")), &values("c@b.org", "bob"))
        .message(of_whole("UPDATE"))
        .delete(&whole, full("bob"))
        .message(of_whole("DELETE"))
        .commit();
    let events = events(&mut router, &log);
    let owners: Vec<_> = events.iter().map(owners).collect();
    assert_eq!(
        owners,
        [
            (Some("ann"), None),
            (Some("bob"), None),
            (None, None),
            (Some("bob"), Some("ann")),
            (None, Some("bob")),
        ]
    );
    // The column of the owner is hidden itself, and the plain value crosses with its mask.
    let line = line(&events[0]);
    assert!(line.contains("a@b.org") && !line.contains("ann"), "{line}");
    assert_eq!(masked(&events[0]).masks.columns().len(), 2);
}

/// What each event of a log lets be known: `None` that something changed, else which masked columns.
fn only(events: &[RoutedEvent]) -> Vec<(String, Option<u64>)> {
    let only = |event: &RoutedEvent| {
        let org = match &event.topic {
            Topic::Org(org) => org.to_string(),
            Topic::AllOrgs => "*".into(),
            Topic::Channel(..) | Topic::User(_) => unreachable!("rows are of organizations"),
        };
        let masked = event.audience.masked.as_ref();
        (org, masked.and_then(|masked| masked.only))
    };
    events.iter().map(only).collect()
}

fn said(list: &[(&str, Option<u64>)]) -> Vec<(String, Option<u64>)> {
    let owned = list.iter().map(|(org, only)| ((*org).to_owned(), *only));
    owned.collect()
}

#[test]
fn a_change_of_hidden_columns_alone_is_told_to_nobody() {
    for storage in ["log", "table"] {
        let people = table(10, "people", &COLUMNS);
        let mut router = router([rule(&people, &settings(storage))]);
        let mut log = Log::at(1);
        for changed in [
            None,
            Some("{}"),
            Some("{email}"),
            Some("{email,ssn}"),
            Some("{hidden}"),
            Some("{name}"),
        ] {
            log.update(&people, None, &values("a@b.org", "ann"));
            match (storage, changed) {
                ("log", None) => log.message(message("UPDATE", "")),
                ("log", Some(names)) => {
                    log.message(message("UPDATE", &format!(",\"changed\":[\"{names}\"]")))
                }
                _ => log.event(
                    &people,
                    EventRow {
                        org: "a",
                        event: "UPDATE",
                        record: Some("1"),
                        changed,
                        ..EventRow::default()
                    },
                ),
            };
        }
        let got = events(&mut router, &log.commit());
        let expected = [("a", None), ("a", Some(1)), ("a", Some(3)), ("a", None)];
        assert_eq!(only(&got), said(&expected), "{storage}");
        assert_eq!(router.stats().unpaired, 0);
    }
}

/// The log itself says it where the old row is whole.
#[test]
fn a_whole_old_row_says_what_changed() {
    let people = full_table(10, "people", &COLUMNS);
    let mut router = router([rule(&people, &settings("log"))]);
    let before = values("a@b.org", "ann");
    let mut log = Log::at(1);
    let mut update = |at: &[(usize, &str)]| {
        let mut now = before.map(|value| value.map(str::to_owned));
        for (at, value) in at {
            now[*at] = Some((*value).to_owned());
        }
        let now: Vec<Option<&str>> = now.iter().map(Option::as_deref).collect();
        log.update(&people, Some(OldTuple::Full(tuple(&before))), &now)
            .message(message("UPDATE", ""));
    };
    update(&[(5, "other")]);
    update(&[(2, "x@y.org"), (5, "other")]);
    update(&[(3, "1")]);
    update(&[(1, "Bob"), (2, "x@y.org")]);
    // Another owner sees the email now, the former one does not any more.
    update(&[(4, "bob")]);
    update(&[]);
    let got = events(&mut router, &log.commit());
    let expected = [("a", Some(1)), ("a", Some(2)), ("a", None), ("a", Some(1))];
    assert_eq!(only(&got), said(&expected));
}

/// Where rows are not told, what changed decides all the same.
#[test]
fn records_and_tables_are_told_to_whom_the_change_concerns() {
    let records = table(10, "records", &COLUMNS);
    let mut settings = settings("log");
    settings.extend([("rows", "f"), ("published", "f")]);
    let mut router = router([rule(&records, &settings)]);
    let ids = r#"{"v":1,"t":10,"op":"UPDATE","n":4,"org":"a","ids":["1","2","3","4"],"changed":["{}","{ssn}",null,"{}"]}"#;
    // Of a large statement by organization: `b` is told nothing.
    let bulk =
        r#"{"v":1,"t":10,"op":"UPDATE","n":90000,"bulk":["a","c"],"changed":["{email,ssn}",null]}"#;
    let log = Log::at(1).message(ids).message(bulk).commit();
    let got = events(&mut router, &log);
    assert_eq!(got[0].record_id.as_deref(), Some("2"));
    let expected = [("a", Some(2)), ("a", None), ("a", Some(3)), ("c", None)];
    assert_eq!(only(&got), said(&expected));
}

/// A statement whose rows are not in the log (any more) is told by organization.
#[test]
fn what_cannot_be_paired_says_no_more_than_it_may() {
    let people = table(10, "people", &COLUMNS);
    let mut router = router([rule(&people, &settings("log"))]);
    let lost = r#"{"v":1,"t":10,"op":"UPDATE","n":6,"orgs":["a","b","c","a","d","e"],"old":["a","b","c","a","x","e"],"changed":["{}","{}","{ssn}","{email}","{}",null]}"#;
    let one = message("UPDATE", r#","changed":["{}"]"#);
    let log = Log::at(1).message(lost).message(one).commit();
    let got = events(&mut router, &log);
    let expected = [
        ("a", Some(1)),
        ("c", Some(2)),
        ("d", None),
        ("e", None),
        ("x", None),
    ];
    assert_eq!(only(&got), said(&expected));
    assert!(got.iter().all(|event| event.body == Body::Invalidate));
}

/// Two rules in one transaction: each event carries the one that was in force, and the hub is told in between.
#[test]
fn the_rule_travels_with_the_event() {
    let people = table(10, "people", &COLUMNS);
    let tables = relation(
        91,
        "rowcast",
        "tables",
        &[
            "relid*",
            "schema_name",
            "table_name",
            "mask",
            "storage",
            "published",
        ],
        ReplicaIdentity::Default,
    );
    let mut router = router([rule(&people, &settings("log"))]);
    let row = |mask| {
        let [relid, schema, name, storage, published] =
            ["10", "public", "people", "log", "t"].map(Some);
        [relid, schema, name, mask, storage, published]
    };
    let insert = |log: &mut Log| {
        log.insert(&people, &values("a@b.org", "ann"))
            .message(message("INSERT", ""));
    };
    let mut log = Log::at(1);
    insert(&mut log);
    log.update(&tables, None, &row(Some(r#"{"name":{"type":"name"}}"#)));
    insert(&mut log);
    log.update(&tables, None, &row(NULL));
    insert(&mut log);
    // A rule that is half understood shows nothing.
    log.update(&tables, None, &row(Some(r#"{"name":{"type":"shred"}}"#)));
    insert(&mut log);
    let batches = feed(&mut router, &log.commit().events);
    let ops = batches.iter().flat_map(|batch| &batch.ops);
    let told: Vec<String> = ops
        .filter_map(|op| match op {
            HubOp::Event(event) => {
                let masks = event.audience.masked.as_ref().map(|masked| &masked.masks);
                let names = masks.map(|masks| masks.columns().iter().map(|mask| &*mask.column));
                Some(names.map_or("plain".into(), |names| names.collect::<Vec<_>>().join("+")))
            }
            HubOp::Rule { table, now } => {
                let masks = now
                    .as_ref()
                    .map(|now| now.masks.as_ref().map(|masks| masks.all()));
                Some(format!("{}: {masks:?}", table.name))
            }
            _ => None,
        })
        .collect();
    assert_eq!(
        told,
        [
            "email+ssn",
            "people: Some(Some(1))",
            "name",
            "people: Some(None)",
            "plain",
            "people: None",
        ]
    );
}

/// After a restart the log is read again from before a rule was changed. The former rule is not known any
/// more: what it hid must not come out.
#[test]
fn what_was_committed_before_the_rule_shows_no_row() {
    let people = table(10, "people", &COLUMNS);
    let log = |router: &mut _| {
        let log = Log::at(1)
            .insert(&people, &values("a@b.org", "ann"))
            .message(message("INSERT", ""))
            .commit();
        let events = events(router, &log);
        lines(&events)
    };
    // Transactions of these tests are committed at 7.
    let known = [("changed_us", "7")];
    let later = [("changed_us", "8"), ("required_roles", "{admin}")];
    assert!(log(&mut router([rule(&people, &known)]))[0].contains("a@b.org"));
    let mut router = router([rule(&people, &later)]);
    assert_eq!(log(&mut router), ["a INSERT people invalidate"]);
}

/// A record id would show what the mask of its column hides.
#[test]
fn a_masked_key_is_told_table_by_table() {
    let mask = ("mask", r#"{"id":{"type":"ssn"}}"#);
    let people = table(10, "people", &COLUMNS);
    let listed = [mask, ("key_columns", "{id}")];
    let of_the_log = [mask];
    for settings in [&listed[..], &of_the_log[..]] {
        let mut router = router([rule(&people, settings)]);
        let log = Log::at(1)
            .insert(&people, &values("a@b.org", "ann"))
            .message(message("INSERT", ""))
            .commit();
        let events = events(&mut router, &log);
        assert_eq!(lines(&events), ["a INSERT people invalidate"]);
    }
}

/// Events of rows without owners share what they have in common.
#[test]
fn events_share_the_rule() {
    let people = table(10, "people", &COLUMNS);
    let mut router = router([rule(&people, &[("mask", MASK)])]);
    let log = Log::at(1)
        .insert(&people, &values("a@b.org", "ann"))
        .insert(&people, &values("a@b.org", "bob"))
        .message(r#"{"v":1,"t":10,"op":"INSERT","n":2,"org":"a"}"#)
        .commit();
    let events = events(&mut router, &log);
    let [a, b] = &events[..] else {
        panic!("{events:?}");
    };
    let masked = |event: &RoutedEvent| event.audience.masked.clone().unwrap();
    assert!(Arc::ptr_eq(&masked(a), &masked(b)));
}
