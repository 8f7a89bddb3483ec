//! The generated helper module: Q6, Q7, Q27, Q28, Q32, Q33, and what it says in the shapes of Q8 to Q19.

use serde_json::{Value, json};

use crate::harness::{
    client::{Client, Frame},
    fixture::{TABLES, TRACK},
    postgres::{Database, shared_cluster},
    server::{Finished, run},
    typescript::Project,
    world::{World, migrate},
};

const TOKEN: &str = "a-token-of-the-application-server";
const FILE: &str = "src/lib/realtime.ts";

/// Tables with rules, names that are none, and declared events.
const MORE: &str = r#"
CREATE TYPE mood AS ENUM ('calm', 'it''s "odd" */');
CREATE DOMAIN pieces AS numeric[];
CREATE TABLE claims (id bigint PRIMARY KEY, title text, organization_id text NOT NULL, secret text, amount numeric,
    parts pieces, created_at timestamptz, mood mood, doubled bigint GENERATED ALWAYS AS (id * 2) STORED);
SELECT rowcast.track('claims', columns => '{id,title,amount,parts,created_at,mood,doubled}', required_roles => '{member,admin}');
CREATE TABLE employees (id int PRIMARY KEY, organization_id text, person text, ssn text, full_name text);
SELECT rowcast.track('employees', columns => '{id,ssn,full_name}', owner_column => 'person',
    mask => '{"ssn": {"type": "ssn", "show": {"roles": ["admin"], "or": "owner"}}}');
CREATE TABLE "*/ evil" (id int PRIMARY KEY, organization_id text, "*/ ""; evil() //" text, "new" text, "constructor" text);
SELECT rowcast.track('"*/ evil"');
CREATE TABLE "
evil();" (id int PRIMARY KEY, organization_id text);
SELECT rowcast.track(oid::regclass) FROM pg_class WHERE relname = E'\nevil();';
CREATE TABLE "__proto__" (id int PRIMARY KEY, organization_id text, "__proto__" text);
SELECT rowcast.track('"__proto__"', mask => '{"__proto__": {"type": "redact"}}');
CREATE SCHEMA audit;
CREATE TABLE audit.log (a int, b text, organization_id text, PRIMARY KEY (a, b));
SELECT rowcast.track('audit.log');
CREATE TABLE "audit.log" (id int PRIMARY KEY, organization_id text);
SELECT rowcast.track('"audit.log"');
CREATE TABLE quiet (id int PRIMARY KEY, organization_id text, text text);
SELECT rowcast.track('quiet', rows => false);
CREATE TABLE guarded (id int PRIMARY KEY, organization_id text);
SELECT rowcast.track('guarded', visibility => 'policies');
SELECT rowcast.declare_events('extraction', '{started,progress,completed,failed}', 'Material extraction */ evil() /*');
SELECT rowcast.declare_events('notifications', '{new,read,dismissed}');
SELECT rowcast.declare_events('presence', '{joined,left,typing,idle}');
SELECT rowcast.declare_events('with-dash', '{"`${evil}\"",then}');
SELECT rowcast.declare_events('delete', '{everything}');
"#;

async fn generate(database: &Database, more: &[&str]) -> Finished {
    let arguments = [&["generate", "helper"], more].concat();
    run(&arguments, &[("DATABASE_URL", &database.url)]).await
}

/// A project with the module for this database in it.
async fn project(database: &Database, sources: &[(&str, &str)]) -> Project {
    let project = Project::new();
    let file = project.path(FILE);
    let done = generate(database, &["--out", file.to_str().unwrap()]).await;
    assert_eq!(done.code, Some(0), "{}", done.said);
    for (name, text) in sources {
        project.add(name, text);
    }
    project
}

async fn world() -> World {
    World::prepared(&format!("{TRACK} {MORE}"), &[("ACCESS_TOKEN", TOKEN)]).await
}

async fn node(world: &World, project: &Project, name: &str) -> Vec<String> {
    let url = format!("http://{}/", world.server.public);
    let env = [
        ("REALTIME_URL", url.as_str()),
        ("ACCESS_TOKEN", TOKEN),
        ("TZ", "America/New_York"),
    ];
    project.run(name, &env).await
}

/// Q6: where a table is tracked the module is generated, otherwise nothing is written; `--check` tells when it is not
/// in step, for each of what it is made of.
#[tokio::test]
async fn q06_a_module_is_generated_when_a_table_is_tracked() {
    let database = Database::fresh().await;
    let bare = generate(&database, &[]).await;
    assert_eq!(bare.code, Some(1));
    assert!(bare.said.contains("not_installed"), "{}", bare.said);
    migrate(&database).await;
    let sql = database.connect().await;
    sql.exec(TABLES).await;

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join(FILE);
    let out = file.to_str().unwrap();
    sql.exec("SELECT rowcast.declare_events('extraction', '{started}')")
        .await;
    let nothing = generate(&database, &["--out", out]).await;
    assert_eq!(nothing.code, Some(1));
    assert!(
        nothing.said.contains("no table is tracked") && nothing.said.contains("rowcast.track"),
        "{}",
        nothing.said
    );
    assert!(!folder.path().join("src").exists());

    sql.exec("SELECT rowcast.track('materials')").await;
    let check = async || generate(&database, &["--out", out, "--check"]).await;
    assert_eq!(check().await.code, Some(1), "it is not there");
    assert!(!file.exists());
    let written = generate(&database, &["--out", out]).await;
    assert_eq!(written.code, Some(0), "{}", written.said);
    let text = std::fs::read_to_string(&file).unwrap();
    let printed = generate(&database, &[]).await;
    assert_eq!(printed.said, text);
    assert!(text.contains("export function createRealtime(env: Env"));
    assert_eq!(check().await.code, Some(0));
    // The role of the service is enough, whatever stands in its way.
    let role = format!("helper_{}_{}", database.name, std::process::id());
    sql.exec(&format!(
        "CREATE ROLE {role} LOGIN; SELECT rowcast.grant_service('{role}');
         CREATE SCHEMA {role} AUTHORIZATION {role};
         CREATE VIEW {role}.pg_attribute AS SELECT 1 AS attrelid;
         ALTER ROLE {role} SET search_path = {role}, pg_catalog"
    ))
    .await;
    let small = shared_cluster().url_as(&role, None, &database.name);
    let printed = run(&["generate", "helper"], &[("DATABASE_URL", &small)]).await;
    assert_eq!(printed.said, text);

    for change in [
        "SELECT rowcast.track('orders')",
        "SELECT rowcast.track('orders', columns => '{id}')",
        "SELECT rowcast.declare_events('extraction', '{started,failed}')",
        "ALTER TABLE materials ADD COLUMN more int",
        "SELECT rowcast.untrack('orders')",
    ] {
        sql.exec(change).await;
        let behind = check().await;
        assert_eq!(behind.code, Some(1), "{change}");
        assert!(behind.said.contains("out_of_step"), "{}", behind.said);
        assert_eq!(generate(&database, &["--out", out]).await.code, Some(0));
        assert_eq!(check().await.code, Some(0), "{change}");
    }
    // As a checkout elsewhere has it.
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace('\n', "\r\n")).unwrap();
    assert_eq!(check().await.code, Some(0));
    // What somebody wrote himself stays.
    std::fs::write(&file, "mine").unwrap();
    let foreign = generate(&database, &["--out", out]).await;
    assert!(foreign.said.contains("foreign_file"), "{}", foreign.said);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "mine");
}

/// Q6, Q32, Q33: the strictest compiler takes the module and what uses it, whatever tables and events are called; each
/// misspelt table, column, option, namespace or event is an error in its line.
#[tokio::test]
async fn q06_misspelt_names_do_not_compile() {
    let database = Database::fresh().await;
    migrate(&database).await;
    let sql = database.connect().await;
    sql.exec(&format!("{TABLES} {TRACK} {MORE}")).await;
    let wrong = include_str!("helper/wrong.ts");
    let right = [
        ("src/says.ts", include_str!("helper/says.ts")),
        ("src/fails.ts", include_str!("helper/fails.ts")),
    ];
    let project = project(&database, &right).await;
    let errors = project.compile().await;
    assert!(errors.is_empty(), "{errors:#?}");

    project.add("src/wrong.ts", wrong);
    let errors = project.compile().await;
    let head = wrong.lines().position(|line| line.starts_with("// Every"));
    let lines: Vec<usize> = (head.unwrap() + 2..=wrong.lines().count()).collect();
    assert_eq!(lines.len(), 23);
    let complaints = errors.iter().map(|error| {
        let at = error
            .strip_prefix("src/wrong.ts(")
            .unwrap_or_else(|| panic!("{error}"));
        at.split_once(',').unwrap().0.parse().unwrap()
    });
    let mut found: Vec<usize> = complaints.collect();
    found.dedup();
    assert_eq!(found, lines, "{errors:#?}");

    // Without namespaces, and with the types of a browser, its fetch can be handed over.
    sql.exec("DELETE FROM rowcast.event_namespaces").await;
    let plain = self::project(&database, &[]).await;
    plain.add(
        "src/app.ts",
        "/// <reference lib=\"dom\" />\nimport { createRealtime } from \"./lib/realtime.js\";\n\
         createRealtime({ REALTIME_URL: \"http://x\", ACCESS_TOKEN: \"t\" }, { fetch }).insert(\"orders\", { id: 1 }, \"o\");\n",
    );
    let errors = plain.compile().await;
    assert!(errors.is_empty(), "{errors:#?}");
}

/// What was told, up to the channel.
fn said(frames: &[Frame]) -> Vec<String> {
    let said = |frame: &Frame| {
        let end = frame.text.find(r#","organizationId":"#);
        let end = end.or_else(|| frame.text.find(r#","channel":"#)).unwrap();
        frame.text[..end].to_owned()
    };
    frames.iter().map(said).collect()
}

fn change(table: &str, kind: &str, new: &str, old: &str) -> String {
    in_schema("public", table, kind, new, old)
}

fn in_schema(schema: &str, table: &str, kind: &str, new: &str, old: &str) -> String {
    let table = Value::from(table);
    format!(
        r#"{{"type":"postgres_changes","table":{table},"eventType":"{kind}","schema":"{schema}","new":{new},"old":{old}"#
    )
}

fn event(name: &str, payload: &str) -> String {
    let name = Value::from(name);
    format!(r#"{{"type":"broadcast","event":{name},"payload":{payload}"#)
}

/// Q6 to Q19, Q28, Q32: the module under Node against the service: real sockets receive the shapes of the document, whom
/// options and rules name and nobody else; answers are those of POST /broadcast.
#[tokio::test]
async fn q06_q19_what_the_module_says_arrives_as_the_document_has_it() {
    let world = world().await;
    let mut anna = world.member("anna", "org_1").await;
    let mut bert = world.member_with_role("bert", "org_1", "admin").await;
    let mut dora = world.member_with_role("dora", "org_1", "guest").await;
    let mut carl = world.member_with_role("carl", "org_2", "admin").await;
    let project = project(
        &world.database,
        &[("src/says.ts", include_str!("helper/says.ts"))],
    )
    .await;
    let errors = project.compile().await;
    assert!(errors.is_empty(), "{errors:#?}");
    let answers: Vec<Value> = node(&world, &project, "says.js")
        .await
        .iter()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();

    let sockets: Vec<&Value> = answers.iter().map(|answer| &answer["sockets"]).collect();
    let expected = [
        json!([3, 3, 3, 3, 3, 3, 3]),
        json!([1, 1, 1, 1, 0]),
        json!([2, 1, 3, 3]),
        json!([3, 3, 3, 3, 3, 3, 3]),
        json!([null, 3, 3]),
    ];
    let expected: Vec<&Value> = expected
        .iter()
        .flat_map(|list| list.as_array().unwrap())
        .collect();
    assert_eq!(sockets, expected);
    assert!(answers.iter().all(|answer| answer["cursor"].is_string()));
    let [.., durable, once, again] = &answers[..] else {
        unreachable!("there are many");
    };
    assert_eq!(durable["durable"], true);
    assert_eq!(once, again, "one key, one answer");

    let claim = r#"{"id":9007199254740993,"title":"x","amount":12345678901234567890,"parts":[1.50,null,[2]],"created_at":"1970-01-01T00:00:01.5+00:00","mood":"it's \"odd\" */"}"#;
    let later = claim.replace(r#""title":"x""#, r#""title":"y""#);
    let employee =
        |ssn: &str, name: &str| format!(r#"{{"id":1,"ssn":"{ssn}","full_name":"{name}"}}"#);
    let plain = "123-45-6789";
    let masked = "*****6789";
    let all = [
        change(
            "materials",
            "INSERT",
            r#"{"id":"mat_123","title":"Breaking News","status":"pending"}"#,
            "null",
        ),
        change(
            "materials",
            "UPDATE",
            r#"{"id":"mat_123","status":"completed"}"#,
            r#"{"id":"mat_123","status":"pending"}"#,
        ),
        change("materials", "DELETE", "null", r#"{"id":"mat_123"}"#),
        event(
            "processing-complete",
            r#"{"materialId":"mat_123","claimCount":5,"duration":1234}"#,
        ),
        event("extraction:started", r#"{"materialId":"mat_123"}"#),
        event("extraction:progress", r#"{"percent":50}"#),
        event("notifications:new", "null"),
    ];
    let for_admins = [
        change("materials", "INSERT", r#"{"id":"for-admins"}"#, "null"),
        event("task-assigned", r#"{"taskId":"task_123"}"#),
    ];
    let for_anna = [
        change(
            "notifications",
            "INSERT",
            r#"{"id":1,"user_id":"anna","title":"x"}"#,
            "null",
        ),
        change("notifications", "DELETE", "null", r#"{"id":1}"#),
    ];
    let for_members = [change("claims", "INSERT", claim, "null")];
    let for_admin_members = [change(
        "claims",
        "UPDATE",
        &later,
        r#"{"id":7,"amount":"NaN"}"#,
    )];
    // The mask of the rule holds, whatever the call says.
    let employees = |owner: bool, admin: bool| {
        let of = |open: bool| if open { plain } else { masked };
        let both = employee(of(admin), "John");
        [
            change(
                "employees",
                "INSERT",
                &employee(of(owner || admin), "J***"),
                "null",
            ),
            change("employees", "UPDATE", &both, &both),
        ]
    };
    let names = [
        change(
            "*/ evil",
            "INSERT",
            r#"{"id":1,"*/ \"; evil() //":"x","new":"y","constructor":"z"}"#,
            "null",
        ),
        change(
            "__proto__",
            "INSERT",
            r#"{"id":1,"__proto__":"[REDACTED]"}"#,
            "null",
        ),
        change("audit.log", "DELETE", "null", r#"{"id":1}"#),
        in_schema("audit", "log", "DELETE", "null", r#"{"a":1,"b":"2"}"#),
        event("with-dash:`${evil}\"", "1"),
        event("delete:everything", "1"),
        change("quiet", "INSERT", r#"{"id":1}"#, "null"),
        event("extraction:completed", "{}"),
        event("extraction:failed", "{}"),
    ];
    let anna_expected = [
        &all[..],
        &for_anna,
        &for_members,
        &employees(true, false),
        &names,
    ]
    .concat();
    let bert_expected = [
        &all[..],
        &for_admins,
        &for_members,
        &for_admin_members,
        &employees(false, true),
        &names,
    ]
    .concat();
    let dora_expected = [&all[..], &employees(false, false), &names].concat();
    for (client, expected) in [
        (&mut anna, anna_expected),
        (&mut bert, bert_expected),
        (&mut dora, dora_expected),
    ] {
        assert_eq!(said(&so_far(&world, client, "org_1").await), expected);
    }
    assert!(so_far(&world, &mut carl, "org_2").await.is_empty());
}

async fn so_far(world: &World, client: &mut Client, organization: &str) -> Vec<Frame> {
    world.events_so_far(client, organization).await
}

/// Q7, Q27: every failure is a `RealtimeError` with a code and a message, before anything is sent where that can be known; no token is
/// in any of them, nor in an address.
#[tokio::test]
async fn q07_q27_failures_have_a_code_and_no_secret() {
    let world = world().await;
    let mut anna = world.member("anna", "org_1").await;
    let project = project(
        &world.database,
        &[("src/fails.ts", include_str!("helper/fails.ts"))],
    )
    .await;
    let errors = project.compile().await;
    assert!(errors.is_empty(), "{errors:#?}");
    let said = node(&world, &project, "fails.js").await;
    let expected = [
        ("no address", "not_configured null REALTIME_URL"),
        ("no token", "not_configured null ACCESS_TOKEN"),
        ("bad token", "not_configured null ACCESS_TOKEN"),
        ("token in the address", "not_configured null REALTIME_URL"),
        ("token in the query", "not_configured null REALTIME_URL"),
        ("wrong token", "unauthorized 401 send the access token"),
        ("nobody there", "unreachable null "),
        ("somebody else", "unexpected_answer 200 "),
        ("moved", "unexpected_answer 302 "),
        ("an echo", "echo 400 "),
        ("an error with secrets", "unreachable null "),
        ("too slow", "timeout null "),
        ("an event that is not declared", "undeclared_event 422 "),
        ("no organization", "invalid_field 400 "),
        (
            "a payload that is no JSON",
            "not_json null the payload of x",
        ),
        (
            "a user that is not there",
            "invalid_option null userId is undefined",
        ),
        (
            "an option that is none",
            "invalid_option null there is no option \"targetRole\"",
        ),
        (
            "a table that is none",
            "invalid_option null the table \"guarded\"",
        ),
        (
            "a row without its key",
            "invalid_row null new.id of materials",
        ),
        ("a row that is none", "invalid_row null a row of materials"),
        (
            "a row of another organization",
            "invalid_row null a row of orders is of another",
        ),
        (
            "a row that moves",
            "invalid_row null a row of orders is of another",
        ),
        (
            "a role beside the rule",
            "invalid_option null the rule of claims",
        ),
        (
            "a row without its user",
            "invalid_option null only the user in user_id",
        ),
        (
            "a row of two users",
            "invalid_option null only the user in user_id",
        ),
        (
            "a row of nobody",
            "invalid_option null only the user in user_id",
        ),
    ];
    assert_eq!(said.len(), expected.len(), "{said:#?}");
    for (line, (what, begins)) in said.iter().zip(expected) {
        assert!(line.starts_with(&format!("{what}: {begins}")), "{line}");
    }
    assert!(so_far(&world, &mut anna, "org_1").await.is_empty());
}
