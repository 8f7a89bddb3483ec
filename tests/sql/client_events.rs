//! Client events as they are defined: what is refused and with which words, and what `check()` says of them later.

use super::fresh;

const FUNCTIONS: &str = "
    CREATE SCHEMA app;
    CREATE FUNCTION app.on_join(input jsonb, channel text, arguments jsonb, caller jsonb) RETURNS jsonb LANGUAGE sql AS 'SELECT $1';
    CREATE FUNCTION app.\"On Leave\"(jsonb, text, jsonb, jsonb) RETURNS json LANGUAGE sql AS 'SELECT $1::json';
    CREATE FUNCTION app.short(input jsonb) RETURNS jsonb LANGUAGE sql AS 'SELECT $1';
    CREATE FUNCTION app.many(jsonb, text, jsonb, jsonb) RETURNS SETOF jsonb LANGUAGE sql AS 'SELECT $1';
    CREATE FUNCTION app.number(jsonb, text, jsonb, jsonb) RETURNS int LANGUAGE sql AS 'SELECT 1';
    CREATE FUNCTION app.twice(jsonb, text, jsonb, jsonb) RETURNS jsonb LANGUAGE sql AS 'SELECT $1';
    CREATE FUNCTION app.twice(int) RETURNS int LANGUAGE sql AS 'SELECT $1';";

/// MISSION X10, X23: a definition that cannot work is refused when it is made.
#[tokio::test]
async fn x10_definitions_are_checked() {
    let (_database, sql) = fresh().await;
    sql.exec(FUNCTIONS).await;
    let long = "x".repeat(130);
    let relay = "relay => 'out'";
    let input = |json: &str| format!("{relay}, input => '{json}'");
    for (pattern, event, how, words) in [
        ("room:*", "join", "", "one of handler, webhook and relay"),
        (
            "room:*",
            "join",
            "relay => 'a', webhook => 'b'",
            "one of handler, webhook and relay",
        ),
        (
            "room:*",
            "join",
            "handler => 'app.nothing'",
            "does not exist",
        ),
        (
            "room:*",
            "join",
            "handler => 'app.short'",
            "cannot handle a client event",
        ),
        (
            "room:*",
            "join",
            "handler => 'app.many'",
            "cannot handle a client event",
        ),
        (
            "room:*",
            "join",
            "handler => 'app.number'",
            "cannot handle a client event",
        ),
        (
            "room:*",
            "join",
            "handler => 'app.twice'",
            "more than one function",
        ),
        ("room::", "join", relay, "is no part of a pattern"),
        ("org:*", "join", relay, "without being defined"),
        ("room:*", "", relay, "the name of the event"),
        ("room:*", &*long, relay, "the name of the event"),
        ("room:*", "join", "relay => ''", "relay must be"),
        ("room:*", "join", "webhook => ''", "webhook must be"),
        (
            "room:*",
            "join",
            "relay => 'out', required_roles => '{admin,NULL}'",
            "required_roles",
        ),
        (
            "room:*",
            "join",
            "relay => 'out', required_roles => '{\"\"}'",
            "required_roles",
        ),
        (
            "room:*",
            "join",
            "relay => 'out', max_bytes => 1",
            "max_bytes",
        ),
        (
            "room:*",
            "join",
            "relay => 'out', max_bytes => 300000",
            "max_bytes",
        ),
        (
            "room:*",
            "join",
            "relay => 'out', throttle_per_second => 0",
            "throttle_per_second",
        ),
        (
            "room:*",
            "join",
            "relay => 'out', throttle_per_second => 1001",
            "throttle_per_second",
        ),
        (
            "room:*",
            "join",
            "relay => 'out', throttle_edge => 'both'",
            "throttle_edge",
        ),
        (
            "room:*",
            "join",
            "relay => 'out', rate_limit => 0",
            "rate_limit",
        ),
        (
            "room:*",
            "join",
            "relay => 'out', rate_window => '1 ms'",
            "rate_window",
        ),
        (
            "room:*",
            "join",
            "relay => 'out', rate_window => '2 days'",
            "rate_window",
        ),
        (
            "room:*",
            "join",
            "relay => 'out', rate_key => ''",
            "rate_key",
        ),
        ("room:*", "join", &*input("[]"), "must be an object"),
        ("room:*", "join", &*input(r#"{"a":1}"#), "must be a type"),
        (
            "room:*",
            "join",
            &*input(r#"{"a":"date"}"#),
            "the type of the field \"a\"",
        ),
        (
            "room:*",
            "join",
            &*input(r#"{"a":{"typ":"int"}}"#),
            "\"typ\" of the field \"a\"",
        ),
        (
            "room:*",
            "join",
            &*input(r#"{"a":{"type":"int","trim":true}}"#),
            "\"trim\" of the field \"a\"",
        ),
        (
            "room:*",
            "join",
            &*input(r#"{"a":{"maxLength":-1}}"#),
            "\"maxLength\" of the field \"a\"",
        ),
        (
            "room:*",
            "join",
            &*input(r#"{"a":{"minLength":9,"maxLength":8}}"#),
            "minLength of the field \"a\"",
        ),
        (
            "room:*",
            "join",
            &*input(r#"{"a":{"required":"yes"}}"#),
            "\"required\" of the field \"a\"",
        ),
        (
            "room:*",
            "join",
            &*input(r#"{"user_id":"text"}"#),
            "put in by the service",
        ),
    ] {
        let how = if how.is_empty() {
            String::new()
        } else {
            format!(", {how}")
        };
        let define = format!("SELECT rowcast.define_client_event('{pattern}', '{event}'{how})");
        let (_, message) = sql.fails(&define).await;
        assert!(message.contains(words), "{define}: {message}");
    }
    assert_eq!(
        sql.text("SELECT count(*)::text FROM rowcast.client_events")
            .await,
        "0"
    );
}

/// What is kept of a definition; one made again takes the place of the one before; two of which neither is the more
/// specific cannot both be there for one event.
#[tokio::test]
async fn definitions_are_kept_as_they_are_read() {
    let (_database, sql) = fresh().await;
    sql.exec(FUNCTIONS).await;
    sql.exec(
        r#"SELECT rowcast.define_client_event('room:*', 'join', handler => 'app.on_join', throttle_per_second => 20);
           SELECT rowcast.define_client_event('room:*', 'leave', handler => 'app."On Leave"');
           SELECT rowcast.define_client_event('room:7', 'join', handler => 'app.twice(jsonb,text,jsonb,jsonb)'::regprocedure);
           SELECT rowcast.define_client_event('room:*', 'join', webhook => 'rooms', rate_limit => 100, rate_window => '1.5 seconds',
               input => '{"a": {"maxLength": 9}, "b": "int"}');"#,
    )
    .await;
    let rows = "SELECT string_agg(concat_ws(' ', pattern, event, handler, webhook, throttle_per_second, rate_limit, rate_window_ms), ', ' ORDER BY pattern, event) FROM rowcast.client_events";
    assert_eq!(
        sql.text(rows).await,
        "room:* join rooms 100 1500, room:* leave app.\"On Leave\" 60000, room:7 join app.twice 60000"
    );
    let (_, message) = sql
        .fails("SELECT rowcast.define_client_event('room:{id}', 'join', relay => 'out')")
        .await;
    assert!(
        message.contains("neither is the more specific"),
        "{message}"
    );
    sql.exec("SELECT rowcast.define_client_event('room:{id}', 'other', relay => 'out')")
        .await;
    assert_eq!(
        sql.text("SELECT rowcast.drop_client_event('room:*', 'join')::text")
            .await,
        "true"
    );
    assert_eq!(
        sql.text("SELECT rowcast.drop_client_event('room:*', 'join')::text")
            .await,
        "false"
    );
    sql.exec("SELECT rowcast.define_client_event('room:{id}', 'join', relay => 'out')")
        .await;
}

/// Defining is for those who were granted it; what lost its function, or relays what its channel does not declare,
/// is said by `check()`.
#[tokio::test]
async fn definitions_are_nobodys_and_checked_later() {
    let (_database, sql) = fresh().await;
    sql.exec(FUNCTIONS).await;
    sql.exec(
        "SELECT rowcast.define_channel('room:*', 'public', events => '{message}');
         SELECT rowcast.define_client_event('room:*', 'join', handler => 'app.on_join');
         SELECT rowcast.define_client_event('room:*', 'say', relay => 'message');",
    )
    .await;
    let check = "SELECT coalesce(string_agg(what || ' | ' || fix, '; ' ORDER BY what), '') FROM rowcast.check() WHERE topic = 'client events'";
    assert_eq!(sql.text(check).await, "");
    sql.exec(
        "DROP FUNCTION app.on_join(jsonb, text, jsonb, jsonb);
         SELECT rowcast.define_client_event('room:*', 'wave', relay => 'waved');",
    )
    .await;
    let said = sql.text(check).await;
    assert!(
        said.contains("the event \"join\" on room:* is handled by app.on_join, which is not there"),
        "{said}"
    );
    assert!(
        said.contains("SELECT rowcast.drop_client_event('room:*', 'join')"),
        "{said}"
    );
    assert!(said.contains("relayed as \"waved\""), "{said}");
    assert!(!said.contains("\"say\""), "{said}");
    let public = "SELECT string_agg(p.proname, ' ') FROM pg_proc p WHERE p.pronamespace = 'rowcast'::regnamespace
        AND p.proname ~ 'client_event|check_input|check_pattern' AND has_function_privilege('pg_monitor', p.oid, 'EXECUTE')";
    assert_eq!(
        sql.text(&format!("SELECT coalesce(({public}), 'none')"))
            .await,
        "none"
    );
    let public =
        "SELECT has_table_privilege('pg_monitor', 'rowcast.client_events', 'SELECT')::text";
    assert_eq!(sql.text(public).await, "false");
}
