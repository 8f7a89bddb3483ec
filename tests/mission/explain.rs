//! Why somebody gets nothing: each gate in turn says no, with what mends it.

use serde_json::{Value, json};

use super::admin::{TOKEN, admin, world};
use crate::harness::{
    server::run,
    token, until,
    world::{World, subscribe},
};

pub(super) async fn explain(world: &World, question: Value) -> Value {
    let answer = admin(world, "POST", "explain", question).await;
    assert_eq!(answer.status, 200, "{}", answer.json);
    answer.json
}

/// What one gate says.
pub(super) fn gate<'a>(answer: &'a Value, name: &str) -> &'a Value {
    let gates = answer["gates"].as_array().unwrap();
    gates
        .iter()
        .find(|gate| gate["gate"] == name)
        .unwrap_or(&Value::Null)
}

/// Exactly this gate says no, and says what mends it.
fn only(answer: &Value, name: &str, mends: &str) {
    let gates = answer["gates"].as_array().unwrap();
    let no: Vec<&Value> = gates
        .iter()
        .filter(|gate| gate["verdict"] == "no")
        .map(|gate| &gate["gate"])
        .collect();
    assert_eq!(no, [name], "{answer:#}");
    assert_eq!(
        (&answer["delivered"], &answer["stops"]),
        (&json!(false), &json!(name))
    );
    let mend = gate(answer, name)["mend"].to_string();
    assert!(mend.contains(mends), "{mends} is not in {mend}");
}

const TABLES: &str = "
    CREATE TABLE plain (id int PRIMARY KEY, organization_id text, grade int, email text);
    SELECT rowcast.track('plain', mask => '{\"email\": {\"type\": \"email\", \"show\": {\"roles\": [\"hr\"]}}}');
    CREATE TABLE untracked (id int PRIMARY KEY, organization_id text);
    CREATE TABLE inserts (id int PRIMARY KEY, organization_id text);
    SELECT rowcast.track('inserts', operations => '{INSERT}');
    CREATE TABLE for_hr (id int PRIMARY KEY, organization_id text);
    SELECT rowcast.track('for_hr', required_roles => '{hr}');
    CREATE TABLE letters (id int PRIMARY KEY, organization_id text, reader text);
    SELECT rowcast.track('letters', user_column => 'reader');";

/// One gate after the other says no, for the reason that it is there for.
#[tokio::test]
async fn explain_each_gate() {
    let world = world(TABLES).await;
    let mut anna = world.member("anna", "org_1").await;
    world.add_member("absent", "org_1", "member").await;
    world
        .exec(
            "INSERT INTO plain VALUES (1, 'org_1', 3, 'a@example.com');
             INSERT INTO plain VALUES (2, NULL, 3, 'a@example.com');
             INSERT INTO inserts VALUES (1, 'org_1');
             INSERT INTO for_hr VALUES (1, 'org_1');
             INSERT INTO letters VALUES (1, 'org_1', 'bert'), (2, 'org_1', 'anna');
             INSERT INTO plain VALUES (3, 'org_2', 3, 'a@example.com')",
        )
        .await;
    let fence = world.fence("org_1").await;
    anna.until_fence(fence).await;
    let ask = async |more: Value| {
        let mut question =
            json!({"user": "anna", "organization": "org_1", "table": "plain", "record": "1"});
        for (name, value) in more.as_object().unwrap() {
            question[name] = value.clone();
        }
        explain(&world, question).await
    };
    let good = ask(json!({})).await;
    assert_eq!(
        (&good["delivered"], &good["stops"]),
        (&json!(true), &Value::Null),
        "{good:#}"
    );
    assert!(
        gate(&good, "masks")["says"]
            .as_str()
            .unwrap()
            .contains("`email`")
    );
    let order: Vec<&str> = good["gates"]
        .as_array()
        .unwrap()
        .iter()
        .map(|gate| gate["gate"].as_str().unwrap())
        .collect();
    assert_eq!(
        order,
        [
            "tracked",
            "published",
            "operation",
            "organization",
            "membership",
            "channel",
            "carries",
            "required_roles",
            "user_column",
            "masks",
            "socket",
            "subscription",
            "filter",
            "position",
            "stream"
        ]
    );

    let answer = ask(json!({"table": "nowhere"})).await;
    assert_eq!(answer["stops"], "tracked");
    let answer = ask(json!({"table": "untracked"})).await;
    assert_eq!(answer["stops"], "tracked");
    assert!(
        gate(&answer, "tracked")["mend"]
            .to_string()
            .contains("rowcast.track('public.untracked')"),
        "{answer:#}"
    );
    only(
        &ask(json!({"table": "inserts", "operation": "DELETE"})).await,
        "operation",
        "operations || '{DELETE}'",
    );
    let answer = ask(json!({"record": "2"})).await;
    assert_eq!(answer["stops"], "organization", "{answer:#}");
    only(
        &ask(json!({"table": "for_hr"})).await,
        "required_roles",
        "required_roles",
    );
    only(
        &ask(json!({"table": "letters"})).await,
        "user_column",
        "user_column",
    );
    assert_eq!(
        ask(json!({"table": "letters", "record": "2"})).await["delivered"],
        true
    );
    only(&ask(json!({"record": "3"})).await, "carries", "org:org_2");
    only(
        &ask(json!({"channel": "user:anna"})).await,
        "carries",
        "user_column",
    );
    let answer = ask(json!({"user": "stranger"})).await;
    assert_eq!(answer["stops"], "membership");
    assert!(
        gate(&answer, "membership")["mend"]
            .to_string()
            .contains("VALUES ('stranger', 'org_1')")
    );
    let answer = ask(json!({"channel": "room:7", "table": null, "record": null})).await;
    assert_eq!(answer["stops"], "channel");
    assert!(
        gate(&answer, "channel")["says"]
            .as_str()
            .unwrap()
            .contains("define_channel")
    );
    only(&ask(json!({"user": "absent"})).await, "socket", "docs/");
    only(
        &ask(json!({"channel": "tenant:org_1:plain"})).await,
        "subscription",
        "subscribe",
    );
    anna.ask(json!({"type": "unsubscribe", "channel": "org:org_1"}))
        .await;
    only(&ask(json!({})).await, "subscription", "subscribe");
    anna.ask(subscribe("org:org_1", json!({}))).await;
    only(&ask(json!({})).await, "position", "cursor");
    let filter = json!({"tables": [{"table": "plain", "filter": {"column": "grade", "op": "gte", "value": 5}}, {"table": "fences"}]});
    anna.ask(subscribe("org:org_1", filter)).await;
    world.exec("UPDATE plain SET grade = 4 WHERE id = 1").await;
    let fence = world.fence("org_1").await;
    anna.until_fence(fence).await;
    only(&ask(json!({})).await, "filter", "filter");
    world.exec("INSERT INTO inserts VALUES (2, 'org_1')").await;
    let fence = world.fence("org_1").await;
    anna.until_fence(fence).await;
    let answer = ask(json!({"table": "inserts", "record": "2"})).await;
    only(&answer, "filter", "tables");

    // Only what is masked for them changed.
    anna.ask(subscribe("org:org_1", json!({}))).await;
    world
        .exec("UPDATE plain SET email = 'b@example.com' WHERE id = 1")
        .await;
    let fence = world.fence("org_1").await;
    assert!(anna.until_fence(fence).await.is_empty());
    only(&ask(json!({})).await, "masks", "show");

    // Rows that are in the publication no more.
    world
        .exec("ALTER PUBLICATION rowcast DROP TABLE plain")
        .await;
    let answer = ask(json!({})).await;
    assert_eq!(gate(&answer, "published")["verdict"], "no", "{answer:#}");

    // And as people read it.
    let url = format!("http://{}", world.server.public);
    let arguments = [
        "explain",
        "--user",
        "anna",
        "--organization",
        "org_1",
        "--table",
        "letters",
        "--id",
        "1",
        "--url",
        &url,
    ];
    let env = [("ACCESS_TOKEN", TOKEN)];
    let said = run(&arguments, &env).await;
    assert_eq!(said.code, Some(1), "{}", said.said);
    for part in [
        "anna on org:org_1",
        "yes  tracked",
        "NO   user_column",
        "user_column says no",
    ] {
        assert!(said.said.contains(part), "{}", said.said);
    }
    let said = run(&[&arguments[..], &["--json"]].concat(), &env).await;
    let json: Value = serde_json::from_str(said.said.trim()).unwrap();
    assert_eq!(json["stops"], "user_column");
    let said = run(
        &arguments,
        &[("ACCESS_TOKEN", "another-access-token-of-at-least-32-bytes")],
    )
    .await;
    assert!(
        said.code == Some(1) && said.said.contains("[unauthorized]"),
        "{}",
        said.said
    );
}

/// Of a row that nothing is remembered of, what would come is explained, and comes when it is written.
#[tokio::test]
async fn explain_what_would_come() {
    let world = world(
        "CREATE TABLE old (id int PRIMARY KEY, organization_id text, reader text);
         INSERT INTO old VALUES (1, 'org_1', 'anna'), (2, 'org_1', 'bert'), (3, 'org_2', 'anna'), (4, 'org_1', NULL);
         CREATE TABLE pairs (a int, b text, organization_id text, PRIMARY KEY (a, b));
         INSERT INTO pairs VALUES (1, 'x', 'org_1');
         SELECT rowcast.track('old', user_column => 'reader');
         SELECT rowcast.track('pairs');",
    )
    .await;
    let mut anna = world.member("anna", "org_1").await;
    let ask = async |table: &str, record: &str| {
        explain(
            &world,
            json!({"user": "anna", "organization": "org_1", "table": table, "record": record}),
        )
        .await
    };
    let mine = ask("old", "1").await;
    assert!(mine["event"]["cursor"].is_null(), "{mine:#}");
    let verdicts = [
        mine["delivered"].clone(),
        ask("old", "2").await["stops"].clone(),
        ask("old", "3").await["stops"].clone(),
        ask("old", "4").await["stops"].clone(),
    ];
    assert_eq!(
        verdicts,
        [
            json!(true),
            json!("user_column"),
            json!("carries"),
            json!("user_column")
        ]
    );
    assert_eq!(
        ask("public.pairs", "[\"1\",\"x\"]").await["delivered"],
        true
    );
    // What is no key, and what is nobody's row, is said and not guessed.
    assert_eq!(ask("pairs", "[\"1\"]").await["delivered"], Value::Null);
    assert_eq!(
        ask("old", "x'; DROP TABLE old; --").await["delivered"],
        Value::Null
    );
    assert_eq!(ask("old", "99").await["delivered"], Value::Null);
    world
        .exec("UPDATE old SET reader = reader; UPDATE pairs SET organization_id = organization_id")
        .await;
    let fence = world.fence("org_1").await;
    let came = anna.until_fence(fence).await;
    let keys: Vec<String> = came
        .iter()
        .map(|frame| frame.json["new"]["id"].to_string())
        .collect();
    assert_eq!((keys[0].as_str(), came.len()), ("1", 2), "{came:?}");
    let now = ask("old", "1").await;
    assert!(
        now["event"]["cursor"].is_string() && now["delivered"] == true,
        "{now:#}"
    );
}

/// Over a stream of server-sent events and with an API key it is the same question.
#[tokio::test]
async fn explain_of_streams_and_machines() {
    let world = world(TABLES).await;
    world.add_member("sara", "org_1", "hr").await;
    let bearer = format!("Bearer {}", token::session("sara"));
    let headers = [("Authorization", bearer.as_str())];
    let mut stream = None;
    until("the membership is known", async || {
        let path = "/realtime/v1/events?channel=org:org_1";
        stream = crate::harness::events::request(world.server.public, "GET", path, &headers)
            .await
            .ok();
        stream.is_some()
    })
    .await;
    let key: String = world.api_key("org_1").await;
    world.exec("INSERT INTO for_hr VALUES (1, 'org_1')").await;
    let mut stream = stream.unwrap();
    stream.event("for_hr").await;
    let question =
        json!({"user": "sara", "organization": "org_1", "table": "for_hr", "record": "1"});
    assert_eq!(explain(&world, question).await["delivered"], true);
    let id = key.split('_').nth(1).unwrap();
    let question = json!({"apiKey": id, "organization": "org_1", "table": "for_hr", "record": "1"});
    let answer = explain(&world, question).await;
    assert_eq!(gate(&answer, "membership")["verdict"], "yes", "{answer:#}");
    assert_eq!(
        (
            gate(&answer, "required_roles")["verdict"].as_str(),
            gate(&answer, "socket")["verdict"].as_str()
        ),
        (Some("no"), Some("no"))
    );
}
