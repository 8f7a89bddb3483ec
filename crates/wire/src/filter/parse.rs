//! Filters from JSON text. Numbers keep their digits: nothing passes through a float.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{CompareOp, Filter, FilterLimits, Literal, Test, decimal::Number};

/// Why a filter was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// Not a filter object.
    #[error(
        "a filter is one of {{\"and\":[…]}}, {{\"or\":[…]}}, {{\"not\":…}}, {{\"column\",\"op\",\"value\"}}: {0}"
    )]
    Shape(String),
    /// An operator that is not known.
    #[error("`{0}` is not an operator; known are eq, neq, lt, lte, gt, gte, in, like, is")]
    Operator(String),
    /// An operator that is not known, of Supabase's.
    #[error(
        "`{0}` is not an operator; known are eq, neq, lt, lte, gt, gte, in, like, ilike, match, imatch, is, isdistinct, each also behind `not.`"
    )]
    SupabaseOperator(String),
    /// Not a condition of Supabase's.
    #[error("`{0}` is not a condition; write column=operator.value, and commas between several")]
    Condition(String),
    /// Not even a text.
    #[error("a filter is a text such as column=eq.value")]
    NoText,
    /// A value that the operator cannot use.
    #[error("the value for `{column}` {what}")]
    Value {
        /// The column.
        column: String,
        /// What is wrong with it.
        what: &'static str,
    },
    /// Nested too deeply.
    #[error("the filter is nested deeper than {0} levels")]
    TooDeep(usize),
    /// Too many conditions.
    #[error("the filter has more than {0} conditions and values")]
    TooMany(usize),
}

impl FilterError {
    /// The stable name of the error.
    pub fn code(&self) -> &'static str {
        crate::ErrorCode::InvalidFilter.name()
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw<'a> {
    #[serde(borrow)]
    and: Option<Vec<&'a RawValue>>,
    #[serde(borrow)]
    or: Option<Vec<&'a RawValue>>,
    #[serde(borrow)]
    not: Option<&'a RawValue>,
    #[serde(borrow)]
    column: Option<Cow<'a, str>>,
    #[serde(borrow)]
    op: Option<Cow<'a, str>>,
    // Not an Option: `null` is a value that has to be told from none.
    #[serde(borrow, default)]
    value: Present<'a>,
}

#[derive(Default)]
struct Present<'a>(Option<&'a RawValue>);

impl<'de: 'a, 'a> Deserialize<'de> for Present<'a> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        <&RawValue>::deserialize(deserializer).map(|raw| Present(Some(raw)))
    }
}

pub(super) fn parse(json: &str, limits: &FilterLimits) -> Result<Filter, FilterError> {
    let mut left = limits.nodes;
    node(json, limits, limits.depth, &mut left)
}

fn node(
    json: &str,
    limits: &FilterLimits,
    depth: usize,
    left: &mut usize,
) -> Result<Filter, FilterError> {
    let depth = depth
        .checked_sub(1)
        .ok_or(FilterError::TooDeep(limits.depth))?;
    spend(left, limits)?;
    let raw: Raw<'_> = serde_json::from_str(json)
        .map_err(|error| FilterError::Shape(error.to_string().chars().take(120).collect()))?;
    let mut many = |parts: Vec<&RawValue>| {
        parts
            .into_iter()
            .map(|part| node(part.get(), limits, depth, left))
            .collect::<Result<Vec<_>, _>>()
    };
    match raw {
        Raw {
            and: Some(parts),
            or: None,
            not: None,
            column: None,
            op: None,
            value: Present(None),
        } => Ok(Filter::And(many(parts)?)),
        Raw {
            and: None,
            or: Some(parts),
            not: None,
            column: None,
            op: None,
            value: Present(None),
        } => Ok(Filter::Or(many(parts)?)),
        Raw {
            and: None,
            or: None,
            not: Some(inner),
            column: None,
            op: None,
            value: Present(None),
        } => Ok(Filter::Not(Box::new(node(
            inner.get(),
            limits,
            depth,
            left,
        )?))),
        Raw {
            and: None,
            or: None,
            not: None,
            column: Some(column),
            op: Some(op),
            value: Present(Some(value)),
        } => Ok(Filter::Column {
            test: test(&column, &op, value.get(), limits, left)?,
            column: column.as_ref().into(),
        }),
        _ => Err(FilterError::Shape("exactly one of them".into())),
    }
}

fn spend(left: &mut usize, limits: &FilterLimits) -> Result<(), FilterError> {
    *left = left
        .checked_sub(1)
        .ok_or(FilterError::TooMany(limits.nodes))?;
    Ok(())
}

fn test(
    column: &str,
    op: &str,
    value: &str,
    limits: &FilterLimits,
    left: &mut usize,
) -> Result<Test, FilterError> {
    let refuse = |what| FilterError::Value {
        column: column.chars().take(63).collect(),
        what,
    };
    let literal = |value: &str| literal(value, limits).map_err(refuse);
    let compare = |op| literal(value).map(|literal| Test::Compare(op, literal));
    match op {
        "eq" => compare(CompareOp::Eq),
        "neq" => compare(CompareOp::Neq),
        "lt" => compare(CompareOp::Lt),
        "lte" => compare(CompareOp::Lte),
        "gt" => compare(CompareOp::Gt),
        "gte" => compare(CompareOp::Gte),
        "in" => {
            let values: Vec<&RawValue> = serde_json::from_str(value)
                .map_err(|_| refuse("must be a list, as the operator is `in`"))?;
            let mut list = Vec::with_capacity(values.len().min(limits.nodes));
            for value in values {
                spend(left, limits)?;
                list.push(literal(value.get())?);
            }
            Ok(Test::In(list))
        }
        "like" => match literal(value)? {
            Literal::Text(pattern) => Ok(Test::Like(pattern)),
            _ => Err(refuse("must be text, as the operator is `like`")),
        },
        "is" => match value {
            "null" => Ok(Test::Is(None)),
            "true" => Ok(Test::Is(Some(true))),
            "false" => Ok(Test::Is(Some(false))),
            _ => Err(refuse(
                "must be null, true or false, as the operator is `is`",
            )),
        },
        other => Err(FilterError::Operator(other.chars().take(20).collect())),
    }
}

fn literal(json: &str, limits: &FilterLimits) -> Result<Literal, &'static str> {
    if json.len() > limits.value_bytes {
        return Err("is longer than allowed");
    }
    match json.as_bytes().first() {
        Some(b'"') => serde_json::from_str::<Box<str>>(json)
            .map(Literal::Text)
            .map_err(|_| "is not valid text"),
        Some(b't') => Ok(Literal::Bool(true)),
        Some(b'f') => Ok(Literal::Bool(false)),
        Some(b'n') => Err("is null, which equals nothing; use the operator `is`"),
        Some(b'-' | b'0'..=b'9') => match Number::parse(json.as_bytes()) {
            Some(_) => Ok(Literal::Number(json.into())),
            None => Err("has an exponent that is too large"),
        },
        _ => Err("must be text, a number, true or false"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<Filter, FilterError> {
        parse(json, &FilterLimits::default())
    }

    #[test]
    fn refuses_what_it_does_not_understand() {
        for bad in [
            "",
            "1",
            "{}",
            r#"{"and":[],"or":[]}"#,
            r#"{"and":[{}]}"#,
            r#"{"column":"a","op":"eq"}"#,
            r#"{"column":"a","op":"equals","value":1}"#,
            r#"{"column":"a","op":"eq","value":null}"#,
            r#"{"column":"a","op":"eq","value":[1]}"#,
            r#"{"column":"a","op":"in","value":1}"#,
            r#"{"column":"a","op":"like","value":1}"#,
            r#"{"column":"a","op":"is","value":"null"}"#,
            r#"{"column":"a","op":"eq","value":1,"extra":1}"#,
            r#"{"column":"a","op":"eq","value":1e99999999999999999999}"#,
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
        let deep = format!("{}{{\"and\":[]}}{}", r#"{"not":"#.repeat(8), "}".repeat(8));
        assert_eq!(read(&deep), Err(FilterError::TooDeep(8)));
        let wide = format!(
            r#"{{"column":"a","op":"in","value":[{}1]}}"#,
            "1,".repeat(300)
        );
        assert_eq!(read(&wide), Err(FilterError::TooMany(256)));
    }

    #[test]
    fn finds_the_equality_to_look_up() {
        let filter = read(
            r#"{"and":[{"column":"a","op":"gt","value":1},{"column":"b","op":"eq","value":"x"}]}"#,
        )
        .unwrap();
        assert_eq!(&**filter.needed_equality().unwrap().0, "b");
        let either = read(r#"{"or":[{"column":"b","op":"eq","value":"x"}]}"#).unwrap();
        assert_eq!(either.needed_equality(), None);
    }
}
