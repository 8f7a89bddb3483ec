//! Rules as they are written: what is refused, that every way to write them leads to the same, and what the
//! triggers of a table with hidden columns say of an UPDATE.

use serde_json::Value;

use super::{Messages, fresh};

const PEOPLE: &str = "CREATE TABLE people (id int PRIMARY KEY, organization_id text, name text, email text, ssn text,
    owner text, doc json, i int, twice int GENERATED ALWAYS AS (i * 2) STORED);";

/// MISSION Q17: a mask of a wrong form is refused with what mends it, however the rule is written.
#[tokio::test]
async fn q17_a_mask_is_checked_when_it_is_written() {
    let (_database, sql) = fresh().await;
    sql.exec(PEOPLE).await;
    sql.exec("SELECT rowcast.track('people')").await;
    let many: Vec<String> = (0..65)
        .map(|n| format!(r#""c{n}":{{"type":"name"}}"#))
        .collect();
    let many = format!("{{{}}}", many.join(","));
    for n in 0..65 {
        sql.exec(&format!("ALTER TABLE people ADD COLUMN c{n} text"))
            .await;
    }
    for (mask, words) in [
        ("[]", "not an object"),
        ("1", "not an object"),
        (r#"{"nope":{"type":"email"}}"#, "not a column"),
        (r#"{"email":"email"}"#, "no known type"),
        (r#"{"email":{}}"#, "no known type"),
        (r#"{"email":{"type":"Email"}}"#, "no known type"),
        (
            r#"{"email":{"type":"email","shown":{}}}"#,
            "a field \"shown\"",
        ),
        (
            r#"{"email":{"type":"email","show":["admin"]}}"#,
            "show in the mask of \"email\" is not an object",
        ),
        (
            r#"{"email":{"type":"email","show":{"role":["admin"]}}}"#,
            "has a field \"role\"",
        ),
        (
            r#"{"email":{"type":"email","show":{"roles":"admin"}}}"#,
            "not a list of roles",
        ),
        (
            r#"{"email":{"type":"email","show":{"roles":[1]}}}"#,
            "not a list of roles",
        ),
        (
            r#"{"email":{"type":"email","show":{"roles":[""]}}}"#,
            "not a list of roles",
        ),
        (
            r#"{"email":{"type":"email","show":{"or":"all"}}}"#,
            "is \"all\"",
        ),
        (
            r#"{"email":{"type":"email","show":{"or":null}}}"#,
            "is null",
        ),
        (
            r#"{"email":{"type":"email","show":{"or":"owner"}}}"#,
            "no owner_column",
        ),
        (r#"{"id":{"type":"ssn"}}"#, "a part of the key"),
        (&many, "more than 64"),
    ] {
        for write in [
            format!("SELECT rowcast.track('people', mask => '{mask}')"),
            format!("UPDATE rowcast.tables SET mask = '{mask}'"),
        ] {
            let (state, message) = sql.fails(&write).await;
            assert!(matches!(&*state, "22023" | "42703"), "{write}: {state}");
            assert!(message.contains(words), "{write}: {message}");
        }
    }
    let hint = "DO $$ DECLARE h text; BEGIN UPDATE rowcast.tables SET mask = '{\"email\":{\"type\":\"x\"}}';
        EXCEPTION WHEN OTHERS THEN GET STACKED DIAGNOSTICS h = PG_EXCEPTION_HINT; PERFORM set_config('t.hint', h, false); END $$";
    sql.exec(hint).await;
    let hint = sql.text("SELECT current_setting('t.hint')").await;
    assert!(
        hint.contains("creditCard") && hint.contains(r#""or": "owner""#),
        "{hint}"
    );
}

/// MISSION Q1 to Q4, Q17: an UPDATE of `rowcast.tables` is checked and in force like a call of `rowcast.track`.
#[tokio::test]
async fn a_rule_may_be_changed_by_update() {
    let (_database, sql) = fresh().await;
    sql.exec(PEOPLE).await;
    sql.exec("SELECT rowcast.track('people')").await;
    for (set, words) in [
        ("operations = '{UPSERT}'", "'UPSERT'"),
        ("columns = '{nope}'", "columns names \"nope\""),
        ("columns = '{}'", "columns is empty"),
        ("user_column = 'nope'", "user_column"),
        ("owner_column = 'nope'", "owner_column"),
        ("required_roles = '{admin,\"\"}'", "empty role"),
    ] {
        let (_, message) = sql.fails(&format!("UPDATE rowcast.tables SET {set}")).await;
        assert!(message.contains(words), "{set}: {message}");
    }
    let changed = "SELECT changed_us FROM rowcast.tables";
    let first = sql.text(changed).await;
    sql.exec("UPDATE rowcast.tables SET operations = '{delete,insert}', columns = NULL")
        .await;
    let triggers = "SELECT string_agg(tgname, ' ' ORDER BY tgname) FROM pg_trigger WHERE tgrelid = 'people'::regclass AND NOT tgisinternal";
    assert_eq!(sql.text(triggers).await, "rowcast_delete rowcast_insert");
    assert_eq!(
        sql.text("SELECT operations FROM rowcast.tables").await,
        "{INSERT,DELETE}"
    );
    let second = sql.text(changed).await;
    assert!(first < second, "{first} {second}");
    // What changes nothing is no other rule.
    sql.exec("UPDATE rowcast.tables SET operations = operations; SELECT rowcast.repair(); SELECT rowcast.sync_publication()").await;
    sql.exec("SELECT rowcast.track('people', operations => '{insert,delete}')")
        .await;
    assert_eq!(sql.text(changed).await, second);
    let function =
        "SELECT prosrc LIKE '%record *<>%' FROM pg_proc WHERE proname LIKE 'on\\_update%'";
    sql.exec("UPDATE rowcast.tables SET operations = '{update}'")
        .await;
    assert_eq!(
        sql.text(function).await,
        "f",
        "a table that hides nothing pays nothing"
    );
    sql.exec("UPDATE rowcast.tables SET columns = '{id,name}'")
        .await;
    assert_eq!(sql.text(function).await, "t");
}

/// What the triggers say of an UPDATE: nothing where all may know, else which masked columns changed.
#[tokio::test]
async fn triggers_say_which_masked_columns_changed() {
    for storage in ["table", "log"] {
        let (database, sql) = fresh().await;
        sql.exec(PEOPLE).await;
        sql.exec(&format!(
            "SELECT rowcast.track('people', columns => '{{id,name,email,ssn,doc,twice}}', owner_column => 'owner', max_rows => 4, storage => '{storage}',
                mask => '{{\"email\":{{\"type\":\"email\",\"show\":{{\"or\":\"owner\"}}}},\"ssn\":{{\"type\":\"ssn\"}}}}');
             INSERT INTO people SELECT n, CASE WHEN n > 2 THEN 'b' ELSE 'a' END, 'n', 'e', 's', 'o', '{{}}', 1 FROM generate_series(1, 4) n;
             DELETE FROM realtime_table_events;"
        ))
        .await;
        let messages = Messages::of(&database, &sql).await;
        let mut got = Vec::new();
        for set in [
            "name = 'x' WHERE id = 1",
            "i = 2 WHERE id = 1",
            "email = 'y' WHERE id = 1",
            "owner = 'p' WHERE id = 1",
            "ssn = 't', owner = 'q' WHERE id = 1",
            // Equal is not the same: one sees how it is written.
            "doc = '{ }' WHERE id = 1",
            "doc = '{ }', email = email WHERE id = 1",
            "i = 3, email = CASE WHEN id = 2 THEN 'z' ELSE email END",
            "i = 4, organization_id = 'c' WHERE id = 2",
        ] {
            sql.exec(&format!("UPDATE people SET {set}")).await;
            let said: String = match storage {
                "table" => {
                    let rows = sql.text("SELECT string_agg(coalesce(changed::text, '-'), ' ' ORDER BY id) FROM realtime_table_events").await;
                    sql.exec("DELETE FROM realtime_table_events").await;
                    rows
                }
                _ => messages
                    .said()
                    .await
                    .iter()
                    .map(|message| {
                        let message: Value = serde_json::from_str(message).unwrap();
                        let rows = message["changed"].as_array().cloned();
                        let rows = rows.unwrap_or_else(|| vec![Value::Null]);
                        let rows = rows.iter().map(|row| row.as_str().unwrap_or("-"));
                        rows.collect::<Vec<_>>().join(" ")
                    })
                    .collect(),
            };
            // In the order in which Postgres met the rows.
            let mut words: Vec<&str> = said.split(' ').collect();
            words.sort_unstable();
            got.push(words.join(" "));
        }
        let moved = if storage == "table" { "- -" } else { "{}" };
        let expected = [
            "-",
            "{}",
            "{email}",
            "{email}",
            "{email,ssn}",
            "-",
            "{}",
            "{email} {} {} {}",
            moved,
        ];
        messages.end().await;
        assert_eq!(got, expected, "{storage}");
        assert_eq!(sql.text("SELECT count(*) FROM rowcast.problems").await, "0");
    }
}
