//! Regular expressions of filters: in Postgres' words, searched by the `regex` crate, which never takes longer than
//! text times pattern.
//!
//! What is not understood is what looks back or ahead (`\1`, `(?=…)`) and the switches in front (`***:`). `\d`, `\w`
//! and `\s` mean ASCII, and upper and lower case are those of Unicode.

use std::sync::Arc;

use regex::{Regex, RegexBuilder};

/// Longest pattern, in bytes.
const MOST_BYTES: usize = 256;
/// How large it may become, in bytes of memory.
const MOST_COMPILED: usize = 8 * 1024;
/// What a search may keep for the next one, in bytes of memory.
const MOST_KEPT: usize = 16 * 1024;
/// Longest text that is searched, in bytes; of a longer one it is not known whether it matches. With the size of the
/// pattern this bounds a search to some milliseconds, however both are chosen.
const MOST_SEARCHED: usize = 4 * 1024;
/// So much of what a filter may hold counts one of them.
pub(super) const NODES: usize = 32;

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
    /// Reads one; `None` for what is not understood, or too large.
    pub(super) fn new(source: &str, any_case: bool) -> Option<Pattern> {
        if source.len() > MOST_BYTES {
            return None;
        }
        let compiled = RegexBuilder::new(&translated(source))
            .case_insensitive(any_case)
            .dot_matches_new_line(true)
            .size_limit(MOST_COMPILED)
            .dfa_size_limit(MOST_KEPT)
            .nest_limit(32)
            .build()
            .ok()?;
        Some(Pattern {
            source: source.into(),
            any_case,
            compiled: Arc::new(compiled),
        })
    }

    /// Whether it is found in the text; `None`: the text is too long to be searched.
    pub(super) fn found_in(&self, text: &str) -> Option<bool> {
        (text.len() <= MOST_SEARCHED).then(|| self.compiled.is_match(text))
    }

    /// Bytes that it takes in memory, at most: itself in both directions, and what searching needs.
    pub(super) fn cost(&self) -> usize {
        self.source.len() + 3 * MOST_COMPILED + MOST_KEPT
    }
}

/// The same expression in the words of the library: they differ in some escapes, and in what stands for itself
/// within brackets.
fn translated(source: &str) -> String {
    let mut out = String::with_capacity(source.len() + 16);
    let mut chars = source.chars().peekable();
    // Within brackets, and nothing came in them yet.
    let (mut within, mut first) = (false, false);
    while let Some(c) = chars.next() {
        match c {
            '\\' => {
                first = false;
                let Some(escaped) = chars.next() else {
                    out.push('\\');
                    break;
                };
                let class = match escaped {
                    'd' => Some("[:digit:]"),
                    'D' => Some("[:^digit:]"),
                    'w' => Some("[:word:]"),
                    'W' => Some("[:^word:]"),
                    's' => Some("[:space:]"),
                    'S' => Some("[:^space:]"),
                    _ => None,
                };
                match (class, escaped, within) {
                    (Some(class), _, true) => out.push_str(class),
                    (Some(class), _, false) => {
                        out.push('[');
                        out.push_str(class);
                        out.push(']');
                    }
                    (None, 'm', false) => out.push_str(r"(?-u:\b{start})"),
                    (None, 'M', false) => out.push_str(r"(?-u:\b{end})"),
                    (None, 'y', false) => out.push_str(r"(?-u:\b)"),
                    (None, 'Z', false) => out.push_str(r"\z"),
                    (None, 'b', _) => out.push_str(r"\x08"),
                    (None, other, _) => out.extend(['\\', other]),
                }
            }
            '[' if !within => {
                (within, first) = (true, true);
                out.push('[');
                if let Some(not) = chars.next_if_eq(&'^') {
                    out.push(not);
                }
            }
            // A class by its name.
            '[' if chars.peek() == Some(&':') => {
                first = false;
                out.push('[');
                while let Some(c) = chars.next() {
                    out.push(c);
                    if c == ':' && chars.next_if_eq(&']').is_some() {
                        out.push(']');
                        break;
                    }
                }
            }
            ']' if within && !first => {
                within = false;
                out.push(']');
            }
            '[' | ']' | '&' | '~' if within => {
                first = false;
                out.extend(['\\', c]);
            }
            c => {
                first = false;
                out.push(c);
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn found(pattern: &str, text: &str) -> bool {
        Pattern::new(pattern, false)
            .unwrap_or_else(|| panic!("{pattern}"))
            .found_in(text)
            .unwrap()
    }

    /// Checked against PostgreSQL 18.
    #[test]
    fn patterns_mean_what_they_mean_in_postgres() {
        for (pattern, text, expected) in [
            ("^a.c$", "abc", true),
            ("^a.c$", "a\nc", true),
            ("^b", "a\nb", false),
            ("b$", "ab\nc", false),
            (r"^\d+$", "0123", true),
            (r"^[\d.]+$", "1.5", true),
            (r"^[^\s@]+@\w+\.com$", "ada@example.com", true),
            (r"^[^\s@]+@\w+\.com$", "a da@example.com", false),
            (r"\mpaint", "to paint", true),
            (r"\mpaint", "repaint", false),
            (r"paint\M", "paints", false),
            (r"\yon\y", "on it", true),
            (r"^[]a]+$", "a]", true),
            (r"^[^]a]+$", "a]", false),
            (r"^[[]x$", "[x", true),
            (r"^[&&~]+$", "&~", true),
            (r"^[[:alpha:]_]+$", "ab_", true),
            (r"^[[:alpha:][:digit:]]+$", "a1", true),
            (r"^.$", "é", true),
            (r"^(foo|bar){2}$", "foobar", true),
            (r"\Aab\Z", "ab", true),
            ("(?i)ADA", "ada", true),
            (
                "^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$",
                "0f5e7a1c-0000-4000-8000-00000000000a",
                true,
            ),
            (
                r"^(https?://)?[\w.-]+\.[a-z]{2,}(/.*)?$",
                "https://example.org/a?b",
                true,
            ),
            ("", "", true),
        ] {
            assert_eq!(found(pattern, text), expected, "{pattern} {text:?}");
        }
        let any_case = Pattern::new("straSSe É", true).unwrap();
        assert_eq!(any_case.found_in("STRASSE é"), Some(true));
    }

    #[test]
    fn patterns_are_bounded() {
        for bad in [
            "(",
            "[a",
            "a{2,1}",
            r"(a)\1",
            "(?=a)",
            "***:a",
            "*a",
            r"\",
            "((((a{1,50}){1,50}){1,50}){1,50})",
            &"a".repeat(257),
            &("(".repeat(40) + "a" + &")".repeat(40)),
        ] {
            assert!(Pattern::new(bad, false).is_none(), "{bad}");
        }
        let long = "a".repeat(MOST_SEARCHED + 1);
        assert_eq!(Pattern::new("a", false).unwrap().found_in(&long), None);
        assert_ne!(Pattern::new("a", false), Pattern::new("a", true));
    }

    proptest! {
        #[test]
        fn never_panics(pattern in r"([a-cé.*+?()|{}^$:&~-]|\\.|\[|\]|[0-9]){0,24}", text in ".{0,12}") {
            if let Some(pattern) = Pattern::new(&pattern, true) {
                let _ = pattern.found_in(&text);
            }
        }
    }
}
