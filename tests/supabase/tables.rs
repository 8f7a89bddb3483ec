//! Tables of every kind: untracked ones, those with odd names and large rows, those that change; and bindings that are
//! equal.

use serde_json::{Value, json};

use super::client::{EACH, Js, NEW, table, told};
use crate::harness::{fixture::TRACK, world::World};

/// A table that is not tracked, or is not there, or a binding that names nothing: the join succeeds, and what
/// is wrong is said with what mends it; the other bindings work. When it is tracked later, that is followed.
#[tokio::test]
async fn supabase_untracked_tables_are_told() {
    let world = World::prepared(
        &format!("{TRACK} CREATE TABLE unknown_to_us (id int PRIMARY KEY, organization_id text);"),
        &[],
    )
    .await;
    for library in EACH {
        let user = format!("u-{}", library.version);
        let mut js = Js::member(&world, library, &user, "org_1").await;
        js.listen(
            "x",
            &[("lost", table("unknown_to_us")), ("rows", table("labels"))],
        )
        .await;
        let mut said = Vec::new();
        for _ in 0..2 {
            said.push(js.system().await);
        }
        let error = said.iter().find(|said| said.0 == "error");
        let error = error.unwrap_or_else(|| panic!("{said:?}"));
        assert!(error.1.contains("unknown_to_us"), "{said:?}");
        assert!(error.1.contains("rowcast.track"), "{said:?}");
        assert!(
            said.contains(&("ok".into(), "Subscribed to PostgreSQL".into())),
            "{said:?}"
        );
        world
            .exec("INSERT INTO unknown_to_us VALUES (1, 'org_1'); INSERT INTO labels VALUES (1, 'org_1', 'x'); DELETE FROM labels; DELETE FROM unknown_to_us")
            .await;
        let events = js.so_far(&world, "org_1").await;
        assert_eq!(
            told(&events),
            ["rows INSERT 1", "rows DELETE 1"],
            "{library:?}"
        );
    }
}

/// Bindings that are equal, which older libraries send: each callback is called once for each row.
#[tokio::test]
async fn supabase_equal_bindings_are_told_once_each() {
    let world = World::start().await;
    for library in EACH {
        let user = format!("u-{}", library.version);
        let mut js = Js::member(&world, library, &user, "org_1").await;
        let equal = [
            ("one", table("labels")),
            ("two", table("labels")),
            ("three", table("orders")),
        ];
        js.listen("org:org_1", &equal).await;
        world
            .exec("INSERT INTO labels VALUES (1, 'org_1', 'x'); DELETE FROM labels")
            .await;
        let mut events = told(&js.so_far(&world, "org_1").await);
        events.sort_unstable();
        // The newer ones leave out the second by themselves.
        let right = [
            "one DELETE 1",
            "one INSERT 1",
            "two DELETE 1",
            "two INSERT 1",
        ];
        let right = &right[..if library == NEW { 2 } else { 4 }];
        assert_eq!(events, right, "{library:?}");
    }
}

/// Names that are no words, and rows that are larger than Supabase tells.
#[tokio::test]
async fn supabase_odd_names_and_large_rows() {
    let tables = r#"CREATE SCHEMA "Büro";
        CREATE TABLE "Büro"."Odd ""Name"", of 1" ("the id" int PRIMARY KEY, organization_id text, "a b" text, "x.y" int, "ü""q" text);
        SELECT rowcast.track('"Büro"."Odd ""Name"", of 1"', organization_column => 'organization_id');"#;
    let world = World::prepared(&format!("{TRACK} {tables}"), &[]).await;
    let odd = r#"Odd "Name", of 1"#;
    for library in EACH {
        let user = format!("u-{}", library.version);
        let mut js = Js::member(&world, library, &user, "org_1").await;
        let of =
            |filter: &str| json!({"event": "*", "schema": "Büro", "table": odd, "filter": filter});
        let bindings = [
            ("all", json!({"event": "*", "schema": "Büro", "table": odd})),
            ("a b", of("a b=eq.one")),
            ("x.y", of("x.y=gt.1")),
            ("q", of(r#"ü"q=eq."ä, (b)""#)),
            ("large", table("materials")),
        ];
        js.listen("Büro: \"1\"", &bindings).await;
        world
            .exec(
                r#"INSERT INTO "Büro"."Odd ""Name"", of 1" VALUES (1, 'org_1', 'one', 1, 'ä, (b)'), (2, 'org_1', 'two', 2, NULL);
                   DELETE FROM "Büro"."Odd ""Name"", of 1";
                   INSERT INTO materials VALUES ('m', 'org_1', repeat('x', 1500000)); DELETE FROM materials"#,
            )
            .await;
        let events = js.so_far(&world, "org_1").await;
        let of = |name: &str| -> Vec<String> {
            let mine = events
                .iter()
                .filter(|event| event.0 == name && event.1["eventType"] == "INSERT");
            mine.map(|event| event.1["new"]["the id"].to_string())
                .collect()
        };
        assert_eq!(of("all"), ["1", "2"], "{library:?}");
        assert_eq!(
            (of("a b"), of("x.y"), of("q")),
            (vec!["1".into()], vec!["2".into()], vec!["1".into()]),
            "{library:?}"
        );
        let row = events.iter().find(|event| event.0 == "all").unwrap();
        assert_eq!(
            (&row.1["schema"], &row.1["table"]),
            (&json!("Büro"), &json!(odd))
        );
        assert_eq!(row.1["new"]["ü\"q"], "ä, (b)");
        let large = events.iter().find(|event| event.0 == "large").unwrap();
        assert_eq!(large.1["new"]["title"].as_str().unwrap().len(), 1_500_000);
    }
}

/// Columns that come and go while a channel is joined.
#[tokio::test]
async fn supabase_tables_change_while_a_channel_is_joined() {
    let world = World::start().await;
    for library in EACH {
        let user = format!("u-{}", library.version);
        let mut js = Js::member(&world, library, &user, "org_1").await;
        js.listen("org:org_1", &[("rows", table("labels"))]).await;
        world
            .exec("ALTER TABLE labels ADD COLUMN size bigint, ADD COLUMN tags text[]")
            .await;
        world
            .exec("INSERT INTO labels VALUES (1, 'org_1', 'x', 5, '{a}')")
            .await;
        world
            .exec("ALTER TABLE labels DROP COLUMN tags, ALTER COLUMN size TYPE text")
            .await;
        world.exec("UPDATE labels SET size = '6'").await;
        world.exec("ALTER TABLE labels DROP COLUMN size").await;
        world.exec("DELETE FROM labels").await;
        let events = js.so_far(&world, "org_1").await;
        let rows: Vec<&Value> = events.iter().map(|event| &event.1["new"]).collect();
        let right = [
            json!({"id": 1, "organization_id": "org_1", "name": "x", "size": 5, "tags": ["a"]}),
            json!({"id": 1, "organization_id": "org_1", "name": "x", "size": "6"}),
            json!({}),
        ];
        assert_eq!(rows, right.iter().collect::<Vec<_>>(), "{library:?}");
    }
}
