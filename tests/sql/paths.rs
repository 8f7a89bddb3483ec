//! Organizations that are found over other tables, also when these lost the row or moved it.

use super::{Messages, fresh, told};

const TABLES: &str = r#"
    CREATE SCHEMA "we ird";
    CREATE TABLE "we ird"."Pa%rent «x»" (a text, t timestamptz, "Org"" id" text, PRIMARY KEY (a, t));
    CREATE TABLE tasks (id int PRIMARY KEY, a text, t timestamptz,
        FOREIGN KEY (a, t) REFERENCES "we ird"."Pa%rent «x»" ON DELETE CASCADE ON UPDATE CASCADE);
    CREATE TABLE labels (task_id int REFERENCES tasks ON DELETE CASCADE, label text, PRIMARY KEY (task_id, label));
    CREATE TABLE notes (id int PRIMARY KEY, task_id int REFERENCES tasks ON DELETE SET NULL);
    SELECT rowcast.track('tasks', organization_path => '(a, t) -> "we ird"."Pa%rent «x»"."Org"" id"');
    SELECT rowcast.track('labels', organization_path => 'task_id -> tasks.(a, t) -> "we ird"."Pa%rent «x»"."Org"" id"');
    SELECT rowcast.track('notes', organization_path => 'task_id -> tasks.(a, t) -> "we ird"."Pa%rent «x»"."Org"" id"');
    -- The text of a time depends on the session, here on purpose a different one.
    SET timezone = 'Asia/Tokyo'; SET datestyle = 'German';
    INSERT INTO "we ird"."Pa%rent «x»" VALUES ('x', '2020-01-01 00:00+00', 'o1'), ('y', '2020-01-02 00:00+00', 'o2');
    INSERT INTO tasks VALUES (1, 'x', '2020-01-01 00:00+00'), (2, 'y', '2020-01-02 00:00+00');
    INSERT INTO labels VALUES (1, 'l'), (2, 'l');
    INSERT INTO notes VALUES (1, 1), (2, 2);
    DELETE FROM realtime_table_events;"#;

#[tokio::test]
async fn cascades_find_the_organization_of_parents_that_are_gone() {
    let (_database, sql) = fresh().await;
    sql.exec(TABLES).await;
    sql.exec(
        r#"SET timezone = 'UTC'; SET datestyle = 'ISO';
           DELETE FROM "we ird"."Pa%rent «x»" WHERE a = 'x'"#,
    )
    .await;
    assert_eq!(
        told(&sql).await,
        r#"DELETE tasks o1 1, DELETE labels o1 ["1","l"], DELETE notes o1 1 by UPDATE"#
    );
    // Two statements of one transaction, without a cascade.
    sql.exec(
        r#"ALTER TABLE tasks DROP CONSTRAINT tasks_a_t_fkey;
           BEGIN; DELETE FROM "we ird"."Pa%rent «x»"; DELETE FROM tasks; COMMIT"#,
    )
    .await;
    assert_eq!(
        told(&sql).await,
        r#"DELETE tasks o2 2, DELETE labels o2 ["2","l"], DELETE notes o2 2 by UPDATE"#
    );
    let kept = "SELECT count(*) > 0 FROM rowcast.gone";
    assert_eq!(sql.text(kept).await, "t");
    // Another transaction of the cluster may still be older.
    sql.until_true(
        "what is over is forgotten",
        "SELECT NOT EXISTS (SELECT FROM rowcast.gone) FROM (SELECT rowcast.maintain()) done",
    )
    .await;
}

#[tokio::test]
async fn a_new_key_of_the_parent_is_an_update_below() {
    let (_database, sql) = fresh().await;
    sql.exec(TABLES).await;
    sql.exec(
        r#"UPDATE "we ird"."Pa%rent «x»" SET a = 'z' WHERE a = 'x';
           UPDATE tasks SET id = id WHERE id = 1"#,
    )
    .await;
    assert_eq!(told(&sql).await, "UPDATE tasks o1 1, UPDATE tasks o1 1");
}

#[tokio::test]
async fn a_parent_that_moves_is_told_once_for_each_table_below() {
    let (database, sql) = fresh().await;
    sql.exec(TABLES).await;
    let messages = Messages::of(&database, &sql).await;
    sql.exec(r#"UPDATE "we ird"."Pa%rent «x»" SET "Org"" id" = 'o3'"#)
        .await;
    let bulk = |orgs: &str, table: &str| {
        format!(r#"{{"bulk":[{orgs}],"n":0,"op":"UPDATE","t":"{table}"}}"#)
    };
    let mut said = messages.said().await;
    said.sort();
    let mut expected: Vec<String> = ["labels", "notes", "tasks"]
        .iter()
        .flat_map(|table| [bulk(r#""o1","o3""#, table), bulk(r#""o2","o3""#, table)])
        .collect();
    expected.sort();
    assert_eq!(said, expected);
    // In the middle of a path: a task goes to another parent, its labels and notes go with it.
    sql.exec(
        r#"UPDATE "we ird"."Pa%rent «x»" SET "Org"" id" = 'o4' WHERE a = 'y';
           DELETE FROM realtime_table_events"#,
    )
    .await;
    messages.said().await;
    sql.exec("UPDATE tasks SET a = 'y', t = '2020-01-02 00:00+00' WHERE id = 1")
        .await;
    assert_eq!(
        told(&sql).await,
        "DELETE tasks o3 1 by UPDATE, INSERT tasks o4 1 by UPDATE"
    );
    let mut said = messages.said().await;
    said.sort();
    assert_eq!(
        said,
        [
            bulk(r#""o3","o4""#, "labels"),
            bulk(r#""o3","o4""#, "notes")
        ]
    );
    messages.end().await;
}

#[tokio::test]
async fn a_rule_that_no_longer_fits_breaks_no_other() {
    let (_database, sql) = fresh().await;
    sql.exec(
        "CREATE TABLE projects (id int PRIMARY KEY, organization_id text);
         CREATE TABLE tasks (id int PRIMARY KEY, project_id int REFERENCES projects);
         CREATE TABLE other (id int PRIMARY KEY, organization_id text);
         SELECT rowcast.track('projects'); SELECT rowcast.track('tasks');
         DROP TABLE projects CASCADE;
         SELECT rowcast.track('other'); SELECT rowcast.repair();
         INSERT INTO other VALUES (1, 'a'); INSERT INTO tasks VALUES (1, 1)",
    )
    .await;
    assert_eq!(told(&sql).await, "INSERT other a 1");
    let said = "SELECT fix FROM rowcast.check() WHERE what LIKE '%no longer where its rule says%'";
    assert!(
        sql.text(said)
            .await
            .contains("rowcast.untrack('public.tasks')")
    );
    sql.exec("SELECT rowcast.untrack('tasks')").await;
    assert_eq!(sql.text(said).await, "");
}
