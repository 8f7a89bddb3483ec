//! Real clusters: that they start, listen, survive a kill, and leave nothing behind.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

use rowcast_embedded::{Cluster, Options, StopMode, installed};

/// Asks for TLS as every client may: a Postgres server answers with one letter.
fn speaks_postgres(port: u16) -> bool {
    let ask = || -> std::io::Result<[u8; 1]> {
        let mut socket = TcpStream::connect(("127.0.0.1", port))?;
        socket.set_read_timeout(Some(Duration::from_secs(5)))?;
        socket.write_all(&[0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f])?;
        let mut answer = [0];
        socket.read_exact(&mut answer)?;
        Ok(answer)
    };
    matches!(ask(), Ok([b'N' | b'S']))
}

#[test]
fn starts_restarts_and_leaves_nothing() {
    let mut cluster = Cluster::start(Options::default().set("work_mem", "5MB")).unwrap();
    let (port, data) = (cluster.port(), cluster.data_dir());
    assert!(speaks_postgres(port));
    assert!(
        cluster
            .socket_dir()
            .join(format!(".s.PGSQL.{port}"))
            .exists()
    );
    assert!(
        cluster
            .url("app")
            .ends_with(&format!("127.0.0.1:{port}/app"))
    );

    cluster.restart(StopMode::Fast).unwrap();
    assert!(speaks_postgres(port));
    cluster.kill();
    assert!(!speaks_postgres(port));
    cluster.start_again().unwrap();
    assert!(speaks_postgres(port));

    let sockets = cluster.socket_dir().to_owned();
    drop(cluster);
    assert!(!speaks_postgres(port));
    assert!(!data.exists() && !sockets.exists());
}

#[test]
fn every_installed_version_starts() {
    for major in installed().into_keys() {
        let options = Options {
            major: Some(major),
            password: Some("it's a secret: ü".into()),
            ..Options::default()
        };
        let cluster = Cluster::start(options).unwrap();
        assert_eq!(cluster.binaries().major, major);
        assert!(speaks_postgres(cluster.port()));
    }
}

#[test]
fn a_standby_follows() {
    let mut primary = Cluster::start(Options::default()).unwrap();
    let standby = primary.start_standby("one", Options::default()).unwrap();
    assert!(speaks_postgres(primary.port()) && speaks_postgres(standby.port()));
}

async fn connect(cluster: &Cluster) -> Result<tokio_postgres::Client, tokio_postgres::Error> {
    let url = cluster.url("postgres");
    let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

/// Rows of a file that is gone are deleted once more when the log is read again: without the pages in the log,
/// PostgreSQL 18 takes that for damage when it was a standby before, and never comes back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_promoted_standby_survives_a_killed_backend() {
    let mut primary = Cluster::start(Options::default()).unwrap();
    let sql = connect(&primary).await.unwrap();
    sql.batch_execute("SELECT pg_create_physical_replication_slot('theirs', true)")
        .await
        .unwrap();
    drop(sql);
    let standby = primary.start_standby("one", Options::default()).unwrap();
    primary.kill();
    let sql = connect(&standby).await.unwrap();
    let slots = sql.query("SELECT FROM pg_replication_slots", &[]).await;
    assert!(slots.unwrap().is_empty());
    for statement in [
        "SELECT pg_promote()",
        "CREATE TABLE t AS SELECT i, repeat('x', 500) FROM generate_series(1, 3000) i",
        "CHECKPOINT",
        "DELETE FROM t WHERE i > 2000",
        "TRUNCATE t",
    ] {
        sql.batch_execute(statement).await.unwrap();
    }
    let pid: i32 = sql
        .query_one("SELECT pg_backend_pid()", &[])
        .await
        .unwrap()
        .get(0);
    let killed = std::process::Command::new("kill")
        .args(["-9", &pid.to_string()])
        .status();
    assert!(killed.unwrap().success());
    let deadline = std::time::Instant::now() + Duration::from_secs(30);
    while !sql.is_closed() || connect(&standby).await.is_err() {
        assert!(std::time::Instant::now() < deadline, "it never comes back");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[test]
fn a_kept_directory_goes_on() {
    let dir = std::env::temp_dir().join(format!("rowcast-keep-{}", std::process::id()));
    let options = || Options {
        dir: Some(dir.clone()),
        keep: true,
        ..Options::default()
    };
    drop(Cluster::start(options()).unwrap());
    let mark = dir.join("data/mark");
    std::fs::write(&mark, "").unwrap();
    drop(Cluster::start(options()).unwrap());
    assert!(mark.exists());
    std::fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn a_directory_serves_one_and_what_is_left_over_is_no_harm() {
    let dir = std::env::temp_dir().join(format!("rowcast-left-{}", std::process::id()));
    let options = || Options {
        dir: Some(dir.clone()),
        ..Options::default()
    };
    let first = Cluster::start(options()).unwrap();
    let error = Cluster::start(options()).unwrap_err();
    assert!(error.to_string().contains("already serves"), "{error}");
    assert!(first.data_dir().join("PG_VERSION").exists());
    drop(first);
    std::fs::create_dir_all(dir.join("data")).unwrap();
    std::fs::write(dir.join("data/PG_VERSION"), "15").unwrap();
    drop(Cluster::start(options()).unwrap());
    assert!(!dir.exists());
}

#[test]
fn settings_that_cannot_work_are_told_with_the_log() {
    let error = Cluster::start(Options::default().set("shared_buffers", "nonsense")).unwrap_err();
    assert_eq!(error.code(), "not_started");
    assert!(error.to_string().contains("nonsense"), "{error}");
}

#[test]
fn an_unknown_version_says_how_to_get_it() {
    let options = Options {
        major: Some(7),
        ..Options::default()
    };
    let error = Cluster::start(options).unwrap_err();
    assert!(error.to_string().contains("scripts/postgres.sh 7"));
}
