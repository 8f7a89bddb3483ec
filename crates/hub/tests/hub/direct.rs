//! What is said without the log: its place among what the log says, who gets it, and coming back.

use std::{
    future::Future as _,
    sync::Arc,
    task::{Context, Waker},
};

use bytes::Bytes;
use rowcast_hub::{Hub, HubError, Relay};
use rowcast_model::{
    Audience, ChannelChange, ChannelRule, Cursor, Epoch, HubOp, Lsn, Message, OrgId, RoutedEvent,
    Scope, Timestamp, Topic, Who,
};

use crate::support::*;

fn broadcast(topic: Topic, event: &str) -> RoutedEvent {
    let message = Arc::new(Message::broadcast(event, Bytes::from_static(b"1")));
    let nowhere = Cursor::NOWHERE;
    RoutedEvent::message(nowhere, Timestamp(0), topic, Audience::default(), message)
}

fn acme() -> Topic {
    Topic::Org("acme".into())
}

fn say(hub: &Hub, events: &[&str]) -> Vec<(Cursor, usize)> {
    let mut events = events
        .iter()
        .map(|event| broadcast(acme(), event))
        .collect();
    let sent = hub.say(&mut events, None).unwrap();
    sent.iter()
        .map(|sent| (sent.cursor, sent.sockets))
        .collect()
}

/// A hub that has published up to a record, as places of records are in a real log.
fn at_record(lsn: u64) -> Hub {
    let hub = hub();
    hub.publish(batch(vec![commit(lsn)]));
    hub
}

fn rooms(relay: bool, events: Option<&[&str]>) -> HubOp {
    HubOp::Channel(ChannelChange {
        pattern: "room:*".into(),
        now: Some(Arc::new(ChannelRule {
            pattern: "room:*".parse().unwrap(),
            parameters: [].into_iter().collect(),
            who: Who::Public,
            scope: Scope::Organization,
            relay,
            presence: false,
            events: events.map(|events| events.iter().map(|event| Arc::from(*event)).collect()),
        })),
    })
}

#[test]
fn stands_between_the_transactions_of_the_log_and_tells_whom_it_reached() {
    let hub = at_record(800);
    let anna = Client::member(&hub, "anna", &["acme"], &["org:acme", "user:anna"]);
    let _bert = Client::member(&hub, "bert", &["acme"], &["org:acme"]);
    let _other = Client::member(&hub, "carl", &["other"], &["org:other"]);
    let sent = say(&hub, &["one", "two"]);
    hub.publish(single("acme", 808, 7));
    let later = say(&hub, &["three"]);
    assert_eq!(sent.iter().map(|sent| sent.1).collect::<Vec<_>>(), [2, 2]);
    let frames = anna.socket.frames();
    let told: Vec<String> = frames.iter().map(tell).collect();
    assert_eq!(
        told,
        [
            "one 1 on org:acme",
            "two 1 on org:acme!",
            "INSERT 7 on org:acme!",
            "three 1 on org:acme!"
        ]
    );
    let cursors: Vec<Cursor> = frames
        .iter()
        .map(|frame| frame["cursor"].as_str().unwrap().parse().unwrap())
        .collect();
    let rising = cursors
        .windows(2)
        .all(|pair| pair[0].compare(&pair[1]) == Some(std::cmp::Ordering::Less));
    assert!(rising, "{cursors:?}");
    assert_eq!(cursors[3], later[0].0);
    // Nobody is there.
    let mut to_nobody = vec![broadcast(Topic::Org("empty".into()), "e")];
    assert_eq!(hub.say(&mut to_nobody, None).unwrap()[0].sockets, 0);
    assert!(to_nobody.is_empty());
}

#[test]
fn who_comes_back_gets_exactly_what_came_after_his_cursor() {
    let hub = at_record(800);
    let anna = Client::member(&hub, "anna", &["acme"], &["org:acme"]);
    let first = say(&hub, &["one"])[0].0;
    hub.publish(single("acme", 808, 7));
    let [second, third] = say(&hub, &["two", "three"])[..] else {
        panic!();
    };
    hub.publish(single("acme", 816, 8));
    let since = |cursor: Cursor| {
        let mut subscription = to("org:acme");
        subscription.cursor = Some(cursor);
        anna.socket.frames();
        hub.subscribe(&anna.connection, subscription).unwrap();
        hub.replay(&anna.connection);
        let told = anna.told().into_iter();
        told.filter(|told| told.contains(" on "))
            .collect::<Vec<_>>()
    };
    let seven = "INSERT 7 on org:acme!";
    let (two, three) = ("two 1 on org:acme", "three 1 on org:acme!");
    let eight = "INSERT 8 on org:acme!";
    assert_eq!(since(first), [seven, two, three, eight]);
    assert_eq!(since(second.0), [three, eight]);
    assert_eq!(since(third.0), [eight]);
    assert_eq!(since(at(808, 0)), [two, three, eight]);
    // Of another process: the log up to there was seen, and nothing else is known.
    let foreign = Cursor {
        index: first.index ^ (1 << 25),
        ..third.0
    };
    assert_eq!(since(foreign), [two, three, eight]);
}

#[test]
fn never_in_the_middle_of_a_transaction() {
    let hub = at_record(800);
    let anna = Client::member(&hub, "anna", &["acme"], &["org:acme"]);
    hub.publish(batch(vec![HubOp::Event(
        event("acme", at(808, 0), 1).into(),
    )]));
    let mut events = vec![broadcast(acme(), "e")];
    assert_eq!(hub.say(&mut events, None), Err(HubError::Busy));
    assert_eq!(events.len(), 1, "it can be tried again");
    let mut waiting = Box::pin(hub.settled());
    let mut context = Context::from_waker(Waker::noop());
    assert!(waiting.as_mut().poll(&mut context).is_pending());
    hub.publish(batch(vec![
        HubOp::Event(event("acme", at(808, 1), 2).into()),
        commit(808),
    ]));
    assert!(waiting.as_mut().poll(&mut context).is_ready());
    hub.say(&mut events, None).unwrap();
    assert_eq!(
        anna.told(),
        [
            "INSERT 1 on org:acme",
            "INSERT 2 on org:acme",
            "commit org:acme",
            "e 1 on org:acme!"
        ]
    );
}

#[test]
fn not_before_the_present_is_reached() {
    let hub = hub();
    let mut events = vec![broadcast(acme(), "e")];
    assert_eq!(hub.say(&mut events, None), Err(HubError::NotReady));
    hub.publish(batch(vec![HubOp::LogBegins {
        floor: Cursor::before(Epoch(1), Lsn(800)),
        target: Cursor::before(Epoch(1), Lsn(880)),
    }]));
    assert_eq!(hub.say(&mut events, None), Err(HubError::NotReady));
    hub.publish(batch(vec![HubOp::Position(Cursor::before(
        Epoch(1),
        Lsn(880),
    ))]));
    assert!(hub.say(&mut events, None).is_ok());
    // What the log holds next may stand right there.
    let anna = Client::member(&hub, "anna", &["acme"], &["org:acme"]);
    hub.publish(single("acme", 880, 1));
    assert_eq!(anna.told(), ["INSERT 1 on org:acme!"]);
}

#[test]
fn x15_a_client_sends_where_it_may_and_the_service_says_who_it_was() {
    let hub = at_record(800);
    hub.publish(batch(vec![rooms(true, Some(&["message"]))]));
    let [anna, bert] = ["anna", "bert"].map(|user| Client::member(&hub, user, &["acme"], &[]));
    let carl = Client::member(&hub, "carl", &["other"], &[]);
    let acme = Some(OrgId::from("acme"));
    for client in [&anna, &bert] {
        let mut room = to("room:1");
        room.organization = acme.clone();
        hub.subscribe(&client.connection, room).unwrap();
        client.socket.frames();
    }
    let relay = |client: &Client, channel: &str, event: &str, to_self| {
        let relay = Relay {
            channel: channel.parse().unwrap(),
            organization: acme.clone(),
            event: event.into(),
            payload: Bytes::from_static(b"{\"sender\":{\"userId\":\"root\"}}"),
            to_self,
        };
        hub.relay(&client.connection, &relay)
            .map(|sent| sent.sockets)
    };
    assert_eq!(relay(&anna, "room:1", "message", false), Ok(1));
    assert!(anna.told().is_empty());
    let frame = bert.socket.frames().remove(0);
    assert_eq!(frame["sender"]["userId"], "anna");
    assert_eq!(relay(&anna, "room:1", "message", true), Ok(2));
    assert_eq!(anna.told().len(), 1);
    let undeclared = relay(&anna, "room:1", "other", false);
    assert_eq!(undeclared, Err(HubError::Undeclared("other".into())));
    let stranger = relay(&carl, "room:1", "message", false);
    assert_eq!(stranger, Err(HubError::NotMember("acme".into())));
    let org: Result<_, _> = relay(&anna, "org:acme", "message", false);
    assert!(matches!(org, Err(HubError::NoRelay(_))));
    hub.publish(batch(vec![rooms(false, None), key("k", Some("acme"))]));
    assert!(matches!(
        relay(&anna, "room:1", "message", false),
        Err(HubError::NoRelay(_))
    ));
    bert.socket.frames();
    // A machine is named as such.
    hub.publish(batch(vec![rooms(true, None)]));
    let machine = Client::new(&hub, machine("k"));
    assert_eq!(relay(&machine, "room:1", "message", false), Ok(2));
    assert_eq!(bert.socket.frames()[0]["sender"]["apiKeyId"], "k");
}
