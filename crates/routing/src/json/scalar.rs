//! Timestamps in the form of `to_json`: `T` between date and time, offsets with minutes.

use super::{Sink, string::is_plain, write_string};

/// Appends a `timestamp` or `timestamptz` given in ISO style. `infinity` and what is no timestamp
/// become plain strings; the year may have any number of digits and ` BC` may follow.
pub(super) fn write_timestamp<S: Sink>(out: &mut S, text: &[u8]) {
    // Years of four digits, after Christ: nearly all.
    if let ([date @ .., b' '], time) = text.split_at(text.len().min(11))
        && date.len() == 10
        && let [.., sign, _, last] = time
        && *last != b'C'
        && is_plain(text)
    {
        out.put_u8(b'"');
        out.put_slice(date);
        out.put_u8(b'T');
        out.put_slice(time);
        out.put_slice(match sign {
            b'+' | b'-' => b":00\"",
            _ => b"\"",
        });
        return;
    }
    match parts(text) {
        Some((date, time, minutes, era)) => {
            out.put_u8(b'"');
            out.put_slice(date);
            out.put_u8(b'T');
            out.put_slice(time);
            if minutes {
                out.put_slice(b":00");
            }
            out.put_slice(era);
            out.put_u8(b'"');
        }
        None => write_string(out, text),
    }
}

/// Date, time with offset, whether the offset lacks minutes, and the era.
type Parts<'a> = (&'a [u8], &'a [u8], bool, &'a [u8]);

fn parts(text: &[u8]) -> Option<Parts<'_>> {
    let space = text.iter().position(|&b| b == b' ')?;
    let (date, rest) = text.split_at(space);
    let rest = rest.get(1..)?;
    let (time, era) = match rest.strip_suffix(b" BC") {
        Some(time) => (time, &b" BC"[..]),
        None => (rest, &b""[..]),
    };
    let well_formed = date.iter().all(|b| matches!(b, b'0'..=b'9' | b'-'))
        && time.first().is_some_and(u8::is_ascii_digit)
        && time
            .iter()
            .all(|b| matches!(b, b'0'..=b'9' | b':' | b'.' | b'+' | b'-'));
    if !well_formed || date.len() < 8 {
        return None;
    }
    let offset = time.iter().rposition(|b| matches!(b, b'+' | b'-'));
    let minutes = offset.is_some_and(|at| time.len() - at == 3);
    Some((date, time, minutes, era))
}
