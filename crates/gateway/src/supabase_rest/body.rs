//! What a body says. Owns its shape and its limits: bytes in, messages or a refusal out, without a look at the clock
//! or the hub. What Supabase's server passes over is passed over here.

use std::sync::Arc;

use axum::http::HeaderValue;
use bytes::Bytes;
use rowcast_model::{Channel, MAX_EVENT_BYTES, MAX_PAYLOAD_BYTES, is_name};
use rowcast_wire::{deeper_than, is_sound};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::Refusal;
use crate::broadcast::body::{MAX_DEPTH, MAX_MESSAGES};

/// One thing to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Saying {
    /// Where.
    pub channel: Channel,
    /// What happened.
    pub event: Arc<str>,
    /// More about it: a JSON object as it came.
    pub payload: Bytes,
}

#[derive(Deserialize)]
struct RawBatch<'a> {
    #[serde(borrow)]
    messages: Option<Vec<&'a RawValue>>,
}

#[derive(Deserialize)]
struct Raw<'a> {
    #[serde(borrow)]
    topic: Option<&'a RawValue>,
    #[serde(borrow)]
    event: Option<&'a RawValue>,
    #[serde(borrow)]
    payload: Option<&'a RawValue>,
    #[serde(borrow)]
    private: Option<&'a RawValue>,
}

/// Refuses what is not JSON. Who does not say what it is means JSON.
pub(super) fn check_type(of: Option<&HeaderValue>) -> Result<(), Refusal> {
    let Some(of) = of else { return Ok(()) };
    let kind = of.to_str().unwrap_or_default().split(';').next();
    let kind = kind.unwrap_or_default().trim().to_ascii_lowercase();
    match &*kind {
        "application/json" => Ok(()),
        "application/octet-stream" => Err(Refusal::media_type(
            "binary messages are not delivered here; send a JSON object as application/json",
        )),
        _ => Err(Refusal::media_type(
            "send a JSON object as application/json",
        )),
    }
}

/// Reads a list of messages, all of them or none.
pub(super) fn batch(bytes: &[u8]) -> Result<Vec<Saying>, Refusal> {
    let text = sound(bytes, "body")?;
    let raw: RawBatch<'_> = read(text, "body")?;
    let messages = raw.messages.unwrap_or_default();
    if !(1..=MAX_MESSAGES).contains(&messages.len()) {
        let message = format!("must hold 1 to {MAX_MESSAGES} messages");
        return Err(Refusal::invalid("messages", message));
    }
    let one = |(index, raw): (usize, &&RawValue)| {
        let at = |field: &str| format!("messages[{index}].{field}");
        let raw: Raw<'_> = read(raw.get(), &format!("messages[{index}]"))?;
        let text = |field: &str, raw: Option<&RawValue>| match raw {
            Some(raw) => read::<String>(raw.get(), &at(field)),
            None => Err(Refusal::invalid(at(field), "can't be blank")),
        };
        let topic = text("topic", raw.topic)?;
        let event = text("event", raw.event)?;
        let payload = raw.payload.map_or("", RawValue::get);
        let private = raw.private.map_or("null", RawValue::get);
        if !matches!(private, "null" | "true" | "false") {
            return Err(Refusal::invalid(at("private"), "must be true or false"));
        }
        saying(&topic, &event, payload, at)
    };
    messages.iter().enumerate().map(one).collect()
}

/// Reads one message, of which the address says the rest.
pub(super) fn single(topic: &str, event: &str, bytes: &[u8]) -> Result<Saying, Refusal> {
    let text = sound(bytes, "payload")?;
    // Whatever follows the object would end that of the receivers.
    let payload: &RawValue = read(text, "payload")?;
    saying(topic, event, payload.get(), str::to_owned)
}

fn saying(
    topic: &str,
    event: &str,
    payload: &str,
    at: impl Fn(&str) -> String,
) -> Result<Saying, Refusal> {
    let channel: Channel = topic
        .parse()
        .map_err(|error| Refusal::invalid(at("topic"), format!("{error}")))?;
    if !is_name(event, MAX_EVENT_BYTES) {
        let message = format!("must have 1 to {MAX_EVENT_BYTES} bytes and no control characters");
        return Err(Refusal::invalid(at("event"), message));
    }
    // Clients look for members in it.
    if !payload.starts_with('{') {
        return Err(Refusal::invalid(at("payload"), "must be a JSON object"));
    }
    if payload.len() > MAX_PAYLOAD_BYTES {
        let message = format!("a payload may have {MAX_PAYLOAD_BYTES} bytes");
        return Err(Refusal::too_large(at("payload"), message));
    }
    Ok(Saying {
        channel,
        event: event.into(),
        payload: Bytes::copy_from_slice(payload.as_bytes()),
    })
}

/// Text of which nobody has to be afraid who reads on.
fn sound<'a>(bytes: &'a [u8], field: &str) -> Result<&'a str, Refusal> {
    if deeper_than(bytes, MAX_DEPTH) {
        let message = format!("is nested deeper than {MAX_DEPTH} levels");
        return Err(Refusal::invalid(field, message));
    }
    match str::from_utf8(bytes) {
        Ok(text) if is_sound(text) => Ok(text),
        _ => Err(Refusal::invalid(
            field,
            "is no text, or there is half a character or a number out of range in it",
        )),
    }
}

fn read<'a, T: Deserialize<'a>>(text: &'a str, field: &str) -> Result<T, Refusal> {
    serde_json::from_str(text).map_err(|error| {
        let message: String = error.to_string().chars().take(200).collect();
        Refusal::invalid(field, message)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn said(channel: &str, event: &str, payload: &str) -> Saying {
        Saying {
            channel: channel.parse().unwrap(),
            event: event.into(),
            payload: Bytes::copy_from_slice(payload.as_bytes()),
        }
    }

    #[test]
    fn a_batch_is_its_messages_in_order() {
        let body = br#"{"messages":[
            {"topic":"room:1","event":"a","payload":{"n": 1},"private":true,"id":"7","more":[]},
            {"topic":"org:org_1","event":"b c","payload":{}}],"more":1}"#;
        let expected = [
            said("room:1", "a", r#"{"n": 1}"#),
            said("org:org_1", "b c", "{}"),
        ];
        assert_eq!(batch(body).unwrap(), expected);
        let one = single("room:1", "a", br#"  {"n": 1}  "#).unwrap();
        assert_eq!(one, expected[0]);
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        let refused = |body: &str| {
            let refusal = batch(body.as_bytes()).unwrap_err();
            (refusal.status.as_u16(), refusal.field.unwrap())
        };
        let with = |message: &str| {
            let good = r#"{"topic":"room:1","event":"a","payload":{}}"#;
            refused(&format!(r#"{{"messages":[{good},{message}]}}"#))
        };
        let at = |status, field: &str| (status, field.to_owned());
        assert_eq!(refused("{"), at(422, "body"));
        assert_eq!(refused("[]"), at(422, "body"));
        assert_eq!(refused(r#"{"a":"\ud800"}"#), at(422, "body"));
        assert_eq!(refused(&"[".repeat(100)), at(422, "body"));
        assert_eq!(refused("{}"), at(422, "messages"));
        assert_eq!(refused(r#"{"messages":[]}"#), at(422, "messages"));
        let many = format!(r#"{{"messages":[{}1]}}"#, "1,".repeat(MAX_MESSAGES));
        assert_eq!(refused(&many), at(422, "messages"));
        assert_eq!(with("7"), at(422, "messages[1]"));
        assert_eq!(
            with(r#"{"event":"a","payload":{}}"#),
            at(422, "messages[1].topic")
        );
        let topic = r#"{"topic":"a::b","event":"a","payload":{}}"#;
        assert_eq!(with(topic), at(422, "messages[1].topic"));
        let event = r#"{"topic":"room:1","event":7,"payload":{}}"#;
        assert_eq!(with(event), at(422, "messages[1].event"));
        let event = r#"{"topic":"room:1","event":"","payload":{}}"#;
        assert_eq!(with(event), at(422, "messages[1].event"));
        let private = r#"{"topic":"room:1","event":"a","payload":{},"private":1}"#;
        assert_eq!(with(private), at(422, "messages[1].private"));
        for payload in [
            "",
            r#","payload":null"#,
            r#","payload":[1]"#,
            r#","payload":"x""#,
        ] {
            let message = format!(r#"{{"topic":"room:1","event":"a"{payload}}}"#);
            assert_eq!(with(&message), at(422, "messages[1].payload"), "{payload}");
        }
        let large = "x".repeat(MAX_PAYLOAD_BYTES);
        let large = format!(r#"{{"topic":"room:1","event":"a","payload":{{"x":"{large}"}}}}"#);
        assert_eq!(with(&large), at(413, "messages[1].payload"));
        // What follows an object is not told to anybody.
        assert!(single("room:1", "a", br#"{},"x":1"#).is_err());
        assert!(single("room:1", "a", b"").is_err() && single("", "", b"{}").is_err());
    }

    #[test]
    fn only_json_is_taken() {
        let check = |kind: &'static str| {
            let kind = HeaderValue::from_static(kind);
            check_type(Some(&kind)).map_err(|refusal| refusal.status.as_u16())
        };
        assert_eq!(check_type(None), Ok(()));
        assert_eq!(check("Application/JSON; charset=utf-8"), Ok(()));
        assert_eq!(check("application/octet-stream"), Err(415));
        assert_eq!(check("text/plain"), Err(415));
    }

    proptest! {
        /// Whatever comes is a refusal or messages, and what is told is JSON.
        #[test]
        fn never_panics_and_tells_json(bytes in prop::collection::vec(any::<u8>(), 0..80), text in "[{}\\[\\]\",:a-z0-9\\\\ ]{0,60}") {
            let _ = batch(&bytes);
            for body in [&bytes[..], text.as_bytes()] {
                if let Ok(one) = single("room:1", "a", body) {
                    prop_assert!(serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(&one.payload).is_ok());
                }
            }
            let _ = batch(format!(r#"{{"messages":[{text}]}}"#).as_bytes());
        }
    }
}
