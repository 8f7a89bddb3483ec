//! `maskingConfig`: the masks of one message, in the form that tables have them. Strict: a mask that is half
//! understood would show what it should not.

use std::collections::BTreeMap;

use rowcast_model::{MOST_MASKS, Mask, MaskKind, Masks, Role};
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

/// Reads masks; the error says what is wrong with them.
pub(super) fn read(json: &str) -> Result<Masks, String> {
    let columns: BTreeMap<String, MaskJson> = serde_json::from_str(json)
        .map_err(|error| error.to_string().chars().take(200).collect::<String>())?;
    let mask = |(column, mask): (String, MaskJson)| {
        let owner = match mask.show.or.as_deref() {
            None => false,
            Some("owner") => true,
            Some(_) => return Err("`or` can only be `owner`".to_owned()),
        };
        let kind = MaskKind::from_name(&mask.kind).ok_or_else(|| {
            let known = MaskKind::ALL.map(MaskKind::as_str).join(", ");
            format!("`type` must be one of {known}")
        })?;
        Ok(Mask {
            column: column.into(),
            kind,
            roles: mask.show.roles.into_iter().map(Role::from).collect(),
            owner,
        })
    };
    let columns = columns.into_iter().map(mask);
    Masks::new(columns.collect::<Result<_, _>>()?)
        .ok_or_else(|| format!("at most {MOST_MASKS} fields can be masked"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn q17_masks_are_read_as_those_of_a_table_or_refused() {
        let masks = read(
            r#"{"ssn":{"type":"ssn","show":{"roles":["admin","hr"]}},
                "salary":{"type":"redact","show":{"roles":["admin"],"or":"owner"}}}"#,
        )
        .unwrap();
        assert_eq!(masks.plain_by_roles(&["hr".into()]), 0b10);
        assert_eq!(masks.plain_by_owner(), 0b01);
        for bad in [
            "[]",
            r#"{"a":{"type":"hide"}}"#,
            r#"{"a":{}}"#,
            r#"{"a":{"type":"ssn","show":{"role":["x"]}}}"#,
            r#"{"a":{"type":"ssn","show":{"or":"everybody"}}}"#,
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
