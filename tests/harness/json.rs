//! JSON compared without losing digits: `1.10` and `1.1` differ, white space does not.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

/// A row: column name to canonical JSON text.
pub type Row = BTreeMap<String, String>;

/// The same JSON text without white space outside strings and with strings escaped in one way;
/// digits of numbers are kept as they are.
pub fn canonical(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        match c {
            '"' => {
                let end = string_end(rest);
                let value: String = serde_json::from_str(&rest[..end]).unwrap();
                out.push_str(&serde_json::Value::from(value).to_string());
                rest = &rest[end..];
            }
            c => {
                if !c.is_ascii_whitespace() {
                    out.push(c);
                }
                rest = &rest[c.len_utf8()..];
            }
        }
    }
    out
}

/// Length of the JSON string that `text` begins with, quotes included.
fn string_end(text: &str) -> usize {
    let bytes = text.as_bytes();
    let mut i = 1;
    while bytes[i] != b'"' {
        i += if bytes[i] == b'\\' { 2 } else { 1 };
    }
    i + 1
}

/// The members of a JSON object, each as canonical text.
pub fn row(text: &str) -> Row {
    let members: BTreeMap<String, Box<RawValue>> = serde_json::from_str(text).unwrap();
    members
        .into_iter()
        .map(|(name, value)| (name, canonical(value.get())))
        .collect()
}

/// The member `name` of a JSON object as a row; `None` when it is null or not there.
pub fn member_row(text: &str, name: &str) -> Option<Row> {
    let members: BTreeMap<String, Box<RawValue>> = serde_json::from_str(text).unwrap();
    members
        .get(name)
        .filter(|value| value.get() != "null")
        .map(|value| row(value.get()))
}

#[test]
fn canonical_keeps_digits_and_drops_spaces() {
    assert_eq!(
        canonical("{ \"a\\u0041\" : [1.10, \"x \\\" y\"] }"),
        r#"{"aA":[1.10,"x \" y"]}"#
    );
}
