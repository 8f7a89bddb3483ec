//! What somebody has to mend, each with its code; and what mends itself.

use std::time::Duration;

use rowcast_embedded::{Cluster, Options};
use rowcast_model::{SourceEvent, WalItem};
use rowcast_source::{ConnInfo, SourceConfig, SourceStatus};

use crate::harness::{Stream, World, cluster, options, row};

async fn refused(config: SourceConfig) -> (&'static str, String) {
    let mut source = Stream::new(config);
    let error = source.try_next().await.unwrap_err();
    assert!(!error.retry(), "{error}");
    let failed = matches!(&*source.status.borrow(), SourceStatus::Failed { .. });
    assert!(failed);
    (error.code(), error.to_string())
}

#[tokio::test]
async fn a_wrong_password_and_a_wrong_database() {
    let cluster = Cluster::start(Options {
        password: Some("right".into()),
        ..options()
    })
    .unwrap();
    let world = World::on(&cluster).await;
    let with = |url: &str| {
        let info = ConnInfo::parse(url, None).unwrap();
        SourceConfig {
            replication: info.clone(),
            sql: info,
            ..world.config()
        }
    };
    let wrong = cluster.url_as("postgres", Some("wrong"), world.info.database());
    let (code, text) = refused(with(&wrong)).await;
    assert_eq!(code, "auth_failed");
    assert!(!text.contains("wrong") && !text.contains("right"), "{text}");
    let none = cluster.url_as("postgres", None, world.info.database());
    assert_eq!(refused(with(&none)).await.0, "auth_failed");
    assert_eq!(
        refused(with(&cluster.url("nowhere"))).await.0,
        "auth_failed"
    );
    // Only the replication address is wrong.
    let config = SourceConfig {
        replication: ConnInfo::parse(&wrong, None).unwrap(),
        ..world.config()
    };
    assert_eq!(refused(config).await.0, "auth_failed");
    // The right one works, over the unix socket too.
    let socket = cluster.socket_url(world.info.database());
    Stream::new(with(&socket)).start().await;
}

#[tokio::test]
async fn wal_level_is_not_logical() {
    let cluster = cluster(&[("wal_level", "replica")]);
    let world = World::on(&cluster).await;
    let (code, text) = refused(world.config()).await;
    assert_eq!(code, "wal_level_not_logical");
    assert!(
        text.contains("ALTER SYSTEM SET wal_level = 'logical'"),
        "{text}"
    );
}

#[tokio::test]
async fn nothing_is_migrated_published_or_well_named() {
    let world = World::new().await;
    let config = SourceConfig {
        publication: "not there".into(),
        ..world.config()
    };
    assert_eq!(refused(config).await.0, "publication_missing");
    let config = SourceConfig {
        slot: "Bad'Name".into(),
        ..world.config()
    };
    assert_eq!(refused(config).await.0, "slot_name_invalid");
    world
        .exec("DROP FUNCTION rowcast.note_slot(text, boolean, text, integer)")
        .await;
    assert_eq!(refused(world.config()).await.0, "not_migrated");
}

/// Servers before 18 then refuse to go on from the old slot for ever, later ones leave changes out: either way
/// the slot is made anew once the publication is back, and everybody is told.
#[tokio::test]
async fn a_publication_that_is_dropped_while_streaming() {
    let world = World::new().await;
    world.exec("CREATE TABLE t (id int PRIMARY KEY)").await;
    let mut source = Stream::new(SourceConfig {
        silence_limit: Duration::from_secs(3),
        ..world.config()
    });
    let (epoch, _) = source.start().await;
    world
        .exec("DROP PUBLICATION \"Odd \"\"Publication\"\"\"; INSERT INTO t VALUES (1)")
        .await;
    let error = loop {
        match source.try_next().await {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert_eq!(
        (error.code(), error.retry()),
        ("publication_missing", false)
    );
    world
        .exec("CREATE PUBLICATION \"Odd \"\"Publication\"\"\" FOR ALL TABLES")
        .await;
    let (now, reason) = source.restart().await;
    assert!(now != epoch && reason.unwrap().contains("publication"));
    world.exec("INSERT INTO t VALUES (2)").await;
    assert_eq!(row(source.changes().await[0].new.as_ref().unwrap()), ["2"]);
}

/// The same when nobody was there to see it.
#[tokio::test]
async fn a_publication_that_was_away() {
    let world = World::new().await;
    world.exec("CREATE TABLE t (id int PRIMARY KEY)").await;
    world.started().await.source.close().await;
    world
        .exec("DROP PUBLICATION \"Odd \"\"Publication\"\"\"; INSERT INTO t VALUES (1)")
        .await;
    world
        .exec("CREATE PUBLICATION \"Odd \"\"Publication\"\"\" FOR ALL TABLES; INSERT INTO t VALUES (2)")
        .await;
    let mut source = world.source();
    let (epoch, _) = source.start().await;
    // Either the log can be read from where it was, or everybody is told that it cannot.
    world.exec("INSERT INTO t VALUES (3)").await;
    let mut found = String::new();
    while found != "3" {
        match source.next().await {
            SourceEvent::Start { epoch: now, reason } => {
                assert!(now.0 != epoch && reason.unwrap().contains("publication"));
                world.exec("INSERT INTO t VALUES (4)").await;
            }
            SourceEvent::Item {
                item: WalItem::Change(change),
                ..
            } => {
                found = row(change.new.as_ref().unwrap())[0].replace('4', "3");
            }
            _ => {}
        }
    }
}

#[tokio::test]
async fn a_slot_of_somebody_else() {
    let world = World::new().await;
    let slot = format!("{}_foreign", world.slot);
    world
        .exec(&format!(
            "SELECT pg_create_physical_replication_slot('{slot}')"
        ))
        .await;
    let config = SourceConfig {
        slot: slot.clone(),
        ..world.config()
    };
    let (code, text) = refused(config).await;
    assert_eq!(code, "slot_foreign");
    assert!(text.contains("pg_drop_replication_slot"), "{text}");
    world
        .exec(&format!("SELECT pg_drop_replication_slot('{slot}')"))
        .await;
}

#[tokio::test]
async fn a_slot_in_use_is_waited_for() {
    let world = World::new().await;
    let first = world.started().await;
    let mut second = world.source();
    let mut status = second.status.clone();
    let waits = tokio::select! {
        _ = second.next() => false,
        waiting = status.wait_for(|status| matches!(status, SourceStatus::Standby { reason } if reason.contains("slot_in_use"))) => waiting.is_ok(),
        () = tokio::time::sleep(Duration::from_secs(20)) => false,
    };
    assert!(waits, "{:?}", second.status.borrow());
    first.source.close().await;
    second.start().await;
}

#[tokio::test]
async fn a_standby_is_no_place_to_read_from() {
    let mut primary = cluster(&[]);
    let standby = primary.start_standby("one", options()).unwrap();
    let world = World::on(&primary).await;
    let info = ConnInfo::parse(&standby.url("postgres"), None).unwrap();
    let mut source = Stream::new(SourceConfig {
        replication: info.clone(),
        sql: info,
        ..world.config()
    });
    let mut status = source.status.clone();
    tokio::select! {
        event = source.source.next() => panic!("{event:?}"),
        waiting = status.wait_for(|status| matches!(status, SourceStatus::Waiting { reason } if reason.contains("standby"))) => { waiting.unwrap(); }
        () = tokio::time::sleep(Duration::from_secs(20)) => panic!("it says nothing"),
    }
    // With both in the address, the primary is found.
    let database = world.info.database();
    let both = format!(
        "postgres://postgres@127.0.0.1:{},127.0.0.1:{}/{database}",
        standby.port(),
        primary.port()
    );
    let info = ConnInfo::parse(&both, None).unwrap();
    let mut source = Stream::new(SourceConfig {
        replication: info.clone(),
        sql: info,
        ..world.config()
    });
    source.start().await;
}
