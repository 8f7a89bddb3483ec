//! Coming back with a cursor: exactly what was missed, whatever happens meanwhile.

use std::time::Duration;

use rowcast_hub::{Hub, HubLimits, Subscription};
use rowcast_model::{Cursor, Epoch, HubOp, Lsn, Operation, RoutedEvent};
use rowcast_wire::CloseCode;
use serde_json::Value;

use crate::support::*;

pub fn end(lsn: u64) -> Cursor {
    Cursor::after_commit(Epoch(1), Lsn(lsn))
}

pub fn from(subscription: Subscription, cursor: Cursor) -> Subscription {
    Subscription {
        cursor: Some(cursor),
        ..subscription
    }
}

/// A hub that has handed on a row of `acme` at 10, 20, … and of `other` at 15, 25, …
fn with_past(limits: HubLimits) -> Hub {
    let hub = hub_with(limits);
    hub.publish(batch(vec![HubOp::LogBegins {
        floor: at(5, 0),
        target: at(5, 0),
    }]));
    for lsn in [10, 20, 30, 40] {
        hub.publish(single("acme", lsn, lsn as u32));
        hub.publish(single("other", lsn + 5, lsn as u32 + 5));
    }
    hub
}

fn catch_up(hub: &Hub, client: &Client) {
    while client.connection.work().replay {
        hub.replay(&client.connection);
    }
}

#[test]
fn what_was_missed_comes_before_what_is_new() {
    let hub = with_past(HubLimits::default());
    let anna = Client::member(&hub, "anna", &["acme"], &[]);
    let reply = hub
        .subscribe(&anna.connection, from(to("org:acme"), end(20)))
        .unwrap();
    assert_eq!((reply.cursor, reply.resync), (end(20), None));
    hub.publish(single("acme", 50, 50));
    assert_eq!(anna.told(), ["subscribed org:acme"]);
    catch_up(&hub, &anna);
    hub.publish(single("acme", 60, 60));
    assert_eq!(
        anna.told(),
        [
            "INSERT 30 on org:acme!",
            "INSERT 40 on org:acme!",
            "INSERT 50 on org:acme!",
            "position ",
            "INSERT 60 on org:acme!",
        ]
    );
    // Nothing was missed: live at once.
    hub.subscribe(&anna.connection, from(to("org:acme"), end(60)))
        .unwrap();
    assert!(!anna.connection.work().replay);
    hub.subscribe(&anna.connection, from(to("tenant:acme:tasks"), end(60)))
        .unwrap();
    assert_eq!(
        anna.told(),
        ["subscribed org:acme", "subscribed tenant:acme:tasks"]
    );
}

#[test]
fn filters_columns_forms_and_the_middle_of_a_transaction() {
    let hub = with_past(HubLimits::default());
    let rows = (0..4).map(|index| {
        let event = event("acme", at(50, index), 50 + index);
        HubOp::from(RoutedEvent {
            last: index == 3,
            ..event
        })
    });
    hub.publish(batch(rows.chain([commit(50)]).collect()));
    let anna = Client::member(&hub, "anna", &["acme"], &[]);
    let chosen = wanted(
        r#"{"type":"subscribe","channel":"org:acme","events":["changes","invalidations"],
            "tables":[{"table":"tasks","columns":["id"],
                       "filter":{"column":"id","op":"in","value":[30,51,52]}}],
            "cursor":"00000001-32-1"}"#,
    );
    hub.subscribe(&anna.connection, chosen).unwrap();
    catch_up(&hub, &anna);
    let told = anna.told();
    // Of the transaction it has got a part only: the end is told.
    assert_eq!(
        told,
        [
            "subscribed org:acme",
            "invalidate org:acme",
            "INSERT 52 on org:acme",
            "commit org:acme",
            "position ",
        ]
    );
}

#[test]
fn a_transaction_that_is_still_coming_is_ended_when_it_ends() {
    let hub = with_past(HubLimits::default());
    let part = |index| batch(vec![HubOp::from(event("acme", at(50, index), 50 + index))]);
    hub.publish(part(0));
    let anna = Client::member(&hub, "anna", &["acme"], &[]);
    hub.subscribe(&anna.connection, from(to("org:acme"), end(40)))
        .unwrap();
    catch_up(&hub, &anna);
    hub.publish(part(1));
    hub.publish(batch(vec![commit(50)]));
    assert_eq!(
        anna.told(),
        [
            "subscribed org:acme",
            "INSERT 50 on org:acme",
            "position ",
            "INSERT 51 on org:acme",
            "commit org:acme",
        ]
    );
    hub.publish(single("acme", 60, 60));
    assert_eq!(anna.told(), ["INSERT 60 on org:acme!"]);
}

#[test]
fn what_is_forgotten_is_told() {
    let retention = Duration::ZERO;
    let hub = with_past(HubLimits {
        history_retention: retention,
        ..HubLimits::default()
    });
    let anna = Client::member(&hub, "anna", &["acme", "other"], &[]);
    let resume = |channel: &str, cursor| {
        let reply = hub.subscribe(&anna.connection, from(to(channel), cursor));
        reply.unwrap().resync
    };
    assert_eq!(resume("org:acme", end(30)), Some("too_old"));
    assert_eq!(resume("org:acme", end(40)), None);
    assert_eq!(resume("user:anna", end(40)), Some("too_old"));
    assert_eq!(resume("org:other", end(45)), None);
    let frames = anna.socket.frames();
    assert_eq!(frames[0]["cursor"], end(45).to_string());
    assert_eq!(frames[1]["reason"], "too_old");
    assert_eq!(frames[1]["cursor"], end(45).to_string());
}

#[test]
fn who_is_overtaken_is_told_and_goes_on_live() {
    let hub = with_past(HubLimits {
        history_organization_bytes: 4000,
        replay_bytes: 1,
        ..HubLimits::default()
    });
    let anna = Client::member(&hub, "anna", &["acme"], &[]);
    hub.subscribe(&anna.connection, from(to("org:acme"), end(20)))
        .unwrap();
    hub.replay(&anna.connection);
    assert_eq!(
        anna.told(),
        ["subscribed org:acme", "INSERT 30 on org:acme!"]
    );
    for lsn in 50..80 {
        hub.publish(single("acme", lsn, lsn as u32));
    }
    catch_up(&hub, &anna);
    let frames = anna.socket.frames();
    assert_eq!(
        frames.iter().map(tell).collect::<Vec<_>>(),
        ["resync org:acme", "position "]
    );
    assert_eq!(frames[0]["reason"], "slow");
    assert_eq!(frames[0]["cursor"], end(79).to_string());
    hub.publish(single("acme", 90, 90));
    assert_eq!(anna.told(), ["INSERT 90 on org:acme!"]);
}

#[test]
fn a_slow_socket_holds_one_part_and_is_not_closed() {
    let hub = with_past(HubLimits {
        replay_bytes: 400,
        outbox_bytes: 2000,
        ..HubLimits::default()
    });
    for lsn in 100..200 {
        hub.publish(single("acme", lsn, lsn as u32));
    }
    let anna = Client::member(&hub, "anna", &["acme"], &[]);
    *anna.socket.room.lock().unwrap() = 0;
    hub.subscribe(&anna.connection, from(to("org:acme"), end(20)))
        .unwrap();
    let mut told = Vec::new();
    for _ in 0..10_000 {
        let work = anna.connection.work();
        assert!(hub.queued_bytes() < 1500);
        match (work.replay, work.writable) {
            (true, _) => assert!(hub.replay(&anna.connection)),
            (false, true) => {
                *anna.socket.room.lock().unwrap() += 97;
                anna.connection.drain();
            }
            (false, false) => break,
        }
        told.extend(anna.told());
    }
    assert_eq!(told.len(), 1 + 2 + 100 + 1);
    assert_eq!(anna.connection.closed(), None::<CloseCode>);
}

#[test]
fn who_leaves_is_told_no_more_of_the_past() {
    let hub = with_past(HubLimits {
        replay_bytes: 1,
        ..HubLimits::default()
    });
    let anna = Client::member(&hub, "anna", &["acme"], &[]);
    hub.subscribe(&anna.connection, from(to("org:acme"), at(10, 0)))
        .unwrap();
    hub.replay(&anna.connection);
    hub.publish(batch(vec![member("anna", "acme", None)]));
    catch_up(&hub, &anna);
    assert_eq!(
        anna.told(),
        [
            "subscribed org:acme",
            "INSERT 20 on org:acme!",
            "unsubscribed org:acme",
            "membership \"acme\" null",
        ]
    );
}

#[test]
fn roles_are_those_of_now() {
    let hub = with_past(HubLimits {
        replay_bytes: 1,
        ..HubLimits::default()
    });
    for lsn in 50..54 {
        let mut event = event("acme", at(lsn, 0), lsn as u32);
        event.last = true;
        event.audience.required_roles = [["member", "admin"][lsn as usize % 2].into()].into();
        hub.publish(batch(vec![HubOp::from(event), commit(lsn)]));
    }
    let anna = Client::member(&hub, "anna", &["acme"], &[]);
    hub.subscribe(&anna.connection, from(to("org:acme"), end(40)))
        .unwrap();
    hub.replay(&anna.connection);
    hub.publish(batch(vec![member("anna", "acme", Some("admin"))]));
    catch_up(&hub, &anna);
    assert_eq!(
        anna.told(),
        [
            "subscribed org:acme",
            "INSERT 50 on org:acme!",
            "membership \"acme\" [\"admin\"]",
            "INSERT 51 on org:acme!",
            "INSERT 53 on org:acme!",
            "position ",
        ]
    );
}

#[test]
fn the_latest_of_each_record_is_enough() {
    let hub = with_past(HubLimits::default());
    for lsn in 50..60 {
        let n = lsn.to_string();
        let row = || Some(row(&[("id", "7"), ("n", &n)]));
        let event = change(Operation::Update, row(), row())(event("acme", at(lsn, 0), 7));
        hub.publish(batch(vec![HubOp::from(event), commit(lsn)]));
    }
    let anna = Client::member(&hub, "anna", &["acme"], &[]);
    let latest = wanted(
        r#"{"type":"subscribe","channel":"org:acme","mode":"latest","cursor":"00000001-28-z"}"#,
    );
    hub.subscribe(&anna.connection, latest).unwrap();
    catch_up(&hub, &anna);
    let frames = anna.socket.frames();
    let kinds: Vec<String> = frames.iter().map(tell).collect();
    assert_eq!(
        kinds,
        ["subscribed org:acme", "UPDATE 7 on org:acme", "position "]
    );
    assert_eq!(frames[1]["new"]["n"], 59);
}

#[test]
fn the_past_of_a_user_is_that_of_his_organizations() {
    let hub = with_past(HubLimits::default());
    let to_anna = |org: &str, lsn: u64, user: &str| {
        let mut event = event(org, at(lsn, 0), lsn as u32);
        event.audience.user = Some(user.into());
        batch(vec![HubOp::from(event), commit(lsn)])
    };
    for (org, lsn, user) in [
        ("other", 50, "anna"),
        ("acme", 51, "anna"),
        ("acme", 52, "bert"),
        ("third", 53, "anna"),
        ("acme", 54, "anna"),
    ] {
        hub.publish(to_anna(org, lsn, user));
    }
    let anna = Client::member(&hub, "anna", &["acme", "other"], &[]);
    hub.subscribe(&anna.connection, from(to("user:anna"), end(45)))
        .unwrap();
    catch_up(&hub, &anna);
    assert_eq!(
        anna.told(),
        [
            "subscribed user:anna",
            "INSERT 50 on user:anna",
            "commit user:anna",
            "INSERT 51 on user:anna",
            "commit user:anna",
            "INSERT 54 on user:anna",
            "commit user:anna",
            "position ",
        ]
    );
    // What comes on the channel of the organization comes there alone.
    for channel in ["org:acme", "user:anna"] {
        hub.subscribe(&anna.connection, from(to(channel), end(45)))
            .unwrap();
    }
    catch_up(&hub, &anna);
    let told = anna.told();
    let events: Vec<&String> = told.iter().filter(|told| told.contains("INSERT")).collect();
    assert_eq!(
        events,
        [
            "INSERT 51 on org:acme",
            "INSERT 54 on org:acme",
            "INSERT 50 on user:anna"
        ]
    );
}

#[test]
fn after_a_restart_the_past_is_read_again() {
    let hub = hub();
    hub.publish(batch(vec![HubOp::LogBegins {
        floor: at(5, 0),
        target: end(40),
    }]));
    let anna = Client::member(&hub, "anna", &["acme"], &[]);
    let bert = Client::member(&hub, "bert", &["acme"], &[]);
    let cara = Client::member(&hub, "cara", &["acme"], &[]);
    hub.publish(single("acme", 10, 10));
    hub.publish(single("acme", 20, 20));
    // From now on is behind what is being read again.
    let reply = hub.subscribe(&anna.connection, to("org:acme")).unwrap();
    assert_eq!(reply.cursor, end(40));
    // Who has seen a part gets the rest: from the past, or when it is read.
    hub.subscribe(&bert.connection, from(to("org:acme"), end(10)))
        .unwrap();
    hub.subscribe(&cara.connection, from(to("org:acme"), end(30)))
        .unwrap();
    catch_up(&hub, &bert);
    hub.tell_position(&anna.connection);
    for lsn in [30, 40, 50] {
        hub.publish(single("acme", lsn, lsn as u32));
    }
    hub.tell_position(&anna.connection);
    let ids = |client: &Client| -> Vec<Value> {
        let frames = client.socket.frames();
        let changes = frames.iter().filter(|frame| frame["new"].is_object());
        changes.map(|frame| frame["new"]["id"].clone()).collect()
    };
    assert_eq!(
        anna.told(),
        ["subscribed org:acme", "INSERT 50 on org:acme!", "position "]
    );
    assert_eq!(ids(&bert), [20, 30, 40, 50]);
    assert_eq!(ids(&cara), [40, 50]);
}

#[test]
fn a_new_epoch_ends_the_past() {
    let hub = with_past(HubLimits {
        replay_bytes: 1,
        ..HubLimits::default()
    });
    let anna = Client::member(&hub, "anna", &["acme"], &[]);
    hub.subscribe(&anna.connection, from(to("org:acme"), end(10)))
        .unwrap();
    hub.replay(&anna.connection);
    hub.publish(batch(vec![HubOp::NewEpoch {
        epoch: Epoch(2),
        reason: "slot_recreated".into(),
    }]));
    catch_up(&hub, &anna);
    let mut event = event("acme", at(7, 0), 7);
    event.cursor.epoch = Epoch(2);
    hub.publish(batch(vec![HubOp::from(event)]));
    assert_eq!(
        anna.told(),
        [
            "subscribed org:acme",
            "INSERT 20 on org:acme!",
            "resync org:acme",
            "INSERT 7 on org:acme",
        ]
    );
}
