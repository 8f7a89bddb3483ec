//! Joins of the Supabase protocol: their parts come and go together, in every organization of the user, and nobody is
//! told more than on a native socket.

use std::sync::Arc;

use rowcast_hub::{Binding, Hub, HubError, HubLimits, Identity, Join, Room, StreamState};
use rowcast_model::{
    AskError, Audience, Authorizer, ChannelChange, ChannelRule, Handler, HubOp, Mask, MaskKind,
    Masked, Masks, Message, Operation, Refusal, Revocation, RoutedEvent, Scope, Shown, TableName,
    Timestamp, Topic, Who,
};
use rowcast_wire::{
    Limits,
    phoenix::{self, Says, Version},
};
use serde_json::{Value, json, value::RawValue};

use crate::support::*;

/// A join as a client sends it.
pub fn join(topic: &str, reference: &str, bindings: Value, private: bool) -> Join {
    let config =
        json!({"postgres_changes": bindings, "private": private, "presence": {"enabled": true}});
    let text = json!([reference, reference, topic, "phx_join", {"config": config}]).to_string();
    let push = phoenix::parse(Version::V2, text.as_bytes(), &Limits::default()).unwrap();
    let Says::Join(wanted) = &push.says else {
        panic!("{push:?}")
    };
    let (mut bindings, mut refused, mut echoes) = (Vec::new(), Vec::new(), Vec::new());
    for binding in &wanted.bindings {
        echoes.push((binding.echo.clone(), binding.id));
        match &binding.asks {
            Err(error) => refused.push(error.to_string()),
            Ok(rows) => bindings.push(Binding {
                id: binding.id,
                described: binding.described.clone(),
                rows: rows.clone(),
            }),
        }
    }
    let name = topic.strip_prefix("realtime:").unwrap();
    Join {
        version: Version::V2,
        topic: topic.into(),
        reference: reference.into(),
        own_reference: Some(reference.into()),
        bindings,
        refused,
        cost: wanted.cost(),
        room: Room {
            channel: name.parse().unwrap(),
            organization: Some("acme".into()),
            required: private,
            presence: true,
        },
        replication_ready: false,
        reply: phoenix::joined(
            Version::V2,
            Some(reference),
            Some(reference),
            topic,
            &echoes,
        ),
    }
}

pub fn rows(reference: &str) -> Join {
    let bindings = json!([{"event": "*", "schema": "public", "table": "tasks"}]);
    join("realtime:db", reference, bindings, false)
}

pub fn client(hub: &Hub, user: &str) -> Client {
    let socket = Socket::new(usize::MAX);
    let connection = hub.connect_phoenix(Identity::session(user), socket.clone());
    Client { socket, connection }
}

/// What came, in few words.
pub fn told(client: &Client) -> Vec<String> {
    let one = |frame: &Value| {
        let (event, payload) = (frame[3].as_str().unwrap(), &frame[4]);
        match event {
            "phx_reply" => {
                let reason = payload["response"]["reason"].as_str().unwrap_or_default();
                let reason: Vec<&str> = reason.split(':').take(1).collect();
                format!("{} {} {}", frame[1], payload["status"], reason.join(""))
                    .trim()
                    .to_owned()
            }
            "system" => format!("{} {}", payload["status"], payload["message"]),
            "postgres_changes" => {
                let data = &payload["data"];
                let row = match &data["record"] {
                    Value::Null => &data["old_record"],
                    row => row,
                };
                format!("{} {}", data["type"].as_str().unwrap(), row["id"])
            }
            "broadcast" => format!("{} {}", payload["event"], payload["payload"]),
            "presence_state" => format!("state {:?}", keys(payload)),
            "presence_diff" => format!(
                "+{:?} -{:?}",
                keys(&payload["joins"]),
                keys(&payload["leaves"])
            ),
            other => format!("{other} {}", frame[1]),
        }
        .replace('"', "")
    };
    client.socket.frames().iter().map(one).collect()
}

fn keys(map: &Value) -> Vec<String> {
    map.as_object().unwrap().keys().cloned().collect()
}

pub const SUBSCRIBED: &str = "ok Subscribed to PostgreSQL";

pub fn tracked() -> HubOp {
    HubOp::Rule {
        table: Arc::new(TableName {
            schema: "public".into(),
            name: "tasks".into(),
        }),
        now: Some(Shown::default()),
    }
}

pub fn hub_of(memberships: &[(&str, &str)]) -> Hub {
    let hub = hub();
    let members = memberships.iter();
    let members = members.map(|(user, org)| member(user, org, Some("member")));
    hub.publish(batch(members.chain([tracked()]).collect()));
    hub
}

#[test]
fn rows_of_all_organizations_and_of_no_other() {
    let hub = hub_of(&[("anna", "acme"), ("anna", "blue")]);
    let anna = client(&hub, "anna");
    hub.join(&anna.connection, rows("1")).unwrap();
    assert_eq!(told(&anna), ["1 ok", SUBSCRIBED]);
    for (i, org) in ["acme", "other", "blue"].into_iter().enumerate() {
        let n = u32::try_from(i).unwrap();
        hub.publish(single(org, 10 + u64::from(n), n));
    }
    assert_eq!(told(&anna), ["INSERT 0", "INSERT 2"]);
}

#[test]
fn promise_07_memberships_are_followed_where_they_stand_in_the_log() {
    let hub = hub_of(&[("anna", "acme")]);
    let anna = client(&hub, "anna");
    hub.join(&anna.connection, rows("1")).unwrap();
    told(&anna);
    let row = |org: &str, lsn: u64| {
        let mut event = event(org, at(lsn, 0), u32::try_from(lsn).unwrap());
        event.last = true;
        HubOp::from(event)
    };
    hub.publish(batch(vec![
        row("blue", 10),
        member("anna", "blue", Some("member")),
        row("blue", 11),
        member("anna", "acme", None),
        row("acme", 12),
        row("blue", 13),
        member("anna", "blue", None),
        row("blue", 14),
    ]));
    assert_eq!(told(&anna), ["INSERT 11", "INSERT 13"]);
}

#[test]
fn a_second_join_takes_the_place_of_the_first_and_leaving_ends_all() {
    let hub = hub_of(&[("anna", "acme")]);
    let anna = client(&hub, "anna");
    hub.join(&anna.connection, rows("1")).unwrap();
    hub.join(&anna.connection, rows("2")).unwrap();
    assert_eq!(
        told(&anna),
        ["1 ok", SUBSCRIBED, "phx_close 1", "2 ok", SUBSCRIBED]
    );
    assert_eq!(hub.subscriptions(), 1);
    hub.publish(single("acme", 10, 1));
    assert_eq!(told(&anna), ["INSERT 1"]);
    let answer = phoenix::reply(Version::V2, Some("2"), Some("3"), "realtime:db", Ok("{}"));
    hub.leave(&anna.connection, "realtime:db", answer);
    assert_eq!(told(&anna), ["3 ok", "phx_close 2"]);
    assert_eq!(hub.subscriptions(), 0);
    hub.publish(single("acme", 11, 2));
    assert!(told(&anna).is_empty());
}

#[test]
fn who_asks_is_told_that_the_log_is_read() {
    let hub = hub_of(&[("anna", "acme")]);
    let anna = client(&hub, "anna");
    let ready = |reference| Join {
        replication_ready: true,
        ..rows(reference)
    };
    hub.join(&anna.connection, ready("1")).unwrap();
    let established = "ok Replication connection established";
    assert_eq!(told(&anna), ["1 ok", SUBSCRIBED, established]);
    hub.announce(StreamState::Stale {
        since: Timestamp(0),
        reason: "away".into(),
    });
    hub.join(&anna.connection, ready("2")).unwrap();
    assert!(!told(&anna).contains(&established.to_owned()));
}

#[test]
fn bindings_of_one_channel_are_told_apart() {
    let hub = hub_of(&[("anna", "acme")]);
    let anna = client(&hub, "anna");
    let bindings = json!([
        {"event": "INSERT", "schema": "public", "table": "tasks", "filter": "n=eq.1"},
        {"event": "*", "schema": "public"},
        {"event": "DELETE", "schema": "public", "table": "tasks"},
        {"event": "*", "schema": "public", "table": "realtime_table_events", "filter": "organization_id=eq.acme"},
        {"event": "*", "schema": "private"},
    ]);
    let join = join("realtime:db", "1", bindings, false);
    let ids: Vec<u32> = join.bindings.iter().map(|binding| binding.id).collect();
    hub.join(&anna.connection, join).unwrap();
    told(&anna);
    let heard = |lsn: u64, op: Operation, n: &str| {
        let image = row(&[("id", "7"), ("n", n)]);
        let (new, old) = match op {
            Operation::Delete => (None, Some(image)),
            _ => (Some(image), None),
        };
        let mut event = change(op, new, old)(event("acme", at(lsn, 0), 7));
        event.last = true;
        hub.publish(batch(vec![HubOp::from(event), commit(lsn)]));
        let mut heard: Vec<usize> = anna
            .socket
            .frames()
            .iter()
            .map(|frame| {
                let id = frame[4]["ids"][0].as_u64().unwrap();
                ids.iter().position(|own| u64::from(*own) == id).unwrap()
            })
            .collect();
        heard.sort_unstable();
        heard
    };
    assert_eq!(heard(10, Operation::Insert, "1"), [0, 1, 3]);
    assert_eq!(heard(11, Operation::Insert, "2"), [1, 3]);
    assert_eq!(heard(12, Operation::Update, "1"), [1, 3]);
    assert_eq!(heard(13, Operation::Delete, "1"), [1, 2, 3]);
}

#[test]
fn what_cannot_be_followed_is_said_and_the_rest_is_followed() {
    let hub = hub_of(&[("anna", "acme")]);
    let masks = Masks::new(vec![Mask {
        column: "s".into(),
        kind: MaskKind::Redact,
        roles: [].into(),
        owner: false,
    }]);
    let HubOp::Rule { table, .. } = tracked() else {
        unreachable!()
    };
    let shown = Shown {
        columns: None,
        masks: Some(Arc::new(masks.unwrap())),
    };
    hub.publish(batch(vec![HubOp::Rule {
        table,
        now: Some(shown),
    }]));
    let anna = client(&hub, "anna");
    let bindings = json!([
        {"event": "*", "schema": "public", "table": "tasks"},
        {"event": "*", "schema": "public", "table": "tasks", "filter": "s=eq.x"},
        {"event": "*", "schema": "public", "table": "secrets"},
        {"event": "*", "schema": "public", "table": "tasks", "filter": "n=what.1"},
    ]);
    hub.join(&anna.connection, join("realtime:db", "1", bindings, false))
        .unwrap();
    let told_first = told(&anna);
    assert_eq!(told_first[0], "1 ok");
    assert_eq!(told_first.last().unwrap(), SUBSCRIBED);
    let said = told_first.join("\n");
    for part in [
        "column `s` of table `tasks` is masked for you",
        "SELECT rowcast.track('public.secrets')",
        "Error parsing `filter` params",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    hub.publish(single("acme", 10, 1));
    assert_eq!(told(&anna), ["INSERT 1"]);
}

#[test]
fn q20_masks_are_those_of_everybody() {
    let hub = hub_of(&[("anna", "acme"), ("bert", "acme")]);
    hub.publish(batch(vec![member("bert", "acme", Some("admin"))]));
    let (anna, bert) = (client(&hub, "anna"), client(&hub, "bert"));
    for one in [&anna, &bert] {
        hub.join(&one.connection, rows("1")).unwrap();
        told(one);
    }
    let mask = Mask {
        column: "s".into(),
        kind: MaskKind::Email,
        roles: ["admin".into()].into(),
        owner: false,
    };
    let new = row(&[("id", "1"), ("s", r#""john@yourdomain.com""#)]);
    let mut event = change(Operation::Insert, Some(new), None)(event("acme", at(10, 0), 1));
    event.audience.masked = Some(Arc::new(Masked {
        masks: Arc::new(Masks::new(vec![mask]).unwrap()),
        owner: None,
        old_owner: None,
        only: None,
    }));
    hub.publish(batch(vec![HubOp::from(event), commit(10)]));
    let seen = |client: &Client| client.socket.frames()[0][4]["data"]["record"]["s"].clone();
    assert_eq!(seen(&anna), "j***@y*********.com");
    assert_eq!(seen(&bert), "john@yourdomain.com");
}

#[test]
fn too_much_is_refused_and_costs_nothing() {
    let hub = hub_with(HubLimits {
        subscriptions: 3,
        ..HubLimits::default()
    });
    hub.publish(batch(vec![
        member("anna", "acme", Some("member")),
        tracked(),
    ]));
    let anna = client(&hub, "anna");
    let table = |event: &str| json!({"event": event, "schema": "public", "table": "tasks"});
    let many = json!([
        table("INSERT"),
        table("UPDATE"),
        table("DELETE"),
        table("*")
    ]);
    let refused = hub.join(&anna.connection, join("realtime:db", "1", many, false));
    assert!(
        matches!(refused, Err(HubError::TooManySubscriptions(0))),
        "{refused:?}"
    );
    assert!(told(&anna).is_empty() && hub.joined(&anna.connection).is_empty());
    for reference in ["2", "3", "4"] {
        hub.join(&anna.connection, rows(reference)).unwrap();
    }
    // A membership that would need too much is said, and the rest stays.
    let three = json!([table("INSERT"), table("UPDATE"), table("DELETE")]);
    hub.join(&anna.connection, join("realtime:db", "5", three, false))
        .unwrap();
    told(&anna);
    hub.publish(batch(vec![member("anna", "blue", Some("member"))]));
    assert!(told(&anna)[0].contains("as many subscriptions as allowed"));
    assert_eq!(hub.subscriptions(), 3);
}

#[test]
fn positions_of_another_epoch_have_clients_join_again() {
    let hub = hub_of(&[("anna", "acme")]);
    let anna = client(&hub, "anna");
    hub.join(&anna.connection, rows("7")).unwrap();
    hub.publish(single("acme", 10, 1));
    told(&anna);
    let mut other = event("acme", at(20, 0), 2);
    other.cursor.epoch = rowcast_model::Epoch(2);
    hub.publish(batch(vec![HubOp::from(other)]));
    assert_eq!(told(&anna), ["phx_error 7"]);
    assert_eq!(hub.subscriptions(), 0);
}

#[test]
fn promise_05_changes_that_are_late_are_announced() {
    let hub = hub_of(&[("anna", "acme")]);
    let anna = client(&hub, "anna");
    hub.join(&anna.connection, rows("1")).unwrap();
    told(&anna);
    hub.announce(StreamState::Stale {
        since: Timestamp(0),
        reason: "the database is away".into(),
    });
    assert!(told(&anna)[0].starts_with("error Changes are late: the database is away"));
    hub.join(&anna.connection, rows("2")).unwrap();
    assert!(
        told(&anna)
            .last()
            .unwrap()
            .starts_with("error Changes are late")
    );
    hub.announce(StreamState::Live);
    assert_eq!(told(&anna), [SUBSCRIBED]);
    hub.tell_position(&anna.connection);
    assert!(told(&anna).is_empty(), "the protocol knows no positions");
}

pub fn room_rule(who: Who) -> HubOp {
    let pattern = "room:{roomId}";
    HubOp::Channel(ChannelChange {
        pattern: pattern.into(),
        now: Some(Arc::new(ChannelRule {
            pattern: pattern.parse().unwrap(),
            parameters: [rowcast_model::ParameterKind::Int].into_iter().collect(),
            who,
            scope: Scope::Organization,
            relay: true,
            presence: true,
            events: None,
        })),
    })
}

pub fn said(lsn: u64) -> Vec<HubOp> {
    let message = Arc::new(Message::broadcast("e", lsn.to_string().into_bytes().into()));
    let topic = Topic::Channel(Some("acme".into()), "room:1".into());
    let mut event = RoutedEvent::message(
        at(lsn, 0),
        Timestamp(0),
        topic,
        Audience::default(),
        message,
    );
    event.last = true;
    vec![HubOp::Event(event.into()), commit(lsn)]
}

/// Broadcasts of version 2 are not text: their payloads.
pub fn payloads(client: &Client) -> Vec<String> {
    let raw = client.socket.take();
    let (mut rest, mut found) = (&raw[..], Vec::new());
    while let Some((payload, next)) = rowcast_wire::payload_of(rest) {
        if payload.first() == Some(&4) {
            let text = String::from_utf8_lossy(payload);
            found.push(
                text.chars()
                    .rev()
                    .take_while(char::is_ascii_digit)
                    .collect::<String>(),
            );
        }
        rest = next;
    }
    found
        .iter()
        .map(|text| text.chars().rev().collect())
        .collect()
}

#[test]
fn a_room_without_a_rule_is_nobodys() {
    let hub = hub_of(&[("anna", "acme")]);
    let anna = client(&hub, "anna");
    let room = |private| join("realtime:room:1", "1", json!([]), private);
    for private in [false, true] {
        let refused = hub.join(&anna.connection, room(private));
        assert!(
            matches!(refused, Err(HubError::NoSuchChannel(_))),
            "{refused:?}"
        );
    }
    hub.publish(batch(vec![room_rule(Who::Public)]));
    hub.join(&anna.connection, room(true)).unwrap();
    hub.publish(batch(said(10)));
    assert_eq!(payloads(&anna), ["10"]);
}

#[test]
fn the_application_is_asked_about_rooms_and_may_say_no() {
    let by = Authorizer {
        handler: Some(Handler::Webhook("rooms".into())),
        ttl_seconds: 300,
        grants: false,
    };
    let hub = hub_of(&[("anna", "acme")]);
    hub.publish(batch(vec![room_rule(Who::Authorized(Arc::new(by)))]));
    let anna = {
        let claims = RawValue::from_string(json!({"sub": "anna"}).to_string()).unwrap();
        let identity = Identity {
            claims: hub.keep_claims(claims),
            ..Identity::session("anna")
        };
        let socket = Socket::new(usize::MAX);
        let connection = hub.connect_phoenix(identity, socket.clone());
        Client { socket, connection }
    };
    let room = |reference: &str| join("realtime:room:1", reference, json!([]), true);
    hub.join(&anna.connection, room("1")).unwrap();
    assert!(
        told(&anna).is_empty(),
        "no answer before the application has said yes"
    );
    let (asked, _) = hub.questions(10);
    let no = AskError::Refused(Refusal {
        code: "accessdenied".into(),
        message: "Not a member of this room".into(),
    });
    hub.answered(asked[0].ticket, Err(&no));
    assert_eq!(told(&anna), ["1 error Unauthorized"]);
    // Asked again, as clients do; a join that took the place of another is asked about alone.
    hub.join(&anna.connection, room("2")).unwrap();
    hub.join(&anna.connection, room("3")).unwrap();
    let (asked, _) = hub.questions(10);
    assert_eq!(asked.len(), 1);
    let yes = RawValue::from_string(json!({"ttlSeconds": 300}).to_string()).unwrap();
    hub.answered(asked[0].ticket, Ok(&yes));
    assert_eq!(told(&anna), ["3 ok"]);
    hub.publish(batch(said(10)));
    assert_eq!(payloads(&anna), ["10"]);
    // Revoked: whoever is asked about again and may not stay, is off.
    hub.publish(batch(vec![HubOp::Revoke(Revocation {
        organization: Some("acme".into()),
        channel: "room:1".into(),
        epoch: None,
        reason: Some("membership_changed".into()),
    })]));
    hub.publish(batch(said(11)));
    let (asked, _) = hub.questions(10);
    hub.answered(asked[0].ticket, Err(&no));
    let end = told(&anna);
    assert!(
        end[0].starts_with("error You no longer have permission"),
        "{end:?}"
    );
    assert_eq!(end[1], "phx_close 3");
    assert_eq!(hub.subscriptions(), 0);
    assert!(hub.joined(&anna.connection).is_empty());
}

#[test]
fn c9_who_is_there_is_told_in_the_words_of_the_protocol() {
    let hub = hub_of(&[("anna", "acme"), ("bert", "acme")]);
    hub.publish(batch(vec![room_rule(Who::Public)]));
    let (anna, bert) = (client(&hub, "anna"), client(&hub, "bert"));
    for one in [&anna, &bert] {
        hub.join(
            &one.connection,
            join("realtime:room:1", "1", json!([]), false),
        )
        .unwrap();
        wait(&hub);
        assert_eq!(told(one), ["1 ok", "state []"]);
    }
    let track = |client: &Client, state: &str| {
        let wanted = rowcast_wire::ClientPresence {
            reference: None,
            channel: "room:1".parse().unwrap(),
            organization: Some("acme".into()),
            action: rowcast_wire::PresenceAction::Join(state.to_owned().into()),
        };
        hub.present(&client.connection, &wanted).unwrap();
    };
    track(&anna, r#"{"at":1}"#);
    wait(&hub);
    assert_eq!(told(&anna), ["+[anna] -[]"]);
    assert_eq!(told(&bert), ["+[anna] -[]"]);
    track(&anna, r#"{"at":2}"#);
    wait(&hub);
    let frames = bert.socket.frames();
    let diff = &frames[0][4];
    let metas = |side: &str| diff[side]["anna"]["metas"].clone();
    assert_eq!(
        (&metas("joins")[0]["at"], &metas("leaves")[0]["at"]),
        (&json!(2), &json!(1))
    );
    assert_ne!(metas("joins")[0]["phx_ref"], metas("leaves")[0]["phx_ref"]);
    told(&anna);
    hub.disconnect(&anna.connection);
    wait(&hub);
    assert_eq!(told(&bert), ["+[] -[anna]"]);
}

/// Until followers have been told.
pub fn wait(hub: &Hub) {
    loop {
        match hub.keep_presence() {
            rowcast_hub::PresenceWork::More => {}
            rowcast_hub::PresenceWork::At(at) => {
                let most = std::time::Instant::now() + std::time::Duration::from_secs(2);
                if at > most {
                    return;
                }
                std::thread::sleep(at.saturating_duration_since(std::time::Instant::now()));
            }
            rowcast_hub::PresenceWork::Nothing => return,
        }
    }
}
