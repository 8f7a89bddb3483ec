//! Arrays of any depth and element kind as JSON arrays.

use rowcast_model::Kind;

use super::{Sink, write_value};
use crate::array_text::{Malformed, Token, Tokens};

/// Appends a JSON array; on `Err` the caller takes back what was written.
pub(super) fn write_array<S: Sink>(
    out: &mut S,
    element: &Kind,
    delimiter: u8,
    text: &[u8],
) -> Result<(), Malformed> {
    let mut tokens = Tokens::new(text, delimiter);
    let mut first = true;
    while let Some(token) = tokens.next()? {
        if !first && token != Token::Close {
            out.put_u8(b',');
        }
        first = token == Token::Open;
        match token {
            Token::Open => out.put_u8(b'['),
            Token::Close => out.put_u8(b']'),
            Token::Null => out.put_slice(b"null"),
            Token::Element(bytes) => write_value(out, element, &bytes),
        }
    }
    Ok(())
}
