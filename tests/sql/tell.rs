//! What the triggers say: rows of the table of events, and messages.

use super::{Messages, fresh, told};

const TABLES: &str = "
    CREATE TABLE projects (id int PRIMARY KEY, organization_id text, name text);
    CREATE TABLE inbox (id int PRIMARY KEY, organization_id text, person text);";

#[tokio::test]
async fn one_row_many_rows_and_rows_that_move() {
    let (_database, sql) = fresh().await;
    sql.exec(TABLES).await;
    sql.exec("SELECT rowcast.track('projects')").await;
    sql.exec(
        "INSERT INTO projects VALUES (1, 'a');
         INSERT INTO projects VALUES (2, 'a'), (3, 'a');
         INSERT INTO projects VALUES (4, 'a'), (5, 'b');
         INSERT INTO projects SELECT 1 WHERE false;
         UPDATE projects SET name = 'x' WHERE id < 3;
         UPDATE projects SET organization_id = 'b' WHERE id IN (4, 5);
         UPDATE projects SET id = 6, organization_id = 'c' WHERE id = 5;
         UPDATE projects SET id = 7 WHERE id = 6;
         UPDATE projects SET name = 'x' WHERE false;
         INSERT INTO projects VALUES (7, 'd'), (8, 'a') ON CONFLICT (id) DO UPDATE SET organization_id = excluded.organization_id;
         DELETE FROM projects WHERE id > 3",
    )
    .await;
    assert_eq!(
        told(&sql).await,
        "INSERT projects a 1, INSERT projects a 2, INSERT projects a 3, INSERT projects a 4, INSERT projects b 5, \
         UPDATE projects a 1, UPDATE projects a 2, \
         DELETE projects a 4 by UPDATE, INSERT projects b 4 by UPDATE, UPDATE projects b 5, \
         DELETE projects b 5 by UPDATE, INSERT projects c 6 by UPDATE, UPDATE projects c 7, \
         DELETE projects c 7 by UPDATE, INSERT projects d 7 by UPDATE, INSERT projects a 8, \
         DELETE projects b 4, DELETE projects d 7, DELETE projects a 8"
    );
}

#[tokio::test]
async fn a_user_column_names_the_user_and_nobody_hears_of_rows_without_one() {
    let (_database, sql) = fresh().await;
    sql.exec(TABLES).await;
    sql.exec("SELECT rowcast.track('inbox', user_column => 'person')")
        .await;
    sql.exec(
        "INSERT INTO inbox VALUES (1, 'a', 'u1');
         INSERT INTO inbox VALUES (2, 'a', NULL);
         INSERT INTO inbox VALUES (3, 'a', 'u1'), (4, 'a', NULL), (5, 'b', 'u2');
         UPDATE inbox SET person = 'u2' WHERE id = 1;
         UPDATE inbox SET person = 'u3' WHERE id = 2;
         UPDATE inbox SET person = NULL WHERE id IN (1, 3);
         DELETE FROM inbox",
    )
    .await;
    assert_eq!(
        told(&sql).await,
        "INSERT inbox a 1 for u1, INSERT inbox a 3 for u1, INSERT inbox b 5 for u2, \
         DELETE inbox a 1 by UPDATE for u1, INSERT inbox a 1 by UPDATE for u2, \
         INSERT inbox a 2 by UPDATE for u3, \
         DELETE inbox a 1 by UPDATE for u2, DELETE inbox a 3 by UPDATE for u1, \
         DELETE inbox b 5 for u2, DELETE inbox a 2 for u3"
    );
}

#[tokio::test]
async fn messages_say_the_same() {
    let (database, sql) = fresh().await;
    sql.exec(TABLES).await;
    sql.exec(
        "SELECT rowcast.track('projects', storage => 'log', max_rows => 3);
         SELECT rowcast.track('inbox', storage => 'log', user_column => 'person', rows => false)",
    )
    .await;
    let messages = Messages::of(&database, &sql).await;
    sql.exec(
        "INSERT INTO projects VALUES (1, 'a');
         INSERT INTO projects VALUES (2, 'a'), (3, 'b'), (4, NULL);
         UPDATE projects SET organization_id = 'b' WHERE id IN (1, 2);
         UPDATE projects SET name = 'x' WHERE id = 1;
         UPDATE projects SET organization_id = 'c' WHERE id = 1;
         UPDATE projects SET organization_id = 'c';
         INSERT INTO projects VALUES (5, NULL);
         TRUNCATE projects;
         INSERT INTO inbox VALUES (1, 'a', 'u1');
         INSERT INTO inbox VALUES (2, 'a', 'u1'), (3, 'a', NULL);
         UPDATE inbox SET person = 'u2' WHERE id = 1;
         DELETE FROM inbox WHERE id = 1",
    )
    .await;
    sql.exec("BEGIN; INSERT INTO projects VALUES (9, 'a'); ROLLBACK")
        .await;
    let said = messages.said().await;
    assert_eq!(
        said,
        [
            r#"{"n":1,"op":"INSERT","org":"a","t":"projects"}"#,
            r#"{"n":3,"op":"INSERT","orgs":["a","b",null],"t":"projects"}"#,
            r#"{"n":2,"old":["a","a"],"op":"UPDATE","orgs":["b","b"],"t":"projects"}"#,
            r#"{"n":1,"op":"UPDATE","org":"b","t":"projects"}"#,
            r#"{"n":1,"old":["b"],"op":"UPDATE","orgs":["c"],"t":"projects"}"#,
            r#"{"bulk":["b","c"],"n":4,"op":"UPDATE","t":"projects"}"#,
            r#"{"n":1,"op":"INSERT","orgs":[null],"t":"projects"}"#,
            r#"{"n":0,"op":"TRUNCATE","t":"projects"}"#,
            r#"{"ids":["1"],"n":1,"op":"INSERT","org":"a","t":"inbox","users":["u1"]}"#,
            r#"{"ids":["2","3"],"n":2,"op":"INSERT","org":"a","t":"inbox","users":["u1",null]}"#,
            r#"{"ids":["1"],"n":1,"old_users":["u1"],"op":"UPDATE","orgs":["a"],"t":"inbox","users":["u2"]}"#,
            r#"{"ids":["1"],"n":1,"op":"DELETE","org":"a","t":"inbox","users":["u2"]}"#,
        ]
    );
    let table = "SELECT count(*) FROM realtime_table_events";
    assert_eq!(sql.text(table).await, "0", "nothing is stored");
    messages.end().await;
}

/// Statements of many rows take one event for each organization, also where none of them is left.
#[tokio::test]
async fn big_statements_are_told_once_for_each_organization() {
    let (_database, sql) = fresh().await;
    sql.exec(TABLES).await;
    sql.exec(
        "SELECT rowcast.track('projects', max_rows => 10);
         INSERT INTO projects SELECT n, 'o' || n % 2 FROM generate_series(1, 10) n;
         DELETE FROM realtime_table_events;
         INSERT INTO projects SELECT n, 'o' || n % 2 FROM generate_series(11, 21) n;
         UPDATE projects SET organization_id = 'z';
         DELETE FROM projects",
    )
    .await;
    assert_eq!(
        told(&sql).await,
        "INSERT projects o0 - of 11, INSERT projects o1 - of 11, \
         UPDATE projects o0 - of 21, UPDATE projects o1 - of 21, UPDATE projects z - of 21, \
         DELETE projects z - of 21"
    );
    let jit = sql.text("SHOW jit").await;
    sql.exec("BEGIN; INSERT INTO projects SELECT n, 'a' FROM generate_series(1, 9) n")
        .await;
    assert_eq!(
        sql.text("SHOW jit").await,
        jit,
        "the application's setting stays"
    );
    sql.exec("COMMIT").await;
}

/// More than 64 subtransactions in one transaction slow the whole server down; triggers take none.
#[tokio::test]
async fn triggers_take_no_subtransaction_ids() {
    let (_database, sql) = fresh().await;
    sql.exec(TABLES).await;
    for storage in ["table", "log"] {
        sql.exec(&format!(
            "SELECT rowcast.track('projects', storage => '{storage}'); TRUNCATE projects"
        ))
        .await;
        sql.exec(
            "BEGIN; INSERT INTO projects VALUES (1, 'a'); INSERT INTO projects VALUES (2, 'b'), (3, 'c');
             UPDATE projects SET name = 'x'; UPDATE projects SET organization_id = 'd' WHERE id = 1; DELETE FROM projects",
        )
        .await;
        // Every lock on a transaction id that this session holds: its own, and of subtransactions.
        let ids = "SELECT count(*) FROM pg_locks WHERE locktype = 'transactionid' AND pid = pg_backend_pid()";
        assert_eq!(sql.text(ids).await, "1", "{storage}");
        sql.exec("COMMIT").await;
    }
}

#[tokio::test]
async fn problems_name_the_record_and_nothing_else() {
    let (_database, sql) = fresh().await;
    sql.exec(
        "CREATE TABLE secrets (id int PRIMARY KEY, organization_id text, secret text);
         SELECT rowcast.track('secrets');
         INSERT INTO secrets VALUES (7, NULL, 'hush'), (8, 'a', 'hush'), (9, NULL, 'hush');
         ALTER TABLE secrets RENAME organization_id TO tenant;
         UPDATE secrets SET secret = 'hush hush'",
    )
    .await;
    let problems = sql
        .text("SELECT string_agg(concat_ws(' ', relid::regclass, operation, reason, rows, sample), '; ' ORDER BY id) FROM rowcast.problems")
        .await;
    assert_eq!(
        problems,
        "secrets INSERT no organization 2 7; \
         secrets UPDATE SQLSTATE 42703: column x.organization_id does not exist"
    );
    // A table that fails all the time does not fill the disk with it.
    sql.exec("DO $$ BEGIN FOR i IN 1..150 LOOP UPDATE secrets SET secret = i; END LOOP; END $$")
        .await;
    assert_eq!(
        sql.text("SELECT count(*) FROM rowcast.problems").await,
        "100"
    );
}

/// A statement whose organizations cannot be looked up says that its rows are nobody's (promise 6): else a
/// statement around it would take the latest changes of the table, which are these, for its own.
#[tokio::test]
async fn rows_of_a_failed_look_up_are_given_up_in_the_log() {
    let (database, sql) = fresh().await;
    sql.exec(
        "CREATE TABLE secrets (id int PRIMARY KEY, organization_id text);
         SELECT rowcast.track('secrets', storage => 'log')",
    )
    .await;
    let messages = Messages::of(&database, &sql).await;
    sql.exec(
        "ALTER TABLE secrets RENAME organization_id TO tenant;
         INSERT INTO secrets VALUES (1, 'a');
         INSERT INTO secrets VALUES (2, 'a'), (3, 'b');
         DELETE FROM secrets WHERE id = 1",
    )
    .await;
    let said = messages.said().await;
    let given_up =
        |op: &str, n: u64| serde_json::json!({"t": "secrets", "op": op, "n": n, "bulk": []});
    let said: Vec<serde_json::Value> = said
        .iter()
        .map(|text| serde_json::from_str(text).unwrap())
        .collect();
    assert_eq!(
        said,
        [
            given_up("INSERT", 1),
            given_up("INSERT", 2),
            given_up("DELETE", 1)
        ]
    );
}

/// Rows that an UPDATE takes to another partition are a DELETE and an INSERT in the log.
#[tokio::test]
async fn rows_that_change_partition() {
    let (database, sql) = fresh().await;
    for storage in ["table", "log"] {
        sql.exec(&format!(
            "CREATE TABLE {storage}s (id int, day int, organization_id text, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);
             CREATE TABLE {storage}s_1 PARTITION OF {storage}s FOR VALUES FROM (0) TO (10);
             CREATE TABLE {storage}s_2 PARTITION OF {storage}s FOR VALUES FROM (10) TO (30) PARTITION BY HASH (id);
             CREATE TABLE {storage}s_2a PARTITION OF {storage}s_2 FOR VALUES WITH (modulus 1, remainder 0);
             CREATE TABLE {storage}s_rest PARTITION OF {storage}s DEFAULT;
             SELECT rowcast.track('{storage}s', storage => '{storage}')"
        ))
        .await;
    }
    let messages = Messages::of(&database, &sql).await;
    for storage in ["table", "log"] {
        sql.exec(&format!(
            "INSERT INTO {storage}s VALUES (1, 1, 'a'), (2, 2, 'b'), (3, 99, 'a');
             INSERT INTO {storage}s_2 VALUES (4, 12, 'a');
             UPDATE {storage}s SET day = day + 8;
             UPDATE {storage}s_2 SET day = day + 1;
             DELETE FROM {storage}s_2a WHERE id = 4"
        ))
        .await;
    }
    assert_eq!(
        told(&sql).await,
        r#"INSERT tables a ["1","1"], INSERT tables b ["2","2"], INSERT tables a ["3","99"], INSERT tables a ["4","12"], UPDATE tables a ["1","9"], UPDATE tables a ["4","20"], UPDATE tables a ["3","107"], DELETE tables b ["2","2"], INSERT tables b ["2","10"], UPDATE tables b ["2","11"], UPDATE tables a ["4","21"], DELETE tables a ["4","21"]"#
    );
    assert_eq!(
        messages.said().await,
        [
            r#"{"n":3,"op":"INSERT","orgs":["a","b","a"],"t":"logs"}"#,
            r#"{"n":1,"op":"INSERT","org":"a","t":"logs"}"#,
            r#"{"n":3,"op":"UPDATE","orgs":["a","a","a"],"t":"logs"}"#,
            r#"{"n":1,"op":"DELETE","orgs":["b"],"t":"logs"}"#,
            r#"{"n":1,"op":"INSERT","orgs":["b"],"t":"logs"}"#,
            r#"{"n":2,"op":"UPDATE","orgs":["b","a"],"t":"logs"}"#,
            r#"{"n":1,"op":"DELETE","org":"a","t":"logs"}"#,
        ]
    );
    messages.end().await;
}
