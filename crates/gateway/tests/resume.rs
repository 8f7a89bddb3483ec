//! What sockets are told without asking: how far they are, whether the stream stands, when to come back;
//! and what they missed.
#![allow(clippy::unwrap_used)] // Helpers of tests are tests.

mod common;

use std::time::{Duration, Instant};

use common::*;
use rowcast_gateway::SocketLimits;
use rowcast_hub::{HubLimits, StreamState};
use rowcast_model::Timestamp;
use serde_json::json;

async fn world_of(limits: SocketLimits, hub: HubLimits) -> World {
    world_with(auth(), limits, hub, &[]).await
}

#[tokio::test]
async fn positions_are_told_again_and_again() {
    let limits = SocketLimits {
        position_interval: Duration::from_millis(100),
        ..SocketLimits::default()
    };
    let world = world_of(limits, HubLimits::default()).await;
    let mut client = world.join("ann", "acme").await;
    for record in ["a", "b", "c"] {
        world.tell("acme", record);
        let event = client.until(|frame| frame["recordId"] == record).await;
        let begin = Instant::now();
        let position = client.until(|frame| frame["type"] == "position").await;
        assert!(begin.elapsed() < Duration::from_secs(2));
        // The end of its transaction.
        let event = event["cursor"].as_str().unwrap().trim_end_matches('0');
        assert_eq!(position["cursor"], format!("{event}z"));
    }
}

#[tokio::test]
async fn who_comes_while_the_stream_stands_is_told() {
    let world = world().await;
    let mut early = world.join("ann", "acme").await;
    let stale = || StreamState::Stale {
        since: Timestamp(0),
        reason: "the database is away".into(),
    };
    world.hub.announce(stale());
    world.hub.announce(stale());
    let expected = json!({"type": "status", "state": "stale",
        "since": "1970-01-01T00:00:00.000Z", "reason": "the database is away"});
    let status = early.until(|frame| frame["type"] == "status").await;
    assert_eq!(status, expected);
    let mut late = world.dial().await;
    late.auth(&token("ann"), "acme").await;
    assert_eq!(late.next().await["type"], "auth_success");
    assert_eq!(late.next().await, expected);
    world.hub.announce(StreamState::Live);
    let live = json!({"type": "status", "state": "live"});
    // Told once: what comes next is that it is live.
    let status = early.until(|frame| frame["type"] == "status").await;
    assert_eq!(status, live);
    late.until(|frame| *frame == live).await;
}

#[tokio::test]
async fn everybody_is_told_another_time_to_come_back() {
    let limits = SocketLimits {
        goodbye_spread: Duration::from_secs(100),
        ..SocketLimits::default()
    };
    let world = world_of(limits, HubLimits::default()).await;
    let mut clients = vec![world.dial().await];
    for _ in 0..4 {
        clients.push(world.join("ann", "acme").await);
    }
    let ends = tokio::spawn(async move {
        let mut ends = Vec::new();
        for client in clients {
            ends.push(client.end().await);
        }
        ends
    });
    world.gateway.stop(Duration::from_secs(5)).await;
    let mut times = Vec::new();
    for end in ends.await.unwrap() {
        assert_eq!(end.code, Some(4000));
        let goodbye = end.frames.last().unwrap();
        assert_eq!(goodbye["type"], "goodbye");
        assert_eq!(goodbye["reason"], "restarting");
        times.push(goodbye["retryAfterMs"].as_u64().unwrap());
    }
    times.sort_unstable();
    assert!(times.iter().all(|time| *time <= 100_000), "{times:?}");
    let gaps = times.windows(2).map(|pair| pair[1] - pair[0]);
    assert!(gaps.min() > Some(1000), "{times:?}");
}

#[tokio::test]
async fn many_come_back_at_once_and_get_all_they_missed() {
    let hub = HubLimits {
        outbox_bytes: 64 << 10,
        total_outbox_bytes: 1 << 20,
        replay_bytes: 16 << 10,
        ..HubLimits::default()
    };
    let world = world_of(SocketLimits::default(), hub).await;
    let mut first = world.join("ann", "acme").await;
    world.tell("acme", "seen");
    let seen = first.until(|frame| frame["recordId"] == "seen").await;
    let padding = "x".repeat(2000);
    for n in 0..500 {
        world.tell("acme", &format!("{n} {padding}"));
    }
    let cursor = &seen["cursor"];
    let mut clients = Vec::new();
    for _ in 0..50 {
        let mut client = world.dial().await;
        let auth = json!({"type": "auth", "token": token("ann"), "organizationId": "acme", "cursor": cursor});
        client.send(auth).await;
        clients.push(client);
    }
    world.tell("acme", "new");
    for mut client in clients {
        for n in 0..500 {
            let frame = client.until(|frame| frame["type"] == "invalidate").await;
            let record = frame["recordId"].as_str().unwrap();
            assert!(record.starts_with(&format!("{n} ")), "{record}");
        }
        let frame = client.until(|frame| frame["type"] == "invalidate").await;
        assert_eq!(frame["recordId"], "new");
    }
}
