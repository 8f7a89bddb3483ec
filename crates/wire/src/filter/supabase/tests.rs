use super::*;
use crate::{Operand, Truth};
use proptest::prelude::*;
use rowcast_model::Kind;

fn read(text: &str) -> Result<Filter, FilterError> {
    parse(text, &FilterLimits::default())
}

/// What a filter says of one row.
fn says(text: &str, row: &[(&str, Kind, &str)]) -> Truth {
    let filter = read(text).unwrap_or_else(|error| panic!("{text}: {error}"));
    filter.evaluate(&|name: &str| {
        let known = row.iter().find(|(column, ..)| *column == name);
        known.map_or(Operand::Hidden, |(_, kind, json)| {
            Operand::Value(kind, json.as_bytes())
        })
    })
}

fn untyped(column: &str, op: CompareOp, value: &str) -> Filter {
    Filter::Column {
        column: column.into(),
        test: Test::Compare(op, Literal::Untyped(value.into())),
    }
}

#[test]
fn conditions_are_parted_and_unquoted() {
    use CompareOp::{Eq, Gt};
    assert_eq!(read("a=eq.1"), Ok(untyped("a", Eq, "1")));
    assert_eq!(read("  "), Ok(Filter::And(vec![])));
    // What follows the first dot is the value, dots, signs of equality and all.
    assert_eq!(read("a=eq.x=1.5"), Ok(untyped("a", Eq, "x=1.5")));
    assert_eq!(read("a=eq."), Ok(untyped("a", Eq, "")));
    assert_eq!(
        read("a=eq.x,b=not.gt.2"),
        Ok(Filter::And(vec![
            untyped("a", Eq, "x"),
            Filter::Not(Box::new(untyped("b", Gt, "2"))),
        ]))
    );
    for (text, value) in [
        (r#"a=eq."x,y""#, "x,y"),
        (r#"a=eq."say \"hi\", \\ you""#, r#"say "hi", \ you"#),
        (r#"a=eq.5" or 6""#, r#"5" or 6""#),
        (r#"a=eq."x"y"#, r#""x"y"#),
        (r#"a=eq."x" or "y""#, r#""x" or "y""#),
        (r#"a=eq.(x,y)"#, "(x,y)"),
        (r#"a=eq. x "#, " x "),
        (r#"a=eq.x)"#, "x)"),
        (r#"a=eq.""#, "\""),
    ] {
        assert_eq!(read(text), Ok(untyped("a", Eq, value)), "{text}");
    }
}

#[test]
fn lists_are_those_of_arrays() {
    let list = |text: &str| match read(text) {
        Ok(Filter::Column {
            test: Test::In(values),
            ..
        }) => values
            .into_iter()
            .map(|value| match value {
                Literal::Untyped(text) => Some(text.into_string()),
                _ => None,
            })
            .collect::<Vec<_>>(),
        other => panic!("{text}: {other:?}"),
    };
    let some = |texts: &[&str]| {
        texts
            .iter()
            .map(|t| Some((*t).to_owned()))
            .collect::<Vec<_>>()
    };
    assert_eq!(list("a=in.(1,2)"), some(&["1", "2"]));
    assert_eq!(list("a=in.()"), some(&[]));
    assert_eq!(list("a=in.( x y , z )"), some(&["x y", "z"]));
    assert_eq!(list(r#"a=in.("x,y"," z ","")"#), some(&["x,y", " z ", ""]));
    assert_eq!(
        list(r#"a=in.("a\"b",c\,d,"(")"#),
        some(&["a\"b", "c,d", "("])
    );
    assert_eq!(
        list(r#"a=in.(x,NULL,"null")"#),
        [Some("x".into()), None, Some("null".into())]
    );
    let hundred = |n| format!("a=in.({})", vec!["1"; n].join(","));
    assert_eq!(list(&hundred(100)).len(), 100);
    assert!(read(&hundred(101)).is_err());
}

#[test]
fn what_is_not_understood_is_said() {
    for (bad, part) in [
        ("a", "`a` is not a condition"),
        (",a=eq.1", "is not a condition"),
        ("a=eq.1,", "is not a condition"),
        ("a=eq.1,,b=eq.1", "is not a condition"),
        ("=eq.1", "is not a condition"),
        ("a=eq", "`a=eq` is not a condition"),
        ("a=equals.1", "`equals` is not an operator"),
        ("a=EQ.1", "`EQ` is not an operator"),
        ("a=not.not.eq.1", "`not` is not an operator"),
        ("a=is.maybe", "the value for `a` must be null"),
        ("a=in.1,2", "the value for `a` must be in parentheses"),
        ("a=in.(1,2", "must be in parentheses"),
        ("a=in.(1,,2)", "has an empty entry"),
        (r#"a=in.("1)"#, "has a quote that is not closed"),
        (r#"a=in.("1"2)"#, "has something behind"),
        (r#"a=in.(1"2)"#, "has a quote within"),
        ("a=match.(", "is no regular expression"),
    ] {
        let error = read(bad).expect_err(bad);
        assert!(error.to_string().contains(part), "{bad}: {error}");
        assert_eq!(error.code(), "invalid_filter");
    }
    let long = "x".repeat(1025);
    assert!(read(&format!("a=eq.{long}")).is_err());
    assert!(read(&format!("a=in.({long})")).is_err());
    assert!(read(&vec!["a=eq.1"; 257].join(",")).is_err());
    assert!(read(&vec!["a=eq.1"; 256].join(",")).is_ok());
    assert!(read(&["a=match.b"; 8].join(",")).is_ok());
    assert!(read(&["a=match.b"; 9].join(",")).is_err());
    let error = read(&long).unwrap_err().to_string();
    assert!(error.len() < 300, "{error}");
}

#[test]
fn operators_do_what_those_of_postgres_do() {
    let row = [
        ("id", Kind::Number, "7"),
        ("price", Kind::Number, "12.50"),
        ("name", Kind::Text, "\"Paint, the \\\"Door\\\"\""),
        ("done", Kind::Bool, "true"),
        ("at", Kind::Timestamp, "\"2026-11-21T10:34:56.1+00:00\""),
        ("none", Kind::Text, "null"),
        ("tags", Kind::Array(Box::new(Kind::Text), b','), "[\"a\"]"),
    ];
    for (text, answer) in [
        ("id=eq.7", Some(true)),
        ("id=eq.7.0", Some(true)),
        ("id=eq. 7", Some(true)),
        ("id=eq.seven", None),
        ("id=neq.8", Some(true)),
        ("price=gte.12.5,price=lt.13", Some(true)),
        ("price=gt.9", Some(true)),
        ("name=gt.9", Some(true)),
        ("done=eq.true", Some(true)),
        ("done=eq.T", Some(true)),
        ("done=eq.off", Some(false)),
        ("done=eq.maybe", None),
        ("done=is.true", Some(true)),
        ("done=not.is.true", Some(false)),
        ("done=is.unknown", Some(false)),
        ("at=eq.2026-11-21 11:34:56.1+01", Some(true)),
        ("at=gte.2026-11-21", Some(true)),
        ("at=lt.2026-11-21T10:34:57Z", Some(true)),
        ("at=gt.tomorrow", None),
        (r#"name=eq."Paint, the \"Door\"""#, Some(true)),
        ("name=like.Paint%", Some(true)),
        ("name=like.paint%", Some(false)),
        ("name=ilike.paint%DOOR_", Some(true)),
        ("name=not.ilike.paint%", Some(false)),
        ("name=match.^Paint", Some(true)),
        ("name=match.^paint", Some(false)),
        ("name=imatch.^paint", Some(true)),
        ("name=not.match.wall", Some(true)),
        ("id=in.(1,7,9)", Some(true)),
        ("id=in.(1,9)", Some(false)),
        ("id=in.(1,NULL)", None),
        ("id=in.(7,NULL)", Some(true)),
        ("id=not.in.(1,NULL)", None),
        ("id=in.()", Some(false)),
        ("id=isdistinct.7", Some(false)),
        ("id=isdistinct.8", Some(true)),
        // Null: only `is` and `isdistinct` know it, behind `not.` as well.
        ("none=eq.x", None),
        ("none=not.eq.x", None),
        ("none=neq.x", None),
        ("none=not.in.(x)", None),
        ("none=like.%", None),
        ("none=not.ilike.x", None),
        ("none=not.match.x", None),
        ("none=is.null", Some(true)),
        ("none=not.is.null", Some(false)),
        ("name=is.null", Some(false)),
        ("none=isdistinct.x", Some(true)),
        ("none=not.isdistinct.x", Some(false)),
        // What cannot be compared, and what is not there.
        ("tags=eq.a", None),
        ("tags=not.eq.a", None),
        ("hidden=eq.1", None),
        ("hidden=not.eq.1", None),
        ("id=eq.7,done=is.true,none=is.null", Some(true)),
        ("id=eq.7,done=is.false", Some(false)),
    ] {
        let truth = says(text, &row);
        let known = [Some(true), Some(false), None].map(|of| truth.may_be(of));
        assert_eq!(
            known,
            [Some(true), Some(false), None].map(|of| of == answer),
            "{text}"
        );
    }
}

#[test]
fn an_equality_is_looked_up_unless_it_is_of_a_time() {
    let filter = read("status=eq.open,org=eq.acme").unwrap();
    let (column, literal) = filter.needed_equality().unwrap();
    assert_eq!(
        (&**column, literal),
        ("status", &Literal::Untyped("open".into()))
    );
    assert_eq!(read("at=eq.2026-11-21").unwrap().needed_equality(), None);
    assert_eq!(read("a=not.eq.1").unwrap().needed_equality(), None);
}

/// A column's value, as a person thinks of it, and the filter on it.
#[derive(Clone, Debug)]
enum Cell {
    Null,
    Number(i64),
    Text(String),
    Bool(bool),
}

impl Cell {
    fn of(&self) -> (Kind, String) {
        match self {
            Cell::Null => (Kind::Text, "null".into()),
            Cell::Number(n) => (Kind::Number, n.to_string()),
            Cell::Text(text) => (
                Kind::Text,
                serde_json::Value::from(text.as_str()).to_string(),
            ),
            Cell::Bool(b) => (Kind::Bool, b.to_string()),
        }
    }

    /// The answer of SQL to `cell op value`, `None` for null.
    fn answer(&self, op: &str, values: &[String]) -> Option<bool> {
        let first = values.first().map_or("", String::as_str);
        let order = |value: &str| match self {
            Cell::Null => None,
            Cell::Number(n) => Some(n.cmp(&value.parse::<i64>().ok()?)),
            Cell::Text(text) => Some(text.as_str().cmp(value)),
            Cell::Bool(b) => match value {
                "true" | "1" => Some(b.cmp(&true)),
                "false" | "0" => Some(b.cmp(&false)),
                _ => None,
            },
        };
        let text = match self {
            Cell::Text(text) => Some(text.as_str()),
            _ => None,
        };
        match op {
            "eq" => Some(order(first)?.is_eq()),
            "neq" => Some(order(first)?.is_ne()),
            "lt" => Some(order(first)?.is_lt()),
            "lte" => Some(order(first)?.is_le()),
            "gt" => Some(order(first)?.is_gt()),
            "gte" => Some(order(first)?.is_ge()),
            "isdistinct" => match self {
                Cell::Null => Some(true),
                _ => Some(order(first)?.is_ne()),
            },
            "in" => {
                let answers: Vec<_> = values.iter().map(|v| order(v).map(|o| o.is_eq())).collect();
                match answers.contains(&Some(true)) {
                    true => Some(true),
                    false if answers.contains(&None) => None,
                    false => Some(false),
                }
            }
            "ilike" => Some(text?.to_lowercase().contains(&first.to_lowercase())),
            "match" => Some(text?.contains(first)),
            "is" => Some(matches!(self, Cell::Null)),
            other => panic!("{other}"),
        }
    }
}

fn cell() -> impl Strategy<Value = Cell> {
    prop_oneof![
        Just(Cell::Null),
        (-3_i64..4).prop_map(Cell::Number),
        "[aB,\"\\\\() .é]{0,4}".prop_map(Cell::Text),
        any::<bool>().prop_map(Cell::Bool),
    ]
}

/// As clients quote: whatever has a character with a meaning.
fn quoted(value: &str) -> String {
    let plain = value.trim() == value
        && !value.is_empty()
        && !value.contains([',', '(', ')', '"', '\\'])
        && !value.eq_ignore_ascii_case("null");
    match plain {
        true => value.to_owned(),
        false => format!("\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\"")),
    }
}

proptest! {
    #[test]
    fn as_the_naive_one(
        cells in prop::collection::vec(cell(), 3),
        conditions in prop::collection::vec(
            (
                0_usize..3,
                any::<bool>(),
                prop::sample::select(vec![
                    "eq", "neq", "lt", "lte", "gt", "gte", "in", "ilike", "match", "is", "isdistinct",
                ]),
                prop::collection::vec(
                    prop_oneof!["-?[0-3]", "true|false", "[aB,\"\\\\() .é]{0,4}"], 1..4,
                ),
            ),
            0..4,
        ),
    ) {
        let names = ["x", "y", "z"];
        let kept: Vec<_> = cells.iter().map(Cell::of).collect();
        let mut text = Vec::new();
        let mut answer = Some(true);
        for (at, negated, op, values) in &conditions {
            // The model has no patterns: these are letters alone.
            let values: Vec<String> = match *op {
                "ilike" | "match" => values.iter().map(|v| v.replace(|c: char| !c.is_alphabetic(), "")).collect(),
                _ => values.clone(),
            };
            let value = match *op {
                "is" => "null".to_owned(),
                "in" => format!("({})", values.iter().map(|v| quoted(v)).collect::<Vec<_>>().join(",")),
                "ilike" => quoted(&format!("%{}%", values[0])),
                _ => quoted(&values[0]),
            };
            let not = if *negated { "not." } else { "" };
            text.push(format!("{}={not}{op}.{value}", names[*at]));
            let one = cells[*at].answer(op, &values).map(|holds| holds != *negated);
            answer = match (answer, one) {
                (Some(false), _) | (_, Some(false)) => Some(false),
                (None, _) | (_, None) => None,
                _ => Some(true),
            };
        }
        let text = text.join(",");
        let row: Vec<_> = names.iter().zip(&kept).map(|(name, (kind, json))| (*name, kind.clone(), json.as_str())).collect();
        let truth = says(&text, &row);
        for of in [Some(true), Some(false), None] {
            prop_assert_eq!(truth.may_be(of), of == answer, "{} {:?}", text, row);
        }
        // What is looked up is found where it holds.
        let filter = read(&text).unwrap();
        if let (true, Some((column, literal))) = (truth.holds(), filter.needed_equality()) {
            let (_, kind, json) = row.iter().find(|(name, ..)| *name == &**column).unwrap();
            let mut key = Vec::new();
            prop_assert!(crate::eq_key_of_value(kind, json.as_bytes(), &mut key));
            prop_assert!(crate::eq_key_of_literal(literal).contains(&key));
        }
    }

    #[test]
    fn never_panics(text in r#"([a-c=.,()"\\ ]|eq|not\.|in|is|like|null|é){0,30}"#) {
        let _ = read(&text).map(|filter| filter.cost());
    }
}
