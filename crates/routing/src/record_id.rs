//! The text of a record id: one key column as it is, several as a JSON array of texts. The SQL side
//! writes the same text; `docs/sql.md` describes it.

use std::sync::Arc;

use crate::json::write_string;

/// The record id made of these key values.
pub fn join_key<'a>(parts: impl ExactSizeIterator<Item = &'a str>) -> Arc<str> {
    let mut out = Vec::new();
    write_key(parts.map(str::as_bytes), &mut out);
    String::from_utf8_lossy(&out).into()
}

/// Appends the record id made of these key values.
pub(crate) fn write_key<'a>(parts: impl ExactSizeIterator<Item = &'a [u8]>, out: &mut Vec<u8>) {
    let single = parts.len() == 1;
    if single {
        for part in parts {
            out.extend_from_slice(part);
        }
        return;
    }
    out.push(b'[');
    for (i, part) in parts.enumerate() {
        if i > 0 {
            out.push(b',');
        }
        write_string(out, part);
    }
    out.push(b']');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn has_the_documented_text() {
        assert_eq!(&*join_key(["a\"b"].into_iter()), "a\"b");
        assert_eq!(&*join_key(["a\"", "1\n"].into_iter()), r#"["a\"","1\n"]"#);
    }
}
