//! When things break: Postgres is away, the slot is made anew, a socket is not read, many join at once. Promises 5 and 11.

use serde_json::{Value, json};
use tokio::net::TcpSocket;
use tokio_tungstenite::client_async;

use super::{
    client::{EACH, Js, PUBLISHABLE, table, told},
    raw::{self, Raw, path},
};
use crate::harness::{fixture::TRACK, postgres, token, until_or, world::World};
use rowcast_embedded::StopMode;

/// Promise 5: the database goes away and comes back: channels are told both, and get what was committed, once and in
/// order, without joining again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn supabase_promise_05_the_database_restarts() {
    let mut cluster = postgres::own_cluster(&[]);
    let world = World::in_cluster(&cluster, TRACK, &[]).await;
    let mut clients = Vec::new();
    drop(world.member("u1", "org_1").await);
    for library in EACH {
        let mut js = Js::of(&world, library, "u1").await;
        js.listen("org:org_1", &[("rows", table("labels"))]).await;
        assert_eq!(js.system().await.0, "ok");
        clients.push(js);
    }
    world
        .exec("INSERT INTO labels VALUES (1, 'org_1', 'x')")
        .await;
    cluster.stop(StopMode::Fast).unwrap();
    for js in &mut clients {
        let (status, message) = js.system().await;
        assert_eq!(status, "error", "{message}");
        assert!(message.contains("Changes are late"), "{message}");
    }
    cluster.restart(StopMode::Fast).unwrap();
    let sql = world.database.connect().await;
    sql.exec("INSERT INTO labels VALUES (2, 'org_1', 'x')")
        .await;
    for js in &mut clients {
        while js.system().await.0 != "ok" {}
    }
    sql.exec(
        "INSERT INTO labels VALUES (3, 'org_1', 'x'); INSERT INTO fences VALUES (77, 'org_1')",
    )
    .await;
    for js in &mut clients {
        let events = told(&js.until_fence(77).await);
        assert_eq!(
            events,
            [1, 2, 3].map(|n| format!("rows INSERT {n}")),
            "{:?}",
            js.library
        );
        assert!(
            !js.has(|event| event["event"] == "status"),
            "{:?}",
            js.library
        );
    }
}

/// Positions mean nothing any more: the channels end so that the libraries join again by themselves.
#[tokio::test]
async fn supabase_a_slot_that_is_made_anew_makes_libraries_join_again() {
    let world = World::start().await;
    drop(world.member("u1", "org_1").await);
    let mut clients = Vec::new();
    for library in EACH {
        let mut js = Js::of(&world, library, "u1").await;
        js.listen("org:org_1", &[("rows", table("labels"))]).await;
        clients.push(js);
    }
    let slot = world.database.slot();
    until_or(
        "the slot is dropped",
        || world.server.log(),
        async || {
            let end = format!(
                "SELECT pg_terminate_backend(active_pid, 1000) FROM pg_replication_slots WHERE slot_name = '{slot}' AND active"
            );
            world.sql.text(&end).await;
            let drop = format!("SELECT pg_drop_replication_slot('{slot}')");
            world.sql.batch_execute(&drop).await.is_ok()
        },
    )
    .await;
    for js in &mut clients {
        js.until_status("org:org_1", "CHANNEL_ERROR").await;
        js.until_some_day("org:org_1", "SUBSCRIBED").await;
    }
    world
        .exec("INSERT INTO labels VALUES (2, 'org_1', 'x')")
        .await;
    let fence = world.fence("org_1").await;
    for js in &mut clients {
        assert_eq!(
            told(&js.until_fence(fence).await),
            ["rows INSERT 2"],
            "{:?}",
            js.library
        );
    }
}

/// Promise 11: a socket that nobody reads is closed with a code to come back, and harms nobody; what it got is without a hole.
#[tokio::test]
async fn supabase_promise_11_a_stalled_socket_is_closed_and_harms_nobody() {
    let env = [("ROWCAST__LIMITS__OUTBOX_BYTES", "256 KiB")];
    let world = World::prepared(TRACK, &env).await;
    drop(world.member("u1", "org_1").await);
    let (address, session) = (world.server.public, token::session("u1"));
    let rows: i64 = 4000;
    for (round, vsn) in raw::EACH.into_iter().enumerate() {
        let mut healthy = Raw::open(address, raw::V2).await;
        let changes = json!([table("materials"), table("fences")]);
        healthy.joined("realtime:x", &session, changes).await;
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        let stream = socket.connect(address).await.unwrap();
        let url = format!("ws://{address}{}", path(vsn, PUBLISHABLE));
        let (socket, _) = client_async(url, stream).await.unwrap();
        let mut stalled = Raw::over(socket, vsn);
        let changes = json!([table("materials")]);
        stalled.joined("realtime:x", &session, changes).await;
        let (fence, first) = (77 + round as i64, 1 + rows * round as i64);
        let database = world.database.clone();
        let writer = tokio::spawn(async move {
            let sql = database.connect().await;
            for part in 0..rows / 100 {
                let from = first + part * 100;
                sql.exec(&format!(
                    "INSERT INTO materials SELECT n, 'org_1', repeat('x', 4000) FROM generate_series({from}, {from} + 99) n"
                ))
                .await;
            }
            sql.exec(&format!("INSERT INTO fences VALUES ({fence}, 'org_1')"))
                .await;
        });
        // Why it is closed can only be read for a while, so the stalled one wakes up when it has happened.
        let waking = async {
            crate::harness::until("it is closed", async || {
                let closed = world.server.metric("socket_closes_total{reason=\"slow\"}");
                closed.await > round as f64
            })
            .await;
            stalled.until_closed().await
        };
        let (events, code) = tokio::join!(healthy.until_fence(fence), waking);
        writer.await.unwrap();
        assert_eq!(code, 4001, "{vsn}");
        let ids = |rows: &[Value]| -> Vec<i64> {
            let id = |row: &Value| row["record"]["id"].as_str().unwrap().parse().unwrap();
            rows.iter().map(id).collect()
        };
        assert_eq!(ids(&events), (first..first + rows).collect::<Vec<_>>());
        let got = ids(&raw::rows(&stalled.seen));
        assert!(got.len() < rows as usize);
        assert_eq!(
            got,
            (first..first + got.len() as i64).collect::<Vec<_>>(),
            "{vsn}"
        );
    }
}

/// Many channels of one socket, which all join at once, as after a restart; and no more than the limit.
#[tokio::test]
async fn supabase_many_channels_of_one_socket() {
    let world = World::prepared(TRACK, &[("ROWCAST__LIMITS__SUBSCRIPTIONS", "60")]).await;
    drop(world.member("u1", "org_1").await);
    let session = token::session("u1");
    for vsn in raw::EACH {
        let mut raw = Raw::open(world.server.public, vsn).await;
        let mut sent = Vec::new();
        for n in 0..40 {
            let config = json!({"config": {"postgres_changes": [table("labels"), table("fences")]}, "access_token": session});
            let reference = format!("j{n}");
            raw.send(
                json!(reference),
                json!(reference),
                &format!("realtime:c{n}"),
                "phx_join",
                config,
            )
            .await;
            sent.push(reference);
        }
        let mut states = Vec::new();
        for reference in &sent {
            let there = raw
                .seen
                .iter()
                .find(|said| said.event == "phx_reply" && said.reference == json!(reference));
            let reply = match there {
                Some(reply) => reply.clone(),
                None => raw.reply(reference).await,
            };
            if reply.status() == "error" {
                assert!(
                    reply.reason().starts_with("ChannelRateLimitReached: "),
                    "{}",
                    reply.text
                );
            }
            states.push(reply.status() == "ok");
        }
        // Each binding counts.
        let right: Vec<bool> = (0..40).map(|n| n < 30).collect();
        assert_eq!(states, right, "{vsn}");
        world
            .exec("INSERT INTO labels VALUES (1, 'org_1', 'x'); DELETE FROM labels")
            .await;
        let fence = world.fence("org_1").await;
        let mut fences = 0;
        while fences < 30 {
            let said = raw.next().await.expect("the socket stays");
            fences += usize::from(
                said.payload["data"]["record"]["id"] == json!(fence)
                    && said.payload["data"]["table"] == "fences",
            );
        }
        assert_eq!(raw::rows(&raw.seen).len(), 60, "{vsn}");
        // One that is left makes room.
        assert_eq!(
            raw.ask("j0", "realtime:c0", "phx_leave", json!({}))
                .await
                .status(),
            "ok"
        );
        raw.joined("realtime:new", &session, json!([table("labels")]))
            .await;
    }
}
