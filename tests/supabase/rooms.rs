//! Who may be in a room, by unmodified libraries: the application says so, and takes it back; memberships, roles, and
//! users who sign out. MISSION G21 to G28, X19; promise 7.

use serde_json::{Value, json};

use super::client::{EACH, Js, Library, table, told};
use crate::{
    harness::{fixture::TRACK, token, world::World},
    mission::authorized,
};

const ROOM: &str = "room:1";

/// A client that hears broadcasts of a topic; `private` as an application says it that wants to be sure.
async fn hear(js: &mut Js, topic: &str, rows: &[(&str, Value)]) {
    let channel =
        json!({"do": "channel", "channel": topic, "topic": topic, "config": {"private": true}});
    js.call(channel).await;
    js.on(topic, "system", "system", json!({})).await;
    js.on(topic, "heard", "broadcast", json!({"event": "*"}))
        .await;
    for (name, filter) in rows {
        js.on(topic, name, "postgres_changes", filter.clone()).await;
    }
    js.begin_subscribe(topic).await;
}

async fn said(world: &World, n: i64) {
    let say = format!(r#"SELECT rowcast.send('{ROOM}', 'said', '{{"n": {n}}}', 'org_1')"#);
    world.exec(&say).await;
}

async fn number(js: &mut Js) -> Value {
    js.callback("heard").await["payload"]["n"].clone()
}

/// The end of a channel as an application sees it: why, and that it is closed.
async fn ended(js: &mut Js, library: Library) -> String {
    let is_end = |event: &Value| event["name"] == "system" && event["payload"]["status"] == "error";
    let told = js.take("why the channel ends", is_end).await;
    assert_eq!(told["payload"]["extension"], "system", "{library:?}");
    js.until_some_day(ROOM, "CLOSED").await;
    told["payload"]["message"].as_str().unwrap().to_owned()
}

/// MISSION G21, G24, G27, G28, X19: the application lets in and keeps out, in its own words; what it takes back ends in
/// the order of the log, and who stays misses nothing.
#[tokio::test]
async fn g21_g27_g28_x19_supabase_the_application_says_who_may_be_in_a_room() {
    let world = authorized::world("").await;
    for user in ["anna", "bert", "dora"] {
        drop(world.member(user, "org_1").await);
    }
    for (round, library) in EACH.into_iter().enumerate() {
        let mut people = Vec::new();
        for user in ["anna", "bert"] {
            let mut js = Js::of(&world, library, user).await;
            hear(&mut js, ROOM, &[]).await;
            js.until_status(ROOM, "SUBSCRIBED").await;
            people.push(js);
        }
        let mut dora = Js::of(&world, library, "dora").await;
        hear(&mut dora, ROOM, &[]).await;
        let (status, error) = dora.status(ROOM).await;
        assert_eq!(status, "CHANNEL_ERROR", "{library:?}");
        assert!(error.contains("Not a member of this room"), "{error}");
        said(&world, 1).await;
        // One is taken off; what is said behind it he does not hear, though he asks again.
        let epoch = 10 + round;
        world
            .exec(&format!(
                "BEGIN; DELETE FROM app.members WHERE user_id = 'anna'; UPDATE app.rooms SET epoch = {epoch} WHERE id = '1';
                 SELECT rowcast.revoke('{ROOM}', {epoch}, 'thrown out', organization => 'org_1'); COMMIT"
            ))
            .await;
        said(&world, 2).await;
        let [anna, bert] = &mut people[..] else {
            unreachable!()
        };
        assert_eq!(number(anna).await, 1, "{library:?}");
        let why = ended(anna, library).await;
        assert!(!why.is_empty());
        assert_eq!(
            [number(bert).await, number(bert).await],
            [1, 2],
            "{library:?}"
        );
        said(&world, 3).await;
        assert_eq!(number(bert).await, 3, "{library:?}");
        assert!(!anna.has(|event| event["name"] == "heard"), "{library:?}");
        assert!(!bert.has(|event| event["event"] == "status"), "{library:?}");
        world
            .exec("INSERT INTO app.members VALUES ('1', 'anna')")
            .await;
    }
}

/// Promise 7: who is removed from the organization, or loses the role that a room wants, hears nothing more of it; with
/// rows on the same channel, only the room goes.
#[tokio::test]
async fn supabase_promise_07_rooms_end_with_memberships_and_roles() {
    let rule = "SELECT rowcast.define_channel('room:*', 'role', roles => '{staff}');";
    let world = World::prepared(&format!("{TRACK} {rule}"), &[]).await;
    for library in EACH {
        for (with_rows, end) in [
            (false, "DELETE FROM rowcast.memberships WHERE user_id = "),
            (
                false,
                "UPDATE rowcast.memberships SET role = 'member' WHERE user_id = ",
            ),
            (
                true,
                "UPDATE rowcast.memberships SET role = 'member' WHERE user_id = ",
            ),
        ] {
            let user = format!("u-{}-{with_rows}-{}", library.version, end.len());
            let mut js = Js::member_as(&world, library, &user, "org_1", "staff").await;
            let rows = [("rows", table("labels")), ("fence", table("fences"))];
            hear(&mut js, ROOM, if with_rows { &rows } else { &[] }).await;
            js.until_status(ROOM, "SUBSCRIBED").await;
            said(&world, 1).await;
            world.exec(&format!("{end} '{user}'")).await;
            said(&world, 2).await;
            assert_eq!(number(&mut js).await, 1, "{library:?}");
            if with_rows {
                world
                    .exec("INSERT INTO labels VALUES (1, 'org_1', 'x'); DELETE FROM labels")
                    .await;
                let events: Vec<_> = (js.so_far(&world, "org_1").await.into_iter())
                    .filter(|event| event.0 != "heard" || event.1["payload"]["n"] != 1)
                    .collect();
                assert_eq!(
                    told(&events),
                    ["rows INSERT 1", "rows DELETE 1"],
                    "{library:?}"
                );
                let is_end = |event: &Value| {
                    event["name"] == "system" && event["payload"]["status"] == "error"
                };
                assert!(
                    js.has(is_end),
                    "he is told that the room is closed to him: {library:?}"
                );
            } else {
                ended(&mut js, library).await;
                let mut known =
                    Js::member_as(&world, library, &format!("k-{user}"), "org_1", "staff").await;
                hear(&mut known, ROOM, &[]).await;
                known.until_status(ROOM, "SUBSCRIBED").await;
                said(&world, 3).await;
                while number(&mut known).await != 3 {}
                assert!(!js.has(|event| event["name"] == "heard"), "{library:?}");
            }
        }
    }
}

/// Who signs out shows the key of the project again: what he heard as somebody ends, and nothing comes behind it.
#[tokio::test]
async fn supabase_who_signs_out_hears_nothing_more() {
    let world = World::prepared(TRACK, &[]).await;
    drop(world.member("u1", "org_1").await);
    let anonymous = token::sign(&json!({"role": "anon", "exp": token::now() + 3600}));
    for library in EACH {
        let mut js = Js::of(&world, library, "u1").await;
        js.listen("org:org_1", &[("rows", table("labels"))]).await;
        js.set_auth(&anonymous).await;
        js.until_some_day("org:org_1", "CLOSED").await;
        world
            .exec("INSERT INTO labels VALUES (1, 'org_1', 'secret'); DELETE FROM labels")
            .await;
        let mut known = world.login("u1", "org_1").await;
        world.events_so_far(&mut known, "org_1").await;
        // Signed in again, he begins where he stands.
        js.set_auth(&token::session("u1")).await;
        let rows = [("rows", table("labels"))];
        js.channel("org:org_1", json!({}), &rows).await;
        js.begin_subscribe("org:org_1").await;
        js.until_some_day("org:org_1", "SUBSCRIBED").await;
        world
            .exec("INSERT INTO labels VALUES (2, 'org_1', 'x')")
            .await;
        let events = js.so_far(&world, "org_1").await;
        assert_eq!(told(&events), ["rows INSERT 2"], "{library:?}");
        world.exec("DELETE FROM labels").await;
    }
}
