//! `rowcast.track`: what it finds by itself, what it refuses and with which words.

use super::fresh;

const TABLES: &str = "
    CREATE TABLE projects (id int PRIMARY KEY, organization_id text);
    CREATE TABLE teams (id int PRIMARY KEY, organization_id text);
    CREATE TABLE tasks (id int PRIMARY KEY, project_id int REFERENCES projects, parent_id int REFERENCES tasks);
    CREATE TABLE labels (task_id int REFERENCES tasks, label text, PRIMARY KEY (task_id, label));
    CREATE TABLE shared (id int PRIMARY KEY, project_id int REFERENCES projects, team_id int REFERENCES teams);
    CREATE TABLE organizations (id text PRIMARY KEY);
    CREATE TABLE profiles (id int PRIMARY KEY, name text);
    CREATE TABLE role_permissions (role text, permission text, PRIMARY KEY (role, permission));
    CREATE VIEW seen AS SELECT * FROM projects;
    CREATE UNLOGGED TABLE scratch (organization_id text);
    CREATE TABLE base (organization_id text); CREATE TABLE heir () INHERITS (base);
    CREATE TABLE logs (day int, organization_id text, PRIMARY KEY (day)) PARTITION BY LIST (day);
    CREATE TABLE logs_1 PARTITION OF logs FOR VALUES IN (1);";

#[tokio::test]
async fn the_organization_is_found_over_foreign_keys() {
    let (_database, sql) = fresh().await;
    sql.exec(TABLES).await;
    sql.exec("SELECT rowcast.track('projects'); SELECT rowcast.track('tasks'); SELECT rowcast.track('labels')")
        .await;
    let found = sql
        .text("SELECT string_agg(concat(table_name, ': ', organization_column, organization_path), '; ' ORDER BY table_name) FROM rowcast.tables")
        .await;
    assert_eq!(
        found,
        "labels: task_id -> tasks.project_id -> projects.organization_id; \
         projects: organization_id; \
         tasks: project_id -> projects.organization_id"
    );
}

#[tokio::test]
async fn what_cannot_work_is_refused_with_a_reason() {
    let (_database, sql) = fresh().await;
    sql.exec(TABLES).await;
    let cases = [
        (
            "'shared'",
            "42702",
            "project_id -> projects.organization_id; team_id -> teams.organization_id",
        ),
        (
            "'organizations'",
            "42703",
            "no column organization_id and no foreign keys",
        ),
        ("'profiles'", "42703", "no column organization_id"),
        ("'role_permissions'", "42703", "no column organization_id"),
        ("'seen'", "42809", "is not a table"),
        ("'scratch'", "42809", "unlogged"),
        ("'base'", "0A000", "inherit"),
        ("'logs_1'", "42809", "is a partition"),
        ("'rowcast.tables'", "42809", "belongs to the machinery"),
        (
            "'realtime_table_events'",
            "42809",
            "belongs to the machinery",
        ),
        (
            "'projects', organization_column => 'nope'",
            "42703",
            "\"nope\"",
        ),
        (
            "'tasks', organization_path => 'project_id'",
            "22023",
            "no \"->\"",
        ),
        (
            "'tasks', organization_path => 'nope -> projects.organization_id'",
            "42703",
            "\"nope\"",
        ),
        (
            "'tasks', organization_path => 'project_id -> nope.organization_id'",
            "42P01",
            "no table nope",
        ),
        (
            "'tasks', organization_path => 'project_id -> projects.nope'",
            "42703",
            "\"nope\"",
        ),
        (
            "'tasks', organization_path => 'project_id -> labels.label'",
            "22023",
            "no foreign key leads",
        ),
        (
            "'projects', organization_column => 'id', organization_path => 'id -> teams.organization_id'",
            "22023",
            "not both",
        ),
        ("'projects', operations => '{UPSERT}'", "22023", "'UPSERT'"),
        ("'projects', operations => '{}'", "22023", "nothing"),
        (
            "'projects', columns => '{nope}'",
            "42703",
            "columns names \"nope\"",
        ),
        ("'projects', columns => '{}'", "22023", "columns is empty"),
        ("'projects', user_column => 'nope'", "42703", "user_column"),
        (
            "'projects', owner_column => 'nope'",
            "42703",
            "owner_column",
        ),
        (
            "'projects', required_roles => '{admin,NULL}'",
            "22023",
            "empty role",
        ),
        ("'projects', mask => '[]'", "22023", "not an object"),
        (
            "'projects', mask => '{\"id\":{\"type\":\"wig\"}}'",
            "22023",
            "no known type",
        ),
        (
            "'projects', mask => '{\"organization_id\":{\"type\":\"name\",\"show\":{\"or\":\"owner\"}}}'",
            "22023",
            "no owner_column",
        ),
        (
            "'projects', visibility => 'everyone'",
            "0A000",
            "not available",
        ),
        ("'projects', visibility => 'nobody'", "22023", "'nobody'"),
        ("'projects', storage => 'cloud'", "22023", "'cloud'"),
        ("'projects', max_rows => 0", "22023", "max_rows is 0"),
    ];
    for (arguments, code, words) in cases {
        let (state, message) = sql
            .fails(&format!("SELECT rowcast.track({arguments})"))
            .await;
        assert_eq!(state, code, "{arguments}: {message}");
        assert!(message.contains(words), "{arguments}: {message}");
    }
    assert_eq!(sql.text("SELECT count(*) FROM rowcast.tables").await, "0");
    let left = "SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'rowcast%'";
    assert_eq!(sql.text(left).await, "0");
}

#[tokio::test]
async fn tracking_again_changes_the_rule_and_untracking_leaves_nothing() {
    let (_database, sql) = fresh().await;
    sql.exec(TABLES).await;
    sql.exec("SELECT rowcast.track('tasks', required_roles => '{admin}', operations => '{insert,delete}')")
        .await;
    let rule =
        "SELECT concat_ws(' ', required_roles, storage, published, operations) FROM rowcast.tables";
    assert_eq!(sql.text(rule).await, "{admin} table t {INSERT,DELETE}");
    let triggers = "SELECT string_agg(concat(tgrelid::regclass, '.', tgname), ' ' ORDER BY 1)
        FROM (SELECT tgrelid, tgname FROM pg_trigger WHERE tgname LIKE 'rowcast%' ORDER BY tgrelid::regclass::text, tgname) t";
    assert_eq!(
        sql.text(triggers).await,
        "projects.rowcast_path_delete projects.rowcast_path_key projects.rowcast_path_move \
         projects.rowcast_path_sweep tasks.rowcast_delete tasks.rowcast_insert"
    );
    sql.exec("SELECT rowcast.track('tasks', storage => 'log', rows => false)")
        .await;
    assert_eq!(
        sql.text(rule).await,
        "{} log f {INSERT,UPDATE,DELETE,TRUNCATE}"
    );
    let published = "SELECT count(*) FROM pg_publication_tables WHERE tablename = 'tasks'";
    assert_eq!(sql.text(published).await, "0");
    sql.exec("SELECT rowcast.untrack('tasks')").await;
    assert_eq!(sql.text(triggers).await, "");
    let functions = "SELECT count(*) FROM pg_proc WHERE pronamespace = 'rowcast'::regnamespace AND proname ~ '[0-9]$'";
    assert_eq!(sql.text(functions).await, "0");
}

/// A table that Postgres could not publish without refusing the application's writes is never published.
#[tokio::test]
async fn a_table_without_a_replica_identity_is_never_published() {
    let (_database, sql) = fresh().await;
    sql.exec(
        "CREATE TABLE keyless (organization_id text, v int);
         CREATE TABLE nothing (id int PRIMARY KEY, organization_id text);
         ALTER TABLE nothing REPLICA IDENTITY NOTHING;
         SELECT rowcast.track('keyless'); SELECT rowcast.track('nothing');
         INSERT INTO keyless VALUES ('a', 1), ('b', 2), ('a', 3);
         UPDATE keyless SET v = 2; DELETE FROM keyless;
         INSERT INTO nothing VALUES (1, 'a'); UPDATE nothing SET organization_id = 'b'; DELETE FROM nothing",
    )
    .await;
    assert_eq!(
        super::told(&sql).await,
        "INSERT keyless a - of 3, INSERT keyless b - of 3, UPDATE keyless a - of 3, UPDATE keyless b - of 3, \
         DELETE keyless a - of 3, DELETE keyless b - of 3, INSERT nothing a 1, \
         DELETE nothing a 1 by UPDATE, INSERT nothing b 1 by UPDATE, DELETE nothing b 1"
    );
    // It becomes publishable, and then loses that again while it is published.
    sql.exec("ALTER TABLE nothing REPLICA IDENTITY DEFAULT; SELECT rowcast.sync_publication()")
        .await;
    let published = "SELECT published FROM rowcast.tables WHERE table_name = 'nothing'";
    assert_eq!(sql.text(published).await, "t");
    sql.exec("ALTER TABLE nothing DROP CONSTRAINT nothing_pkey")
        .await;
    let danger =
        "SELECT fix FROM rowcast.check() WHERE topic = 'replica identity' AND level = 'error'";
    assert!(sql.text(danger).await.contains("nothing"));
    sql.exec("SELECT rowcast.sync_publication(); INSERT INTO nothing VALUES (1, 'a'); DELETE FROM nothing")
        .await;
    assert_eq!(
        super::told(&sql).await,
        "INSERT nothing a - of 1, DELETE nothing a - of 1"
    );
}
