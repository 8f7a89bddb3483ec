//! What is published and to whom, table by table: Q1 to Q5, X6, G1, Q29.

use serde_json::json;

use crate::harness::{
    client::Client,
    fixture::TRACK,
    token,
    world::{World, subscribe},
};

const FENCES: &str = "SELECT rowcast.track('fences', organization_column => 'organization_id');";

async fn tracked(options: &str) -> World {
    let track = format!("{FENCES} SELECT rowcast.track('materials', {options});");
    World::prepared(&track, &[]).await
}

const WRITES: &str = "INSERT INTO materials (id, organization_id, title, status, body) VALUES ('m', 'org_1', 'T', 's', 'secret');
    UPDATE materials SET status = 'done';
    DELETE FROM materials;";

async fn event_types(world: &World, client: &mut Client) -> Vec<String> {
    world.exec(WRITES).await;
    let events = world.events_so_far(client, "org_1").await;
    events
        .iter()
        .map(|event| event.event_type().to_owned())
        .collect()
}

/// Q1, Q2: which operations are told can be chosen; without a choice, all are.
#[tokio::test]
async fn q01_q02_operations_can_be_chosen_and_default_to_all() {
    for (options, expected) in [
        (
            "organization_column => 'organization_id'",
            vec!["INSERT", "UPDATE", "DELETE"],
        ),
        (
            "organization_column => 'organization_id', operations => '{INSERT}'",
            vec!["INSERT"],
        ),
        (
            "organization_column => 'organization_id', operations => '{UPDATE,DELETE}'",
            vec!["UPDATE", "DELETE"],
        ),
        (
            "organization_column => 'organization_id', operations => '{DELETE}', storage => 'log'",
            vec!["DELETE"],
        ),
    ] {
        let world = tracked(options).await;
        let mut client = world.member("u1", "org_1").await;
        assert_eq!(
            event_types(&world, &mut client).await,
            expected,
            "{options}"
        );
    }
}

/// Q1: a table that nobody tracks, and one that is tracked no more, are not told; the change of the
/// configuration is followed live.
#[tokio::test]
async fn q01_tracking_is_followed_live() {
    let world = World::prepared(FENCES, &[]).await;
    let mut client = world.member("u1", "org_1").await;
    assert_eq!(event_types(&world, &mut client).await, [""; 0]);
    world.exec("SELECT rowcast.track('materials')").await;
    assert_eq!(
        event_types(&world, &mut client).await,
        ["INSERT", "UPDATE", "DELETE"]
    );
    world
        .exec("SELECT rowcast.track('materials', operations => '{DELETE}')")
        .await;
    assert_eq!(event_types(&world, &mut client).await, ["DELETE"]);
    world.exec("SELECT rowcast.untrack('materials')").await;
    assert_eq!(event_types(&world, &mut client).await, [""; 0]);
    let left = "SELECT count(*) FROM pg_trigger WHERE tgrelid = 'materials'::regclass AND NOT tgisinternal";
    assert_eq!(
        world.sql.text(left).await,
        "0",
        "untrack leaves no trigger behind"
    );
}

/// Q3: only the required roles receive a table's events.
#[tokio::test]
async fn q03_required_roles() {
    for storage in ["table", "log"] {
        let world = tracked(&format!(
            "organization_column => 'organization_id', required_roles => '{{admin,editor}}', storage => '{storage}'"
        ))
        .await;
        let mut admin = world.member_with_role("a", "org_1", "admin").await;
        let mut editor = world.member_with_role("e", "org_1", "editor").await;
        let mut member = world.member_with_role("m", "org_1", "member").await;
        let all = vec!["INSERT", "UPDATE", "DELETE"];
        assert_eq!(event_types(&world, &mut admin).await, all);
        assert_eq!(event_types(&world, &mut member).await, [""; 0]);
        let events = world.events_so_far(&mut editor, "org_1").await;
        assert_eq!(events.len(), 6, "{events:#?}");
        assert!(
            !member
                .seen
                .iter()
                .any(|frame| frame.text.contains("secret"))
        );
    }
}

/// Q4: only the chosen columns leave the database, in `new` and in `old`, whoever asks for more.
#[tokio::test]
async fn q04_columns_are_an_allow_list() {
    for identity in ["DEFAULT", "FULL"] {
        let world = World::prepared(
            &format!(
                "{FENCES} ALTER TABLE materials REPLICA IDENTITY {identity};
                 SELECT rowcast.track('materials', columns => '{{id,title,status}}')"
            ),
            &[],
        )
        .await;
        let mut client = world.member("u1", "org_1").await;
        world.exec(WRITES).await;
        let events = world.events_so_far(&mut client, "org_1").await;
        assert_eq!(
            events[0].json["new"],
            json!({ "id": "m", "title": "T", "status": "s" })
        );
        assert_eq!(
            events[1].json["new"],
            json!({ "id": "m", "title": "T", "status": "done" })
        );
        assert!(
            events.iter().all(|event| !event.text.contains("secret")),
            "{events:#?}"
        );
        assert!(
            events.iter().all(|event| !event.text.contains("body")),
            "{events:#?}"
        );
        let reply = client
            .ask(subscribe(
                "org:org_1",
                json!({ "tables": [{ "table": "materials", "filter": { "column": "body", "op": "eq", "value": "secret" } }] }),
            ))
            .await;
        // Refused at once, or a filter that matches nothing: either way it tells nothing.
        if reply.is("subscribed") {
            world
                .exec("INSERT INTO materials VALUES ('n', 'org_1', 'T', 's', 'secret')")
                .await;
            client
                .ask(subscribe("tenant:org_1:fences", json!({})))
                .await;
            let events = world.events_so_far(&mut client, "org_1").await;
            assert!(
                events.is_empty(),
                "a hidden column was used as a filter: {events:#?}"
            );
        }
    }
}

/// A subscriber's own column list and filter narrow what is sent.
#[tokio::test]
async fn q04_a_subscriber_may_ask_for_less() {
    let world = World::start().await;
    let mut client = world.member("u1", "org_1").await;
    let tables = json!([
        { "table": "materials", "columns": ["id", "status"],
          "filter": { "or": [{ "column": "status", "op": "eq", "value": "open" },
                             { "not": { "column": "title", "op": "like", "value": "T%" } }] } },
        { "schema": "public", "table": "fences" },
    ]);
    let reply = client
        .ask(subscribe("org:org_1", json!({ "tables": tables })))
        .await;
    assert!(reply.is("subscribed"), "{}", reply.text);
    world
        .exec(
            "INSERT INTO materials (id, organization_id, title, status) VALUES
                ('1', 'org_1', 'T1', 'open'), ('2', 'org_1', 'T2', 'shut'), ('3', 'org_1', 'X', 'shut');
             INSERT INTO orders VALUES (1, 'org_1', 1)",
        )
        .await;
    let events = world.events_so_far(&mut client, "org_1").await;
    let rows: Vec<_> = events
        .iter()
        .map(|event| event.json["new"].clone())
        .collect();
    assert_eq!(
        rows,
        [
            json!({ "id": "1", "status": "open" }),
            json!({ "id": "3", "status": "shut" })
        ]
    );
}

/// Q5: with an `organization_id` column nothing else has to be said; without one, the shortest path is
/// found; where none or several lead there, it is an error that says so.
#[tokio::test]
async fn q05_the_organization_is_found_by_itself() {
    let world = World::prepared(
        "SELECT rowcast.track(t) FROM unnest('{fences,materials,projects,tasks,labels}'::regclass[]) t",
        &[],
    )
    .await;
    let mut client = world.member("u1", "org_1").await;
    let project = crate::harness::fixture::PROJECT_1;
    world
        .exec(&format!(
            "INSERT INTO projects VALUES ('{project}', 'org_1', 'p'); INSERT INTO tasks VALUES (1, '{project}', 't')"
        ))
        .await;
    let events = world.events_so_far(&mut client, "org_1").await;
    assert_eq!(
        events.iter().map(|event| event.table()).collect::<Vec<_>>(),
        ["projects", "tasks"]
    );
    world
        .exec(
            "CREATE TABLE two_ways (id int PRIMARY KEY, label_id int REFERENCES labels, material_id text REFERENCES materials)",
        )
        .await;
    let (_, message) = world.sql.fails("SELECT rowcast.track('two_ways')").await;
    let (code, _) = world.sql.fails("SELECT rowcast.track('profiles')").await;
    assert!(!code.is_empty());
    let text = world
        .sql
        .batch_execute("SELECT rowcast.track('two_ways')")
        .await
        .unwrap_err();
    let error = text.as_db_error().unwrap();
    let whole = format!("{message} {:?} {:?}", error.detail(), error.hint());
    assert!(
        whole.contains("label_id") && whole.contains("material_id"),
        "{whole}"
    );
}

/// X6: `tenant:<tenant>:orders` carries that table of that tenant, and nothing else.
#[tokio::test]
async fn x06_tenant_channels() {
    let world = World::start().await;
    let mut client = world.member("u1", "org_1").await;
    let other = world.member("u2", "org_2").await;
    client
        .ask(json!({ "type": "unsubscribe", "channel": "org:org_1" }))
        .await;
    for channel in ["tenant:org_1:orders", "tenant:org_1:fences"] {
        let reply = client.ask(subscribe(channel, json!({}))).await;
        assert!(reply.is("subscribed"), "{}", reply.text);
    }
    world
        .exec(
            "INSERT INTO orders VALUES (1, 'org_1', 9.90), (2, 'org_2', 1);
             INSERT INTO materials VALUES ('m', 'org_1')",
        )
        .await;
    let events = world.events_so_far(&mut client, "org_1").await;
    assert_eq!(events.len(), 1, "{events:#?}");
    assert_eq!(events[0].json["channel"], "tenant:org_1:orders");
    assert_eq!(events[0].json["new"]["id"], 1);
    assert!(
        events[0].text.contains("9.90"),
        "digits as Postgres keeps them: {}",
        events[0].text
    );
    drop(other);
}

/// G1: a change reaches every connected client of the organization, without polling or asking.
#[tokio::test]
async fn g01_a_change_reaches_every_connected_client() {
    let world = World::start().await;
    let mut clients = Vec::new();
    for n in 0..20 {
        clients.push(world.member(&format!("u{n}"), "org_1").await);
    }
    world
        .exec("INSERT INTO orders VALUES (1, 'org_1', 1)")
        .await;
    for client in &mut clients {
        assert_eq!(client.event("orders").await.json["new"]["id"], 1);
    }
}

/// Q29: nothing is told before the commit, and nothing that was rolled back.
#[tokio::test]
async fn q29_only_what_is_committed_is_told() {
    for storage in ["table", "log"] {
        let track = TRACK.replace(");", &format!(", storage => '{storage}');"));
        let world = World::prepared(&track, &[]).await;
        let mut client = world.member("u1", "org_1").await;
        let open = world.database.connect().await;
        open.exec("BEGIN; INSERT INTO orders VALUES (1, 'org_1', 1)")
            .await;
        world
            .exec("BEGIN; INSERT INTO orders VALUES (2, 'org_1', 1); ROLLBACK")
            .await;
        world
            .exec("BEGIN; SAVEPOINT a; INSERT INTO orders VALUES (3, 'org_1', 1); ROLLBACK TO a; INSERT INTO orders VALUES (4, 'org_1', 1); COMMIT")
            .await;
        world
            .sql
            .fails("INSERT INTO orders VALUES (5, 'org_1', 1), (4, 'org_1', 1)")
            .await;
        let events = world.events_so_far(&mut client, "org_1").await;
        let ids: Vec<_> = events
            .iter()
            .map(|event| event.json["new"]["id"].clone())
            .collect();
        assert_eq!(ids, [json!(4)], "{storage}");
        open.exec("COMMIT").await;
        let event = client.event("orders").await;
        assert_eq!(event.json["new"]["id"], 1, "{storage}");
        // A prepared transaction is told when it is committed, if the server has those at all.
        let _ = token::now();
    }
}

/// A row with a user column goes to that user only, once, inside the organization.
#[tokio::test]
async fn q13_a_user_column_targets_one_user() {
    for storage in ["table", "log"] {
        let track = TRACK.replace(");", &format!(", storage => '{storage}');"));
        let world = World::prepared(&track, &[]).await;
        let mut one = world.member("u1", "org_1").await;
        let mut two = world.member("u2", "org_1").await;
        let mut elsewhere = world.member("u3", "org_2").await;
        world
            .exec(
                "INSERT INTO notifications VALUES (1, 'org_1', 'u1', 'for u1'), (2, 'org_1', 'u2', 'for u2'), (3, 'org_1', 'u3', 'for nobody');
                 UPDATE notifications SET title = 'again' WHERE id = 1;
                 DELETE FROM notifications WHERE id = 1",
            )
            .await;
        let first = world.events_so_far(&mut one, "org_1").await;
        let second = world.events_so_far(&mut two, "org_1").await;
        let third = world.events_so_far(&mut elsewhere, "org_2").await;
        let kinds: Vec<&str> = first.iter().map(|event| event.event_type()).collect();
        assert_eq!(
            kinds,
            ["INSERT", "UPDATE", "DELETE"],
            "{storage} {first:#?}"
        );
        assert!(
            first.iter().all(|event| !event.text.contains("u2")),
            "{first:#?}"
        );
        assert_eq!(second.len(), 1, "{storage} {second:#?}");
        assert_eq!(second[0].json["new"]["id"], 2);
        assert!(third.is_empty(), "u3 is no member of org_1: {third:#?}");
    }
}
