//! Patterns of channel names: `announcements`, `room:*`, `workspace:{workspaceId}:conversation:{id}`.
//!
//! Owns what a pattern may look like, which names it fits, and which of two is the more specific. A pattern
//! has as many parts between colons as the names it fits; a part is a text, a beginning (`tasks.*`), anything
//! (`*`) or a named parameter. Pure; SQL has the same rules in `rowcast.define_channel`, and a test that they
//! agree.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

/// Longest pattern in bytes, as for names of channels.
pub const MAX_PATTERN_BYTES: usize = 255;
/// Most parts of a pattern.
pub const MAX_PARTS: usize = 16;

/// A part of a pattern.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Part {
    /// This very text.
    Text(Arc<str>),
    /// Everything that begins so and goes on; `*` alone begins with nothing.
    Begins(Arc<str>),
    /// Anything, and it has a name.
    Named(Arc<str>),
}

/// How one part stands to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    Same,
    Narrower,
    Wider,
    Apart,
}

/// How two patterns stand to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overlap {
    /// No name fits both.
    Apart,
    /// Every name that fits the first fits the second, which fits more.
    Narrower,
    /// The other way round.
    Wider,
    /// Some names fit both, and neither is the more specific.
    Ambiguous,
}

/// A pattern.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Pattern {
    text: Arc<str>,
    parts: SmallVec<[Part; 4]>,
}

/// Why a text is no pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// Too long, too many parts.
    #[error("a pattern has at most 255 bytes and 16 parts between colons")]
    TooLong,
    /// A part is empty.
    #[error("a part of the pattern is empty; write * for one that may be anything")]
    EmptyPart,
    /// A part that cannot be read.
    #[error(
        "`{0}` is no part of a pattern; a part is a text, a text with * at its end, * alone, or {{name}} alone"
    )]
    Part(String),
    /// Two parameters of one name.
    #[error("the parameter `{0}` is there twice; give each its own name")]
    Twice(String),
    /// Names of channels that have their meaning.
    #[error("channels that begin with `{0}:` are there without being defined")]
    Reserved(String),
}

/// First parts that have a meaning of their own.
const RESERVED: [&str; 3] = ["org", "user", "tenant"];

impl Pattern {
    /// The text it was made of.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The same, shared.
    pub fn text(&self) -> &Arc<str> {
        &self.text
    }

    /// The names of its parameters, in order.
    pub fn parameters(&self) -> impl Iterator<Item = &Arc<str>> {
        self.parts.iter().filter_map(|part| match part {
            Part::Named(name) => Some(name),
            _ => None,
        })
    }

    /// The first part, where it is a text.
    pub fn first_text(&self) -> Option<&str> {
        match self.parts.first()? {
            Part::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The values of the parameters if a name fits, in order.
    pub fn fit<'n>(&self, name: &'n str) -> Option<SmallVec<[&'n str; 4]>> {
        let mut values = SmallVec::new();
        let mut texts = name.split(':');
        for part in &self.parts {
            let text = texts.next()?;
            let fits = match part {
                Part::Text(wanted) => **wanted == *text,
                Part::Begins(with) => text.len() > with.len() && text.starts_with(&**with),
                Part::Named(_) => {
                    values.push(text);
                    !text.is_empty()
                }
            };
            if !fits {
                return None;
            }
        }
        texts.next().is_none().then_some(values)
    }

    /// How it stands to another pattern.
    pub fn overlap(&self, other: &Pattern) -> Overlap {
        if self.parts.len() != other.parts.len() {
            return Overlap::Apart;
        }
        let (mut narrower, mut wider) = (false, false);
        for (part, other) in self.parts.iter().zip(&other.parts) {
            match part.order(other) {
                Order::Same => {}
                Order::Narrower => narrower = true,
                Order::Wider => wider = true,
                Order::Apart => return Overlap::Apart,
            }
        }
        match (narrower, wider) {
            (true, false) => Overlap::Narrower,
            (false, true) => Overlap::Wider,
            _ => Overlap::Ambiguous,
        }
    }

    /// Sorts patterns so that of those that fit one name the most specific comes first.
    pub fn precedence(&self, other: &Pattern) -> std::cmp::Ordering {
        let rank = |pattern: &Pattern| -> SmallVec<[usize; 8]> {
            // How much of a part is fixed; all of a text.
            let fixed = |part: &Part| match part {
                Part::Text(_) => usize::MAX,
                Part::Begins(with) => with.len(),
                Part::Named(_) => 0,
            };
            pattern.parts.iter().map(fixed).collect()
        };
        rank(other)
            .cmp(&rank(self))
            .then_with(|| self.text.cmp(&other.text))
    }
}

impl Part {
    fn order(&self, other: &Part) -> Order {
        let begins =
            |with: &Arc<str>, text: &str| text.len() > with.len() && text.starts_with(&**with);
        let empty: &Arc<str> = &Arc::from("");
        let begin = |part: &'_ Part| match part {
            Part::Begins(with) => with.clone(),
            _ => empty.clone(),
        };
        match (self, other) {
            (Part::Text(a), Part::Text(b)) if a == b => Order::Same,
            (Part::Text(_), Part::Text(_)) => Order::Apart,
            (Part::Text(text), wide) if begins(&begin(wide), text) => Order::Narrower,
            (wide, Part::Text(text)) if begins(&begin(wide), text) => Order::Wider,
            (Part::Text(_), _) | (_, Part::Text(_)) => Order::Apart,
            (a, b) => match (begin(a), begin(b)) {
                (a, b) if a == b => Order::Same,
                (a, b) if a.starts_with(&*b) => Order::Narrower,
                (a, b) if b.starts_with(&*a) => Order::Wider,
                _ => Order::Apart,
            },
        }
    }
}

fn part(text: &str) -> Result<Part, PatternError> {
    let wrong = || PatternError::Part(text.chars().take(60).collect());
    if text.is_empty() {
        return Err(PatternError::EmptyPart);
    }
    if let Some(inner) = text.strip_prefix('{') {
        let name = inner.strip_suffix('}').ok_or_else(wrong)?;
        let mut letters = name.chars();
        let first = letters
            .next()
            .is_some_and(|c| c.is_ascii_alphabetic() || c == '_');
        let rest = letters.all(|c| c.is_ascii_alphanumeric() || c == '_');
        return match first && rest && name.len() <= 63 {
            true => Ok(Part::Named(name.into())),
            false => Err(wrong()),
        };
    }
    let (fixed, open) = match text.strip_suffix('*') {
        Some(fixed) => (fixed, true),
        None => (text, false),
    };
    if fixed
        .chars()
        .any(|c| matches!(c, '*' | '{' | '}') || c.is_control())
    {
        return Err(wrong());
    }
    Ok(match open {
        true => Part::Begins(fixed.into()),
        false => Part::Text(fixed.into()),
    })
}

impl FromStr for Pattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() > MAX_PATTERN_BYTES || text.split(':').count() > MAX_PARTS {
            return Err(PatternError::TooLong);
        }
        let parts = text
            .split(':')
            .map(part)
            .collect::<Result<SmallVec<[Part; 4]>, _>>()?;
        let pattern = Pattern {
            text: text.into(),
            parts,
        };
        if let Some(first) = pattern.first_text()
            && RESERVED.contains(&first)
        {
            return Err(PatternError::Reserved(first.to_owned()));
        }
        let mut names: Vec<&Arc<str>> = pattern.parameters().collect();
        names.sort_unstable();
        let twice = names.windows(2).find(|pair| pair.first() == pair.last());
        if let Some(name) = twice.and_then(|pair| pair.first()) {
            return Err(PatternError::Twice(name.to_string()));
        }
        Ok(pattern)
    }
}

impl TryFrom<String> for Pattern {
    type Error = PatternError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Pattern> for String {
    fn from(pattern: Pattern) -> String {
        pattern.text.to_string()
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
#[path = "pattern_tests.rs"]
mod tests;
