//! Handlers that change tables: whoever tells nobody is warned of in the log of the service: G20.

use serde_json::{Value, json};

use super::client_events::{answer, ask, refused, with};
use crate::harness::{until, until_or, world::World};

/// Tables that are tracked, and others.
const TABLES: &str = r#"
CREATE TABLE app.notes (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, said text UNIQUE);
CREATE TABLE app."Odd 'one'" (id int);
CREATE TABLE app.parts (id int, day int) PARTITION BY LIST (day);
CREATE TABLE app.part_1 PARTITION OF app.parts FOR VALUES IN (1);
CREATE TABLE app.tasks (id int PRIMARY KEY, organization_id text);
CREATE TABLE app.slices (id int, day int, organization_id text, PRIMARY KEY (id, day)) PARTITION BY LIST (day);
CREATE TABLE app.slice_1 PARTITION OF app.slices FOR VALUES IN (1);
SELECT rowcast.track('app.tasks');
SELECT rowcast.track('app.slices');
SELECT rowcast.define_channel('room:{id}', 'public', events => '{noted}');
"#;

/// A handler of the event `name`, with this body.
fn handler(name: &str, body: &str) -> String {
    format!(
        "CREATE FUNCTION app.{name}(input jsonb, channel text, arguments jsonb, caller jsonb) RETURNS jsonb
         LANGUAGE plpgsql AS $$ BEGIN {body} RETURN to_jsonb('{name}'::text); END $$;
         SELECT rowcast.define_client_event('room:*', '{name}', handler => 'app.{name}');"
    )
}

async fn world(handlers: &[(&str, &str)]) -> World {
    let handlers = handlers.iter().map(|(name, body)| handler(name, body));
    let sql = format!("{TABLES} {}", handlers.collect::<String>());
    with(&sql, &[]).await
}

/// Lines of the log that warn of a handler.
fn warnings(world: &World) -> Vec<String> {
    let log = world.server.log();
    let lines = log.lines().filter(|line| line.contains("told nobody"));
    lines.map(str::to_owned).collect()
}

/// The one line that warns of this handler, when it has come.
async fn warned(world: &World, name: &str) -> String {
    let function = format!("\"{name}\"");
    let of = || {
        let mut lines = warnings(world);
        lines.retain(|line| line.contains(&function) || line.contains(&format!(r#"\"{name}\""#)));
        lines
    };
    until_or(
        "a warning",
        || world.server.log(),
        async || !of().is_empty(),
    )
    .await;
    let lines = of();
    assert_eq!(lines.len(), 1, "{lines:#?}");
    lines[0].clone()
}

async fn looks(world: &World, outcome: &str) -> f64 {
    let name = format!("application_untold_total{{outcome=\"{outcome}\"}}");
    world.server.metric(&name).await
}

/// G20: a handler that writes what nobody is told of is warned of once, with what follows and what mends it.
#[tokio::test]
async fn g20_a_handler_that_tells_nobody_is_warned_of_once() {
    let world = world(&[
        (
            "note",
            r#"INSERT INTO app.notes (said) VALUES (input ->> 'said'); INSERT INTO app."Odd 'one'" VALUES (1);
               INSERT INTO app.tasks VALUES ((input ->> 'said')::int, 'org_1');"#,
        ),
        ("part", "INSERT INTO app.parts VALUES (1, 1);"),
        ("touch", "UPDATE app.notes SET said = said || '!';"),
        ("forget", "DELETE FROM app.notes;"),
    ])
    .await;
    let mut anna = world.member("anna", "org_1").await;
    for n in 1..=5 {
        let said = json!({ "said": n.to_string() });
        answer(&mut anna, "room:7", "note", said).await;
    }
    let rows = "SELECT count(*) FROM app.notes";
    assert_eq!(world.sql.text(rows).await, "5");
    let words = warned(&world, "note").await;
    for part in [
        "WARN",
        "the event note on room:*",
        "app.notes",
        "SELECT rowcast.track('app.notes');",
        "Odd ''one''",
        "keep what they have",
        "rowcast.invalidate(",
        "rowcast.tell_nobody()",
    ] {
        assert!(words.contains(part), "{part}: {words}");
    }
    assert!(!words.contains("app.tasks"), "that one is told: {words}");
    assert_eq!(looks(&world, "warned").await, 1.0);
    // Whatever it does with rows, and a partition has the name under which it can be tracked.
    for name in ["touch", "forget"] {
        answer(&mut anna, "room:7", name, Value::Null).await;
        assert!(warned(&world, name).await.contains("app.notes"));
    }
    answer(&mut anna, "room:7", "part", Value::Null).await;
    let words = warned(&world, "part").await;
    assert!(words.contains("track('app.parts')"), "{words}");
    assert_eq!(looks(&world, "warned").await, 4.0);
}

/// G20: no warning of who only reads, writes what is tracked, tells somebody, or says that nobody has to know.
#[tokio::test]
async fn g20_whoever_tells_or_has_nothing_to_tell_is_not_warned_of() {
    let quiet = [
        ("reads", "PERFORM count(*) FROM app.notes;"),
        ("tracked", "INSERT INTO app.tasks VALUES (1, 'org_1');"),
        ("locks", "PERFORM FROM app.tasks FOR UPDATE;"),
        ("slices", "INSERT INTO app.slices VALUES (1, 1, 'org_1');"),
        ("slice", "INSERT INTO app.slice_1 VALUES (2, 1, 'org_1');"),
        (
            "finds_none",
            "INSERT INTO app.tasks VALUES (2, 'org_1'); UPDATE app.notes SET said = '' WHERE id < 0;",
        ),
        (
            "takes_back",
            "INSERT INTO app.tasks VALUES (3, 'org_1');
             BEGIN INSERT INTO app.notes (said) VALUES ('a'), ('a'); EXCEPTION WHEN unique_violation THEN NULL; END;",
        ),
        (
            "temporary",
            "CREATE TEMP TABLE mine (x int) ON COMMIT DROP; INSERT INTO mine VALUES (1);",
        ),
        (
            "invalidates",
            "INSERT INTO app.notes DEFAULT VALUES; PERFORM rowcast.invalidate('notes.list');",
        ),
        (
            "refreshes",
            "PERFORM rowcast.refresh('notes.count'); INSERT INTO app.notes DEFAULT VALUES;",
        ),
        (
            "emits",
            "INSERT INTO app.notes DEFAULT VALUES; PERFORM rowcast.emit('notes.last', '1');",
        ),
        (
            "sends",
            "INSERT INTO app.notes DEFAULT VALUES; PERFORM rowcast.send(channel, 'noted');",
        ),
        (
            "broadcasts",
            "INSERT INTO app.notes DEFAULT VALUES; PERFORM rowcast.broadcast('org_1', 'noted');",
        ),
        (
            // Others of the same session wrote what this one reads.
            "looks_first",
            "PERFORM count(*) FROM app.notes; INSERT INTO app.tasks VALUES (4, 'org_1');",
        ),
        (
            "tells_nobody",
            "INSERT INTO app.notes DEFAULT VALUES; PERFORM rowcast.tell_nobody();",
        ),
    ];
    let noisy = [
        (
            // What is taken back was not said.
            "unsays",
            "INSERT INTO app.notes DEFAULT VALUES;
             BEGIN PERFORM rowcast.invalidate('notes.list'); RAISE division_by_zero; EXCEPTION WHEN division_by_zero THEN NULL; END;",
        ),
        ("last", "INSERT INTO app.notes DEFAULT VALUES;"),
    ];
    let world = world(&[&quiet[..], &noisy[..]].concat()).await;
    let mut anna = world.member("anna", "org_1").await;
    for (name, _) in quiet.iter().chain(&noisy) {
        let said = answer(&mut anna, "room:7", name, Value::Null).await;
        assert_eq!(said, json!(name));
    }
    warned(&world, "unsays").await;
    // The log has an order, so the others would be there.
    warned(&world, "last").await;
    assert_eq!(warnings(&world).len(), 2, "{:#?}", warnings(&world));
    assert_eq!(looks(&world, "warned").await, 2.0);
    // Those that wrote and called no verb; nobody looks at the others.
    let looked_at = [
        "locks",
        "tracked",
        "slices",
        "slice",
        "finds_none",
        "takes_back",
        "temporary",
        "looks_first",
    ];
    assert_eq!(looks(&world, "tracked").await, looked_at.len() as f64);
    assert_eq!(looks(&world, "unknown").await, 0.0);
}

/// What the look cannot find out harms nobody, and what was refused is not warned of.
#[tokio::test]
async fn g20_a_look_that_fails_changes_nothing() {
    let world = world(&[
        ("note", "INSERT INTO app.notes DEFAULT VALUES;"),
        (
            "refuses",
            "INSERT INTO app.notes DEFAULT VALUES; PERFORM rowcast.refuse('no', 'No');",
        ),
        ("late", "INSERT INTO app.late VALUES (1), (1);"),
        ("last", "INSERT INTO app.notes DEFAULT VALUES;"),
    ])
    .await;
    world
        .exec(
            "CREATE TABLE app.late (x int UNIQUE DEFERRABLE INITIALLY DEFERRED); GRANT ALL ON app.late TO rowcast_test_app;
             REVOKE SELECT ON pg_catalog.pg_locks FROM PUBLIC",
        )
        .await;
    let mut anna = world.member("anna", "org_1").await;
    answer(&mut anna, "room:7", "note", Value::Null).await;
    until("it was counted", async || {
        looks(&world, "unknown").await == 1.0
    })
    .await;
    assert_eq!(world.sql.text("SELECT count(*) FROM app.notes").await, "1");
    world
        .exec("GRANT SELECT ON pg_catalog.pg_locks TO PUBLIC")
        .await;
    let reply = ask(&mut anna, "room:7", "refuses", Value::Null).await;
    assert_eq!(refused(&reply).0, 320);
    // Its transaction ends in an error, after the look.
    let reply = ask(&mut anna, "room:7", "late", Value::Null).await;
    assert_eq!(refused(&reply).0, 322);
    answer(&mut anna, "room:7", "last", Value::Null).await;
    warned(&world, "last").await;
    assert_eq!(warnings(&world).len(), 1, "{:#?}", warnings(&world));
    assert_eq!(looks(&world, "warned").await, 1.0);
}
