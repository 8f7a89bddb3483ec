//! More of what has brought down systems of this kind in production, seen from the subscribers: new versions rolled
//! out, tables taken from the publication, everybody reading again at once. `docs/reliability.md` has the list.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use serde_json::json;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Notify,
    task::JoinSet,
};

use crate::harness::{
    client::{Client, PATIENCE},
    fixture::TRACK,
    postgres,
    server::Server,
    token, until_or,
    world::World,
};

/// One address in front of services that come and go: each connection goes to whoever is named now.
pub async fn front(first: SocketAddr) -> (SocketAddr, Arc<Mutex<SocketAddr>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let target = Arc::new(Mutex::new(first));
    let present = target.clone();
    tokio::spawn(async move {
        while let Ok((mut outside, _)) = listener.accept().await {
            let to = *present.lock().unwrap();
            tokio::spawn(async move {
                if let Ok(mut inside) = TcpStream::connect(to).await {
                    let _ = tokio::io::copy_bidirectional(&mut outside, &mut inside).await;
                }
            });
        }
    });
    (address, target)
}

/// A subscriber that comes back with its cursor for as long as it takes: the ids it was told, up to `last`.
async fn faithful(address: SocketAddr, last: i64, ready: Arc<Notify>) -> Vec<i64> {
    let (mut told, mut cursor) = (Vec::new(), serde_json::Value::Null);
    loop {
        let Ok(stream) = TcpStream::connect(address).await else {
            continue;
        };
        let Some(mut client) = Client::try_over(stream, address).await else {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        let auth = json!({ "type": "auth", "token": token::session("u1"), "organizationId": "org_1", "cursor": cursor });
        client.send(auth).await;
        while let Ok(frame) = client.next(PATIENCE).await {
            assert!(!frame.is("resync"), "{}", frame.text);
            if frame.is("subscribed") && frame.text_of("channel") == "org:org_1" {
                ready.notify_one();
            }
            if frame.json["cursor"].is_string() && frame.text_of("channel") == "org:org_1" {
                cursor = frame.json["cursor"].clone();
            }
            if frame.is_event() && frame.table() == "orders" {
                told.push(frame.json["new"]["id"].as_i64().unwrap());
                if told.last() == Some(&last) {
                    return told;
                }
            }
        }
    }
}

/// A new version takes the place of the old one, again and again, behind one address, while rows are written
/// and sockets come back by themselves: nothing is lost, nothing comes twice, nobody reads anything again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_loses_nothing() {
    let quick = [("ROWCAST__SERVER__GOODBYE_SPREAD", "100 ms")];
    let mut world = World::prepared(TRACK, &quick).await;
    world.add_member("u1", "org_1", "member").await;
    drop(world.login("u1", "org_1").await);
    let (address, target) = front(world.server.public).await;
    let rows = 400;
    let mut subscribers = JoinSet::new();
    for _ in 0..8 {
        let ready = Arc::new(Notify::new());
        subscribers.spawn(faithful(address, rows, ready.clone()));
        ready.notified().await;
    }
    let database = world.database.clone();
    let written = Arc::new(AtomicI64::new(0));
    let writing = written.clone();
    let writer = tokio::spawn(async move {
        let sql = database.connect().await;
        for id in 1..=rows {
            sql.exec(&format!("INSERT INTO orders VALUES ({id}, 'org_1', 1)"))
                .await;
            writing.store(id, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    for round in 1..=3 {
        // The last rows are written when all is over.
        super::harness::until("some rows are written", async || {
            written.load(Ordering::Relaxed) >= round * 60
        })
        .await;
        let next = Server::launch(&world.database, &quick).await;
        until_or(
            "the next one stands by",
            || next.log(),
            async || {
                let answer = next.get("/readyz").await;
                answer.is_some_and(|(_, body)| body.contains("standby"))
            },
        )
        .await;
        world.server.terminate();
        next.until_ready().await;
        *target.lock().unwrap() = next.public;
        super::harness::until("the old one ends", async || world.server.ended().is_some()).await;
        world.server = next;
    }
    writer.await.unwrap();
    for told in subscribers.join_all().await {
        assert_eq!(told, (1..=rows).collect::<Vec<_>>());
    }
}

/// A table that somebody takes out of the publication goes on to be told, as invalidations, and nobody believes
/// that he has everything; back in it, its rows are told again.
#[tokio::test]
async fn a_table_taken_out_of_the_publication_is_not_silent() {
    let world = World::start().await;
    let mut client = world.member("u1", "org_1").await;
    world
        .exec(
            "INSERT INTO orders VALUES (1, 'org_1', 1);
             ALTER PUBLICATION rowcast DROP TABLE orders;
             INSERT INTO orders VALUES (2, 'org_1', 1);
             TRUNCATE orders;
             ALTER PUBLICATION rowcast ADD TABLE orders;
             INSERT INTO orders VALUES (3, 'org_1', 1)",
        )
        .await;
    let events = world.events_so_far(&mut client, "org_1").await;
    let told: Vec<(&str, String)> = events
        .iter()
        .map(|event| {
            let id = &event.json["new"]["id"];
            let record = event.text_of("recordId");
            let which = id.as_i64().map_or(record.to_owned(), |id| id.to_string());
            (event.text_of("type"), which)
        })
        .collect();
    let expected = [
        ("postgres_changes", "1"),
        ("invalidate", "2"),
        ("invalidate", ""),
        ("postgres_changes", "3"),
    ];
    let expected = expected.map(|(kind, which)| (kind, which.to_owned()));
    assert_eq!(told, expected, "{events:#?}");
}

/// The service owns nothing: neither tables nor publication, and tables come while it runs.
#[tokio::test]
async fn a_service_that_owns_nothing_tells_everything() {
    let cluster = postgres::own_cluster(&[]);
    let mut world = World::in_cluster(&cluster, TRACK, &[]).await;
    world.server.kill();
    world
        .exec("CREATE ROLE small LOGIN REPLICATION; SELECT rowcast.grant_service('small')")
        .await;
    let url = cluster.url_as("small", None, &world.database.name);
    world.server = Server::start(&world.database, &[("DATABASE_URL", &url)]).await;
    let mut client = world.member("u1", "org_1").await;
    world
        .exec(
            "INSERT INTO orders VALUES (1, 'org_1', 1);
             CREATE TABLE later (id int PRIMARY KEY, organization_id text);
             SELECT rowcast.track('later');
             INSERT INTO later VALUES (7, 'org_1')",
        )
        .await;
    let events = world.events_so_far(&mut client, "org_1").await;
    let ids: Vec<_> = events
        .iter()
        .map(|event| &event.json["new"]["id"])
        .collect();
    assert_eq!(ids, [1, 7]);
    assert!(world.server.is_ready().await);
}

/// When everybody has to read everything again, each is asked to wait a time of its own.
#[tokio::test]
async fn those_who_read_everything_again_do_not_come_at_once() {
    let world = World::start().await;
    let mut clients = vec![world.member("u1", "org_1").await];
    for _ in 1..100 {
        clients.push(world.login("u1", "org_1").await);
    }
    let slot = world.database.slot();
    let gone = format!(
        "SELECT pg_terminate_backend(active_pid, 1000) FROM pg_replication_slots WHERE slot_name = '{slot}' AND active;
         SELECT pg_drop_replication_slot('{slot}')"
    );
    until_or(
        "the slot is dropped",
        || world.server.log(),
        async || world.sql.batch_execute(&gone).await.is_ok(),
    )
    .await;
    let mut times = Vec::new();
    for client in &mut clients {
        let told = client.until("resync", |frame| frame.is("resync")).await;
        times.push(told.json["readAfterMs"].as_u64().unwrap_or(0));
    }
    times.sort_unstable();
    let last = *times.last().unwrap();
    assert!((50..=200).contains(&last), "{times:?}");
    times.dedup();
    assert!(times.len() > 50, "{times:?}");
}

/// Who may see a row is asked for each subscriber: more than a hundred of mixed roles, one after the other.
#[tokio::test]
async fn very_many_subscribers_of_mixed_roles_get_what_is_theirs() {
    let track = format!(
        "{TRACK} SELECT rowcast.track('labels', organization_column => 'organization_id', required_roles => '{{admin}}');"
    );
    let world = World::prepared(&track, &[]).await;
    world
        .exec(
            "INSERT INTO rowcast.memberships (user_id, organization_id, role)
             SELECT 'u' || n, 'org_1', CASE n % 3 WHEN 0 THEN 'admin' ELSE 'member' END FROM generate_series(0, 119) n",
        )
        .await;
    let mut clients = Vec::new();
    for n in 0..120 {
        clients.push(world.login(&format!("u{n}"), "org_1").await);
    }
    world
        .exec("INSERT INTO labels VALUES (1, 'org_1', 'secret')")
        .await;
    let fence = world.fence("org_1").await;
    for (n, client) in clients.iter_mut().enumerate() {
        let events = client.until_fence(fence).await;
        assert_eq!(events.len(), usize::from(n % 3 == 0), "u{n}");
    }
}
