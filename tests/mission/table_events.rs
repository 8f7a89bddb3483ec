//! Table events and organization channels as seed 004 has them: T1 to T9, T17.

use serde_json::json;

use crate::harness::{
    client::Frame,
    fixture::{PROJECT_1, PROJECT_2},
    world::{World, subscribe},
};

fn kinds(events: &[Frame]) -> Vec<String> {
    events
        .iter()
        .map(|event| format!("{} {}", event.event_type(), event.table()))
        .collect()
}

/// T1: `realtime_table_events` has table name, event type, organization and record id of each change.
#[tokio::test]
async fn t01_realtime_table_events_rows() {
    let world = World::start().await;
    world
        .exec(
            "INSERT INTO materials VALUES ('m', 'org_1');
             UPDATE materials SET title = 'x';
             UPDATE materials SET organization_id = 'org_2';
             DELETE FROM materials",
        )
        .await;
    let rows = world
        .sql
        .query(
            "SELECT concat_ws(' ', table_schema, table_name, event_type, organization_id, record_id)
             FROM realtime_table_events ORDER BY id",
            &[],
        )
        .await
        .unwrap();
    let mut rows: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    // The two rows of one statement (the move) have no order between them.
    rows[2..4].sort();
    assert_eq!(
        rows,
        [
            "public materials INSERT org_1 m",
            "public materials UPDATE org_1 m",
            "public materials DELETE org_1 m",
            "public materials INSERT org_2 m",
            "public materials DELETE org_2 m",
        ]
    );
    // What everybody may listen to says nothing that others own: the table itself is closed.
    let open = "SELECT has_table_privilege('public', 'realtime_table_events', 'SELECT')";
    assert_eq!(world.sql.text(open).await, "f");
}

/// T2, T3: a DBA who follows the document succeeds: its trigger name and its function names work, the
/// trigger is installed with DROP TRIGGER IF EXISTS first, and the organization is found by a function
/// with a CASE per table.
#[tokio::test]
async fn t02_t03_the_names_of_the_document_work() {
    let seed = "
        SELECT rowcast.track('fences', organization_column => 'organization_id');
        CREATE OR REPLACE FUNCTION public.get_organization_id_for_change(table_name text, op text, record jsonb)
        RETURNS text LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = public AS $$
        BEGIN
            RETURN CASE table_name
                WHEN 'projects' THEN record->>'organization_id'
                WHEN 'tasks' THEN (SELECT p.organization_id FROM projects p WHERE p.id = (record->>'project_id')::uuid)
                ELSE NULL
            END;
        END $$;
        DROP TRIGGER IF EXISTS trigger_notify_org_change ON projects;
        CREATE TRIGGER trigger_notify_org_change AFTER INSERT OR UPDATE OR DELETE ON projects
            FOR EACH ROW EXECUTE FUNCTION notify_organization_of_table_change();
        DROP TRIGGER IF EXISTS trigger_notify_org_change ON tasks;
        CREATE TRIGGER trigger_notify_org_change AFTER INSERT OR UPDATE OR DELETE ON tasks
            FOR EACH ROW EXECUTE FUNCTION notify_organization_of_table_change();
        DROP TRIGGER IF EXISTS trigger_notify_org_change ON labels;
        CREATE TRIGGER trigger_notify_org_change AFTER INSERT OR UPDATE OR DELETE ON labels
            FOR EACH ROW EXECUTE FUNCTION notify_organization_of_table_change();";
    let world = World::prepared(seed, &[]).await;
    let mut client = world.member("u1", "org_1").await;
    let reply = client
        .ask(subscribe(
            "org:org_1",
            json!({ "events": ["changes", "invalidations"] }),
        ))
        .await;
    assert!(reply.is("subscribed"), "{}", reply.text);
    world
        .exec(&format!(
            "INSERT INTO projects VALUES ('{PROJECT_1}', 'org_1', 'p');
             INSERT INTO tasks VALUES (1, '{PROJECT_1}', 't');
             UPDATE tasks SET done = true;
             -- A table that the CASE does not list: the write goes through.
             INSERT INTO labels VALUES (1, 'org_1', 'x');
             DELETE FROM tasks"
        ))
        .await;
    let rows = world
        .sql
        .text(
            "SELECT string_agg(concat_ws(' ', event_type, table_name, organization_id, record_id), ', ' ORDER BY id)
             FROM realtime_table_events WHERE table_name <> 'fences'",
        )
        .await;
    let expected = format!(
        "INSERT projects org_1 {PROJECT_1}, INSERT tasks org_1 1, UPDATE tasks org_1 1, DELETE tasks org_1 1"
    );
    assert_eq!(rows, expected);
    // And its subscribers hear of it.
    let events = world.events_so_far(&mut client, "org_1").await;
    let told: Vec<String> = events
        .iter()
        .filter(|event| event.is("invalidate"))
        .map(|event| {
            format!(
                "{} {} {}",
                event.event_type(),
                event.table(),
                event.text_of("recordId")
            )
        })
        .collect();
    assert_eq!(
        told,
        [
            format!("INSERT projects {PROJECT_1}"),
            "INSERT tasks 1".into(),
            "UPDATE tasks 1".into(),
            "DELETE tasks 1".into(),
        ]
    );
}

/// T3, T7e: a DELETE finds its organization from the old row, also when the parent went first.
#[tokio::test]
async fn t03_cascading_deletes_find_their_organization() {
    let world = World::start().await;
    let mut client = world.member("u1", "org_1").await;
    world
        .exec(&format!(
            "INSERT INTO projects VALUES ('{PROJECT_1}', 'org_1', 'p');
             INSERT INTO tasks VALUES (1, '{PROJECT_1}', 'a'), (2, '{PROJECT_1}', 'b');
             INSERT INTO labels VALUES (1, 'org_1', 'l');
             INSERT INTO task_labels VALUES (1, 1), (2, 1)"
        ))
        .await;
    world.events_so_far(&mut client, "org_1").await;
    world
        .exec("DELETE FROM organizations WHERE id = 'org_1'")
        .await;
    let mut told = kinds(&world.events_so_far(&mut client, "org_1").await);
    told.sort();
    assert_eq!(
        told,
        [
            "DELETE projects",
            "DELETE task_labels",
            "DELETE task_labels",
            "DELETE tasks",
            "DELETE tasks"
        ]
    );
    assert_eq!(
        world
            .sql
            .text("SELECT count(*) FROM rowcast.problems")
            .await,
        "0"
    );
}

/// T4: junction tables need no organization column; their record ids are both keys.
#[tokio::test]
async fn t04_junction_tables_without_an_organization_column() {
    let world = World::start().await;
    let mut one = world.member("u1", "org_1").await;
    let mut two = world.member("u2", "org_2").await;
    one.ask(subscribe(
        "org:org_1",
        json!({ "events": ["invalidations"] }),
    ))
    .await;
    world
        .exec(&format!(
            "INSERT INTO projects VALUES ('{PROJECT_1}', 'org_1', 'p'), ('{PROJECT_2}', 'org_2', 'q');
             INSERT INTO tasks VALUES (1, '{PROJECT_1}', 'a'), (2, '{PROJECT_2}', 'b');
             INSERT INTO labels VALUES (1, 'org_1', 'l');
             INSERT INTO task_labels VALUES (1, 1), (2, 1)"
        ))
        .await;
    let events = world.events_so_far(&mut one, "org_1").await;
    let junction: Vec<&str> = events
        .iter()
        .filter(|event| event.table() == "task_labels")
        .map(|event| event.text_of("recordId"))
        .collect();
    assert_eq!(junction, [r#"["1","1"]"#]);
    let events = world.events_so_far(&mut two, "org_2").await;
    let junction: Vec<_> = events
        .iter()
        .filter(|event| event.table() == "task_labels")
        .map(|event| event.json["new"].clone())
        .collect();
    assert_eq!(junction, [json!({ "task_id": 2, "label_id": 1 })]);
}

/// T5: adding a table is a migration; no restart, and subscribers hear of it with no change of theirs.
#[tokio::test]
async fn t05_a_table_is_added_by_a_migration_alone() {
    let world = World::start().await;
    let mut client = world.member("u1", "org_1").await;
    world
        .exec(&format!(
            "CREATE TABLE comments (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), task_id bigint REFERENCES tasks, body text);
             SELECT rowcast.track('comments');
             INSERT INTO projects VALUES ('{PROJECT_1}', 'org_1', 'p');
             INSERT INTO tasks VALUES (1, '{PROJECT_1}', 'a');
             INSERT INTO comments (task_id, body) VALUES (1, 'first')"
        ))
        .await;
    let events = world.events_so_far(&mut client, "org_1").await;
    assert_eq!(
        kinds(&events),
        ["INSERT projects", "INSERT tasks", "INSERT comments"]
    );
    assert_eq!(events[2].json["new"]["body"], "first");
}

/// T6: tables without an organization are told to nobody, and tracking them is refused rather than
/// reaching everybody.
#[tokio::test]
async fn t06_global_tables_reach_nobody() {
    let world = World::start().await;
    let mut client = world.member("u1", "org_1").await;
    world
        .exec("INSERT INTO profiles VALUES ('u1', 'x'); UPDATE organizations SET name = 'y'")
        .await;
    assert!(world.events_so_far(&mut client, "org_1").await.is_empty());
    for table in ["profiles", "organizations"] {
        world
            .sql
            .fails(&format!("SELECT rowcast.track('{table}')"))
            .await;
    }
}

/// T7: the defects of the printed function are not here: see promise_09 (c, g), promise_06 (d),
/// t03 (e), q30 (f). Retention (h) without bloat: maintenance takes old table events away.
#[tokio::test]
async fn t07_table_events_do_not_stay_forever() {
    let world = World::start().await;
    world
        .exec("INSERT INTO orders SELECT n, 'org_1', 1 FROM generate_series(1, 100) n")
        .await;
    let count = "SELECT count(*) > 0 FROM realtime_table_events WHERE table_name = 'orders'";
    assert_eq!(world.sql.text(count).await, "t");
    let maintenance = "SELECT count(*) FROM pg_proc WHERE pronamespace = 'rowcast'::regnamespace AND proname = 'maintain'";
    assert_eq!(world.sql.text(maintenance).await, "1");
    world.exec("SELECT rowcast.maintain()").await;
    assert_eq!(world.sql.text(count).await, "t", "what is young stays");
}

/// T8, T9: one channel an organization, and only the rows of that organization on it.
#[tokio::test]
async fn t08_t09_one_channel_for_each_organization() {
    let world = World::start().await;
    let mut client = world.member("u1", "org_123").await;
    world
        .exec("INSERT INTO orders SELECT n, CASE WHEN n % 2 = 0 THEN 'org_123' ELSE 'org_1' END, n FROM generate_series(1, 10) n")
        .await;
    let events = world.events_so_far(&mut client, "org_123").await;
    let ids: Vec<_> = events
        .iter()
        .map(|event| event.json["new"]["id"].as_i64().unwrap())
        .collect();
    assert_eq!(ids, [2, 4, 6, 8, 10]);
    assert!(
        events
            .iter()
            .all(|event| event.json["channel"] == "org:org_123")
    );
    assert!(
        events
            .iter()
            .all(|event| event.json["new"]["organization_id"] == "org_123")
    );
}

/// T10: memberships are followed live: a new one can be subscribed to at once on the open socket.
#[tokio::test]
async fn t10_memberships_are_followed_live() {
    let world = World::start().await;
    let mut client = world.member("u1", "org_1").await;
    let refused = client.ask(subscribe("org:org_2", json!({}))).await;
    assert_eq!(refused.json["name"], "not_member", "{}", refused.text);
    world.add_member("u1", "org_2", "member").await;
    // A fence on the old channel: the service has read the membership by then.
    world.events_so_far(&mut client, "org_1").await;
    let reply = client.ask(subscribe("org:org_2", json!({}))).await;
    assert!(reply.is("subscribed"), "{}", reply.text);
    world
        .exec("INSERT INTO orders VALUES (1, 'org_2', 1)")
        .await;
    assert_eq!(client.event("orders").await.json["channel"], "org:org_2");
}

/// T17: the whole flow: user A inserts a project in `org_123`, every member is told which table and
/// which record, reads again what is affected, and is current.
#[tokio::test]
async fn t17_the_whole_flow() {
    let world = World::start().await;
    let mut members = Vec::new();
    for n in 0..5 {
        let mut client = world.member(&format!("u{n}"), "org_123").await;
        client
            .ask(subscribe(
                "org:org_123",
                json!({ "events": ["invalidations"] }),
            ))
            .await;
        members.push(client);
    }
    let mut outsider = world.member("outsider", "org_1").await;
    let user_a = world.database.connect().await;
    user_a
        .exec(&format!(
            "INSERT INTO projects VALUES ('{PROJECT_1}', 'org_123', 'New')"
        ))
        .await;
    for member in &mut members {
        let event = member.event("projects").await;
        assert_eq!(event.json["eventType"], "INSERT");
        assert_eq!(event.json["recordId"], PROJECT_1);
        assert_eq!(event.json["organizationId"], "org_123");
        // The refetch that an invalidated list does finds it at once.
        let list = "SELECT string_agg(name, ',') FROM projects WHERE organization_id = 'org_123'";
        assert_eq!(world.sql.text(list).await, "New");
    }
    assert!(world.events_so_far(&mut outsider, "org_1").await.is_empty());
}

/// SPEC 4: TRUNCATE is a table-level invalidation for every organization.
#[tokio::test]
async fn spec_4_truncate_is_a_table_level_invalidation() {
    for storage in ["table", "log"] {
        let track = format!(
            "SELECT rowcast.track('fences');
             SELECT rowcast.track('orders', organization_column => 'organization_id', storage => '{storage}')"
        );
        let world = World::prepared(&track, &[]).await;
        let mut one = world.member("u1", "org_1").await;
        let mut two = world.member("u2", "org_2").await;
        world
            .exec("INSERT INTO orders VALUES (1, 'org_1', 1); TRUNCATE orders")
            .await;
        for (client, organization, before) in [(&mut one, "org_1", 1), (&mut two, "org_2", 0)] {
            let events = world.events_so_far(client, organization).await;
            assert_eq!(events.len(), before + 1, "{storage}: {events:#?}");
            let last = &events[before];
            assert!(last.is("invalidate"), "{}", last.text);
            assert_eq!(last.json["eventType"], "TRUNCATE");
            assert_eq!(last.json["recordId"], json!(null));
            assert_eq!(last.json["organizationId"], organization);
        }
    }
}

/// SPEC 4: a statement above `max_rows` is one table-level event for each organization in it.
#[tokio::test]
async fn spec_4_big_statements_are_table_level_events() {
    for storage in ["table", "log"] {
        let track = format!(
            "SELECT rowcast.track('fences');
             SELECT rowcast.track('orders', organization_column => 'organization_id', max_rows => 10, storage => '{storage}')"
        );
        let world = World::prepared(&track, &[]).await;
        let mut one = world.member("u1", "org_1").await;
        let mut two = world.member("u2", "org_2").await;
        world
            .exec(
                "INSERT INTO orders SELECT n, 'org_1', 1 FROM generate_series(1, 10) n;
                 INSERT INTO orders SELECT n, CASE WHEN n % 2 = 0 THEN 'org_1' ELSE 'org_2' END, 1 FROM generate_series(11, 31) n",
            )
            .await;
        let events = world.events_so_far(&mut one, "org_1").await;
        assert_eq!(events.len(), 11, "{storage}: {events:#?}");
        assert!(
            events[..10]
                .iter()
                .all(|event| event.is("postgres_changes"))
        );
        let events = [
            events[10..].to_vec(),
            world.events_so_far(&mut two, "org_2").await,
        ]
        .concat();
        assert_eq!(events.len(), 2, "{storage}: {events:#?}");
        for event in events {
            assert!(
                event.is("invalidate") && event.json["recordId"].is_null(),
                "{}",
                event.text
            );
            assert_eq!(event.event_type(), "INSERT");
        }
    }
}
