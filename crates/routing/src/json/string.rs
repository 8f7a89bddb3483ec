//! JSON strings. Owns escaping; bytes that are not UTF-8 are replaced, so the result is always valid.

use super::Sink;

/// Appends a JSON string. Escapes as Postgres and `serde_json` do.
pub fn write_string<S: Sink>(out: &mut S, text: &[u8]) {
    out.put_u8(b'"');
    if is_plain(text) {
        out.put_slice(text);
        out.put_u8(b'"');
        return;
    }
    match std::str::from_utf8(text) {
        Ok(valid) => escape(out, valid.as_bytes()),
        Err(_) => escape(out, String::from_utf8_lossy(text).as_bytes()),
    }
    out.put_u8(b'"');
}

/// Whether the text is ASCII without anything to escape, as most is: it may be copied as it is.
/// Looks at eight bytes at a time.
pub(super) fn is_plain(text: &[u8]) -> bool {
    const ONES: u64 = u64::from_le_bytes([1; 8]);
    const HIGH: u64 = ONES << 7;
    /// Some byte is below `n`, which is at most 128.
    fn below(word: u64, n: u64) -> u64 {
        word.wrapping_sub(ONES * n) & !word
    }
    fn special(word: u64) -> u64 {
        let quote = below(word ^ (ONES * 0x22), 1);
        let backslash = below(word ^ (ONES * 0x5c), 1);
        (word | below(word, 0x20) | quote | backslash) & HIGH
    }
    let (words, rest) = text.as_chunks::<8>();
    words
        .iter()
        .all(|word| special(u64::from_le_bytes(*word)) == 0)
        && rest
            .iter()
            .all(|&b| (0x20..0x80).contains(&b) && b != b'"' && b != b'\\')
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
