//! The `ref` of a request: what its sender recognises the reply by. Echoed as it came.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};
use serde_json::value::RawValue;

use crate::client::MAX_REF_BYTES;

/// A short JSON string or number, kept as its JSON text.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Ref(Box<str>);

impl Ref {
    /// The reference whose JSON text this is; `None` unless a string or number of at most 64 bytes.
    pub fn from_json(text: &str) -> Option<Ref> {
        let scalar = matches!(text.as_bytes().first(), Some(b'"' | b'-' | b'0'..=b'9'));
        (scalar && text.len() <= MAX_REF_BYTES).then(|| Ref(text.into()))
    }

    /// Its JSON text.
    pub fn as_json(&self) -> &str {
        &self.0
    }
}

impl Serialize for Ref {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let raw: &RawValue =
            serde_json::from_str(&self.0).map_err(<S::Error as serde::ser::Error>::custom)?;
        raw.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Ref {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = <&RawValue>::deserialize(deserializer)?;
        Ref::from_json(raw.get())
            .ok_or_else(|| D::Error::custom("`ref` is a string or number of at most 64 bytes"))
    }
}
