//! The masks of a table's rule, and whom a change concerns as far as they and hidden columns decide it.
//! Owns reading the column `mask` of `rowcast.tables`; strict, as a mask that is half understood would show
//! what it should not.

use std::collections::BTreeMap;

use rowcast_model::{Mask, MaskKind, Masks, Role};
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MaskJson {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    show: ShowJson,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct ShowJson {
    #[serde(default)]
    roles: Vec<String>,
    or: Option<String>,
}

/// Reads masks by column, in the order of their names; `None` when they are none.
pub(crate) fn read(text: &str) -> Option<Masks> {
    let columns: Option<BTreeMap<String, MaskJson>> = serde_json::from_str(text).ok()?;
    let mask = |(column, mask): (String, MaskJson)| {
        let owner = match mask.show.or.as_deref() {
            None => false,
            Some("owner") => true,
            Some(_) => return None,
        };
        Some(Mask {
            column: column.into(),
            kind: MaskKind::from_name(&mask.kind)?,
            roles: mask.show.roles.into_iter().map(Role::from).collect(),
            owner,
        })
    };
    let columns = columns.unwrap_or_default().into_iter();
    Masks::new(columns.map(mask).collect::<Option<Vec<Mask>>>()?)
}

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
    fn reads_the_form_of_the_mission() {
        let masks = read(
            r#"{"ssn":{"type":"ssn","show":{"roles":["admin","hr"]}},
                "email":{"type":"email","show":{"roles":[],"or":"owner"}},"notes":{"type":"redact"}}"#,
        )
        .unwrap();
        let names: Vec<&str> = masks.columns().iter().map(|mask| &*mask.column).collect();
        assert_eq!(names, ["email", "notes", "ssn"]);
        let (_, email) = masks.of("email").unwrap();
        assert_eq!((email.kind, email.owner), (MaskKind::Email, true));
        assert_eq!(masks.plain_by_roles(&["hr".into()]), 0b100);
        assert_eq!(read("null").unwrap().columns().len(), 0);
    }

    #[test]
    fn what_is_half_understood_is_refused() {
        for bad in [
            "[]",
            "1",
            "{",
            r#"{"a":"email"}"#,
            r#"{"a":{}}"#,
            r#"{"a":{"type":"shred"}}"#,
            r#"{"a":{"type":"email","shows":{}}}"#,
            r#"{"a":{"type":"email","show":{"roles":"admin"}}}"#,
            r#"{"a":{"type":"email","show":{"or":"anybody"}}}"#,
            r#"{"a":{"type":"email","show":{"role":["admin"]}}}"#,
        ] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }

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
