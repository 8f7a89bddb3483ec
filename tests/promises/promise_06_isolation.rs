//! Promise 6: no event of an organization is ever written to a socket that is not of it.

use serde_json::{Value, json};

use crate::harness::{
    fixture::{PROJECT_1, PROJECT_2, TRACK},
    token,
    world::{World, subscribe},
};

/// Every kind of write in org_2, single, bulk, cascading, over junctions: org_1 hears nothing of it,
/// org_2 hears all of it.
#[tokio::test]
async fn promise_06_isolation_of_every_kind_of_write() {
    for storage in ["table", "log"] {
        let track = TRACK.replace(");", &format!(", storage => '{storage}');"));
        let world = World::prepared(&track, &[]).await;
        let mut one = world.member("u1", "org_1").await;
        let mut two = world.member("u2", "org_2").await;
        world
            .exec(&format!(
                "INSERT INTO projects VALUES ('{PROJECT_2}', 'org_2', 'secret project');
                 INSERT INTO tasks SELECT n, '{PROJECT_2}', 'secret ' || n FROM generate_series(1, 50) n;
                 INSERT INTO labels VALUES (1, 'org_2', 'secret');
                 INSERT INTO task_labels SELECT n, 1 FROM generate_series(1, 50) n;
                 INSERT INTO materials VALUES ('m', 'org_2', 'secret');
                 INSERT INTO notifications VALUES (1, 'org_2', 'u2', 'secret');
                 UPDATE tasks SET title = 'secret again';
                 UPDATE materials SET status = 'secret';
                 DELETE FROM task_labels WHERE task_id < 10;
                 DELETE FROM materials;
                 DELETE FROM projects;"
            ))
            .await;
        let at_one = world.events_so_far(&mut one, "org_1").await;
        assert!(at_one.is_empty(), "{storage}: {at_one:#?}");
        let at_two = world.events_so_far(&mut two, "org_2").await;
        let count = |table: &str, event_type: &str| {
            at_two
                .iter()
                .filter(|event| event.table() == table && event.event_type() == event_type)
                .count()
        };
        // DELETEs are routed like everything else, cascades included.
        assert_eq!(count("tasks", "INSERT"), 50, "{storage}");
        assert_eq!(count("tasks", "UPDATE"), 50, "{storage}");
        assert_eq!(count("tasks", "DELETE"), 50, "{storage}");
        assert_eq!(count("task_labels", "INSERT"), 50, "{storage}");
        assert_eq!(count("task_labels", "DELETE"), 50, "{storage}");
        assert_eq!(count("materials", "DELETE"), 1, "{storage}");
        assert_eq!(count("projects", "DELETE"), 1, "{storage}");
        assert_eq!(count("notifications", "INSERT"), 1, "{storage}");
        // The log of the service may be read by many people: no row values in it.
        assert!(
            !world.server.log().contains("secret"),
            "{}",
            world.server.log()
        );
    }
}

/// A case of each organization with steps. Each statement on `steps` brings about, in the same statement,
/// one on the automatic steps of org_2's case and one on its notes. While those run, the way to their
/// organization is broken: nobody can say whose rows they are.
const NESTED: &str = "
    CREATE TABLE cases (id text PRIMARY KEY, organization_id text);
    CREATE TABLE steps (id int PRIMARY KEY, case_id text, title text);
    CREATE TABLE notes (id int PRIMARY KEY, case_id text, title text);
    INSERT INTO cases VALUES ('one', 'org_1'), ('two', 'org_2');
    SELECT rowcast.track('steps', organization_path => 'case_id -> cases.organization_id', storage => 'STORAGE');
    SELECT rowcast.track('notes', organization_path => 'case_id -> cases.organization_id', storage => 'STORAGE');
    CREATE FUNCTION follow() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        ALTER TABLE cases RENAME organization_id TO tenant;
        IF TG_OP = 'INSERT' THEN
            INSERT INTO steps VALUES (NEW.id + 100, 'two', 'secret');
            INSERT INTO notes VALUES (NEW.id, 'two', 'secret');
        ELSIF TG_OP = 'UPDATE' THEN
            UPDATE steps SET title = 'secret again' WHERE id = NEW.id + 100;
            UPDATE notes SET title = 'secret again' WHERE id = NEW.id;
        ELSE
            DELETE FROM steps WHERE id = OLD.id + 100;
            DELETE FROM notes WHERE id = OLD.id;
        END IF;
        ALTER TABLE cases RENAME tenant TO organization_id;
        RETURN NULL;
    END $$;
    CREATE TRIGGER follow AFTER INSERT OR UPDATE OR DELETE ON steps
        FOR EACH ROW WHEN (pg_trigger_depth() = 0) EXECUTE FUNCTION follow();";

/// Rows of a nested statement whose look-up failed are nobody's; the statement around it is told to its
/// own organization, row by row, and to no other.
#[tokio::test]
async fn promise_06_a_failed_look_up_inside_a_statement_takes_nothing_from_it() {
    for storage in ["log", "table"] {
        let prepare = NESTED.replace("STORAGE", storage);
        let world = World::prepared(&format!("{TRACK}{prepare}"), &[]).await;
        let mut one = world.member("u1", "org_1").await;
        let mut two = world.member("u2", "org_2").await;
        world
            .exec(
                "INSERT INTO steps VALUES (1, 'one', 'a');
                 INSERT INTO steps VALUES (2, 'one', 'b'), (3, 'one', 'c');
                 UPDATE steps SET title = 'd' WHERE id IN (1, 3);
                 DELETE FROM steps WHERE id IN (2, 3);
                 BEGIN;
                 INSERT INTO steps VALUES (4, 'one', 'e');
                 UPDATE steps SET title = 'f' WHERE id = 4;
                 COMMIT",
            )
            .await;
        let problems = "SELECT string_agg(DISTINCT t.table_name || ' ' || p.operation, ', ') \
                        FROM rowcast.problems p JOIN rowcast.tables t USING (relid) \
                        WHERE p.reason LIKE 'SQLSTATE 42703%'";
        assert_eq!(
            world.sql.text(problems).await,
            "notes DELETE, notes INSERT, notes UPDATE, steps DELETE, steps INSERT, steps UPDATE"
        );
        let told: Vec<Value> = world
            .events_so_far(&mut one, "org_1")
            .await
            .iter()
            .map(|event| {
                let (new, old) = (&event.json["new"], &event.json["old"]);
                let id = new.get("id").unwrap_or(&old["id"]);
                json!([event.table(), event.event_type(), id, new["title"]])
            })
            .collect();
        assert_eq!(
            told,
            [
                json!(["steps", "INSERT", 1, "a"]),
                json!(["steps", "INSERT", 2, "b"]),
                json!(["steps", "INSERT", 3, "c"]),
                json!(["steps", "UPDATE", 1, "d"]),
                json!(["steps", "UPDATE", 3, "d"]),
                json!(["steps", "DELETE", 2, null]),
                json!(["steps", "DELETE", 3, null]),
                json!(["steps", "INSERT", 4, "e"]),
                json!(["steps", "UPDATE", 4, "f"]),
            ],
            "{storage}"
        );
        let at_two = world.events_so_far(&mut two, "org_2").await;
        assert!(at_two.is_empty(), "{storage}: {at_two:#?}");
        // What is whole again is told again.
        world
            .exec("ALTER TABLE steps DISABLE TRIGGER follow; INSERT INTO steps VALUES (9, 'two', 'g')")
            .await;
        let at_two = world.events_so_far(&mut two, "org_2").await;
        assert_eq!(at_two.len(), 1, "{storage}: {at_two:#?}");
        assert_eq!(at_two[0].json["new"]["title"], "g", "{storage}");
        assert!(world.events_so_far(&mut one, "org_1").await.is_empty());
    }
}

/// Nobody gets on a channel of others: not by name, not by token, not by key.
#[tokio::test]
async fn promise_06_foreign_channels_are_refused() {
    let world = World::start().await;
    let mut one = world.member("u1", "org_1").await;
    world.add_member("u2", "org_2", "admin").await;
    for (channel, name) in [
        ("org:org_2", "not_member"),
        ("tenant:org_2:orders", "not_member"),
        ("user:u2", "channel_forbidden"),
    ] {
        let reply = one.ask(subscribe(channel, json!({}))).await;
        assert!(reply.is("error"), "{channel}: {}", reply.text);
        assert_eq!(reply.json["name"], name, "{channel}: {}", reply.text);
    }
    let key = world
        .sql
        .text("SELECT rowcast.create_api_key('org_1', '{admin}', 'test')")
        .await;
    let mut machine = crate::harness::client::Client::open(world.server.public).await;
    let refused = machine.auth(&key, "org_2").await.unwrap();
    assert!(refused.is("error"), "{}", refused.text);
    let mut stranger = crate::harness::client::Client::open(world.server.public).await;
    let refused = stranger.auth(&token::session("u1"), "org_2").await.unwrap();
    assert!(refused.is("error"), "{}", refused.text);
    assert_eq!(refused.json["name"], "not_member", "{}", refused.text);
    assert_eq!(stranger.until_closed().await.0, 4504);
    // And still nothing of org_2 arrives.
    world
        .exec("INSERT INTO orders VALUES (1, 'org_2', 1)")
        .await;
    assert!(world.events_so_far(&mut one, "org_1").await.is_empty());
}

/// A row that moves is a DELETE with nothing but its key to the old organization, and an INSERT to the
/// new one, even when the log holds the whole old row.
#[tokio::test]
async fn promise_06_a_moved_row_leaves_with_its_key_only() {
    for storage in ["table", "log"] {
        for identity in ["DEFAULT", "FULL"] {
            let prepare = format!(
                "ALTER TABLE materials REPLICA IDENTITY {identity};
                 ALTER TABLE tasks REPLICA IDENTITY {identity};
                 {}",
                TRACK.replace(");", &format!(", storage => '{storage}');"))
            );
            let world = World::prepared(&prepare, &[]).await;
            let mut one = world.member("u1", "org_1").await;
            let mut two = world.member("u2", "org_2").await;
            world
                .exec(&format!(
                    "INSERT INTO projects VALUES ('{PROJECT_1}', 'org_1', 'p'), ('{PROJECT_2}', 'org_2', 'q');
                     INSERT INTO materials VALUES ('m', 'org_1', 'title');
                     INSERT INTO tasks VALUES (1, '{PROJECT_1}', 'task')"
                ))
                .await;
            world.events_so_far(&mut one, "org_1").await;
            world.events_so_far(&mut two, "org_2").await;
            world
                .exec(&format!(
                    "UPDATE materials SET organization_id = 'org_2', title = 'secret';
                     UPDATE tasks SET project_id = '{PROJECT_2}', title = 'secret'"
                ))
                .await;
            let left = world.events_so_far(&mut one, "org_1").await;
            let came = world.events_so_far(&mut two, "org_2").await;
            let what = format!("{storage} {identity}");
            for (table, key) in [("materials", json!("m")), ("tasks", json!(1))] {
                let of_table = |events: &[crate::harness::client::Frame]| {
                    let all: Vec<_> = events
                        .iter()
                        .filter(|event| event.table() == table)
                        .cloned()
                        .collect();
                    assert_eq!(all.len(), 1, "{what} {table}: {events:#?}");
                    all[0].clone()
                };
                let (left, came) = (of_table(&left), of_table(&came));
                assert_eq!(left.event_type(), "DELETE", "{what}: {}", left.text);
                assert_eq!(left.json["new"], json!(null), "{what}: {}", left.text);
                assert_eq!(
                    left.json["old"],
                    json!({ "id": key }),
                    "{what}: {}",
                    left.text
                );
                assert!(!left.text.contains("secret"), "{what}: {}", left.text);
                assert_eq!(came.event_type(), "INSERT", "{what}: {}", came.text);
                assert_eq!(came.json["old"], json!(null), "{what}: {}", came.text);
                assert_eq!(came.json["new"]["title"], "secret", "{what}: {}", came.text);
            }
        }
    }
}

/// One socket in two organizations hears both, each on its channel; a socket in one hears one.
#[tokio::test]
async fn promise_06_a_member_of_two_organizations_hears_both_apart() {
    let world = World::start().await;
    world.add_member("both", "org_2", "member").await;
    let mut both = world.member("both", "org_1").await;
    let mut one = world.member("u1", "org_1").await;
    let reply = both.ask(subscribe("org:org_2", json!({}))).await;
    assert!(reply.is("subscribed"), "{}", reply.text);
    world
        .exec(
            "INSERT INTO orders VALUES (1, 'org_1', 1); INSERT INTO orders VALUES (2, 'org_2', 2)",
        )
        .await;
    let first = both.event("orders").await;
    let second = both.event("orders").await;
    assert_eq!(
        (first.text_of("channel"), &first.json["new"]["id"]),
        ("org:org_1", &json!(1))
    );
    assert_eq!(
        (second.text_of("channel"), &second.json["new"]["id"]),
        ("org:org_2", &json!(2))
    );
    let events = world.events_so_far(&mut one, "org_1").await;
    assert_eq!(events.len(), 1, "{events:#?}");
}
