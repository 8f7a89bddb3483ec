//! Positions: what the reply to a subscribe promises, and what a cursor is worth.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
};

use rowcast_model::{Cursor, Epoch, HubOp, Lsn};
use rowcast_wire::CloseCode;

use crate::support::*;

fn lsn_of(cursor: &serde_json::Value) -> u64 {
    let cursor: Cursor = cursor.as_str().unwrap().parse().unwrap();
    cursor.commit_lsn.0
}

/// Promise 4: while somebody publishes, subscribers come and go; each gets everything after the cursor
/// of its reply, in order, and nothing up to it after the reply.
#[test]
fn subscribed_means_positioned() {
    let hub = Arc::new(hub());
    hub.publish(batch(vec![
        member("anna", "acme", Some("member")),
        HubOp::Position(at(0, 0)),
    ]));
    let stop = Arc::new(AtomicBool::new(false));
    let published = Arc::new(AtomicU64::new(0));
    let publisher = thread::spawn({
        let (hub, stop, published) = (hub.clone(), stop.clone(), published.clone());
        move || {
            let mut lsn = 0;
            while !stop.load(Ordering::Relaxed) {
                let mut ops = Vec::new();
                for _ in 0..(lsn % 5 + 1) {
                    lsn += 1;
                    ops.extend(single("acme", lsn, 1).ops);
                }
                hub.publish(batch(ops));
                published.store(lsn, Ordering::Release);
            }
            lsn
        }
    });
    let subscribers: Vec<_> = (0..3)
        .map(|_| {
            let hub = hub.clone();
            let published = published.clone();
            thread::spawn(move || {
                let channel = "org:acme".parse().unwrap();
                let client = Client::new(&hub, rowcast_hub::Identity::session("anna"));
                let mut frames = Vec::new();
                for _ in 0..300 {
                    let reply = hub.subscribe(&client.connection, to("org:acme")).unwrap();
                    // Written after the reply: it must arrive.
                    let until = published.load(Ordering::Acquire) + 3;
                    while published.load(Ordering::Acquire) < until {
                        thread::yield_now();
                    }
                    hub.unsubscribe(&client.connection, &channel, Some(reply.generation), None)
                        .unwrap();
                    frames.push((reply.cursor.commit_lsn.0, until));
                }
                (client, frames)
            })
        })
        .collect();
    let clients: Vec<_> = subscribers.into_iter().map(|t| t.join().unwrap()).collect();
    stop.store(true, Ordering::Relaxed);
    publisher.join().unwrap();
    for (client, sessions) in clients {
        let mut sessions = sessions.into_iter();
        let mut session = None;
        let mut next = 0;
        for frame in client.socket.frames() {
            match frame["type"].as_str().unwrap() {
                "subscribed" => {
                    session = sessions.next();
                    next = lsn_of(&frame["cursor"]) + 1;
                    assert_eq!(session.map(|(cursor, _)| cursor + 1), Some(next));
                }
                "postgres_changes" => {
                    assert!(
                        session.is_some(),
                        "an event after the end of its subscription"
                    );
                    assert_eq!(lsn_of(&frame["cursor"]), next);
                    next += 1;
                }
                "unsubscribed" => {
                    let (_, until) = session.take().unwrap();
                    // The batch with `until` was published before the end was asked for.
                    assert!(next > until, "{next} {until}");
                }
                other => panic!("{other}"),
            }
        }
        assert_eq!(sessions.next(), None);
        assert_eq!(client.connection.closed(), None::<CloseCode>);
    }
}

#[test]
fn a_cursor_is_gone_on_from_or_a_resync_is_told() {
    let hub = hub();
    hub.publish(batch(vec![HubOp::Position(at(10, 0))]));
    let anna = Client::member(&hub, "anna", &["acme", "other"], &[]);
    hub.publish(single("other", 20, 1));
    hub.publish(single("acme", 30, 1));
    let subscribe = |channel: &str, cursor: Cursor| {
        let mut wanted = to(channel);
        wanted.cursor = Some(cursor);
        let reply = hub.subscribe(&anna.connection, wanted).unwrap();
        let told = anna.told();
        assert_eq!(told.len(), 1 + usize::from(reply.resync.is_some()));
        reply.resync
    };
    let end = |lsn| Cursor::after_commit(Epoch(1), rowcast_model::Lsn(lsn));
    assert_eq!(subscribe("org:other", end(20)), None);
    assert_eq!(subscribe("org:other", at(30, u32::MAX)), None);
    assert_eq!(subscribe("org:other", at(10, 0)), None);
    assert_eq!(subscribe("org:acme", end(20)), None);
    assert_eq!(subscribe("org:acme", end(9)), Some("too_old"));
    assert_eq!(subscribe("user:anna", end(9)), Some("too_old"));
    let other = Cursor {
        epoch: Epoch(2),
        ..at(30, u32::MAX)
    };
    assert_eq!(subscribe("org:acme", other), Some("epoch_changed"));
    assert_eq!(hub.position(), at(30, u32::MAX));
}

#[test]
fn after_a_restart_what_was_seen_does_not_come_again() {
    let hub = hub();
    hub.publish(batch(vec![HubOp::Position(at(10, 0))]));
    let anna = Client::member(&hub, "anna", &["acme"], &[]);
    let mut wanted = to("org:acme");
    wanted.cursor = Some(at(20, 0));
    let reply = hub.subscribe(&anna.connection, wanted).unwrap();
    assert_eq!((reply.cursor, reply.resync), (at(20, 0), None));
    for lsn in [15, 20, 25] {
        hub.publish(single("acme", lsn, lsn as u32));
    }
    assert_eq!(
        anna.told(),
        ["subscribed org:acme", "INSERT 25 on org:acme!"]
    );
}

#[test]
fn a_new_epoch_is_told_to_everybody() {
    let hub = hub();
    let anna = Client::member(&hub, "anna", &["acme"], &["org:acme", "user:anna"]);
    hub.publish(single("acme", 30, 1));
    anna.told();
    hub.publish(batch(vec![HubOp::NewEpoch {
        epoch: Epoch(2),
        reason: "slot_recreated".into(),
    }]));
    // Said when there is a position to come back with.
    hub.tell_position(&anna.connection);
    assert_eq!(anna.told(), Vec::<String>::new());
    let begin = |lsn| Cursor::after_commit(Epoch(2), Lsn(lsn));
    hub.publish(batch(vec![HubOp::LogBegins {
        floor: begin(7),
        target: begin(9),
    }]));
    let frames = anna.socket.frames();
    assert_eq!(frames.len(), 2);
    assert_eq!(frames[0]["type"], "resync");
    assert_eq!(frames[0]["reason"], "epoch_changed");
    assert_eq!(frames[0]["cursor"], begin(7).to_string());
    assert_eq!(hub.position().epoch, Epoch(2));
    let mut wanted = to("org:acme");
    wanted.cursor = Some(begin(7));
    let reply = hub.subscribe(&anna.connection, wanted).unwrap();
    assert_eq!(reply.resync, None);
    let mut wanted = to("org:acme");
    wanted.cursor = Some(at(30, 0));
    let reply = hub.subscribe(&anna.connection, wanted).unwrap();
    assert_eq!(reply.resync, Some("epoch_changed"));
}

/// The same numbering, but somebody else has read in between: the past begins anew.
#[test]
fn a_log_that_begins_later_has_no_older_past() {
    let hub = hub();
    let anna = Client::member(&hub, "anna", &["acme"], &["org:acme"]);
    hub.publish(single("acme", 30, 1));
    hub.publish(batch(vec![
        HubOp::NewEpoch {
            epoch: Epoch(1),
            reason: "another process has read".into(),
        },
        HubOp::LogBegins {
            floor: at(50, u32::MAX),
            target: at(60, u32::MAX),
        },
    ]));
    let resync = |cursor| {
        let mut wanted = to("org:acme");
        wanted.cursor = Some(cursor);
        hub.subscribe(&anna.connection, wanted).unwrap().resync
    };
    assert_eq!(resync(at(30, u32::MAX)), Some("too_old"));
    assert_eq!(resync(at(50, u32::MAX)), None);
}

#[test]
fn forgetting_organizations_distrusts_old_cursors() {
    let hub = hub_with(rowcast_hub::HubLimits {
        remembered_organizations: 4,
        history_bytes: 0,
        ..Default::default()
    });
    hub.publish(batch(vec![HubOp::Position(at(1, 0))]));
    let anna = Client::member(&hub, "anna", &["org9"], &[]);
    hub.publish(single("org9", 2, 1));
    for lsn in 3..10 {
        hub.publish(single(&format!("org{lsn}"), lsn, 1));
    }
    let mut wanted = to("org:org9");
    wanted.cursor = Some(at(1, 0));
    let reply = hub.subscribe(&anna.connection, wanted).unwrap();
    assert_eq!(reply.resync, Some("too_old"));
}
