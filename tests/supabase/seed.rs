//! The hook of seed 004, by an unmodified `supabase-js`: MISSION T8 to T17.

use serde_json::{Value, json};

use super::{
    client::{EACH, Js, NEW, PUBLISHABLE, filtered, table},
    raw::{self, Raw},
};
use crate::harness::{
    fixture::{PROJECT_1, PROJECT_2, TRACK},
    token,
    world::World,
};

/// What the hook does for each organization of its user.
async fn hook(js: &mut Js, organization: &str) {
    let topic = format!("org:{organization}");
    let channel = json!({"do": "channel", "channel": topic, "topic": topic});
    js.call(channel).await;
    let filter = json!({
        "event": "*", "schema": "public", "table": "realtime_table_events",
        "filter": format!("organization_id=eq.{organization}"),
    });
    js.on(&topic, &topic, "postgres_changes", filter).await;
    js.subscribe(&topic).await;
}

/// The queries that a client like TanStack Query holds, and which of them are out of date: T11 to T14.
#[derive(Default)]
struct Queries(Vec<(Vec<String>, bool)>);

impl Queries {
    fn new(keys: &[&[&str]]) -> Queries {
        let key = |key: &&[&str]| (key.iter().map(|part| (*part).to_owned()).collect(), false);
        Queries(keys.iter().map(key).collect())
    }

    /// `handleTableChange` of the hook.
    fn handle(&mut self, payload: &Value) {
        assert_eq!(
            payload["eventType"], "INSERT",
            "a table event is a row that comes: {payload}"
        );
        assert_eq!(payload["table"], "realtime_table_events");
        let table = payload["new"]["table_name"].as_str().unwrap();
        let record = payload["new"]["record_id"].as_str();
        for (key, stale) in &mut self.0 {
            let hit = match key[1].as_str() {
                "list" => true,
                _ => record == Some(&key[2]),
            };
            *stale |= key[0] == table && hit;
        }
    }

    /// The keys that are to be fetched again; they are current from here on.
    fn refetch(&mut self) -> Vec<String> {
        let stale = self.0.iter_mut().filter(|query| query.1);
        let keys = stale.map(|query| {
            query.1 = false;
            query.0.join(".")
        });
        keys.collect()
    }
}

/// MISSION T17, T8, T9, T11 to T14: A inserts a project; every member gets the table event on `org:org_123`; lists are
/// out of date, single records only where they are the one that changed; nobody else hears of it.
#[tokio::test]
async fn t17_supabase_the_hook_of_the_document_end_to_end() {
    // The database as the document makes it.
    let tables = format!(
        "{TRACK} CREATE TABLE my_junction_table (parent_id uuid REFERENCES projects(id), child_id uuid REFERENCES projects(id), PRIMARY KEY (parent_id, child_id));
         SELECT rowcast.track('my_junction_table', organization_path => 'parent_id -> projects.organization_id');"
    );
    let world = World::prepared(&tables, &[]).await;
    for (user, organization) in [("anna", "org_123"), ("bert", "org_123"), ("carl", "org_2")] {
        drop(world.member(user, organization).await);
    }
    let mut clients = Vec::new();
    for (user, organization) in [("anna", "org_123"), ("bert", "org_123"), ("carl", "org_2")] {
        let mut js = Js::start(NEW).await;
        let options = js.options(PUBLISHABLE, json!({}));
        let options = json!({"transport": options["transport"], "reconnectAfterMs": 200});
        let url = format!("http://{}", world.server.public);
        let create = json!({"do": "createClient", "url": url, "key": PUBLISHABLE, "token": token::session(user), "options": options});
        js.call(create).await;
        js.call(json!({"do": "setAuth"})).await;
        hook(&mut js, organization).await;
        let keys: [&[&str]; 5] = [
            &["projects", "list"],
            &["projects", "record", PROJECT_1],
            &["projects", "record", PROJECT_2],
            &["tasks", "list"],
            &["my_junction_table", "list"],
        ];
        clients.push((js, organization, Queries::new(&keys)));
    }
    let project = |id: &str, organization: &str| {
        format!("INSERT INTO projects VALUES ('{id}', '{organization}', 'p')")
    };
    let writes = [
        (
            project(PROJECT_1, "org_123"),
            vec![
                "projects.list".to_owned(),
                format!("projects.record.{PROJECT_1}"),
            ],
        ),
        (
            project(PROJECT_2, "org_123"),
            vec![
                "projects.list".to_owned(),
                format!("projects.record.{PROJECT_2}"),
            ],
        ),
        (
            format!("INSERT INTO tasks VALUES (1, '{PROJECT_1}', 't')"),
            vec!["tasks.list".to_owned()],
        ),
        (
            format!("INSERT INTO my_junction_table VALUES ('{PROJECT_1}', '{PROJECT_2}')"),
            vec!["my_junction_table.list".to_owned()],
        ),
        (
            format!("UPDATE projects SET name = 'q' WHERE id = '{PROJECT_2}'"),
            vec![
                "projects.list".to_owned(),
                format!("projects.record.{PROJECT_2}"),
            ],
        ),
        (
            "DELETE FROM tasks".to_owned(),
            vec!["tasks.list".to_owned()],
        ),
    ];
    let names = [
        "projects",
        "projects",
        "tasks",
        "my_junction_table",
        "projects",
        "tasks",
    ];
    let types = ["INSERT", "INSERT", "INSERT", "INSERT", "UPDATE", "DELETE"];
    for (n, (sql, stale)) in writes.iter().enumerate() {
        world.exec(sql).await;
        for (js, organization, queries) in &mut clients {
            if *organization == "org_2" {
                continue;
            }
            let event = js.callback("org:org_123").await;
            let row = &event["new"];
            assert_eq!(row["table_name"], names[n]);
            assert_eq!(row["event_type"], types[n]);
            assert_eq!(row["organization_id"], "org_123");
            assert_eq!(row["table_schema"], "public");
            assert!(row["record_id"].is_string(), "{row}");
            assert!(
                !row["id"].is_null() && row["created_at"].is_string(),
                "{row}"
            );
            queries.handle(&event);
            assert_eq!(queries.refetch(), *stale, "{sql}");
        }
    }
    // The other organization hears of its own, and has heard of nothing else.
    world
        .exec("INSERT INTO labels VALUES (1, 'org_2', 'x')")
        .await;
    let (js, _, queries) = clients.last_mut().unwrap();
    let event = js.callback("org:org_2").await;
    assert_eq!(event["new"]["table_name"], "labels");
    queries.handle(&event);
    assert_eq!(queries.refetch(), Vec::<String>::new());
}

/// MISSION T9, T10: by the libraries themselves; the filter is a filter and no right; a membership that comes or goes
/// is followed; invisible tables are not told of.
#[tokio::test]
async fn t09_t10_supabase_table_events_are_of_the_own_organizations() {
    let tables = format!(
        "{TRACK} CREATE TABLE salaries (id int PRIMARY KEY, organization_id text);
         SELECT rowcast.track('salaries', organization_column => 'organization_id', required_roles => '{{hr}}');"
    );
    let world = World::prepared(&tables, &[]).await;
    for (round, library) in EACH.into_iter().enumerate() {
        let user = format!("u-{}", library.version);
        let mut js = Js::member(&world, library, &user, "org_1").await;
        let events = |filter: &str| filtered("realtime_table_events", filter);
        let bindings = [
            ("own", events("organization_id=eq.org_1")),
            ("other", events("organization_id=eq.org_2")),
            ("labels", events("table_name=eq.labels")),
        ];
        js.listen("org:org_1", &bindings).await;
        let base = round * 10;
        let label = |n: usize, organization: &str| {
            format!(
                "INSERT INTO labels VALUES ({}, '{organization}', 'x')",
                base + n
            )
        };
        world.exec(&label(1, "org_1")).await;
        world.exec(&label(2, "org_2")).await;
        world
            .exec(&format!("INSERT INTO salaries VALUES ({base}, 'org_1')"))
            .await;
        world.add_member(&user, "org_2", "member").await;
        world.exec(&label(3, "org_2")).await;
        let leave = format!(
            "DELETE FROM rowcast.memberships WHERE user_id = '{user}' AND organization_id = 'org_2'"
        );
        world.exec(&leave).await;
        world.exec(&label(4, "org_2")).await;
        let mut got: Vec<String> = (js.so_far(&world, "org_1").await.iter())
            .filter(|event| event.1["new"]["table_name"] != "fences")
            .map(|(name, payload)| {
                let row = &payload["new"];
                format!(
                    "{name} {} {}",
                    row["table_name"].as_str().unwrap(),
                    row["record_id"].as_str().unwrap()
                )
            })
            .collect();
        got.sort_unstable();
        let [one, three] = [base + 1, base + 3];
        let mut right = [
            format!("own labels {one}"),
            format!("labels labels {one}"),
            format!("other labels {three}"),
            format!("labels labels {three}"),
        ];
        right.sort_unstable();
        assert_eq!(got, right, "{library:?}");
    }
}

/// The same on the wire: the record of a table event and its types.
#[tokio::test]
async fn t01_supabase_table_events_on_the_wire() {
    let world = World::start().await;
    drop(world.member("u1", "org_1").await);
    for vsn in raw::EACH {
        let mut raw = Raw::open(world.server.public, vsn).await;
        let binding = filtered("realtime_table_events", "organization_id=eq.org_1");
        raw.joined(
            "realtime:org:org_1",
            &token::session("u1"),
            json!([binding]),
        )
        .await;
        world
            .exec("INSERT INTO labels VALUES (7, 'org_1', 'x'); DELETE FROM labels")
            .await;
        let mut events = Vec::new();
        while events.len() < 2 {
            let event = raw
                .until("a table event", |said| said.event == "postgres_changes")
                .await;
            events.push(event.payload["data"].clone());
        }
        for (event, kind) in events.iter().zip(["INSERT", "DELETE"]) {
            assert_eq!(
                (&event["type"], &event["table"], &event["schema"]),
                (
                    &json!("INSERT"),
                    &json!("realtime_table_events"),
                    &json!("public")
                )
            );
            assert!(event.get("old_record").is_none());
            let record = event["record"].as_object().unwrap();
            let names: Vec<&str> = record.keys().map(String::as_str).collect();
            let mut sorted = [
                "id",
                "organization_id",
                "table_schema",
                "table_name",
                "event_type",
                "record_id",
                "created_at",
            ];
            sorted.sort_unstable();
            let mut found = names.clone();
            found.sort_unstable();
            assert_eq!(found, sorted);
            assert_eq!(record["event_type"], kind);
            assert_eq!(record["record_id"], "7");
            let columns: Vec<&str> = (event["columns"].as_array().unwrap().iter())
                .map(|column| column["name"].as_str().unwrap())
                .collect();
            let mut columns = columns;
            columns.sort_unstable();
            assert_eq!(columns, sorted);
        }
    }
}

/// Table events go to whoever may see the change: a user's own rows, masks that make a change invisible, tables whose
/// rows are not told, and statements that are too large for rows.
#[tokio::test]
async fn supabase_table_events_go_where_the_change_may_be_seen() {
    let tables = format!(
        "{TRACK} CREATE TABLE people (id int PRIMARY KEY, organization_id text, name text, secret text);
         SELECT rowcast.track('people', columns => '{{id,organization_id,name}}', mask => '{{\"name\": {{\"type\": \"name\", \"show\": {{\"roles\": [\"admin\"]}}}}}}');
         CREATE TABLE silent (id int PRIMARY KEY, organization_id text);
         SELECT rowcast.track('silent', rows => false);
         CREATE TABLE bulk (id int PRIMARY KEY, organization_id text);
         SELECT rowcast.track('bulk', max_rows => 5);"
    );
    let world = World::prepared(&tables, &[]).await;
    drop(world.member_with_role("adm", "org_1", "admin").await);
    for library in EACH {
        let user = format!("u-{}", library.version);
        let mut member = Js::member(&world, library, &user, "org_1").await;
        let mut admin = Js::of(&world, library, "adm").await;
        let bindings = [
            ("events", table("realtime_table_events")),
            ("rows", table("*")),
        ];
        for js in [&mut member, &mut admin] {
            js.listen("org:org_1", &bindings).await;
        }
        world
            .exec(&format!(
                "INSERT INTO people VALUES (1, 'org_1', 'John', 'x'); UPDATE people SET secret = 'y'; UPDATE people SET name = 'Jane'; DELETE FROM people;
                 INSERT INTO notifications VALUES (1, 'org_1', '{user}', 'mine'), (2, 'org_1', 'other', 'not mine'); DELETE FROM notifications;
                 INSERT INTO silent VALUES (1, 'org_1'); DELETE FROM silent;
                 INSERT INTO bulk SELECT n, 'org_1' FROM generate_series(1, 20) n; DELETE FROM bulk; TRUNCATE bulk"
            ))
            .await;
        let fence = world.fence("org_1").await;
        let mut got = Vec::new();
        for js in [&mut member, &mut admin] {
            let events = js.until_fence(fence).await;
            let tell = |name: &str| -> Vec<String> {
                let mine = events.iter().filter(|event| event.0 == name);
                let told = mine.map(|(_, payload)| {
                    let row = &payload["new"];
                    match name {
                        "events" => format!(
                            "{} {} {}",
                            row["event_type"].as_str().unwrap(),
                            row["table_name"].as_str().unwrap(),
                            row["record_id"]
                        ),
                        _ => format!(
                            "{} {}",
                            payload["eventType"].as_str().unwrap(),
                            payload["table"].as_str().unwrap()
                        ),
                    }
                });
                told.filter(|one| !one.contains("fences")).collect()
            };
            got.push((tell("events"), tell("rows")));
        }
        let people = |with_name: bool| -> Vec<String> {
            let all = [
                r#"INSERT people "1""#,
                r#"UPDATE people "1""#,
                r#"DELETE people "1""#,
            ];
            let all = all
                .iter()
                .filter(|one| with_name || !one.starts_with("UPDATE"));
            all.map(|one| (*one).to_owned()).collect()
        };
        let rest: Vec<String> = [
            r#"INSERT silent "1""#,
            r#"DELETE silent "1""#,
            "INSERT bulk null",
            "DELETE bulk null",
            "TRUNCATE bulk null",
        ]
        .map(str::to_owned)
        .into();
        let mine =
            [r#"INSERT notifications "1""#, r#"DELETE notifications "1""#].map(str::to_owned);
        let right = [people(false), mine.into(), rest.clone()].concat();
        assert_eq!(got[0].0, right, "{library:?}");
        assert_eq!(got[1].0, [people(true), rest].concat(), "{library:?}");
        let rows = [
            "INSERT people",
            "DELETE people",
            "INSERT notifications",
            "DELETE notifications",
        ];
        assert_eq!(got[0].1, rows, "{library:?}");
        assert_eq!(
            got[1].1,
            ["INSERT people", "UPDATE people", "DELETE people"],
            "{library:?}"
        );
    }
}
