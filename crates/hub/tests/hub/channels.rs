//! What is not of a row: broadcasts to organizations, users, roles and channels of the application.

use std::sync::Arc;

use bytes::Bytes;
use rowcast_hub::{HubError, Identity, Question};
use rowcast_model::{
    Audience, ChannelChange, ChannelRule, Cursor, HubOp, Message, OrgId, Revocation, RoutedEvent,
    Says, Scope, Timestamp, Topic, Who,
};
use rowcast_wire::ErrorCode;

use crate::support::*;

fn said(topic: Topic, cursor: Cursor, event: &str) -> RoutedEvent {
    let payload = Bytes::from(format!("{}", cursor.commit_lsn.0));
    let message = Arc::new(Message::broadcast(event, payload));
    RoutedEvent::message(cursor, Timestamp(0), topic, Audience::default(), message)
}

fn org(name: &str) -> Topic {
    Topic::Org(name.into())
}

fn channel(organization: Option<&str>, name: &str) -> Topic {
    Topic::Channel(organization.map(OrgId::from), name.into())
}

/// One message in a transaction of its own.
fn alone(topic: Topic, lsn: u64, event: &str) -> Vec<HubOp> {
    let mut event = said(topic, at(lsn, 0), event);
    event.last = true;
    vec![HubOp::Event(event.into()), commit(lsn)]
}

fn rule(pattern: &str, who: Who, scope: Scope) -> HubOp {
    HubOp::Channel(ChannelChange {
        pattern: pattern.into(),
        now: Some(Arc::new(ChannelRule {
            pattern: pattern.parse().unwrap(),
            parameters: [].into_iter().collect(),
            who,
            scope,
            relay: false,
            presence: false,
            events: None,
        })),
    })
}

fn no_rule(pattern: &str) -> HubOp {
    HubOp::Channel(ChannelChange {
        pattern: pattern.into(),
        now: None,
    })
}

fn in_org(channel: &str, organization: &str) -> rowcast_hub::Subscription {
    rowcast_hub::Subscription {
        organization: Some(organization.into()),
        ..to(channel)
    }
}

#[test]
fn q11_q16_a_broadcast_reaches_everybody_of_the_organization_and_nobody_else() {
    let hub = hub();
    let anna = Client::member(&hub, "anna", &["acme"], &["org:acme", "user:anna"]);
    let bert = Client::member(&hub, "bert", &["other"], &["org:other", "user:bert"]);
    hub.publish(batch(alone(org("acme"), 1, "processing-complete")));
    assert_eq!(anna.told(), ["processing-complete 1 on org:acme!"]);
    assert!(bert.told().is_empty());
}

#[test]
fn q13_q15_users_and_roles_narrow_it() {
    let hub = hub();
    let anna = Client::member(&hub, "anna", &["acme"], &["org:acme", "user:anna"]);
    let bert = Client::member(&hub, "bert", &["acme"], &["org:acme"]);
    let aimed = |lsn, audience| {
        let mut event = said(org("acme"), at(lsn, 0), "e");
        event.audience = audience;
        event.last = true;
        HubOp::Event(event.into())
    };
    let user = Audience {
        user: Some("anna".into()),
        ..Audience::default()
    };
    let roles = Audience {
        required_roles: ["admin".into()].into(),
        ..Audience::default()
    };
    hub.publish(batch(vec![
        aimed(1, user),
        aimed(2, roles.clone()),
        member("bert", "acme", Some("admin")),
        aimed(3, roles),
    ]));
    assert_eq!(anna.told(), ["e 1 on org:acme!"]);
    assert_eq!(
        bert.told(),
        ["membership \"acme\" [\"admin\"]", "e 3 on org:acme!"]
    );
}

#[test]
fn x04_a_user_channel_reaches_that_user_on_all_sockets() {
    let hub = hub();
    let sockets = [0, 1].map(|_| Client::member(&hub, "anna", &["acme"], &["user:anna"]));
    let bert = Client::member(&hub, "bert", &["acme"], &["org:acme", "user:bert"]);
    hub.publish(batch(alone(Topic::User("anna".into()), 1, "notification")));
    for anna in sockets {
        assert_eq!(
            anna.told(),
            ["notification 1 on user:anna", "commit user:anna"]
        );
    }
    assert!(bert.told().is_empty());
}

#[test]
fn x03_deny_by_default_and_public_channels_of_each_organization() {
    let hub = hub();
    let anna = Client::member(&hub, "anna", &["acme"], &[]);
    let bert = Client::member(&hub, "bert", &["other"], &[]);
    let refused = hub.subscribe(&anna.connection, in_org("room:1", "acme"));
    assert_eq!(refused, Err(HubError::NoSuchChannel("room:1".into())));
    let refused = refused.unwrap_err();
    assert_eq!(refused.error_code(), ErrorCode::UnknownChannel);
    assert!(refused.to_string().contains("rowcast.define_channel"));
    hub.publish(batch(vec![
        rule("room:*", Who::Public, Scope::Organization),
        rule("announcements", Who::Public, Scope::Global),
    ]));
    for (client, organization) in [(&anna, "acme"), (&bert, "other")] {
        hub.subscribe(&client.connection, in_org("room:1", organization))
            .unwrap();
        hub.subscribe(&client.connection, to("announcements"))
            .unwrap();
        client.socket.frames();
    }
    let strange = hub.subscribe(&anna.connection, in_org("room:1", "other"));
    assert_eq!(strange, Err(HubError::NotMember("other".into())));
    let nowhere = hub.subscribe(&anna.connection, to("room:1"));
    assert_eq!(nowhere, Err(HubError::OrganizationNeeded("room:1".into())));
    let mut ops = alone(channel(Some("acme"), "room:1"), 1, "message");
    ops.extend(alone(channel(None, "announcements"), 2, "system_update"));
    // Nobody is there: what the name means in no organization.
    ops.extend(alone(channel(None, "room:1"), 3, "stray"));
    hub.publish(batch(ops));
    assert_eq!(
        anna.told(),
        ["message 1 on room:1!", "system_update 2 on announcements!"]
    );
    assert_eq!(bert.told(), ["system_update 2 on announcements!"]);
}

/// A channel of an organization is not the organization: neither is a row for one user told there, nor is it what
/// came last there.
#[test]
fn what_is_for_one_user_is_told_on_no_channel_of_the_application() {
    let hub = hub();
    let rooms = rule("room:*", Who::Public, Scope::Organization);
    hub.publish(batch(vec![rooms]));
    let on_org = Client::member(&hub, "anna", &["acme"], &["org:acme"]);
    let on_user = Client::member(&hub, "anna", &[], &["user:anna"]);
    let on_room = Client::member(&hub, "anna", &[], &[]);
    for client in [&on_org, &on_user, &on_room] {
        hub.subscribe(&client.connection, in_org("room:1", "acme"))
            .unwrap();
        client.socket.frames();
    }
    let mut targeted = event("acme", at(2, 0), 1);
    targeted.last = true;
    targeted.audience.user = Some("anna".into());
    let mut ops = alone(channel(Some("acme"), "room:1"), 1, "message");
    ops.extend([HubOp::from(targeted), commit(2)]);
    hub.publish(batch(ops));
    let message = "message 1 on room:1!";
    assert_eq!(on_org.told(), [message, "INSERT 1 on org:acme!"]);
    let [said, row, rest @ ..] = &on_user.told()[..] else {
        panic!("nothing on the channel of the user");
    };
    assert_eq!((&**said, &**row), (message, "INSERT 1 on user:anna"));
    assert_eq!(rest, ["commit user:anna"]);
    assert_eq!(on_room.told(), [message]);

    let last = |name: &str| {
        let explained = hub.explain(&Question {
            identity: Identity::session("anna"),
            organization: Some("acme".into()),
            channel: name.parse().unwrap(),
            table: None,
            record: None,
            operation: None,
            otherwise: None,
        });
        explained.event.and_then(|event| event.cursor)
    };
    assert_eq!(last("room:1"), Some(at(1, 0)));
    assert_eq!(last("room:2"), None);
    assert_eq!(last("user:anna"), Some(at(2, 0)));
    assert_eq!(last("tenant:acme:nothing"), None);
    hub.publish(single("acme", 3, 2));
    assert_eq!(last("user:anna"), Some(at(2, 0)));
    assert_eq!(last("org:acme"), Some(at(3, 0)));
}

#[test]
fn one_name_in_two_organizations_on_one_socket() {
    let hub = hub();
    hub.publish(batch(vec![rule(
        "room:*",
        Who::Public,
        Scope::Organization,
    )]));
    let anna = Client::member(&hub, "anna", &["acme", "other"], &[]);
    for organization in ["acme", "other"] {
        hub.subscribe(&anna.connection, in_org("room:1", organization))
            .unwrap();
    }
    anna.socket.frames();
    hub.publish(batch(alone(channel(Some("other"), "room:1"), 1, "e")));
    let frames = anna.socket.frames();
    assert_eq!(frames.len(), 1);
    assert_eq!(frames[0]["organizationId"], "other");
    let name = "room:1".parse().unwrap();
    hub.unsubscribe(&anna.connection, &name, Some(&"other".into()), None, None)
        .unwrap();
    anna.socket.frames();
    let mut ops = alone(channel(Some("other"), "room:1"), 2, "e");
    ops.extend(alone(channel(Some("acme"), "room:1"), 3, "e"));
    hub.publish(batch(ops));
    assert_eq!(anna.told(), ["e 3 on room:1!"]);
}

#[test]
fn x06_a_tenant_channel_has_its_table_and_what_is_sent_to_it() {
    let hub = hub();
    let anna = Client::member(&hub, "anna", &["acme"], &["tenant:acme:tasks"]);
    let mut ops = vec![
        HubOp::Event(event("acme", at(1, 0), 7).into()),
        HubOp::Event(
            said(
                channel(Some("acme"), "tenant:acme:tasks"),
                at(1, 1),
                "order_created",
            )
            .into(),
        ),
        commit(1),
    ];
    // To the organization is not to this channel.
    ops.extend(alone(org("acme"), 2, "elsewhere"));
    hub.publish(batch(ops));
    assert_eq!(
        anna.told(),
        [
            "INSERT 7 on tenant:acme:tasks",
            "order_created 1 on tenant:acme:tasks",
            "commit tenant:acme:tasks"
        ]
    );
}

#[test]
fn rules_of_users_tenants_and_roles() {
    let hub = hub();
    hub.publish(batch(vec![
        rule("inbox:{id}", Who::User(0), Scope::Global),
        rule(
            "shop:{shop}:orders",
            Who::Tenant(0, [].into()),
            Scope::Organization,
        ),
        rule(
            "staff",
            Who::Roles(["admin".into()].into()),
            Scope::Organization,
        ),
        rule("team:{role}", Who::RoleNamed(0), Scope::Organization),
    ]));
    let anna = Client::member(&hub, "anna", &["acme"], &[]);
    let may = |name: &str| {
        let asked = hub.subscribe(&anna.connection, in_org(name, "acme"));
        asked.map(drop).map_err(|error| error.error_code())
    };
    assert_eq!(may("inbox:anna"), Ok(()));
    assert_eq!(may("inbox:bert"), Err(ErrorCode::ChannelForbidden));
    assert_eq!(may("shop:acme:orders"), Ok(()));
    assert_eq!(may("shop:other:orders"), Err(ErrorCode::NotMember));
    assert_eq!(may("staff"), Err(ErrorCode::ChannelForbidden));
    assert_eq!(may("team:member"), Ok(()));
    assert_eq!(may("team:admin"), Err(ErrorCode::ChannelForbidden));
    hub.publish(batch(vec![
        key("k", Some("acme")),
        member("anna", "acme", Some("admin")),
    ]));
    let machine = Client::new(&hub, machine("k"));
    let refused = hub.subscribe(&machine.connection, to("inbox:k"));
    assert_eq!(
        refused.unwrap_err().error_code(),
        ErrorCode::ChannelForbidden
    );
    assert_eq!(may("staff"), Ok(()));
    // The role is lost, and with it what hangs on it; the membership stays.
    anna.socket.frames();
    hub.publish(batch(vec![member("anna", "acme", Some("member"))]));
    let told = anna.told();
    assert!(told.contains(&"unsubscribed staff".to_owned()), "{told:?}");
    assert!(!told.contains(&"unsubscribed inbox:anna".to_owned()));
    hub.publish(batch(alone(channel(Some("acme"), "staff"), 9, "secret")));
    assert!(anna.told().is_empty());
}

#[test]
fn rules_are_followed_live_and_the_most_specific_counts() {
    let hub = hub();
    hub.publish(batch(vec![rule(
        "room:*",
        Who::Public,
        Scope::Organization,
    )]));
    let anna = Client::member(&hub, "anna", &["acme"], &[]);
    for name in ["room:1", "room:staff"] {
        hub.subscribe(&anna.connection, in_org(name, "acme"))
            .unwrap();
    }
    anna.socket.frames();
    let admins = Who::Roles(["admin".into()].into());
    hub.publish(batch(vec![rule("room:staff", admins, Scope::Organization)]));
    assert_eq!(anna.told(), ["unsubscribed room:staff"]);
    // Told anew as it was: nobody notices.
    hub.publish(batch(vec![
        HubOp::ChannelsCleared,
        rule("room:*", Who::Public, Scope::Organization),
    ]));
    assert!(anna.told().is_empty());
    hub.publish(batch(vec![no_rule("room:*")]));
    assert_eq!(anna.told(), ["unsubscribed room:1"]);
    assert_eq!(hub.subscriptions(), 0);
}

#[test]
fn g27_a_revocation_ends_the_channel_in_log_order() {
    let hub = hub();
    hub.publish(batch(vec![rule(
        "room:*",
        Who::Public,
        Scope::Organization,
    )]));
    let anna = Client::member(&hub, "anna", &["acme"], &[]);
    for name in ["room:1", "room:2"] {
        hub.subscribe(&anna.connection, in_org(name, "acme"))
            .unwrap();
    }
    anna.socket.frames();
    let mut ops = alone(channel(Some("acme"), "room:1"), 1, "before");
    ops.push(HubOp::Revoke(Revocation {
        organization: Some("acme".into()),
        channel: "room:1".into(),
        epoch: Some(8),
        reason: Some("membership_changed".into()),
    }));
    ops.extend(alone(channel(Some("acme"), "room:1"), 2, "after"));
    ops.extend(alone(channel(Some("acme"), "room:2"), 3, "other"));
    hub.publish(batch(ops));
    let frames = anna.socket.frames();
    let told: Vec<String> = frames.iter().map(tell).collect();
    assert_eq!(
        told,
        [
            "before 1 on room:1!",
            "unsubscribed room:1",
            "other 3 on room:2!"
        ]
    );
    assert_eq!(frames[1]["reason"], "membership_changed");
    assert_eq!(frames[1]["epoch"], 8);
    // Who still may comes back with his cursor and has lost nothing.
    let mut again = in_org("room:1", "acme");
    again.cursor = frames[0]["cursor"].as_str().unwrap().parse().ok();
    hub.subscribe(&anna.connection, again).unwrap();
    hub.replay(&anna.connection);
    let told = anna.told();
    assert_eq!(told[..2], ["subscribed room:1", "after 2 on room:1!"]);
}

#[test]
fn g15_g17_keys_tell_their_followers() {
    let hub = hub();
    hub.publish(batch(vec![rule("key:tasks.*", Who::Public, Scope::Global)]));
    let anna = Client::member(&hub, "anna", &["acme"], &["key:tasks.list"]);
    let says = |lsn, says| {
        let message = Arc::new(Message { says, sender: None });
        let topic = channel(None, "key:tasks.list");
        let event = RoutedEvent::message(
            at(lsn, 0),
            Timestamp(0),
            topic,
            Audience::default(),
            message,
        );
        HubOp::Event(event.into())
    };
    let key: Arc<str> = "tasks.list".into();
    hub.publish(batch(vec![
        says(
            1,
            Says::Stale {
                key: key.clone(),
                refresh: false,
            },
        ),
        commit(1),
        says(
            2,
            Says::Data {
                key,
                data: Bytes::from_static(b"{\"n\":1}"),
            },
        ),
        commit(2),
    ]));
    let frames = anna.socket.frames();
    assert_eq!(frames[0]["type"], "invalidate");
    assert_eq!(frames[0]["key"], "tasks.list");
    let data = frames.iter().find(|frame| frame["type"] == "data").unwrap();
    assert_eq!(data["data"]["n"], 1);
}

#[test]
fn order_with_rows_last_marks_and_who_does_not_want_broadcasts() {
    let hub = hub();
    let anna = Client::member(&hub, "anna", &["acme"], &["org:acme"]);
    let rows = Client::member(&hub, "bert", &["acme"], &[]);
    let only = Client::member(&hub, "carl", &["acme"], &[]);
    let both = Client::member(&hub, "dora", &["acme"], &[]);
    for (client, json) in [
        (
            &rows,
            r#"{"type":"subscribe","channel":"org:acme","events":["changes"]}"#,
        ),
        (
            &only,
            r#"{"type":"subscribe","channel":"org:acme","events":["broadcasts"]}"#,
        ),
        (
            &both,
            r#"{"type":"subscribe","channel":"org:acme","tables":[{"table":"tasks","filter":{"column":"id","op":"gt","value":5}}]}"#,
        ),
    ] {
        hub.subscribe(&client.connection, wanted(json)).unwrap();
        client.socket.frames();
    }
    let mut last = said(org("acme"), at(1, 3), "end");
    last.last = true;
    hub.publish(batch(vec![
        HubOp::Event(said(org("acme"), at(1, 0), "begin").into()),
        HubOp::Event(event("acme", at(1, 1), 1).into()),
        HubOp::Event(event("acme", at(1, 2), 9).into()),
        HubOp::Event(last.into()),
        commit(1),
    ]));
    let (begin, end) = ("begin 1 on org:acme", "end 1 on org:acme!");
    let [one, nine] = ["INSERT 1 on org:acme", "INSERT 9 on org:acme"];
    assert_eq!(anna.told(), [begin, one, nine, end]);
    assert_eq!(rows.told(), [one, nine, "commit org:acme"]);
    assert_eq!(only.told(), [begin, end]);
    assert_eq!(both.told(), [begin, nine, end]);
}

#[test]
fn who_comes_back_is_told_the_messages_of_his_channels_and_no_others() {
    let hub = hub();
    hub.publish(batch(vec![rule(
        "room:*",
        Who::Public,
        Scope::Organization,
    )]));
    let anna = Client::member(&hub, "anna", &["acme"], &[]);
    let mut ops = alone(org("acme"), 1, "start");
    for lsn in 2..6 {
        ops.extend(alone(channel(Some("acme"), "room:1"), lsn * 10, "one"));
        ops.extend(alone(channel(Some("acme"), "room:2"), lsn * 10 + 1, "two"));
        ops.extend(alone(Topic::User("anna".into()), lsn * 10 + 2, "her"));
        ops.extend(alone(Topic::User("bert".into()), lsn * 10 + 3, "his"));
        ops.extend(alone(org("acme"), lsn * 10 + 4, "all"));
    }
    hub.publish(batch(ops));
    let told_since = |name: &str, lsn| {
        let mut subscription = in_org(name, "acme");
        subscription.cursor = Some(at(lsn, 0));
        hub.subscribe(&anna.connection, subscription).unwrap();
        hub.replay(&anna.connection);
        let told = anna.told().into_iter();
        let events = told.filter(|told| told.contains(" on "));
        events.collect::<Vec<String>>()
    };
    assert_eq!(
        told_since("room:1", 30),
        ["one 40 on room:1!", "one 50 on room:1!"]
    );
    assert_eq!(told_since("room:2", 51), Vec::<String>::new());
    assert_eq!(
        told_since("user:anna", 40),
        ["her 42 on user:anna", "her 52 on user:anna"]
    );
    assert_eq!(
        told_since("org:acme", 42),
        ["all 44 on org:acme!", "all 54 on org:acme!"]
    );
}
