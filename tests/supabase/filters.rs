//! Filters in the words of Supabase, by the rules of ours: MISSION T9.

use serde_json::json;

use super::client::{EACH, Js, NEW, filtered, table, told};
use crate::harness::{fixture::TRACK, world::World};

const THINGS: &str = "
    CREATE TABLE things (id int PRIMARY KEY, organization_id text, status text, price numeric, done boolean, tags text[]);
    SELECT rowcast.track('things', organization_column => 'organization_id');";

/// Each operator once, their negations, and several conditions: what PostgreSQL would select is what comes.
#[tokio::test]
async fn t09_supabase_filters_of_every_operator() {
    // So many filters, and regular expressions among them, are more than one socket may have by default.
    let env = [("ROWCAST__LIMITS__SUBSCRIPTION_BYTES", "2 MiB")];
    let world = World::prepared(&format!("{TRACK} {THINGS}"), &env).await;
    // The filter, and the same as a condition in SQL.
    let filters = [
        ("status=eq.open", "status = 'open'"),
        ("status=neq.open", "status <> 'open'"),
        ("price=lt.10", "price < 10"),
        ("price=lte.10", "price <= 10"),
        ("price=gt.10", "price > 10"),
        ("price=gte.10.00", "price >= 10"),
        ("status=in.(open,late)", "status IN ('open', 'late')"),
        ("price=in.(1,10)", "price IN (1, 10)"),
        (r#"status=in.("a,b","c)d")"#, "status IN ('a,b', 'c)d')"),
        ("status=like.%pe%", "status LIKE '%pe%'"),
        ("status=like.o_en", "status LIKE 'o_en'"),
        ("status=ilike.OP%", "status ILIKE 'OP%'"),
        ("status=match.^o.*n$", "status ~ '^o.*n$'"),
        ("status=imatch.^O", "status ~* '^O'"),
        ("status=isdistinct.open", "status IS DISTINCT FROM 'open'"),
        (
            "status=not.isdistinct.open",
            "NOT status IS DISTINCT FROM 'open'",
        ),
        ("status=not.match.^o", "NOT status ~ '^o'"),
        ("status=is.null", "status IS NULL"),
        ("done=is.true", "done IS TRUE"),
        ("done=is.false", "done IS FALSE"),
        ("done=eq.true", "done = true"),
        ("status=not.eq.open", "NOT status = 'open'"),
        (
            "status=not.in.(open,late)",
            "status NOT IN ('open', 'late')",
        ),
        ("status=not.is.null", "status IS NOT NULL"),
        ("status=not.like.o%", "status NOT LIKE 'o%'"),
        ("price=gt.1,price=lt.11", "price > 1 AND price < 11"),
        (
            "status=in.(open,late),price=not.gte.10,done=is.false",
            "status IN ('open', 'late') AND NOT price >= 10 AND done IS FALSE",
        ),
        (r#"status=eq."a,b""#, "status = 'a,b'"),
        ("status=eq.x=y.z", "status = 'x=y.z'"),
        ("organization_id=eq.org_1", "true"),
        ("id=eq.7", "id = 7"),
        ("tags=is.null", "tags IS NULL"),
    ];
    let rows = "(1, 'org_1', 'open', 1, true, NULL), (2, 'org_1', 'open', 10, false, '{a}'), (3, 'org_1', 'late', 9.99, false, NULL),
        (4, 'org_1', 'opera', 11, NULL, NULL), (5, 'org_1', NULL, 10.0, true, '{}'), (6, 'org_1', 'a,b', NULL, NULL, NULL),
        (7, 'org_1', 'c)d', -1, false, NULL), (8, 'org_1', 'x=y.z', 1e20, true, NULL)";
    for library in EACH {
        let user = format!("u-{}", library.version);
        let mut js = Js::member(&world, library, &user, "org_1").await;
        let names: Vec<String> = (0..filters.len()).map(|n| format!("{n}")).collect();
        let bindings: Vec<_> = (names.iter().zip(&filters))
            .map(|(name, (filter, _))| (name.as_str(), filtered("things", filter)))
            .collect();
        js.listen("org:org_1", &bindings).await;
        world
            .exec(&format!("INSERT INTO things VALUES {rows}"))
            .await;
        let mut right = Vec::new();
        for (name, (_, condition)) in names.iter().zip(&filters) {
            let ids = format!(
                "SELECT coalesce(string_agg(id::text, ' ' ORDER BY id), '') FROM things WHERE {condition}"
            );
            right.push((name, world.sql.text(&ids).await));
        }
        let events = js.so_far(&world, "org_1").await;
        for (name, ids) in right {
            let mine = events.iter().filter(|event| event.0 == *name);
            let got: Vec<String> = mine.map(|event| event.1["new"]["id"].to_string()).collect();
            assert_eq!(
                got.join(" "),
                ids,
                "{:?} {library:?}",
                filters[name.parse::<usize>().unwrap()]
            );
        }
        world.exec("DELETE FROM things").await;
    }
}

/// Operators that are not in every version: they work as in SQL, or are refused with words; never silently nothing.
#[tokio::test]
async fn t09_supabase_filters_that_cannot_be_read_are_told() {
    let world = World::prepared(&format!("{TRACK} {THINGS}"), &[]).await;
    for library in EACH {
        let user = format!("u-{}", library.version);
        let mut js = Js::member(&world, library, &user, "org_1").await;
        for (n, (filter, named)) in [
            ("status", "status"),
            ("status=between.1", "between"),
            ("status=eq", "status"),
            ("price=in.1", "in"),
            ("nothing_like_it=eq.1", "nothing_like_it"),
            (",", ""),
            ("=eq.1", ""),
        ]
        .into_iter()
        .enumerate()
        {
            let topic = format!("t{n}");
            js.channel(
                &topic,
                json!({}),
                &[
                    ("lost", filtered("things", filter)),
                    ("rows", table("things")),
                ],
            )
            .await;
            js.subscribe(&topic).await;
            let said = [js.system().await, js.system().await];
            let error = said.iter().find(|said| said.0 == "error");
            let error = error.unwrap_or_else(|| panic!("{filter}: {said:?}"));
            assert!(
                error.1.contains(named) && error.1.contains("things"),
                "{filter}: {said:?}"
            );
            assert!(said.iter().any(|said| said.0 == "ok"), "{filter}: {said:?}");
            let write =
                format!("INSERT INTO things VALUES ({n}, 'org_1', '1', 1); DELETE FROM things");
            world.exec(&write).await;
            let events = js.so_far(&world, "org_1").await;
            let expected = [format!("rows INSERT {n}"), format!("rows DELETE {n}")];
            assert_eq!(told(&events), expected, "{filter}");
            js.call(json!({"do": "unsubscribe", "channel": topic}))
                .await;
        }
    }
}

/// UPDATE and DELETE under a filter, where we do better than upstream: a row that leaves the filter is told where
/// the log knows the row before, and so is a DELETE of a row whose old values only the log's key names.
#[tokio::test]
async fn supabase_rows_that_leave_a_filter_and_deletes() {
    let world = World::prepared(&format!("{TRACK} {THINGS}"), &[]).await;
    for (round, library) in EACH.into_iter().enumerate() {
        let user = format!("u-{}", library.version);
        let mut js = Js::member(&world, library, &user, "org_1").await;
        js.listen(
            "org:org_1",
            &[("open", filtered("things", "status=eq.open"))],
        )
        .await;
        for full in [false, true] {
            let identity = if full { "FULL" } else { "DEFAULT" };
            world
                .exec(&format!("ALTER TABLE things REPLICA IDENTITY {identity}"))
                .await;
            let base = round * 10;
            let [one, two] = [base + 1, base + 2];
            world
                .exec(&format!(
                    "INSERT INTO things VALUES ({one}, 'org_1', 'draft', 1), ({two}, 'org_1', 'open', 1);
                     UPDATE things SET status = 'open' WHERE id = {one};
                     UPDATE things SET status = 'done' WHERE id = {one};
                     UPDATE things SET price = 2 WHERE id = {one};
                     DELETE FROM things WHERE id = {one}; DELETE FROM things WHERE id = {two}"
                ))
                .await;
            let events = told(&js.so_far(&world, "org_1").await);
            let mut expected = vec![format!("open INSERT {two}"), format!("open UPDATE {one}")];
            match full {
                // It leaves; it is not there any more; and its end is nobody's.
                true => expected.push(format!("open UPDATE {one}")),
                false => expected.push(format!("open DELETE {one}")),
            }
            expected.push(format!("open DELETE {two}"));
            assert_eq!(events, expected, "{identity} {library:?}");
        }
    }
}

/// The builder of the newest library writes what the service reads.
#[tokio::test]
async fn supabase_duplicate_bindings_and_empty_filters() {
    let world = World::prepared(&format!("{TRACK} {THINGS}"), &[]).await;
    let mut js = Js::member(&world, NEW, "u1", "org_1").await;
    let bindings = [
        ("blank", filtered("things", "")),
        ("spaces", filtered("things", "  ")),
        (
            "empty",
            json!({"event": "*", "schema": "public", "table": "things", "select": []}),
        ),
        (
            "upper",
            json!({"event": "INSERT", "schema": "public", "table": "things"}),
        ),
    ];
    js.listen("x", &bindings).await;
    world.exec("INSERT INTO things VALUES (1, 'org_1')").await;
    let mut events = told(&js.so_far(&world, "org_1").await);
    events.sort_unstable();
    assert_eq!(
        events,
        [
            "blank INSERT 1",
            "empty INSERT 1",
            "spaces INSERT 1",
            "upper INSERT 1"
        ]
    );
}

/// Values of types that have more than one text: times with zones, dates, big numbers; uuids and enums by their text.
/// What PostgreSQL would select is what comes.
#[tokio::test]
async fn t09_supabase_filters_compare_as_the_type_of_the_column() {
    let tables = "
        CREATE TYPE size AS ENUM ('small', 'medium', 'large');
        CREATE TABLE typed (id int PRIMARY KEY, organization_id text, at timestamptz, local timestamp, day date, key uuid, size size, big bigint, real float8);
        SELECT rowcast.track('typed', organization_column => 'organization_id');";
    let world = World::prepared(&format!("{TRACK} {tables}"), &[]).await;
    let filters = [
        ("at=gt.2026-11-21T10:00:00Z", "at > '2026-11-21T10:00:00Z'"),
        ("at=eq.2026-11-21T10:00:00Z", "at = '2026-11-21T10:00:00Z'"),
        (
            "at=eq.2026-11-21T10:00:00+00:00",
            "at = '2026-11-21T10:00:00Z'",
        ),
        (
            "at=gte.2026-11-21T12:00:00+02:00",
            "at >= '2026-11-21T10:00:00Z'",
        ),
        (
            "at=gt.2026-11-21 10:00:00+00",
            "at > '2026-11-21T10:00:00Z'",
        ),
        ("at=lt.2026-11-21", "at < '2026-11-21 00:00:00+00'"),
        (
            "at=gt.2026-11-21T10:00:00.500Z",
            "at > '2026-11-21T10:00:00.5Z'",
        ),
        (
            "local=gte.2026-11-21 10:00:00",
            "local >= '2026-11-21 10:00:00'",
        ),
        (
            "local=eq.2026-11-21T10:00:00",
            "local = '2026-11-21 10:00:00'",
        ),
        ("day=gte.2026-11-21", "day >= '2026-11-21'"),
        (
            "key=in.(a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11)",
            "key = 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'",
        ),
        ("size=eq.large", "size = 'large'"),
        ("big=gt.9007199254740992", "big > 9007199254740992"),
        ("real=lt.1e3", "\"real\" < 1e3"),
    ];
    let rows = "
        (1, 'org_1', '2026-11-21T10:00:00Z', '2026-11-21 10:00:00', '2026-11-21', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', 'small', 9007199254740992, 1),
        (2, 'org_1', '2026-11-21T10:00:00.5Z', '2026-11-21 09:59:59', '2026-11-20', gen_random_uuid(), 'medium', 9007199254740993, 1e3),
        (3, 'org_1', '2026-11-21T10:00:00.75Z', '2026-11-21 10:00:00.1', '2027-01-01', NULL, 'large', -1, 999.5),
        (4, 'org_1', '2026-11-20T23:00:00Z', NULL, '2026-03-01', gen_random_uuid(), NULL, 10, 5e300)";
    for library in EACH {
        let user = format!("u-{}", library.version);
        let mut js = Js::member(&world, library, &user, "org_1").await;
        let names: Vec<String> = (0..filters.len()).map(|n| format!("{n}")).collect();
        let bindings: Vec<_> = (names.iter().zip(&filters))
            .map(|(name, (filter, _))| (name.as_str(), filtered("typed", filter)))
            .collect();
        js.listen("org:org_1", &bindings).await;
        world
            .exec(&format!("INSERT INTO typed VALUES {rows}"))
            .await;
        let mut right = Vec::new();
        for (_, condition) in filters {
            let ids = format!(
                "SELECT coalesce(string_agg(id::text, ' ' ORDER BY id), '') FROM typed WHERE {condition}"
            );
            right.push(world.sql.text(&ids).await);
        }
        let events = js.so_far(&world, "org_1").await;
        let mut wrong = Vec::new();
        for (name, (ids, (filter, _))) in names.iter().zip(right.iter().zip(&filters)) {
            let mine = events.iter().filter(|event| event.0 == *name);
            let got: Vec<String> = mine.map(|event| event.1["new"]["id"].to_string()).collect();
            if got.join(" ") != *ids {
                wrong.push(format!("{filter}: {} instead of {ids}", got.join(" ")));
            }
        }
        assert!(wrong.is_empty(), "{library:?}: {wrong:#?}");
        world.exec("DELETE FROM typed").await;
    }
}
