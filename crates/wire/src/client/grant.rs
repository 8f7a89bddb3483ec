//! What the application has signed and a client brings along: its text, which is not printed. What it says is for
//! whoever has the key.

use std::fmt;

use super::{FrameError, field};

/// Longest grant, in bytes.
const MAX_GRANT_BYTES: usize = 4096;

/// A grant as it was sent. It does not print.
#[derive(Clone, PartialEq, Eq)]
pub struct GrantText(Box<str>);

impl GrantText {
    /// Takes a text that is not too long.
    ///
    /// # Errors
    /// How many bytes it may have.
    pub fn new(text: &str) -> Result<GrantText, usize> {
        match text.len() <= MAX_GRANT_BYTES {
            true => Ok(GrantText(text.into())),
            false => Err(MAX_GRANT_BYTES),
        }
    }

    /// The text.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for GrantText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("GrantText(..)")
    }
}

/// Takes a grant that is not too long.
pub(super) fn read(text: &str) -> Result<GrantText, FrameError> {
    GrantText::new(text).map_err(|most| field(format!("`grant` may have {most} bytes")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grant_is_bounded_and_does_not_print() {
        let grant = read("secret").unwrap();
        assert_eq!(grant.expose(), "secret");
        assert!(!format!("{grant:?}").contains("secret"));
        assert!(read(&"x".repeat(4097)).is_err());
    }
}
