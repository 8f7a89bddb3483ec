//! Functions of the database, called as the caller's role.

use std::time::{Duration, Instant};

use rowcast_model::AskError;
use serde_json::{Value, json};

use crate::harness::{claiming, machine, person, refused, world};

/// A function of the application with this body.
fn function(name: &str, body: &str) -> String {
    format!(
        "CREATE FUNCTION app.{name}(input jsonb, channel text, arguments jsonb, caller jsonb) RETURNS jsonb \
         LANGUAGE plpgsql AS $$ BEGIN {body} END $$;"
    )
}

#[tokio::test]
async fn a_function_sees_input_channel_arguments_and_caller() {
    let all = function(
        "echo",
        "RETURN jsonb_build_object('input', input, 'channel', channel, 'arguments', arguments, 'caller', caller);",
    );
    let world = world(&all, |_| {}).await;
    let anna = claiming("anna", json!({"sub": "anna", "plan": "pro"}));
    let answer = world.call("app.echo", anna, json!({"x": [1, "ü"]})).await;
    assert_eq!(
        answer.unwrap(),
        json!({"input": {"x": [1, "ü"]}, "channel": "room:42", "arguments": {"roomId": "42"},
            "caller": {"userId": "anna", "organizationId": "acme", "roles": ["member"], "authMethod": "session",
                "apiKeyId": null, "connectionId": "7", "claims": {"sub": "anna", "plan": "pro"}}})
    );
    let metrics = world.metrics();
    assert!(
        metrics.contains(
            r#"application_questions_total{handler="function",asking="event",outcome="ok"} 1"#
        ),
        "{metrics}"
    );
    assert!(metrics.contains("application_waiting_bytes 0"), "{metrics}");
}

#[tokio::test]
async fn it_runs_as_the_role_of_the_caller_so_that_row_level_security_holds() {
    let body = function(
        "who",
        "RETURN jsonb_build_object('role', current_user, 'sub', current_setting('request.jwt.claims')::jsonb ->> 'sub',
            'organization', current_setting('rowcast.organization_id'), 'user', current_setting('rowcast.user_id'),
            'timeout', current_setting('statement_timeout') <> '0',
            'seen', (SELECT jsonb_agg(m.user_id ORDER BY 1) FROM app.members m));",
    ) + &function("machine", "RETURN to_jsonb(current_user::text);");
    let world = world(&body, |_| {}).await;
    for (user, claims, role) in [
        ("anna", json!({"sub": "anna"}), "app_user"),
        ("bert", json!({"sub": "bert", "role": "editor"}), "editor"),
        // Only listed roles are taken from a token.
        (
            "anna",
            json!({"sub": "anna", "role": "postgres"}),
            "app_user",
        ),
        ("anna", json!({"sub": "anna", "role": "none"}), "app_user"),
        ("anna", json!({"sub": "anna", "role": 7}), "app_user"),
    ] {
        let answer = world
            .call("app.who", claiming(user, claims), Value::Null)
            .await;
        assert_eq!(
            answer.unwrap(),
            json!({"role": role, "sub": user, "organization": "acme", "user": user, "timeout": true, "seen": [user]})
        );
    }
    let answer = world.call("app.machine", machine(), Value::Null).await;
    assert_eq!(answer.unwrap(), json!("app_machine"));
    // Nothing of a caller is left on the connection.
    let answer = world.call("app.who", person(""), Value::Null).await;
    assert_eq!(answer.unwrap()["seen"], Value::Null);
}

#[tokio::test]
async fn without_a_role_nothing_is_called() {
    let body = "CREATE TABLE app.called (x int); GRANT INSERT ON app.called TO PUBLIC;".to_owned()
        + &function("f", "INSERT INTO app.called VALUES (1); RETURN 'true';");
    for role in [
        None,
        Some("none"),
        Some(""),
        Some("no such role"),
        Some("pg_monitor; x"),
    ] {
        let world = world(&body, |config| config.role = role.map(str::to_owned)).await;
        let answer = world.call("app.f", person("anna"), Value::Null).await;
        assert!(
            matches!(answer, Err(AskError::Failed)),
            "{role:?} {answer:?}"
        );
        let rows = world.sql.query("SELECT FROM app.called", &[]).await;
        assert!(rows.unwrap().is_empty());
    }
}

#[tokio::test]
async fn refusals_keep_their_words_and_other_errors_are_not_told() {
    let body = std::fs::read_to_string(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../sql/0011_application.sql"
    ));
    let body = "CREATE SCHEMA rowcast;".to_owned()
        + &body.unwrap()
        + "SELECT rowcast.grant_caller('app_user');"
        + &function(
            "refuse",
            "PERFORM rowcast.refuse('accessdenied', 'Not a member of this room');",
        )
        + &function(
            "raise",
            "RAISE EXCEPTION 'Not a member of this room' USING ERRCODE = 'RCREF', DETAIL = 'accessdenied';",
        )
        + &function("plain", "RAISE EXCEPTION 'too late';")
        + &function("own", "RAISE EXCEPTION 'gone' USING ERRCODE = 'PT404';")
        + &function("broken", "RETURN 1 / (SELECT 0 FROM app.members LIMIT 1);")
        + &function("secret", "PERFORM 1 FROM pg_authid; RETURN 'true';")
        + &function("null", "RETURN NULL;")
        + &function("long", "RETURN to_jsonb(repeat('x', 2000));");
    let world = world(&body, |_| {}).await;
    let call = async |name: &str| {
        let name = format!("app.{name}");
        world.call(&name, person("anna"), Value::Null).await
    };
    let denied = (
        "accessdenied".to_owned(),
        "Not a member of this room".to_owned(),
    );
    assert_eq!(refused(call("refuse").await), denied);
    assert_eq!(refused(call("raise").await), denied);
    assert_eq!(
        refused(call("plain").await),
        ("refused".into(), "too late".into())
    );
    assert_eq!(refused(call("own").await), ("PT404".into(), "gone".into()));
    assert_eq!(call("broken").await, Err(AskError::Failed));
    assert_eq!(call("long").await, Err(AskError::Failed));
    assert_eq!(call("nosuch").await, Err(AskError::Failed));
    assert_eq!(call("null").await, Ok(Value::Null));
    let (code, words) = refused(call("secret").await);
    assert_eq!(code, "accessdenied");
    assert!(!words.contains("pg_authid"), "{words}");
    let zero = world.call("app.null", person("anna"), json!("a\0b")).await;
    assert_eq!(refused(zero).0, "invalid_input");
    // None of them harmed the next one, or left a transaction behind.
    assert_eq!(call("null").await, Ok(Value::Null));
    let metrics = world.metrics();
    assert!(metrics.contains(r#"outcome="refused"} 5"#), "{metrics}");
}

#[tokio::test]
async fn what_is_refused_is_not_written_and_what_is_answered_is() {
    let body = function(
        "write",
        "INSERT INTO app.members VALUES (input ->> 'room', caller ->> 'userId');
        IF input ? 'refuse' THEN RAISE EXCEPTION 'no'; END IF; RETURN input;",
    );
    let world = world(&body, |_| {}).await;
    let anna = || person("anna");
    world
        .call("app.write", anna(), json!({"room": "1"}))
        .await
        .unwrap();
    let refusal = world
        .call("app.write", anna(), json!({"room": "2", "refuse": true}))
        .await;
    assert_eq!(refused(refusal).1, "no");
    // Row level security checks what is written.
    let other = function(
        "forge",
        "INSERT INTO app.members VALUES ('3', 'bert'); RETURN 'true';",
    );
    world.sql.batch_execute(&other).await.unwrap();
    assert_eq!(
        refused(world.call("app.forge", anna(), Value::Null).await).0,
        "accessdenied"
    );
    let rooms = world
        .sql
        .query(
            "SELECT room FROM app.members WHERE room < '4' ORDER BY 1",
            &[],
        )
        .await
        .unwrap();
    let rooms: Vec<String> = rooms.iter().map(|row| row.get(0)).collect();
    assert_eq!(rooms, ["1"]);
}

#[tokio::test]
async fn a_slow_function_ends_in_time_and_lets_others_go_on() {
    let body = function("slow", "PERFORM pg_sleep(60); RETURN 'true';")
        + &function("quick", "RETURN 'true';");
    let world = world(&body, |config| config.timeout = Duration::from_millis(700)).await;
    let began = Instant::now();
    let call = |name: &'static str| world.call(name, person("anna"), Value::Null);
    let slow = tokio::join!(call("app.slow"), call("app.slow"), call("app.quick"));
    assert_eq!(
        (slow.0, slow.1),
        (Err(AskError::Unavailable), Err(AskError::Unavailable))
    );
    // It waited for a place, and had none in time or shortly before.
    assert!(
        matches!(slow.2, Err(AskError::Overloaded) | Ok(_)),
        "{:?}",
        slow.2
    );
    assert!(began.elapsed() < Duration::from_secs(10));
    assert_eq!(call("app.quick").await, Ok(json!(true)));
}

#[tokio::test]
async fn a_connection_that_died_is_replaced_and_no_database_is_no_answer() {
    let body = function("quick", "RETURN 'true';");
    let world = world(&body, |config| config.timeout = Duration::from_secs(20)).await;
    let call = || world.call("app.quick", person("anna"), Value::Null);
    assert_eq!(call().await, Ok(json!(true)));
    let kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'rowcast application' AND datname = current_database()";
    assert_eq!(world.sql.query(kill, &[]).await.unwrap().len(), 1);
    assert_eq!(call().await, Ok(json!(true)));

    let nobody = crate::harness::webhooks(Default::default());
    let question = crate::harness::question(
        rowcast_model::Handler::Function("app.quick".parse().unwrap()),
        person("anna"),
        Value::Null,
    );
    for _ in 0..10 {
        assert_eq!(
            crate::harness::ask(&nobody, &question).await,
            Err(AskError::Unavailable)
        );
    }
}
