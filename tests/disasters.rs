//! What has brought down systems of this kind in production, one test each, as far as no other page has it:
//! slots in `survival.rs` and `restarts.rs`, bad set-ups in `bad_input.rs`, large transactions with promise 11.

use std::{
    net::{Ipv6Addr, SocketAddr},
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use rowcast_embedded::{Cluster, Options, StopMode};
use tokio::net::TcpStream;

use crate::harness::{
    client::Client,
    fixture::{self, TRACK},
    postgres::{self, Database},
    server::{self, Server},
    token, until_or,
    world::{World, migrate},
};

/// A slot can only be made when all transactions that run have ended. Until then the service says that it is
/// not ready; then it is, and nothing is told by halves.
#[tokio::test]
async fn an_open_transaction_delays_the_first_start() {
    let cluster = postgres::own_cluster(&[]);
    let database = Database::fresh_in(&cluster).await;
    migrate(&database).await;
    let sql = database.connect().await;
    sql.exec(fixture::TABLES).await;
    sql.exec(TRACK).await;
    sql.exec("INSERT INTO rowcast.memberships (user_id, organization_id) VALUES ('u1', 'org_1')")
        .await;
    let lingering = database.connect().await;
    lingering
        .exec("BEGIN; INSERT INTO orders VALUES (1, 'org_1', 1)")
        .await;
    let server = Server::launch(&database, &[]).await;
    sql.until_true(
        "the slot is being made",
        "SELECT count(*) = 1 FROM pg_replication_slots WHERE confirmed_flush_lsn IS NULL",
    )
    .await;
    assert!(!server.is_ready().await);
    lingering.exec("COMMIT").await;
    server.until_ready().await;
    let mut client = Client::login(server.public, &token::session("u1"), "org_1").await;
    sql.exec("INSERT INTO orders VALUES (2, 'org_1', 1)").await;
    let event = client.event("orders").await;
    assert_eq!(event.json["new"]["id"], 2, "{}", event.text);
}

/// The server hangs up on who does not answer. While nothing can be handed on, because a commit is not visible
/// yet and the queue behind it is full, it is answered all the same, for three times its patience.
#[tokio::test]
async fn a_full_queue_does_not_silence_the_stream() {
    let mut primary = postgres::own_cluster(&[("wal_sender_timeout", "2s")]);
    let options = Options {
        major: postgres::major(),
        ..Options::default()
    };
    let _standby = primary.start_standby("sb", options).unwrap();
    let small = [("ROWCAST__REPLICATION__QUEUE_BYTES", "64KiB")];
    let world = World::in_cluster(&primary, TRACK, &small).await;
    let mut client = world.member("u1", "org_1").await;
    world
        .exec("ALTER SYSTEM SET synchronous_standby_names = 'sb'")
        .await;
    world.exec("SELECT pg_reload_conf()").await;
    let synchronous = "SELECT count(*) = 1 FROM pg_stat_replication WHERE application_name = 'sb' AND sync_state = 'sync'";
    world
        .sql
        .until_true("the standby is synchronous", synchronous)
        .await;
    let feed = "SELECT pid FROM pg_stat_replication WHERE application_name = 'sb'";
    let feed = world.sql.text(feed).await;
    let signal = |signal: &str| {
        let sent = Command::new("kill").args([signal, &feed]).status();
        assert!(sent.unwrap().success());
    };
    let stream = "SELECT active_pid FROM pg_replication_slots WHERE slot_type = 'logical'";
    let before = world.sql.text(stream).await;

    signal("-STOP");
    let mut writers = Vec::new();
    for writer in 0..20 {
        let database = world.database.clone();
        writers.push(tokio::spawn(async move {
            let sql = database.connect().await;
            sql.exec("SET synchronous_commit = remote_apply").await;
            let first = writer * 900;
            sql.exec(&format!(
                "INSERT INTO orders SELECT i, 'org_1', 1 FROM generate_series({first}, {first} + 899) i"
            ))
            .await;
        }));
    }
    let waiting = "SELECT count(*) = 20 FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
    let look = world.database.connect().await;
    look.until_true("all have written and wait", waiting).await;
    // The time itself is what is tested.
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!(look.text(stream).await, before, "{}", world.server.log());
    signal("-CONT");
    for writer in writers {
        writer.await.unwrap();
    }
    for _ in 0..18_000 {
        client.event("orders").await;
    }
    until_or(
        "the stream is the same and current",
        || world.server.log(),
        async || world.server.is_ready().await,
    )
    .await;
    assert_eq!(look.text(stream).await, before, "{}", world.server.log());
}

/// Stops the server as an administrator does; it must not wait for us.
fn stops_at_once(cluster: &mut Cluster, server: &Server) {
    let begin = Instant::now();
    let stopped = cluster.stop(StopMode::Fast);
    let took = begin.elapsed();
    assert!(
        stopped.is_ok() && took < Duration::from_secs(15),
        "{stopped:?} after {took:?}\n{}",
        server.log()
    );
}

/// A server that shuts down waits until its log was read. It is not held by a service that cannot read on, because
/// what it has read cannot be seen by anybody yet and the queue is full.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_queue_does_not_hold_the_server() {
    let mut cluster = postgres::own_cluster(&[]);
    let small = [("ROWCAST__REPLICATION__QUEUE_BYTES", "64KiB")];
    let world = World::in_cluster(&cluster, TRACK, &small).await;
    let mut client = world.member("u1", "org_1").await;
    world
        .exec("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
        .await;
    world.exec("SELECT pg_reload_conf()").await;
    let mut writers = Vec::new();
    for writer in 0..20 {
        let database = world.database.clone();
        writers.push(tokio::spawn(async move {
            let first = writer * 900;
            let insert = format!(
                "INSERT INTO orders SELECT i, 'org_1', 1 FROM generate_series({first}, {first} + 899) i"
            );
            // Ends with the server, after it has committed.
            let _ = database.connect().await.batch_execute(&insert).await;
        }));
    }
    let waiting = "SELECT count(*) = 20 FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
    let look = world.database.connect().await;
    look.until_true("all have written and wait", waiting).await;
    stops_at_once(&mut cluster, &world.server);
    for writer in writers {
        writer.await.unwrap();
    }
    cluster.start_again().unwrap();
    let sql = world.database.connect().await;
    sql.exec("ALTER SYSTEM RESET synchronous_standby_names")
        .await;
    sql.exec("SELECT pg_reload_conf()").await;
    sql.exec("INSERT INTO orders VALUES (-1, 'org_1', 1)").await;
    for _ in 0..18_000 {
        client.event("orders").await;
    }
    let event = client.event("orders").await;
    assert_eq!(event.json["new"]["id"], -1, "{}", event.text);
}

/// Nor by a service that has just begun: it waits for its configuration, and has log to read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_begins_does_not_hold_the_server() {
    let mut cluster = postgres::own_cluster(&[]);
    let mut world = World::in_cluster(&cluster, TRACK, &[]).await;
    world.member("u1", "org_1").await;
    world.server.kill();
    world
        .exec("INSERT INTO orders SELECT i, 'org_1', 1 FROM generate_series(1, 5000) i")
        .await;
    world.exec("BEGIN; LOCK rowcast.memberships").await;
    world.server = Server::launch(&world.database, &[]).await;
    let look = world.database.connect().await;
    let waits = "SELECT count(*) = 1 FROM pg_replication_slots WHERE active AND EXISTS (SELECT FROM pg_locks WHERE NOT granted)";
    look.until_true("it streams, and waits", waits).await;
    stops_at_once(&mut cluster, &world.server);
    cluster.start_again().unwrap();
    world.server.until_ready().await;
    let mut client = Client::login(world.server.public, &token::session("u1"), "org_1").await;
    let sql = world.database.connect().await;
    sql.exec("INSERT INTO orders VALUES (-1, 'org_1', 1)").await;
    let event = client.event("orders").await;
    assert_eq!(event.json["new"]["id"], -1, "{}", event.text);
}

/// A port on IPv6 that answers nobody: its queue of connections is full.
struct Swallowing {
    _listener: tokio::net::TcpListener,
    _held: Vec<TcpStream>,
}

impl Swallowing {
    async fn at(port: u16) -> Option<Swallowing> {
        let address = SocketAddr::from((Ipv6Addr::LOCALHOST, port));
        let socket = tokio::net::TcpSocket::new_v6().ok()?;
        // Without IPv6 nobody is there either.
        socket.bind(address).ok()?;
        let listener = socket.listen(1).unwrap();
        let mut held = Vec::new();
        let short = Duration::from_millis(300);
        while let Ok(open) = tokio::time::timeout(short, TcpStream::connect(address)).await {
            held.push(open.unwrap());
        }
        Some(Swallowing {
            _listener: listener,
            _held: held,
        })
    }
}

/// The service, where `db.test` has the addresses `::1` and `127.0.0.1`, in this order; where that cannot be made,
/// with `localhost`, whatever it stands for.
fn where_a_name_has_two_addresses(database: &Database, dir: &Path) -> Server {
    let hosts = dir.join("hosts");
    std::fs::write(&hosts, "::1 db.test\n127.0.0.1 db.test localhost\n").unwrap();
    let unshare = |script: &str| {
        let mut command = Command::new("unshare");
        let path = std::env::var("PATH").unwrap_or_default();
        command
            .env_clear()
            .env("PATH", path)
            .args(["--map-root-user", "--mount", "sh", "-c"])
            .arg(format!("mount --bind \"$1\" /etc/hosts && {script}"))
            .arg("sh")
            .arg(&hosts);
        command
    };
    let able = unshare("true")
        .status()
        .is_ok_and(|status| status.success());
    let name = if able { "db.test" } else { "localhost" };
    let url = database.url.replace("127.0.0.1", name);
    Server::launch_by(database, &[("DATABASE_URL", &url)], |program| match able {
        true => {
            let mut command = unshare("exec \"$2\" serve");
            command.arg(program).stdin(Stdio::null());
            command
        }
        false => server::command(&["serve"], &[]),
    })
}

/// IPv6 comes first and leads nowhere, be it that nobody is there or that nobody answers: the stream and all else
/// take IPv4.
#[tokio::test]
async fn ipv6_leads_nowhere_and_ipv4_is_taken() {
    let cluster = postgres::own_cluster(&[]);
    let dir = tempfile::tempdir().unwrap();
    for swallowing in [false, true] {
        let database = Database::fresh_in(&cluster).await;
        migrate(&database).await;
        let sql = database.connect().await;
        sql.exec(fixture::TABLES).await;
        sql.exec(TRACK).await;
        sql.exec(
            "INSERT INTO rowcast.memberships (user_id, organization_id) VALUES ('u1', 'org_1')",
        )
        .await;
        let _swallowing = match swallowing {
            true => Swallowing::at(cluster.port()).await,
            false => None,
        };
        let mut server = where_a_name_has_two_addresses(&database, dir.path());
        server.until_listening().await;
        server.until_ready().await;
        let mut client = Client::login(server.public, &token::session("u1"), "org_1").await;
        sql.exec("INSERT INTO orders VALUES (1, 'org_1', 1)").await;
        client.event("orders").await;
        // The address that answered is known by now: a stream that breaks is back at once.
        sql.exec("SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE active")
            .await;
        let begin = Instant::now();
        sql.exec("INSERT INTO orders VALUES (2, 'org_1', 1)").await;
        client.event("orders").await;
        let took = begin.elapsed();
        assert!(
            took < Duration::from_millis(2500),
            "{took:?}\n{}",
            server.log()
        );
    }
}

/// The same with both in the address itself, as a list of hosts.
#[tokio::test]
async fn of_a_list_of_hosts_the_one_that_answers_is_taken() {
    let world = World::start().await;
    let (head, rest) = world.database.url.split_once("127.0.0.1:").unwrap();
    let port = rest.split('/').next().unwrap();
    let url = format!("{head}[::1]:{port},127.0.0.1:{rest}");
    let second = [
        ("DATABASE_URL", url.as_str()),
        ("ROWCAST_SLOT", "of_a_list"),
    ];
    world.add_member("u1", "org_1", "member").await;
    let server = Server::start(&world.database, &second).await;
    let mut client = Client::login(server.public, &token::session("u1"), "org_1").await;
    world
        .exec("INSERT INTO orders VALUES (1, 'org_1', 1)")
        .await;
    client.event("orders").await;
}
