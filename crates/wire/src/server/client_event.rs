//! What is answered to events of clients.

use serde::Serialize;
use serde_json::value::RawValue;

use super::frame;
use crate::{ErrorCode, Frame, Ref};

/// What became of an event that was taken.
#[derive(Clone, Copy, Debug)]
pub enum EventAnswer<'a> {
    /// What the handler returned; of a relay, null.
    Data(&'a RawValue),
    /// It came too fast, and was dropped as its definition says.
    Dropped,
}

/// The reply to `event`.
pub fn event_reply(reference: &Ref, channel: &str, event: &str, answer: EventAnswer<'_>) -> Frame {
    #[derive(Serialize)]
    struct Reply<'a> {
        r#type: &'a str,
        #[serde(rename = "ref")]
        reference: &'a Ref,
        channel: &'a str,
        event: &'a str,
        data: Option<&'a RawValue>,
        #[serde(skip_serializing_if = "Option::is_none")]
        dropped: Option<bool>,
    }
    let (data, dropped) = match answer {
        EventAnswer::Data(data) => (Some(data), None),
        EventAnswer::Dropped => (None, Some(true)),
    };
    frame(&Reply {
        r#type: "event_reply",
        reference,
        channel,
        event,
        data,
        dropped,
    })
}

/// Why an event was refused.
#[derive(Clone, Copy, Debug)]
pub struct EventError<'a> {
    /// The number and name.
    pub code: ErrorCode,
    /// For people.
    pub message: &'a str,
    /// The application's own code.
    pub reason: Option<&'a str>,
    /// When it may be tried again.
    pub retry_after_ms: Option<u64>,
}

impl<'a> EventError<'a> {
    /// A number, and what is wrong.
    pub fn new(code: ErrorCode, message: &'a str) -> EventError<'a> {
        EventError {
            code,
            message,
            reason: None,
            retry_after_ms: None,
        }
    }

    /// A number that says everything.
    pub fn of(code: ErrorCode) -> EventError<'static> {
        EventError::new(code, code.sentence())
    }
}

/// A numbered error that says which event it is about, as not every event has a `ref`.
pub fn event_error(
    reference: Option<&Ref>,
    channel: &str,
    event: &str,
    error: EventError<'_>,
) -> Frame {
    #[derive(Serialize)]
    struct Refused<'a> {
        r#type: &'a str,
        #[serde(rename = "ref", skip_serializing_if = "Option::is_none")]
        reference: Option<&'a Ref>,
        code: u16,
        name: &'a str,
        message: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        reason: Option<&'a str>,
        channel: &'a str,
        event: &'a str,
        #[serde(rename = "retryAfterMs", skip_serializing_if = "Option::is_none")]
        retry_after_ms: Option<u64>,
    }
    frame(&Refused {
        r#type: "error",
        reference,
        code: error.code.number(),
        name: error.code.name(),
        message: error.message,
        reason: error.reason,
        channel,
        event,
        retry_after_ms: error.retry_after_ms,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(frame: &Frame) -> &str {
        let (payload, _) = crate::payload_of(frame).unwrap();
        std::str::from_utf8(payload).unwrap()
    }

    #[test]
    fn say_what_the_documents_say() {
        let reference = Ref::from_json("7").unwrap();
        let data = RawValue::from_string(r#"{"id":1}"#.into()).unwrap();
        assert_eq!(
            text(&event_reply(
                &reference,
                "room:7",
                "join",
                EventAnswer::Data(&data)
            )),
            r#"{"type":"event_reply","ref":7,"channel":"room:7","event":"join","data":{"id":1}}"#
        );
        assert_eq!(
            text(&event_reply(
                &reference,
                "room:7",
                "join",
                EventAnswer::Dropped
            )),
            r#"{"type":"event_reply","ref":7,"channel":"room:7","event":"join","data":null,"dropped":true}"#
        );
        let refused = EventError {
            code: ErrorCode::Refused,
            message: "Not a member of this room",
            reason: Some("accessdenied"),
            retry_after_ms: None,
        };
        assert_eq!(
            text(&event_error(None, "room:7", "join", refused)),
            r#"{"type":"error","code":320,"name":"refused","message":"Not a member of this room","reason":"accessdenied","channel":"room:7","event":"join"}"#
        );
    }
}
