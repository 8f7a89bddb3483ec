//! Masks as people write them: `{"email":{"type":"email","show":{"roles":["admin"],"or":"owner"}}}`.
//!
//! One reader for the rule of a table and for what is said over HTTP. Strict: a mask that is half understood
//! would show what it should not.

use std::{collections::BTreeMap, str::FromStr};

use serde::Deserialize;

use crate::{MOST_MASKS, Mask, MaskKind, Masks, Role};

/// The text holds no masks.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MaskError {
    /// Not an object of objects with the known fields.
    #[error("{0}")]
    Form(String),
    /// A kind of mask that there is not.
    #[error("`type` must be one of {}", MaskKind::ALL.map(MaskKind::as_str).join(", "))]
    Kind,
    /// Shown to somebody else than the owner.
    #[error("`or` can only be `owner`")]
    Or,
    /// More than [`MOST_MASKS`].
    #[error("at most {MOST_MASKS} fields can be masked")]
    TooMany,
}

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

impl FromStr for Masks {
    type Err = MaskError;

    /// Columns come in the order of their names.
    fn from_str(text: &str) -> Result<Masks, MaskError> {
        let columns: BTreeMap<String, MaskJson> = serde_json::from_str(text)
            .map_err(|error| MaskError::Form(error.to_string().chars().take(200).collect()))?;
        let mask = |(column, mask): (String, MaskJson)| {
            let owner = match mask.show.or.as_deref() {
                None => false,
                Some("owner") => true,
                Some(_) => return Err(MaskError::Or),
            };
            Ok(Mask {
                column: column.into(),
                kind: MaskKind::from_name(&mask.kind).ok_or(MaskError::Kind)?,
                roles: mask.show.roles.into_iter().map(Role::from).collect(),
                owner,
            })
        };
        let columns: Result<Vec<Mask>, MaskError> = columns.into_iter().map(mask).collect();
        Masks::new(columns?).ok_or(MaskError::TooMany)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn q17_masks_are_read_in_the_form_of_the_mission() {
        let masks: Masks =
            r#"{"ssn":{"type":"ssn","show":{"roles":["admin","hr"]}},
                "email":{"type":"email","show":{"roles":[],"or":"owner"}},"notes":{"type":"redact"}}"#
                .parse()
                .unwrap();
        let names: Vec<&str> = masks.columns().iter().map(|mask| &*mask.column).collect();
        assert_eq!(names, ["email", "notes", "ssn"]);
        let (_, email) = masks.of("email").unwrap();
        assert_eq!((email.kind, email.owner), (MaskKind::Email, true));
        assert_eq!(masks.plain_by_roles(&["hr".into()]), 0b100);
        assert_eq!(masks.plain_by_owner(), 0b001);
        let many: String = (0..=MOST_MASKS)
            .map(|i| format!(r#","c{i}":{{"type":"name"}}"#))
            .collect();
        let many = format!("{{{}}}", many.trim_start_matches(','));
        assert_eq!(many.parse::<Masks>(), Err(MaskError::TooMany));
    }

    #[test]
    fn what_is_half_understood_is_refused() {
        for bad in [
            "[]",
            "1",
            "{",
            "null",
            r#"{"a":"email"}"#,
            r#"{"a":{}}"#,
            r#"{"a":{"type":"shred"}}"#,
            r#"{"a":{"type":"email","shows":{}}}"#,
            r#"{"a":{"type":"email","show":{"roles":"admin"}}}"#,
            r#"{"a":{"type":"email","show":{"or":"anybody"}}}"#,
            r#"{"a":{"type":"email","show":{"role":["admin"]}}}"#,
        ] {
            assert!(bad.parse::<Masks>().is_err(), "{bad}");
        }
    }
}
