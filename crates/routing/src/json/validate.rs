//! Is this JSON? Without recursion, so that depth costs a few bytes and never the stack.

/// Whether the text is one JSON number.
pub(super) fn is_number(text: &[u8]) -> bool {
    matches!(number(text), Some(rest) if rest.is_empty())
}

/// Whether the text is one JSON value, in UTF-8.
pub(super) fn is_json(text: &[u8]) -> bool {
    std::str::from_utf8(text).is_ok() && value(text).is_some_and(|rest| blank(rest).is_empty())
}

/// What encloses the place that is being read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum In {
    Array,
    Object,
}

/// Reads one value with everything inside it; gives what follows.
fn value(text: &[u8]) -> Option<&[u8]> {
    let mut stack = Vec::new();
    let mut rest = blank(text);
    loop {
        // Here a value is due.
        rest = match rest {
            [b'{', tail @ ..] => {
                rest = blank(tail);
                if let [b'}', tail @ ..] = rest {
                    tail
                } else {
                    stack.push(In::Object);
                    rest = key(rest)?;
                    continue;
                }
            }
            [b'[', tail @ ..] => {
                rest = blank(tail);
                if let [b']', tail @ ..] = rest {
                    tail
                } else {
                    stack.push(In::Array);
                    continue;
                }
            }
            [b'"', tail @ ..] => string(tail)?,
            [b't', b'r', b'u', b'e', tail @ ..] | [b'n', b'u', b'l', b'l', tail @ ..] => tail,
            [b'f', b'a', b'l', b's', b'e', tail @ ..] => tail,
            _ => number(rest)?,
        };
        // Here a value is over.
        loop {
            let Some(&inside) = stack.last() else {
                return Some(rest);
            };
            rest = blank(rest);
            match (inside, rest) {
                (In::Array, [b']', tail @ ..]) | (In::Object, [b'}', tail @ ..]) => {
                    stack.pop();
                    rest = tail;
                }
                (In::Array, [b',', tail @ ..]) => {
                    rest = blank(tail);
                    break;
                }
                (In::Object, [b',', tail @ ..]) => {
                    rest = key(blank(tail))?;
                    break;
                }
                _ => return None,
            }
        }
    }
}

/// Reads `"key":` and gives what follows, from the value on.
fn key(text: &[u8]) -> Option<&[u8]> {
    let rest = blank(string(text.strip_prefix(b"\"")?)?);
    Some(blank(rest.strip_prefix(b":")?))
}

/// Reads up to the closing quote.
fn string(text: &[u8]) -> Option<&[u8]> {
    let mut rest = text;
    loop {
        let at = rest
            .iter()
            .position(|&b| b < 0x20 || b == b'"' || b == b'\\')?;
        let (_, tail) = rest.split_at(at);
        rest = match tail {
            [b'"', tail @ ..] => return Some(tail),
            [b'\\', b'u', a, b, c, d, tail @ ..] => {
                let hex = [a, b, c, d].iter().all(|digit| digit.is_ascii_hexdigit());
                hex.then_some(tail)?
            }
            [
                b'\\',
                b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't',
                tail @ ..,
            ] => tail,
            _ => return None,
        };
    }
}

fn number(text: &[u8]) -> Option<&[u8]> {
    let rest = text.strip_prefix(b"-").unwrap_or(text);
    let mut rest = match rest {
        [b'0', tail @ ..] => tail,
        [b'1'..=b'9', ..] => digits(rest)?,
        _ => return None,
    };
    if let [b'.', tail @ ..] = rest {
        rest = digits(tail)?;
    }
    if let [b'e' | b'E', tail @ ..] = rest {
        let tail = match tail {
            [b'+' | b'-', tail @ ..] => tail,
            other => other,
        };
        rest = digits(tail)?;
    }
    Some(rest)
}

fn digits(text: &[u8]) -> Option<&[u8]> {
    let end = text
        .iter()
        .position(|b| !b.is_ascii_digit())
        .unwrap_or(text.len());
    (end > 0).then(|| text.get(end..)).flatten()
}

fn blank(text: &[u8]) -> &[u8] {
    let end = text
        .iter()
        .position(|b| !matches!(b, b' ' | b'\t' | b'\n' | b'\r'))
        .unwrap_or(text.len());
    text.get(end..).unwrap_or_default()
}
