//! Composite values as JSON objects of their attributes, in order.

use std::{borrow::Cow, sync::Arc};

use rowcast_model::Kind;

use super::{Sink, write_string, write_value};
use crate::array_text::Malformed;

/// Appends a JSON object; on `Err` the caller takes back what was written.
pub(super) fn write_composite<S: Sink>(
    out: &mut S,
    attributes: &[(Arc<str>, Kind)],
    text: &[u8],
) -> Result<(), Malformed> {
    let mut rest = text
        .strip_prefix(b"(")
        .and_then(|inner| inner.strip_suffix(b")"))
        .ok_or(Malformed)?;
    out.put_u8(b'{');
    for (i, (name, kind)) in attributes.iter().enumerate() {
        if i > 0 {
            rest = rest.strip_prefix(b",").ok_or(Malformed)?;
            out.put_u8(b',');
        }
        write_string(out, name.as_bytes());
        out.put_u8(b':');
        let (value, tail) = field(rest)?;
        match value {
            Some(bytes) => write_value(out, kind, &bytes),
            None => out.put_slice(b"null"),
        }
        rest = tail;
    }
    out.put_u8(b'}');
    match rest.is_empty() {
        true => Ok(()),
        false => Err(Malformed),
    }
}

/// A field's value (`None`: null) and what follows it.
type Field<'a> = (Option<Cow<'a, [u8]>>, &'a [u8]);

fn field(text: &[u8]) -> Result<Field<'_>, Malformed> {
    if let Some(quoted) = text.strip_prefix(b"\"") {
        let (value, tail) = unquote(quoted)?;
        return Ok((Some(value), tail));
    }
    let end = text.iter().position(|&b| b == b',').unwrap_or(text.len());
    let (bare, tail) = text.split_at(end);
    if bare.iter().any(|b| matches!(b, b'"' | b'\\' | b'(' | b')')) {
        return Err(Malformed);
    }
    Ok(((!bare.is_empty()).then_some(Cow::Borrowed(bare)), tail))
}

/// Reads up to the closing quote; a quote is written twice, and a backslash escapes what follows.
fn unquote(text: &[u8]) -> Result<(Cow<'_, [u8]>, &[u8]), Malformed> {
    let special = |b: &u8| matches!(b, b'"' | b'\\');
    let at = text.iter().position(special).ok_or(Malformed)?;
    let (head, mut rest) = text.split_at(at);
    if let [b'"', tail @ ..] = rest
        && tail.first() != Some(&b'"')
    {
        return Ok((Cow::Borrowed(head), tail));
    }
    let mut out = head.to_vec();
    loop {
        match rest {
            [b'"', b'"', tail @ ..] => {
                out.push(b'"');
                rest = tail;
            }
            [b'"', tail @ ..] => return Ok((Cow::Owned(out), tail)),
            [b'\\', escaped, tail @ ..] => {
                out.push(*escaped);
                rest = tail;
            }
            [b'\\'] | [] => return Err(Malformed),
            [other, tail @ ..] => {
                out.push(*other);
                rest = tail;
            }
        }
    }
}
