//! Sockets that take little, and what is bounded.

use proptest::prelude::*;
use rowcast_hub::{HubLimits, Identity};
use rowcast_model::HubOp;
use rowcast_wire::{CloseCode, server};

use crate::support::*;

fn events(lsn: u64, count: u32) -> Vec<HubOp> {
    let each = (0..count).map(|i| HubOp::from(event("acme", at(lsn, i), i)));
    each.chain([commit(lsn)]).collect()
}

/// Promise 11: one slow socket harms only itself.
#[test]
fn a_slow_socket_is_closed_and_another_goes_on() {
    let hub = hub_with(HubLimits {
        outbox_bytes: 10_000,
        ..Default::default()
    });
    let slow = Client::member(&hub, "anna", &["acme"], &["org:acme"]);
    let quick = Client::member(&hub, "bert", &["acme"], &["org:acme"]);
    *slow.socket.room.lock().unwrap() = 100;
    for lsn in 1..100 {
        hub.publish(batch(events(lsn, 5)));
    }
    assert_eq!(slow.connection.closed(), Some(CloseCode::Slow));
    let before = slow.socket.raw().len();
    *slow.socket.room.lock().unwrap() = usize::MAX;
    assert!(slow.connection.drain());
    let kept = slow.socket.raw().len() - before;
    assert!(
        kept < 500,
        "only the rest of a frame that has begun is kept for it, not {kept} bytes"
    );
    slow.socket.frames();
    assert!(
        slow.socket.raw().is_empty(),
        "a close frame can follow, as the last frame is whole"
    );
    assert_eq!(slow.connection.work().close, Some(CloseCode::Slow));
    assert_eq!(quick.told().len(), 99 * 6);
    assert!(!slow.connection.send(server::ping()));
}

#[test]
fn all_queues_together_are_bounded() {
    let hub = hub_with(HubLimits {
        outbox_bytes: 100_000,
        total_outbox_bytes: 150_000,
        ..Default::default()
    });
    let clients: Vec<Client> = (0..4)
        .map(|_| Client::member(&hub, "anna", &["acme"], &["org:acme"]))
        .collect();
    for client in &clients {
        *client.socket.room.lock().unwrap() = 0;
    }
    for lsn in 1..60 {
        hub.publish(batch(events(lsn, 5)));
    }
    let slow = |client: &&Client| client.connection.closed().is_some();
    assert!(clients.iter().filter(slow).count() >= 2);
    // What the closed ones held is free again.
    for client in &clients {
        hub.disconnect(&client.connection);
    }
    let fresh = Client::member(&hub, "anna", &["acme"], &["org:acme"]);
    *fresh.socket.room.lock().unwrap() = 0;
    hub.publish(batch(events(100, 100)));
    assert_eq!(fresh.connection.closed(), None);
    assert!(hub.queued_bytes() > 20_000);
}

/// Who stalls cannot use everything up: something is left for those who are only a moment late.
#[test]
fn when_little_is_left_the_longest_queues_end_first() {
    let hub = hub_with(HubLimits {
        outbox_bytes: 100_000,
        total_outbox_bytes: 100_000,
        ..Default::default()
    });
    let stalled: Vec<Client> = (0..20)
        .map(|_| Client::member(&hub, "anna", &["acme"], &["org:acme"]))
        .collect();
    for client in &stalled {
        *client.socket.room.lock().unwrap() = 0;
    }
    let closed = || {
        let closed = |client: &&Client| client.connection.closed().is_some();
        stalled.iter().filter(closed).count()
    };
    let mut lsn = 1;
    while closed() == 0 {
        hub.publish(batch(events(lsn, 1)));
        lsn += 1;
        assert!(hub.queued_bytes() < 90_000, "{}", hub.queued_bytes());
    }
    let late = Client::member(&hub, "bert", &["acme"], &["org:acme"]);
    *late.socket.room.lock().unwrap() = 0;
    for lsn in lsn..lsn + 5 {
        hub.publish(batch(events(lsn, 1)));
    }
    assert_eq!(late.connection.closed(), None);
    assert!(closed() > 0);
}

/// Whatever nothing waits before is taken, or whoever is to get it would be closed again and again.
#[test]
fn a_frame_larger_than_a_queue_may_be_arrives_alone() {
    let hub = hub_with(HubLimits {
        outbox_bytes: 10_000,
        ..Default::default()
    });
    hub.publish(batch(vec![HubOp::LogBegins {
        floor: at(1, 0),
        target: at(1, 0),
    }]));
    let mut large = event("acme", at(3, 0), 7);
    large.record_id = Some("x".repeat(50_000).into());
    let subscription = rowcast_hub::Subscription {
        forms: rowcast_wire::Forms {
            changes: false,
            invalidations: true,
        },
        cursor: Some(at(2, 0)),
        ..to("org:acme")
    };
    let anna = Client::member(&hub, "anna", &["acme"], &[]);
    hub.publish(batch(vec![HubOp::Event(large.into()), commit(3)]));
    for lsn in 4..7 {
        hub.publish(single("acme", lsn, lsn as u32));
    }
    *anna.socket.room.lock().unwrap() = 0;
    hub.subscribe(&anna.connection, subscription).unwrap();
    for _ in 0..5_000 {
        if anna.connection.work().replay {
            assert!(hub.replay(&anna.connection));
        }
        *anna.socket.room.lock().unwrap() += 100;
        anna.connection.drain();
    }
    assert_eq!(anna.connection.closed(), None);
    let told = anna.told();
    // The reply, the events, and where it is; the large one is the last of its transaction only later.
    let events = told.iter().filter(|frame| frame.contains("org:acme"));
    assert!(events.count() >= 5, "{}", told.len());
    assert!(told.iter().any(|frame| frame.contains("position")));
}

#[test]
fn a_reply_waits_its_turn() {
    let hub = hub();
    let anna = Client::member(&hub, "anna", &["acme"], &["org:acme"]);
    *anna.socket.room.lock().unwrap() = 50;
    hub.publish(batch(events(1, 2)));
    anna.connection.send(server::pong(None));
    assert!(anna.told().is_empty());
    assert!(anna.connection.work().writable);
    *anna.socket.room.lock().unwrap() = usize::MAX;
    assert!(anna.connection.drain());
    assert_eq!(
        anna.told(),
        [
            "INSERT 0 on org:acme",
            "INSERT 1 on org:acme",
            "commit org:acme",
            "pong "
        ]
    );
    assert_eq!(anna.connection.work(), Default::default());
}

#[test]
fn the_gateway_task_is_woken_once_there_is_work() {
    let hub = hub();
    let anna = Client::member(&hub, "anna", &["acme"], &["org:acme"]);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    *anna.socket.room.lock().unwrap() = 0;
    hub.publish(batch(events(1, 1)));
    runtime.block_on(anna.connection.woken());
    assert!(anna.connection.work().writable);
    anna.connection.close(CloseCode::Restarting);
    runtime.block_on(anna.connection.woken());
    assert_eq!(anna.connection.work().close, Some(CloseCode::Restarting));
    // A farewell that was queued before the close still goes out.
    *anna.socket.room.lock().unwrap() = usize::MAX;
    assert!(anna.connection.drain());
    assert_eq!(anna.told().len(), 2);
}

#[test]
fn a_connection_is_small() {
    assert!(size_of::<rowcast_hub::Connection>() <= 256);
    assert!(size_of::<Identity>() <= 64);
}

proptest! {
    /// Whatever a socket takes at a time, its bytes are those of a socket that takes everything.
    #[test]
    fn partial_writes_lose_and_repeat_nothing(
        steps in prop::collection::vec((1_u32..40, 0_usize..9_000, any::<bool>()), 1..20),
    ) {
        let hub = hub();
        let whole = Client::member(&hub, "anna", &["acme"], &["org:acme"]);
        let partial = Client::member(&hub, "anna", &["acme"], &["org:acme"]);
        *partial.socket.room.lock().unwrap() = 0;
        for ((count, room, drain), lsn) in steps.into_iter().zip(1..) {
            *partial.socket.room.lock().unwrap() += room;
            hub.publish(batch(events(lsn, count)));
            if drain {
                partial.connection.drain();
            }
        }
        *partial.socket.room.lock().unwrap() = usize::MAX;
        prop_assert!(partial.connection.drain());
        prop_assert_eq!(partial.socket.raw(), whole.socket.raw());
    }
}
