//! The exact shapes of events: Q8, Q9, Q10, Q26, and the invalidation of SPEC section 5.

use serde_json::{Value, json};

use crate::harness::{
    client::Frame,
    world::{World, subscribe},
};

/// The five or six members that the documents print, in their order, and nothing of them missing.
fn begins_with(event: &Frame, members: &[(&str, Value)]) {
    let mut expected = String::from("{");
    for (i, (name, value)) in members.iter().enumerate() {
        if i > 0 {
            expected.push(',');
        }
        expected += &format!("\"{name}\":{value}");
    }
    assert!(
        event.text.starts_with(&expected),
        "expected {expected}… but got {}",
        event.text
    );
}

async fn one_of_each(world: &World) {
    world
        .exec(
            "INSERT INTO materials (id, organization_id, title, status) VALUES ('mat_123', 'org_123', 'Breaking News', 'pending');
             UPDATE materials SET status = 'completed' WHERE id = 'mat_123';
             DELETE FROM materials WHERE id = 'mat_123'",
        )
        .await;
}

fn row(status: &str) -> Value {
    json!({
        "id": "mat_123", "organization_id": "org_123", "title": "Breaking News", "status": status, "body": null,
    })
}

/// Q8: `{"type":"postgres_changes","table":…,"eventType":"INSERT","schema":"public","new":{…},"old":null}`.
#[tokio::test]
async fn q08_insert_shape() {
    let world = World::start().await;
    let mut client = world.member("u1", "org_123").await;
    one_of_each(&world).await;
    let events = world.events_so_far(&mut client, "org_123").await;
    begins_with(
        &events[0],
        &[
            ("type", json!("postgres_changes")),
            ("table", json!("materials")),
            ("eventType", json!("INSERT")),
            ("schema", json!("public")),
        ],
    );
    assert_eq!(events[0].json["new"], row("pending"));
    assert_eq!(events[0].json["old"], Value::Null);
    assert!(events[0].json.as_object().unwrap().contains_key("old"));
    // Columns come in the order of the table.
    assert!(
        events[0].text.contains(r#""new":{"id":"mat_123","organization_id":"org_123","title":"Breaking News","status":"pending","body":null},"old":null"#),
        "{}",
        events[0].text
    );
    assert_eq!(events[0].json["channel"], "org:org_123");
    assert!(!events[0].text_of("cursor").is_empty());
    let at = events[0].text_of("commitTimestamp");
    assert!(
        at.contains('T') && at.ends_with('Z'),
        "an ISO timestamp: {at}"
    );
}

/// Q9: UPDATE has `new` and `old`, both objects: the whole old row with REPLICA IDENTITY FULL, else its key.
#[tokio::test]
async fn q09_update_shape() {
    for full in [true, false] {
        let world = World::start().await;
        if full {
            world
                .exec("ALTER TABLE materials REPLICA IDENTITY FULL")
                .await;
        }
        let mut client = world.member("u1", "org_123").await;
        one_of_each(&world).await;
        let events = world.events_so_far(&mut client, "org_123").await;
        let event = &events[1];
        begins_with(
            event,
            &[
                ("type", json!("postgres_changes")),
                ("table", json!("materials")),
                ("eventType", json!("UPDATE")),
                ("schema", json!("public")),
            ],
        );
        assert_eq!(event.json["new"], row("completed"));
        let old = if full {
            row("pending")
        } else {
            json!({ "id": "mat_123" })
        };
        assert_eq!(event.json["old"], old, "{}", event.text);
    }
}

/// Q9: an UPDATE that changes the key says the old one.
#[tokio::test]
async fn q09_update_of_the_key() {
    let world = World::start().await;
    let mut client = world.member("u1", "org_1").await;
    world
        .exec("INSERT INTO orders VALUES (1, 'org_1', 5); UPDATE orders SET id = 2")
        .await;
    let events = world.events_so_far(&mut client, "org_1").await;
    assert_eq!(
        events[1].json["old"],
        json!({ "id": 1 }),
        "{}",
        events[1].text
    );
    assert_eq!(events[1].json["new"]["id"], 2);
}

/// Q10: DELETE has `"new":null` and the key in `old`.
#[tokio::test]
async fn q10_delete_shape() {
    let world = World::start().await;
    let mut client = world.member("u1", "org_123").await;
    one_of_each(&world).await;
    let events = world.events_so_far(&mut client, "org_123").await;
    begins_with(
        &events[2],
        &[
            ("type", json!("postgres_changes")),
            ("table", json!("materials")),
            ("eventType", json!("DELETE")),
            ("schema", json!("public")),
            ("new", Value::Null),
            ("old", json!({ "id": "mat_123" })),
        ],
    );
}

/// Q26: a client that adds `new`, updates `new` and removes `old.id` ends with what the table holds.
#[tokio::test]
async fn q26_a_client_that_applies_events_ends_current() {
    let world = World::start().await;
    let mut client = world.member("u1", "org_1").await;
    world
        .exec(
            "INSERT INTO orders SELECT n, 'org_1', n FROM generate_series(1, 20) n;
             UPDATE orders SET total = total * 2 WHERE id % 2 = 0;
             DELETE FROM orders WHERE id % 3 = 0;
             INSERT INTO orders VALUES (3, 'org_1', 33.30)",
        )
        .await;
    let mut records = std::collections::BTreeMap::new();
    for event in world.events_so_far(&mut client, "org_1").await {
        match event.event_type() {
            "DELETE" => records.remove(&event.json["old"]["id"].as_i64().unwrap()),
            _ => records.insert(
                event.json["new"]["id"].as_i64().unwrap(),
                event.json["new"].clone(),
            ),
        };
    }
    let rows = world
        .sql
        .query("SELECT id, row_to_json(orders)::text FROM orders", &[])
        .await
        .unwrap();
    let expected = rows
        .iter()
        .map(|row| {
            let json: Value = serde_json::from_str(row.get(1)).unwrap();
            (i64::from(row.get::<_, i32>(0)), json)
        })
        .collect();
    assert_eq!(records, expected);
}

/// SPEC 5: `{"type":"invalidate","table","eventType","recordId","organizationId"}` for whoever asks for
/// invalidations, with the record id of every kind of key.
#[tokio::test]
async fn q30_invalidations_carry_ids_only() {
    let world = World::start().await;
    let mut client = world.member("u1", "org_123").await;
    let reply = client
        .ask(subscribe(
            "org:org_123",
            json!({ "events": ["invalidations"] }),
        ))
        .await;
    assert!(reply.is("subscribed"), "{}", reply.text);
    one_of_each(&world).await;
    let project = crate::harness::fixture::PROJECT_1;
    world
        .exec(&format!(
            "INSERT INTO projects VALUES ('{project}', 'org_123', 'p');
             INSERT INTO tasks VALUES (7, '{project}', 't');
             INSERT INTO labels VALUES (1, 'org_123', 'l');
             INSERT INTO task_labels VALUES (7, 1)"
        ))
        .await;
    let events = world.events_so_far(&mut client, "org_123").await;
    for (event, kind) in events.iter().zip(["INSERT", "UPDATE", "DELETE"]) {
        begins_with(
            event,
            &[
                ("type", json!("invalidate")),
                ("table", json!("materials")),
                ("eventType", json!(kind)),
                ("recordId", json!("mat_123")),
                ("organizationId", json!("org_123")),
            ],
        );
        assert!(!event.text.contains("Breaking"), "{}", event.text);
    }
    let ids: Vec<&str> = events[3..]
        .iter()
        .map(|event| event.text_of("recordId"))
        .collect();
    assert_eq!(ids, [project, "7", "1", r#"["7","1"]"#]);
}

/// Both forms at once: the invalidation first, then the row, event by event.
#[tokio::test]
async fn spec_5_changes_and_invalidations_together() {
    let world = World::start().await;
    let mut client = world.member("u1", "org_123").await;
    client
        .ask(subscribe(
            "org:org_123",
            json!({ "events": ["changes", "invalidations"] }),
        ))
        .await;
    one_of_each(&world).await;
    let events = world.events_so_far(&mut client, "org_123").await;
    let kinds: Vec<String> = events
        .iter()
        .map(|event| format!("{} {}", event.text_of("type"), event.event_type()))
        .collect();
    let expected: Vec<String> = ["INSERT", "UPDATE", "DELETE"]
        .iter()
        .flat_map(|kind| {
            [
                format!("invalidate {kind}"),
                format!("postgres_changes {kind}"),
            ]
        })
        .collect();
    assert_eq!(kinds, expected);
}

/// `latest`: many updates of one record come as few events, the last of which is the last state.
#[tokio::test]
async fn spec_5_latest_coalesces_by_record() {
    let world = World::start().await;
    let mut client = world.member("u1", "org_1").await;
    client
        .ask(subscribe("org:org_1", json!({ "mode": "latest" })))
        .await;
    world
        .exec("INSERT INTO orders SELECT n, 'org_1', 0 FROM generate_series(1, 5) n")
        .await;
    world
        .exec("DO $$ BEGIN FOR i IN 1..500 LOOP UPDATE orders SET total = i; END LOOP; END $$")
        .await;
    let mut last = [0.0; 5];
    let mut count = 0;
    while last != [500.0; 5] {
        let event = client.event("orders").await;
        count += 1;
        let id = event.json["new"]["id"].as_u64().unwrap() as usize;
        last[id - 1] = event.json["new"]["total"].as_f64().unwrap();
    }
    assert!(count < 1000, "{count} events for 2500 updates");
}
