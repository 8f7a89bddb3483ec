//! What of a client's data is passed on: checked, written anew where fields are known, and never with somebody
//! else's name on it. Pure.

use bytes::Bytes;
use rowcast_model::{
    Becomes, ClientEventRule, Fields, InputError, SENDER_FIELD, UserId, check_json, read_fields,
    write_fields,
};

/// The data of an event in the form that its rule wants. What is relayed says who sent it: `sender` is the user,
/// `None` for a machine.
///
/// # Errors
/// What is wrong with it.
pub(super) fn form(
    rule: &ClientEventRule,
    data: &Bytes,
    sender: Option<&UserId>,
) -> Result<Bytes, InputError> {
    if data.len() > rule.max_bytes {
        return Err(InputError::Data("is larger than this event may be"));
    }
    let json = std::str::from_utf8(data).map_err(|_| InputError::Data("is not UTF-8"))?;
    let relayed = matches!(rule.becomes, Becomes::Relay(_));
    if !relayed && rule.input.is_none() {
        check_json(json)?;
        return Ok(data.clone());
    }
    // Data that was left out has no fields.
    let mut fields: Fields<'_> = match json {
        "null" => Fields::new(),
        json => read_fields(json)?,
    };
    if relayed {
        fields.remove(SENDER_FIELD);
    }
    if let Some(input) = &rule.input {
        input.check(&mut fields)?;
    }
    if relayed {
        // Text can always be written; without it, it would be nobody's.
        let name = sender.and_then(|user| serde_json::to_string(user.as_str()).ok());
        let name = name.unwrap_or_else(|| "null".into());
        fields.insert(SENDER_FIELD.into(), name.into());
    }
    Ok(write_fields(&fields))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rowcast_model::{Field, FieldKind, InputSchema};

    fn rule(becomes: Becomes, fields: Option<&[(&str, FieldKind)]>) -> ClientEventRule {
        let field = |(name, kind): &(&str, FieldKind)| Field {
            name: (*name).into(),
            kind: *kind,
            required: true,
        };
        ClientEventRule {
            pattern: "document:*".parse().unwrap(),
            event: "cursor_move".into(),
            becomes,
            roles: [].into(),
            input: fields.map(|fields| InputSchema(fields.iter().map(field).collect())),
            max_bytes: 60,
            throttle: None,
            rate: None,
        }
    }

    fn formed(rule: &ClientEventRule, json: &str) -> Result<String, String> {
        let anna = UserId::from("an\"na");
        form(rule, &Bytes::copy_from_slice(json.as_bytes()), Some(&anna))
            .map(|bytes| String::from_utf8(bytes.to_vec()).unwrap())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn a_relay_says_who_sent_it_and_believes_nobody() {
        let relay = || Becomes::Relay("cursor_update".into());
        let any = rule(relay(), None);
        let out = r#"{"position":{"x": 1},"user_id":"an\"na"}"#;
        for json in [
            r#"{"position":{"x": 1}}"#,
            r#"{"user_id":"bert","position":{"x": 1}}"#,
            r#"{"position":{"x": 1},"user\u005fid":"bert"}"#,
        ] {
            assert_eq!(formed(&any, json).as_deref(), Ok(out), "{json}");
        }
        assert_eq!(
            formed(&any, "null").as_deref(),
            Ok(r#"{"user_id":"an\"na"}"#)
        );
        assert!(formed(&any, "[1]").is_err());
        assert!(formed(&any, &format!("{{\"a\":\"{}\"}}", "x".repeat(60))).is_err());
        let machine = form(&any, &Bytes::from_static(b"{}"), None).unwrap();
        assert_eq!(&machine[..], br#"{"user_id":null}"#);
        let strict = rule(relay(), Some(&[("position", FieldKind::Object)]));
        assert_eq!(
            formed(&strict, r#"{"user_id":"bert","position":{"x": 1}}"#).as_deref(),
            Ok(out)
        );
        assert_eq!(
            formed(&strict, r#"{"position":{},"admin":true}"#).unwrap_err(),
            "`data.admin` is not a field of this event"
        );
    }

    #[test]
    fn questions_get_what_was_sent_or_what_was_declared() {
        let question = || Becomes::Question(rowcast_model::Handler::Webhook("chat".into()));
        let any = rule(question(), None);
        for json in ["null", "[1, 2]", r#"{"user_id": "bert"}"#] {
            assert_eq!(formed(&any, json).as_deref(), Ok(json), "{json}");
        }
        assert!(formed(&any, r#""\u0000""#).is_err());
        let strict = rule(question(), Some(&[("n", FieldKind::Int)]));
        assert_eq!(
            formed(&strict, r#"{ "n": 7 }"#).as_deref(),
            Ok(r#"{"n":7}"#)
        );
        assert!(formed(&strict, "null").is_err());
    }

    proptest! {
        /// Whatever a client sends, what is relayed is an object whose one `user_id` is the sender's.
        #[test]
        fn no_data_forges_a_sender(json in "[{}\\[\\]:,\"a-z_\\\\ 0-9]{0,40}", value in "\\PC{0,9}", key in "user_id|userid|user_id |\\\\u0075ser_id") {
            let any = rule(Becomes::Relay("out".into()), None);
            let value = serde_json::to_string(&value).unwrap();
            for json in [json, format!("{{\"{key}\":{value}}}")] {
                if let Ok(out) = formed(&any, &json) {
                    let read: serde_json::Value = serde_json::from_str(&out).unwrap();
                    prop_assert_eq!(&read["user_id"], "an\"na");
                    prop_assert_eq!(out.matches("\"user_id\":").count(), 1);
                }
            }
        }
    }
}
