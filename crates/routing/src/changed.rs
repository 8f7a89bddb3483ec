//! Whom a change concerns, as far as masks and hidden columns decide it.

/// What of a row changed, as far as it matters who is told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Changed {
    /// Something that everybody sees, or nobody knows.
    #[default]
    Seen,
    /// These masked columns and nothing else that is shown.
    Only(u64),
}

impl Changed {
    /// Nothing that anybody sees.
    pub(crate) fn is_nothing(self) -> bool {
        self == Changed::Only(0)
    }

    /// The masked columns, if there is nothing else.
    pub(crate) fn only(self) -> Option<u64> {
        match self {
            Changed::Seen => None,
            Changed::Only(bits) => Some(bits),
        }
    }

    /// The same change as somebody else saw it: who knows more is right.
    pub(crate) fn and(self, other: Changed) -> Changed {
        match (self, other) {
            (Changed::Only(a), Changed::Only(b)) => Changed::Only(a & b),
            (Changed::Seen, known) | (known, Changed::Seen) => known,
        }
    }

    /// This change and another one together.
    pub(crate) fn or(self, other: Changed) -> Changed {
        match (self, other) {
            (Changed::Only(a), Changed::Only(b)) => Changed::Only(a | b),
            _ => Changed::Seen,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changed_adds_up() {
        use Changed::{Only, Seen};
        assert_eq!(Only(1).or(Only(2)), Only(3));
        assert_eq!(Only(1).or(Seen), Seen);
        assert_eq!(Only(3).and(Only(1)), Only(1));
        assert_eq!(Seen.and(Only(1)), Only(1));
        assert!(Only(0).is_nothing() && !Only(1).is_nothing() && !Seen.is_nothing());
    }
}
