//! JSON strings. Owns escaping; bytes that are not UTF-8 are replaced, so the result is always valid.

use super::Sink;

/// Appends a JSON string. Escapes as Postgres and `serde_json` do.
pub fn write_string<S: Sink>(out: &mut S, text: &[u8]) {
    out.put_u8(b'"');
    match std::str::from_utf8(text) {
        Ok(valid) => escape(out, valid.as_bytes()),
        Err(_) => escape(out, String::from_utf8_lossy(text).as_bytes()),
    }
    out.put_u8(b'"');
}

fn escape<S: Sink>(out: &mut S, bytes: &[u8]) {
    let mut rest = bytes;
    while let Some(at) = rest
        .iter()
        .position(|&b| b < 0x20 || b == b'"' || b == b'\\')
    {
        let (plain, tail) = rest.split_at(at);
        out.put_slice(plain);
        let Some((&special, tail)) = tail.split_first() else {
            return;
        };
        match special {
            b'"' => out.put_slice(b"\\\""),
            b'\\' => out.put_slice(b"\\\\"),
            b'\n' => out.put_slice(b"\\n"),
            b'\r' => out.put_slice(b"\\r"),
            b'\t' => out.put_slice(b"\\t"),
            0x08 => out.put_slice(b"\\b"),
            0x0c => out.put_slice(b"\\f"),
            other => {
                let digit = |n: u8| char::from_digit(u32::from(n), 16).map_or(b'0', |c| c as u8);
                out.put_slice(&[
                    b'\\',
                    b'u',
                    b'0',
                    b'0',
                    digit(other >> 4),
                    digit(other & 15),
                ]);
            }
        }
        rest = tail;
    }
    out.put_slice(rest);
}
