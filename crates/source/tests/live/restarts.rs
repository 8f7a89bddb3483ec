//! Streams that break, slots that vanish, consumers that sleep.

use std::time::{Duration, Instant};

use rowcast_embedded::{Cluster, StopMode};
use rowcast_model::{Lsn, SourceEvent, WalItem};
use rowcast_source::{ConnInfo, SourceConfig, SourceStatus};

use crate::{
    harness::{DEADLINE, Stream, World, cluster, row, until},
    proxy::Proxy,
};

/// The numbers that a transaction wrote into `t`.
fn numbers(items: &[WalItem]) -> Vec<i64> {
    let change = |item: &WalItem| match item {
        WalItem::Change(change) => row(change.new.as_ref().unwrap())[0].parse().unwrap(),
        other => panic!("{other:?}"),
    };
    items.iter().map(change).collect()
}

#[tokio::test]
async fn a_cut_stream_goes_on_and_does_not_repeat_what_was_acknowledged() {
    let world = World::new().await;
    world.exec("CREATE TABLE t (id int PRIMARY KEY)").await;
    let mut source = world.source();
    let (epoch, _) = source.start().await;
    world.exec("INSERT INTO t VALUES (1)").await;
    let (_, end) = source.transaction().await;
    source.ack.ack(end);
    world.exec("INSERT INTO t VALUES (2)").await;
    source.transaction().await;
    world.terminate().await;
    world.exec("INSERT INTO t VALUES (3)").await;
    assert_eq!(source.restart().await, (epoch, None));
    assert_eq!(numbers(&source.transaction().await.0), [2]);
    assert_eq!(numbers(&source.transaction().await.0), [3]);
}

/// Nobody is told that the log flows before the start was taken in, and with it how far there is to come; and
/// an idle server leaves nobody in doubt about that.
#[tokio::test]
async fn it_streams_when_the_start_was_taken_in() {
    let world = World::new().await;
    let mut source = world.started().await;
    for _ in 0..2 {
        let streams =
            |source: &Stream| matches!(*source.status.borrow(), SourceStatus::Streaming { .. });
        assert!(!streams(&source));
        let written = source.source.written();
        let begin = Instant::now();
        while !matches!(source.next().await, SourceEvent::Idle { lsn } if lsn >= written) {}
        assert!(streams(&source));
        // A heartbeat against silence would come after three.
        assert!(begin.elapsed() < Duration::from_millis(2500));
        world.terminate().await;
        source.restart().await;
    }
}

#[tokio::test]
async fn the_server_restarts_without_waiting_for_us() {
    let mut cluster = cluster(&[]);
    let world = World::on(&cluster).await;
    world
        .exec("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)")
        .await;
    let mut source = world.source();
    let (epoch, _) = source.start().await;
    // Hands on everything, as the pipeline does, so that a server that shuts down is told so.
    let (told, mut heard) = tokio::sync::mpsc::unbounded_channel();
    let reader = tokio::spawn(async move {
        while let Ok(event) = source.source.next().await {
            if let SourceEvent::Commit { end_lsn: lsn } | SourceEvent::Idle { lsn } = event {
                source.ack.ack(lsn);
            }
            let _ = told.send(event);
        }
    });
    let begin = Instant::now();
    let cluster = tokio::task::spawn_blocking(move || {
        cluster.restart(StopMode::Fast).unwrap();
        cluster
    })
    .await
    .unwrap();
    assert!(
        begin.elapsed() < Duration::from_secs(10),
        "{:?}",
        begin.elapsed()
    );
    let sql = world.info.connect("test").await.unwrap();
    crate::harness::exec(&sql, "INSERT INTO t VALUES (2)").await;
    let mut restarted = false;
    let found = tokio::time::timeout(DEADLINE, async {
        while let Some(event) = heard.recv().await {
            match event {
                SourceEvent::Start { epoch: now, reason } => {
                    assert_eq!((now.0, reason), (epoch, None));
                    restarted = true;
                }
                SourceEvent::Item { item, .. } => return numbers(&[item]) == [2],
                _ => {}
            }
        }
        false
    });
    assert!(found.await.unwrap() && restarted);
    reader.abort();
    drop(cluster);
}

#[tokio::test]
async fn a_consumer_may_sleep_longer_than_the_server_waits() {
    let cluster = cluster(&[("wal_sender_timeout", "1s")]);
    let world = World::on(&cluster).await;
    world
        .exec("CREATE TABLE t (id int PRIMARY KEY, pad text)")
        .await;
    let mut source = world.started().await;
    world
        .exec("INSERT INTO t SELECT n, repeat('x', 500) FROM generate_series(1, 40000) n")
        .await;
    // The very condition: nobody reads, the buffers are full.
    tokio::time::sleep(Duration::from_secs(4)).await;
    let (items, _) = source.transaction().await;
    assert_eq!(items.len(), 40_000);
}

#[tokio::test]
async fn an_idle_database_lets_its_log_go() {
    let world = World::new().await;
    world.exec("CREATE TABLE t (id int PRIMARY KEY)").await;
    let mut source = Stream::new(SourceConfig {
        silence_limit: Duration::from_millis(900),
        ..world.config()
    });
    source.start().await;
    world
        .exec("CREATE TEMP TABLE elsewhere AS SELECT generate_series(1, 1000)")
        .await;
    let written: Lsn = world
        .text("SELECT pg_current_wal_lsn()")
        .await
        .parse()
        .unwrap();
    // Nothing to tell, yet positions come, and what is acknowledged reaches the slot.
    loop {
        if let SourceEvent::Idle { lsn } = source.next().await {
            source.ack.ack(lsn);
            if lsn >= written {
                break;
            }
        }
    }
    let mut slot_is_there = false;
    until("the slot moves", async || {
        let _ = tokio::time::timeout(Duration::from_millis(50), source.next()).await;
        slot_is_there = world.confirmed().await >= written;
        slot_is_there
    })
    .await;
}

#[tokio::test]
async fn the_last_acknowledgement_is_told_when_closing() {
    let world = World::new().await;
    world.exec("CREATE TABLE t (id int PRIMARY KEY)").await;
    let mut source = world.started().await;
    for n in 0..20 {
        world.exec(&format!("INSERT INTO t VALUES ({n})")).await;
        let (_, end) = source.transaction().await;
        source.ack.ack(end);
        if n == 19 {
            let begin = Instant::now();
            source.source.close().await;
            assert!(begin.elapsed() < Duration::from_secs(3));
            until("the slot is told", async || world.confirmed().await >= end).await;
            break;
        }
    }
}

#[tokio::test]
async fn nothing_is_acknowledged_that_was_not_read() {
    let world = World::new().await;
    world.exec("CREATE TABLE t (id int PRIMARY KEY)").await;
    let mut source = world.started().await;
    source.ack.ack(Lsn(u64::MAX));
    world.exec("INSERT INTO t VALUES (1)").await;
    let (_, end) = source.transaction().await;
    world.exec("INSERT INTO t VALUES (2)").await;
    let deadline = Instant::now() + Duration::from_millis(700);
    while Instant::now() < deadline {
        // Waits without taking the second transaction apart.
        let confirmed = world.confirmed().await;
        assert!(confirmed <= end, "{confirmed} {end}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_slot_that_is_dropped_is_made_again_under_a_new_epoch() {
    let world = World::new().await;
    let mut source = world.source();
    let (epoch, _) = source.start().await;
    world.terminate().await;
    let slot = &world.slot;
    until("the slot is dropped", async || {
        let drop = format!("SELECT pg_drop_replication_slot('{slot}')");
        world.sql.batch_execute(&drop).await.is_ok()
    })
    .await;
    let (now, reason) = source.restart().await;
    assert!(now != epoch && reason.is_some());
    // Another process sees the same epoch, and no reason: it has nothing to take back.
    source.source.close().await;
    assert_eq!(world.source().start().await, (now, None));
}

#[tokio::test]
async fn a_slot_whose_log_is_gone_is_made_again_under_a_new_epoch() {
    let cluster = cluster(&[
        ("max_slot_wal_keep_size", "1MB"),
        ("max_wal_size", "32MB"),
        ("min_wal_size", "32MB"),
    ]);
    let world = World::on(&cluster).await;
    world.exec("CREATE TABLE t (id int PRIMARY KEY)").await;
    let mut source = world.source();
    let (epoch, _) = source.start().await;
    source.source.close().await;
    let lost = format!(
        "SELECT wal_status FROM pg_replication_slots WHERE slot_name = '{}'",
        world.slot
    );
    until("the slot is lost", async || {
        world.exec("SELECT pg_switch_wal(); CREATE TABLE fill AS SELECT generate_series(1, 100000); DROP TABLE fill; CHECKPOINT").await;
        world.text(&lost).await == "lost"
    })
    .await;
    let mut source = world.source();
    let (now, _) = source.start().await;
    assert_ne!(now, epoch);
    world.exec("INSERT INTO t VALUES (1)").await;
    assert_eq!(numbers(&source.transaction().await.0), [1]);
}

/// A world with the table `t`, and a stream of it that runs through a network that can fail.
async fn behind_a_proxy(cluster: &Cluster) -> (World, Proxy, SourceConfig) {
    let world = World::on(cluster).await;
    world
        .exec("CREATE TABLE t (id int PRIMARY KEY, pad text)")
        .await;
    let proxy = Proxy::start(cluster.port()).await;
    let through = world.url.replace(
        &format!(":{}/", cluster.port()),
        &format!(":{}/", proxy.port()),
    );
    let config = SourceConfig {
        replication: ConnInfo::parse(&through, None).unwrap(),
        ..world.config()
    };
    (world, proxy, config)
}

/// A network that swallows everything: no error comes from anywhere, only the silence is noticed.
#[tokio::test]
async fn a_swallowed_stream_is_noticed_and_replaced() {
    let cluster = cluster(&[]);
    let (world, proxy, config) = behind_a_proxy(&cluster).await;
    let mut source = Stream::new(SourceConfig {
        silence_limit: Duration::from_millis(1500),
        ..config
    });
    source.start().await;
    world.exec("INSERT INTO t VALUES (1)").await;
    assert_eq!(numbers(&source.transaction().await.0), [1]);
    // In the middle of a message.
    proxy.swallow_after(3000);
    world
        .exec("INSERT INTO t VALUES (2, repeat('x', 5000))")
        .await;
    let mut status = source.status.clone();
    let silent = tokio::select! {
        _ = async { loop { source.next().await; } } => false,
        waiting = status.wait_for(|status| format!("{status:?}").contains("connection_silent")) => waiting.is_ok(),
        () = tokio::time::sleep(DEADLINE) => false,
    };
    assert!(silent);
    proxy.heal();
    // The server believes that the old stream lives; ending it stands for its own timeout.
    world.terminate().await;
    source.restart().await;
    let (items, _) = source.transaction().await;
    assert!(matches!(numbers(&items)[..], [1] | [2]));
}

/// A library that is asked to stop in the middle of a message hangs; closing does not.
#[tokio::test]
async fn closing_a_stalled_stream_takes_bounded_time() {
    let cluster = cluster(&[]);
    let (world, proxy, config) = behind_a_proxy(&cluster).await;
    let mut source = Stream::new(config);
    source.start().await;
    proxy.swallow_after(1500);
    world
        .exec("INSERT INTO t VALUES (1, repeat('x', 5000))")
        .await;
    let _ = tokio::time::timeout(Duration::from_millis(300), async {
        loop {
            source.next().await;
        }
    })
    .await;
    source.ack.ack(Lsn(u64::MAX));
    let begin = Instant::now();
    source.source.close().await;
    assert!(
        begin.elapsed() < Duration::from_secs(4),
        "{:?}",
        begin.elapsed()
    );
}

#[tokio::test]
async fn a_message_beyond_the_limit_is_said_so() {
    let world = World::new().await;
    let mut source = Stream::new(SourceConfig {
        max_message_bytes: 100_000,
        ..world.config()
    });
    source.start().await;
    world
        .exec("SELECT pg_logical_emit_message(true, 'x', repeat('y', 200000))")
        .await;
    let error = loop {
        match source.try_next().await {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert_eq!((error.code(), error.retry()), ("message_too_large", false));
}
