//! Regular expressions of filters: those of the `regex` crate, which never take longer than text times pattern.
//!
//! They differ from Postgres' in what only those can that look back or ahead: `\1`, `(?=…)`, and in `\m`, `\M`, `\y`.
//! `\d`, `\w` and `\s` mean ASCII.

use std::sync::Arc;

use regex::{Regex, RegexBuilder};

/// Longest pattern, in bytes.
const MOST_BYTES: usize = 256;
/// How large it may become, in bytes of memory.
const MOST_COMPILED: usize = 16 * 1024;
/// Longest text that is searched, in bytes; a longer one is not known to match.
const MOST_SEARCHED: usize = 8 * 1024;

/// A regular expression and its text.
#[derive(Clone, Debug)]
pub struct Pattern {
    source: Box<str>,
    any_case: bool,
    compiled: Arc<Regex>,
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        (&self.source, self.any_case) == (&other.source, other.any_case)
    }
}

impl Pattern {
    /// Reads one.
    pub(super) fn new(source: &str, any_case: bool) -> Result<Pattern, ()> {
        if source.len() > MOST_BYTES {
            return Err(());
        }
        let compiled = RegexBuilder::new(source)
            .case_insensitive(any_case)
            .dot_matches_new_line(true)
            .size_limit(MOST_COMPILED)
            .nest_limit(32)
            .build()
            .map_err(|_| ())?;
        Ok(Pattern {
            source: source.into(),
            any_case,
            compiled: Arc::new(compiled),
        })
    }

    /// Whether it is found in the text; `None`: the text is too long to be searched.
    pub(super) fn found_in(&self, text: &str) -> Option<bool> {
        (text.len() <= MOST_SEARCHED).then(|| self.compiled.is_match(text))
    }

    /// Bytes that it takes in memory, at most: itself, and what searching needs.
    pub(super) fn cost(&self) -> usize {
        self.source.len() + 4 * MOST_COMPILED
    }
}
