//! Who is there: members, followers, and what ends both.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use rowcast_hub::{Hub, HubError, HubLimits, PresenceLimits, PresenceWork};
use rowcast_model::{ChannelChange, ChannelRule, HubOp, OrgId, Revocation, Scope, Who};
use rowcast_wire::{ClientFrame, ErrorCode, Limits, parse};
use serde_json::{Value, json};

use crate::support::*;

pub(crate) fn limits() -> PresenceLimits {
    PresenceLimits {
        tick: Duration::ZERO,
        longest_tick: Duration::ZERO,
        grace: Duration::ZERO,
        ..PresenceLimits::default()
    }
}

pub(crate) fn hub(presence: PresenceLimits) -> Hub {
    let hub = hub_with(HubLimits {
        presence,
        ..HubLimits::default()
    });
    hub.publish(batch(vec![room(true)]));
    hub
}

/// The rule of `room:*`.
fn room(presence: bool) -> HubOp {
    HubOp::Channel(ChannelChange {
        pattern: "room:*".into(),
        now: Some(Arc::new(ChannelRule {
            pattern: "room:*".parse().unwrap(),
            parameters: [].into_iter().collect(),
            who: Who::Public,
            scope: Scope::Organization,
            relay: false,
            presence,
            events: None,
        })),
    })
}

/// Does what is due until nothing is at present.
fn settle(hub: &Hub) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while Instant::now() < deadline {
        match hub.keep_presence() {
            PresenceWork::More => {}
            PresenceWork::At(at) if at <= Instant::now() => {}
            _ => return,
        }
    }
    panic!("there is always something to do");
}

fn sends(hub: &Hub, client: &Client, frame: Value) -> Result<(), HubError> {
    match parse(frame.to_string().as_bytes(), &Limits::default()) {
        Ok(ClientFrame::Presence(mut presence)) => {
            presence.organization.get_or_insert_with(|| "acme".into());
            hub.present(&client.connection, &presence)
        }
        other => panic!("{other:?}"),
    }
}

pub(crate) fn act(hub: &Hub, client: &Client, action: &str, state: Value) -> Result<(), HubError> {
    let frame = json!({"type": "presence", "channel": "room:1", "action": action, "state": state});
    sends(hub, client, frame)
}

pub(crate) fn joins(hub: &Hub, client: &Client) {
    act(hub, client, "join", json!({})).unwrap();
}

pub(crate) fn follows(hub: &Hub, client: &Client, how: Value) {
    let frame = json!({"type": "subscribe", "channel": "room:1", "organizationId": "acme", "presence": how});
    hub.subscribe(&client.connection, wanted(&frame.to_string()))
        .unwrap();
}

/// A member of `acme` on `room:1`, who follows who is there.
pub(crate) fn follower(hub: &Hub, user: &str) -> Client {
    let client = Client::member(hub, user, &["acme"], &[]);
    follows(hub, &client, json!(true));
    client
}

/// What came since: frames about presence in few words.
fn told(hub: &Hub, client: &Client) -> Vec<String> {
    settle(hub);
    let frames = client.socket.frames();
    let about = frames
        .iter()
        .filter(|frame| frame["type"].as_str().unwrap().starts_with("presence"));
    about.map(in_words).collect()
}

fn in_words(frame: &Value) -> String {
    let users = |list: &Value| {
        let names = list.as_array().into_iter().flatten();
        let names = names.map(|user| user["userId"].as_str().unwrap_or("machine"));
        names.collect::<Vec<_>>().join(" ")
    };
    let counts = format!("{}/{}", frame["users"], frame["connections"]);
    match frame["type"].as_str().unwrap() {
        "presence_state" => format!("{counts} [{}]", users(&frame["members"])),
        "presence_list" => format!("{counts} list [{}]", users(&frame["members"])),
        "presence_diff" => {
            let lists = ["joins", "updates", "leaves", "shown"];
            let changed = lists.iter().filter(|list| !users(&frame[list]).is_empty());
            let changed: Vec<String> = changed
                .map(|list| format!("{list} {}", users(&frame[list])))
                .collect();
            format!("{counts} {}", changed.join(", "))
        }
        "presence_count" => counts,
        _ => format!(
            "{} {}",
            frame["action"].as_str().unwrap(),
            frame["reason"].as_str().unwrap_or("done")
        ),
    }
}

#[test]
fn members_come_change_and_go() {
    let hub = hub(limits());
    let anna = follower(&hub, "anna");
    assert_eq!(told(&hub, &anna), ["0/0 []"]);
    let bert = Client::member(&hub, "bert", &["acme"], &[]);
    follows(&hub, &bert, json!(false));
    joins(&hub, &bert);
    assert_eq!(told(&hub, &anna), ["1/1 joins bert"]);
    act(&hub, &bert, "update", json!({"x": 1})).unwrap();
    act(&hub, &bert, "update", json!({"x": 2})).unwrap();
    settle(&hub);
    let frames = anna.socket.frames();
    let [update] = &frames[..] else {
        panic!("{frames:?}");
    };
    let connection = bert.connection.id().to_string();
    assert_eq!(
        update["updates"],
        json!([{"userId": "bert", "connections": {connection: {"x": 2}}}])
    );
    // The same once more is no news.
    act(&hub, &bert, "update", json!({"x": 2})).unwrap();
    assert!(told(&hub, &anna).is_empty());
    let asked = json!({"type": "presence", "channel": "room:1", "action": "leave", "ref": 5});
    sends(&hub, &bert, asked.clone()).unwrap();
    sends(&hub, &bert, asked).unwrap();
    assert_eq!(told(&hub, &bert), ["leave done", "leave done"]);
    assert_eq!(told(&hub, &anna), ["0/0 leaves bert"]);
    let error = act(&hub, &bert, "update", json!({})).unwrap_err();
    assert_eq!(error.error_code(), ErrorCode::NotPresent);
}

#[test]
fn two_connections_are_one_user() {
    let hub = hub(limits());
    let anna = follower(&hub, "anna");
    let [first, second] = [0, 1].map(|_| follower(&hub, "bert"));
    joins(&hub, &first);
    joins(&hub, &second);
    assert_eq!(told(&hub, &anna), ["1/2 [bert]"]);
    hub.disconnect(&first.connection);
    assert_eq!(told(&hub, &anna), ["1/1 updates bert"]);
    hub.disconnect(&second.connection);
    assert_eq!(told(&hub, &anna), ["0/0 leaves bert"]);
}

#[test]
fn counts_come_without_lists() {
    let hub = hub(limits());
    let anna = Client::member(&hub, "anna", &["acme"], &[]);
    follows(&hub, &anna, json!("count"));
    let bert = follower(&hub, "bert");
    assert_eq!(told(&hub, &anna), ["0/0"]);
    joins(&hub, &bert);
    assert_eq!(told(&hub, &anna), ["1/1"]);
    act(&hub, &bert, "update", json!({"x": 1})).unwrap();
    assert!(told(&hub, &anna).is_empty());
    assert_eq!(
        told(&hub, &bert),
        ["0/0 []", "1/1 joins bert", "1/1 updates bert"]
    );
}

/// A socket that broke and is back in time: nobody is told that its user left.
#[test]
fn who_comes_back_in_time_is_not_missed() {
    let hub = hub(PresenceLimits {
        grace: Duration::from_secs(60),
        ..limits()
    });
    let anna = follower(&hub, "anna");
    let bert = follower(&hub, "bert");
    joins(&hub, &bert);
    assert_eq!(told(&hub, &anna), ["1/1 [bert]"]);
    hub.vacate(&bert.connection, true);
    hub.disconnect(&bert.connection);
    assert!(told(&hub, &anna).is_empty());
    let back = follower(&hub, "bert");
    joins(&hub, &back);
    assert_eq!(told(&hub, &anna), ["1/1 updates bert"]);
    // Whoever says goodbye is gone at once, also while his socket is still being closed.
    hub.vacate(&back.connection, false);
    assert_eq!(told(&hub, &anna), ["0/0 leaves bert"]);
    hub.disconnect(&back.connection);
    assert!(told(&hub, &anna).is_empty());
}

#[test]
fn the_lost_go_when_their_time_is_over_or_their_rights_are() {
    let hub = hub(PresenceLimits {
        grace: Duration::from_millis(30),
        ..limits()
    });
    let anna = follower(&hub, "anna");
    let lost = |hub: &Hub| {
        let bert = follower(hub, "bert");
        joins(hub, &bert);
        told(hub, &anna);
        hub.vacate(&bert.connection, true);
        hub.disconnect(&bert.connection);
    };
    lost(&hub);
    let deadline = Instant::now() + Duration::from_secs(10);
    while told(&hub, &anna) != ["0/0 leaves bert"] {
        assert!(Instant::now() < deadline);
    }
    let hub = self::hub(PresenceLimits {
        grace: Duration::from_secs(60),
        ..limits()
    });
    let anna = follower(&hub, "anna");
    let lost = |hub: &Hub| {
        let bert = follower(hub, "bert");
        joins(hub, &bert);
        told(hub, &anna);
        hub.vacate(&bert.connection, true);
        hub.disconnect(&bert.connection);
        assert!(told(hub, &anna).is_empty());
    };
    lost(&hub);
    hub.publish(batch(vec![member("bert", "acme", None)]));
    assert_eq!(told(&hub, &anna), ["0/0 leaves bert"]);
    lost(&hub);
    hub.publish(batch(vec![HubOp::Revoke(Revocation {
        organization: Some("acme".into()),
        channel: "room:1".into(),
        epoch: None,
        reason: None,
    })]));
    follows(&hub, &anna, json!(true));
    assert_eq!(told(&hub, &anna), ["0/0 []"]);
}

/// What ends a subscription ends what it has to do with presence, and nothing is told behind it.
#[test]
fn members_leave_with_their_membership() {
    let hub = hub(limits());
    let anna = follower(&hub, "anna");
    let bert = follower(&hub, "bert");
    joins(&hub, &anna);
    joins(&hub, &bert);
    assert_eq!(told(&hub, &anna), ["2/2 [anna bert]"]);
    told(&hub, &bert);
    hub.publish(batch(vec![member("bert", "acme", None)]));
    joins(&hub, &anna);
    act(&hub, &anna, "update", json!({"x": 1})).unwrap();
    assert_eq!(told(&hub, &anna), ["1/1 updates anna, leaves bert"]);
    let frames: Vec<Value> = bert.socket.frames();
    let kinds: Vec<&str> = frames
        .iter()
        .map(|frame| frame["type"].as_str().unwrap())
        .collect();
    assert_eq!(kinds, ["unsubscribed", "membership"]);
    let error = act(&hub, &bert, "join", json!({})).unwrap_err();
    assert_eq!(error.error_code(), ErrorCode::NotSubscribed);
}

#[test]
fn rooms_end_when_the_rule_says_so() {
    let hub = hub(limits());
    let anna = follower(&hub, "anna");
    joins(&hub, &anna);
    assert_eq!(told(&hub, &anna), ["1/1 [anna]"]);
    hub.publish(batch(vec![room(false)]));
    assert_eq!(told(&hub, &anna), ["off channel_rule_changed"]);
    let error = act(&hub, &anna, "join", json!({})).unwrap_err();
    assert_eq!(error.error_code(), ErrorCode::PresenceOff);
    hub.publish(batch(vec![room(true)]));
    follows(&hub, &anna, json!(true));
    assert_eq!(told(&hub, &anna), ["0/0 []"]);
}

#[test]
fn one_name_in_two_organizations_is_two_rooms() {
    let hub = hub(limits());
    let anna = follower(&hub, "anna");
    let carl = Client::member(&hub, "carl", &["other"], &[]);
    let frame = json!({"type": "subscribe", "channel": "room:1", "organizationId": "other", "presence": true});
    hub.subscribe(&carl.connection, wanted(&frame.to_string()))
        .unwrap();
    joins(&hub, &anna);
    assert_eq!(told(&hub, &carl), ["0/0 []"]);
    let error = act(&hub, &carl, "join", json!({})).unwrap_err();
    assert_eq!(error.error_code(), ErrorCode::NotSubscribed);
    let other = json!({"type": "presence", "channel": "room:1", "organizationId": "other", "action": "join"});
    sends(&hub, &carl, other).unwrap();
    assert_eq!(told(&hub, &carl), ["1/1 joins carl"]);
    assert_eq!(told(&hub, &anna), ["1/1 [anna]"]);
    let channel = "room:1".parse().unwrap();
    let page = |organization: &str| {
        let organization = OrgId::from(organization);
        hub.present_on(&channel, Some(&organization), None, 10)
            .unwrap()
    };
    assert_eq!(page("acme").users[0].who.id(), "anna");
    assert_eq!(page("other").users[0].who.id(), "carl");
    assert!(page("third").users.is_empty());
}

/// Another subscription to the same channel takes the place of the one before: a member stays one.
#[test]
fn a_member_that_subscribes_again_stays() {
    let hub = hub(limits());
    let anna = follower(&hub, "anna");
    let bert = follower(&hub, "bert");
    joins(&hub, &bert);
    told(&hub, &anna);
    told(&hub, &bert);
    follows(&hub, &bert, json!("count"));
    assert_eq!(told(&hub, &bert), ["1/1"]);
    follows(&hub, &bert, json!(false));
    assert!(told(&hub, &anna).is_empty());
    hub.unsubscribe(
        &bert.connection,
        &"room:1".parse().unwrap(),
        Some(&"acme".into()),
        None,
        None,
    )
    .unwrap();
    assert_eq!(told(&hub, &anna), ["0/0 leaves bert"]);
    assert!(told(&hub, &bert).is_empty());
}

#[test]
fn the_silent_expire_and_may_come_back() {
    let hub = hub(PresenceLimits {
        expiry: Duration::from_millis(60),
        ..limits()
    });
    let anna = follower(&hub, "anna");
    joins(&hub, &anna);
    let deadline = Instant::now() + Duration::from_secs(10);
    let mut all = Vec::new();
    while all.len() < 3 {
        assert!(Instant::now() < deadline, "{all:?}");
        all.extend(told(&hub, &anna));
    }
    assert_eq!(all, ["1/1 [anna]", "leave expired", "0/0 leaves anna"]);
    joins(&hub, &anna);
    assert_eq!(told(&hub, &anna), ["1/1 joins anna"]);
    // Who gives signs of life stays.
    let until = Instant::now() + Duration::from_millis(300);
    while Instant::now() < until {
        anna.connection.note_heard();
        assert!(told(&hub, &anna).is_empty());
    }
}

#[test]
fn limits_refuse() {
    let hub = hub(PresenceLimits {
        members: 3,
        connections_per_user: 2,
        state_bytes: 20,
        ..limits()
    });
    let anna = [0, 1, 2].map(|_| follower(&hub, "anna"));
    let code = |client: &Client, state: Value| {
        act(&hub, client, "join", state).map_err(|e| e.error_code())
    };
    assert_eq!(
        code(&anna[0], json!({"x": "y".repeat(20)})),
        Err(ErrorCode::StateTooLarge)
    );
    assert_eq!(code(&anna[0], json!({})), Ok(()));
    assert_eq!(code(&anna[1], json!({})), Ok(()));
    assert_eq!(code(&anna[2], json!({})), Err(ErrorCode::PresenceFull));
    let others = ["bert", "carl"].map(|user| follower(&hub, user));
    assert_eq!(code(&others[0], json!({})), Ok(()));
    assert_eq!(code(&others[1], json!({})), Err(ErrorCode::PresenceFull));
    hub.disconnect(&anna[0].connection);
    assert_eq!(code(&others[1], json!({})), Ok(()));

    let small = self::hub(PresenceLimits {
        bytes: 2000,
        ..limits()
    });
    let first = follower(&small, "anna");
    joins(&small, &first);
    let more = act(&small, &first, "update", json!({"x": "y".repeat(600)}));
    assert_eq!(more.unwrap_err().error_code(), ErrorCode::Overloaded);
    let second = Client::member(&small, "bert", &["acme"], &[]);
    let subscribe = json!({"type": "subscribe", "channel": "room:2", "organizationId": "acme", "presence": true});
    let refused = small.subscribe(&second.connection, wanted(&subscribe.to_string()));
    assert_eq!(refused.unwrap_err().error_code(), ErrorCode::Overloaded);
    // What was refused takes nothing.
    small.disconnect(&first.connection);
    settle(&small);
    small
        .subscribe(&second.connection, wanted(&subscribe.to_string()))
        .unwrap();
}

#[test]
fn channels_without_presence_say_so() {
    let hub = hub(limits());
    let anna = Client::member(
        &hub,
        "anna",
        &["acme"],
        &["org:acme", "user:anna", "tenant:acme:t"],
    );
    for channel in ["org:acme", "user:anna", "tenant:acme:t"] {
        let subscribe = json!({"type": "subscribe", "channel": channel, "presence": true});
        let error = hub
            .subscribe(&anna.connection, wanted(&subscribe.to_string()))
            .unwrap_err();
        assert_eq!(error.error_code(), ErrorCode::PresenceOff, "{channel}");
        let join = json!({"type": "presence", "channel": channel, "action": "join"});
        assert_eq!(
            sends(&hub, &anna, join).unwrap_err().error_code(),
            ErrorCode::PresenceOff
        );
    }
    let hub = self::hub(PresenceLimits {
        organizations: true,
        users: true,
        ..limits()
    });
    let anna = Client::member(&hub, "anna", &["acme"], &[]);
    for channel in ["org:acme", "user:anna"] {
        let subscribe = json!({"type": "subscribe", "channel": channel, "presence": true});
        hub.subscribe(&anna.connection, wanted(&subscribe.to_string()))
            .unwrap();
        let join = json!({"type": "presence", "channel": channel, "action": "join"});
        sends(&hub, &anna, join).unwrap();
        assert_eq!(told(&hub, &anna), ["1/1 [anna]"], "{channel}");
    }
}

#[test]
fn machines_are_named_by_their_key() {
    let hub = hub(limits());
    hub.publish(batch(vec![key("k1", Some("acme"))]));
    let anna = follower(&hub, "anna");
    let machine = Client::new(&hub, machine("k1"));
    follows(&hub, &machine, json!(true));
    joins(&hub, &machine);
    settle(&hub);
    let frames = anna.socket.frames();
    let state = frames
        .iter()
        .find(|frame| frame["type"] == "presence_state")
        .unwrap();
    assert_eq!(state["members"][0]["apiKeyId"], "k1");
    hub.publish(batch(vec![key("k1", None)]));
    assert_eq!(told(&hub, &anna), ["0/0 leaves machine"]);
}

#[test]
fn the_list_is_read_page_by_page() {
    let hub = hub(PresenceLimits {
        listed: 2,
        ..limits()
    });
    let clients: Vec<Client> = (0..5).map(|at| follower(&hub, &format!("u{at}"))).collect();
    clients.iter().for_each(|client| joins(&hub, client));
    assert_eq!(told(&hub, &clients[0]), ["5/5 [u0 u1]"]);
    let mut after = Value::Null;
    let mut all = Vec::new();
    for _ in 0..3 {
        let ask = json!({"type": "presence", "channel": "room:1", "action": "list", "limit": 2, "after": after, "ref": 1});
        sends(&hub, &clients[0], ask).unwrap();
        clients[0].connection.flush_latest();
        let frames = clients[0].socket.frames();
        let page = frames.last().unwrap();
        all.push(in_words(page));
        after = page["next"].clone();
    }
    assert_eq!(
        all,
        ["5/5 list [u0 u1]", "5/5 list [u2 u3]", "5/5 list [u4]"]
    );
    assert_eq!(after, Value::Null);
}
