//! The frames of broadcasts, and those of nobody.

use serde_json::{Value, json};

use super::{
    broadcast::{heard, on, world},
    client::NEW,
    raw::{self, Raw, Said},
};
use crate::harness::token;

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
    // What shall be kept is refused, and nobody hears it: the next thing heard is another.
    let kept = json!({"type": "broadcast", "event": "kept", "payload": {}, "persist": true});
    let reply = one.ask(&first, topic, "broadcast", kept).await;
    assert_eq!(reply.status(), "error");
    assert!(reply.reason().contains("`persist`"), "{}", reply.text);
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
