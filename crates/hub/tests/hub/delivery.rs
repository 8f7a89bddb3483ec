//! Who gets what, how often, and what is said around it.

use rowcast_hub::HubError;
use rowcast_model::{Audience, Body, HubOp, Operation, RoutedEvent, Topic};

use crate::support::*;

/// Promise 6.
#[test]
fn an_event_reaches_its_organization_and_no_other() {
    let hub = hub();
    let anna = Client::member(&hub, "anna", &["acme"], &["org:acme"]);
    let bert = Client::member(&hub, "bert", &["other"], &["org:other", "user:bert"]);
    let both = Client::member(&hub, "carl", &["acme", "other"], &["org:acme", "org:other"]);
    hub.publish(single("acme", 1, 1));
    hub.publish(single("nobody", 2, 2));
    assert_eq!(anna.told(), ["INSERT 1 on org:acme!"]);
    assert_eq!(both.told(), ["INSERT 1 on org:acme!"]);
    assert!(bert.told().is_empty());
}

#[test]
fn a_stranger_cannot_subscribe() {
    let hub = hub();
    let anna = Client::member(&hub, "anna", &["acme"], &[]);
    let refused = |channel| hub.subscribe(&anna.connection, to(channel)).unwrap_err();
    assert_eq!(refused("org:other"), HubError::NotMember("other".into()));
    assert_eq!(
        refused("tenant:other:tasks"),
        HubError::NotMember("other".into())
    );
    assert!(matches!(refused("user:bert"), HubError::Forbidden(_)));
    assert!(anna.told().is_empty());
}

/// MISSION X6.
#[test]
fn a_tenant_channel_carries_one_table() {
    let hub = hub();
    let anna = Client::member(
        &hub,
        "anna",
        &["acme"],
        &["tenant:acme:tasks", "tenant:acme:notes"],
    );
    hub.publish(single("acme", 1, 1));
    assert_eq!(anna.told(), ["INSERT 1 on tenant:acme:tasks!"]);
}

#[test]
fn truncate_reaches_everybody_and_names_his_own_organization() {
    let hub = hub();
    let anna = Client::member(&hub, "anna", &["acme"], &["org:acme"]);
    let bert = Client::member(&hub, "bert", &["other"], &["org:other"]);
    let truncate = RoutedEvent {
        op: Operation::Truncate,
        topic: Topic::AllOrgs,
        body: Body::Invalidate,
        record_id: None,
        last: true,
        ..event("", at(1, 0), 0)
    };
    hub.publish(batch(vec![HubOp::from(truncate), commit(1)]));
    for (client, organization) in [(anna, "acme"), (bert, "other")] {
        let frames = client.socket.frames();
        assert_eq!(frames[0]["type"], "invalidate");
        assert_eq!(frames[0]["organizationId"], organization);
        assert_eq!(frames[1]["type"], "commit");
    }
}

/// Promise 2.
#[test]
fn whoever_misses_the_last_event_is_told_of_the_commit() {
    let hub = hub();
    let anna = Client::member(&hub, "anna", &["acme"], &["org:acme"]);
    hub.publish(batch(vec![member("anna", "acme", Some("member"))]));
    let for_admins = |mut event: RoutedEvent| {
        event.audience = Audience {
            required_roles: std::sync::Arc::new(["admin".into()]),
            user: None,
            masked: None,
        };
        event
    };
    let mut last = for_admins(event("acme", at(1, 1), 2));
    last.last = true;
    // The transaction may come in two batches.
    hub.publish(batch(vec![HubOp::from(event("acme", at(1, 0), 1))]));
    hub.publish(batch(vec![HubOp::from(last.clone()), commit(1)]));
    assert_eq!(anna.told(), ["INSERT 1 on org:acme", "commit org:acme"]);
    // Nothing of a transaction, nothing of its end.
    last.cursor = at(2, 0);
    hub.publish(batch(vec![HubOp::from(last), commit(2)]));
    assert!(anna.told().is_empty());
}

#[test]
fn an_event_for_one_user_comes_once() {
    let hub = hub();
    let on_org = Client::member(&hub, "anna", &["acme"], &["org:acme", "user:anna"]);
    let on_user = Client::member(&hub, "anna", &[], &["user:anna"]);
    let bert = Client::member(&hub, "bert", &["acme"], &["org:acme", "user:bert"]);
    let mut targeted = event("acme", at(1, 0), 1);
    targeted.last = true;
    targeted.audience.user = Some("anna".into());
    hub.publish(batch(vec![HubOp::from(targeted.clone()), commit(1)]));
    assert_eq!(on_org.told(), ["INSERT 1 on org:acme!"]);
    assert_eq!(
        on_user.told(),
        ["INSERT 1 on user:anna", "commit user:anna"]
    );
    assert!(bert.told().is_empty());
    // In an organization that she is no member of, nothing on any channel.
    targeted.topic = Topic::Org("other".into());
    targeted.cursor = at(2, 0);
    hub.publish(batch(vec![HubOp::from(targeted), commit(2)]));
    assert!(on_org.told().is_empty() && on_user.told().is_empty());
}

#[test]
fn nobody_need_listen_to_the_organization() {
    let hub = hub();
    let anna = Client::member(&hub, "anna", &["acme"], &["user:anna"]);
    let mut targeted = event("acme", at(1, 0), 1);
    targeted.audience.user = Some("anna".into());
    hub.publish(batch(vec![HubOp::from(targeted), commit(1)]));
    assert_eq!(anna.told(), ["INSERT 1 on user:anna", "commit user:anna"]);
}

#[test]
fn an_api_key_is_nobody_in_particular() {
    let hub = hub();
    hub.publish(batch(vec![key("anna", Some("acme"))]));
    let machine = Client::new(&hub, machine("anna"));
    hub.subscribe(&machine.connection, to("org:acme")).unwrap();
    hub.subscribe(&machine.connection, to("user:anna")).unwrap();
    machine.told();
    let mut targeted = event("acme", at(1, 0), 1);
    targeted.audience.user = Some("anna".into());
    hub.publish(batch(vec![HubOp::from(targeted), commit(1)]));
    assert!(machine.told().is_empty());
    hub.publish(single("acme", 2, 2));
    assert_eq!(machine.told(), ["INSERT 2 on org:acme!"]);
}

#[test]
fn forms_and_columns_make_classes() {
    let hub = hub();
    let anna = Client::member(&hub, "anna", &["acme"], &[]);
    let bert = Client::member(&hub, "bert", &["acme"], &[]);
    let subscribe = |client: &Client, json: &str| {
        hub.subscribe(&client.connection, wanted(json)).unwrap();
        client.told();
    };
    subscribe(
        &anna,
        r#"{"type":"subscribe","channel":"org:acme","events":["changes","invalidations"]}"#,
    );
    subscribe(
        &bert,
        r#"{"type":"subscribe","channel":"org:acme","tables":[{"table":"tasks","columns":["n"]}]}"#,
    );
    let insert = change(
        Operation::Insert,
        Some(row(&[("id", "1"), ("n", "7")])),
        None,
    );
    hub.publish(batch(vec![
        HubOp::from(insert(event("acme", at(1, 0), 1))),
        commit(1),
    ]));
    assert_eq!(
        anna.told(),
        [
            "invalidate org:acme",
            "INSERT 1 on org:acme",
            "commit org:acme"
        ]
    );
    let frames = bert.socket.frames();
    assert_eq!(frames[0]["new"], serde_json::json!({"n": 7}));
}

#[test]
fn a_batch_is_one_write_for_each_socket() {
    let hub = hub();
    let anna = Client::member(&hub, "anna", &["acme"], &["org:acme"]);
    *anna.socket.writes.lock().unwrap() = 0;
    let events = (0..16).map(|i| HubOp::from(event("acme", at(1, i), i)));
    hub.publish(batch(events.chain([commit(1)]).collect()));
    assert_eq!(anna.told().len(), 17);
    assert_eq!(*anna.socket.writes.lock().unwrap(), 1);
}

/// Promise 6: what lies between two frames of a member in the shared bytes is not his.
#[test]
fn a_frame_for_others_in_the_middle_of_a_batch_is_left_out() {
    let hub = hub();
    let anna = Client::member(&hub, "anna", &["acme"], &["org:acme"]);
    hub.publish(batch(vec![member("boss", "acme", Some("admin"))]));
    let boss = Client::member(&hub, "boss", &[], &["org:acme"]);
    let events = (0..6).map(|i| {
        let mut event = event("acme", at(1, i), i);
        if i % 3 == 1 {
            event.audience.required_roles = std::sync::Arc::new(["admin".into()]);
        }
        HubOp::from(event)
    });
    hub.publish(batch(events.collect()));
    let inserts = |ids: &[u32]| -> Vec<String> {
        let told = |id| format!("INSERT {id} on org:acme");
        ids.iter().map(told).collect()
    };
    assert_eq!(anna.told(), inserts(&[0, 2, 3, 5]));
    assert_eq!(boss.told(), inserts(&[0, 1, 2, 3, 4, 5]));
}

#[test]
fn a_new_subscription_takes_the_place_of_the_old_one() {
    let hub = hub();
    let anna = Client::member(&hub, "anna", &["acme"], &[]);
    let first = hub.subscribe(&anna.connection, to("org:acme")).unwrap();
    let second = hub
        .subscribe(
            &anna.connection,
            wanted(
                r#"{"type":"subscribe","ref":1,"channel":"org:acme","tables":[{"table":"notes"}]}"#,
            ),
        )
        .unwrap();
    let channel = "org:acme".parse().unwrap();
    let stale = hub.unsubscribe(
        &anna.connection,
        &channel,
        None,
        Some(first.generation),
        None,
    );
    assert!(matches!(stale, Err(HubError::NotSubscribed(_))));
    hub.publish(single("acme", 1, 1));
    assert_eq!(anna.told(), ["subscribed org:acme", "subscribed org:acme"]);
    hub.unsubscribe(
        &anna.connection,
        &channel,
        None,
        Some(second.generation),
        None,
    )
    .unwrap();
    assert_eq!(anna.told(), ["unsubscribed org:acme"]);
    assert!(
        hub.unsubscribe(&anna.connection, &channel, None, None, None)
            .is_err()
    );
}

#[test]
fn limits_and_bad_table_lists_are_refused() {
    let hub = hub_with(rowcast_hub::HubLimits {
        subscriptions: 1,
        ..Default::default()
    });
    let anna = Client::member(&hub, "anna", &["acme"], &["org:acme"]);
    let refused = |json: &str| hub.subscribe(&anna.connection, wanted(json)).unwrap_err();
    assert_eq!(
        refused(r#"{"type":"subscribe","channel":"user:anna"}"#),
        HubError::TooManySubscriptions(1)
    );
    assert!(matches!(
        refused(
            r#"{"type":"subscribe","channel":"tenant:acme:tasks","tables":[{"table":"notes"}]}"#
        ),
        HubError::WrongTable(_)
    ));
    hub.publish(single("acme", 1, 1));
    let hidden = r#"{"type":"subscribe","channel":"org:acme","tables":[{"table":"tasks","filter":{"column":"secret","op":"eq","value":1}}]}"#;
    assert!(matches!(refused(hidden), HubError::UnknownColumn { .. }));
    // The refused one left the old one as it was.
    hub.publish(single("acme", 2, 2));
    assert_eq!(
        anna.told(),
        ["INSERT 1 on org:acme!", "INSERT 2 on org:acme!"]
    );
}

#[test]
fn a_disconnected_client_leaves_nothing() {
    let hub = hub();
    let anna = Client::member(&hub, "anna", &["acme"], &["org:acme", "user:anna"]);
    hub.disconnect(&anna.connection);
    hub.disconnect(&anna.connection);
    assert_eq!(hub.connections(), 0);
    // The slot is used again; the old connection has no power over the new one.
    let bert = Client::member(&hub, "bert", &["acme"], &["org:acme"]);
    hub.disconnect(&anna.connection);
    assert_eq!(
        hub.subscribe(&anna.connection, to("user:anna")),
        Err(HubError::Closed)
    );
    hub.publish(single("acme", 1, 1));
    assert!(anna.told().is_empty());
    assert_eq!(bert.told(), ["INSERT 1 on org:acme!"]);
}
