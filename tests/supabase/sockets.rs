//! The life of a socket: heartbeats, joins and leaves of every kind, frames that make no sense, restarts. Promise 5, promise 11.

use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use super::{
    client::{EACH, Js, PUBLISHABLE, table, told},
    raw::{self, Raw, Said, V2},
};
use crate::{
    harness::{fixture::TRACK, server::Server, token, world::World},
    incidents::front,
};

async fn world() -> World {
    let world = World::start().await;
    drop(world.member("u1", "org_1").await);
    world
}

/// The library's own heartbeats are answered.
#[tokio::test]
async fn supabase_heartbeats_are_answered() {
    let world = world().await;
    for library in EACH {
        let more = json!({"heartbeatIntervalMs": 200});
        let mut js = Js::connect(&world, library, PUBLISHABLE, more).await;
        js.set_auth(&token::session("u1")).await;
        js.listen("x", &[]).await;
        // The old library has no callback; an unanswered heartbeat closes its socket at the next.
        if library == EACH[0] {
            for _ in 0..3 {
                js.take("a heartbeat", |event| {
                    event["event"] == "heartbeat" && event["status"] == "ok"
                })
                .await;
            }
        }
        for _ in 0..3 {
            js.so_far(&world, "org_1").await;
        }
        assert!(!js.has(|event| event["event"] == "transport" && event["open"] == false));
    }
    for vsn in raw::EACH {
        let mut raw = Raw::open(world.server.public, vsn).await;
        let beat = raw.ask("", "phoenix", "heartbeat", json!({})).await;
        assert_eq!(beat.payload, json!({"status": "ok", "response": {}}));
        assert_eq!(
            (beat.topic.as_str(), &beat.join_ref),
            ("phoenix", &Value::Null)
        );
        let text = match vsn {
            V2 => r#"[null,"1","phoenix","phx_reply","#,
            _ => r#""ref":"1""#,
        };
        assert!(beat.text.contains(text), "{}", beat.text);
    }
}

/// Pushes for topics where nobody is, leaves, and joining again.
#[tokio::test]
async fn supabase_joins_and_leaves_of_every_kind() {
    let world = world().await;
    let session = token::session("u1");
    for vsn in raw::EACH {
        let mut raw = Raw::open(world.server.public, vsn).await;
        let said = json!({"type": "broadcast", "event": "e", "payload": {}});
        let reply = raw.ask("1", "realtime:nobody", "broadcast", said).await;
        assert_eq!(
            (reply.status(), reply.reason()),
            ("error", "unmatched topic")
        );
        let (reply, _) = raw.join("room:1", &session, json!([])).await;
        assert_eq!(
            (reply.status(), reply.reason()),
            ("error", "unmatched topic")
        );
        let (reply, _) = raw.join("realtime:", &session, json!([])).await;
        assert_eq!(
            reply.reason(),
            "TopicNameRequired: You must provide a topic name"
        );
        assert_eq!(
            raw.ask("1", "realtime:nobody", "phx_leave", json!({}))
                .await
                .status(),
            "ok"
        );

        // Once more: the old one ends, the new one gets the rows, and only it.
        let topic = "realtime:twice";
        let bindings = json!([table("labels"), table("fences")]);
        let first = raw.joined(topic, &session, bindings.clone()).await;
        let (reply, second) = raw.join(topic, "", bindings).await;
        assert_eq!(reply.status(), "ok", "{}", reply.text);
        let closed = |said: &&Said| said.event == "phx_close" && said.topic == topic;
        let ended: Vec<Value> = (raw.seen.iter().filter(closed))
            .map(|said| said.reference.clone())
            .collect();
        assert_eq!(ended, [json!(first)], "before the reply to the second");
        if vsn == V2 {
            assert_eq!(raw.seen.iter().find(closed).unwrap().join_ref, json!(first));
        }
        world
            .exec("INSERT INTO labels VALUES (1, 'org_1', 'x')")
            .await;
        let fence = world.fence("org_1").await;
        assert_eq!(raw.until_fence(fence).await.len(), 1);

        // Events nobody knows, a token that is no text, and stale references do no harm.
        raw.push(&second, topic, "no_such_event", json!({})).await;
        raw.push(
            "stale",
            topic,
            "access_token",
            json!({"access_token": session}),
        )
        .await;
        raw.push(
            &second,
            topic,
            "access_token",
            json!({"access_token": null}),
        )
        .await;
        raw.push(
            &second,
            topic,
            "access_token",
            json!({"access_token": PUBLISHABLE}),
        )
        .await;
        let left = raw.ask(&second, topic, "phx_leave", json!({})).await;
        assert_eq!(left.status(), "ok");
        // Its end has its reference, before or behind the reply.
        let is_end = |said: &Said| said.event == "phx_close" && said.reference == json!(second);
        if !raw.seen.iter().any(is_end) {
            raw.until("the end of the channel", is_end).await;
        }
        world.exec("DELETE FROM labels").await;
        let mut known = world.login("u1", "org_1").await;
        world.events_so_far(&mut known, "org_1").await;
        assert_eq!(
            raw.ask("", "phoenix", "heartbeat", json!({}))
                .await
                .status(),
            "ok"
        );
        assert_eq!(
            raw::rows(&raw.seen).len(),
            1,
            "nothing comes behind the leave"
        );
    }
}

/// Joins as clients of all ages send them: what has no sense falls to its default.
#[tokio::test]
async fn supabase_joins_with_odd_configurations() {
    // Whoever wants no rows has to be let in to the channel.
    let rule = "SELECT rowcast.define_channel('t:*', 'public');";
    let world = World::prepared(&format!("{TRACK} {rule}"), &[]).await;
    drop(world.member("u1", "org_1").await);
    let session = token::session("u1");
    for vsn in raw::EACH {
        let mut raw = Raw::open(world.server.public, vsn).await;
        for (n, (config, bindings)) in [
            (json!({}), 0),
            (json!(null), 0),
            (json!("text"), 0),
            (json!({"broadcast": "x", "presence": 7, "private": "FALSE", "postgres_changes": {}}), 0),
            (json!({"broadcast": {"ack": "True", "self": "false"}, "postgres_changes": null}), 0),
            (json!({"postgres_changes": [null, {"event": "*", "schema": "public", "table": "labels", "more": [1]}, null]}), 1),
            (json!({"postgres_changes": [{"event": "insert", "table": "labels"}, {"event": "odd", "schema": "public"}]}), 2),
            (json!({"postgres_changes": [{"event": "*", "schema": "public"}, {"event": "*", "schema": "public"}]}), 2),
        ]
        .into_iter()
        .enumerate()
        {
            let payload = json!({"config": config, "user_token": session});
            let (reply, _) = raw.join_with(&format!("realtime:t:{n}"), payload).await;
            assert_eq!(reply.status(), "ok", "{}", reply.text);
            let echoed = reply.payload["response"]["postgres_changes"].as_array().unwrap();
            assert_eq!(echoed.len(), bindings, "{}", reply.text);
            assert!(echoed.iter().all(|one| one["id"].as_u64().unwrap() > 0));
        }
        world
            .exec("INSERT INTO labels VALUES (1, 'org_1', 'x')")
            .await;
        let row = |topic: &'static str| {
            move |said: &Said| {
                said.topic == topic && said.payload["data"]["record"]["id"] == json!(1)
            }
        };
        let mut waiting = vec!["realtime:t:5", "realtime:t:6", "realtime:t:7"];
        waiting.retain(|topic| !raw.seen.iter().any(row(topic)));
        while let Some(topic) = waiting.first().copied() {
            if !raw.seen.iter().any(row(topic)) {
                raw.until("the row", row(topic)).await;
            }
            waiting.remove(0);
        }
        world.exec("DELETE FROM labels").await;
    }
}

/// Frames that make no sense are passed over; one that is too large ends its own socket.
#[tokio::test]
async fn supabase_malformed_frames_do_not_close_the_socket_and_a_large_one_does() {
    let world = world().await;
    let session = token::session("u1");
    for vsn in raw::EACH {
        let mut raw = Raw::open(world.server.public, vsn).await;
        raw.joined("realtime:a", &session, json!([table("fences")]))
            .await;
        for text in [
            "",
            "not json",
            "{}",
            "[]",
            "null",
            "17",
            "[1,2,3,4,5]",
            "[null,null,null,null,null]",
            r#"{"topic":"realtime:a","event":"broadcast"}"#,
            r#"["m","n","realtime:a"]"#,
            r#"{"topic":7,"event":"phx_join","payload":{},"ref":"n"}"#,
            r#"["m","n",{},"phx_join",{}]"#,
            r#"["m","n","realtime:b","phx_join","payload"]"#,
            r#"["m","n","realtime:a","broadcast",[]]"#,
        ] {
            raw.send_message(Message::text(text)).await;
        }
        assert_eq!(
            raw.ask("", "phoenix", "heartbeat", json!({}))
                .await
                .status(),
            "ok"
        );
        let fence = world.fence("org_1").await;
        raw.until_fence(fence).await;

        // Another one, since patience with frames that make no sense ends some day.
        let mut raw = Raw::open(world.server.public, vsn).await;
        raw.joined("realtime:a", &session, json!([table("fences")]))
            .await;
        let deep = format!("{}{}", "[".repeat(5000), "]".repeat(5000));
        raw.send_message(Message::text(deep)).await;
        for bytes in [
            &b""[..],
            &[3],
            &[3, 255, 255, 255, 255, 255, 1],
            &[4, 1, 1, 0, 1, b'a', b'b'],
            &[0, 1, 2],
            &[3, 0, 0, 0, 0, 0, 9],
        ] {
            raw.send_message(Message::binary(bytes.to_vec())).await;
        }
        assert_eq!(
            raw.ask("", "phoenix", "heartbeat", json!({}))
                .await
                .status(),
            "ok"
        );
        let fence = world.fence("org_1").await;
        raw.until_fence(fence).await;

        let mut other = Raw::open(world.server.public, vsn).await;
        other
            .joined("realtime:a", &session, json!([table("fences")]))
            .await;
        let large =
            json!({"type": "broadcast", "event": "e", "payload": {"text": "x".repeat(200_000)}});
        raw.push("1", "realtime:a", "broadcast", large).await;
        let code = raw.until_closed().await;
        assert_eq!(code, 4506, "too large");
        let fence = world.fence("org_1").await;
        other.until_fence(fence).await;
    }
}

/// Addresses and versions that are not served are refused at the handshake.
#[tokio::test]
async fn supabase_handshakes_that_are_refused() {
    let world = world().await;
    let address = world.server.public;
    for (path, right) in [
        ("/realtime/v1/websocket?vsn=2.0.0", 401),
        ("/socket/websocket?vsn=1.0.0", 401),
        ("/socket/websocket", 401),
        (
            "/realtime/v1/websocket?apikey=sb_publishable_x&vsn=3.0.0",
            403,
        ),
        ("/realtime/v1/websocket?apikey=&vsn=2.0.0", 401),
    ] {
        let refused = Raw::try_open(address, V2, path).await;
        let (status, body) = refused.err().unwrap_or_else(|| panic!("{path} is taken"));
        assert_eq!(status, right, "{path}: {body}");
    }
    // Without `vsn` and `apikey`, this path is that of our own protocol.
    let mut native = world.login("u1", "org_1").await;
    world.events_so_far(&mut native, "org_1").await;
}

/// The service goes and comes back: the library does, too, and gets rows again.
#[tokio::test]
async fn supabase_libraries_come_back_after_a_restart() {
    let mut world = World::prepared(TRACK, &[]).await;
    drop(world.member("u1", "org_1").await);
    let (address, target) = front(world.server.public).await;
    let mut clients = Vec::new();
    for library in EACH {
        let mut js = Js::start(library).await;
        let options = js.options(PUBLISHABLE, json!({}));
        let url = format!("ws://{address}/realtime/v1");
        js.call(json!({"do": "connect", "url": url, "options": options}))
            .await;
        js.set_auth(&token::session("u1")).await;
        js.listen("org:org_1", &[("rows", table("labels"))]).await;
        clients.push(js);
    }
    for (round, politely) in [true, false].into_iter().enumerate() {
        match politely {
            true => world.server.terminate(),
            false => world.server.kill(),
        }
        for js in &mut clients {
            js.take("the end of the connection", |event| {
                event["event"] == "transport" && event["open"] == false
            })
            .await;
        }
        world.server = Server::start(&world.database, &[]).await;
        *target.lock().unwrap() = world.server.public;
        for js in &mut clients {
            js.until_some_day("org:org_1", "SUBSCRIBED").await;
        }
        world
            .exec(&format!(
                "INSERT INTO labels VALUES ({round}, 'org_1', 'x')"
            ))
            .await;
        let fence = world.fence("org_1").await;
        for js in &mut clients {
            let events = told(&js.until_fence(fence).await);
            assert_eq!(events, [format!("rows INSERT {round}")], "{:?}", js.library);
        }
    }
}

/// Leaving by the library; the same channel joined again by it.
#[tokio::test]
async fn supabase_a_library_leaves_and_joins_again() {
    let world = world().await;
    for library in EACH {
        let mut js = Js::of(&world, library, "u1").await;
        js.listen("keep", &[("kept", table("labels"))]).await;
        for n in 0..3 {
            js.channel("room", json!({}), &[("rows", table("labels"))])
                .await;
            js.subscribe("room").await;
            world
                .exec(&format!("INSERT INTO labels VALUES ({n}, 'org_1', 'x')"))
                .await;
            js.callback("rows").await;
            let left = js
                .call(json!({"do": "removeChannel", "channel": "room"}))
                .await;
            assert_eq!(left, "ok", "{library:?}");
            js.until_status("room", "CLOSED").await;
        }
        world.exec("DELETE FROM labels").await;
        let events = told(&js.so_far(&world, "org_1").await);
        assert!(
            events.iter().all(|event| event.starts_with("kept ")),
            "{events:?}"
        );
        assert_eq!(events.len(), 6, "{library:?}");
    }
}
