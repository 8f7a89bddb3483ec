//! Migrations, retention, repair, roles, keys, and going away.

use super::{fresh, told};
use crate::harness::postgres::Sql;

fn migrations() -> Vec<(String, String)> {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../sql");
    let mut files: Vec<(String, String)> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|end| end == "sql"))
        .map(|path| {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            (name, std::fs::read_to_string(&path).unwrap())
        })
        .collect();
    files.sort();
    files
}

#[tokio::test]
async fn migrations_run_twice_and_keep_what_is_there() {
    let (_database, sql) = fresh().await;
    sql.exec(
        "CREATE TABLE projects (id int PRIMARY KEY, organization_id text);
         SELECT rowcast.track('projects'); INSERT INTO projects VALUES (1, 'a');
         INSERT INTO rowcast.memberships VALUES ('u', 'a');
         CREATE OR REPLACE FUNCTION public.get_organization_id_for_change(table_name text, op text, record jsonb)
             RETURNS text LANGUAGE sql AS $$ SELECT 'mine' $$",
    )
    .await;
    for _ in 0..2 {
        for (name, text) in migrations() {
            sql.exec(&format!("BEGIN; {text}\n; COMMIT; -- {name}"))
                .await;
        }
    }
    sql.exec("INSERT INTO projects VALUES (2, 'a')").await;
    assert_eq!(told(&sql).await, "INSERT projects a 1, INSERT projects a 2");
    let mine = "SELECT public.get_organization_id_for_change('t', 'INSERT', '{}')";
    assert_eq!(
        sql.text(mine).await,
        "mine",
        "a version of one's own is kept"
    );
    assert_eq!(
        sql.text("SELECT count(*) FROM rowcast.memberships").await,
        "1"
    );
}

/// Every function that runs with the rights of its owner has a pinned search_path, and none is for all.
#[tokio::test]
async fn functions_are_closed_and_pinned() {
    let (_database, sql) = fresh().await;
    sql.exec(
        "CREATE TABLE projects (id int PRIMARY KEY, organization_id text);
         CREATE TABLE tasks (id timestamptz PRIMARY KEY, project_id int REFERENCES projects);
         SELECT rowcast.track('projects'); SELECT rowcast.track('tasks')",
    )
    .await;
    let ours = "FROM pg_proc p WHERE (p.pronamespace = 'rowcast'::regnamespace
        OR p.proname IN ('get_organization_id_for_change', 'notify_organization_of_table_change'))";
    let open = format!(
        "SELECT string_agg(p.proname, ' ') {ours} AND has_function_privilege('public', p.oid, 'EXECUTE')"
    );
    assert_eq!(sql.text(&open).await, "");
    let loose = format!(
        "SELECT string_agg(p.proname, ' ') {ours} AND p.prosecdef
         AND NOT coalesce(p.proconfig::text[] @> '{{\"search_path=pg_catalog, pg_temp\"}}', false)"
    );
    assert_eq!(sql.text(&loose).await, "");
    let tables =
        "SELECT string_agg(c.relname, ' ') FROM pg_class c WHERE c.relkind IN ('r', 'p', 'v')
        AND (c.relnamespace = 'rowcast'::regnamespace OR c.relname = 'realtime_table_events')
        AND has_table_privilege('public', c.oid, 'SELECT, INSERT, UPDATE, DELETE, TRUNCATE')";
    assert_eq!(sql.text(tables).await, "");
}

/// Retention truncates the bucket whose turn comes, and the log does not show it.
#[tokio::test]
async fn the_ring_of_events_is_emptied_by_truncating() {
    let (database, sql) = fresh().await;
    let slot = format!("ring_{}", database.name);
    sql.exec(&format!(
        "SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput');
         INSERT INTO realtime_table_events (organization_id, table_schema, table_name, event_type, bucket)
         SELECT 'a', 'public', 't', 'INSERT', n % 8 FROM generate_series(0, 15) n;
         INSERT INTO realtime_table_events (organization_id, table_schema, table_name, event_type, bucket)
         VALUES ('a', 'public', 't', 'INSERT', 99)"
    ))
    .await;
    let reader = database.connect().await;
    let coming = sql
        .text("SELECT rowcast.bucket_of(now() + interval '3 hours')")
        .await;
    // Somebody reads the bucket: it is left for the next time, without waiting.
    reader
        .exec(&format!("BEGIN; SELECT * FROM rowcast.events_{coming}"))
        .await;
    sql.exec("SELECT rowcast.maintain()").await;
    let count = "SELECT count(*) FROM realtime_table_events";
    assert_eq!(sql.text(count).await, "17");
    reader.exec("COMMIT").await;
    assert_eq!(
        sql.text("SELECT count(*) FROM rowcast.event_gaps").await,
        "0"
    );
    sql.exec("SELECT rowcast.maintain()").await;
    assert_eq!(sql.text(count).await, "15");
    // Noted is the end of the three hours that it was for, a day before: between 18 and 21 hours ago.
    let gap = "SELECT rowcast.bucket_of(since) = (rowcast.bucket_of(now()) + 2) % 8 AND extract(epoch FROM since) % 10800 = 0
        AND since BETWEEN now() - interval '21 hours' AND now() - interval '18 hours' FROM rowcast.event_gaps";
    assert_eq!(sql.text(gap).await, "t");
    let kept = format!("SELECT count(*) FROM realtime_table_events WHERE bucket = {coming}");
    assert_eq!(sql.text(&kept).await, "0");
    let truncates = format!(
        "SELECT count(*) FROM pg_logical_slot_get_binary_changes('{slot}', NULL, NULL,
            'proto_version', '1', 'publication_names', 'rowcast') WHERE substr(data, 1, 1) = 'T'"
    );
    assert_eq!(sql.text(&truncates).await, "0");
    sql.exec(&format!(
        "SELECT pg_drop_replication_slot('{slot}'); DELETE FROM realtime_table_events"
    ))
    .await;
}

/// Places in the log: noted when something was written, and void when the clock goes back.
#[tokio::test]
async fn places_in_the_log_are_noted() {
    let (database, sql) = fresh().await;
    let other = database.connect().await;
    let note = "SELECT rowcast.note_position(7)";
    let count = "SELECT count(*) FROM rowcast.positions";
    sql.exec(note).await;
    // Another database of this server may write meanwhile, so more than one may follow, but not each time.
    other.exec("BEGIN; SELECT pg_current_xact_id()").await;
    let running = other.text("SELECT pg_current_xact_id()").await;
    for _ in 0..20 {
        sql.exec(note).await;
    }
    let noted: u32 = sql.text(count).await.parse().unwrap();
    assert!(noted <= 3, "{noted}");
    // What runs is not over; what was written before it is.
    sql.exec("UPDATE rowcast.positions SET at = at - interval '2 hours'")
        .await;
    sql.exec(note).await;
    let last = format!(
        "SELECT horizon <= '{running}' AND xid > '{running}' AND lsn <= pg_current_wal_insert_lsn()
            AND events = 'realtime_table_events'::regclass AND at = (SELECT max(at) FROM rowcast.positions)
         FROM rowcast.positions WHERE epoch = 7 ORDER BY xid DESC LIMIT 1"
    );
    assert_eq!(sql.text(&last).await, "t");
    other.exec("ROLLBACK").await;
    sql.exec("UPDATE rowcast.positions SET at = now() + interval '1 hour'")
        .await;
    sql.exec(note).await;
    assert_eq!(sql.text(count).await, "1");
    sql.exec(
        "UPDATE rowcast.positions SET at = now() - interval '25 hours'; SELECT rowcast.maintain()",
    )
    .await;
    assert_eq!(sql.text(count).await, "0");
}

/// What no row of the events tells: TRUNCATE, rows whose parent moved, rules that ended, events removed.
#[tokio::test]
async fn what_leaves_no_event_is_marked() {
    let (_database, sql) = fresh().await;
    sql.exec(
        "CREATE TABLE projects (id int PRIMARY KEY, organization_id text);
         CREATE TABLE tasks (id int PRIMARY KEY, project_id int REFERENCES projects);
         SELECT rowcast.track('projects'); SELECT rowcast.track('tasks');
         INSERT INTO projects VALUES (1, 'a'); INSERT INTO tasks VALUES (1, 1)",
    )
    .await;
    sql.exec("UPDATE projects SET organization_id = 'b'; TRUNCATE tasks; SELECT rowcast.untrack('tasks')")
        .await;
    let marks = "SELECT string_agg(concat_ws(' ', relid::regclass, what, organization_id), ', ' ORDER BY what, organization_id)
        FROM rowcast.table_marks";
    assert_eq!(
        sql.text(marks).await,
        "tasks moved a, tasks moved b, tasks truncated, tasks untracked"
    );
    for removing in [
        "DELETE FROM realtime_table_events WHERE record_id = '1'",
        "UPDATE realtime_table_events SET record_id = '2'",
        "TRUNCATE realtime_table_events",
    ] {
        sql.exec(&format!("DELETE FROM rowcast.event_gaps; {removing}"))
            .await;
        let noted = "SELECT since <= clock_timestamp() AND since > now() - interval '1 minute' FROM rowcast.event_gaps";
        assert_eq!(sql.text(noted).await, "t", "{removing}");
    }
}

#[tokio::test]
async fn repair_follows_new_partitions_renames_and_restores() {
    let (_database, sql) = fresh().await;
    sql.exec(
        "CREATE TABLE logs (id int, organization_id text, PRIMARY KEY (id)) PARTITION BY LIST (id);
         CREATE TABLE projects (id int PRIMARY KEY, organization_id text);
         SELECT rowcast.track('logs'); SELECT rowcast.track('projects');
         CREATE TABLE logs_1 PARTITION OF logs FOR VALUES IN (1);
         ALTER TABLE projects RENAME TO works",
    )
    .await;
    let wrong = "SELECT string_agg(what, '; ' ORDER BY what) FROM rowcast.check()";
    let said = sql.text(wrong).await;
    for what in [
        "logs_1 misses the trigger rowcast_insert",
        "works was renamed",
    ] {
        assert!(said.contains(what), "{said}");
    }
    sql.exec("SELECT rowcast.maintain()").await;
    let said = sql.text(wrong).await;
    assert!(
        !said.contains("logs_1"),
        "maintenance adopts partitions: {said}"
    );
    sql.exec("SELECT rowcast.repair()").await;
    assert_eq!(sql.text(wrong).await, "");
    sql.exec("INSERT INTO logs_1 VALUES (1, 'a'); INSERT INTO works VALUES (1, 'a')")
        .await;
    assert_eq!(told(&sql).await, "INSERT logs a 1, INSERT works a 1");
    // A partition that is detached is nobody's, before and after the repair.
    sql.exec("ALTER TABLE logs DETACH PARTITION logs_1; INSERT INTO logs_1 VALUES (2, 'a')")
        .await;
    assert!(sql.text(wrong).await.contains("logs_1 was a partition"));
    sql.exec("SELECT rowcast.repair(); INSERT INTO logs_1 VALUES (3, 'a')")
        .await;
    assert_eq!(sql.text(wrong).await, "");
    assert_eq!(told(&sql).await, "");
    // After a restore the same names have other oids, and triggers that speak of the old ones.
    sql.exec(
        "UPDATE rowcast.tables SET relid = oid(relid::bigint + 1000000) WHERE table_name = 'works'",
    )
    .await;
    assert!(sql.text(wrong).await.contains("not there under its oid"));
    sql.exec("SELECT rowcast.repair(); UPDATE works SET id = 2")
        .await;
    assert_eq!(sql.text(wrong).await, "");
    assert_eq!(told(&sql).await, "UPDATE works a 2");
    sql.exec("ALTER TABLE works DISABLE TRIGGER rowcast_update")
        .await;
    assert!(sql.text(wrong).await.contains("disabled"));
    sql.exec("DROP TABLE works; SELECT rowcast.repair()").await;
    assert_eq!(sql.text("SELECT count(*) FROM rowcast.tables").await, "1");
}

async fn as_role(sql: &Sql, role: &str, statement: &str) -> Result<(), String> {
    let done = sql
        .batch_execute(&format!("SET ROLE {role}; {statement}"))
        .await;
    sql.exec("RESET ROLE").await;
    done.map_err(|error| error.as_db_error().unwrap().message().to_owned())
}

#[tokio::test]
async fn roles_may_what_they_need_and_no_more() {
    let (database, sql) = fresh().await;
    let name = |kind: &str| format!("{kind}_{}_{}", database.name, std::process::id());
    let (service, owner) = (name("service"), name("owner"));
    sql.exec(&format!(
        "CREATE ROLE {service}; CREATE ROLE {owner};
         SELECT rowcast.grant_service('{service}'); SELECT rowcast.grant_admin('{owner}');
         CREATE SCHEMA app AUTHORIZATION {owner};
         CREATE TABLE members (id int PRIMARY KEY, who text, org text, secret text);
         SELECT rowcast.use_memberships('members', 'who', 'org')"
    ))
    .await;
    for statement in [
        "SELECT * FROM rowcast.tables; SELECT * FROM rowcast.memberships; SELECT * FROM rowcast.api_keys",
        "SELECT id, who, org FROM members",
        "SELECT rowcast.note_slot('s', true, '1', 1); SELECT rowcast.maintain(); SELECT rowcast.sync_publication()",
        "SELECT * FROM rowcast.check()",
        "SELECT rowcast.note_position(1); SELECT * FROM rowcast.positions, rowcast.event_gaps, rowcast.table_marks",
        "SELECT record_id, xmin FROM realtime_table_events",
    ] {
        assert_eq!(
            as_role(&sql, &service, statement).await,
            Ok(()),
            "{statement}"
        );
    }
    for statement in [
        "SELECT secret FROM members",
        "INSERT INTO rowcast.memberships VALUES ('me', 'theirs')",
        "SELECT rowcast.create_api_key('theirs')",
        "SELECT rowcast.track('members')",
        "INSERT INTO rowcast.positions SELECT * FROM rowcast.positions",
        "DELETE FROM realtime_table_events",
        "DELETE FROM rowcast.event_gaps",
    ] {
        assert!(
            as_role(&sql, &service, statement).await.is_err(),
            "{statement}"
        );
    }
    // Somebody who owns tables tracks them without being the one that installed Rowcast.
    as_role(
        &sql,
        &owner,
        "CREATE TABLE app.projects (id int PRIMARY KEY, organization_id text);
         CREATE TABLE app.tasks (id int PRIMARY KEY, project_id int REFERENCES app.projects ON DELETE CASCADE);
         SELECT rowcast.track('app.tasks');
         INSERT INTO app.projects VALUES (1, 'a'); INSERT INTO app.tasks VALUES (1, 1); DELETE FROM app.projects",
    )
    .await
    .unwrap();
    assert_eq!(told(&sql).await, "INSERT tasks a 1, DELETE tasks a 1");
    assert_eq!(sql.text("SELECT count(*) FROM rowcast.problems").await, "0");
    sql.exec(&format!(
        "SELECT rowcast.uninstall(); DROP OWNED BY {service}, {owner} CASCADE; DROP ROLE {service}, {owner}"
    ))
    .await;
}

#[tokio::test]
async fn slots_and_keys() {
    let (_database, sql) = fresh().await;
    let note = |created: bool, system: &str, timeline: u32| {
        format!("SELECT rowcast.note_slot('s', {created}, '{system}', {timeline})")
    };
    for (created, system, timeline, generation) in [
        (true, "1", 1, "1"),
        (false, "1", 1, "1"),
        (false, "1", 2, "2"),
        (false, "2", 2, "3"),
        (true, "2", 2, "4"),
        (false, "2", 2, "4"),
    ] {
        assert_eq!(sql.text(&note(created, system, timeline)).await, generation);
    }
    let key = sql
        .text("SELECT rowcast.create_api_key('org_1', '{admin}', 'import')")
        .await;
    let id = key.split('_').nth(1).unwrap();
    assert!(key.starts_with("rk_") && key.len() == 80, "{key}");
    let kept = sql
        .text(&format!(
            "SELECT concat_ws(' ', id, roles, revoked_at, hash = encode(sha256('{key}'), 'hex')) FROM rowcast.api_keys"
        ))
        .await;
    assert_eq!(kept, format!("{id} {{admin}} t"));
    let revoke = format!("SELECT rowcast.revoke_api_key('{id}')");
    assert_eq!(sql.text(&revoke).await, "t");
    assert_eq!(sql.text("SELECT rowcast.revoke_api_key('none')").await, "f");
    let revoked = "SELECT revoked_at IS NOT NULL FROM rowcast.api_keys";
    assert_eq!(sql.text(revoked).await, "t");
}

#[tokio::test]
async fn uninstall_leaves_nothing() {
    let (_database, sql) = fresh().await;
    sql.exec(
        "CREATE TABLE projects (id int PRIMARY KEY, organization_id text);
         CREATE TABLE tasks (id int PRIMARY KEY, project_id int REFERENCES projects);
         SELECT rowcast.track('projects'); SELECT rowcast.track('tasks');
         CREATE TABLE other (id int PRIMARY KEY, organization_id text);
         CREATE TRIGGER trigger_notify_org_change AFTER INSERT OR UPDATE OR DELETE ON other
             FOR EACH ROW EXECUTE FUNCTION notify_organization_of_table_change();
         SELECT rowcast.uninstall();
         INSERT INTO projects VALUES (1, 'a'); INSERT INTO tasks VALUES (1, 1); DELETE FROM tasks; INSERT INTO other VALUES (1, 'a')",
    )
    .await;
    let left = "SELECT (SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal)
        + (SELECT count(*) FROM pg_publication) + (SELECT count(*) FROM pg_namespace WHERE nspname = 'rowcast')
        + (SELECT count(*) FROM pg_proc WHERE pronamespace = 'public'::regnamespace)
        + (SELECT count(*) FROM pg_class WHERE relname LIKE 'realtime%')";
    assert_eq!(sql.text(left).await, "0");
}
