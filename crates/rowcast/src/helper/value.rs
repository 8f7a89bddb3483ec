//! Types of Postgres as types of TypeScript: what a driver may hand over for a column, and how it is written down so that
//! it looks as the log tells it (`docs/protocol.md`, Values).

use std::collections::HashMap;

use super::names;

/// More labels of an enum than these are any text.
const MAX_LABELS: usize = 100;
/// Deepest nesting of types that is followed.
const MAX_DEPTH: usize = 16;

/// A row of `pg_type`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PgType {
    /// `typtype`: `b`, `c`, `d`, `e`, …
    pub class: char,
    /// `typcategory`: `A` for arrays.
    pub category: char,
    /// `typelem`, or 0.
    pub element: u32,
    /// `typbasetype`, or 0.
    pub base: u32,
    /// Labels of an enum, in order.
    pub labels: Vec<String>,
}

/// What the values of a column are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Numbers that JavaScript holds.
    Number,
    /// Numbers that may have more digits.
    Wide,
    /// True or false.
    Bool,
    /// Anything that JSON can say.
    Json,
    /// A moment with its zone.
    Moment,
    /// One of some texts.
    Labels(Vec<String>),
    /// An object of attributes.
    Composite,
    /// A text.
    Text,
    /// Several.
    Array(Box<Value>),
}

/// What the values of a type are.
pub fn value_of(oid: u32, types: &HashMap<u32, PgType>) -> Value {
    at(oid, types, 0)
}

fn at(oid: u32, types: &HashMap<u32, PgType>, depth: usize) -> Value {
    match oid {
        16 => return Value::Bool,
        21 | 23 | 700 | 701 => return Value::Number,
        20 | 1700 => return Value::Wide,
        114 | 3802 => return Value::Json,
        1184 => return Value::Moment,
        _ if depth > MAX_DEPTH => return Value::Text,
        _ => {}
    }
    match types.get(&oid) {
        Some(row) if row.class == 'd' => at(row.base, types, depth + 1),
        Some(row) if row.class == 'c' => Value::Composite,
        Some(row) if row.class == 'e' && (1..=MAX_LABELS).contains(&row.labels.len()) => {
            Value::Labels(row.labels.clone())
        }
        Some(row) if row.category == 'A' && row.element != 0 => {
            Value::Array(Box::new(at(row.element, types, depth + 1)))
        }
        _ => Value::Text,
    }
}

impl Value {
    /// The type in TypeScript.
    pub(super) fn typescript(&self) -> String {
        match self {
            Value::Number => "number".to_owned(),
            Value::Wide => "number | bigint | string".to_owned(),
            Value::Bool => "boolean".to_owned(),
            Value::Json => "unknown".to_owned(),
            Value::Moment => "string | Date".to_owned(),
            Value::Labels(labels) => names::union(labels),
            Value::Composite => "object".to_owned(),
            Value::Text => "string".to_owned(),
            Value::Array(of) => format!("Many<{}>", of.typescript()),
        }
    }

    /// Which function of the module writes it down.
    pub(super) fn encoder(&self) -> &'static str {
        match self {
            Value::Number | Value::Wide => "to.number",
            Value::Moment => "to.moment",
            Value::Array(of) => of.encoder(),
            _ => "to.plain",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(class: char, category: char, element: u32, base: u32) -> PgType {
        PgType {
            class,
            category,
            element,
            base,
            labels: vec!["a\"b".into(), "c".into()],
        }
    }

    #[test]
    fn types_are_followed_to_what_they_are_made_of() {
        let types = HashMap::from([
            (1, row('d', 'N', 0, 20)),
            (2, row('b', 'A', 1, 0)),
            (3, row('e', 'E', 0, 0)),
            (4, row('b', 'A', 3, 0)),
            (5, row('c', 'C', 0, 0)),
            // A fixed-length type with parts is no array.
            (600, row('b', 'G', 701, 0)),
            // It cannot be, and does no harm.
            (7, row('d', 'N', 0, 7)),
        ]);
        let said = |oid: u32| {
            let value = value_of(oid, &types);
            (value.typescript(), value.encoder())
        };
        let expect = |oid: u32, text: &str, encoder: &'static str| {
            assert_eq!(said(oid), (text.to_owned(), encoder), "{oid}");
        };
        expect(23, "number", "to.number");
        expect(1, "number | bigint | string", "to.number");
        expect(2, "Many<number | bigint | string>", "to.number");
        expect(3, r#""a\"b" | "c""#, "to.plain");
        expect(4, r#"Many<"a\"b" | "c">"#, "to.plain");
        expect(5, "object", "to.plain");
        expect(1184, "string | Date", "to.moment");
        expect(1114, "string", "to.plain");
        expect(3802, "unknown", "to.plain");
        for text in [25, 600, 7, 99] {
            expect(text, "string", "to.plain");
        }
    }
}
