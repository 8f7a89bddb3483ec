//! Masks, table by table: Q17 to Q23; and that what is hidden cannot be found out otherwise.

use serde_json::{Value, json};

use crate::harness::{
    client::{Client, Frame},
    world::{World, subscribe},
};

pub const PEOPLE: &str = "
    CREATE TABLE people (id int PRIMARY KEY, organization_id text, owner text,
        email text, phone text, ssn text, card text, name text, note text, secret text);
    SELECT rowcast.track('fences', organization_column => 'organization_id');";

/// The configuration of the document: one column of each type.
pub const MASK: &str = r#"{
    "email": {"type": "email", "show": {"roles": ["admin"], "or": "owner"}},
    "phone": {"type": "phone", "show": {"roles": ["admin", "support"]}},
    "ssn": {"type": "ssn", "show": {"roles": ["hr"]}},
    "card": {"type": "creditCard", "show": {"roles": []}},
    "name": {"type": "name", "show": {"roles": ["admin"], "or": "owner"}},
    "note": {"type": "redact", "show": {"roles": ["admin"]}}}"#;

pub const JOHN: &str =
    "'john@yourdomain.com', '5551234567', '123-45-6789', '4111111111111111', 'John', 'a long note'";

pub async fn world(options: &str) -> World {
    let track =
        format!("{PEOPLE} SELECT rowcast.track('people', owner_column => 'owner', {options});");
    World::prepared(&track, &[]).await
}

pub fn masked() -> String {
    format!("mask => '{MASK}'")
}

/// The masked columns of a row.
pub fn shown(row: &Value) -> [Value; 6] {
    ["email", "phone", "ssn", "card", "name", "note"].map(|column| row[column].clone())
}

pub const MASKED: [&str; 6] = [
    "j***@y*********.com",
    "******4567",
    "*****6789",
    "**** **** **** 1111",
    "J***",
    "[REDACTED]",
];

pub fn john(plain: &[usize]) -> [Value; 6] {
    let values = [
        "john@yourdomain.com",
        "5551234567",
        "123-45-6789",
        "4111111111111111",
        "John",
        "a long note",
    ];
    [0, 1, 2, 3, 4, 5].map(|i| match plain.contains(&i) {
        true => values[i].into(),
        false => MASKED[i].into(),
    })
}

/// MISSION Q17, Q18, Q21: each type, in `new` and in `old`, by role.
#[tokio::test]
async fn q17_q18_q21_each_role_sees_what_the_configuration_shows_it() {
    let full = format!(
        "{}, storage => 'log'); ALTER TABLE people REPLICA IDENTITY FULL; SELECT (1",
        masked()
    );
    for options in [masked(), full.clone()] {
        let world = world(&options).await;
        let roles = [
            ("member", &[][..]),
            ("admin", &[0, 1, 4, 5]),
            ("support", &[1]),
            ("hr", &[2]),
        ];
        let mut clients = Vec::new();
        for (role, plain) in roles {
            clients.push((world.member_with_role(role, "org_1", role).await, plain));
        }
        world
            .exec(&format!(
                "INSERT INTO people VALUES (1, 'org_1', 'o', {JOHN}, 'x');
                 UPDATE people SET organization_id = 'org_1', secret = 'y';
                 DELETE FROM people;"
            ))
            .await;
        let fence = world.fence("org_1").await;
        for (client, plain) in &mut clients {
            let events = client.until_fence(fence).await;
            let types: Vec<&str> = events.iter().map(Frame::event_type).collect();
            assert_eq!(types, ["INSERT", "UPDATE", "DELETE"]);
            let images: Vec<&Value> = events
                .iter()
                .flat_map(|event| [&event.json["new"], &event.json["old"]])
                .filter(|row| !row["name"].is_null())
                .collect();
            // Two, and with REPLICA IDENTITY FULL the two old ones.
            assert_eq!(images.len(), if options == full { 4 } else { 2 });
            for row in images {
                assert_eq!(shown(row), john(plain), "{plain:?}");
            }
        }
    }
}

/// MISSION Q19: the owner of a row sees it plain, whoever that is before and after.
#[tokio::test]
async fn q19_the_owner_sees_his_own_rows() {
    let world = world(&masked()).await;
    world.exec("ALTER TABLE people REPLICA IDENTITY FULL").await;
    let mut anna = world.member("anna", "org_1").await;
    let mut bert = world.member("bert", "org_1").await;
    world
        .exec(&format!(
            "INSERT INTO people VALUES (1, 'org_1', 'anna', {JOHN}); UPDATE people SET owner = 'bert'; DELETE FROM people;"
        ))
        .await;
    let fence = world.fence("org_1").await;
    let images = async |client: &mut Client| -> Vec<bool> {
        let events = client.until_fence(fence).await;
        let rows = events
            .iter()
            .flat_map(|event| [&event.json["new"], &event.json["old"]]);
        let rows = rows.filter(|row| !row.is_null());
        rows.map(|row| shown(row) == john(&[0, 4])).collect()
    };
    // INSERT new; UPDATE new, old; DELETE old.
    assert_eq!(images(&mut anna).await, [true, false, true, false]);
    assert_eq!(images(&mut bert).await, [false, true, false, true]);
}

/// MISSION Q22: null, empty, numbers, documents.
#[tokio::test]
async fn q22_what_is_not_an_ordinary_text() {
    let track = format!(
        "{PEOPLE} CREATE TABLE odd (id int PRIMARY KEY, organization_id text, a bigint, b jsonb, c text[], d text, e text);
         SELECT rowcast.track('odd', mask => '{}');",
        r#"{"a":{"type":"phone"},"b":{"type":"email"},"c":{"type":"name"},"d":{"type":"name"},"e":{"type":"redact"}}"#
    );
    let world = World::prepared(&track, &[]).await;
    let mut client = world.member("u1", "org_1").await;
    world
        .exec(
            r#"INSERT INTO odd VALUES (1, 'org_1', 5551234567, '{"mail":"a@b.org"}', '{Ann}', '', ''),
               (2, 'org_1', NULL, NULL, NULL, NULL, NULL)"#,
        )
        .await;
    let events = world.events_so_far(&mut client, "org_1").await;
    let row =
        |at: usize| ["a", "b", "c", "d", "e"].map(|name| events[at].json["new"][name].clone());
    let redacted = || json!("[REDACTED]");
    assert_eq!(
        row(0),
        [
            json!("******4567"),
            redacted(),
            redacted(),
            json!(""),
            redacted()
        ]
    );
    assert_eq!(row(1), [(); 5].map(|()| Value::Null));
}

/// MISSION Q23: who comes back is told the past by the rule of its time; and so is who wants the latest only.
#[tokio::test]
async fn q23_replay_and_latest_are_masked_and_a_rule_holds_from_its_commit() {
    let world = world("columns => '{id,name}'").await;
    let mut client = world.member("u1", "org_1").await;
    let fence = world.fence("org_1").await;
    client.until_fence(fence).await;
    let cursor = client.events().last().unwrap().text_of("cursor").to_owned();
    let insert = |id: i32| {
        format!("INSERT INTO people (id, organization_id, name) VALUES ({id}, 'org_1', 'John');")
    };
    let rule = |mask: &str| {
        format!("UPDATE rowcast.tables SET mask = {mask} WHERE table_name = 'people';")
    };
    let name = r#"'{"name": {"type": "name"}}'"#;
    world.exec(&insert(1)).await;
    world.exec(&rule(name)).await;
    world.exec(&insert(2)).await;
    // In one transaction: what comes before the change, and what comes after.
    world
        .exec(&format!(
            "BEGIN; {} {} {} COMMIT",
            insert(3),
            rule("NULL"),
            insert(4)
        ))
        .await;
    world
        .exec(&format!(
            "SELECT rowcast.track('people', columns => '{{id,name}}', mask => {name}); {}",
            insert(5)
        ))
        .await;
    let names = |events: &[Frame]| -> Vec<String> {
        let name = |event: &Frame| event.json["new"]["name"].as_str().unwrap().to_owned();
        events.iter().map(name).collect()
    };
    let expected = ["John", "J***", "J***", "John", "J***"];
    assert_eq!(
        names(&world.events_so_far(&mut client, "org_1").await),
        expected
    );
    for mode in ["all", "latest"] {
        let mut back = world.login("u1", "org_1").await;
        back.ask(subscribe(
            "org:org_1",
            json!({ "mode": mode, "cursor": cursor }),
        ))
        .await;
        assert_eq!(
            names(&world.events_so_far(&mut back, "org_1").await),
            expected,
            "{mode}"
        );
    }
}

/// MISSION Q20 and the filters: what is masked for somebody cannot be asked for, not even later.
#[tokio::test]
async fn masked_columns_are_refused_in_filters() {
    let world = world(&masked()).await;
    let mut member = world.member("m", "org_1").await;
    let mut admin = world.member_with_role("a", "org_1", "admin").await;
    let by = |column: &str| {
        let filter = json!({ "column": column, "op": "eq", "value": "John" });
        subscribe(
            "org:org_1",
            json!({ "tables": [{ "table": "people", "filter": filter }, { "table": "fences" }] }),
        )
    };
    for column in ["name", "email", "card"] {
        let reply = member.ask(by(column)).await;
        assert_eq!(reply.json["name"], "masked_column", "{}", reply.text);
        assert!(reply.text_of("message").contains(column));
    }
    assert_eq!(admin.ask(by("card")).await.json["code"], 307);
    assert!(admin.ask(by("name")).await.is("subscribed"));
    assert!(member.ask(by("secret")).await.is("subscribed"));
    world
        .exec(&format!(
            "INSERT INTO people VALUES (1, 'org_1', 'o', {JOHN})"
        ))
        .await;
    let events = world.events_so_far(&mut admin, "org_1").await;
    assert_eq!(events.len(), 1);
    // The rule changes, and the roles change.
    world.exec("UPDATE rowcast.tables SET columns = '{id,name}', mask = NULL WHERE table_name = 'people'").await;
    let end = member
        .until("the end", |frame| frame.is("unsubscribed"))
        .await;
    assert_eq!(end.text_of("reason"), "column_hidden");
    world.exec("UPDATE rowcast.tables SET columns = NULL, mask = '{\"name\": {\"type\": \"name\", \"show\": {\"roles\": [\"admin\"]}}}' WHERE table_name = 'people'").await;
    world
        .exec("UPDATE rowcast.memberships SET role = 'member' WHERE user_id = 'a'")
        .await;
    let end = admin
        .until("the end", |frame| frame.is("unsubscribed"))
        .await;
    assert_eq!(end.text_of("reason"), "column_hidden");
}

/// A change of columns that somebody does not see is, for him, no change: one row, many, very many; in a table
/// and by log; with the whole old row in the log and without.
#[tokio::test]
async fn a_change_of_hidden_columns_is_like_no_change() {
    for (storage, identity) in [("table", "DEFAULT"), ("log", "DEFAULT"), ("log", "FULL")] {
        let options = format!(
            "columns => '{{id,organization_id,email,ssn}}', {}, storage => '{storage}', max_rows => 5",
            masked()
        );
        let world = world(&options).await;
        world.exec(&format!("ALTER TABLE people REPLICA IDENTITY {identity}; CREATE TABLE other (id int PRIMARY KEY, organization_id text)")).await;
        world
            .exec(
                "INSERT INTO people (id, organization_id, owner, email, ssn) SELECT n, 'org_1', 'o', 'a' || n || '@b.org', '1' FROM generate_series(1, 3) n;
                 INSERT INTO people (id, organization_id, owner, email, ssn) SELECT n, 'org_2', 'o', 'a@b.org', '1' FROM generate_series(4, 20) n",
            )
            .await;
        let mut member = world.member_with_role("m", "org_1", "member").await;
        let mut owner = world.member_with_role("o", "org_1", "member").await;
        let mut hr = world.member_with_role("h", "org_1", "hr").await;
        let mut admin = world.member_with_role("a", "org_1", "admin").await;
        let fence = world.fence("org_1").await;
        for client in [&mut member, &mut owner, &mut hr, &mut admin] {
            client.until_fence(fence).await;
        }
        // What is written, and how many events the member, the owner, hr and the admin get of it.
        for (what, counts) in [
            ("secret = 'x' WHERE id = 1", [0, 0, 0, 0]),
            (
                "secret = secret || 'x', owner = owner WHERE id < 4",
                [0, 0, 0, 0],
            ),
            ("secret = 'y'", [0, 0, 0, 0]),
            ("email = 'c@d.org' WHERE id = 1", [0, 1, 0, 1]),
            ("email = 'e@f.org', secret = 'z' WHERE id < 4", [0, 3, 0, 3]),
            ("ssn = '2' WHERE id = 1", [0, 0, 1, 0]),
            (
                "ssn = '3', email = CASE WHEN id = 2 THEN 'g@h.org' ELSE email END WHERE id < 4",
                [0, 1, 3, 1],
            ),
            // Very many: one event for the table, and only for whom it concerns. Whose rows they are is not said.
            ("ssn = '4'", [0, 0, 1, 0]),
            (
                "ssn = CASE WHEN id > 3 THEN '5' ELSE ssn END, secret = 'q'",
                [0, 0, 0, 0],
            ),
            (
                "email = 'i@j.org', ssn = '6' WHERE id < 3 OR id > 3",
                [0, 0, 1, 1],
            ),
            // Somebody else's from now on: he sees another email, and nobody else does.
            (
                "owner = 'a' WHERE id = 1",
                [0, usize::from(identity == "FULL"), 0, 1],
            ),
            ("id = id + 100 WHERE id = 1", [1, 1, 1, 1]),
        ] {
            world.exec(&format!("UPDATE people SET {what}")).await;
            let fence = world.fence("org_1").await;
            let mut got = [0; 4];
            for (client, got) in [&mut member, &mut owner, &mut hr, &mut admin]
                .into_iter()
                .zip(&mut got)
            {
                *got = client.until_fence(fence).await.len();
            }
            assert_eq!(got, counts, "{what}, {storage}, {identity}");
        }
        assert!(
            member
                .seen
                .iter()
                .all(|frame| !frame.text.contains("@d.org") && !frame.text.contains("@f.org"))
        );
        let problems = world
            .sql
            .text("SELECT coalesce(string_agg(reason, '; '), '') FROM rowcast.problems")
            .await;
        assert_eq!(problems, "");
    }
}

/// After a restart what was committed before the last change of a rule is told without rows: the former rule may
/// have hidden what the present one shows.
#[tokio::test]
async fn a_restart_shows_nothing_that_was_hidden_when_it_was_committed() {
    let mut world = world(&masked()).await;
    let mut client = world.member("u1", "org_1").await;
    let fence = world.fence("org_1").await;
    client.until_fence(fence).await;
    let cursor = client.events().last().unwrap().text_of("cursor").to_owned();
    world
        .exec(&format!(
            "INSERT INTO people VALUES (1, 'org_1', 'o', {JOHN})"
        ))
        .await;
    world
        .exec("UPDATE rowcast.tables SET mask = NULL WHERE table_name = 'people'")
        .await;
    world
        .exec(&format!(
            "INSERT INTO people VALUES (2, 'org_1', 'o', {JOHN})"
        ))
        .await;
    world.events_so_far(&mut client, "org_1").await;
    world.server.terminate();
    world.server = crate::harness::server::Server::start(&world.database, &[]).await;
    let mut back = world.login("u1", "org_1").await;
    back.ask(subscribe("org:org_1", json!({ "cursor": cursor })))
        .await;
    let events = world.events_so_far(&mut back, "org_1").await;
    let told: Vec<(&str, &Value)> = events
        .iter()
        .map(|event| (event.text_of("type"), &event.json["new"]["name"]))
        .collect();
    let name = json!("John");
    assert_eq!(
        told,
        [("invalidate", &Value::Null), ("postgres_changes", &name)]
    );
}
