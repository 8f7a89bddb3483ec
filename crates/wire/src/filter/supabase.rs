//! The filters of Supabase: `status=eq.open,price=not.gt.10`. Owns that grammar; what comes out is an ordinary
//! [`Filter`].
//!
//! Conditions are parted by commas outside of parentheses and quotes, and all of them have to hold. A value goes to
//! the end of its condition; where it is all in double quotes, `\"` and `\\` in it stand for one character. Values
//! have no type of their own: each is read as its column's.

use super::{
    CompareOp, Filter, FilterError, FilterLimits, Literal, Test,
    regex::{self, Pattern},
};

/// Most values of one `in`.
const MOST_VALUES: usize = 100;

/// Reads a filter; a blank one is always true.
pub(crate) fn parse(text: &str, limits: &FilterLimits) -> Result<Filter, FilterError> {
    if text.trim().is_empty() {
        return Ok(Filter::And(Vec::new()));
    }
    let mut left = limits.nodes;
    let mut conditions = Vec::new();
    for part in Parts::of(text) {
        conditions.push(condition(part, limits, &mut left)?);
    }
    match conditions.len() {
        1 => Ok(conditions.remove(0)),
        _ => Ok(Filter::And(conditions)),
    }
}

/// What is between the commas that part: those outside of parentheses and quotes.
struct Parts<'a> {
    left: Option<&'a str>,
}

impl<'a> Parts<'a> {
    fn of(text: &'a str) -> Parts<'a> {
        Parts { left: Some(text) }
    }
}

impl<'a> Iterator for Parts<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        let text = self.left.take()?;
        let (mut depth, mut quoted, mut escaped, mut before) = (0_usize, false, false, b',');
        for (at, byte) in text.bytes().enumerate() {
            match byte {
                _ if escaped => escaped = false,
                b'\\' if quoted => escaped = true,
                b'"' if quoted => quoted = false,
                // Elsewhere it is a character of the value.
                b'"' if matches!(before, b'.' | b'(' | b',') => quoted = true,
                _ if quoted => {}
                b'(' => depth += 1,
                b')' => depth = depth.saturating_sub(1),
                b',' if depth == 0 => {
                    self.left = text.get(at + 1..);
                    return text.get(..at);
                }
                _ => {}
            }
            before = byte;
        }
        Some(text)
    }
}

fn spend(left: &mut usize, limits: &FilterLimits) -> Result<(), FilterError> {
    *left = left
        .checked_sub(1)
        .ok_or(FilterError::TooMany(limits.nodes))?;
    Ok(())
}

fn condition(part: &str, limits: &FilterLimits, left: &mut usize) -> Result<Filter, FilterError> {
    spend(left, limits)?;
    let shown = || FilterError::Condition(part.trim().chars().take(80).collect());
    let (column, rest) = part.split_once('=').ok_or_else(shown)?;
    let column = column.trim();
    if column.is_empty() {
        return Err(shown());
    }
    let (negated, rest) = match rest.strip_prefix("not.") {
        Some(rest) => (true, rest),
        None => (false, rest),
    };
    let (op, value) = rest.split_once('.').ok_or_else(shown)?;
    let refuse = |what| FilterError::Value {
        column: column.chars().take(63).collect(),
        what,
    };
    if op != "in" && value.len() > limits.value_bytes {
        return Err(refuse("is longer than allowed"));
    }
    let scalar = || Literal::Untyped(unquoted(value).into());
    let compare = |op| Test::Compare(op, scalar());
    // A search costs far more than a comparison.
    if matches!(op, "match" | "imatch") {
        (1..regex::NODES).try_for_each(|_| spend(left, limits))?;
    }
    let pattern = |any_case| {
        let pattern = Pattern::new(&unquoted(value), any_case).map(Test::Matches);
        pattern.ok_or_else(|| {
            refuse("is no regular expression that is understood here, or too large a one")
        })
    };
    let test = match op {
        "eq" => compare(CompareOp::Eq),
        "neq" => compare(CompareOp::Neq),
        "lt" => compare(CompareOp::Lt),
        "lte" => compare(CompareOp::Lte),
        "gt" => compare(CompareOp::Gt),
        "gte" => compare(CompareOp::Gte),
        "like" => Test::Like(unquoted(value).into()),
        "ilike" => Test::LikeAnyCase(super::like::folded(&unquoted(value)).into()),
        "match" => pattern(false)?,
        "imatch" => pattern(true)?,
        "isdistinct" => Test::Distinct(scalar()),
        "is" => match unquoted(value).to_ascii_lowercase().as_str() {
            // Of a boolean, unknown is null.
            "null" | "unknown" => Test::Is(None),
            "true" => Test::Is(Some(true)),
            "false" => Test::Is(Some(false)),
            _ => {
                return Err(refuse(
                    "must be null, true, false or unknown, as the operator is `is`",
                ));
            }
        },
        "in" => {
            let list = value
                .trim()
                .strip_prefix('(')
                .and_then(|list| list.strip_suffix(')'))
                .ok_or_else(|| refuse("must be in parentheses, as the operator is `in`"))?;
            let values = elements(list).map_err(refuse)?;
            if values.len() > MOST_VALUES {
                return Err(refuse("has more than 100 entries"));
            }
            for value in &values {
                spend(left, limits)?;
                if matches!(value, Literal::Untyped(text) if text.len() > limits.value_bytes) {
                    return Err(refuse("has an entry that is longer than allowed"));
                }
            }
            Test::In(values)
        }
        other => {
            return Err(FilterError::SupabaseOperator(
                other.chars().take(20).collect(),
            ));
        }
    };
    let condition = Filter::Column {
        column: column.into(),
        test,
    };
    Ok(match negated {
        true => Filter::Not(Box::new(condition)),
        false => condition,
    })
}

/// What a value in double quotes stands for; any other stands for itself.
fn unquoted(value: &str) -> String {
    let inner = value
        .strip_prefix('"')
        .and_then(|rest| rest.strip_suffix('"'));
    // Where a quote ends before the end, it does not enclose the whole.
    let Some(inner) = inner.filter(|inner| encloses(inner)) else {
        return value.to_owned();
    };
    let mut plain = String::with_capacity(inner.len());
    let mut chars = inner.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(escaped @ ('"' | '\\')) => plain.push(escaped),
                Some(other) => plain.extend(['\\', other]),
                None => plain.push('\\'),
            },
            c => plain.push(c),
        }
    }
    plain
}

/// Whether what is between two quotes has none of its own.
fn encloses(inner: &str) -> bool {
    let mut escaped = false;
    for byte in inner.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return false,
            _ => {}
        }
    }
    !escaped
}

/// The entries of an `in`: those of an array in Postgres' text form, without its braces.
fn elements(list: &str) -> Result<Vec<Literal>, &'static str> {
    let mut values = Vec::new();
    if list.trim().is_empty() {
        return Ok(values);
    }
    let mut chars = list.chars().peekable();
    loop {
        while chars.next_if(|c| c.is_ascii_whitespace()).is_some() {}
        let quoted = chars.next_if_eq(&'"').is_some();
        let mut value = String::new();
        // Blanks at its end do not belong to a value, unless escaped.
        let mut kept = 0;
        let mut closed = !quoted;
        let mut escapes = false;
        while let Some(c) = chars.next_if(|c| quoted || *c != ',') {
            match c {
                '\\' => {
                    escapes = true;
                    value.push(chars.next().ok_or("ends within an entry")?);
                    kept = value.len();
                }
                '"' if quoted => {
                    closed = true;
                    break;
                }
                '"' => return Err("has a quote within an entry that does not begin with one"),
                c => {
                    value.push(c);
                    if quoted || !c.is_ascii_whitespace() {
                        kept = value.len();
                    }
                }
            }
        }
        value.truncate(kept);
        if !closed {
            return Err("has a quote that is not closed");
        }
        values.push(match (quoted || escapes, value.as_str()) {
            (false, "") => return Err("has an empty entry"),
            (false, word) if word.eq_ignore_ascii_case("null") => Literal::Null,
            _ => Literal::Untyped(value.into()),
        });
        while chars.next_if(|c| c.is_ascii_whitespace()).is_some() {}
        match chars.next() {
            None => return Ok(values),
            Some(',') => {}
            Some(_) => return Err("has something behind a quoted entry"),
        }
    }
}

#[cfg(test)]
mod tests;
