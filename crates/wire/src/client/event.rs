//! An event of a client for the application. Owns the shape of that frame; whether it may be sent, and what its
//! data must look like, says its definition.

use std::{borrow::Cow, sync::Arc};

use bytes::Bytes;
use rowcast_model::{Channel, MAX_EVENT_BYTES, MAX_PAYLOAD_BYTES, OrgId, is_name};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{FrameError, channel, field, fields, organization};
use crate::Ref;

/// An `event` frame of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientEvent {
    /// When there is one, the answer carries it; without, only errors are answered.
    pub reference: Option<Ref>,
    /// Where.
    pub channel: Channel,
    /// In which organization a name of the application is meant; absent: that of the socket.
    pub organization: Option<OrgId>,
    /// What happened.
    pub event: Arc<str>,
    /// More about it: JSON text.
    pub data: Bytes,
}

#[derive(Deserialize)]
struct Raw<'a> {
    #[serde(borrow)]
    channel: Cow<'a, str>,
    #[serde(borrow)]
    event: Cow<'a, str>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    #[serde(rename = "organizationId")]
    organization: Option<String>,
}

/// Reads the fields of the frame.
pub(super) fn read(text: &str, reference: Option<Ref>) -> Result<ClientEvent, FrameError> {
    let raw: Raw<'_> = fields(text)?;
    if !is_name(&raw.event, MAX_EVENT_BYTES) {
        return Err(field(format!(
            "`event` must be a text of 1 to {MAX_EVENT_BYTES} bytes without control characters"
        )));
    }
    let data = raw.data.map_or("null", RawValue::get);
    if data.len() > MAX_PAYLOAD_BYTES {
        return Err(field(format!("`data` may have {MAX_PAYLOAD_BYTES} bytes")));
    }
    Ok(ClientEvent {
        reference,
        channel: channel(&raw.channel)?,
        organization: organization(raw.organization)?,
        event: raw.event.into(),
        data: Bytes::copy_from_slice(data.as_bytes()),
    })
}

#[cfg(test)]
mod tests {
    use crate::{ClientFrame, ErrorCode, Limits, parse};

    fn read(text: &str) -> Result<ClientFrame, ErrorCode> {
        parse(text.as_bytes(), &Limits::default()).map_err(|error| error.code)
    }

    #[test]
    fn an_event_of_a_client_is_read_and_checked() {
        let whole = r#"{"type":"event","ref":7,"channel":"room:1","event":"join",
            "data":{"x": 1},"organizationId":"acme"}"#;
        let Ok(ClientFrame::Event(whole)) = read(whole) else {
            panic!("{:?}", read(whole));
        };
        assert_eq!(
            (&*whole.event, &whole.data[..]),
            ("join", &br#"{"x": 1}"#[..])
        );
        assert_eq!(whole.organization, Some("acme".into()));
        let Ok(ClientFrame::Event(short)) =
            read(r#"{"type":"event","channel":"room:1","event":"join"}"#)
        else {
            panic!("no event");
        };
        assert_eq!(&short.data[..], b"null");
        assert!(short.reference.is_none() && short.organization.is_none());
        for bad in [
            r#"{"type":"event","channel":"room:1","event":""}"#,
            r#"{"type":"event","channel":"room:1"}"#,
            r#"{"type":"event","event":"join"}"#,
            r#"{"type":"event","channel":"room:1","event":"join","organizationId":""}"#,
        ] {
            assert_eq!(read(bad), Err(ErrorCode::InvalidField), "{bad}");
        }
    }
}
