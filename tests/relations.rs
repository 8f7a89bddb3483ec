//! Tables that change while the service runs: columns added, dropped, renamed, retyped; tables renamed
//! and dropped; values stored out of line; partitions; keys of every kind.

use serde_json::{Value, json};

use crate::harness::world::World;

async fn world() -> World {
    World::start().await
}

/// Columns come, go, change their names and types; every event shows the table as it was when written.
#[tokio::test]
async fn columns_change_while_running() {
    for storage in ["table", "log"] {
        let track =
            crate::harness::fixture::TRACK.replace(");", &format!(", storage => '{storage}');"));
        let world = World::prepared(&track, &[]).await;
        let mut client = world.member("u1", "org_1").await;
        world
            .exec(
                "INSERT INTO orders VALUES (1, 'org_1', 1);
                 ALTER TABLE orders ADD note text DEFAULT 'd';
                 INSERT INTO orders VALUES (2, 'org_1', 2, 'n');
                 ALTER TABLE orders RENAME note TO remark;
                 INSERT INTO orders VALUES (3, 'org_1', 3, 'r');
                 ALTER TABLE orders ALTER total TYPE text;
                 INSERT INTO orders VALUES (4, 'org_1', 'four', 'x');
                 ALTER TABLE orders DROP remark;
                 BEGIN; ALTER TABLE orders ADD extra jsonb; UPDATE orders SET extra = '{\"a\": 1}' WHERE id = 4; COMMIT;
                 DELETE FROM orders WHERE id = 1",
            )
            .await;
        let events = world.events_so_far(&mut client, "org_1").await;
        let rows: Vec<Value> = events
            .iter()
            .map(|event| event.json["new"].clone())
            .collect();
        assert_eq!(
            rows,
            [
                json!({ "id": 1, "organization_id": "org_1", "total": 1.0 }),
                json!({ "id": 2, "organization_id": "org_1", "total": 2.0, "note": "n" }),
                json!({ "id": 3, "organization_id": "org_1", "total": 3.0, "remark": "r" }),
                json!({ "id": 4, "organization_id": "org_1", "total": "four", "remark": "x" }),
                json!({ "id": 4, "organization_id": "org_1", "total": "four", "extra": { "a": 1 } }),
                Value::Null,
            ],
            "{storage}"
        );
        // Nobody has to read anything again for that.
        assert!(!client.seen.iter().any(|frame| frame.is("resync")));
    }
}

/// The column that says the organization is renamed: the rule has to follow or the rows are unmapped;
/// in no case does a write fail or an event go astray.
#[tokio::test]
async fn a_renamed_organization_column_never_misroutes() {
    let world = world().await;
    let mut one = world.member("u1", "org_1").await;
    let mut two = world.member("u2", "org_2").await;
    world
        .exec(
            "ALTER TABLE orders RENAME organization_id TO tenant;
             INSERT INTO orders VALUES (1, 'org_1', 1);
             SELECT rowcast.track('orders', organization_column => 'tenant');
             INSERT INTO orders VALUES (2, 'org_1', 1)",
        )
        .await;
    let events = world.events_so_far(&mut one, "org_1").await;
    assert!(
        events.iter().any(|event| event.json["new"]["id"] == 2),
        "{events:#?}"
    );
    assert!(world.events_so_far(&mut two, "org_2").await.is_empty());
}

/// A renamed table is told under its new name, or not at all until it is tracked again; a dropped one
/// disturbs nobody, and its name can be used again.
#[tokio::test]
async fn tables_are_renamed_and_dropped() {
    let world = world().await;
    let mut client = world.member("u1", "org_1").await;
    world
        .exec(
            "ALTER TABLE orders RENAME TO purchases;
             INSERT INTO purchases VALUES (1, 'org_1', 1)",
        )
        .await;
    let events = world.events_so_far(&mut client, "org_1").await;
    assert_eq!(events.len(), 1, "{events:#?}");
    assert_eq!(events[0].table(), "purchases");
    world
        .exec(
            "DROP TABLE purchases;
             INSERT INTO materials VALUES ('m', 'org_1');
             CREATE TABLE orders (id int PRIMARY KEY, organization_id text, other bool);
             SELECT rowcast.track('orders');
             INSERT INTO orders VALUES (1, 'org_1', true)",
        )
        .await;
    let events = world.events_so_far(&mut client, "org_1").await;
    assert_eq!(events.len(), 2, "{events:#?}");
    assert_eq!(
        events[1].json["new"],
        json!({ "id": 1, "organization_id": "org_1", "other": true })
    );
}

/// A big value that an UPDATE leaves alone is not in the log: it is listed as unchanged, never null.
#[tokio::test]
async fn unchanged_big_values_are_listed_and_not_null() {
    let world = world().await;
    world
        .exec("ALTER TABLE materials ALTER body SET STORAGE EXTERNAL")
        .await;
    let mut client = world.member("u1", "org_1").await;
    world
        .exec(
            "INSERT INTO materials VALUES ('m', 'org_1', 'a', NULL, repeat('big', 5000));
             UPDATE materials SET title = 'b';
             UPDATE materials SET body = 'small'",
        )
        .await;
    let events = world.events_so_far(&mut client, "org_1").await;
    assert_eq!(
        events[0].json["new"]["body"].as_str().unwrap().len(),
        15_000
    );
    assert_eq!(
        events[1].json["unchanged"],
        json!(["body"]),
        "{}",
        events[1].text
    );
    assert_eq!(
        events[1].json["new"],
        json!({ "id": "m", "organization_id": "org_1", "title": "b", "status": null })
    );
    assert_eq!(events[2].json["new"]["body"], "small");
    assert_eq!(events[2].json.get("unchanged"), None);
}

/// With REPLICA IDENTITY FULL the log holds it in the old row, so nothing is missing.
#[tokio::test]
async fn full_identity_fills_unchanged_values() {
    let world = world().await;
    world
        .exec("ALTER TABLE materials ALTER body SET STORAGE EXTERNAL; ALTER TABLE materials REPLICA IDENTITY FULL")
        .await;
    let mut client = world.member("u1", "org_1").await;
    world
        .exec("INSERT INTO materials VALUES ('m', 'org_1', 'a', NULL, repeat('big', 5000)); UPDATE materials SET title = 'b'")
        .await;
    let events = world.events_so_far(&mut client, "org_1").await;
    let event = &events[1];
    let whole = event.json["new"]["body"].as_str().map(str::len) == Some(15_000);
    let listed = event.json["unchanged"] == json!(["body"]);
    assert!(
        whole || listed,
        "the value is there or listed: {:.300}",
        event.text
    );
    assert_eq!(event.json["old"]["body"].as_str().unwrap().len(), 15_000);
}

/// A partitioned table is told under its own name, whichever partition a row is in, and when it moves.
#[tokio::test]
async fn partitioned_tables_are_told_under_their_own_name() {
    for storage in ["table", "log"] {
        let world = World::prepared(
            &format!(
                "SELECT rowcast.track('fences');
                 CREATE TABLE logs (id int, day int, organization_id text, PRIMARY KEY (id, day)) PARTITION BY LIST (day);
                 CREATE TABLE logs_1 PARTITION OF logs FOR VALUES IN (1);
                 CREATE TABLE logs_2 PARTITION OF logs FOR VALUES IN (2);
                 SELECT rowcast.track('logs', storage => '{storage}')"
            ),
            &[],
        )
        .await;
        let mut client = world.member("u1", "org_1").await;
        world
            .exec(
                "INSERT INTO logs VALUES (1, 1, 'org_1'), (2, 2, 'org_1');
                 UPDATE logs SET day = 2 WHERE id = 1;
                 DELETE FROM logs WHERE id = 2",
            )
            .await;
        let events = world.events_so_far(&mut client, "org_1").await;
        assert!(
            events.iter().all(|event| event.table() == "logs"),
            "{storage}: {events:#?}"
        );
        let mut rows = std::collections::BTreeSet::new();
        for event in &events {
            let key = |row: &Value| (row["id"].as_i64().unwrap(), row["day"].as_i64().unwrap());
            if event.is("invalidate") {
                panic!("{storage}: a row of a partition is a row: {}", event.text);
            }
            if !event.json["old"].is_null() {
                rows.remove(&key(&event.json["old"]));
            }
            if !event.json["new"].is_null() {
                rows.insert(key(&event.json["new"]));
            }
        }
        assert_eq!(rows, [(1, 2)].into(), "{storage}: {events:#?}");
    }
}

/// Names that need quoting, everywhere: schema, table, columns.
#[tokio::test]
async fn odd_names_are_quoted_everywhere() {
    for storage in ["table", "log"] {
        let world = World::prepared(
            &format!(
                "SELECT rowcast.track('fences');
                 CREATE SCHEMA \"My \"\"Schema\";
                 CREATE TABLE \"My \"\"Schema\".\"select\" (\"Id\" int PRIMARY KEY, \"Org of it\" text, \"a\"\"b\\c\" text);
                 SELECT rowcast.track('\"My \"\"Schema\".\"select\"', organization_column => 'Org of it', storage => '{storage}')"
            ),
            &[],
        )
        .await;
        let mut client = world.member("u1", "org_1").await;
        world
            .exec("INSERT INTO \"My \"\"Schema\".\"select\" VALUES (1, 'org_1', 'v')")
            .await;
        let events = world.events_so_far(&mut client, "org_1").await;
        assert_eq!(events.len(), 1, "{storage}: {events:#?}");
        assert_eq!(events[0].json["schema"], "My \"Schema");
        assert_eq!(events[0].json["table"], "select");
        assert_eq!(
            events[0].json["new"],
            json!({ "Id": 1, "Org of it": "org_1", "a\"b\\c": "v" })
        );
    }
}

/// Without any key nothing of the application fails, and its changes are told as far as they can be.
#[tokio::test]
async fn tables_without_a_key_keep_working() {
    for storage in ["table", "log"] {
        let world = World::prepared(
            &format!(
                "SELECT rowcast.track('fences');
                 CREATE TABLE keyless (organization_id text, v int);
                 SELECT rowcast.track('keyless', storage => '{storage}')"
            ),
            &[],
        )
        .await;
        let mut client = world.member("u1", "org_1").await;
        world
            .exec("INSERT INTO keyless VALUES ('org_1', 1); UPDATE keyless SET v = 2; DELETE FROM keyless")
            .await;
        let events = world.events_so_far(&mut client, "org_1").await;
        assert!(events.len() >= 3, "{storage}: {events:#?}");
        assert!(events.iter().all(|event| event.table() == "keyless"));
    }
}
