use std::sync::Arc;

use proptest::prelude::*;
use rowcast_model::Kind;

use super::*;

fn json(kind: &Kind, text: &str) -> String {
    let mut out = Vec::new();
    write_value(&mut out, kind, text.as_bytes());
    String::from_utf8(out).unwrap()
}

fn array(kind: Kind) -> Kind {
    Kind::Array(Box::new(kind), b',')
}

fn pair(a: Kind, b: Kind) -> Kind {
    Kind::Composite(Arc::new([("a".into(), a), ("b \"".into(), b)]))
}

#[test]
fn scalars() {
    for (kind, text, expected) in [
        (Kind::Number, "-12.3400", "-12.3400"),
        (Kind::Number, "1e+20", "1e+20"),
        (
            Kind::Number,
            "123456789012345678901234567890.1",
            "123456789012345678901234567890.1",
        ),
        (Kind::Number, "NaN", r#""NaN""#),
        (Kind::Number, "-Infinity", r#""-Infinity""#),
        (Kind::Number, "01", r#""01""#),
        (Kind::Bool, "t", "true"),
        (Kind::Bool, "f", "false"),
        (Kind::Bool, "x", r#""x""#),
        (
            Kind::Json,
            r#"{"a": [1, {"b":null}], "c":"\ud800"}"#,
            r#"{"a": [1, {"b":null}], "c":"\ud800"}"#,
        ),
        (Kind::Json, "{", r#""{""#),
        (Kind::Text, "\\x6869", r#""\\x6869""#),
        (
            Kind::Text,
            "a\"\u{1}\n\u{7f}é",
            "\"a\\\"\\u0001\\n\u{7f}é\"",
        ),
    ] {
        assert_eq!(json(&kind, text), expected, "{text}");
    }
}

#[test]
fn timestamps_as_to_json_prints_them() {
    for (text, expected) in [
        ("2024-01-02 03:04:05", "2024-01-02T03:04:05"),
        (
            "2024-01-02 03:04:05.123+00",
            "2024-01-02T03:04:05.123+00:00",
        ),
        ("2024-01-02 03:04:05-03:30", "2024-01-02T03:04:05-03:30"),
        ("0044-03-15 00:00:00+00 BC", "0044-03-15T00:00:00+00:00 BC"),
        ("0044-03-15 00:00:00 BC", "0044-03-15T00:00:00 BC"),
        ("12024-01-02 03:04:05+00", "12024-01-02T03:04:05+00:00"),
        ("infinity", "infinity"),
        ("-infinity", "-infinity"),
        ("odd text", "odd text"),
    ] {
        assert_eq!(
            json(&Kind::Timestamp, text),
            format!("\"{expected}\""),
            "{text}"
        );
    }
}

#[test]
fn arrays() {
    let numbers = array(Kind::Number);
    assert_eq!(json(&numbers, "{}"), "[]");
    assert_eq!(json(&numbers, "{1,NULL,NaN}"), r#"[1,null,"NaN"]"#);
    assert_eq!(json(&numbers, "[0:1][2:3]={{1,2},{3,4}}"), "[[1,2],[3,4]]");
    assert_eq!(
        json(&array(Kind::Text), r#"{a,"b,\"c\\",""}"#),
        r#"["a","b,\"c\\",""]"#
    );
    assert_eq!(
        json(&array(Kind::Json), r#"{"{\"a\": 1}"}"#),
        r#"[{"a": 1}]"#
    );
    assert_eq!(json(&array(Kind::Bool), "{t,f}"), "[true,false]");
    assert_eq!(
        json(&array(Kind::Timestamp), r#"{"2024-01-02 03:04:05+00"}"#),
        r#"["2024-01-02T03:04:05+00:00"]"#
    );
    let boxes = Kind::Array(Box::new(Kind::Text), b';');
    assert_eq!(
        json(&boxes, "{(1,1),(0,0);(2,2),(1,1)}"),
        r#"["(1,1),(0,0)","(2,2),(1,1)"]"#
    );
    assert_eq!(json(&numbers, "{1,2"), r#""{1,2""#);
}

#[test]
fn composites() {
    let kind = pair(Kind::Number, Kind::Text);
    assert_eq!(json(&kind, r#"(1,"b c")"#), r#"{"a":1,"b \"":"b c"}"#);
    assert_eq!(json(&kind, "(,)"), r#"{"a":null,"b \"":null}"#);
    assert_eq!(
        json(&kind, r#"(2,"x ""y"" \\")"#),
        r#"{"a":2,"b \"":"x \"y\" \\"}"#
    );
    assert_eq!(json(&kind, "(1,2,3)"), r#""(1,2,3)""#);
    let deep = array(pair(array(Kind::Number), kind));
    assert_eq!(
        json(&deep, r#"{"(\"{1,2}\",\"(3,\"\"q r\"\")\")"}"#),
        r#"[{"a":[1,2],"b \"":{"a":3,"b \"":"q r"}}]"#
    );
}

#[test]
fn depth_costs_no_stack() {
    let deep = format!("{}{}", "[".repeat(200_000), "]".repeat(200_000));
    assert_eq!(json(&Kind::Json, &deep), deep);
    assert_eq!(
        json(&array(Kind::Number), &"{".repeat(100_000)).len(),
        100_002
    );
}

fn kinds() -> impl Strategy<Value = Kind> {
    let leaf = prop::sample::select(vec![
        Kind::Number,
        Kind::Bool,
        Kind::Json,
        Kind::Text,
        Kind::Timestamp,
    ]);
    leaf.prop_recursive(3, 8, 2, |inner| {
        prop_oneof![
            (inner.clone(), prop::sample::select(&b",;"[..]))
                .prop_map(|(kind, d)| Kind::Array(Box::new(kind), d)),
            (inner.clone(), inner).prop_map(|(a, b)| pair(a, b)),
        ]
    })
}

fn is_valid(bytes: &[u8]) -> bool {
    serde_json::from_slice::<serde::de::IgnoredAny>(bytes).is_ok()
}

proptest! {
    #[test]
    fn always_valid_json(kind in kinds(), text in prop::collection::vec(any::<u8>(), 0..60)) {
        let mut out = Vec::new();
        write_value(&mut out, &kind, &text);
        prop_assert!(is_valid(&out), "{}", String::from_utf8_lossy(&out));
    }

    #[test]
    fn always_valid_json_from_likely_bytes(
        kind in kinds(),
        text in prop::collection::vec(prop::sample::select(&b"{}()[]\",;:\\ntrue1-0.eE+ NUL"[..]), 0..40),
    ) {
        let mut out = b"before".to_vec();
        write_value(&mut out, &kind, &text);
        prop_assert!(is_valid(&out[6..]), "{}", String::from_utf8_lossy(&out));
    }

    #[test]
    fn our_idea_of_json_is_serde_jsons(text in prop::collection::vec(prop::sample::select(&b"{}[]\",:\\n10.eE+-u4 \n"[..]), 0..20)) {
        prop_assert_eq!(validate::is_json(&text), is_valid(&text), "{}", String::from_utf8_lossy(&text));
    }

    #[test]
    fn plain_is_what_needs_no_escape(
        text in prop::collection::vec(prop_oneof![8 => 0x20..0x7fu8, 1 => any::<u8>()], 0..40),
    ) {
        let plain = text.iter().all(|b| (0x20..0x80).contains(b) && !matches!(b, b'"' | b'\\'));
        prop_assert_eq!(string::is_plain(&text), plain);
    }

    #[test]
    fn strings_come_back(text in ".*") {
        let mut out = Vec::new();
        write_string(&mut out, text.as_bytes());
        prop_assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), text.clone());
        prop_assert_eq!(String::from_utf8(out).unwrap(), serde_json::to_string(&text).unwrap());
    }
}
