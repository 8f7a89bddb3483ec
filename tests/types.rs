//! Values of every type family through the whole service equal Postgres's own `to_json`.

use crate::harness::{json::row, world::World};

/// Type and values, each value as SQL text.
const FAMILIES: &[(&str, &[&str])] = &[
    ("boolean", &["true", "false", "NULL"]),
    ("smallint", &["-32768", "32767"]),
    ("integer", &["-2147483648", "0"]),
    (
        "bigint",
        &[
            "9223372036854775807",
            "-9223372036854775808",
            "9007199254740993",
        ],
    ),
    ("oid", &["4294967295"]),
    (
        "numeric",
        &[
            "1.10",
            "0.000000000000000000001",
            "123456789012345678901234567890.123",
            "'NaN'",
            "-5",
            "1e40",
        ],
    ),
    ("numeric(8,3)", &["1.1", "99999.999"]),
    (
        "real",
        &[
            "0.1",
            "1e-10",
            "3.4e38",
            "'NaN'",
            "'Infinity'",
            "'-Infinity'",
            "-0.0",
        ],
    ),
    (
        "double precision",
        &[
            "0.1",
            "1e308",
            "2.2250738585072014e-308",
            "'NaN'",
            "'Infinity'",
            "'-Infinity'",
        ],
    ),
    ("money", &["'12.34'", "'-1234567.89'"]),
    (
        "text",
        &[
            "''",
            "'plain'",
            "'quo\"te'",
            "E'back\\\\slash'",
            "E'new\\nline\\ttab\\r\\b\\f'",
            "E'\\x01\\x1f\\x7f'",
            "'grüße 日本 🙂'",
            "'</script>'",
            "E'\\u2028'",
        ],
    ),
    ("varchar(10)", &["'abc'"]),
    ("char(5)", &["'ab'"]),
    ("\"char\"", &["'x'"]),
    ("name", &["'a_name'"]),
    ("citext_like", &["'Text'"]),
    ("bytea", &[r"'\x'", r"'\x00ff10'"]),
    (
        "json",
        &[
            "'{\"a\" : [1.50, null,  true], \"b\":\"x\\\"y\"}'",
            "'\"text\"'",
            "'1.10'",
            "'null'",
            "'{\"a\":1,\"a\":2}'",
        ],
    ),
    (
        "jsonb",
        &[
            "'{\"b\": 1.10, \"a\": {\"deep\": [[]]}}'",
            "'null'",
            "'\"é\\n\"'",
        ],
    ),
    ("uuid", &["'00000000-0000-4000-8000-00000000000a'"]),
    (
        "date",
        &[
            "'2024-02-29'",
            "'infinity'",
            "'-infinity'",
            "'0044-03-15 BC'",
            "'5874897-12-31'",
        ],
    ),
    ("time", &["'00:00'", "'24:00:00'", "'12:34:56.789012'"]),
    ("timetz", &["'12:34:56.7+05:30'", "'12:34:56-08'"]),
    (
        "timestamp",
        &[
            "'2024-02-29 12:34:56.789'",
            "'infinity'",
            "'-infinity'",
            "'0044-03-15 10:00 BC'",
            "'99999-01-01 00:00:00.000001'",
        ],
    ),
    (
        "timestamptz",
        &[
            "'2024-02-29 12:34:56+02'",
            "'infinity'",
            "'-infinity'",
            "'0044-03-15 10:00+00 BC'",
            "'2024-01-01 00:00:00.1-11:30'",
        ],
    ),
    (
        "interval",
        &[
            "'1 year 2 mons 3 days 04:05:06.789'",
            "'-1 day'",
            "'0'",
            "'178000000 years'",
        ],
    ),
    ("int4range", &["'[1,10)'", "'empty'", "'(,5)'"]),
    ("numrange", &["'[1.10,2.20]'"]),
    ("tstzrange", &["'[2024-01-01 00:00+00,infinity)'"]),
    ("int4multirange", &["'{[1,3),[5,7)}'"]),
    ("inet", &["'10.0.0.1'", "'10.0.0.0/8'", "'::1'"]),
    ("cidr", &["'10.0.0.0/8'"]),
    ("macaddr", &["'08:00:2b:01:02:03'"]),
    ("bit(3)", &["B'101'"]),
    ("varbit", &["B'10101'"]),
    ("point", &["'(1.5,2)'"]),
    ("box", &["'((1,1),(0,0))'"]),
    ("polygon", &["'((0,0),(1,1),(1,0))'"]),
    ("tsvector", &["'a:1 b:2'::tsvector"]),
    ("xml", &["'<a>1</a>'"]),
    ("pg_lsn", &["'16/B374D848'"]),
    ("t_mood", &["'sad'", "'very \"happy\"'"]),
    (
        "t_pair",
        &[
            "ROW(1, 'x\"y')",
            "ROW(NULL, NULL)",
            "ROW(2, '')",
            "ROW(3, 'a,b(c)')",
        ],
    ),
    (
        "t_nested",
        &[
            "ROW(ROW(1, E'back\\\\slash'), ARRAY['sad', 'ok']::t_mood[], '2024-01-01', true)",
            "NULL",
        ],
    ),
    ("t_positive", &["5"]),
    ("t_tags", &["ARRAY['a', NULL]"]),
    ("t_email", &["'a@b.c'"]),
    ("boolean[]", &["'{t,f,NULL}'"]),
    (
        "integer[]",
        &[
            "'{}'",
            "'{1,NULL,3}'",
            "'{{1,2},{3,4}}'",
            "'{{{1},{2}},{{3},{4}}}'",
            "'[2:3]={7,8}'",
        ],
    ),
    ("numeric[]", &["'{1.10,NaN,-5}'"]),
    ("double precision[]", &["'{1.5,NaN,Infinity}'"]),
    (
        "text[]",
        &["ARRAY['', 'NULL', NULL, 'a,b', '{x}', 'q\"q', E'b\\\\b', ' sp ']"],
    ),
    (
        "timestamptz[]",
        &["ARRAY['2024-01-01 00:00+00', 'infinity']::timestamptz[]"],
    ),
    (
        "jsonb[]",
        &["ARRAY['{\"a\": [1, 2]}', NULL, '\"x\"']::jsonb[]"],
    ),
    ("bytea[]", &[r"ARRAY['\x00ff'::bytea]"]),
    ("t_mood[]", &["ARRAY['sad', 'very \"happy\"']::t_mood[]"]),
    (
        "t_pair[]",
        &["ARRAY[ROW(1, 'x\"y'), NULL, ROW(NULL, 'a\\\\b')]::t_pair[]"],
    ),
    ("box[]", &["'{(1,1),(0,0);(2,2),(1,1)}'"]),
    ("t_positive[]", &["'{1,2}'"]),
    ("int4range[]", &["ARRAY['[1,5)', 'empty']::int4range[]"]),
];

const TYPES: &str = "
    CREATE TYPE t_mood AS ENUM ('sad', 'ok', 'very \"happy\"');
    CREATE TYPE t_pair AS (a int, b text);
    CREATE TYPE t_nested AS (pair t_pair, moods t_mood[], day date, yes boolean);
    CREATE DOMAIN t_positive AS int CHECK (value > 0);
    CREATE DOMAIN t_tags AS text[];
    CREATE DOMAIN t_email AS varchar(100);
    CREATE DOMAIN citext_like AS text;
    SELECT rowcast.track('fences');";

/// A table for each type family, one row a value; what the socket says is compared with `row_to_json`,
/// digits included.
#[tokio::test]
async fn every_type_family_equals_to_json() {
    let mut prepare = TYPES.to_owned();
    for (i, (kind, _)) in FAMILIES.iter().enumerate() {
        prepare += &format!(
            "CREATE TABLE f{i} (id int PRIMARY KEY, organization_id text DEFAULT 'org_1', v {kind});
             SELECT rowcast.track('f{i}', storage => '{}');",
            ["table", "log"][i % 2]
        );
    }
    let world = World::prepared(&prepare, &[]).await;
    let mut client = world.member("u1", "org_1").await;
    // A writer with settings of its own must make no difference.
    let writer = world.database.connect().await;
    writer
        .exec("SET timezone = 'Asia/Kolkata'; SET datestyle = 'SQL, DMY'; SET intervalstyle = 'iso_8601'; SET extra_float_digits = 0; SET bytea_output = 'escape'")
        .await;
    for (i, (kind, values)) in FAMILIES.iter().enumerate() {
        for (n, value) in values.iter().enumerate() {
            writer
                .exec(&format!(
                    "INSERT INTO f{i} (id, v) VALUES ({n}, CAST({value} AS {kind}))"
                ))
                .await;
        }
    }
    let events = world.events_so_far(&mut client, "org_1").await;
    let mut wrong = Vec::new();
    for (i, (kind, values)) in FAMILIES.iter().enumerate() {
        let table = format!("f{i}");
        let sql = format!("SELECT row_to_json(t)::text FROM {table} t ORDER BY id");
        let expected: Vec<_> = world
            .sql
            .query(&sql, &[])
            .await
            .unwrap()
            .iter()
            .map(|found| row(found.get(0)))
            .collect();
        let got: Vec<_> = events
            .iter()
            .filter(|event| event.table() == table)
            .map(|event| event.new_row().unwrap_or_default())
            .collect();
        assert_eq!(expected.len(), values.len());
        for (n, value) in values.iter().enumerate() {
            if got.get(n) != Some(&expected[n]) {
                wrong.push(format!(
                    "{kind} {value}: Postgres {:?}, got {:?}",
                    expected[n].get("v"),
                    got.get(n).and_then(|row| row.get("v"))
                ));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "{} values differ:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

/// Keys of odd types have the record id that Postgres's text form says, in both storages alike.
#[tokio::test]
async fn record_ids_of_odd_keys() {
    let keys: &[(&str, &str)] = &[
        ("uuid", "'00000000-0000-4000-8000-00000000000a'"),
        ("boolean", "true"),
        ("numeric", "1.10"),
        ("timestamptz", "'2024-02-29 12:34:56.5+02'"),
        ("date", "'2024-02-29'"),
        ("bytea", r"'\x00ff'"),
        ("inet", "'10.0.0.1'"),
        ("char(5)", "'ab'"),
        ("double precision", "0.1"),
        ("interval", "'1 day 2 hours'"),
        ("t_mood", "'very \"happy\"'"),
        ("t_positive", "7"),
        ("text", "E'a \"b\" \\\\ \\n é'"),
    ];
    for storage in ["table", "log"] {
        let mut prepare = TYPES.to_owned();
        for (i, (kind, _)) in keys.iter().enumerate() {
            for (name, key) in [("one", "k"), ("two", "k, organization_id")] {
                prepare += &format!(
                    "CREATE TABLE {name}{i} (k {kind}, organization_id text DEFAULT 'org_1', v int, PRIMARY KEY ({key}));
                     SELECT rowcast.track('{name}{i}', storage => '{storage}');"
                );
            }
        }
        let world = World::prepared(&prepare, &[]).await;
        let mut client = world.member("u1", "org_1").await;
        client
            .ask(crate::harness::world::subscribe(
                "org:org_1",
                serde_json::json!({ "events": ["changes", "invalidations"] }),
            ))
            .await;
        let writer = world.database.connect().await;
        writer.exec("SET timezone = 'Asia/Kolkata'; SET datestyle = 'SQL, DMY'; SET bytea_output = 'escape'").await;
        for (i, (kind, value)) in keys.iter().enumerate() {
            for name in ["one", "two"] {
                writer
                    .exec(&format!(
                        "INSERT INTO {name}{i} VALUES (CAST({value} AS {kind})); UPDATE {name}{i} SET v = 1; DELETE FROM {name}{i}"
                    ))
                    .await;
            }
        }
        let events = world.events_so_far(&mut client, "org_1").await;
        // INSERT, UPDATE, DELETE, each as a row and as an invalidation: paired, so none is missing.
        assert_eq!(events.len(), keys.len() * 2 * 6, "{storage}");
        for (i, (kind, value)) in keys.iter().enumerate() {
            let text = world
                .sql
                .text(&format!(
                    "SET datestyle = 'ISO'; SELECT concat(CAST({value} AS {kind}))"
                ))
                .await;
            let composite = format!("[{},\"org_1\"]", serde_json::Value::from(text.clone()));
            for (name, expected) in [("one", &text), ("two", &composite)] {
                let table = format!("{name}{i}");
                let ids: Vec<&str> = events
                    .iter()
                    .filter(|event| event.table() == table && event.is("invalidate"))
                    .map(|event| event.text_of("recordId"))
                    .collect();
                assert_eq!(ids, [expected; 3], "{storage} {kind}");
            }
        }
    }
}
