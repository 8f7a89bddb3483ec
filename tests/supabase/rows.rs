//! Rows as an unmodified client gets them: shapes, types, bindings, and that subscribed means subscribed.

use serde_json::{Value, json};

use super::{
    client::{EACH, Js, NEW, table, told},
    raw::{self, Raw},
};
use crate::harness::{
    fixture::{PROJECT_1, TRACK},
    from_env, token,
    world::World,
};

/// INSERT, UPDATE and DELETE on the Supabase path, with the fields that the library makes of them: MISSION Q8 to Q10.
#[tokio::test]
async fn supabase_rows_are_told_in_the_fields_of_the_library() {
    let world = World::start().await;
    for library in EACH {
        let user = format!("u-{}", library.version);
        let mut js = Js::member(&world, library, &user, "org_1").await;
        js.listen("org:org_1", &[("rows", table("materials"))])
            .await;
        world
            .exec(
                "INSERT INTO materials VALUES ('mat_1', 'org_1', 'News', 'draft');
                 UPDATE materials SET title = 'More news';
                 DELETE FROM materials;",
            )
            .await;
        let events = js.so_far(&world, "org_1").await;
        let expected = [
            "rows INSERT mat_1",
            "rows UPDATE mat_1",
            "rows DELETE mat_1",
        ];
        assert_eq!(told(&events), expected, "{library:?}");
        let row = |title: &str| json!({"id": "mat_1", "organization_id": "org_1", "title": title, "status": "draft", "body": null});
        let [insert, update, delete] = [0, 1, 2].map(|at| &events[at].1);
        assert_eq!(insert["new"], row("News"));
        assert_eq!(insert["old"], json!({}));
        assert_eq!(update["new"], row("More news"));
        assert_eq!(update["old"], json!({"id": "mat_1"}));
        assert_eq!(delete["new"], json!({}));
        assert_eq!(delete["old"], json!({"id": "mat_1"}));
        for (_, event) in &events {
            assert_eq!(event["schema"], "public");
            assert_eq!(event["table"], "materials");
            assert_eq!(event["errors"], Value::Null);
            let at = event["commit_timestamp"].as_str().unwrap();
            assert!(
                at.ends_with('Z') && at.len() == "2026-11-21T06:49:58.623Z".len(),
                "{at}"
            );
        }
    }
}

/// The same as it is on the wire: which members there are, the names of the types, the order of columns.
#[tokio::test]
async fn supabase_rows_on_the_wire() {
    let world = World::start().await;
    drop(world.member("u1", "org_1").await);
    for vsn in raw::EACH {
        let mut raw = Raw::open(world.server.public, vsn).await;
        let binding = table("tasks");
        let topic = "realtime:anything";
        let changes = json!([table("fences"), binding]);
        let (reply, join) = raw.join(topic, &token::session("u1"), changes).await;
        assert_eq!(reply.status(), "ok", "{}", reply.text);
        let bindings = &reply.payload["response"]["postgres_changes"];
        let id = bindings[1]["id"].clone();
        assert!(id.as_u64().is_some_and(|id| id > 0), "{bindings}");
        let mut echoed = binding.clone();
        echoed["id"] = id.clone();
        assert_eq!(bindings[1], echoed);
        let system = raw
            .until("the system message", |said| said.event == "system")
            .await;
        assert_eq!(
            system.payload,
            json!({"extension": "postgres_changes", "status": "ok", "message": "Subscribed to PostgreSQL", "channel": "anything"})
        );
        if vsn == raw::V2 {
            assert_eq!(reply.join_ref, json!(join));
            assert_eq!(system.join_ref, json!(join));
        }
        world
            .exec(&format!(
                "INSERT INTO projects VALUES ('{PROJECT_1}', 'org_1', 'p'); INSERT INTO tasks VALUES (9007199254740993, '{PROJECT_1}', 't');
                 UPDATE tasks SET done = true; DELETE FROM tasks; DELETE FROM projects"
            ))
            .await;
        let fence = world.fence("org_1").await;
        let rows = raw.until_fence(fence).await;
        let columns = json!([
            {"name": "id", "type": "int8"}, {"name": "project_id", "type": "uuid"},
            {"name": "title", "type": "text"}, {"name": "done", "type": "bool"}]);
        let types: Vec<&Value> = rows.iter().map(|row| &row["type"]).collect();
        assert_eq!(types, ["INSERT", "UPDATE", "DELETE"]);
        for row in &rows {
            assert_eq!(row["columns"], columns, "{row}");
            assert_eq!(row["errors"], Value::Null);
            assert!(row.as_object().unwrap().contains_key("errors"));
        }
        assert!(rows[0].get("old_record").is_none(), "{}", rows[0]);
        assert!(rows[2].get("record").is_none(), "{}", rows[2]);
        // Digits are those of the database.
        assert_eq!(
            rows[1]["old_record"],
            json!({"id": 9_007_199_254_740_993_u64})
        );
        let said = raw
            .seen
            .iter()
            .filter(|said| said.event == "postgres_changes");
        for said in said.filter(|said| said.payload["data"]["table"] == "tasks") {
            assert_eq!(said.topic, topic);
            assert_eq!(said.join_ref, Value::Null);
            assert_eq!(said.reference, Value::Null);
            assert_eq!(said.payload["ids"], json!([id]));
        }
    }
}

const KINDS: &str = "
    CREATE TYPE mood AS ENUM ('glad', 'sad');
    CREATE TABLE kinds (id bigint PRIMARY KEY, organization_id text, at timestamptz, local timestamp, day date,
        doc jsonb, old_doc json, list int[], words text[], bytes bytea, nothing text, mood mood, flag bool,
        amount numeric(10, 2), float float8, uid uuid, span int4range, address inet);
    SELECT rowcast.track('fences', organization_column => 'organization_id');
    SELECT rowcast.track('kinds', organization_column => 'organization_id');";

/// Values of the types that applications use, after the library has converted them by the names of the types.
#[tokio::test]
async fn supabase_values_of_many_types() {
    let world = World::prepared(KINDS, &[]).await;
    for library in EACH {
        let user = format!("u-{}", library.version);
        let mut js = Js::member(&world, library, &user, "org_1").await;
        js.listen("types", &[("rows", table("kinds"))]).await;
        world
            .exec(
                r#"INSERT INTO kinds VALUES (42, 'org_1', '2026-11-21 10:34:56.1+00', '2026-11-21 12:34:56.123456',
                    '2026-11-21', '{"a": [1, null, "x"]}', '{"b": true}', '{1,2,NULL}', '{"a b",c}', '\x0001ff', NULL, 'sad',
                    true, 12.50, 1.5, '11111111-1111-4111-8111-111111111111', '[1,5)', '10.0.0.1');
                   DELETE FROM kinds"#,
            )
            .await;
        let events = js.so_far(&world, "org_1").await;
        assert_eq!(
            events[0].1["new"],
            json!({
                "id": 42, "organization_id": "org_1", "at": "2026-11-21T10:34:56.1+00:00",
                "local": "2026-11-21T12:34:56.123456", "day": "2026-11-21", "doc": {"a": [1, null, "x"]},
                "old_doc": {"b": true}, "list": [1, 2, null], "words": ["a b", "c"], "bytes": "0001ff",
                "nothing": null, "mood": "sad", "flag": true, "amount": 12.5, "float": 1.5,
                "uid": "11111111-1111-4111-8111-111111111111", "span": "[1,5)", "address": "10.0.0.1"
            }),
            "{library:?}"
        );
    }
    // The names of the types, by which the library converts.
    let mut raw = Raw::open(world.server.public, raw::V2).await;
    let changes = json!([table("fences"), table("kinds")]);
    raw.joined("realtime:types", &token::session("u-2.119.0"), changes)
        .await;
    world
        .exec("INSERT INTO kinds (id, organization_id) VALUES (43, 'org_1')")
        .await;
    let fence = world.fence("org_1").await;
    let row = raw.until_fence(fence).await.remove(0);
    let types: Vec<&str> = (row["columns"].as_array().unwrap().iter())
        .map(|column| column["type"].as_str().unwrap())
        .collect();
    let expected = [
        "int8",
        "text",
        "timestamptz",
        "timestamp",
        "date",
        "jsonb",
        "json",
        "_int4",
        "_text",
        "bytea",
        "text",
        "mood",
        "bool",
        "numeric",
        "float8",
        "uuid",
        "int4range",
        "inet",
    ];
    assert_eq!(types, expected);
}

/// With the whole old row in the log, it is told; a large value that was left alone is not null.
#[tokio::test]
async fn supabase_whole_old_rows_and_large_values() {
    let world = World::prepared(
        &format!(
            "{TRACK} ALTER TABLE orders REPLICA IDENTITY FULL; ALTER TABLE materials ALTER body SET STORAGE EXTERNAL;"
        ),
        &[],
    )
    .await;
    for library in EACH {
        let user = format!("u-{}", library.version);
        let mut js = Js::member(&world, library, &user, "org_1").await;
        js.listen(
            "org:org_1",
            &[
                ("orders", table("orders")),
                ("materials", table("materials")),
            ],
        )
        .await;
        world
            .exec(
                "INSERT INTO orders VALUES (1, 'org_1', 10.00); UPDATE orders SET total = 20.00; DELETE FROM orders;
                 INSERT INTO materials VALUES ('m', 'org_1', 'a', 'b', repeat('x', 9000)); UPDATE materials SET title = 'c'; DELETE FROM materials",
            )
            .await;
        let events = js.so_far(&world, "org_1").await;
        let before = json!({"id": 1, "organization_id": "org_1", "total": 10});
        let after = json!({"id": 1, "organization_id": "org_1", "total": 20});
        assert_eq!(events[1].1["old"], before);
        assert_eq!(events[1].1["new"], after);
        assert_eq!(events[2].1["old"], after);
        assert_eq!(events[3].1["new"]["body"].as_str().unwrap().len(), 9000);
        assert_eq!(events[4].1["new"].get("body"), None);
        assert_eq!(events[4].1["new"]["title"], "c");
    }
}

/// Several bindings on one channel: each gets what it asked for, and no other's.
#[tokio::test]
async fn supabase_bindings_by_event_table_schema_and_columns() {
    let world = World::prepared(
        &format!(
            "{TRACK} CREATE SCHEMA billing; CREATE TABLE billing.invoices (id int PRIMARY KEY, organization_id text);
             SELECT rowcast.track('billing.invoices', organization_column => 'organization_id');"
        ),
        &[],
    )
    .await;
    for library in EACH {
        let user = format!("u-{}", library.version);
        let mut js = Js::member(&world, library, &user, "org_1").await;
        let bindings = [
            (
                "inserts",
                json!({"event": "INSERT", "schema": "public", "table": "materials"}),
            ),
            (
                "updates",
                json!({"event": "UPDATE", "schema": "public", "table": "materials"}),
            ),
            (
                "deletes",
                json!({"event": "DELETE", "schema": "public", "table": "materials"}),
            ),
            ("labels", table("labels")),
            ("public", json!({"event": "INSERT", "schema": "public"})),
            (
                "starred",
                json!({"event": "DELETE", "schema": "public", "table": "*"}),
            ),
            ("billing", json!({"event": "*", "schema": "billing"})),
        ];
        js.listen("room:1", &bindings).await;
        world
            .exec(
                "INSERT INTO materials VALUES ('a', 'org_1', 't'); UPDATE materials SET title = 'u'; DELETE FROM materials;
                 INSERT INTO labels VALUES (7, 'org_1', 'l'); DELETE FROM labels;
                 INSERT INTO billing.invoices VALUES (1, 'org_1'); DELETE FROM billing.invoices",
            )
            .await;
        let mut events = told(&js.so_far(&world, "org_1").await);
        // Which of the bindings of one change comes first, nobody says.
        events.sort_unstable();
        let mut expected = [
            "inserts INSERT a",
            "public INSERT a",
            "updates UPDATE a",
            "deletes DELETE a",
            "starred DELETE a",
            "labels INSERT 7",
            "public INSERT 7",
            "labels DELETE 7",
            "starred DELETE 7",
            "billing INSERT 1",
            "billing DELETE 1",
        ];
        expected.sort_unstable();
        assert_eq!(events, expected, "{library:?}");
    }
    // `select`, which only the newer know.
    let mut js = Js::of(&world, NEW, "u-2.119.0").await;
    let select =
        json!({"event": "*", "schema": "public", "table": "materials", "select": ["title"]});
    js.listen("room:2", &[("few", select), ("all", table("materials"))])
        .await;
    world
        .exec("INSERT INTO materials VALUES ('a', 'org_1', 't', 's'); UPDATE materials SET status = 'r'; UPDATE materials SET title = 'u'; DELETE FROM materials")
        .await;
    let events = js.so_far(&world, "org_1").await;
    let of = |name: &str| -> Vec<&Value> {
        let mine = events.iter().filter(|event| event.0 == name);
        mine.map(|event| &event.1).collect()
    };
    assert_eq!(of("all").len(), 4);
    let few = of("few");
    // The key is always there, and a change of other columns is told, too.
    let images: Vec<[&Value; 2]> =
        (few.iter().map(|event| [&event["new"], &event["old"]])).collect();
    let (key, none) = (json!({"id": "a"}), json!({}));
    let [before, after] = ["t", "u"].map(|title| json!({"id": "a", "title": title}));
    let right = [
        [&before, &none],
        [&before, &key],
        [&after, &key],
        [&none, &key],
    ];
    assert_eq!(images, right);
}

/// Promise 4 on the Supabase path: a row that is written right after SUBSCRIBED arrives, every time.
#[tokio::test]
async fn supabase_promise_04_a_row_right_after_subscribed_arrives() {
    // Nobody joins as often as this.
    let env = [
        ("ROWCAST__LIMITS__MESSAGES_PER_SECOND", "100000"),
        ("ROWCAST__LIMITS__JOINS", "off"),
    ];
    let world = World::prepared(TRACK, &env).await;
    let times = from_env("ROWCAST_TEST_JOINS", 200);
    for library in EACH {
        let user = format!("u-{}", library.version);
        let mut js = Js::member(&world, library, &user, "org_1").await;
        for n in 0..times {
            let topic = format!("t{n}");
            js.channel(&topic, json!({}), &[]).await;
            js.on(&topic, &topic, "postgres_changes", table("labels"))
                .await;
            js.subscribe(&topic).await;
            let insert =
                format!("INSERT INTO labels VALUES ({n}, 'org_1', 'x'); DELETE FROM labels");
            world.exec(&insert).await;
            let event = js.callback(&topic).await;
            assert_eq!(event["new"]["id"], json!(n), "{library:?}");
            js.call(json!({"do": "unsubscribe", "channel": topic}))
                .await;
        }
    }
    // Under a stream of writes, too: from its place on, nothing is missing.
    let mut raw = Raw::open(world.server.public, raw::V2).await;
    let writer = world.database.connect().await;
    let writing = tokio::spawn(async move {
        for n in 0..2000 {
            writer
                .exec(&format!("INSERT INTO labels VALUES ({n}, 'org_1', 's')"))
                .await;
        }
    });
    let session = token::session("u-2.119.0");
    let mut joins = 0;
    while !writing.is_finished() {
        joins += 1;
        let topic = format!("realtime:s{joins}");
        let changes = json!([table("labels"), table("fences")]);
        let join = raw.joined(&topic, &session, changes).await;
        let mut last = None;
        for _ in 0..5 {
            let here = |said: &raw::Said| said.topic == topic && said.event == "postgres_changes";
            if writing.is_finished() {
                break;
            }
            let said = raw.until("a row", here).await;
            let id = said.payload["data"]["record"]["id"].as_i64().unwrap();
            assert!(last.is_none_or(|last| last + 1 == id), "{last:?} {id}");
            last = Some(id);
        }
        let left = raw.ask(&join, &topic, "phx_leave", json!({})).await;
        assert_eq!(left.status(), "ok");
    }
    writing.await.unwrap();
    assert!(joins > 1, "{joins}");
}
