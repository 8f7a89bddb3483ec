//! Masks in the hub: encodings by class, and filters that must not ask for what is hidden.

use std::sync::Arc;

use rowcast_hub::{Hub, HubError, Identity};
use rowcast_model::{
    Body, Cursor, HubOp, Mask, MaskKind, Masked, Masks, Operation, RoutedEvent, Shown, TableName,
};
use serde_json::{Value, json};

use crate::support::*;

fn masks(columns: &[(&str, MaskKind, &[&str], bool)]) -> Arc<Masks> {
    let mask = |(column, kind, roles, owner): &(&str, MaskKind, &[&str], bool)| Mask {
        column: (*column).into(),
        kind: *kind,
        roles: roles.iter().map(|role| (*role).into()).collect(),
        owner: *owner,
    };
    Arc::new(Masks::new(columns.iter().map(mask).collect()).unwrap())
}

/// `s` for admins and owners.
fn of_s() -> Arc<Masks> {
    masks(&[("s", MaskKind::Name, &["admin"], true)])
}

fn masked(mut event: RoutedEvent, masks: &Arc<Masks>, owner: Option<&str>) -> RoutedEvent {
    event.audience.masked = Some(Arc::new(Masked {
        masks: masks.clone(),
        owner: owner.map(Into::into),
        old_owner: None,
        only: None,
    }));
    event
}

fn insert(lsn: u64, s: &str) -> RoutedEvent {
    let id = lsn.to_string();
    let new = row(&[("id", &id), ("s", &json!(s).to_string())]);
    let insert = change(Operation::Insert, Some(new), None);
    RoutedEvent {
        last: true,
        ..insert(event("acme", at(lsn, 0), u32::try_from(lsn).unwrap()))
    }
}

fn publish(hub: &Hub, event: RoutedEvent) {
    let lsn = event.cursor.commit_lsn.0;
    hub.publish(batch(vec![HubOp::Event(event.into()), commit(lsn)]));
}

fn rule(columns: Option<&[&str]>, masks: Option<Arc<Masks>>) -> HubOp {
    HubOp::Rule {
        table: Arc::new(TableName {
            schema: "public".into(),
            name: "tasks".into(),
        }),
        now: Some(Shown {
            columns: columns.map(|columns| columns.iter().map(|name| (*name).into()).collect()),
            masks,
        }),
    }
}

fn client(hub: &Hub, user: &str, role: &str) -> Client {
    hub.publish(batch(vec![member(user, "acme", Some(role))]));
    Client::new(hub, Identity::session(user))
}

fn by(column: &str) -> String {
    format!(
        r#"{{"type":"subscribe","channel":"org:acme","tables":[{{"schema":"public","table":"tasks","filter":{{"column":"{column}","op":"eq","value":"Ann"}}}}]}}"#
    )
}

fn try_subscribe(hub: &Hub, client: &Client, json: &str) -> Result<(), HubError> {
    let result = hub.subscribe(&client.connection, wanted(json));
    client.socket.frames();
    result.map(|_| ())
}

fn end_of(client: &Client) -> Option<Value> {
    let frames = client.socket.frames();
    let mut ends = frames
        .into_iter()
        .filter(|frame| frame["type"] == "unsubscribed");
    ends.next().map(|frame| frame["reason"].clone())
}

/// MISSION Q20: bytes are made once for each view, however many look.
#[test]
fn q20_the_same_view_has_the_same_bytes() {
    let hub = hub();
    let roles = ["admin", "member"];
    let clients: Vec<Client> = (0..40)
        .map(|n| {
            let client = client(&hub, &format!("u{n}"), roles[n % 2]);
            try_subscribe(
                &hub,
                &client,
                r#"{"type":"subscribe","channel":"org:acme"}"#,
            )
            .unwrap();
            client
        })
        .collect();
    publish(&hub, masked(insert(10, "Annabel"), &of_s(), Some("u1")));
    publish(&hub, masked(insert(11, "Annabel"), &of_s(), None));
    let raw: Vec<Vec<u8>> = clients.iter().map(|client| client.socket.raw()).collect();
    assert!(raw.iter().step_by(2).all(|bytes| *bytes == raw[0]));
    assert!(raw.iter().skip(3).step_by(2).all(|bytes| *bytes == raw[3]));
    let seen = |client: &Client| -> Vec<String> {
        let frames = client.socket.frames();
        frames
            .iter()
            .map(|frame| frame["new"]["s"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(seen(&clients[0]), ["Annabel", "Annabel"]);
    assert_eq!(seen(&clients[1]), ["Annabel", "A******"]);
    assert_eq!(seen(&clients[3]), ["A******", "A******"]);
}

/// What somebody sees follows his roles from one event to the next, and does not depend on who came before.
#[test]
fn the_next_event_knows_who_is_there_and_as_what() {
    let hub = hub();
    let listen = |user: &str, role: &str| {
        let client = client(&hub, user, role);
        let json = r#"{"type":"subscribe","channel":"org:acme"}"#;
        try_subscribe(&hub, &client, json).unwrap();
        client
    };
    let rules: Vec<Arc<Masks>> = (0..6).map(|_| of_s()).collect();
    let (anna, bert) = (listen("anna", "admin"), listen("bert", "member"));
    let mut lsn = 10;
    let mut seen = |client: &[&Client], rule: usize, owner: Option<&str>| -> Vec<Option<String>> {
        lsn += 1;
        publish(&hub, masked(insert(lsn, "Ann"), &rules[rule], owner));
        let frames = |client: &&Client| {
            let frames = client.socket.frames();
            let mut rows = frames
                .iter()
                .filter(|frame| frame["type"] == "postgres_changes");
            rows.next()
                .map(|frame| frame["new"]["s"].as_str().unwrap().to_owned())
        };
        client.iter().map(frames).collect()
    };
    let some = |names: &[&str]| -> Vec<Option<String>> {
        names.iter().map(|name| Some((*name).to_owned())).collect()
    };
    assert_eq!(seen(&[&anna, &bert], 0, None), some(&["Ann", "A**"]));
    hub.publish(batch(vec![member("bert", "acme", Some("admin"))]));
    hub.publish(batch(vec![member("anna", "acme", Some("member"))]));
    assert_eq!(seen(&[&anna, &bert], 0, None), some(&["A**", "Ann"]));
    let cora = listen("cora", "member");
    assert_eq!(
        seen(&[&anna, &bert, &cora], 0, Some("cora")),
        some(&["A**", "Ann", "Ann"])
    );
    // Several rules in turn, more than are remembered.
    for rule in [1, 2, 3, 4, 5, 0, 3, 1] {
        assert_eq!(
            seen(&[&anna, &bert, &cora], rule, None),
            some(&["A**", "Ann", "A**"])
        );
    }
    hub.disconnect(&anna.connection);
    let dora = listen("dora", "admin");
    let expected = [
        None,
        Some("Ann".into()),
        Some("A**".into()),
        Some("Ann".into()),
    ];
    assert_eq!(seen(&[&anna, &bert, &cora, &dora], 0, None), expected);
    hub.publish(batch(vec![member("bert", "acme", None)]));
    assert_eq!(seen(&[&bert, &dora], 0, None), [None, Some("Ann".into())]);
}

/// A column of which nothing is shown does not say whether it changed either.
#[test]
fn a_large_value_that_did_not_change_looks_redacted_all_the_same() {
    let hub = hub();
    let anna = client(&hub, "anna", "member");
    try_subscribe(&hub, &anna, r#"{"type":"subscribe","channel":"org:acme"}"#).unwrap();
    let masks = masks(&[
        ("big", MaskKind::Redact, &["admin"], false),
        ("s", MaskKind::Name, &["admin"], false),
    ]);
    let update = |big: &str, unchanged: &[&str]| {
        let mut event = insert(10, "x");
        event.op = Operation::Update;
        event.body = Body::Change {
            new: Some(row(&[("id", "1"), ("n", "2"), ("big", big)])),
            old: Some(row(&[("id", "1")])),
            unchanged: unchanged.iter().map(|name| (*name).into()).collect(),
        };
        event
    };
    publish(&hub, masked(update("\"new\"", &["s"]), &masks, None));
    publish(&hub, masked(update("", &["big", "s"]), &masks, None));
    let frames = anna.socket.frames();
    let (a, b) = (&frames[0], &frames[1]);
    assert_eq!(a["new"], json!({"id": 1, "n": 2, "big": "[REDACTED]"}));
    assert_eq!((&a["new"], &a["unchanged"]), (&b["new"], &b["unchanged"]));
    assert_eq!(a["unchanged"], json!(["s"]));
}

#[test]
fn a_filter_may_name_only_what_its_subscriber_sees_in_every_row() {
    let hub = hub();
    hub.publish(batch(vec![rule(Some(&["id", "s"]), Some(of_s()))]));
    let member = client(&hub, "bert", "member");
    let admin = client(&hub, "anna", "admin");
    let refused = try_subscribe(&hub, &member, &by("s")).unwrap_err();
    assert_eq!(refused.code(), "masked_column");
    assert_eq!(try_subscribe(&hub, &admin, &by("s")), Ok(()));
    // What is hidden from all is like what is not there.
    for client in [&member, &admin] {
        for column in ["n", "nowhere"] {
            let refused = try_subscribe(&hub, client, &by(column)).unwrap_err();
            assert_eq!(refused.code(), "unknown_column", "{column}");
        }
    }
    // A list of columns may name it: what it shows is masked.
    let listed =
        r#"{"type":"subscribe","channel":"org:acme","tables":[{"table":"tasks","columns":["s"]}]}"#;
    assert_eq!(try_subscribe(&hub, &member, listed), Ok(()));
    publish(&hub, masked(insert(10, "Ann"), &of_s(), None));
    assert_eq!(member.socket.frames()[0]["new"], json!({"s": "A**"}));
    assert_eq!(admin.socket.frames()[0]["new"]["s"], "Ann");
    // On a channel over several organizations there is no role to go by.
    let own = by("s").replace("org:acme", "user:anna");
    let refused = try_subscribe(&hub, &admin, &own).unwrap_err();
    assert_eq!(refused.code(), "masked_column");
}

#[test]
fn a_subscription_ends_when_its_filter_becomes_hidden() {
    let hub = hub();
    let anna = client(&hub, "anna", "admin");
    let bert = client(&hub, "bert", "member");
    for client in [&anna, &bert] {
        try_subscribe(&hub, client, &by("s")).unwrap();
    }
    hub.publish(batch(vec![rule(None, Some(of_s()))]));
    assert_eq!(end_of(&bert), Some("column_hidden".into()));
    assert_eq!(end_of(&anna), None);
    // She is no admin any more.
    hub.publish(batch(vec![member("anna", "acme", Some("member"))]));
    assert_eq!(end_of(&anna), Some("column_hidden".into()));
    // Unmasked, it may be named again; hidden, it may not.
    hub.publish(batch(vec![rule(None, None)]));
    try_subscribe(&hub, &bert, &by("s")).unwrap();
    hub.publish(batch(vec![rule(Some(&["id", "n"]), None)]));
    assert_eq!(end_of(&bert), Some("column_hidden".into()));
    publish(&hub, insert(20, "Ann"));
    assert!(bert.told().is_empty() && anna.told().is_empty());
    assert_eq!(hub.subscriptions(), 0);
}

/// An event that comes with another rule than the hub knows: the filter is not asked.
#[test]
fn a_filter_is_never_evaluated_on_what_an_event_masks() {
    let hub = hub();
    let bert = client(&hub, "bert", "member");
    for value in ["Ann", "Other"] {
        try_subscribe(&hub, &bert, &by("s")).unwrap();
        publish(&hub, masked(insert(10, value), &of_s(), Some("bert")));
        assert_eq!(bert.told(), ["unsubscribed org:acme"], "{value}");
    }
}

/// The past is told by the rule of its time. A filter that could not have been asked then, is not asked now.
#[test]
fn the_past_is_told_by_the_rule_of_its_time() {
    let hub = hub();
    hub.publish(batch(vec![HubOp::LogBegins {
        floor: at(5, 0),
        target: at(5, 0),
    }]));
    hub.publish(batch(vec![rule(None, Some(of_s()))]));
    publish(&hub, masked(insert(10, "Ann"), &of_s(), None));
    hub.publish(batch(vec![rule(None, None)]));
    publish(&hub, insert(11, "Ann"));
    let bert = client(&hub, "bert", "member");
    let come_back = |json: &str, cursor: Cursor| {
        let mut subscription = wanted(json);
        subscription.cursor = Some(cursor);
        hub.subscribe(&bert.connection, subscription).unwrap();
        while bert.connection.work().replay {
            hub.replay(&bert.connection);
        }
        bert.socket.frames()
    };
    let frames = come_back(r#"{"type":"subscribe","channel":"org:acme"}"#, at(5, 0));
    let seen: Vec<&Value> = frames.iter().map(|frame| &frame["new"]["s"]).collect();
    assert!(seen.contains(&&json!("A**")) && seen.contains(&&json!("Ann")));
    let frames = come_back(&by("s"), at(5, 0));
    let told: Vec<&str> = frames
        .iter()
        .map(|frame| frame["type"].as_str().unwrap())
        .collect();
    assert_eq!(told, ["subscribed", "resync", "position"]);
    assert_eq!(frames[1]["reason"], "rule_changed");
    // From behind it, all is well.
    let frames = come_back(
        &by("s"),
        Cursor::after_commit(at(10, 0).epoch, at(10, 0).commit_lsn),
    );
    assert_eq!(frames[1]["new"]["s"], "Ann");
}
