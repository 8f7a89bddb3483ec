//! Joins of the Supabase protocol where things meet: keys that change, rows for everybody, equal bindings, rooms of
//! tables, channels of which the application decides, and what is given back when all is over.

use prometheus_client::{encoding::text::encode, registry::Registry};
use rowcast_hub::{Hub, HubError, HubLimits, Identity};
use rowcast_model::{
    AskError, Authorizer, ChannelChange, Handler, HubOp, KeyChange, KeyFacts, Message, Refusal,
    RoutedEvent, Topic, Who,
};
use rowcast_wire::phoenix::{self, Version};
use serde_json::{json, value::RawValue};

use crate::{joins::*, support::*};

/// A number that the hub tells in its metrics.
pub fn metric(registry: &Registry, name: &str) -> i64 {
    let mut text = String::new();
    encode(&mut text, registry).unwrap();
    let mut lines = text.lines();
    let line = lines.find(|line| line.starts_with(&format!("{name} ")));
    line.and_then(|line| line.split(' ').nth(1)?.parse().ok())
        .unwrap()
}

fn broadcast(lsn: u64, topic: Topic) -> Vec<HubOp> {
    let message = Message::broadcast("e", lsn.to_string().into_bytes().into());
    let (time, audience) = (rowcast_model::Timestamp(0), Default::default());
    let mut event = RoutedEvent::message(at(lsn, 0), time, topic, audience, message.into());
    event.last = true;
    vec![HubOp::Event(event.into()), commit(lsn)]
}

#[test]
fn a_socket_that_goes_gives_back_what_its_joins_took() {
    let mut registry = Registry::default();
    let limits = HubLimits {
        total_subscriptions_bytes: 64 << 10,
        ..HubLimits::default()
    };
    let hub = Hub::new(limits, &mut registry);
    hub.publish(batch(vec![
        member("anna", "acme", Some("member")),
        tracked(),
    ]));
    for i in 0..200 {
        let anna = client(&hub, "anna");
        let joined = hub.join(&anna.connection, rows("1"));
        assert!(joined.is_ok(), "the {i}th: {joined:?}");
        hub.disconnect(&anna.connection);
    }
    assert_eq!(metric(&registry, "hub_subscriptions_bytes"), 0);
}

#[test]
fn organizations_that_a_key_gets_are_followed() {
    let hub = hub_of(&[]);
    hub.publish(batch(vec![key("k", Some("acme"))]));
    let socket = Socket::new(usize::MAX);
    let connection = hub.connect_phoenix(machine("k"), socket.clone());
    let machine = Client { socket, connection };
    hub.join(&machine.connection, rows("1")).unwrap();
    hub.publish(batch(vec![HubOp::ApiKey(KeyChange {
        id: "k".into(),
        now: Some(KeyFacts {
            organizations: vec!["acme".into(), "blue".into()],
            ..key_of("k", "acme")
        }),
    })]));
    assert_eq!(told(&machine), ["1 ok", SUBSCRIBED]);
    hub.publish(single("blue", 10, 1));
    assert_eq!(told(&machine), ["INSERT 1"]);
    hub.publish(batch(vec![key("k", Some("blue"))]));
    hub.publish(single("acme", 11, 2));
    hub.publish(single("blue", 12, 3));
    assert_eq!(told(&machine), ["INSERT 3"]);
}

#[test]
fn a_row_for_all_organizations_comes_once() {
    let hub = hub_of(&[("anna", "acme"), ("anna", "blue"), ("anna", "cyan")]);
    let anna = client(&hub, "anna");
    let both = json!([
        {"event": "*", "schema": "public", "table": "tasks"},
        {"event": "*", "schema": "public"},
    ]);
    hub.join(&anna.connection, join("realtime:db", "1", both, false))
        .unwrap();
    hub.join(
        &anna.connection,
        join(
            "realtime:other",
            "2",
            json!([{"event": "*", "schema": "public", "table": "tasks", "filter": "id=eq.7"}]),
            false,
        ),
    )
    .unwrap();
    told(&anna);
    let everybodys = |lsn: u64, id: u32| {
        let mut event = event("acme", at(lsn, 0), id);
        event.topic = Topic::AllOrgs;
        event.last = true;
        hub.publish(batch(vec![HubOp::from(event), commit(lsn)]));
    };
    everybodys(10, 7);
    let frames = anna.socket.frames();
    let mut of: Vec<(&str, u64)> = frames
        .iter()
        .map(|frame| {
            let topic = frame[2].as_str().unwrap();
            (topic, frame[4]["ids"][0].as_u64().unwrap())
        })
        .collect();
    of.sort_unstable();
    let sent = of.len();
    of.dedup();
    assert_eq!((sent, of.len()), (3, 3), "{frames:?}");
    // Whichever organization it came by, it comes when that one is left.
    for org in ["acme", "blue"] {
        hub.publish(batch(vec![member("anna", org, None)]));
    }
    everybodys(11, 8);
    assert_eq!(told(&anna), ["INSERT 8", "INSERT 8"]);
}

#[test]
fn equal_bindings_are_told_once_as_they_have_one_number() {
    let hub = hub_of(&[("anna", "acme")]);
    let anna = client(&hub, "anna");
    let twice = json!([
        {"event": "*", "schema": "public", "table": "tasks"},
        {"event": "*", "schema": "public", "table": "tasks"},
    ]);
    hub.join(&anna.connection, join("realtime:db", "1", twice, false))
        .unwrap();
    let reply = anna.socket.frames();
    let echoes = reply[0][4]["response"]["postgres_changes"]
        .as_array()
        .unwrap();
    assert_eq!(echoes.len(), 2, "each is answered");
    assert_eq!(echoes[0]["id"], echoes[1]["id"]);
    hub.publish(single("acme", 10, 1));
    assert_eq!(told(&anna), ["INSERT 1"]);
}

#[test]
fn the_room_of_a_table_hears_what_is_said_there_and_nothing_else() {
    let hub = hub_of(&[("anna", "acme")]);
    let anna = client(&hub, "anna");
    hub.join(
        &anna.connection,
        join("realtime:tenant:acme:tasks", "1", json!([]), true),
    )
    .unwrap();
    told(&anna);
    let own = Topic::Channel(Some("acme".into()), "tenant:acme:tasks".into());
    hub.publish(batch(broadcast(10, Topic::Org("acme".into()))));
    hub.publish(batch(broadcast(11, own)));
    hub.publish(single("acme", 12, 1));
    hub.publish(batch(broadcast(13, Topic::AllOrgs)));
    assert_eq!(payloads(&anna), ["11"]);
}

#[test]
fn joining_again_needs_no_more_room_than_joining() {
    let big: String = "x".repeat(800);
    let wanted = |reference: &str| {
        let filter = format!("s=eq.{big}");
        let bindings =
            json!([{"event": "*", "schema": "public", "table": "tasks", "filter": filter}]);
        join("realtime:db", reference, bindings, false)
    };
    let limits = HubLimits {
        subscriptions_bytes: 12 << 10,
        total_subscriptions_bytes: 12 << 10,
        ..HubLimits::default()
    };
    let hub = hub_with(limits);
    hub.publish(batch(vec![
        member("anna", "acme", Some("member")),
        tracked(),
    ]));
    let anna = client(&hub, "anna");
    for reference in ["1", "2", "3"] {
        hub.join(&anna.connection, wanted(reference)).unwrap();
    }
    assert_eq!(hub.subscriptions(), 1);
}

#[test]
fn memberships_do_not_make_joins_grow_without_end() {
    let big: String = "x".repeat(800);
    let filter = format!("s=eq.{big}");
    let bindings = json!([{"event": "*", "schema": "public", "table": "tasks", "filter": filter}]);
    let mut registry = Registry::default();
    let limits = HubLimits {
        subscriptions_bytes: 20 << 10,
        ..HubLimits::default()
    };
    let hub = Hub::new(limits, &mut registry);
    hub.publish(batch(vec![
        member("anna", "acme", Some("member")),
        tracked(),
    ]));
    let anna = client(&hub, "anna");
    hub.join(&anna.connection, join("realtime:db", "1", bindings, false))
        .unwrap();
    told(&anna);
    for i in 0..50 {
        hub.publish(batch(vec![member(
            "anna",
            &format!("o{i}"),
            Some("member"),
        )]));
    }
    let bytes = metric(&registry, "hub_subscriptions_bytes");
    assert!(bytes <= 20 << 10, "{bytes}");
    let told = told(&anna);
    assert!(
        told.last().unwrap().contains("as many subscriptions"),
        "{told:?}"
    );
}

#[test]
fn joins_without_subscriptions_are_counted_too() {
    let limits = HubLimits {
        subscriptions: 10,
        ..HubLimits::default()
    };
    let hub = hub_with(limits);
    hub.publish(batch(vec![member("anna", "acme", Some("member"))]));
    let anna = client(&hub, "anna");
    // A filter that cannot be read: nothing is listened to.
    let nothing =
        json!([{"event": "*", "schema": "public", "table": "tasks", "filter": "n=what.1"}]);
    let refused = (0..20).find_map(|i| {
        let topic = format!("realtime:t{i}");
        let wanted = join(&topic, "1", nothing.clone(), false);
        hub.join(&anna.connection, wanted).err().map(|e| (i, e))
    });
    assert!(
        matches!(refused, Some((10, HubError::TooManySubscriptions(10)))),
        "{refused:?}"
    );
    // Joining again is not one more.
    hub.join(
        &anna.connection,
        join("realtime:t3", "2", nothing.clone(), false),
    )
    .unwrap();
}

fn authorized(hub: &Hub, asks: bool) {
    let HubOp::Channel(ChannelChange { pattern, now }) = room_rule(Who::Public) else {
        unreachable!()
    };
    let mut rule = (*now.unwrap()).clone();
    rule.who = Who::Authorized(
        Authorizer {
            handler: asks.then(|| Handler::Webhook("rooms".into())),
            ttl_seconds: 300,
            grants: !asks,
        }
        .into(),
    );
    hub.publish(batch(vec![HubOp::Channel(ChannelChange {
        pattern,
        now: Some(rule.into()),
    })]));
}

pub fn asked_about(hub: &Hub, user: &str) -> Client {
    let claims = RawValue::from_string(json!({"sub": user}).to_string()).unwrap();
    let identity = Identity {
        claims: hub.keep_claims(claims),
        ..Identity::session(user)
    };
    let socket = Socket::new(usize::MAX);
    let connection = hub.connect_phoenix(identity, socket.clone());
    Client { socket, connection }
}

pub fn no() -> AskError {
    AskError::Refused(Refusal {
        code: "accessdenied".into(),
        message: "Not a member of this room".into(),
    })
}

pub fn yes() -> Box<RawValue> {
    RawValue::from_string(json!({"ttlSeconds": 300}).to_string()).unwrap()
}

/// `private: false`: the rows come, and the room stays silent, whoever says that he may not be in it.
#[test]
fn rows_do_not_depend_on_a_room_that_is_not_demanded() {
    let hub = hub_of(&[("anna", "acme")]);
    let bindings = json!([{"event": "*", "schema": "public", "table": "tasks"}]);
    let wanted = |private| join("realtime:room:1", "1", bindings.clone(), private);
    for (asks, answer) in [
        (true, Some(no())),
        (true, Some(AskError::Failed)),
        (false, None),
    ] {
        authorized(&hub, asks);
        let anna = asked_about(&hub, "anna");
        hub.join(&anna.connection, wanted(false)).unwrap();
        if let Some(answer) = &answer {
            assert!(told(&anna).is_empty(), "the application has not answered");
            let (asked, _) = hub.questions(10);
            hub.answered(asked[0].ticket, Err(answer));
        }
        assert_eq!(told(&anna), ["1 ok", SUBSCRIBED], "{asks} {answer:?}");
        hub.publish(batch(said(10)));
        hub.publish(single("acme", 11, 1));
        assert_eq!(told(&anna), ["INSERT 1"]);
        // Demanded, it is what is asked for.
        let result = hub.join(&anna.connection, wanted(true));
        match &answer {
            None => assert!(matches!(result, Err(HubError::GrantNeeded(_)))),
            Some(answer) => {
                result.unwrap();
                let (asked, _) = hub.questions(10);
                hub.answered(asked[0].ticket, Err(answer));
                assert_eq!(told(&anna), ["1 error Unauthorized"]);
                // The join of before is still there.
                hub.publish(single("acme", 12, 2));
                assert_eq!(told(&anna), ["INSERT 2"]);
            }
        }
        hub.disconnect(&anna.connection);
        assert_eq!(hub.subscriptions(), 0);
    }
}

#[test]
fn whoever_waits_and_is_expelled_gets_an_answer() {
    let hub = hub_of(&[("anna", "acme")]);
    authorized(&hub, true);
    let anna = asked_about(&hub, "anna");
    hub.join(
        &anna.connection,
        join("realtime:room:1", "1", json!([]), true),
    )
    .unwrap();
    hub.expel(&anna.connection, "realtime:room:1", "Token has expired");
    assert_eq!(told(&anna), ["1 error Unauthorized"]);
    let (asked, _) = hub.questions(10);
    assert!(asked.is_empty());
    // Leaving while one waits ends the waiting.
    hub.join(
        &anna.connection,
        join("realtime:room:1", "2", json!([]), true),
    )
    .unwrap();
    let (asked, _) = hub.questions(10);
    let answer = phoenix::reply(
        Version::V2,
        Some("2"),
        Some("3"),
        "realtime:room:1",
        Ok("{}"),
    );
    hub.leave(&anna.connection, "realtime:room:1", answer);
    hub.answered(asked[0].ticket, Ok(&yes()));
    assert_eq!(told(&anna), ["3 ok"]);
    assert_eq!(hub.subscriptions(), 0);
}

/// Promise 1: paused by a revocation, and let in again: nothing is lost, and nothing comes twice or in other words.
#[test]
fn a_room_that_is_paused_goes_on_where_it_was() {
    let hub = hub_of(&[("anna", "acme")]);
    hub.publish(batch(vec![HubOp::LogBegins {
        floor: at(5, 0),
        target: at(5, 0),
    }]));
    authorized(&hub, true);
    let anna = asked_about(&hub, "anna");
    let bindings = json!([{"event": "*", "schema": "public", "table": "tasks"}]);
    hub.join(
        &anna.connection,
        join("realtime:room:1", "1", bindings, true),
    )
    .unwrap();
    let (asked, _) = hub.questions(10);
    hub.answered(asked[0].ticket, Ok(&yes()));
    assert_eq!(told(&anna), ["1 ok", SUBSCRIBED]);
    hub.publish(batch(said(10)));
    assert_eq!(payloads(&anna), ["10"]);
    hub.publish(batch(vec![HubOp::Revoke(rowcast_model::Revocation {
        organization: Some("acme".into()),
        channel: "room:1".into(),
        epoch: None,
        reason: None,
    })]));
    hub.publish(batch(said(11)));
    hub.publish(batch(said(12)));
    // Rows are no matter of the room.
    hub.publish(single("acme", 13, 3));
    assert_eq!(told(&anna), ["INSERT 3"]);
    let (asked, _) = hub.questions(10);
    hub.answered(asked[0].ticket, Ok(&yes()));
    hub.publish(batch(said(14)));
    assert!(payloads(&anna).is_empty(), "the past comes first");
    while anna.connection.work().replay {
        hub.replay(&anna.connection);
    }
    hub.publish(batch(said(15)));
    assert_eq!(payloads(&anna), ["11", "12", "14", "15"]);
}
