//! Column values against literals. Owns which pairs can be compared at all, and how.

use std::{borrow::Cow, cmp::Ordering};

use rowcast_model::Kind;

use super::{Literal, decimal::Number, time};

/// A column's JSON value as something that compares.
#[derive(Debug)]
pub(super) enum Scalar<'a> {
    Null,
    Bool(bool),
    Number(Number<'a>),
    Text(Cow<'a, str>),
    /// As Postgres writes it, with a `T`.
    Timestamp(Cow<'a, str>),
    /// Arrays, composites, json: nothing that this language compares.
    Other,
}

impl<'a> Scalar<'a> {
    pub(super) fn read(kind: &Kind, json: &'a [u8]) -> Scalar<'a> {
        if json == b"null" {
            return Scalar::Null;
        }
        match kind {
            Kind::Number => {
                let digits = match json {
                    [b'"', inner @ .., b'"'] => inner,
                    plain => plain,
                };
                Number::parse(digits).map_or(Scalar::Other, Scalar::Number)
            }
            Kind::Bool => match json {
                b"true" => Scalar::Bool(true),
                b"false" => Scalar::Bool(false),
                _ => Scalar::Other,
            },
            Kind::Text => text(json).map_or(Scalar::Other, Scalar::Text),
            Kind::Timestamp => text(json).map_or(Scalar::Other, Scalar::Timestamp),
            Kind::Json | Kind::Array(..) | Kind::Composite(_) => Scalar::Other,
        }
    }

    /// `None` when the two are not of one kind, or one is null.
    pub(super) fn compare(&self, literal: &Literal) -> Option<Ordering> {
        match (self, literal) {
            (Scalar::Bool(a), Literal::Bool(b)) => Some(a.cmp(b)),
            // Programs that cannot hold a bigint send it as text.
            (Scalar::Number(a), Literal::Number(b) | Literal::Text(b)) => {
                Some(a.compare(&Number::parse(b.as_bytes())?))
            }
            (Scalar::Text(a), Literal::Text(b) | Literal::Untyped(b))
            | (Scalar::Timestamp(a), Literal::Text(b)) => Some(a.as_bytes().cmp(b.as_bytes())),
            (Scalar::Timestamp(a), Literal::Untyped(b)) => time::compare(a, b),
            (Scalar::Bool(a), Literal::Untyped(b)) => Some(a.cmp(&boolean(b)?)),
            (Scalar::Number(a), Literal::Untyped(b)) => {
                Some(a.compare(&Number::parse(b.trim_ascii().as_bytes())?))
            }
            _ => None,
        }
    }

    /// What patterns are looked for in.
    pub(super) fn text(&self) -> Option<&str> {
        match self {
            Scalar::Text(text) | Scalar::Timestamp(text) => Some(text),
            _ => None,
        }
    }
}

/// A boolean in one of the texts that Postgres takes for one.
fn boolean(text: &str) -> Option<bool> {
    let word = text.trim_ascii().to_ascii_lowercase();
    let begins = |whole: &str| !word.is_empty() && whole.starts_with(&word);
    match word.as_str() {
        "1" | "on" => Some(true),
        "0" | "of" | "off" => Some(false),
        _ if begins("true") || begins("yes") => Some(true),
        _ if begins("false") || begins("no") => Some(false),
        _ => None,
    }
}

/// The text of a JSON string; borrowed when nothing in it is escaped.
fn text(json: &[u8]) -> Option<Cow<'_, str>> {
    let [b'"', inner @ .., b'"'] = json else {
        return None;
    };
    if inner.contains(&b'\\') {
        return serde_json::from_slice::<String>(json).ok().map(Cow::Owned);
    }
    std::str::from_utf8(inner).ok().map(Cow::Borrowed)
}

/// Appends to `out` what a value of this column is looked up by: equal bytes exactly when `eq` holds
/// between them. False, and nothing appended, for null and for what cannot be compared.
pub fn eq_key_of_value(kind: &Kind, json: &[u8], out: &mut Vec<u8>) -> bool {
    match Scalar::read(kind, json) {
        Scalar::Null | Scalar::Other => return false,
        Scalar::Bool(value) => out.extend_from_slice(&[b'b', u8::from(value)]),
        Scalar::Number(number) => {
            out.push(b'n');
            number.write_key(out);
        }
        Scalar::Text(text) | Scalar::Timestamp(text) => {
            out.push(b't');
            out.extend_from_slice(text.as_bytes());
        }
    }
    true
}

/// All keys under which values equal to this literal can be found: text that reads as a number equals
/// a number column too. (Of a time without a type there is none: it is never looked up.)
pub fn eq_key_of_literal(literal: &Literal) -> Vec<Vec<u8>> {
    let number = |digits: &str| {
        let mut key = vec![b'n'];
        Number::parse(digits.as_bytes())?.write_key(&mut key);
        Some(key)
    };
    match literal {
        Literal::Bool(value) => vec![vec![b'b', u8::from(*value)]],
        Literal::Number(digits) => number(digits).into_iter().collect(),
        Literal::Text(text) => {
            let mut key = vec![b't'];
            key.extend_from_slice(text.as_bytes());
            std::iter::once(key).chain(number(text)).collect()
        }
        Literal::Untyped(text) => {
            let mut key = vec![b't'];
            key.extend_from_slice(text.as_bytes());
            let boolean = boolean(text).map(|value| vec![b'b', u8::from(value)]);
            let number = number(text.trim_ascii());
            std::iter::once(key).chain(number).chain(boolean).collect()
        }
        Literal::Null => Vec::new(),
    }
}
