//! `sql/optional/supabase.sql`: made where it is wanted, never in a schema of others, and never in the way of a write.

use std::{
    future::poll_fn,
    sync::{Arc, Mutex},
};

use tokio_postgres::{AsyncMessage, Client, NoTls};

use super::fresh;
use crate::harness::{
    postgres::{Database, Sql},
    server::{Finished, run},
};

async fn migrate(database: &Database) -> Finished {
    run(
        &["migrate", "--supabase"],
        &[("DATABASE_URL", &database.url)],
    )
    .await
}

async fn installed() -> (Database, Sql) {
    let database = Database::fresh().await;
    let done = migrate(&database).await;
    assert_eq!(done.code, Some(0), "{}", done.said);
    let sql = database.connect().await;
    (database, sql)
}

/// A connection that keeps what the server warns of, with its hint.
async fn warned(database: &Database) -> (Client, Arc<Mutex<Vec<(String, String)>>>) {
    let (client, mut connection) = tokio_postgres::connect(&database.url, NoTls).await.unwrap();
    let warnings = Arc::new(Mutex::new(Vec::new()));
    let kept = warnings.clone();
    tokio::spawn(async move {
        while let Some(Ok(message)) = poll_fn(|cx| connection.poll_message(cx)).await {
            if let AsyncMessage::Notice(notice) = message
                && notice.severity() == "WARNING"
            {
                let hint = notice.hint().unwrap_or_default().to_owned();
                kept.lock()
                    .unwrap()
                    .push((notice.message().to_owned(), hint));
            }
        }
    });
    (client, warnings)
}

const TRIGGER: &str = "CREATE TABLE notes (id int, body text);
    CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM realtime.broadcast_changes(TG_ARGV[0], TG_OP, TG_OP, TG_TABLE_NAME, TG_TABLE_SCHEMA, NEW, OLD, TG_LEVEL);
        RETURN NULL;
    END $$;";

fn trigger(topic: &str, level: &str) -> String {
    format!(
        "DROP TRIGGER IF EXISTS tell ON notes; CREATE TRIGGER tell AFTER INSERT ON notes
         FOR EACH {level} EXECUTE FUNCTION tell('{topic}')"
    )
}

/// Whatever goes wrong is a warning that says what mends it, and the row is written.
#[tokio::test]
async fn realtime_send_never_fails_the_write() {
    let (database, sql) = installed().await;
    sql.exec(TRIGGER).await;
    sql.exec(
        "SELECT rowcast.define_channel('room:*', 'public', events => '{INSERT}');
         SELECT rowcast.define_channel('news', 'public', events => '{other}')",
    )
    .await;
    let (client, warnings) = warned(&database).await;
    let cases = [
        (
            "room:1",
            "ROW",
            "'x'",
            "another one in each organization",
            "SET LOCAL rowcast.organization",
        ),
        ("nowhere", "ROW", "'x'", "nowhere", "rowcast.define_channel"),
        (
            "news",
            "ROW",
            "'x'",
            "declares no event \"INSERT\"",
            "It declares other",
        ),
        (
            "org:org_1",
            "ROW",
            "repeat('x', 300000)",
            "at most 262144",
            "Send ids",
        ),
        (
            "org:org_1",
            "STATEMENT",
            "'x'",
            "level STATEMENT",
            "FOR EACH ROW",
        ),
        (
            "org:",
            "ROW",
            "'x'",
            "is no channel",
            "Use org:<organization>",
        ),
    ];
    for (topic, level, body, says, mends) in cases {
        sql.exec(&trigger(topic, level)).await;
        let write = format!("INSERT INTO notes VALUES (1, {body})");
        client.batch_execute(&write).await.unwrap();
        let said: Vec<_> = std::mem::take(&mut *warnings.lock().unwrap());
        let [(message, hint)] = &said[..] else {
            panic!("{topic} {level}: {said:?}");
        };
        let begins = format!("WarnSendingBroadcastMessage: nothing was sent on \"{topic}\": ");
        assert!(message.starts_with(&begins), "{message}");
        assert!(message.contains(says), "{message}");
        assert!(hint.contains(mends), "{hint}");
    }
    // The same when it is called by hand, with nothing at all, and by whom it was not granted to.
    client
        .batch_execute(
            "SELECT realtime.send(NULL, NULL, NULL); SELECT realtime.send('{}', 'x', 'room:1')",
        )
        .await
        .unwrap();
    assert_eq!(std::mem::take(&mut *warnings.lock().unwrap()).len(), 2);
    assert_eq!(sql.text("SELECT count(*) FROM notes").await, "6");
    // With the setting, and on a channel that says whose it is, there is nothing to warn of.
    sql.exec(&trigger("room:1", "ROW")).await;
    client
        .batch_execute(
            "SET rowcast.organization = 'org_1'; INSERT INTO notes VALUES (2, 'y');
             RESET rowcast.organization; SELECT realtime.send('{}', 'x', 'org:org_1')",
        )
        .await
        .unwrap();
    let said = std::mem::take(&mut *warnings.lock().unwrap());
    assert!(said.is_empty(), "{said:?}");
}

#[tokio::test]
async fn realtime_functions_are_closed_until_they_are_granted() {
    let (database, sql) = installed().await;
    let (client, warnings) = warned(&database).await;
    let role = format!("sender_{}_{}", database.name, std::process::id());
    let open = "SELECT count(*) FILTER (WHERE has_function_privilege('public', oid, 'EXECUTE')) || ' '
        || count(*) FILTER (WHERE proconfig::text[] @> '{\"search_path=pg_catalog, pg_temp\"}' AND NOT prosecdef)
        FROM pg_proc WHERE pronamespace = 'realtime'::regnamespace";
    assert_eq!(sql.text(open).await, "0 3");
    sql.exec(&format!("CREATE ROLE {role}")).await;
    let may = "SELECT realtime.send('{\"a\":1}', 'x', 'org:org_1')";
    let as_role = |statement: &str| format!("SET ROLE {role}; {statement}; RESET ROLE");
    assert!(client.batch_execute(&as_role(may)).await.is_err());
    client.batch_execute("RESET ROLE").await.unwrap();
    // Granted by halves: what is missing is said, and nothing fails.
    sql.exec(&format!(
        "GRANT USAGE ON SCHEMA realtime TO {role}; GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA realtime TO {role}"
    ))
    .await;
    client.batch_execute(&as_role(may)).await.unwrap();
    let said = std::mem::take(&mut *warnings.lock().unwrap());
    assert_eq!(said.len(), 1, "{said:?}");
    assert_eq!(said[0].1, format!("SELECT rowcast.grant_sender('{role}');"));
    sql.exec(&format!(
        "REVOKE ALL ON ALL FUNCTIONS IN SCHEMA realtime FROM {role}; SELECT rowcast.grant_sender('{role}')"
    ))
    .await;
    let all = format!(
        "{may}; SELECT realtime.broadcast_changes('org:org_1', 'x', 'INSERT', 't', 's', ROW(1), NULL)"
    );
    client.batch_execute(&as_role(&all)).await.unwrap();
    let said = std::mem::take(&mut *warnings.lock().unwrap());
    assert!(said.is_empty(), "{said:?}");
    let topic = "BEGIN; SELECT realtime.send('{}', 'x', 'org:org_1'); ";
    sql.exec(topic).await;
    assert_eq!(sql.text("SELECT realtime.topic()").await, "org:org_1");
    sql.exec("ROLLBACK").await;
    assert_eq!(sql.text("SELECT realtime.topic() IS NULL").await, "t");
    sql.exec(&format!("DROP OWNED BY {role}; DROP ROLE {role}"))
        .await;
}

/// Not by itself, any number of times, printed for other tools, and gone with everything else.
#[tokio::test]
async fn realtime_functions_are_made_where_they_are_wanted() {
    let (database, sql) = fresh().await;
    let schema = "SELECT to_regnamespace('realtime') IS NOT NULL";
    assert_eq!(sql.text(schema).await, "f");
    for _ in 0..2 {
        let done = migrate(&database).await;
        assert_eq!(done.code, Some(0), "{}", done.said);
        assert!(done.said.contains("optional/supabase.sql"), "{}", done.said);
    }
    let printed = run(&["migrate", "--print", "--supabase"], &[]).await;
    assert_eq!(printed.code, Some(0), "{}", printed.said);
    sql.exec(&printed.said).await;
    assert_eq!(sql.text(schema).await, "t");
    let plain = run(&["migrate", "--print"], &[]).await;
    assert!(
        !plain.said.contains("CREATE SCHEMA realtime"),
        "it is not asked for"
    );
    sql.exec("SELECT rowcast.uninstall()").await;
    assert_eq!(sql.text(schema).await, "f");
    // What somebody else put there stays.
    migrate(&database).await;
    sql.exec("CREATE TABLE realtime.mine (); SELECT rowcast.uninstall()")
        .await;
    let left = "SELECT count(*) || ' ' || (SELECT count(*) FROM pg_class WHERE relnamespace = 'realtime'::regnamespace)
        FROM pg_proc WHERE pronamespace = 'realtime'::regnamespace";
    assert_eq!(sql.text(left).await, "0 1");
}

/// Supabase's own schema, or anybody's, is left alone; an empty one is taken.
#[tokio::test]
async fn a_schema_realtime_of_others_is_left_alone() {
    let (database, sql) = fresh().await;
    sql.exec("CREATE SCHEMA realtime; CREATE FUNCTION realtime.topic() RETURNS text LANGUAGE sql AS $$ SELECT 'theirs' $$")
        .await;
    let refused = migrate(&database).await;
    assert_eq!(refused.code, Some(1), "{}", refused.said);
    for says in ["is not of Rowcast", "nothing was changed", "rowcast.send("] {
        assert!(refused.said.contains(says), "{}", refused.said);
    }
    assert_eq!(sql.text("SELECT realtime.topic()").await, "theirs");
    // Nor is anything there granted, or taken away with Rowcast.
    let role = format!("sender_{}_{}", database.name, std::process::id());
    sql.exec(&format!(
        "CREATE ROLE {role}; SELECT rowcast.grant_sender('{role}')"
    ))
    .await;
    let usage = format!("SELECT has_schema_privilege('{role}', 'realtime', 'USAGE')");
    assert_eq!(sql.text(&usage).await, "f");
    sql.exec(&format!("DROP OWNED BY {role}; DROP ROLE {role}"))
        .await;
    sql.exec("SELECT rowcast.uninstall()").await;
    assert_eq!(sql.text("SELECT realtime.topic()").await, "theirs");
    sql.exec("DROP FUNCTION realtime.topic()").await;
    let done = migrate(&database).await;
    assert_eq!(done.code, Some(0), "{}", done.said);
    assert_eq!(sql.text("SELECT realtime.topic() IS NULL").await, "t");
}
