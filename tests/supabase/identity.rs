//! Whose socket it is: keys, tokens, and what happens when they change. Promise 12, MISSION Q24, Q25.

use serde_json::{Value, json};

use super::{
    client::{EACH, Js, NEW, PUBLISHABLE, table, told},
    raw::{self, Raw, path},
};
use crate::harness::{client::Client, fixture::TRACK, token, until, world::World};

/// No difference of clocks is forgiven.
const PUNCTUAL: (&str, &str) = ("ROWCAST__AUTH__LEEWAY", "0 s");

/// A key of a Supabase project as it was before: a JWT of nobody.
fn anonymous() -> String {
    token::sign(&json!({"role": "anon", "iss": "supabase", "exp": token::now() + 3600}))
}

/// A key of nobody opens a socket and joins nothing: the library is told why, and no event comes.
#[tokio::test]
async fn supabase_nobody_is_told_unauthorized() {
    let world = World::start().await;
    drop(world.member("u1", "org_1").await);
    for library in EACH {
        for key in [PUBLISHABLE.to_owned(), anonymous()] {
            let mut js = Js::connect(&world, library, &key, json!({})).await;
            js.channel("org:org_1", json!({}), &[("rows", table("labels"))])
                .await;
            js.begin_subscribe("org:org_1").await;
            let (status, error) = js.status("org:org_1").await;
            assert_eq!(status, "CHANNEL_ERROR", "{library:?}");
            assert!(error.contains("Unauthorized: "), "{library:?} {error}");
            world
                .exec("INSERT INTO labels VALUES (1, 'org_1', 'secret'); DELETE FROM labels")
                .await;
            let mut known = world.login("u1", "org_1").await;
            world.events_so_far(&mut known, "org_1").await;
            // Once there is a token, the client comes again, and rows come.
            js.set_auth(&token::session("u1")).await;
            js.retry("org:org_1", &[("rows", table("labels"))]).await;
            world
                .exec("INSERT INTO labels VALUES (2, 'org_1', 'x')")
                .await;
            let events = js.so_far(&world, "org_1").await;
            assert_eq!(told(&events), ["rows INSERT 2"], "{library:?}");
            world.exec("DELETE FROM labels").await;
        }
    }
    for vsn in raw::EACH {
        for key in [PUBLISHABLE.to_owned(), anonymous()] {
            let mut raw = Raw::open_at(world.server.public, vsn, &path(vsn, &key)).await;
            for (topic, access) in [
                ("realtime:org:org_1", ""),
                ("realtime:x", PUBLISHABLE),
                ("realtime:y", &anonymous()),
            ] {
                let (reply, _) = raw.join(topic, access, json!([table("labels")])).await;
                assert_eq!(reply.status(), "error", "{topic}");
                assert!(
                    reply.reason().starts_with("Unauthorized: "),
                    "{}",
                    reply.text
                );
            }
            world
                .exec("INSERT INTO labels VALUES (1, 'org_1', 'secret'); DELETE FROM labels")
                .await;
            // The socket lives, and is answered behind all that was written.
            let mut known = world.login("u1", "org_1").await;
            world.events_so_far(&mut known, "org_1").await;
            let beat = raw.ask("", "phoenix", "heartbeat", json!({})).await;
            assert_eq!(beat.status(), "ok");
            assert!(!String::from_utf8_lossy(&raw.bytes).contains("secret"));
        }
    }
}

/// Tokens that do not count are told apart, at the join; and so is a key in the address that does not.
#[tokio::test]
async fn supabase_bad_tokens_are_told_apart() {
    let world = World::start().await;
    drop(world.member("u1", "org_1").await);
    let expired =
        token::sign(&json!({"sub": "u1", "role": "authenticated", "exp": token::now() - 90}));
    let forged = token::sign_with(
        &json!({"sub": "u1", "exp": token::now() + 600}),
        "another-secret-of-thirty-two-bytes!!",
    );
    let tokens = [
        (expired.clone(), "InvalidJWTToken: Token has expired"),
        (forged.clone(), "JwtSignatureError: "),
        (token::unsigned("u1"), "JwtSignatureError: "),
        ("not-a-token".into(), "Unauthorized: "),
    ];
    for library in EACH {
        for (token, right) in &tokens {
            let mut js = Js::connect(&world, library, PUBLISHABLE, json!({})).await;
            js.set_auth(token).await;
            js.channel("org:org_1", json!({}), &[("rows", table("labels"))])
                .await;
            js.begin_subscribe("org:org_1").await;
            let (status, error) = js.status("org:org_1").await;
            assert_eq!(status, "CHANNEL_ERROR", "{library:?}");
            assert!(error.contains(right), "{library:?}: {error}, not {right}");
            // The socket is nobody's yet: with a good one he comes in.
            js.set_auth(&token::session("u1")).await;
            js.retry("org:org_1", &[("rows", table("labels"))]).await;
        }
    }
    for vsn in raw::EACH {
        let refused = Raw::try_open(world.server.public, vsn, &path(vsn, "")).await;
        let (status, body) = refused.err().expect("there is no key");
        assert_eq!(status, 401, "{body}");
        let body: Value = serde_json::from_str(&body).unwrap();
        assert!(body["error"].is_string(), "{body}");
        // Whatever else stands in the address is the key of some project.
        for key in [&expired, &forged, &token::unsigned("u1"), "not-a-token"] {
            let mut raw = Raw::open_at(world.server.public, vsn, &path(vsn, key)).await;
            let (reply, _) = raw.join("realtime:org:org_1", "", json!([])).await;
            assert!(
                reply.reason().starts_with("Unauthorized: "),
                "{}",
                reply.text
            );
        }
    }
}

/// A key of an organization has no place in an address; as the token of a socket it counts.
#[tokio::test]
async fn q24_q25_supabase_api_keys_are_tokens_and_never_in_the_address() {
    let world = World::start().await;
    let key = world.api_key("org_1").await;
    // The service has heard of it when a socket of its own protocol comes in with it.
    until("the key is known", async || {
        let mut client = Client::open(world.server.public).await;
        let reply = client.auth(&key, "org_1").await;
        reply.is_ok_and(|frame| frame.is("auth_success"))
    })
    .await;
    for vsn in raw::EACH {
        let refused = Raw::try_open(world.server.public, vsn, &path(vsn, &key)).await;
        let (status, body) = refused.err().expect("it is refused");
        assert_eq!(status, 401, "{body}");
        assert!(!body.contains(&key), "{body}");
    }
    assert!(!world.server.log().contains(&key));
    for library in EACH {
        let mut js = Js::connect(&world, library, PUBLISHABLE, json!({})).await;
        js.set_auth(&key).await;
        js.listen("org:org_1", &[("rows", table("labels"))]).await;
        world
            .exec("INSERT INTO labels VALUES (1, 'org_1', 'x'), (2, 'org_2', 'y'); DELETE FROM labels")
            .await;
        let events = js.so_far(&world, "org_1").await;
        assert_eq!(
            told(&events),
            ["rows INSERT 1", "rows DELETE 1"],
            "{library:?}"
        );
    }
}

/// Whatever stands in the address names nobody, a good token of a user neither; in the header `x-api-key`, which
/// nobody on the way writes down, it does.
#[tokio::test]
async fn supabase_a_token_in_the_address_is_nobodys_and_in_the_header_somebodys() {
    let world = World::start().await;
    drop(world.member("u1", "org_1").await);
    let session = token::session("u1");
    for vsn in raw::EACH {
        let mut raw = Raw::open_at(world.server.public, vsn, &path(vsn, &session)).await;
        let (reply, _) = raw
            .join("realtime:org:org_1", "", json!([table("fences")]))
            .await;
        assert!(
            reply.reason().starts_with("Unauthorized: "),
            "{}",
            reply.text
        );
        let url = path(vsn, PUBLISHABLE);
        let mut raw = Raw::with_key(world.server.public, vsn, &url, &session).await;
        raw.joined("realtime:a", "", json!([table("fences")])).await;
        let fence = world.fence("org_1").await;
        raw.until_fence(fence).await;
    }
    // The other family of paths, the version that is not said, and parameters of applications.
    for path in [
        "/socket/websocket?apikey=sb_publishable_x",
        "/realtime/v1/websocket?apikey=sb_publishable_x&log_level=info&more=x%20y&vsn=1.0.0",
    ] {
        let mut raw = Raw::open_at(world.server.public, raw::V1, path).await;
        raw.joined("realtime:a", &session, json!([table("fences")]))
            .await;
        let fence = world.fence("org_1").await;
        raw.until_fence(fence).await;
    }
}

/// In which organization names of channels are meant: that of the address, else that of the topic, else the first.
#[tokio::test]
async fn supabase_names_of_channels_mean_something_in_one_organization() {
    let rule = "SELECT rowcast.define_channel('room:*', 'public');";
    let world = World::prepared(&format!("{TRACK} {rule}"), &[]).await;
    world.add_member("u1", "org_1", "member").await;
    drop(world.member("u1", "org_2").await);
    let session = token::session("u1");
    let config = json!({"config": {"private": true}, "access_token": session});
    for vsn in raw::EACH {
        for (more, first, organization) in [
            ("&organization=org_2", "realtime:room:1", "org_2"),
            ("", "realtime:org:org_2", "org_2"),
            ("", "realtime:room:1", "org_1"),
        ] {
            let path = format!("{}{more}", path(vsn, PUBLISHABLE));
            let mut raw = Raw::open_at(world.server.public, vsn, &path).await;
            for topic in [first, "realtime:room:1"] {
                let (reply, _) = raw.join_with(topic, config.clone()).await;
                assert_eq!(reply.status(), "ok", "{}", reply.text);
            }
            for say in ["org_1", "org_2"] {
                let sql = format!(
                    r#"SELECT rowcast.send('room:1', 'said', '{{"of": "{say}"}}', '{say}')"#
                );
                world.exec(&sql).await;
            }
            let said = raw
                .until("a broadcast", |said| said.event == "broadcast")
                .await;
            assert_eq!(
                said.payload["payload"]["of"], organization,
                "{more} {first} {vsn}"
            );
        }
        // Of another organization: he is told so, and hears nothing of it.
        let path = format!("{}&organization=org_3", path(vsn, PUBLISHABLE));
        let mut raw = Raw::open_at(world.server.public, vsn, &path).await;
        let (reply, _) = raw.join_with("realtime:room:1", config.clone()).await;
        assert!(
            reply.reason().starts_with("Unauthorized: "),
            "{}",
            reply.text
        );
    }
}

/// A fresh token of the same user: rows go on, and the service says so.
#[tokio::test]
async fn supabase_a_fresh_token_keeps_the_channel() {
    let world = World::prepared(TRACK, &[PUNCTUAL]).await;
    drop(world.member("u1", "org_1").await);
    for library in EACH {
        let end = token::now() + 3;
        let short = token::sign(&json!({"sub": "u1", "role": "authenticated", "exp": end}));
        let mut js = Js::connect(&world, library, PUBLISHABLE, json!({})).await;
        js.set_auth(&short).await;
        js.listen("org:org_1", &[("rows", table("labels"))]).await;
        js.set_auth(&token::session("u1")).await;
        until("the first token has ended", async || token::now() > end).await;
        world
            .exec("INSERT INTO labels VALUES (1, 'org_1', 'x'); DELETE FROM labels")
            .await;
        let events = js.so_far(&world, "org_1").await;
        assert_eq!(
            told(&events),
            ["rows INSERT 1", "rows DELETE 1"],
            "{library:?}"
        );
        assert!(!js.has(|event| event["event"] == "status"), "{library:?}");
    }
}

/// A token that ends without a fresh one: the channel is told so and hears nothing more, until there is one.
#[tokio::test]
async fn supabase_an_expired_token_ends_the_channel() {
    let world = World::prepared(TRACK, &[PUNCTUAL]).await;
    drop(world.member("u1", "org_1").await);
    for library in EACH {
        let short = token::sign(&json!({"sub": "u1", "exp": token::now() + 3}));
        let mut js = Js::connect(&world, library, PUBLISHABLE, json!({})).await;
        js.set_auth(&short).await;
        let rows = [("rows", table("labels"))];
        js.listen("org:org_1", &rows).await;
        let is_end =
            |event: &Value| event["name"] == "system" && event["payload"]["status"] == "error";
        let said = js.take("the end of the token", is_end).await;
        let message = said["payload"]["message"].as_str().unwrap();
        assert!(message.contains("expired"), "{library:?}: {message}");
        // The socket ends with it; the client dials again, and joins with the token that it has.
        js.take("that it is told why", |event| {
            let error = event["error"].as_str().unwrap_or_default();
            event["event"] == "status" && error.contains("InvalidJWTToken: Token has expired")
        })
        .await;
        // In its last second it may have come in once more.
        js.forget_statuses();
        world
            .exec("INSERT INTO labels VALUES (1, 'org_1', 'secret'); DELETE FROM labels")
            .await;
        // The service has read of it.
        let mut known = world.login("u1", "org_1").await;
        world.events_so_far(&mut known, "org_1").await;
        js.set_auth(&token::session("u1")).await;
        js.retry("org:org_1", &rows).await;
        world
            .exec("INSERT INTO labels VALUES (2, 'org_1', 'x')")
            .await;
        let events = js.so_far(&world, "org_1").await;
        assert_eq!(told(&events), ["rows INSERT 2"], "{library:?}");
        world.exec("DELETE FROM labels").await;
    }
}

/// The token of somebody else on an open socket: it is closed, and the client comes back as that one.
#[tokio::test]
async fn supabase_another_users_token_begins_anew() {
    let world = World::start().await;
    drop(world.member("anna", "org_1").await);
    drop(world.member("bert", "org_2").await);
    for library in EACH {
        let mut js = Js::of(&world, library, "anna").await;
        js.listen("mine", &[("rows", table("labels"))]).await;
        world
            .exec("INSERT INTO labels VALUES (1, 'org_1', 'x'), (2, 'org_2', 'y')")
            .await;
        assert_eq!(
            told(&js.so_far(&world, "org_1").await),
            ["rows INSERT 1"],
            "{library:?}"
        );
        js.set_auth(&token::session("bert")).await;
        js.until_some_day("mine", "SUBSCRIBED").await;
        world.exec("DELETE FROM labels").await;
        let fence = world.fence("org_2").await;
        let events = js.until_fence(fence).await;
        assert_eq!(told(&events), ["rows DELETE 2"], "{library:?}");
    }
    // And at a join, too.
    for vsn in raw::EACH {
        let mut raw = Raw::open(world.server.public, vsn).await;
        raw.joined(
            "realtime:a",
            &token::session("anna"),
            json!([table("labels")]),
        )
        .await;
        let payload = json!({"config": {"postgres_changes": [table("labels")]}, "access_token": token::session("bert")});
        raw.send(json!("9"), json!("9"), "realtime:b", "phx_join", payload)
            .await;
        raw.until_closed().await;
        let joined = raw.seen.iter().filter(|said| said.topic == "realtime:b");
        assert!(
            joined.into_iter().all(|said| said.status() != "ok"),
            "{:?}",
            raw.seen
        );
    }
}

/// The token comes from a callback, as `supabase-js` does it: also when the first join was faster than the callback.
#[tokio::test]
async fn supabase_tokens_from_a_callback() {
    let world = World::start().await;
    drop(world.member("u1", "org_1").await);
    let mut js = Js::start(NEW).await;
    let url = format!("ws://{}/realtime/v1", world.server.public);
    let options = js.options(
        PUBLISHABLE,
        json!({"callback": true, "heartbeatIntervalMs": 500}),
    );
    let connect =
        json!({"do": "connect", "url": url, "options": options, "token": token::session("u1")});
    js.call(connect).await;
    js.channel("org:org_1", json!({}), &[("rows", table("labels"))])
        .await;
    js.begin_subscribe("org:org_1").await;
    js.until_some_day("org:org_1", "SUBSCRIBED").await;
    // The next one is asked for by the heartbeat.
    let fresh =
        token::sign(&json!({"sub": "u1", "exp": token::now() + 1800, "role": "authenticated"}));
    js.call(json!({"do": "token", "token": fresh})).await;
    for _ in 0..2 {
        js.take("a heartbeat", |event| {
            event["event"] == "heartbeat" && event["status"] == "ok"
        })
        .await;
    }
    world
        .exec("INSERT INTO labels VALUES (1, 'org_1', 'x')")
        .await;
    assert_eq!(told(&js.so_far(&world, "org_1").await), ["rows INSERT 1"]);
    assert!(!js.has(|event| event["status"] == "CLOSED" || event["status"] == "CHANNEL_ERROR"));
}

/// Who signs out shows the key of the project again: the channel on which it is said ends, a join that says it is
/// refused; an opaque key is passed over, as everywhere.
#[tokio::test]
async fn supabase_a_key_of_nobody_ends_what_somebody_heard() {
    let world = World::start().await;
    drop(world.member("u1", "org_1").await);
    let (session, topic) = (token::session("u1"), "realtime:org:org_1");
    for vsn in raw::EACH {
        let mut raw = Raw::open(world.server.public, vsn).await;
        let changes = json!([table("labels"), table("fences")]);
        let join = raw.joined(topic, &session, changes.clone()).await;
        raw.push(
            &join,
            topic,
            "access_token",
            json!({"access_token": PUBLISHABLE}),
        )
        .await;
        let fence = world.fence("org_1").await;
        raw.until_fence(fence).await;
        let (reply, _) = raw
            .join("realtime:another", &anonymous(), changes.clone())
            .await;
        assert!(
            reply.reason().starts_with("Unauthorized: "),
            "{}",
            reply.text
        );
        raw.push(
            &join,
            topic,
            "access_token",
            json!({"access_token": anonymous()}),
        )
        .await;
        let closed = raw.until("the end", |said| said.event == "phx_close").await;
        assert_eq!(
            (&closed.topic[..], &closed.reference),
            (topic, &json!(join))
        );
        let why = raw
            .seen
            .iter()
            .rev()
            .find(|said| said.event == "system")
            .unwrap();
        assert_eq!(
            (&why.payload["status"], &why.payload["extension"]),
            (&json!("error"), &json!("system"))
        );
        world
            .exec("INSERT INTO labels VALUES (1, 'org_1', 'secret'); DELETE FROM labels")
            .await;
        let mut known = world.login("u1", "org_1").await;
        world.events_so_far(&mut known, "org_1").await;
        assert_eq!(
            raw.ask("", "phoenix", "heartbeat", json!({}))
                .await
                .status(),
            "ok"
        );
        assert!(
            !String::from_utf8_lossy(&raw.bytes).contains("secret"),
            "{vsn}"
        );
        // Signed in again, on the same socket.
        raw.joined(topic, &session, changes).await;
        world
            .exec("INSERT INTO labels VALUES (2, 'org_1', 'x'); DELETE FROM labels")
            .await;
        let fence = world.fence("org_1").await;
        assert_eq!(raw.until_fence(fence).await.len(), 2, "{vsn}");
    }
}
