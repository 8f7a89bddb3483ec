//! What triggers written for Supabase Realtime say: `realtime.send` and `realtime.broadcast_changes`.

use serde_json::{Value, json};

use crate::harness::{
    client::{Client, Frame},
    fixture::TRACK,
    world::{World, subscribe},
};

const OPTIONAL: &str = include_str!("../../sql/optional/supabase.sql");

const CHANNELS: &str = "SELECT rowcast.define_channel('room:*', 'public');
    SELECT rowcast.define_channel('global:*', 'public', scope => 'global');";

/// As in Supabase's documents: a row trigger that hands everything on.
const TRIGGER: &str = "CREATE TABLE notes (id int PRIMARY KEY, organization_id text, body text);
    CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM realtime.broadcast_changes(TG_ARGV[0], TG_OP, TG_OP, TG_TABLE_NAME, TG_TABLE_SCHEMA, NEW, OLD);
        RETURN NULL;
    END $$;
    CREATE TRIGGER tell AFTER INSERT OR UPDATE OR DELETE ON notes FOR EACH ROW EXECUTE FUNCTION tell('room:1');";

async fn with(more: &str) -> World {
    World::prepared(&format!("{TRACK} {OPTIONAL}; {CHANNELS} {more}"), &[]).await
}

async fn on(world: &World, user: &str, organization: &str, channels: &[&str]) -> Client {
    let mut client = world.member(user, organization).await;
    for channel in channels {
        let reply = client.ask(subscribe(channel, json!({}))).await;
        assert!(reply.is("subscribed"), "{}", reply.text);
    }
    client
}

/// Channel, event and payload; the id that the payload was given is taken out.
fn told(events: &[Frame]) -> Vec<(String, Value)> {
    let tell = |event: &Frame| {
        let mut payload = event.json["payload"].clone();
        if let Some(object) = payload.as_object_mut() {
            let id = object.remove("id").unwrap();
            assert!(id.is_string(), "{payload}");
        }
        let place = format!("{} {}", event.text_of("channel"), event.text_of("event"));
        (place, payload)
    };
    events.iter().map(tell).collect()
}

#[tokio::test]
async fn realtime_send_reaches_whoever_is_on_the_channel() {
    let world = with("").await;
    let mut anna = on(&world, "anna", "org_1", &["room:1", "global:all"]).await;
    let mut eve = on(&world, "eve", "org_2", &["room:1", "global:all"]).await;
    world
        .exec(
            r#"SELECT realtime.send('{"a": 1, "id": "mine"}', 'kept', 'org:org_1');
               SELECT realtime.send('{"a": 2}', 'made', 'org:org_1', false);
               SELECT realtime.send(NULL, 'empty', 'global:all');
               SELECT realtime.send('[3]', 'list', 'global:all')"#,
        )
        .await;
    world
        .exec("BEGIN; SELECT realtime.send('{}', 'never', 'org:org_1'); ROLLBACK")
        .await;
    world
        .exec(
            "BEGIN; SET LOCAL rowcast.organization = 'org_1'; SELECT realtime.send('{}', 'here', 'room:1'); COMMIT;
             SELECT realtime.send('{}', 'nowhere', 'room:1')",
        )
        .await;
    let of_anna = world.events_so_far(&mut anna, "org_1").await;
    assert_eq!(of_anna[0].json["payload"], json!({ "a": 1, "id": "mine" }));
    let said = |place: &str, payload: Value| (place.to_owned(), payload);
    assert_eq!(
        told(&of_anna),
        [
            said("org:org_1 kept", json!({ "a": 1 })),
            said("org:org_1 made", json!({ "a": 2 })),
            said("global:all empty", json!({})),
            said("global:all list", json!([3])),
            said("room:1 here", json!({})),
        ]
    );
    let of_eve = world.events_so_far(&mut eve, "org_2").await;
    assert_eq!(
        told(&of_eve),
        [
            said("global:all empty", json!({})),
            said("global:all list", json!([3]))
        ]
    );
}

/// The row says whose room is meant, whatever the session says; what it was elsewhere is not told.
#[tokio::test]
async fn realtime_broadcast_changes_tells_what_a_trigger_saw() {
    let world = with(TRIGGER).await;
    let mut anna = on(&world, "anna", "org_1", &["room:1"]).await;
    let mut eve = on(&world, "eve", "org_2", &["room:1"]).await;
    world
        .exec(
            "BEGIN; SET LOCAL rowcast.organization = 'org_2';
             INSERT INTO notes VALUES (1, 'org_1', 'a');
             UPDATE notes SET body = 'b';
             SELECT realtime.send('{}', 'set', 'room:1'); COMMIT;
             UPDATE notes SET organization_id = 'org_2';
             DELETE FROM notes;
             INSERT INTO notes VALUES (2, NULL, 'nobody');
             BEGIN; SET LOCAL rowcast.organization = 'org_2'; DELETE FROM notes; COMMIT",
        )
        .await;
    let row = |id: u8, organization: Value, body: &str| json!({ "id": id, "organization_id": organization, "body": body });
    let change = |operation: &str, record: Value, old_record: Value| {
        let payload = json!({ "operation": operation, "schema": "public", "table": "notes",
            "record": record, "old_record": old_record });
        (format!("room:1 {operation}"), payload)
    };
    let (a, b) = (row(1, json!("org_1"), "a"), row(1, json!("org_1"), "b"));
    let moved = row(1, json!("org_2"), "b");
    let of_anna = world.events_so_far(&mut anna, "org_1").await;
    assert_eq!(
        told(&of_anna),
        [
            change("INSERT", a.clone(), Value::Null),
            change("UPDATE", b, a)
        ]
    );
    let of_eve = world.events_so_far(&mut eve, "org_2").await;
    assert_eq!(
        told(&of_eve),
        [
            ("room:1 set".to_owned(), json!({})),
            change("UPDATE", moved.clone(), Value::Null),
            change("DELETE", Value::Null, moved),
            change("DELETE", Value::Null, row(2, Value::Null, "nobody")),
        ]
    );
    assert_eq!(world.sql.text("SELECT count(*) FROM notes").await, "0");
}
