//! What a client may say. Owns the shape of its frames and their limits; refuses everything else with
//! a numbered error that names the field, and never panics.

mod broadcast;
mod event;
mod grant;
mod presence;
mod subscribe;

use std::borrow::Cow;

use rowcast_model::{Channel, Cursor, MAX_ID_BYTES, OrgId, is_name};
use serde::Deserialize;
use serde_json::value::RawValue;

pub use self::{
    broadcast::ClientBroadcast,
    event::ClientEvent,
    grant::GrantText,
    presence::{ClientPresence, Follow, MAX_LISTED, PresenceAction},
    subscribe::{Columns, Forms, Mode, Subscribe, TableSelection},
};
use crate::{ErrorCode, FilterLimits, Ref};

/// Longest `ref`, in bytes of its JSON text.
pub const MAX_REF_BYTES: usize = 64;

/// How large a client's frames may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one frame.
    pub frame_bytes: usize,
    /// Nesting of JSON objects and arrays.
    pub json_depth: usize,
    /// Entries of a subscription's table list.
    pub tables: usize,
    /// Names in one column list.
    pub columns: usize,
    /// Limits of one filter.
    pub filter: FilterLimits,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            frame_bytes: 64 * 1024,
            json_depth: 16,
            tables: 64,
            columns: 256,
            filter: FilterLimits::default(),
        }
    }
}

/// An `auth` frame. Its `Debug` form does not show the token.
#[derive(Clone, PartialEq, Eq)]
pub struct Auth {
    /// A JWT or an API key.
    pub token: String,
    /// The organization; absent: the key's own, or the only one of the user.
    pub organization: Option<String>,
    /// The channels that the socket is on from the start go on from here.
    pub cursor: Option<Cursor>,
}

impl std::fmt::Debug for Auth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Auth")
            .field("organization", &self.organization)
            .finish_non_exhaustive()
    }
}

/// A frame of a client.
#[derive(Clone, PartialEq)]
pub enum ClientFrame {
    /// Who it is: the first frame.
    Auth(Auth),
    /// Subscribe to a channel, or replace the subscription to it.
    Subscribe(Box<Subscribe>),
    /// End a subscription.
    Unsubscribe {
        /// Echoed in the reply.
        reference: Option<Ref>,
        /// Of what.
        channel: Channel,
        /// In which organization; as in [`Subscribe::organization`].
        organization: Option<OrgId>,
    },
    /// Something for the others on a channel.
    Broadcast(Box<ClientBroadcast>),
    /// Something for the application, or checked by it.
    Event(Box<ClientEvent>),
    /// Something about who is on a channel.
    Presence(Box<ClientPresence>),
    /// A fresh token for the open socket.
    Token {
        /// Echoed in the reply.
        reference: Option<Ref>,
        /// The token.
        token: String,
    },
    /// Asks for a `pong`.
    Ping {
        /// Echoed in the reply.
        reference: Option<Ref>,
    },
    /// Answers a `ping`.
    Pong,
}

impl std::fmt::Debug for ClientFrame {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ClientFrame::Auth(auth) => auth.fmt(f),
            ClientFrame::Subscribe(subscribe) => subscribe.fmt(f),
            ClientFrame::Unsubscribe { channel, .. } => write!(f, "Unsubscribe({channel})"),
            ClientFrame::Broadcast(broadcast) => broadcast.fmt(f),
            ClientFrame::Event(event) => event.fmt(f),
            ClientFrame::Presence(presence) => presence.fmt(f),
            ClientFrame::Token { .. } => f.write_str("Token"),
            ClientFrame::Ping { .. } => f.write_str("Ping"),
            ClientFrame::Pong => f.write_str("Pong"),
        }
    }
}

/// Why a frame was refused; carries what the `error` frame says.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct FrameError {
    /// The number and name.
    pub code: ErrorCode,
    /// What is wrong and where, for a person.
    pub message: String,
    /// The `ref` of the refused frame, as far as it could be read.
    pub reference: Option<Ref>,
}

impl FrameError {
    fn new(code: ErrorCode, message: impl Into<String>) -> FrameError {
        FrameError {
            code,
            message: message.into(),
            reference: None,
        }
    }

    /// The stable name of the error.
    pub fn code(&self) -> &'static str {
        self.code.name()
    }
}

#[derive(Deserialize)]
struct Head<'a> {
    #[serde(rename = "type", borrow)]
    kind: Option<Cow<'a, str>>,
    #[serde(rename = "ref", borrow)]
    reference: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct RawAuth<'a> {
    token: String,
    #[serde(rename = "organizationId")]
    organization: Option<String>,
    #[serde(borrow)]
    cursor: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct RawToken {
    token: String,
}

#[derive(Deserialize)]
struct RawUnsubscribe<'a> {
    #[serde(borrow)]
    channel: Cow<'a, str>,
    #[serde(rename = "organizationId")]
    organization: Option<String>,
}

/// Reads one text frame.
///
/// # Errors
/// [`FrameError`] with the code and sentence to send back; none of them ends the socket by itself,
/// [`ErrorCode::TooLarge`] is for the caller to judge.
pub fn parse(bytes: &[u8], limits: &Limits) -> Result<ClientFrame, FrameError> {
    if bytes.len() > limits.frame_bytes {
        let most = limits.frame_bytes;
        let message = format!(
            "the frame has {} bytes, at most {most} are allowed",
            bytes.len()
        );
        return Err(FrameError::new(ErrorCode::TooLarge, message));
    }
    if deeper_than(bytes, limits.json_depth) {
        let message = format!(
            "the JSON is nested deeper than {} levels",
            limits.json_depth
        );
        return Err(FrameError::new(ErrorCode::TooDeep, message));
    }
    let text = std::str::from_utf8(bytes)
        .map_err(|_| FrameError::new(ErrorCode::MalformedJson, "the frame is not UTF-8"))?;
    let head: Head<'_> = serde_json::from_str(text).map_err(|error| malformed(&error))?;
    let reference = match head.reference {
        None => None,
        Some(raw) => Some(Ref::from_json(raw.get()).ok_or_else(|| {
            FrameError::new(
                ErrorCode::InvalidField,
                "`ref` must be a string or a number of at most 64 bytes",
            )
        })?),
    };
    let kind = head.kind.unwrap_or_default();
    body(&kind, reference.clone(), text, limits).map_err(|error| FrameError { reference, ..error })
}

fn body(
    kind: &str,
    reference: Option<Ref>,
    text: &str,
    limits: &Limits,
) -> Result<ClientFrame, FrameError> {
    match kind {
        "auth" => {
            let raw: RawAuth<'_> = fields(text)?;
            Ok(ClientFrame::Auth(Auth {
                token: raw.token,
                organization: raw.organization,
                cursor: cursor(raw.cursor)?,
            }))
        }
        "token" => {
            let RawToken { token } = fields(text)?;
            Ok(ClientFrame::Token { reference, token })
        }
        "subscribe" => {
            let raw: subscribe::RawSubscribe<'_> = fields(text)?;
            let subscribe = subscribe::subscribe(raw, reference, limits)?;
            Ok(ClientFrame::Subscribe(Box::new(subscribe)))
        }
        "unsubscribe" => {
            let raw: RawUnsubscribe<'_> = fields(text)?;
            let channel = channel(&raw.channel)?;
            let organization = organization(raw.organization)?;
            Ok(ClientFrame::Unsubscribe {
                reference,
                channel,
                organization,
            })
        }
        "broadcast" => {
            let broadcast = broadcast::read(text, reference)?;
            Ok(ClientFrame::Broadcast(Box::new(broadcast)))
        }
        "event" => {
            let event = event::read(text, reference)?;
            Ok(ClientFrame::Event(Box::new(event)))
        }
        "presence" => {
            let presence = presence::read(text, reference)?;
            Ok(ClientFrame::Presence(Box::new(presence)))
        }
        "ping" => Ok(ClientFrame::Ping { reference }),
        "pong" => Ok(ClientFrame::Pong),
        other => {
            let shown: String = other.chars().take(40).collect();
            let message = format!(
                "`type` is `{shown}`; known are auth, subscribe, unsubscribe, broadcast, event, presence, token, ping, pong"
            );
            Err(FrameError::new(ErrorCode::UnknownType, message))
        }
    }
}

fn organization(text: Option<String>) -> Result<Option<OrgId>, FrameError> {
    match text {
        Some(text) if !is_name(&text, MAX_ID_BYTES) => Err(field(
            "`organizationId` must be a text of 1 to 255 bytes, or be left away",
        )),
        text => Ok(text.map(OrgId::from)),
    }
}

fn cursor(text: Option<Cow<'_, str>>) -> Result<Option<Cursor>, FrameError> {
    text.map(|text| text.parse::<Cursor>())
        .transpose()
        .map_err(|error| FrameError::new(ErrorCode::InvalidCursor, error.to_string()))
}

fn channel(text: &str) -> Result<Channel, FrameError> {
    text.parse::<Channel>()
        .map_err(|error| FrameError::new(ErrorCode::UnknownChannel, error.to_string()))
}

fn field(message: impl Into<String>) -> FrameError {
    FrameError::new(ErrorCode::InvalidField, message)
}

fn fields<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, FrameError> {
    serde_json::from_str(text).map_err(|error| malformed(&error))
}

/// Sentences of the JSON reader name fields and places, never values of the token: those are strings.
fn malformed(error: &serde_json::Error) -> FrameError {
    let code = match error.classify() {
        serde_json::error::Category::Data => ErrorCode::InvalidField,
        _ => ErrorCode::MalformedJson,
    };
    let message: String = error.to_string().chars().take(200).collect();
    FrameError::new(code, message)
}

/// Whether any reader of JSON understands it: halves of characters are not looked for where JSON is only skipped,
/// and nobody shall be able to send the others what ends theirs.
pub fn is_sound(text: &str) -> bool {
    !text.contains("\\u") || serde_json::from_str::<serde_json::Value>(text).is_ok()
}

/// Whether brackets outside strings nest deeper than `most`; cheap enough to run before any parsing.
pub fn deeper_than(bytes: &[u8], most: usize) -> bool {
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for byte in bytes {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            _ if in_string => {}
            b'{' | b'[' => {
                depth += 1;
                if depth > most {
                    return true;
                }
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    false
}

#[cfg(test)]
mod tests;
