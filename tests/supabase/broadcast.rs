//! Broadcasts: between libraries, from SQL, over HTTP; and only where a rule lets clients send. MISSION Q11, X13, X15, Q28.

use serde_json::{Value, json};

use super::{
    client::{EACH, Js, Library, NEW, NEW_IN_1, OLD, PUBLISHABLE},
    raw::{self, Raw, Said},
};
use crate::harness::{fixture::TRACK, http::call, token, world::World};

const ACCESS: &str = "a-token-of-the-application-server";

const RULES: &str = "
    SELECT rowcast.define_channel('room:*', 'public', relay => true);
    SELECT rowcast.define_channel('quiet:*', 'public');
    SELECT rowcast.define_channel('staff', 'role', roles => '{staff}', relay => true);";

async fn world() -> World {
    let world = World::prepared(&format!("{TRACK} {RULES}"), &[("ACCESS_TOKEN", ACCESS)]).await;
    for (user, organization) in [("anna", "org_1"), ("bert", "org_1"), ("carl", "org_2")] {
        drop(world.member(user, organization).await);
    }
    world
}

/// Somebody on a channel, who hears all broadcasts there.
async fn on(world: &World, library: Library, user: &str, topic: &str, broadcast: Value) -> Js {
    let mut js = Js::of(world, library, user).await;
    hear(&mut js, topic, json!({"broadcast": broadcast})).await;
    js.subscribe(topic).await;
    js
}

async fn hear(js: &mut Js, topic: &str, config: Value) {
    js.channel(topic, config, &[]).await;
    js.on(topic, "heard", "broadcast", json!({"event": "*"}))
        .await;
}

async fn send(js: &mut Js, topic: &str, event: &str, payload: Value) -> Value {
    let message = json!({"type": "broadcast", "event": event, "payload": payload});
    js.call(json!({"do": "send", "channel": topic, "message": message}))
        .await
}

/// Event and payload of the next broadcast.
async fn heard(js: &mut Js) -> (String, Value) {
    let heard = js.callback("heard").await;
    assert_eq!(heard["type"], "broadcast", "{heard}");
    (
        heard["event"].as_str().unwrap().to_owned(),
        heard["payload"].clone(),
    )
}

/// MISSION X13: between sockets of all versions, with and without an answer, to oneself and not.
#[tokio::test]
async fn x13_supabase_broadcasts_between_libraries() {
    let world = world().await;
    let libraries = [NEW, OLD, NEW_IN_1];
    let room = "room:1";
    let mut listeners = Vec::new();
    for library in libraries {
        listeners.push(on(&world, library, "bert", room, json!({})).await);
    }
    let mut foreign = on(
        &world,
        NEW,
        "carl",
        room,
        json!({"self": true, "ack": true}),
    )
    .await;
    let mut elsewhere = on(
        &world,
        NEW,
        "bert",
        "room:2",
        json!({"self": true, "ack": true}),
    )
    .await;
    for sender in libraries {
        for (ack, to_self) in [(true, true), (true, false), (false, true)] {
            let mut js = on(
                &world,
                sender,
                "anna",
                room,
                json!({"ack": ack, "self": to_self}),
            )
            .await;
            for (event, payload) in [
                ("cursor", json!({"x": 1, "y": 2.5, "who": "anna"})),
                ("Ünïcode 🎉", json!({"text": "\"quoted\" \\ \n 🎉"})),
                ("empty", json!({})),
            ] {
                let sent = send(&mut js, room, event, payload.clone()).await;
                assert_eq!(sent, "ok", "{sender:?}");
                for listener in &mut listeners {
                    let (got, content) = heard(listener).await;
                    assert_eq!(got, event, "{sender:?} to {:?}", listener.library);
                    for (name, value) in payload.as_object().unwrap() {
                        assert_eq!(
                            content[name], *value,
                            "{sender:?} to {:?}",
                            listener.library
                        );
                    }
                }
                if to_self {
                    assert_eq!(heard(&mut js).await.0, event);
                }
            }
            if !to_self {
                // Behind his own words.
                let mut other = on(&world, NEW, "bert", room, json!({})).await;
                send(&mut other, room, "end", json!({})).await;
                assert_eq!(heard(&mut js).await.0, "end");
                for listener in &mut listeners {
                    assert_eq!(heard(listener).await.0, "end");
                }
            }
        }
    }
    // Neither another organization nor another room has heard of it.
    for js in [(&mut foreign, room), (&mut elsewhere, "room:2")] {
        assert_eq!(send(js.0, js.1, "own", json!({})).await, "ok");
        assert_eq!(heard(js.0).await.0, "own");
    }
}

/// MISSION Q11, Q28: what the application says, from SQL and over HTTP, comes as a broadcast of the room.
#[tokio::test]
async fn q11_q28_supabase_broadcasts_of_the_application() {
    let world = world().await;
    for library in EACH {
        let mut room = on(&world, library, "anna", "room:1", json!({})).await;
        let mut organization = on(&world, library, "bert", "org:org_1", json!({})).await;
        let mut own = on(&world, library, "bert", "user:bert", json!({})).await;
        let mut other = on(&world, library, "carl", "org:org_2", json!({})).await;
        world
            .exec(
                r#"SELECT rowcast.send('room:1', 'said', '{"n": 1}', 'org_1');
                   SELECT rowcast.broadcast('org_1', 'done', '{"materialId": "mat_123"}');
                   SELECT rowcast.send('user:bert', 'alert', '{"n": 2}');
                   SELECT rowcast.broadcast('org_2', 'elsewhere', '{}')"#,
            )
            .await;
        world
            .exec("BEGIN; SELECT rowcast.broadcast('org_1', 'never', '{}'); ROLLBACK")
            .await;
        assert_eq!(
            heard(&mut room).await,
            ("said".into(), json!({"n": 1})),
            "{library:?}"
        );
        assert_eq!(
            heard(&mut organization).await,
            ("done".into(), json!({"materialId": "mat_123"})),
            "{library:?}"
        );
        assert_eq!(
            heard(&mut own).await,
            ("alert".into(), json!({"n": 2})),
            "{library:?}"
        );
        assert_eq!(
            heard(&mut other).await,
            ("elsewhere".into(), json!({})),
            "{library:?}"
        );
        let bearer = format!("Bearer {ACCESS}");
        let post = async |body: Value| {
            let headers = [("authorization", bearer.as_str())];
            let answer = call(
                world.server.public,
                "POST",
                "/broadcast",
                &headers,
                &body.to_string(),
            )
            .await;
            assert_eq!(answer.status, 200, "{}", answer.json);
        };
        post(json!({"type": "broadcast", "event": "posted", "organizationId": "org_1", "payload": {"n": 3}})).await;
        post(json!({"type": "broadcast", "event": "told", "organizationId": "org_1", "userId": "anna", "payload": {}})).await;
        post(json!({"type": "broadcast", "event": "last", "organizationId": "org_1", "payload": [1, "two"]})).await;
        assert_eq!(
            heard(&mut organization).await,
            ("posted".into(), json!({"n": 3})),
            "{library:?}"
        );
        assert_eq!(
            heard(&mut organization).await,
            ("last".into(), json!([1, "two"])),
            "{library:?}"
        );
        world
            .exec("SELECT rowcast.send('room:1', 'end', '{}', 'org_1')")
            .await;
        assert_eq!(heard(&mut room).await.0, "end", "{library:?}");
    }
}

/// MISSION X15: clients send where a rule says so and nowhere else; who may not be on a private channel is not.
#[tokio::test]
async fn x15_supabase_clients_send_only_where_a_rule_lets_them() {
    let world = world().await;
    for library in EACH {
        let mut listener = on(&world, library, "bert", "org:org_1", json!({})).await;
        let mut quiet = on(&world, library, "bert", "quiet:1", json!({})).await;
        // Rows come on any name, so the join succeeds; words do not.
        for topic in [
            "org:org_1",
            "quiet:1",
            "nothing-of-that-name",
            "staff",
            "org:org_2",
            "user:bert",
        ] {
            let mut js = on(
                &world,
                library,
                "anna",
                topic,
                json!({"ack": true, "self": true}),
            )
            .await;
            let sent = send(&mut js, topic, "forged", json!({})).await;
            assert_eq!(sent, "error", "{topic} {library:?}");
            assert!(!js.has(|event| event["name"] == "heard"), "{topic}");
        }
        world
            .exec("SELECT rowcast.broadcast('org_1', 'end', '{}'); SELECT rowcast.send('quiet:1', 'end', '{}', 'org_1')")
            .await;
        assert_eq!(heard(&mut listener).await.0, "end", "{library:?}");
        assert_eq!(heard(&mut quiet).await.0, "end", "{library:?}");
        // Private: the channel has to admit him.
        for (topic, status) in [
            ("room:1", "SUBSCRIBED"),
            ("org:org_1", "SUBSCRIBED"),
            ("user:anna", "SUBSCRIBED"),
            ("org:org_2", "CHANNEL_ERROR"),
            ("user:bert", "CHANNEL_ERROR"),
            ("staff", "CHANNEL_ERROR"),
            ("nothing-of-that-name", "CHANNEL_ERROR"),
        ] {
            let mut js = Js::of(&world, library, "anna").await;
            hear(&mut js, topic, json!({"private": true})).await;
            js.begin_subscribe(topic).await;
            let (found, error) = js.status(topic).await;
            assert_eq!(found, status, "{topic} {library:?} {error}");
            if status == "CHANNEL_ERROR" {
                assert!(error.contains("Unauthorized: "), "{topic}: {error}");
            }
        }
    }
    // Somebody who may.
    drop(world.member_with_role("sam", "org_1", "staff").await);
    let mut sam = on(
        &world,
        NEW,
        "sam",
        "staff",
        json!({"ack": true, "self": true}),
    )
    .await;
    assert_eq!(send(&mut sam, "staff", "hello", json!({})).await, "ok");
    assert_eq!(heard(&mut sam).await.0, "hello");
}

/// What comes from nobody, or without a join, is heard by nobody.
#[tokio::test]
async fn supabase_broadcasts_of_nobody_are_not_heard() {
    let world = world().await;
    let mut listener = on(&world, NEW, "bert", "room:1", json!({})).await;
    for vsn in raw::EACH {
        let mut raw = Raw::open(world.server.public, vsn).await;
        let said = json!({"type": "broadcast", "event": "forged", "payload": {}});
        raw.push("1", "realtime:room:1", "broadcast", said.clone())
            .await;
        if vsn == raw::V2 {
            raw.send_message(raw::broadcast(
                "1",
                "2",
                "realtime:room:1",
                "forged",
                b"{}",
                true,
            ))
            .await;
        }
        let beat = raw.ask("", "phoenix", "heartbeat", json!({})).await;
        assert_eq!(beat.status(), "ok");
        // Joined as somebody, but on another topic.
        raw.joined("realtime:room:2", &token::session("anna"), json!([]))
            .await;
        let reply = raw.ask("1", "realtime:room:1", "broadcast", said).await;
        assert_eq!(
            (reply.status(), reply.reason()),
            ("error", "unmatched topic")
        );
    }
    world
        .exec("SELECT rowcast.send('room:1', 'end', '{}', 'org_1')")
        .await;
    assert_eq!(heard(&mut listener).await.0, "end");
}

/// The frames of broadcasts: kind 4 or text in version 2, text in version 1; bytes between clients of version 2.
#[tokio::test]
async fn supabase_broadcasts_on_the_wire() {
    let world = world().await;
    let topic = "realtime:room:1";
    let config = json!({"config": {"broadcast": {"ack": true, "self": false}}, "access_token": token::session("anna")});
    let mut sockets = Vec::new();
    for vsn in raw::EACH {
        let mut raw = Raw::open(world.server.public, vsn).await;
        let (reply, join) = raw.join_with(topic, config.clone()).await;
        assert_eq!(reply.status(), "ok", "{}", reply.text);
        assert_eq!(reply.payload["response"]["postgres_changes"], json!([]));
        sockets.push((raw, join));
    }
    let [(mut one, first), (mut two, second)] = <[_; 2]>::try_from(sockets).ok().unwrap();
    let broadcast = |said: &Said| said.event == "broadcast";
    // Of version 1 to version 2: the object as it was, as text or binary.
    let said = json!({"type": "broadcast", "event": "e", "payload": {"n": 1}});
    let reply = one.ask(&first, topic, "broadcast", said).await;
    assert_eq!(
        (reply.status(), &reply.payload["response"]),
        ("ok", &json!({}))
    );
    let got = two.until("a broadcast", broadcast).await;
    assert_eq!(
        (&got.payload["event"], &got.payload["payload"]["n"]),
        (&json!("e"), &json!(1)),
        "{}",
        got.text
    );
    assert_eq!((&got.topic[..], &got.join_ref), (topic, &Value::Null));
    // Of version 2 as binary, and as text; a stale reference of the join is taken.
    two.send_message(raw::broadcast(
        &second,
        "77",
        topic,
        "ë",
        br#"{"n":2}"#,
        true,
    ))
    .await;
    assert_eq!(two.reply("77").await.status(), "ok");
    let got = one.until("a broadcast", broadcast).await;
    assert_eq!(got.payload["type"], "broadcast", "{}", got.text);
    assert_eq!(
        (&got.payload["event"], &got.payload["payload"]["n"]),
        (&json!("ë"), &json!(2)),
        "{}",
        got.text
    );
    let said = json!({"type": "broadcast", "event": "f", "payload": {"n": 3}});
    assert_eq!(
        two.ask("stale", topic, "broadcast", said).await.status(),
        "ok"
    );
    let got = one.until("a broadcast", broadcast).await;
    assert_eq!(got.payload["event"], "f");
    // The application's own.
    world
        .exec(r#"SELECT rowcast.send('room:1', 'g', '{"n": 4}', 'org_1')"#)
        .await;
    for raw in [&mut one, &mut two] {
        let got = raw
            .until("a broadcast", |said| {
                broadcast(said) && said.payload["event"] == "g"
            })
            .await;
        assert_eq!(got.payload["payload"], json!({"n": 4}), "{}", got.text);
    }
}

/// `httpSend` and `send` before the channel is joined go over HTTP.
#[tokio::test]
async fn supabase_broadcasts_over_http() {
    let world = world().await;
    let mut listener = on(&world, NEW, "bert", "room:1", json!({})).await;
    for library in EACH {
        let mut js = Js::of(&world, library, "anna").await;
        hear(&mut js, "room:1", json!({})).await;
        assert_eq!(
            send(&mut js, "room:1", "batch", json!({"n": 1})).await,
            "ok",
            "{library:?}"
        );
        let (event, payload) = heard(&mut listener).await;
        assert_eq!(
            (event.as_str(), &payload["n"]),
            ("batch", &json!(1)),
            "{library:?}"
        );
        hear(&mut js, "quiet:1", json!({})).await;
        send(&mut js, "quiet:1", "forged", json!({})).await;
    }
    let mut js = Js::of(&world, NEW, "anna").await;
    hear(&mut js, "room:1", json!({})).await;
    let sent = js
        .call(json!({"do": "httpSend", "channel": "room:1", "name": "e v", "payload": {"n": 2}}))
        .await;
    assert_eq!(sent, json!({"success": true}));
    let (event, payload) = heard(&mut listener).await;
    assert_eq!((event.as_str(), &payload["n"]), ("e v", &json!(2)));
    // Of nobody, of somebody of another organization, and where clients do not send.
    for (user, topic) in [
        ("", "room:1"),
        ("anna", "quiet:1"),
        ("anna", "nothing"),
        ("nobody", "room:1"),
    ] {
        let mut js = match user {
            "" => Js::connect(&world, NEW, PUBLISHABLE, json!({})).await,
            user => Js::of(&world, NEW, user).await,
        };
        hear(&mut js, topic, json!({})).await;
        let id = js
            .begin(json!({"do": "httpSend", "channel": topic, "name": "forged", "payload": {}}))
            .await;
        assert!(js.result(id).await.is_err(), "{user} {topic}");
    }
    world
        .exec("SELECT rowcast.send('room:1', 'end', '{}', 'org_1')")
        .await;
    assert_eq!(heard(&mut listener).await.0, "end");
}

/// Options of the newest library that the service answers, grants or refuses in words: waiting for rows, a word that
/// the log is read, broadcasts of before, bytes.
#[tokio::test]
async fn supabase_options_of_the_newest_library() {
    let world = world().await;
    let mut js = Js::of(&world, NEW, "anna").await;
    let config = json!({
        "broadcast": {"ack": true, "self": true, "replication_ready": true},
        "postgres_changes_options": {"wait": true, "timeout": 5000},
    });
    hear(&mut js, "room:1", config).await;
    js.subscribe("room:1").await;
    let said = [js.system().await, js.system().await];
    let right = [
        "Subscribed to PostgreSQL",
        "Replication connection established",
    ];
    assert_eq!(
        said,
        right.map(|message| ("ok".to_owned(), message.to_owned()))
    );
    // Bytes do not come out as something else.
    assert_eq!(
        send(&mut js, "room:1", "bytes", json!({"bytes": [1, 2, 255]})).await,
        "error"
    );
    assert_eq!(
        send(&mut js, "room:1", "words", json!({"n": 1})).await,
        "ok"
    );
    assert_eq!(heard(&mut js).await.0, "words");
    // Who sent it is put in by the service.
    let mut other = on(&world, NEW, "bert", "room:1", json!({})).await;
    send(
        &mut js,
        "room:1",
        "who",
        json!({"user_id": "forged", "sender": "forged"}),
    )
    .await;
    let message = other.callback("heard").await;
    assert!(message.to_string().contains("anna"), "{message}");
    // There is no past of broadcasts: better an error than a hole.
    let mut js = Js::of(&world, NEW, "anna").await;
    let config = json!({"private": true, "broadcast": {"replay": {"since": 1, "limit": 5}}});
    hear(&mut js, "room:1", config).await;
    js.begin_subscribe("room:1").await;
    let (status, error) = js.status("room:1").await;
    assert_eq!(status, "CHANNEL_ERROR");
    assert!(error.contains("UnableToReplayMessages"), "{error}");
}
