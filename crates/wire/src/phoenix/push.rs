//! What a Phoenix client may say. Owns the shape of its frames in both versions, and their limits.

use std::{borrow::Cow, sync::Arc};

use bytes::Bytes;
use rowcast_model::{MAX_EVENT_BYTES, MAX_PAYLOAD_BYTES, is_name};
use secrecy::SecretString;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{
    Version,
    join::{self, Join, members, text},
};
use crate::{Limits, deeper_than, is_sound};

/// Longest topic, in bytes.
pub const MAX_TOPIC_BYTES: usize = 512;
/// Longest reference, in bytes.
const MAX_REFERENCE_BYTES: usize = 64;
/// Nesting of what somebody says of himself.
const STATE_DEPTH: usize = 8;
/// A binary frame with a broadcast begins with this.
const USER_PUSH: u8 = 3;

/// A frame of a client.
#[derive(Clone, Debug)]
pub struct Push {
    /// The join that it belongs to, as far as the client says it.
    pub join_ref: Option<Arc<str>>,
    /// What a reply to it carries.
    pub reference: Option<Arc<str>>,
    /// Where, such as `realtime:room:1` or `phoenix`.
    pub topic: Arc<str>,
    /// What.
    pub says: Says,
}

/// What a client says.
#[derive(Clone, Debug)]
pub enum Says {
    /// Join the channel.
    Join(Box<Join>),
    /// Leave it.
    Leave,
    /// A sign of life.
    Heartbeat,
    /// A fresh token; `None` when there is none in it.
    AccessToken(Option<SecretString>),
    /// Something for the others.
    Broadcast(Broadcast),
    /// Something about itself.
    Presence(PresencePush),
    /// Nothing that is known: to be passed over.
    Unknown,
}

/// Something for the others on a channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broadcast {
    /// What happened.
    pub event: Arc<str>,
    /// More about it.
    pub payload: Payload,
    /// The client wants it to be kept.
    pub persist: bool,
}

/// The payload of a broadcast.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Payload {
    /// JSON text.
    Json(Bytes),
    /// Anything.
    Binary(Bytes),
}

/// What a client says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PresencePush {
    /// It is here, or it is here with something else to say: a JSON object.
    Track(Bytes),
    /// It is not here any more.
    Untrack,
    /// What it wants to say of itself is no object, or one nested too deeply.
    NoMap,
    /// Something else.
    Unknown,
}

/// What a reply to a frame that was refused needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// The join that it belongs to.
    pub join_ref: Option<Arc<str>>,
    /// What the reply carries.
    pub reference: Option<Arc<str>>,
    /// Where.
    pub topic: Arc<str>,
    /// It was a join.
    pub join: bool,
}

/// Why a frame was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{fault}")]
pub struct PushError {
    /// What is wrong.
    pub fault: PushFault,
    /// How to answer it; absent when that could not be read: then the frame is only to be counted.
    pub address: Option<Address>,
}

/// What is wrong with a frame.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PushFault {
    /// More bytes than allowed.
    #[error("the frame has more than {0} bytes")]
    TooLarge(usize),
    /// JSON nested more deeply than allowed.
    #[error("the JSON is nested deeper than {0} levels")]
    TooDeep(usize),
    /// Not the shape that its version has.
    #[error("the frame is {0}")]
    Malformed(&'static str),
    /// A field that is too long, or has characters that it must not have.
    #[error("`{0}`")]
    Field(&'static str),
    /// More bindings than allowed.
    #[error("`postgres_changes` may have {0} entries")]
    TooManyBindings(usize),
}

impl PushFault {
    /// The stable name of the error.
    pub fn code(&self) -> &'static str {
        match self {
            PushFault::TooLarge(_) => "too_large",
            PushFault::TooDeep(_) => "too_deep",
            PushFault::Malformed(_) => "malformed",
            PushFault::Field(_) => "invalid_field",
            PushFault::TooManyBindings(_) => "too_many_bindings",
        }
    }
}

impl From<PushFault> for PushError {
    fn from(fault: PushFault) -> PushError {
        PushError {
            fault,
            address: None,
        }
    }
}

const NO_SHAPE: PushFault = PushFault::Malformed("not of the shape of its version");

/// `{"topic","event","payload","ref","join_ref"}`; only the last may be missing.
#[derive(Deserialize)]
struct Object<'a> {
    #[serde(borrow)]
    topic: Cow<'a, str>,
    #[serde(borrow)]
    event: Cow<'a, str>,
    #[serde(borrow)]
    payload: &'a RawValue,
    #[serde(borrow, rename = "ref")]
    reference: &'a RawValue,
    #[serde(borrow)]
    join_ref: Option<&'a RawValue>,
}

/// Reads a text frame.
///
/// # Errors
/// [`PushError`]; none of them ends the socket by itself.
pub fn parse(version: Version, frame: &[u8], limits: &Limits) -> Result<Push, PushError> {
    if frame.len() > limits.frame_bytes {
        return Err(PushFault::TooLarge(limits.frame_bytes).into());
    }
    if deeper_than(frame, limits.json_depth) {
        return Err(PushFault::TooDeep(limits.json_depth).into());
    }
    let frame = std::str::from_utf8(frame).map_err(|_| PushFault::Malformed("not UTF-8"))?;
    let raw = match version {
        Version::V1 => serde_json::from_str::<Object<'_>>(frame).map_err(|_| NO_SHAPE)?,
        Version::V2 => list(frame)?,
    };
    let join_ref = reference(raw.join_ref)?;
    let address = Address {
        join: raw.event == "phx_join",
        reference: reference(Some(raw.reference))?,
        topic: topic(&raw.topic)?,
        join_ref,
    };
    match says(&raw.event, &address.topic, raw.payload, limits) {
        Ok(says) => Ok(Push {
            join_ref: address.join_ref,
            reference: address.reference,
            topic: address.topic,
            says,
        }),
        Err(fault) => Err(PushError {
            fault,
            address: Some(address),
        }),
    }
}

/// `[join_ref, ref, topic, event, payload]`; more elements are passed over.
fn list(frame: &str) -> Result<Object<'_>, PushFault> {
    let elements: Vec<&RawValue> = serde_json::from_str(frame).map_err(|_| NO_SHAPE)?;
    let [join_ref, reference, topic, event, payload, ..] = &*elements else {
        return Err(NO_SHAPE);
    };
    let word = |raw: &RawValue| text(raw).map(Cow::Owned).ok_or(NO_SHAPE);
    Ok(Object {
        topic: word(topic)?,
        event: word(event)?,
        payload,
        reference,
        join_ref: Some(join_ref),
    })
}

/// References are texts; a number is taken for its digits.
fn reference(raw: Option<&RawValue>) -> Result<Option<Arc<str>>, PushFault> {
    let Some(raw) = raw.filter(|raw| raw.get() != "null") else {
        return Ok(None);
    };
    let digits = || {
        let number = serde_json::from_str::<u64>(raw.get()).ok()?;
        Some(number.to_string())
    };
    let reference = text(raw).or_else(digits).ok_or(NO_SHAPE)?;
    match reference.len() <= MAX_REFERENCE_BYTES {
        true => Ok(Some(reference.into())),
        false => Err(PushFault::Field("ref has more than 64 bytes")),
    }
}

fn topic(text: &str) -> Result<Arc<str>, PushFault> {
    match is_name(text, MAX_TOPIC_BYTES) {
        true => Ok(text.into()),
        false => Err(PushFault::Field(
            "topic must be a text of 1 to 512 bytes without control characters",
        )),
    }
}

fn says(event: &str, topic: &str, payload: &RawValue, limits: &Limits) -> Result<Says, PushFault> {
    match event {
        "heartbeat" if topic == "phoenix" => Ok(Says::Heartbeat),
        "phx_join" => Ok(Says::Join(Box::new(join::read(payload, limits)?))),
        "phx_leave" => Ok(Says::Leave),
        "access_token" => {
            let fields = members(Some(payload));
            Ok(Says::AccessToken(join::token(fields.get("access_token"))))
        }
        "broadcast" => broadcast(payload).map(Says::Broadcast),
        "presence" => Ok(Says::Presence(presence(payload))),
        _ => Ok(Says::Unknown),
    }
}

fn broadcast(payload: &RawValue) -> Result<Broadcast, PushFault> {
    let fields = members(Some(payload));
    let event = fields.get("event").and_then(|raw| text(raw));
    let event = event.ok_or(PushFault::Field("event is missing in the payload"))?;
    let inner = fields.get("payload").map_or("{}", |raw| raw.get());
    let persist = fields.get("persist").map(|raw| raw.get());
    Ok(Broadcast {
        event: event_name(&event)?,
        payload: json_payload(inner)?,
        persist: persist.is_some_and(|persist| !matches!(persist, "null" | "false")),
    })
}

fn event_name(event: &str) -> Result<Arc<str>, PushFault> {
    match is_name(event, MAX_EVENT_BYTES) {
        true => Ok(event.into()),
        false => Err(PushFault::Field(
            "event must be a text of 1 to 128 bytes without control characters",
        )),
    }
}

fn json_payload(json: &str) -> Result<Payload, PushFault> {
    if json.len() > MAX_PAYLOAD_BYTES {
        return Err(PushFault::Field("payload has more than 262144 bytes"));
    }
    if !is_sound(json) {
        return Err(PushFault::Field("payload holds half of a character"));
    }
    Ok(Payload::Json(Bytes::copy_from_slice(json.as_bytes())))
}

fn presence(payload: &RawValue) -> PresencePush {
    let fields = members(Some(payload));
    let event = fields.get("event").and_then(|raw| text(raw));
    match event.map(|event| event.to_ascii_lowercase()).as_deref() {
        Some("track") => {
            let state = fields.get("payload").map_or("{}", |raw| raw.get());
            let fits = state.starts_with('{')
                && !deeper_than(state.as_bytes(), STATE_DEPTH)
                && is_sound(state);
            match fits {
                true => PresencePush::Track(Bytes::copy_from_slice(state.as_bytes())),
                false => PresencePush::NoMap,
            }
        }
        Some("untrack") => PresencePush::Untrack,
        _ => PresencePush::Unknown,
    }
}

/// Reads a binary frame, which version 2 has for broadcasts: kind, five sizes, the encoding of the payload, and
/// behind them join reference, reference, topic, event, metadata and payload.
///
/// # Errors
/// As [`parse`].
pub fn parse_binary(frame: &[u8], limits: &Limits) -> Result<Push, PushError> {
    if frame.len() > limits.frame_bytes {
        return Err(PushFault::TooLarge(limits.frame_bytes).into());
    }
    let [USER_PUSH, sizes @ ..] = frame else {
        return Err(PushFault::Malformed("of a kind that clients do not send").into());
    };
    let Some((&[join_ref, reference, topic_size, event, metadata, encoding], rest)) =
        sizes.split_first_chunk::<6>()
    else {
        return Err(CUT.into());
    };
    let mut rest = rest;
    let mut next = |size: u8| {
        let (head, tail) = rest.split_at_checked(size.into()).ok_or(CUT)?;
        rest = tail;
        std::str::from_utf8(head).map_err(|_| PushFault::Malformed("not UTF-8"))
    };
    let (join_ref, reference, topic_text) = (next(join_ref)?, next(reference)?, next(topic_size)?);
    let (event, metadata) = (next(event)?, next(metadata)?);
    let given = |reference: &str| match reference.len() {
        0 => Ok(None),
        1..=MAX_REFERENCE_BYTES => Ok(Some(reference.into())),
        _ => Err(PushFault::Field("ref has more than 64 bytes")),
    };
    let address = Address {
        join_ref: given(join_ref)?,
        reference: given(reference)?,
        topic: topic(topic_text)?,
        join: false,
    };
    match user_broadcast(event, metadata, encoding, rest, limits) {
        Ok(broadcast) => Ok(Push {
            join_ref: address.join_ref,
            reference: address.reference,
            topic: address.topic,
            says: Says::Broadcast(broadcast),
        }),
        Err(fault) => Err(PushError {
            fault,
            address: Some(address),
        }),
    }
}

const CUT: PushFault = PushFault::Malformed("shorter than its header says");

fn user_broadcast(
    event: &str,
    metadata: &str,
    encoding: u8,
    payload: &[u8],
    limits: &Limits,
) -> Result<Broadcast, PushFault> {
    let metadata: Option<&RawValue> = serde_json::from_str(metadata).ok();
    let metadata = members(metadata);
    let persist = metadata.get("persist").map(|raw| raw.get());
    let payload = match encoding {
        0 if payload.len() > MAX_PAYLOAD_BYTES => {
            return Err(PushFault::Field("payload has more than 262144 bytes"));
        }
        0 => Payload::Binary(Bytes::copy_from_slice(payload)),
        1 => {
            if deeper_than(payload, limits.json_depth) {
                return Err(PushFault::TooDeep(limits.json_depth));
            }
            let raw: &RawValue =
                serde_json::from_slice(payload).map_err(|_| PushFault::Malformed("not JSON"))?;
            json_payload(raw.get())?
        }
        _ => return Err(PushFault::Malformed("of an encoding that is not known")),
    };
    Ok(Broadcast {
        event: event_name(event)?,
        payload,
        persist: persist.is_some_and(|persist| !matches!(persist, "null" | "false")),
    })
}
