//! What the data of a client event must look like, and the check. Nothing that a client sends is passed on
//! unread: text that PostgreSQL cannot hold is refused here, fields that nobody declared too, and what is passed
//! on is written anew, so that no two readers see different fields in it.

use std::{borrow::Cow, collections::BTreeMap, fmt, sync::Arc};

use bytes::Bytes;
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::value::RawValue;

/// Longest text of a field, in characters, when the schema does not say.
pub const FIELD_CHARS: usize = 1024;
/// Most fields of a schema.
pub const MOST_FIELDS: usize = 64;

/// What a field holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FieldKind {
    /// Text.
    Text {
        /// Fewest characters.
        min: usize,
        /// Most characters.
        max: usize,
        /// White space at both ends is taken away first.
        trim: bool,
    },
    /// A whole number of 64 bits.
    Int,
    /// A number.
    Number,
    /// `true` or `false`.
    Boolean,
    /// A UUID, in any letters.
    Uuid,
    /// An object.
    Object,
    /// A list of at most so many values.
    Array(usize),
    /// Any value.
    Any,
}

/// One field.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Field {
    /// Its name.
    pub name: Arc<str>,
    /// What it holds.
    pub kind: FieldKind,
    /// It has to be there. One that need not be may be null.
    pub required: bool,
}

/// The fields that data must have and may have; no others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputSchema(pub Arc<[Field]>);

/// Why data was refused; for the client.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InputError {
    /// Not what every event must be.
    #[error("`data` {0}")]
    Data(&'static str),
    /// One field.
    #[error("`data.{field}` must be {expected}")]
    Field {
        /// The field.
        field: String,
        /// What it must be.
        expected: String,
    },
    /// A field that is not declared.
    #[error("`data.{0}` is not a field of this event")]
    Unknown(String),
}

/// The fields of an object, each with the JSON text of its value.
pub type Fields<'a> = BTreeMap<Cow<'a, str>, Cow<'a, str>>;

/// Reads data that must be an object. Of two fields with one name the last counts.
///
/// # Errors
/// When it is none, or holds what cannot be passed on.
pub fn read_fields(json: &str) -> Result<Fields<'_>, InputError> {
    check_json(json)?;
    let raw: BTreeMap<Key<'_>, &RawValue> =
        serde_json::from_str(json).map_err(|_| InputError::Data("must be an object"))?;
    Ok(raw
        .into_iter()
        .map(|(key, value)| (key.0, Cow::Borrowed(value.get())))
        .collect())
}

/// Writes the object anew.
pub fn write_fields(fields: &Fields<'_>) -> Bytes {
    let mut out = Vec::with_capacity(64);
    out.push(b'{');
    for (at, (name, value)) in fields.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        // Text always can be written.
        out.extend(serde_json::to_vec(name).unwrap_or_default());
        out.push(b':');
        out.extend_from_slice(value.as_bytes());
    }
    out.push(b'}');
    out.into()
}

/// Whether every value is one that can be passed on: numbers in range, no NUL and no half characters in text.
///
/// # Errors
/// What is wrong.
pub fn check_json(json: &str) -> Result<(), InputError> {
    match serde_json::from_str::<Plain>(json) {
        Ok(Plain) => Ok(()),
        Err(_) => Err(InputError::Data(
            "must be JSON without NUL characters, broken surrogates and numbers out of range",
        )),
    }
}

impl InputSchema {
    /// Checks the fields and brings them into form.
    ///
    /// # Errors
    /// The first field that is wrong.
    pub fn check(&self, fields: &mut Fields<'_>) -> Result<(), InputError> {
        let declared = |name: &str| self.0.iter().any(|field| *field.name == *name);
        if let Some(name) = fields.keys().find(|name| !declared(name)) {
            return Err(InputError::Unknown(name.chars().take(60).collect()));
        }
        for field in self.0.iter() {
            let expected = || InputError::Field {
                field: field.name.to_string(),
                expected: field.kind.describe(),
            };
            match fields.get_mut(&*field.name) {
                None if field.required => return Err(expected()),
                None => {}
                // Null stands for a field that is not there.
                Some(value) if **value == *"null" && !field.required => {}
                Some(value) => match field.kind.read(value) {
                    Ok(None) => {}
                    Ok(Some(formed)) => *value = Cow::Owned(formed),
                    Err(()) => return Err(expected()),
                },
            }
        }
        Ok(())
    }
}

impl FieldKind {
    /// Whether a JSON text is of this kind; what it becomes, if that is another.
    fn read(self, json: &str) -> Result<Option<String>, ()> {
        let first = json.as_bytes().first().copied().unwrap_or_default();
        let holds = |yes: bool| if yes { Ok(None) } else { Err(()) };
        match self {
            FieldKind::Any => Ok(None),
            FieldKind::Object => holds(first == b'{'),
            FieldKind::Boolean => holds(matches!(json, "true" | "false")),
            FieldKind::Int => holds(json.parse::<i64>().is_ok()),
            FieldKind::Number => holds(first == b'-' || first.is_ascii_digit()),
            FieldKind::Array(most) => match serde_json::from_str::<Vec<IgnoredAny>>(json) {
                Ok(values) => holds(values.len() <= most),
                Err(_) => Err(()),
            },
            FieldKind::Uuid => {
                let text: Cow<'_, str> = text(json)?;
                let bytes = text.bytes().enumerate();
                let fits = text.len() == 36
                    && bytes.into_iter().all(|(at, byte)| match at {
                        8 | 13 | 18 | 23 => byte == b'-',
                        _ => byte.is_ascii_hexdigit(),
                    });
                holds(fits)
            }
            FieldKind::Text { min, max, trim } => {
                let whole = text(json)?;
                let kept = if trim { whole.trim() } else { &*whole };
                let length = kept.chars().count();
                if length < min || length > max {
                    return Err(());
                }
                match kept.len() == whole.len() {
                    true => Ok(None),
                    false => serde_json::to_string(kept).map(Some).map_err(drop),
                }
            }
        }
    }

    fn describe(self) -> String {
        match self {
            FieldKind::Text { min: 0, max, .. } => format!("a text of at most {max} characters"),
            FieldKind::Text { min, max, .. } => format!("a text of {min} to {max} characters"),
            FieldKind::Int => "a whole number".into(),
            FieldKind::Number => "a number".into(),
            FieldKind::Boolean => "true or false".into(),
            FieldKind::Uuid => "a UUID".into(),
            FieldKind::Object => "an object".into(),
            FieldKind::Array(most) => format!("a list of at most {most} values"),
            FieldKind::Any => "there".into(),
        }
    }
}

fn text(json: &str) -> Result<Cow<'_, str>, ()> {
    serde_json::from_str::<Key<'_>>(json)
        .map(|key| key.0)
        .map_err(drop)
}

/// Text that is borrowed where it can be.
#[derive(PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(transparent)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

/// Any JSON that can be passed on.
struct Plain;

impl<'de> Deserialize<'de> for Plain {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Plain, D::Error> {
        deserializer.deserialize_any(PlainVisitor)
    }
}

struct PlainVisitor;

impl<'de> Visitor<'de> for PlainVisitor {
    type Value = Plain;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value that can be passed on")
    }

    fn visit_unit<E>(self) -> Result<Plain, E> {
        Ok(Plain)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Plain, E> {
        Ok(Plain)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Plain, E> {
        Ok(Plain)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Plain, E> {
        Ok(Plain)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Plain, E> {
        Ok(Plain)
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Plain, E> {
        match text.contains('\0') {
            true => Err(E::custom("NUL")),
            false => Ok(Plain),
        }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut values: A) -> Result<Plain, A::Error> {
        while values.next_element::<Plain>()?.is_some() {}
        Ok(Plain)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Plain, A::Error> {
        while fields.next_entry::<Plain, Plain>()?.is_some() {}
        Ok(Plain)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn schema(fields: &[(&str, FieldKind, bool)]) -> InputSchema {
        let fields = fields.iter().map(|(name, kind, required)| Field {
            name: (*name).into(),
            kind: *kind,
            required: *required,
        });
        InputSchema(fields.collect())
    }

    fn checked(schema: &InputSchema, json: &str) -> Result<String, String> {
        let mut fields = read_fields(json).map_err(|error| error.to_string())?;
        schema
            .check(&mut fields)
            .map_err(|error| error.to_string())?;
        Ok(String::from_utf8(write_fields(&fields).to_vec()).unwrap())
    }

    const CONTENT: FieldKind = FieldKind::Text {
        min: 1,
        max: 5,
        trim: true,
    };

    #[test]
    fn fields_are_checked_and_brought_into_form() {
        let chat = schema(&[
            ("room_id", FieldKind::Int, true),
            ("content", CONTENT, true),
            ("tags", FieldKind::Array(2), false),
        ]);
        let ok = |json| checked(&chat, json).unwrap();
        let refused = |json| checked(&chat, json).unwrap_err();
        assert_eq!(
            ok(r#"{"room_id": 7, "content": "  h\u00e9llo "}"#),
            r#"{"content":"héllo","room_id":7}"#
        );
        assert_eq!(
            ok(r#"{"content":"a","room_id":7,"tags":null}"#),
            r#"{"content":"a","room_id":7,"tags":null}"#
        );
        // Of two with one name, the last; escapes make no second name.
        assert_eq!(
            ok(r#"{"content":"a","room_id":7,"room\u005fid":8}"#),
            r#"{"content":"a","room_id":8}"#
        );
        for (json, says) in [
            ("[1]", "`data` must be an object"),
            ("null", "`data` must be an object"),
            (
                r#"{"room_id":7}"#,
                "`data.content` must be a text of 1 to 5 characters",
            ),
            (
                r#"{"room_id":7,"content":"   "}"#,
                "`data.content` must be a text of 1 to 5 characters",
            ),
            (
                r#"{"room_id":7,"content":"sixsix"}"#,
                "`data.content` must be a text of 1 to 5 characters",
            ),
            (
                r#"{"room_id":7,"content":null}"#,
                "`data.content` must be a text of 1 to 5 characters",
            ),
            (
                r#"{"room_id":"7","content":"a"}"#,
                "`data.room_id` must be a whole number",
            ),
            (
                r#"{"room_id":7.5,"content":"a"}"#,
                "`data.room_id` must be a whole number",
            ),
            (
                r#"{"room_id":7,"content":"a","tags":[1,2,3]}"#,
                "`data.tags` must be a list of at most 2 values",
            ),
            (
                r#"{"room_id":7,"content":"a","user_id":"x"}"#,
                "`data.user_id` is not a field of this event",
            ),
        ] {
            assert_eq!(refused(json), says, "{json}");
        }
    }

    #[test]
    fn kinds_hold_what_they_say() {
        let cases = [
            (FieldKind::Number, "1e5", true),
            (FieldKind::Number, "\"1\"", false),
            (FieldKind::Boolean, "false", true),
            (FieldKind::Boolean, "0", false),
            (FieldKind::Object, "{}", true),
            (FieldKind::Object, "[]", false),
            (
                FieldKind::Uuid,
                "\"00000000-0000-4000-8000-0000000000aB\"",
                true,
            ),
            (
                FieldKind::Uuid,
                "\"00000000-0000-4000-8000-0000000000a\"",
                false,
            ),
            (FieldKind::Uuid, "7", false),
            (FieldKind::Any, "[null]", true),
            (FieldKind::Int, "9223372036854775808", false),
            (FieldKind::Int, "-1", true),
        ];
        for (kind, json, holds) in cases {
            let schema = schema(&[("x", kind, true)]);
            let data = format!("{{\"x\":{json}}}");
            assert_eq!(checked(&schema, &data).is_ok(), holds, "{kind:?} {json}");
        }
    }

    #[test]
    fn what_postgres_cannot_hold_is_refused() {
        for bad in [
            r#"{"a":"\u0000"}"#,
            r#"{"a":["x",{"\u0000":1}]}"#,
            r#"{"a":"\ud800"}"#,
            r#"{"a":1e999}"#,
            r#"{"a":}"#,
        ] {
            assert!(check_json(bad).is_err(), "{bad}");
        }
        for good in [r#"{"a":"\\u0000 \ud83d\ude00"}"#, "7", "null", "[[],{}]"] {
            assert_eq!(check_json(good), Ok(()), "{good}");
        }
    }

    proptest! {
        /// Whatever comes: no panic, and what is written is read again as the same fields.
        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,40}", json in "[\\[\\]{}:,\"a0\\\\u. -]{0,40}") {
            for text in [text, json] {
                if let Ok(fields) = read_fields(&text) {
                    let written = String::from_utf8(write_fields(&fields).to_vec()).unwrap();
                    prop_assert_eq!(read_fields(&written).unwrap(), fields);
                }
            }
        }

        #[test]
        fn trimmed_text_is_what_trim_says(text in "[ \ta\u{e9}\u{2003}]{0,12}") {
            let schema = schema(&[("content", FieldKind::Text { min: 0, max: 5, trim: true }, true)]);
            let json = format!("{{\"content\":{}}}", serde_json::to_string(&text).unwrap());
            let kept = text.trim();
            let wanted = format!("{{\"content\":{}}}", serde_json::to_string(kept).unwrap());
            match checked(&schema, &json) {
                Ok(written) => {
                    let same: serde_json::Value = serde_json::from_str(&written).unwrap();
                    prop_assert_eq!(same, serde_json::from_str::<serde_json::Value>(&wanted).unwrap());
                    prop_assert!(kept.chars().count() <= 5);
                }
                Err(_) => prop_assert!(kept.chars().count() > 5),
            }
        }
    }
}
