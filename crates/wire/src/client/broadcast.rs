//! What a client wants to say to others on a channel. Owns the shape of that frame and its limits; whether the
//! channel lets clients send, and which events, is for the hub to decide.

use std::{borrow::Cow, sync::Arc};

use bytes::Bytes;
use rowcast_model::{Channel, MAX_EVENT_BYTES, MAX_PAYLOAD_BYTES, OrgId, is_name};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{FrameError, channel, field, fields, is_sound, organization};
use crate::Ref;

/// A `broadcast` frame of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientBroadcast {
    /// When there is one, the frame is answered with an `ack`.
    pub reference: Option<Ref>,
    /// Where.
    pub channel: Channel,
    /// In which organization a name of the application is meant; absent: that of the socket.
    pub organization: Option<OrgId>,
    /// What happened.
    pub event: Arc<str>,
    /// More about it: JSON text.
    pub payload: Bytes,
    /// The sender's own socket gets it, too.
    pub to_self: bool,
}

#[derive(Deserialize)]
struct Raw<'a> {
    #[serde(borrow)]
    channel: Cow<'a, str>,
    #[serde(borrow)]
    event: Cow<'a, str>,
    #[serde(borrow)]
    payload: Option<&'a RawValue>,
    #[serde(rename = "organizationId")]
    organization: Option<String>,
    #[serde(rename = "self")]
    to_self: Option<bool>,
}

/// Reads the fields of the frame.
pub(super) fn read(text: &str, reference: Option<Ref>) -> Result<ClientBroadcast, FrameError> {
    let raw: Raw<'_> = fields(text)?;
    if !is_name(&raw.event, MAX_EVENT_BYTES) {
        return Err(field(format!(
            "`event` must be a text of 1 to {MAX_EVENT_BYTES} bytes without control characters"
        )));
    }
    let payload = raw.payload.map_or("null", RawValue::get);
    if payload.len() > MAX_PAYLOAD_BYTES {
        return Err(field(format!(
            "`payload` may have {MAX_PAYLOAD_BYTES} bytes"
        )));
    }
    if !is_sound(payload) {
        return Err(field("`payload` holds half of a character"));
    }
    Ok(ClientBroadcast {
        reference,
        channel: channel(&raw.channel)?,
        organization: organization(raw.organization)?,
        event: raw.event.into(),
        payload: Bytes::copy_from_slice(payload.as_bytes()),
        to_self: raw.to_self.unwrap_or(false),
    })
}

#[cfg(test)]
mod tests {
    use crate::{ClientFrame, ErrorCode, Limits, parse};

    fn read(text: &str) -> Result<ClientFrame, ErrorCode> {
        parse(text.as_bytes(), &Limits::default()).map_err(|error| error.code)
    }

    #[test]
    fn a_broadcast_of_a_client_is_read_and_checked() {
        let whole = r#"{"type":"broadcast","ref":7,"channel":"room:1","event":"typing",
            "payload":{"x": 1},"organizationId":"acme","self":true}"#;
        let Ok(ClientFrame::Broadcast(read_whole)) = read(whole) else {
            panic!("{:?}", read(whole));
        };
        assert_eq!(&*read_whole.event, "typing");
        assert_eq!(&read_whole.payload[..], br#"{"x": 1}"#);
        assert!(read_whole.to_self && read_whole.reference.is_some());
        assert_eq!(read_whole.organization, Some("acme".into()));
        let short = r#"{"type":"broadcast","channel":"room:1","event":"typing"}"#;
        let Ok(ClientFrame::Broadcast(short)) = read(short) else {
            panic!("{:?}", read(short));
        };
        assert_eq!(&short.payload[..], b"null");
        assert!(!short.to_self && short.organization.is_none());
        let long = "e".repeat(129);
        for (event, code) in [
            ("", ErrorCode::InvalidField),
            ("a\\nb", ErrorCode::InvalidField),
            (&*long, ErrorCode::InvalidField),
        ] {
            let text = format!(r#"{{"type":"broadcast","channel":"room:1","event":"{event}"}}"#);
            assert_eq!(read(&text), Err(code), "{event}");
        }
        let half = r#"{"type":"broadcast","channel":"room:1","event":"e","payload":["\udc00"]}"#;
        assert_eq!(read(half), Err(ErrorCode::InvalidField));
        let nameless = r#"{"type":"broadcast","channel":"org:","event":"e"}"#;
        assert_eq!(read(nameless), Err(ErrorCode::UnknownChannel));
        let nowhere = r#"{"type":"broadcast","event":"e"}"#;
        assert_eq!(read(nowhere), Err(ErrorCode::InvalidField));
    }
}
