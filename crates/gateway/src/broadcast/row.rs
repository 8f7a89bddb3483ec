//! A row as an application sends it: a JSON object, value by value, as if it had come from the log.

use std::{fmt, sync::Arc};

use bytes::BytesMut;
use rowcast_model::{ColumnMeta, JsonRow, JsonRowBuilder, Kind};
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::value::RawValue;

/// Most columns of a row, as in PostgreSQL.
const MAX_COLUMNS: usize = 1_600;

/// A row and the text of its key.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Its values.
    pub values: JsonRow,
    /// The text of its column `id`, if that is a string or a number.
    pub id: Option<Arc<str>>,
}

/// Reads a row; the error says what is wrong with it.
pub(super) fn read(json: &str) -> Result<Row, String> {
    let Pairs(pairs) = serde_json::from_str(json)
        // It shows what it did not expect, however long that is.
        .map_err(|error| error.to_string().chars().take(200).collect::<String>())?;
    if pairs.len() > MAX_COLUMNS {
        return Err(format!("a row may have {MAX_COLUMNS} columns"));
    }
    let mut names: Vec<&str> = pairs.iter().map(|(name, _)| name.as_str()).collect();
    names.sort_unstable();
    if let Some([twice, _]) = names.windows(2).find(|pair| pair[0] == pair[1]) {
        let shown: String = twice.chars().take(80).collect();
        return Err(format!("the column `{shown}` is there twice"));
    }
    let id = pairs.iter().find(|(name, _)| name == "id");
    let id = id.and_then(|(_, value)| text_of(value.get()));
    let columns = pairs
        .iter()
        .map(|(name, value)| ColumnMeta::new(name.as_str().into(), kind_of(value.get())));
    let mut buffer = BytesMut::with_capacity(json.len());
    let mut row = JsonRowBuilder::new(columns.collect(), &mut buffer);
    for (_, value) in &pairs {
        row.column(|out| out.extend_from_slice(value.get().as_bytes()));
    }
    Ok(Row {
        values: row.finish(),
        id,
    })
}

/// What filters compare it as.
fn kind_of(json: &str) -> Kind {
    match json.as_bytes().first() {
        Some(b't' | b'f') => Kind::Bool,
        Some(b'-' | b'0'..=b'9') => Kind::Number,
        Some(b'{' | b'[') => Kind::Json,
        _ => Kind::Text,
    }
}

fn text_of(json: &str) -> Option<Arc<str>> {
    match json.as_bytes().first()? {
        b'"' => serde_json::from_str::<String>(json).ok().map(Arc::from),
        b'-' | b'0'..=b'9' => Some(json.into()),
        _ => None,
    }
}

struct Pairs<'a>(Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Pairs<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;
        impl<'de> Visitor<'de> for Read {
            type Value = Pairs<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of columns and their values")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_map(Read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_row_is_its_values_in_order() {
        let row = read(r#"{"id": "mat_1", "n": -1.50, "b": true, "j": {"x": [1]}, "z": null}"#);
        let row = row.unwrap();
        let kinds: Vec<&Kind> = row.values.columns().iter().map(|one| &one.kind).collect();
        let expected = [
            &Kind::Text,
            &Kind::Number,
            &Kind::Bool,
            &Kind::Json,
            &Kind::Text,
        ];
        assert_eq!(kinds, expected);
        let mut out = Vec::new();
        row.values.write_object(&mut out, |_| true);
        assert_eq!(
            String::from_utf8_lossy(&out),
            r#"{"id":"mat_1","n":-1.50,"b":true,"j":{"x": [1]},"z":null}"#
        );
        assert_eq!(row.id.as_deref(), Some("mat_1"));
        assert_eq!(read(r#"{"id":7}"#).unwrap().id.as_deref(), Some("7"));
        assert_eq!(read(r#"{"id":{"a":1}}"#).unwrap().id, None);
        assert!(read(r#"{"a":1,"b":2,"a":3}"#).unwrap_err().contains("`a`"));
        assert!(read("[1]").is_err() && read("7").is_err());
    }

    proptest! {
        /// Whatever the object is, what is told of it is the same object.
        #[test]
        fn says_the_same_object(names in prop::collection::hash_set(".{0,8}", 0..8), values in prop::collection::vec("-?[1-9][0-9]{0,5}|true|null|\"[a-z]{0,4}\"|\\[1,2\\]", 8)) {
            let object: serde_json::Map<String, serde_json::Value> = names
                .into_iter()
                .zip(values.iter().map(|text| serde_json::from_str(text).unwrap()))
                .collect();
            let row = read(&serde_json::Value::from(object.clone()).to_string()).unwrap();
            let mut out = Vec::new();
            row.values.write_object(&mut out, |_| true);
            let told: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(&out).unwrap();
            prop_assert_eq!(told, object);
        }
    }
}
