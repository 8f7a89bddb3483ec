//! Channels of which the application says who may be on them: who comes in, who stays, who is taken off, and that
//! nobody who may stay loses anything.

use std::sync::Arc;

use proptest::prelude::*;
use rowcast_hub::{Asked, Auth, Hub, HubError, HubLimits, Identity, ShownGrant, Subscription};
use rowcast_model::{
    AskError, Audience, Authorizer, ChannelChange, ChannelRule, Cursor, Handler, HubOp, Message,
    Refusal, Revocation, RoutedEvent, Scope, Timestamp, Topic, Who,
};
use serde_json::{Value, json, value::RawValue};

use crate::support::*;

const ROOM: &str = "room:1";

fn rule(handler: Option<&str>, grants: bool) -> HubOp {
    let pattern = "room:{roomId}";
    HubOp::Channel(ChannelChange {
        pattern: pattern.into(),
        now: Some(Arc::new(ChannelRule {
            pattern: pattern.parse().unwrap(),
            parameters: [rowcast_model::ParameterKind::Int].into_iter().collect(),
            who: Who::Authorized(Arc::new(Authorizer {
                handler: handler.map(|name| Handler::Webhook(name.into())),
                ttl_seconds: 300,
                grants,
            })),
            scope: Scope::Organization,
            relay: true,
            presence: true,
            events: None,
        })),
    })
}

fn room() -> Topic {
    Topic::Channel(Some("acme".into()), ROOM.into())
}

fn said(lsn: u64, index: u32, last: bool) -> HubOp {
    let payload = format!("{lsn}{index}").into_bytes();
    let message = Arc::new(Message::broadcast("e", payload.into()));
    let (audience, time) = (Audience::default(), Timestamp(0));
    let mut event = RoutedEvent::message(at(lsn, index), time, room(), audience, message);
    event.last = last;
    HubOp::Event(event.into())
}

fn alone(lsn: u64) -> Vec<HubOp> {
    vec![said(lsn, 0, true), commit(lsn)]
}

fn revoke(epoch: Option<i64>) -> HubOp {
    HubOp::Revoke(Revocation {
        organization: Some("acme".into()),
        channel: ROOM.into(),
        epoch,
        reason: Some("membership_changed".into()),
    })
}

fn person(hub: &Hub, user: &str) -> Client {
    hub.publish(batch(vec![member(user, "acme", Some("member"))]));
    let claims = RawValue::from_string(json!({"sub": user}).to_string()).unwrap();
    let identity = Identity {
        user: user.into(),
        auth: Auth::Session {
            granted: Arc::new([]),
        },
        claims: hub.keep_claims(claims),
    };
    Client::new(hub, identity)
}

fn wish(cursor: Option<Cursor>) -> Subscription {
    Subscription {
        organization: Some("acme".into()),
        cursor,
        ..to(ROOM)
    }
}

fn ask(hub: &Hub) -> Vec<Asked> {
    hub.questions(100).0
}

fn answer(hub: &Hub, asked: &Asked, answer: Value) {
    let answer = RawValue::from_string(answer.to_string()).unwrap();
    hub.answered(asked.ticket, Ok(&answer));
}

/// Lets somebody in.
fn enter(hub: &Hub, client: &Client, epoch: i64) {
    hub.request(&client.connection, wish(None), None).unwrap();
    for asked in ask(hub) {
        answer(hub, &asked, json!({"ttlSeconds": 300, "epoch": epoch}));
    }
    let told = client.told();
    assert_eq!(told, ["subscribed room:1"]);
}

#[test]
fn g21_g24_the_application_is_asked_with_the_identity_of_the_socket() {
    let hub = hub();
    hub.publish(batch(vec![rule(Some("rooms"), false)]));
    let anna = person(&hub, "anna");
    hub.request(&anna.connection, wish(None), None).unwrap();
    assert!(anna.told().is_empty(), "nothing before the answer");
    let asked = ask(&hub);
    assert_eq!(asked.len(), 1);
    let question = &asked[0].question;
    assert_eq!(question.handler, Handler::Webhook("rooms".into()));
    assert_eq!(&*question.channel, ROOM);
    assert_eq!(
        Value::from(question.arguments.clone()),
        json!({"roomId": 1})
    );
    assert_eq!(question.input.get(), r#"{"reason":"subscribe"}"#);
    let caller = serde_json::to_value(&question.caller).unwrap();
    assert_eq!(
        (&caller["userId"], &caller["claims"]["sub"]),
        (&json!("anna"), &json!("anna"))
    );
    assert_eq!(caller["roles"], json!(["member"]));
    // What happens meanwhile is before the position of the reply.
    hub.publish(batch(alone(1)));
    assert!(ask(&hub).is_empty(), "asked once");
    answer(&hub, &asked[0], json!({"ttlSeconds": 300, "epoch": 1}));
    hub.publish(batch(alone(2)));
    assert_eq!(anna.told(), ["subscribed room:1", "e 20 on room:1!"]);
    // An answer counts once.
    answer(&hub, &asked[0], json!(false));
    hub.publish(batch(alone(3)));
    assert_eq!(anna.told(), ["e 30 on room:1!"]);
}

#[test]
fn x19_a_no_comes_in_the_words_of_the_application() {
    let hub = hub();
    hub.publish(batch(vec![rule(Some("rooms"), false)]));
    let anna = person(&hub, "anna");
    let refusal = AskError::Refused(Refusal::new("accessdenied", "Not a member of this room"));
    for (answer, code, reason) in [
        (Err(&refusal), 320, json!("accessdenied")),
        (Err(&AskError::Unavailable), 321, Value::Null),
        (Err(&AskError::Failed), 322, Value::Null),
        (Ok(RawValue::NULL), 320, json!("accessdenied")),
    ] {
        let mut wanted = wish(None);
        wanted.reference =
            crate::support::wanted(r#"{"type":"subscribe","channel":"a","ref":7}"#).reference;
        hub.request(&anna.connection, wanted, None).unwrap();
        hub.answered(ask(&hub)[0].ticket, answer);
        let frames = anna.socket.frames();
        assert_eq!(frames.len(), 1);
        let frame = &frames[0];
        assert_eq!(
            (&frame["code"], &frame["reason"], &frame["ref"]),
            (&json!(code), &reason, &json!(7))
        );
    }
    hub.publish(batch(alone(1)));
    assert!(anna.told().is_empty());
    // Sending wants the same.
    let relay = rowcast_hub::Relay {
        channel: ROOM.parse().unwrap(),
        organization: Some("acme".into()),
        event: "e".into(),
        payload: "1".into(),
        to_self: true,
    };
    assert_eq!(
        hub.relay(&anna.connection, &relay),
        Err(HubError::Unasked(ROOM.into()))
    );
    // Nor is there a way around the question.
    let direct = hub.subscribe(&anna.connection, wish(None));
    assert_eq!(direct, Err(HubError::Unasked(ROOM.into())));
    enter(&hub, &anna, 1);
    assert!(hub.relay(&anna.connection, &relay).is_ok());
}

#[test]
fn g28_who_may_stay_loses_nothing_and_who_may_not_gets_nothing() {
    let hub = hub();
    hub.publish(batch(vec![rule(Some("rooms"), false)]));
    let [anna, bert, carl] = ["anna", "bert", "carl"].map(|user| person(&hub, user));
    enter(&hub, &anna, 1);
    enter(&hub, &bert, 1);
    enter(&hub, &carl, 2);
    let mut ops = alone(1);
    // In the middle of a transaction.
    ops.extend([
        said(2, 0, false),
        revoke(Some(2)),
        said(2, 1, true),
        commit(2),
    ]);
    ops.extend(alone(3));
    hub.publish(batch(ops));
    assert_eq!(anna.told(), ["e 10 on room:1!", "e 20 on room:1"]);
    assert_eq!(bert.told(), ["e 10 on room:1!", "e 20 on room:1"]);
    let all = [
        "e 10 on room:1!",
        "e 20 on room:1",
        "e 21 on room:1!",
        "e 30 on room:1!",
    ];
    assert_eq!(carl.told(), all, "of the present list");
    let asked = ask(&hub);
    assert_eq!(asked.len(), 2);
    for one in &asked {
        assert_eq!(one.question.input.get(), r#"{"reason":"revoked"}"#);
        let may = one.question.caller.user_id == Some("anna".into());
        answer(
            &hub,
            one,
            json!({"allowed": may, "ttlSeconds": 300, "epoch": 2}),
        );
    }
    let frames = bert.socket.frames();
    assert_eq!(frames.len(), 1);
    assert_eq!(
        (
            &frames[0]["type"],
            &frames[0]["reason"],
            &frames[0]["epoch"]
        ),
        (
            &json!("unsubscribed"),
            &json!("membership_changed"),
            &json!(2)
        )
    );
    hub.replay(&anna.connection);
    assert_eq!(anna.told()[..2], ["e 21 on room:1!", "e 30 on room:1!"]);
    hub.publish(batch(alone(4)));
    assert_eq!(anna.told(), ["e 40 on room:1!"]);
    assert!(bert.told().is_empty());
    // Neither with a cursor.
    hub.request(&bert.connection, wish(Some(at(1, 0))), None)
        .unwrap();
    answer(&hub, &ask(&hub)[0], json!(false));
    hub.replay(&bert.connection);
    let frames = bert.socket.frames();
    assert_eq!((frames.len(), &frames[0]["code"]), (1, &json!(320)));
}

#[test]
fn g28_a_revocation_while_somebody_comes_in_or_is_renewed_has_him_asked_about_again() {
    let hub = hub();
    hub.publish(batch(vec![rule(Some("rooms"), false)]));
    let anna = person(&hub, "anna");
    hub.request(&anna.connection, wish(None), None).unwrap();
    let before = ask(&hub);
    hub.publish(batch(vec![revoke(None)]));
    // The answer is from before.
    answer(&hub, &before[0], json!(true));
    assert!(anna.told().is_empty());
    let after = ask(&hub);
    assert_eq!(after.len(), 1);
    answer(&hub, &after[0], json!(false));
    assert_eq!(anna.socket.frames()[0]["code"], 320);

    // Whoever is asked twice, and does not know yet, is asked again.
    hub.publish(batch(alone(1)));
    enter(&hub, &anna, 1);
    hub.publish(batch(vec![revoke(Some(2))]));
    let asked = ask(&hub);
    answer(&hub, &asked[0], json!({"epoch": 1}));
    hub.publish(batch(alone(2)));
    hub.replay(&anna.connection);
    assert!(anna.told().is_empty());
    let again = std::iter::repeat_with(|| ask(&hub))
        .find(|asked| !asked.is_empty())
        .unwrap();
    answer(&hub, &again[0], json!({"epoch": 2}));
    hub.replay(&anna.connection);
    assert_eq!(anna.told()[0], "e 20 on room:1!");
}

#[test]
fn g25_grants_are_for_one_channel_one_user_and_one_organization() {
    let hub = hub();
    let begins = HubOp::LogBegins {
        floor: at(1, 0),
        target: at(1, 0),
    };
    hub.publish(batch(vec![begins, commit(1), rule(None, true)]));
    let anna = person(&hub, "anna");
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_secs();
    let good = || ShownGrant {
        channel: ROOM.into(),
        user: "anna".into(),
        organization: Some("acme".into()),
        epoch: Some(1),
        issued_at: now,
        expires_at: now + 60,
    };
    let show = |grant: Option<ShownGrant>| hub.request(&anna.connection, wish(None), grant);
    assert_eq!(show(None), Err(HubError::GrantNeeded(ROOM.into())));
    let mut wrong: Vec<ShownGrant> = vec![good(); 4];
    wrong[0].channel = "room:2".into();
    wrong[1].user = "bert".into();
    wrong[2].organization = Some("other".into());
    wrong[3].organization = None;
    for grant in wrong {
        assert!(matches!(
            show(Some(grant)),
            Err(HubError::GrantOfAnother(_))
        ));
    }
    let over = ShownGrant {
        expires_at: now - 1,
        ..good()
    };
    assert_eq!(show(Some(over)), Err(HubError::GrantOver));
    assert!(anna.told().is_empty());
    show(Some(good())).unwrap();
    assert_eq!(anna.told(), ["subscribed room:1"]);
    assert!(ask(&hub).is_empty(), "there is nobody to ask");
    hub.publish(batch(vec![revoke(Some(1)), revoke(Some(2))]));
    assert_eq!(anna.told(), ["unsubscribed room:1"]);
    assert_eq!(show(Some(good())), Err(HubError::GrantOver));
    let fresh = ShownGrant {
        epoch: Some(2),
        ..good()
    };
    show(Some(fresh)).unwrap();
    assert_eq!(anna.told(), ["subscribed room:1"]);
}

#[test]
fn g28_a_paused_subscription_is_not_told_who_is_there_either() {
    let hub = hub();
    hub.publish(batch(vec![rule(Some("rooms"), false)]));
    hub.publish(batch(alone(1)));
    let [anna, bert] = ["anna", "bert"].map(|user| person(&hub, user));
    enter(&hub, &bert, 2);
    let follows = wanted(
        r#"{"type":"subscribe","channel":"room:1","organizationId":"acme","presence":true}"#,
    );
    hub.request(&anna.connection, follows, None).unwrap();
    answer(&hub, &ask(&hub)[0], json!({ "epoch": 1 }));
    // Until there is nothing to tell any more.
    let tell = || while hub.keep_presence() == rowcast_hub::PresenceWork::More {};
    tell();
    anna.told();
    let joins = |action: &str| {
        let text = format!(
            r#"{{"type":"presence","channel":"room:1","organizationId":"acme","action":"{action}"}}"#
        );
        match rowcast_wire::parse(text.as_bytes(), &rowcast_wire::Limits::default()) {
            Ok(rowcast_wire::ClientFrame::Presence(presence)) => *presence,
            other => panic!("{other:?}"),
        }
    };
    hub.publish(batch(vec![revoke(Some(2))]));
    hub.present(&bert.connection, &joins("join")).unwrap();
    let until = std::time::Instant::now() + std::time::Duration::from_secs(1);
    while std::time::Instant::now() < until {
        tell();
    }
    assert!(anna.told().is_empty());
    let refused = hub.present(&anna.connection, &joins("join"));
    assert_eq!(refused, Err(HubError::Unasked(ROOM.into())));
    answer(&hub, &ask(&hub)[0], json!({ "epoch": 2 }));
    let until = std::time::Instant::now() + std::time::Duration::from_secs(10);
    loop {
        tell();
        let frames = anna.socket.frames();
        if let Some(frame) = frames
            .iter()
            .find(|frame| frame["type"] == "presence_state")
        {
            assert!(frame.to_string().contains("bert"), "{frame}");
            break;
        }
        assert!(std::time::Instant::now() < until);
    }
}

#[test]
fn those_who_wait_are_bounded_and_leave_nothing_behind() {
    let hub = hub_with(HubLimits {
        guests: 3,
        subscriptions: 2,
        ..HubLimits::default()
    });
    hub.publish(batch(vec![rule(Some("rooms"), false)]));
    let [anna, bert] = ["anna", "bert"].map(|user| person(&hub, user));
    let request = |client: &Client| hub.request(&client.connection, wish(None), None);
    request(&anna).unwrap();
    request(&anna).unwrap();
    assert_eq!(request(&anna), Err(HubError::TooManySubscriptions(2)));
    request(&bert).unwrap();
    assert_eq!(request(&bert), Err(HubError::TooManyGuests));
    // Whoever changes his mind is not let in afterwards.
    let asked = ask(&hub);
    hub.unsubscribe(
        &anna.connection,
        &ROOM.parse().unwrap(),
        Some(&"acme".into()),
        None,
        None,
    )
    .unwrap();
    assert_eq!(anna.told(), ["unsubscribed room:1"]);
    hub.disconnect(&bert.connection);
    for one in &asked {
        answer(&hub, one, json!(true));
    }
    assert!(anna.told().is_empty() && hub.subscriptions() == 0);
    let carl = person(&hub, "carl");
    request(&carl).unwrap();
    answer(&hub, &ask(&hub)[0], json!(true));
    assert_eq!(carl.told(), ["subscribed room:1"]);
    // Who is in and asks for something else is not asked about again.
    request(&carl).unwrap();
    assert_eq!(carl.told(), ["subscribed room:1"]);
    // A rule that asks somebody else ends what the one before allowed.
    hub.publish(batch(vec![rule(Some("rooms"), false)]));
    assert!(carl.told().is_empty());
    hub.publish(batch(vec![rule(Some("others"), false)]));
    assert_eq!(carl.told(), ["unsubscribed room:1"]);
    assert!(ask(&hub).is_empty());
    assert_eq!(hub.questions(9).1, None);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Against the list of what was said: everybody has an unbroken piece of it from his first event on, nothing
    /// twice; whoever is on the channel in the end has all of it; and who was refused has nothing from behind the
    /// revocation.
    #[test]
    fn what_is_told_has_no_gap_whatever_is_revoked(
        steps in prop::collection::vec((0..6_u8, 0..3_usize, any::<bool>()), 1..60),
    ) {
        let hub = hub();
        hub.publish(batch(vec![rule(Some("rooms"), false)]));
        let clients = ["anna", "bert", "carl"].map(|user| person(&hub, user));
        let mut epoch = 0_i64;
        for client in &clients {
            enter(&hub, client, epoch);
        }
        let mut lsn = 0;
        let mut said_so_far: Vec<String> = Vec::new();
        let mut got: [Vec<String>; 3] = Default::default();
        // How much had been said when he was paused, and when he was refused.
        let mut paused: [Option<usize>; 3] = [None; 3];
        let mut ended: [Option<usize>; 3] = [None; 3];
        let mut open: Vec<Asked> = Vec::new();
        for (step, who, yes) in steps {
            match step {
                0 | 1 => {
                    lsn += 1;
                    let mut ops = vec![said(lsn, 0, false)];
                    said_so_far.push(format!("{lsn}0"));
                    if yes {
                        epoch += 1;
                        ops.push(revoke(Some(epoch)));
                        for at in &mut paused {
                            at.get_or_insert(said_so_far.len());
                        }
                    }
                    ops.extend([said(lsn, 1, true), commit(lsn)]);
                    said_so_far.push(format!("{lsn}1"));
                    hub.publish(batch(ops));
                }
                2 => open.extend(ask(&hub)),
                3 | 4 => {
                    if !open.is_empty() {
                        let asked = open.remove(who % open.len());
                        let user = asked.question.caller.user_id.as_ref().unwrap().as_str().to_owned();
                        let at = ["anna", "bert", "carl"].iter().position(|one| *one == user).unwrap();
                        let before = hub.subscriptions();
                        answer(&hub, &asked, json!({"allowed": yes, "epoch": epoch}));
                        if hub.subscriptions() < before {
                            ended[at] = Some(paused[at].unwrap_or(said_so_far.len()));
                        } else if yes && ended[at].is_none() {
                            hub.replay(&clients[at].connection);
                        }
                    }
                }
                _ => {
                    hub.replay(&clients[who].connection);
                }
            }
            for (client, got) in clients.iter().zip(&mut got) {
                for frame in client.socket.frames() {
                    if frame["type"] == "broadcast" {
                        got.push(frame["payload"].to_string());
                    }
                    prop_assert!(frame["type"] != "resync", "{frame}");
                }
            }
            for at in 0..3 {
                prop_assert!(said_so_far.starts_with(&got[at]), "{:?} {:?}", got[at], said_so_far);
                if let Some(most) = ended[at] {
                    prop_assert!(got[at].len() <= most);
                }
            }
            // Whoever has caught up is paused by the next revocation only.
            for at in 0..3 {
                if ended[at].is_none() && got[at].len() == said_so_far.len() {
                    paused[at] = None;
                }
            }
        }
        // In the end everybody who may is let on.
        for _ in 0..4 {
            open.extend(ask(&hub));
            for asked in open.drain(..) {
                answer(&hub, &asked, json!({"epoch": epoch}));
            }
        }
        for (at, client) in clients.iter().enumerate() {
            for _ in 0..3 {
                hub.replay(&client.connection);
            }
            for frame in client.socket.frames() {
                if frame["type"] == "broadcast" {
                    got[at].push(frame["payload"].to_string());
                }
            }
            if ended[at].is_none() {
                prop_assert_eq!(&got[at], &said_so_far);
            }
        }
    }
}
