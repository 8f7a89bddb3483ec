//! What the log says, against what SELECT says.

use rowcast_model::{Kind, OldTuple, Operation, Value, WalItem};
use tokio_postgres::SimpleQueryMessage;

use crate::harness::{World, exec, row, shown};

/// Column, type, and values to write.
const FAMILIES: &[(&str, &str, &[&str])] = &[
    ("int2", "int2", &["-32768", "0"]),
    ("int8", "int8", &["9223372036854775807"]),
    ("oid", "oid", &["4294967295"]),
    (
        "float4",
        "float4",
        &["3.4028235e38", "'NaN'", "'-Infinity'"],
    ),
    ("float8", "float8", &["0.1::float8 + 0.2", "1e-310"]),
    (
        "numeric",
        "numeric",
        &["12345678901234567890.0987654321", "'NaN'"],
    ),
    ("bool", "bool", &["true", "false", "null"]),
    (
        "text",
        "text",
        &["''", "E'a\\nb\\t\"ü\\\\ \u{1F600}'", "null", "'null'"],
    ),
    ("chars", "char(5)", &["'ab'"]),
    ("varchar", "varchar(5)", &["'ab'"]),
    ("name", "name", &["'n'"]),
    ("onechar", "\"char\"", &["'x'"]),
    ("bytea", "bytea", &["'\\x00ff'", "''"]),
    ("uuid", "uuid", &["'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'"]),
    (
        "date",
        "date",
        &["'2020-02-29'", "'infinity'", "'0044-03-15 BC'"],
    ),
    ("time", "time", &["'24:00'"]),
    ("timetz", "timetz", &["'04:05:06.7+05:30'"]),
    (
        "timestamp",
        "timestamp",
        &["'2020-01-02 03:04:05.123456'", "'infinity'"],
    ),
    (
        "timestamptz",
        "timestamptz",
        &["'2020-01-02 03:04:05+09'", "'-infinity'"],
    ),
    (
        "interval",
        "interval",
        &["'1 year 2 mons -3 days 04:05:06.7'"],
    ),
    ("json", "json", &["'{\"a\": [1, null]}'", "'null'"]),
    ("jsonb", "jsonb", &["'{\"b\":1,\"a\":2}'"]),
    ("inet", "inet", &["'::1/64'"]),
    ("bits", "varbit", &["B'1011'"]),
    ("point", "point", &["'(1,2)'"]),
    ("box", "box", &["'(1,2),(3,4)'"]),
    (
        "boxes",
        "box[]",
        &["ARRAY['(1,2),(3,4)', '(5,6),(7,8)']::box[]"],
    ),
    ("tsvector", "tsvector", &["'a fat cat'"]),
    ("int4range", "int4range", &["'[1,5]'", "'empty'"]),
    ("multirange", "int4multirange", &["'{[1,2],[5,9]}'"]),
    ("mood", "mood", &["'sad'"]),
    ("moods", "mood[]", &["'{sad,ok}'"]),
    ("posint", "posint", &["7"]),
    ("tags", "tags", &["'{a,\"b c\",NULL}'"]),
    (
        "ints",
        "int[]",
        &["'{{1,2},{3,4}}'", "'{}'", "'[0:1]={7,8}'"],
    ),
    (
        "texts",
        "text[]",
        &["ARRAY['a,b', '\"q\"', null, 'NULL', '', '\\', '{}']"],
    ),
    ("times", "timestamptz[]", &["'{2020-01-01 00:00+00}'"]),
    (
        "pair",
        "pair",
        &["ROW(1, 'x,\"y', ROW('2020-01-01', null))::pair"],
    ),
    ("pairs", "pair[]", &["ARRAY[ROW(1, null, null)]::pair[]"]),
];

#[tokio::test]
async fn values_of_every_type_family_round_trip() {
    let world = World::new().await;
    world
        .exec(
            "CREATE TYPE mood AS ENUM ('sad', 'ok');
             CREATE DOMAIN posint AS int CHECK (VALUE > 0);
             CREATE DOMAIN tags AS text[];
             CREATE TYPE inner_pair AS (d date, n numeric);
             CREATE TYPE pair AS (a int, b text, c inner_pair);",
        )
        .await;
    let columns: Vec<_> = FAMILIES
        .iter()
        .map(|(name, kind, _)| format!("\"{name}\" {kind}"))
        .collect();
    world
        .exec(&format!(
            "CREATE TABLE families (id serial PRIMARY KEY, {})",
            columns.join(", ")
        ))
        .await;
    // Settings that would make every second value unreadable.
    let database = world.info.database().to_owned();
    for setting in [
        "datestyle = 'German, DMY'",
        "intervalstyle = 'sql_standard'",
        "bytea_output = 'escape'",
        "extra_float_digits = -10",
        "timezone = 'Asia/Tokyo'",
    ] {
        world
            .exec(&format!("ALTER DATABASE {database} SET {setting}"))
            .await;
    }
    let mut source = world.started().await;
    let widest = FAMILIES.iter().map(|(.., values)| values.len()).max();
    for i in 0..widest.unwrap() {
        let values: Vec<_> = FAMILIES
            .iter()
            .map(|(.., values)| *values.get(i).unwrap_or(&"null"))
            .collect();
        world
            .exec(&format!(
                "INSERT INTO families VALUES (DEFAULT, {})",
                values.join(", ")
            ))
            .await;
        let change = source.changes().await.remove(0);
        let told = change.new.unwrap();
        exec(
            &world.sql,
            "SET datestyle = ISO; SET intervalstyle = postgres; SET extra_float_digits = 1;
             SET timezone = UTC; SET bytea_output = hex",
        )
        .await;
        let query = format!("SELECT * FROM families WHERE id = {}", i + 1);
        let answer = world.sql.simple_query(&query).await.unwrap();
        let selected = answer.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        });
        for (column, value) in change.relation.columns.iter().zip(&told.0) {
            let selected = selected.unwrap().get(&*column.name);
            assert_eq!(shown(value), selected.unwrap_or("null"), "{}", column.name);
        }
    }
}

#[tokio::test]
async fn kinds_are_found_through_domains_arrays_and_composites() {
    let world = World::new().await;
    world
        .exec(
            "CREATE TYPE mood AS ENUM ('sad');
             CREATE DOMAIN posint AS int;
             CREATE DOMAIN deeper AS posint;
             CREATE DOMAIN tags AS text[];
             CREATE TYPE pair AS (a int, t timestamptz);
             CREATE TABLE kinds (id int PRIMARY KEY, a deeper, b mood, c tags, d pair[], e box[], f int4range,
                                 g jsonb[], h bool, i deeper[]);",
        )
        .await;
    let mut source = world.started().await;
    world.exec("INSERT INTO kinds VALUES (1)").await;
    let relation = source.changes().await.remove(0).relation;
    let kinds: Vec<_> = relation.columns.iter().map(|c| c.kind.clone()).collect();
    let array = |kind, delimiter| Kind::Array(Box::new(kind), delimiter);
    let pair = |more: &[(&str, Kind)]| {
        let all = [("a", Kind::Number), ("t", Kind::Timestamp)];
        let all = all.into_iter().chain(more.iter().cloned());
        Kind::Composite(all.map(|(name, kind)| (name.into(), kind)).collect())
    };
    assert_eq!(
        kinds,
        [
            Kind::Number,
            Kind::Number,
            Kind::Text,
            array(Kind::Text, b','),
            array(pair(&[]), b','),
            array(Kind::Text, b';'),
            Kind::Text,
            array(Kind::Json, b','),
            Kind::Bool,
            array(Kind::Number, b','),
        ]
    );
    // A domain has a name of its own, and so has an array of one.
    let names: Vec<&str> = relation.columns.iter().map(|c| &*c.type_name).collect();
    assert_eq!(
        names,
        [
            "int4",
            "deeper",
            "mood",
            "tags",
            "_pair",
            "_box",
            "int4range",
            "_jsonb",
            "bool",
            "_deeper"
        ]
    );
    // A composite that grows is described anew with the table.
    world
        .exec("ALTER TYPE pair ADD ATTRIBUTE n json; ALTER TABLE kinds ADD x int; INSERT INTO kinds VALUES (2)")
        .await;
    let relation = source.changes().await.remove(0).relation;
    assert_eq!(
        relation.columns[4].kind,
        array(pair(&[("n", Kind::Json)]), b',')
    );
}

/// Those that are known without asking are named as the catalog names them.
#[tokio::test]
async fn types_are_named_as_the_catalog_names_them() {
    let world = World::new().await;
    let extension = "SELECT count(*)::text AS n FROM pg_available_extensions WHERE name = 'citext'";
    let citext = match world.sql.simple_query(extension).await.unwrap().get(1) {
        Some(SimpleQueryMessage::Row(row)) if row.get("n") == Some("1") => {
            world.exec("CREATE EXTENSION citext").await;
            ", e citext, e2 citext[]"
        }
        _ => "",
    };
    world
        .exec(&format!(
            "CREATE SCHEMA other; CREATE TYPE other.\"My Type\" AS ENUM ('a');
             CREATE TYPE pair AS (a int, b other.\"My Type\");
             CREATE TABLE named (id int PRIMARY KEY, a other.\"My Type\", b other.\"My Type\"[], c pair{citext})"
        ))
        .await;
    // Everything that a column can have and the server brings along, each as a column.
    world
        .exec(
            "DO $$ BEGIN EXECUTE (SELECT 'CREATE TABLE built_in (id int PRIMARY KEY, '
                || string_agg(format('%I pg_catalog.%I', 'c' || oid, typname), ', ' ORDER BY oid) || ')'
             FROM pg_type WHERE typnamespace = 'pg_catalog'::regnamespace AND typtype IN ('b', 'r', 'm')
                AND oid < 10000 AND typcategory <> 'A' AND (typcategory <> 'Z' OR oid = 18)); END $$",
        )
        .await;
    let mut source = world.started().await;
    for table in ["named", "built_in"] {
        world.exec(&format!("INSERT INTO {table} VALUES (1)")).await;
        let relation = source.changes().await.remove(0).relation;
        let told = relation
            .columns
            .iter()
            .map(|column| (&*column.name, &*column.type_name));
        let query = format!(
            "SELECT a.attname, t.typname FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
             WHERE a.attrelid = '{table}'::regclass AND a.attnum > 0 ORDER BY a.attnum"
        );
        let answer = world.sql.simple_query(&query).await.unwrap();
        let said = answer.iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some((row.get(0)?, row.get(1)?)),
            _ => None,
        });
        let (told, said): (Vec<_>, Vec<(&str, &str)>) = (told.collect(), said.collect());
        assert!(told.len() >= 4, "{told:?}");
        assert_eq!(told, said);
    }
}

#[tokio::test]
async fn old_rows_keys_and_unchanged_values() {
    let world = World::new().await;
    world
        .exec(
            "CREATE TABLE docs (id int PRIMARY KEY, n int, body text);
             ALTER TABLE docs ALTER body SET STORAGE EXTERNAL;
             INSERT INTO docs VALUES (1, 1, repeat('x', 10000))",
        )
        .await;
    let mut source = world.started().await;
    world.exec("UPDATE docs SET n = 2").await;
    let change = source.changes().await.remove(0);
    assert_eq!(change.op, Operation::Update);
    assert_eq!(row(change.new.as_ref().unwrap()), ["1", "2", "unchanged"]);
    assert_eq!(change.old, None);

    world.exec("UPDATE docs SET id = 5").await;
    let change = source.changes().await.remove(0);
    let Some(OldTuple::Key(old)) = &change.old else {
        panic!("{change:?}");
    };
    assert_eq!(row(old), ["1", "null", "null"]);

    world.exec("ALTER TABLE docs REPLICA IDENTITY FULL").await;
    world.exec("UPDATE docs SET n = 3").await;
    let change = source.changes().await.remove(0);
    let Some(OldTuple::Full(old)) = &change.old else {
        panic!("{change:?}");
    };
    assert_eq!(
        old.0[..2],
        [5, 2].map(|n| Value::Text(n.to_string().into()))
    );
    assert_eq!(shown(&old.0[2]).len(), 10_000);

    world.exec("DELETE FROM docs").await;
    let change = source.changes().await.remove(0);
    assert_eq!((change.op, &change.new), (Operation::Delete, &None));
    assert!(matches!(change.old, Some(OldTuple::Full(_))));
}

#[tokio::test]
async fn truncates_and_messages_stand_where_they_were_written() {
    let world = World::new().await;
    world
        .exec(
            "CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY REFERENCES a)",
        )
        .await;
    let mut source = world.started().await;
    world
        .exec(
            "BEGIN;
             SELECT pg_logical_emit_message(true, 'rowcast', 'ü');
             INSERT INTO a VALUES (1);
             SAVEPOINT s; INSERT INTO a VALUES (2); ROLLBACK TO s;
             TRUNCATE a, b;
             SELECT pg_logical_emit_message(false, 'elsewhere', 'at once');
             COMMIT",
        )
        .await;
    let (items, _) = source.transaction().await;
    let [
        WalItem::Message { prefix, content },
        WalItem::Change(change),
        WalItem::Truncate(tables),
    ] = &items[..]
    else {
        panic!("{items:?}");
    };
    assert_eq!((&**prefix, &content[..]), ("rowcast", "ü".as_bytes()));
    assert_eq!(row(change.new.as_ref().unwrap()), ["1"]);
    let mut names: Vec<_> = tables.iter().map(|table| &*table.name).collect();
    names.sort_unstable();
    assert_eq!(names, ["a", "b"]);
}
