//! Column types and random values of them, as SQL.

use crate::harness::rng::Rng;

/// The types that the random schemas use besides the plain ones.
pub const TYPES_DDL: &str = "
CREATE TYPE mood AS ENUM ('sad', 'ok', 'very \"happy\"');
CREATE TYPE pair AS (a int, b text);
CREATE DOMAIN positive AS int CHECK (value > 0);
CREATE DOMAIN tags AS text[];
";

/// A type by its SQL name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Type(pub &'static str);

/// Every type a column may have.
pub const TYPES: &[Type] = &[
    Type("text"),
    Type("varchar(40)"),
    Type("boolean"),
    Type("smallint"),
    Type("bigint"),
    Type("numeric"),
    Type("numeric(12,4)"),
    Type("real"),
    Type("double precision"),
    Type("jsonb"),
    Type("json"),
    Type("text[]"),
    Type("int[]"),
    Type("numeric[]"),
    Type("jsonb[]"),
    Type("mood"),
    Type("mood[]"),
    Type("pair"),
    Type("pair[]"),
    Type("positive"),
    Type("tags"),
    Type("bytea"),
    Type("timestamptz"),
    Type("timestamp"),
    Type("date"),
    Type("time"),
    Type("interval"),
    Type("uuid"),
    Type("int4range"),
    Type("inet"),
    Type("bit(5)"),
    Type("point"),
];

const WORDS: &[&str] = &[
    "plain",
    "two words",
    "quo\"te",
    "back\\slash",
    "new\nline",
    "tab\there",
    "it''s",
    "grüße",
    "日本",
    "🙂",
    "{a,b}",
    "(1,2)",
    "NULL",
    "",
    "comma, and [brackets]",
];

/// A literal of the type, null in some cases.
pub fn literal(rng: &mut Rng, kind: Type) -> String {
    if rng.chance(10) {
        return "NULL".into();
    }
    let word = *rng.pick(WORDS);
    let int = rng.below(2000) as i64 - 1000;
    let n = rng.below(1_000_000);
    match kind.0 {
        "text" | "varchar(40)" => format!("'{word}'"),
        "boolean" => ["true", "false"][n % 2].into(),
        "smallint" | "bigint" => int.to_string(),
        "numeric" => [
            "1.10",
            "'NaN'",
            "-0.000",
            "123456789012345678901234567890.1",
            "1e20",
        ][n % 5]
            .into(),
        "numeric(12,4)" => format!("{int}.{n}"),
        "real" => ["0.1", "1e10", "'Infinity'", "-3.25"][n % 4].into(),
        "double precision" => {
            ["0.1", "1e300", "'-Infinity'", "'NaN'", "1.0000000000000002"][n % 5].into()
        }
        "jsonb" | "json" => format!("'{{\"n\": [1.50, null, {int}], \"s\" : \"x\\\"y\"}}'"),
        "text[]" | "tags" => format!("ARRAY['{word}', NULL, 'NULL', '{int}']"),
        "int[]" => ["'{}'", "'{{1,2},{3,4}}'", "'[2:3]={7,8}'", "'{1,NULL}'"][n % 4].into(),
        "numeric[]" => "'{1.10,NaN,-5}'".into(),
        "jsonb[]" => "ARRAY['{\"a\": 1.0}'::jsonb, NULL, '\"text\"']".into(),
        "mood" => ["'sad'", "'ok'", "'very \"happy\"'"][n % 3].into(),
        "mood[]" => "ARRAY['sad', 'very \"happy\"']::mood[]".into(),
        "pair" => format!("ROW({int}, '{word}')::pair"),
        "pair[]" => format!("ARRAY[ROW({int}, '{word}'), ROW(NULL, NULL), NULL]::pair[]"),
        "positive" => (n + 1).to_string(),
        "bytea" => format!("'\\x{n:08x}00ff'"),
        "timestamptz" => [
            "'2024-02-29 12:34:56.789+02'",
            "'infinity'",
            "'0044-03-15 10:00:00+00 BC'",
            "'2024-01-01 00:00:00.000001+00'",
        ][n % 4]
            .into(),
        "timestamp" => [
            "'2024-02-29 12:34:56.789'",
            "'-infinity'",
            "'1999-12-31 23:59:59'",
        ][n % 3]
            .into(),
        "date" => ["'2024-02-29'", "'infinity'", "'0044-03-15 BC'"][n % 3].into(),
        "time" => "'12:34:56.7'".into(),
        "interval" => format!("'{} months {int} hours 0.5 seconds'", n % 30),
        "uuid" => format!("'00000000-0000-4000-8000-{n:012}'"),
        "int4range" => format!("'[{},{})'", n % 10, n % 10 + 5),
        "inet" => format!("'10.0.{}.1/24'", n % 256),
        "bit(5)" => format!("B'{:05b}'", n % 32),
        "point" => format!("'({int},1.5)'"),
        other => panic!("no values for {other}"),
    }
}
