//! Coming back from before the past in memory: what is asked for, who is told what of the answers, and
//! that nothing falls between them and the past.

use std::sync::Arc;

use rowcast_hub::{Hub, HubLimits, Identity};
use rowcast_model::{
    Audience, Body, Changed, Cursor, Epoch, HubOp, Lsn, Operation, Recovery, RecoveryWanted,
    RoutedEvent, Sample, Samples,
};
use serde_json::Value;

use crate::{
    replay::{end, from},
    support::*,
};

/// A hub that remembers hardly anything, and may ask.
fn hub() -> Hub {
    let hub = hub_with(HubLimits {
        history_organization_bytes: 2000,
        recovery_bytes: 1 << 20,
        ..HubLimits::default()
    });
    hub.publish(batch(vec![HubOp::LogBegins {
        floor: at(5, 0),
        target: at(5, 0),
    }]));
    for lsn in (10..=100).step_by(10) {
        hub.publish(single("acme", lsn, lsn as u32));
    }
    hub
}

/// What is asked for at this moment, if anything.
fn asked(hub: &Hub) -> Option<RecoveryWanted> {
    let mut asking = std::pin::pin!(hub.recovery_wanted());
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match asking.as_mut().poll(&mut context) {
        std::task::Poll::Ready(wanted) => Some(wanted),
        std::task::Poll::Pending => None,
    }
}

/// Of a record of `acme`, for everybody; `newest` is also a place in the log here.
fn changed(id: &str, newest: u64) -> Changed {
    let event = RoutedEvent {
        record_id: Some(id.into()),
        op: Operation::Update,
        body: Body::Invalidate,
        ..event("acme", at(0, 0), 0)
    };
    Changed {
        newest,
        personal: false,
        event,
    }
}

fn only(roles: &[&str], user: Option<&str>, changed: Changed) -> Changed {
    let audience = Audience {
        required_roles: roles.iter().map(|role| (*role).into()).collect(),
        user: user.map(Into::into),
        masked: None,
    };
    let event = RoutedEvent {
        audience,
        ..changed.event
    };
    Changed { event, ..changed }
}

fn answer(wanted: &RecoveryWanted, changed: Vec<Changed>) -> Recovery {
    let samples = (1..20).map(|n| Sample {
        lsn: Lsn(n * 10),
        horizon: n * 10,
    });
    let (organization, lsn) = wanted.organizations[0].clone();
    Recovery {
        organization,
        from: lsn,
        upto: wanted.upto,
        samples: Arc::new(Samples::new(samples.collect())),
        changed,
        bytes: 100,
    }
}

/// Everything that comes, as `tell`, with records instead of channels.
fn told(hub: &Hub, client: &Client) -> Vec<String> {
    let mut turns = 0;
    while client.connection.work().replay {
        hub.replay(&client.connection);
        turns += 1;
        assert!(turns < 1000, "it never ends");
    }
    let frames = client.socket.frames();
    frames.iter().map(say).collect()
}

fn say(frame: &Value) -> String {
    match (frame["type"].as_str().unwrap(), frame["recordId"].as_str()) {
        ("invalidate", record) => format!("invalidate {}", record.unwrap_or("-")),
        ("postgres_changes", _) => format!("row {}", frame["new"]["id"]),
        ("resync", _) => format!("resync {}", frame["reason"].as_str().unwrap()),
        (kind, _) => kind.to_owned(),
    }
}

#[test]
fn what_changed_comes_before_the_past_and_that_before_what_is_new() {
    let hub = hub();
    let anna = Client::member(&hub, "anna", &["acme"], &[]);
    let reply = hub
        .subscribe(&anna.connection, from(to("org:acme"), end(25)))
        .unwrap();
    assert_eq!((reply.cursor, reply.resync), (end(25), None));
    // It waits for the answer: nothing is told, and nobody is asked to go on.
    hub.publish(single("acme", 110, 110));
    hub.tell_position(&anna.connection);
    assert_eq!(told(&hub, &anna), ["subscribed"]);
    let wanted = asked(&hub).unwrap();
    assert_eq!(wanted.upto, end(110));
    assert_eq!(wanted.organizations, [("acme".into(), Lsn(25))]);
    assert!(asked(&hub).is_none());
    hub.publish(single("acme", 120, 120));
    let some = vec![changed("known", 19), changed("30", 30), changed("50", 50)];
    hub.recover(vec![answer(&wanted, some)]);
    while anna.connection.work().replay {
        hub.replay(&anna.connection);
    }
    hub.publish(single("acme", 130, 130));
    let frames = anna.socket.frames();
    let words: Vec<String> = frames.iter().map(say).collect();
    let recovered = words.iter().position(|word| word == "recovered").unwrap();
    assert_eq!(words[..recovered], ["invalidate 30", "invalidate 50"]);
    // Whoever keeps the cursor of an invalidation comes back for all of them.
    assert!(
        frames[..recovered]
            .iter()
            .all(|frame| frame["cursor"] == end(25).to_string())
    );
    assert_eq!(frames[recovered]["as"], "invalidations");
    let floor: Cursor = frames[recovered]["cursor"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap();
    // Rows from where the past in memory begins, without a gap, to what is new.
    let first = floor.commit_lsn.0 + 10;
    let mut rows: Vec<String> = (first..=120)
        .step_by(10)
        .map(|n| format!("row {n}"))
        .collect();
    assert!(rows.len() >= 2, "{words:?}");
    rows.extend(["position".into(), "row 130".into()]);
    assert_eq!(words[recovered + 1..], rows);
}

#[test]
fn all_who_come_back_share_one_answer() {
    let hub = hub();
    let clients: Vec<Client> = (0..50)
        .map(|n| Client::member(&hub, &format!("u{n}"), &["acme"], &[]))
        .collect();
    for (n, client) in clients[..40].iter().enumerate() {
        let lsn = 30 + n as u64 % 3;
        hub.subscribe(&client.connection, from(to("org:acme"), end(lsn)))
            .unwrap();
    }
    let wanted = asked(&hub).unwrap();
    assert_eq!(wanted.organizations, [("acme".into(), Lsn(30))]);
    // Some come while it is asked, and need no more than was asked for.
    for client in &clients[40..45] {
        hub.subscribe(&client.connection, from(to("org:acme"), end(40)))
            .unwrap();
    }
    assert!(asked(&hub).is_none());
    hub.recover(vec![answer(
        &wanted,
        vec![changed("a", 35), changed("b", 45)],
    )]);
    // And some after that.
    for client in &clients[45..49] {
        hub.subscribe(&client.connection, from(to("org:acme"), end(35)))
            .unwrap();
    }
    for (n, client) in clients[..49].iter().enumerate() {
        let words = told(&hub, client);
        let expected: &[&str] = match n {
            40..45 => &["invalidate b", "recovered"],
            _ => &["invalidate a", "invalidate b", "recovered"],
        };
        assert_eq!(words[1..=expected.len()], *expected, "{n}");
    }
    // Somebody from farther behind needs another answer.
    let last = &clients[49].connection;
    hub.subscribe(last, from(to("org:acme"), end(20))).unwrap();
    assert_eq!(
        asked(&hub).unwrap().organizations,
        [("acme".into(), Lsn(20))]
    );
}

#[test]
fn who_cannot_be_answered_is_told_to_read_again() {
    let hub = hub();
    let anna = Client::member(&hub, "anna", &["acme"], &[]);
    let come_back = |lsn| {
        let wanted = from(to("org:acme"), end(lsn));
        hub.subscribe(&anna.connection, wanted).unwrap();
        asked(&hub).unwrap()
    };
    // No answer.
    come_back(20);
    hub.recover(Vec::new());
    assert_eq!(told(&hub, &anna), ["subscribed", "resync too_old"]);
    hub.publish(single("acme", 110, 110));
    assert_eq!(told(&hub, &anna), ["row 110"]);
    // No sample that reaches so far back.
    let wanted = come_back(7);
    hub.recover(vec![answer(&wanted, vec![changed("a", 50)])]);
    assert_eq!(told(&hub, &anna), ["subscribed", "resync too_old"]);
    // The past was forgotten faster than the answer came; the one from before serves no more either.
    let forget = |lsns| {
        for lsn in lsns {
            hub.publish(single("acme", lsn, lsn as u32));
        }
        told(&hub, &anna);
    };
    forget(111..120);
    let wanted = come_back(20);
    forget(120..130);
    hub.recover(vec![answer(&wanted, vec![changed("a", 50)])]);
    assert_eq!(told(&hub, &anna), ["resync slow", "position"]);
    // Positions mean something else meanwhile.
    let wanted = come_back(20);
    hub.publish(batch(vec![HubOp::LogBegins {
        floor: Cursor::after_commit(Epoch(2), Lsn(5)),
        target: Cursor::after_commit(Epoch(2), Lsn(5)),
    }]));
    hub.recover(vec![answer(&wanted, vec![changed("a", 50)])]);
    assert_eq!(told(&hub, &anna), ["subscribed", "resync epoch_changed"]);
    // Where nobody answers, it is said at once.
    let hub = hub_with(HubLimits {
        history_bytes: 0,
        ..HubLimits::default()
    });
    hub.publish(single("acme", 10, 10));
    hub.publish(single("acme", 20, 20));
    let bert = Client::member(&hub, "bert", &["acme"], &[]);
    let reply = hub.subscribe(&bert.connection, from(to("org:acme"), end(10)));
    assert_eq!(reply.unwrap().resync, Some("too_old"));
}

#[test]
fn nobody_is_told_of_what_he_may_not_see() {
    let hub = hub();
    let anna = Client::member(&hub, "anna", &["acme"], &[]);
    hub.publish(batch(vec![member("boss", "acme", Some("admin"))]));
    let boss = Client::new(&hub, Identity::session("boss"));
    let some = || {
        vec![
            changed("everybodys", 41),
            only(&["admin"], None, changed("admins", 42)),
            only(&[], Some("anna"), changed("annas", 43)),
            only(&["admin"], Some("anna"), changed("annas as admin", 44)),
            Changed {
                personal: true,
                ..only(&["member"], None, changed("somebodys", 45))
            },
        ]
    };
    let see = |client: &Client, channels: &[&str]| {
        client.socket.frames();
        for channel in channels {
            hub.subscribe(&client.connection, from(to(channel), end(40)))
                .unwrap();
        }
        if let Some(wanted) = asked(&hub) {
            hub.recover(vec![answer(&wanted, some())]);
        }
        let mut words = told(&hub, client);
        words.retain(|word| word.starts_with("invalidate"));
        words
    };
    assert_eq!(
        see(&anna, &["org:acme"]),
        [
            "invalidate everybodys",
            "invalidate annas",
            "invalidate somebodys"
        ]
    );
    assert_eq!(
        see(&boss, &["org:acme"]),
        ["invalidate everybodys", "invalidate admins"]
    );
    // A person's own channel has what is hers alone, once, and what may be hers.
    let again = Client::new(&hub, Identity::session("anna"));
    assert_eq!(
        see(&again, &["user:anna"]),
        ["invalidate annas", "invalidate somebodys"]
    );
    let both = Client::new(&hub, Identity::session("anna"));
    assert_eq!(
        see(&both, &["org:acme", "user:anna"]),
        [
            "invalidate everybodys",
            "invalidate annas",
            "invalidate somebodys"
        ]
    );
    // Tables that were chosen.
    let chosen = Client::new(&hub, Identity::session("anna"));
    let other = wanted(
        r#"{"type":"subscribe","channel":"org:acme","tables":[{"table":"orders"}],"cursor":"00000001-28-z"}"#,
    );
    hub.subscribe(&chosen.connection, other).unwrap();
    let words = told(&hub, &chosen);
    assert!(
        !words.iter().any(|word| word.starts_with("invalidate")),
        "{words:?}"
    );
    assert!(words.contains(&"recovered".to_owned()));
}

/// A socket that takes little at a time is told all of it, part by part.
#[test]
fn a_long_answer_is_told_part_by_part() {
    let hub = hub_with(HubLimits {
        history_organization_bytes: 600,
        recovery_bytes: 1 << 20,
        replay_bytes: 300,
        ..HubLimits::default()
    });
    hub.publish(batch(vec![HubOp::LogBegins {
        floor: at(5, 0),
        target: at(5, 0),
    }]));
    for lsn in 10..20 {
        hub.publish(single("acme", lsn, lsn as u32));
    }
    let anna = Client::member(&hub, "anna", &["acme"], &[]);
    hub.subscribe(&anna.connection, from(to("org:acme"), end(10)))
        .unwrap();
    let wanted = asked(&hub).unwrap();
    let many = (0..500).map(|n| changed(&n.to_string(), 20 + n));
    hub.recover(vec![answer(&wanted, many.collect())]);
    let words = told(&hub, &anna);
    let expected = (0..500).map(|n| format!("invalidate {n}"));
    assert!(words[1..=500].iter().cloned().eq(expected));
    assert_eq!(words[501], "recovered");
}
