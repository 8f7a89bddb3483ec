//! Acknowledgements that trail: who starts again reads the past, and nobody waits for us.

use std::time::{Duration, Instant};

use rowcast_embedded::StopMode;
use rowcast_model::{Lsn, WalItem};
use rowcast_source::{SourceConfig, SourceStatus, Window};

use crate::harness::{DEADLINE, Stream, World, cluster, row, until};

const WINDOW: Window = Window {
    retention: Duration::from_secs(600),
    bytes: 1 << 30,
};

fn trailing(world: &World) -> Stream {
    Stream::new(SourceConfig {
        window: WINDOW,
        ..world.config()
    })
}

/// The next row of `t` and where its transaction ends. The publication has all tables, ours too.
async fn number(source: &mut Stream) -> (i64, Lsn) {
    loop {
        let (items, end) = source.transaction().await;
        if let [WalItem::Change(change)] = &items[..]
            && &*change.relation.name == "t"
        {
            return (row(change.new.as_ref().unwrap())[0].parse().unwrap(), end);
        }
    }
}

/// Reads the next row of `t` and hands it on.
async fn hand_on(source: &mut Stream) -> Lsn {
    let (_, end) = number(source).await;
    source.ack.ack(end);
    end
}

/// Reads on until the slot was told `lsn`.
async fn until_confirmed(world: &World, source: &mut Stream, lsn: Lsn) {
    until("the slot is told", async || {
        let _ = tokio::time::timeout(Duration::from_millis(50), source.next()).await;
        world.confirmed().await >= lsn
    })
    .await;
}

#[tokio::test]
async fn who_starts_again_reads_the_past_and_a_lost_line_repeats_nothing() {
    let world = World::new().await;
    world.exec("CREATE TABLE t (id int PRIMARY KEY)").await;
    let mut source = trailing(&world);
    let (epoch, _) = source.start().await;
    let floor = source.source.floor();
    assert_eq!(world.confirmed().await, floor);
    world.exec("INSERT INTO t VALUES (1)").await;
    hand_on(&mut source).await;
    world.exec("INSERT INTO t VALUES (2)").await;
    let end = hand_on(&mut source).await;
    world.terminate().await;
    assert_eq!(source.restart().await, (epoch, None));
    assert_eq!(source.source.floor(), floor);
    world.exec("INSERT INTO t VALUES (3)").await;
    assert_eq!(number(&mut source).await.0, 3);
    source.source.close().await;
    assert!(world.confirmed().await < end);

    let mut again = trailing(&world);
    assert_eq!(again.start().await, (epoch, None));
    assert_eq!(again.source.floor(), floor);
    for n in 1..=3 {
        assert_eq!(number(&mut again).await.0, n);
    }
    // More than may be left is let go.
    again.ack.ack(end);
    again.ack.leave_at_most(0);
    until_confirmed(&world, &mut again, end).await;
}

#[tokio::test]
async fn a_server_that_shuts_down_does_not_wait_for_the_trail() {
    let mut cluster = cluster(&[]);
    let world = World::on(&cluster).await;
    world.exec("CREATE TABLE t (id int PRIMARY KEY)").await;
    let mut source = trailing(&world);
    let (epoch, _) = source.start().await;
    let floor = source.source.floor();
    world.exec("INSERT INTO t VALUES (1)").await;
    hand_on(&mut source).await;
    let reader = tokio::spawn(async move {
        let start = source.restart().await;
        (start, source)
    });
    let begin = Instant::now();
    let cluster = tokio::task::spawn_blocking(move || {
        cluster.stop(StopMode::Fast).unwrap();
        let took = begin.elapsed();
        cluster.start_again().unwrap();
        (cluster, took)
    });
    let (cluster, took) = cluster.await.unwrap();
    assert!(took < Duration::from_secs(5), "{took:?}");
    let ((now, reason), source) = tokio::time::timeout(DEADLINE, reader)
        .await
        .unwrap()
        .unwrap();
    assert_eq!((now, reason), (epoch, None));
    source.source.close().await;
    let mut again = trailing(&world);
    again.start().await;
    assert_eq!(again.source.floor(), floor);
    drop(cluster);
}

/// Two on one slot: the second waits, takes over, and reads the past of the first.
#[tokio::test]
async fn a_standby_takes_over_with_the_past() {
    let world = World::new().await;
    world.exec("CREATE TABLE t (id int PRIMARY KEY)").await;
    let mut first = trailing(&world);
    let (epoch, _) = first.start().await;
    let mut second = trailing(&world);
    let mut status = second.status.clone();
    tokio::select! {
        event = second.source.next() => panic!("{event:?}"),
        found = status.wait_for(|status| matches!(status, SourceStatus::Standby { .. })) => { found.unwrap(); }
        () = tokio::time::sleep(DEADLINE) => panic!("it says nothing"),
    }
    world.exec("INSERT INTO t VALUES (1)").await;
    hand_on(&mut first).await;
    first.source.close().await;
    let begin = Instant::now();
    assert_eq!(second.start().await, (epoch, None));
    assert!(begin.elapsed() < Duration::from_secs(5));
    assert_eq!(number(&mut second).await.0, 1);
}

/// While our line was down somebody else has read from the slot: what he read was never told here.
#[tokio::test]
async fn a_slot_that_somebody_else_has_moved_is_no_continuation() {
    let world = World::new().await;
    world.exec("CREATE TABLE t (id int PRIMARY KEY)").await;
    let mut source = trailing(&world);
    let (epoch, _) = source.start().await;
    world.exec("INSERT INTO t VALUES (1)").await;
    hand_on(&mut source).await;
    world.terminate().await;
    let moved = format!(
        "SELECT pg_replication_slot_advance('{}', pg_current_wal_lsn())",
        world.slot
    );
    world.exec("INSERT INTO t VALUES (2)").await;
    until("the slot is moved", async || {
        world.sql.batch_execute(&moved).await.is_ok()
    })
    .await;
    let (now, reason) = source.restart().await;
    assert_eq!(now, epoch);
    assert!(reason.unwrap().contains("another process"));
    world.exec("INSERT INTO t VALUES (3)").await;
    assert_eq!(number(&mut source).await.0, 3);
}

#[tokio::test]
async fn new_slots_are_failover_slots_where_the_server_knows_them() {
    let world = World::new().await;
    let _source = world.started().await;
    let version: u32 = world.text("SHOW server_version_num").await.parse().unwrap();
    let failover = format!(
        "SELECT to_jsonb(s) ->> 'failover' FROM pg_replication_slots s WHERE slot_name = '{}'",
        world.slot
    );
    let expected = if version >= 170_000 { "true" } else { "" };
    assert_eq!(world.text(&failover).await, expected);
}
