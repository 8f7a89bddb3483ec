//! Who is there, by unmodified libraries: the key is who somebody is, whatever his client says. MISSION C6, C7, X26.

use serde_json::{Value, json};

use super::client::{EACH, Js, Library, NEW, OLD};
use crate::harness::{
    client::Client,
    fixture::TRACK,
    until,
    world::{World, subscribe},
};

const ROOM: &str = "room:1";
const RULES: &str = "
    SELECT rowcast.define_channel('room:*', 'public', presence => true);
    SELECT rowcast.define_channel('quiet:*', 'public');";

async fn world() -> World {
    World::prepared(&format!("{TRACK} {RULES}"), &[]).await
}

/// A member in the room, who listens to who is there.
async fn on(world: &World, library: Library, user: &str, organization: &str) -> Js {
    let mut js = Js::member(world, library, user, organization).await;
    enter(&mut js, ROOM, "somebody-else").await;
    js
}

async fn enter(js: &mut Js, topic: &str, key: &str) {
    js.channel(topic, json!({"presence": {"key": key}}), &[])
        .await;
    for event in ["sync", "join", "leave"] {
        js.on(topic, event, "presence", json!({"event": event}))
            .await;
    }
    js.subscribe(topic).await;
}

async fn track(js: &mut Js, payload: Value) {
    let track = json!({"do": "track", "channel": ROOM, "payload": payload});
    assert_eq!(js.call(track).await, "ok");
}

/// Who is there as the library has it: each key, with what its connections show.
async fn there(js: &mut Js) -> Value {
    let state = js
        .call(json!({"do": "presenceState", "channel": ROOM}))
        .await;
    let mut all = json!({});
    for (key, metas) in state.as_object().unwrap() {
        let mut shown = metas.clone();
        for meta in shown.as_array_mut().unwrap() {
            let meta = meta.as_object_mut().unwrap();
            assert!(
                meta.remove("presence_ref")
                    .is_some_and(|own| own.is_string())
            );
        }
        all[key] = shown;
    }
    all
}

async fn until_there(js: &mut Js, right: Value) {
    let mut last = Value::Null;
    let what = format!("{right} are there for {:?}", js.library);
    until(&what, async || {
        last = there(js).await;
        last == right
    })
    .await;
}

/// MISSION C6, C7: somebody comes, changes what he shows, and goes; both libraries and a native client have the same list.
#[tokio::test]
async fn c06_c07_supabase_presence_by_libraries() {
    let world = world().await;
    let mut anna = on(&world, NEW, "anna", "org_1").await;
    let mut bert = on(&world, OLD, "bert", "org_1").await;
    let mut foreign = on(&world, NEW, "carl", "org_2").await;
    let mut native = world.member("nora", "org_1").await;
    let reply = native.ask(subscribe(ROOM, json!({"presence": true}))).await;
    assert!(reply.is("subscribed"), "{}", reply.text);
    for js in [&mut anna, &mut bert, &mut foreign] {
        js.callback("sync").await;
        until_there(js, json!({})).await;
    }
    track(&mut foreign, json!({"of": "org_2"})).await;
    track(&mut anna, json!({"cursor": {"x": 1}, "user_id": "forged"})).await;
    let right = json!({"anna": [{"cursor": {"x": 1}, "user_id": "forged"}]});
    for js in [&mut anna, &mut bert] {
        until_there(js, right.clone()).await;
        let came = js.callback("join").await;
        assert_eq!(came["key"], "anna", "{came}");
        assert_eq!(came["newPresences"][0]["cursor"], json!({"x": 1}), "{came}");
    }
    // He changes what he shows: one of his, still.
    track(&mut bert, json!({"n": 1})).await;
    track(&mut bert, json!({"n": 2})).await;
    let both = json!({"anna": right["anna"], "bert": [{"n": 2}]});
    for js in [&mut anna, &mut bert] {
        until_there(js, both.clone()).await;
    }
    let seen = async |native: &mut Client, name: &str| {
        native
            .until("a native list", |frame| {
                frame.text.contains(name) && frame.text_of("type").starts_with("presence_")
            })
            .await
    };
    seen(&mut native, "anna").await;
    seen(&mut native, "bert").await;
    // A second connection of the same user.
    let mut again = Js::of(&world, NEW, "anna").await;
    enter(&mut again, ROOM, "").await;
    track(&mut again, json!({"device": 2})).await;
    until("anna is there twice", async || {
        there(&mut bert).await["anna"]
            .as_array()
            .is_some_and(|all| all.len() == 2)
    })
    .await;
    assert_eq!(
        again.call(json!({"do": "untrack", "channel": ROOM})).await,
        "ok"
    );
    until_there(&mut bert, both).await;
    // Without a word, and with one.
    drop(bert);
    until_there(&mut anna, right).await;
    anna.call(json!({"do": "unsubscribe", "channel": ROOM}))
        .await;
    until_there(&mut foreign, json!({"carl": [{"of": "org_2"}]})).await;
    let foreign_join = foreign.callback("join").await;
    assert_eq!(foreign_join["key"], "carl");
    assert!(!foreign.has(|event| event["name"] == "join"));
}

/// MISSION X26: where no rule gives a channel members, `track` is refused, and nobody is there.
#[tokio::test]
async fn x26_supabase_presence_only_where_a_rule_gives_members() {
    let world = world().await;
    for library in EACH {
        let user = format!("u-{}", library.version);
        let mut js = Js::member(&world, library, &user, "org_1").await;
        for topic in ["quiet:1", "org:org_1", "no-such-channel"] {
            enter(&mut js, topic, "").await;
            let track = json!({"do": "track", "channel": topic, "payload": {"n": 1}});
            assert_eq!(js.call(track).await, "error", "{topic} {library:?}");
            let state = js
                .call(json!({"do": "presenceState", "channel": topic}))
                .await;
            assert_eq!(state, json!({}), "{topic} {library:?}");
        }
        // What is no object is no state.
        enter(&mut js, ROOM, "").await;
        let track = json!({"do": "track", "channel": ROOM, "payload": [1]});
        assert_eq!(js.call(track).await, "error", "{library:?}");
    }
}

/// Promise 7: who is taken out of the organization is not there any more, and hears nothing of who is.
#[tokio::test]
async fn supabase_promise_07_who_is_removed_is_not_there_any_more() {
    let world = world().await;
    for library in EACH {
        let [anna, bert] = ["anna", "bert"].map(|name| format!("{name}-{}", library.version));
        let mut stays = on(&world, library, &anna, "org_1").await;
        let mut goes = on(&world, library, &bert, "org_1").await;
        track(&mut goes, json!({"n": 1})).await;
        until_there(&mut stays, json!({bert.as_str(): [{"n": 1}]})).await;
        world
            .exec(&format!(
                "DELETE FROM rowcast.memberships WHERE user_id = '{bert}'"
            ))
            .await;
        until_there(&mut stays, json!({})).await;
        let secret = format!("secret-{}", library.version);
        track(&mut stays, json!({"said": secret})).await;
        until_there(&mut stays, json!({anna.as_str(): [{"said": secret}]})).await;
        let track = json!({"do": "track", "channel": ROOM, "payload": {"n": 2}});
        assert_eq!(goes.call(track).await, "error", "{library:?}");
        assert!(
            !goes.has(|event| event.to_string().contains(&secret)),
            "{library:?}"
        );
    }
}
