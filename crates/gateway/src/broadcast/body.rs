//! What a body of `POST /broadcast` says. Owns its shape and its limits: bytes in, messages or a refusal out,
//! without a look at the clock or the hub.

use std::sync::Arc;

use bytes::Bytes;
use rowcast_model::{
    Audience, Channel, MAX_EVENT_BYTES, MAX_ID_BYTES, MAX_PAYLOAD_BYTES, MAX_TARGET_ROLES,
    MaskError, Masked, Masks, Operation, OrgId, Role, TableName, UserId, is_name,
};
use rowcast_wire::{deeper_than, is_sound};
use serde::{Deserialize, de::IgnoredAny};
use serde_json::value::RawValue;

use super::{
    BroadcastError, Refusal,
    row::{self, Row},
};

/// Deepest nesting of JSON in a body.
pub const MAX_DEPTH: usize = 64;
/// Most messages of a batch.
pub const MAX_MESSAGES: usize = 1_000;
/// Longest idempotency key, in bytes.
pub const MAX_KEY_BYTES: usize = 255;

/// One request.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// What to say, in order.
    pub messages: Vec<Message>,
    /// It came as a list, and is answered with one.
    pub batch: bool,
    /// It goes through the log of the database.
    pub durable: bool,
    /// The key in the body.
    pub key: Option<String>,
}

/// One thing to say.
#[derive(Clone, Debug, PartialEq)]
pub enum Message {
    /// Something happened.
    Broadcast(Broadcast),
    /// A row changed, says the application.
    Change(Box<Change>),
}

/// A broadcast.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broadcast {
    /// What happened.
    pub event: Arc<str>,
    /// More about it: JSON text.
    pub payload: Bytes,
    /// To whom.
    pub to: Target,
}

/// To whom a broadcast goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Members of an organization: all, or those of the audience.
    Organization(OrgId, Audience),
    /// Whoever is on a channel, in the organization where its name does not say one.
    Channel(Channel, Option<OrgId>),
}

/// A change of a row.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// Whose it is.
    pub organization: OrgId,
    /// Who of them may see it.
    pub audience: Audience,
    /// The table.
    pub table: Arc<TableName>,
    /// What happened.
    pub op: Operation,
    /// The row after.
    pub new: Option<Row>,
    /// The row before, or its key.
    pub old: Option<Row>,
}

#[derive(Deserialize)]
struct Peek {
    messages: Option<IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct RawBatch<'a> {
    #[serde(borrow)]
    messages: Vec<&'a RawValue>,
    durable: Option<bool>,
    idempotency_key: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Raw<'a> {
    r#type: Verb,
    organization_id: Option<String>,
    channel: Option<String>,
    event: Option<String>,
    #[serde(borrow)]
    payload: Option<&'a RawValue>,
    schema: Option<String>,
    table: Option<String>,
    #[serde(borrow)]
    new: Option<&'a RawValue>,
    #[serde(borrow)]
    old: Option<&'a RawValue>,
    user_id: Option<String>,
    target_roles: Option<Vec<String>>,
    #[serde(borrow)]
    masking_config: Option<&'a RawValue>,
    owner_id: Option<String>,
    durable: Option<bool>,
    idempotency_key: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Verb {
    Insert,
    Update,
    Delete,
    Broadcast,
}

/// Reads a body.
///
/// # Errors
/// [`Refusal`] with the number of the message that is wrong.
pub fn parse(bytes: &[u8]) -> Result<Request, Refusal> {
    if deeper_than(bytes, MAX_DEPTH) {
        let message = format!("it is nested deeper than {MAX_DEPTH} levels");
        return Err(BroadcastError::InvalidJson(message).of_all());
    }
    // What is no text at all is found below.
    if str::from_utf8(bytes).is_ok_and(|text| !is_sound(text)) {
        let message = "there is half a character in it, or a number out of range".to_owned();
        return Err(BroadcastError::InvalidJson(message).of_all());
    }
    let peek: Peek = read(bytes).map_err(BroadcastError::of_all)?;
    if peek.messages.is_none() {
        let mut raw: Raw<'_> = read(bytes).map_err(BroadcastError::of_all)?;
        let durable = raw.durable.take().unwrap_or(false);
        let key = raw.idempotency_key.take();
        let message = message(raw).map_err(BroadcastError::of_all)?;
        return checked(Request {
            messages: vec![message],
            batch: false,
            durable,
            key,
        });
    }
    let raw: RawBatch<'_> = read(bytes).map_err(BroadcastError::of_all)?;
    if !(1..=MAX_MESSAGES).contains(&raw.messages.len()) {
        let message = format!("`messages` must hold 1 to {MAX_MESSAGES} messages");
        return Err(BroadcastError::InvalidField(message).of_all());
    }
    let one = |(index, raw): (usize, &&RawValue)| {
        let raw: Result<Raw<'_>, _> = read(raw.get().as_bytes());
        raw.and_then(message).map_err(|error| Refusal {
            index: Some(index),
            error,
        })
    };
    let messages = raw.messages.iter().enumerate().map(one);
    checked(Request {
        messages: messages.collect::<Result<_, _>>()?,
        batch: true,
        durable: raw.durable.unwrap_or(false),
        key: raw.idempotency_key,
    })
}

fn checked(request: Request) -> Result<Request, Refusal> {
    if let Some(key) = &request.key {
        check_key(key).map_err(BroadcastError::of_all)?;
    }
    let change = |message: &Message| matches!(message, Message::Change(_));
    match request.messages.iter().position(change) {
        Some(at) if request.durable => Err(Refusal {
            index: request.batch.then_some(at),
            error: BroadcastError::DurableChange,
        }),
        _ => Ok(request),
    }
}

/// Refuses what cannot be an idempotency key.
pub(super) fn check_key(key: &str) -> Result<(), BroadcastError> {
    match is_name(key, MAX_KEY_BYTES) {
        true => Ok(()),
        false => Err(BroadcastError::field(format!(
            "the idempotency key must have 1 to {MAX_KEY_BYTES} bytes and no control characters"
        ))),
    }
}

fn read<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, BroadcastError> {
    serde_json::from_slice(bytes).map_err(|error| {
        let message: String = error.to_string().chars().take(200).collect();
        match error.classify() {
            serde_json::error::Category::Data => BroadcastError::InvalidField(message),
            _ => BroadcastError::InvalidJson(message),
        }
    })
}

fn message(raw: Raw<'_>) -> Result<Message, BroadcastError> {
    if raw.durable.is_some() || raw.idempotency_key.is_some() {
        return Err(BroadcastError::field(
            "`durable` and `idempotencyKey` stand beside `messages`: they are of the whole batch",
        ));
    }
    let organization = raw.organization_id.as_deref();
    let organization = organization
        .map(|id| id_of("organizationId", id).map(OrgId::from))
        .transpose()?;
    let audience = audience(&raw)?;
    match raw.r#type {
        Verb::Broadcast => broadcast(&raw, organization, audience).map(Message::Broadcast),
        _ => change(&raw, organization, audience).map(|change| Message::Change(Box::new(change))),
    }
}

fn id_of<'t>(field: &str, id: &'t str) -> Result<&'t str, BroadcastError> {
    match is_name(id, MAX_ID_BYTES) {
        true => Ok(id),
        false => Err(BroadcastError::field(format!(
            "`{field}` must be a text of 1 to {MAX_ID_BYTES} bytes without control characters"
        ))),
    }
}

fn audience(raw: &Raw<'_>) -> Result<Audience, BroadcastError> {
    let user = raw.user_id.as_deref();
    let user = user.map(|id| id_of("userId", id)).transpose()?;
    let roles = raw.target_roles.as_deref();
    // An empty list is somebody's mistake: nobody means everybody by it.
    if roles.is_some_and(|roles| !(1..=MAX_TARGET_ROLES).contains(&roles.len())) {
        return Err(BroadcastError::field(format!(
            "`targetRoles` must name 1 to {MAX_TARGET_ROLES} roles; leave it away to tell every member"
        )));
    }
    let roles = roles.unwrap_or_default().iter();
    let roles = roles.map(|role| id_of("targetRoles", role).map(Role::from));
    Ok(Audience {
        required_roles: roles.collect::<Result<_, _>>()?,
        user: user.map(UserId::from),
        masked: None,
    })
}

fn without(fields: &[(&str, bool)], verb: &str) -> Result<(), BroadcastError> {
    match fields.iter().find(|(_, there)| *there) {
        Some((field, _)) => Err(BroadcastError::field(format!(
            "`{field}` is not of the type `{verb}`"
        ))),
        None => Ok(()),
    }
}

fn broadcast(
    raw: &Raw<'_>,
    organization: Option<OrgId>,
    audience: Audience,
) -> Result<Broadcast, BroadcastError> {
    let rows = [
        ("table", raw.table.is_some()),
        ("schema", raw.schema.is_some()),
        ("new", raw.new.is_some()),
        ("old", raw.old.is_some()),
        ("maskingConfig", raw.masking_config.is_some()),
        ("ownerId", raw.owner_id.is_some()),
    ];
    without(&rows, "broadcast")?;
    let event = raw.event.as_deref().unwrap_or_default();
    if !is_name(event, MAX_EVENT_BYTES) {
        return Err(BroadcastError::field(format!(
            "`event` must be a text of 1 to {MAX_EVENT_BYTES} bytes without control characters"
        )));
    }
    let payload = raw.payload.map_or("null", RawValue::get);
    if payload.len() > MAX_PAYLOAD_BYTES {
        return Err(BroadcastError::field(format!(
            "`payload` may have {MAX_PAYLOAD_BYTES} bytes; send ids, and let the clients fetch the rest"
        )));
    }
    let to = match (&raw.channel, organization) {
        (None, None) => {
            return Err(BroadcastError::field(
                "say to whom: `organizationId` or `channel`",
            ));
        }
        (None, Some(organization)) => Target::Organization(organization, audience),
        (Some(_), _) if audience != Audience::default() => {
            return Err(BroadcastError::field(
                "`userId` and `targetRoles` are of an organization; a channel says by itself who is on it",
            ));
        }
        (Some(name), organization) => {
            let channel: Channel = name
                .parse()
                .map_err(|error| BroadcastError::field(format!("`channel`: {error}")))?;
            if organization.is_some() && !matches!(channel, Channel::Named(_)) {
                return Err(BroadcastError::field(
                    "`channel` says by itself whose it is; leave `organizationId` away",
                ));
            }
            Target::Channel(channel, organization)
        }
    };
    Ok(Broadcast {
        event: event.into(),
        payload: Bytes::copy_from_slice(payload.as_bytes()),
        to,
    })
}

fn change(
    raw: &Raw<'_>,
    organization: Option<OrgId>,
    mut audience: Audience,
) -> Result<Change, BroadcastError> {
    let (verb, op, new, old) = match raw.r#type {
        Verb::Insert => ("insert", Operation::Insert, true, false),
        Verb::Update => ("update", Operation::Update, true, true),
        _ => ("delete", Operation::Delete, false, true),
    };
    let others = [
        ("channel", raw.channel.is_some()),
        ("event", raw.event.is_some()),
        ("payload", raw.payload.is_some()),
        ("new", raw.new.is_some() && !new),
        ("old", raw.old.is_some() && !old),
    ];
    without(&others, verb)?;
    let needed = |field: &str| BroadcastError::field(format!("`{field}` is missing in `{verb}`"));
    let image = |field: &str, raw: Option<&RawValue>, wanted: bool| match raw {
        Some(raw) => row::read(raw.get())
            .map(Some)
            .map_err(|why| BroadcastError::field(format!("`{field}`: {why}"))),
        None if wanted => Err(needed(field)),
        None => Ok(None),
    };
    let table = raw.table.as_deref().ok_or_else(|| needed("table"))?;
    let owner = raw.owner_id.as_deref();
    let owner = owner.map(|id| id_of("ownerId", id)).transpose()?;
    let owner = owner.map(UserId::from);
    audience.masked = match raw.masking_config {
        None => None,
        Some(json) => {
            let masks: Masks = json.get().parse().map_err(|why: MaskError| {
                BroadcastError::field(format!("`maskingConfig`: {why}"))
            })?;
            Some(Arc::new(Masked {
                masks: Arc::new(masks),
                owner: owner.clone(),
                old_owner: owner,
                only: None,
            }))
        }
    };
    let schema = raw.schema.as_deref().unwrap_or("public");
    Ok(Change {
        organization: organization.ok_or_else(|| needed("organizationId"))?,
        audience,
        table: Arc::new(TableName {
            schema: id_of("schema", schema)?.into(),
            name: id_of("table", table)?.into(),
        }),
        op,
        new: image("new", raw.new, new)?,
        old: image("old", raw.old, old)?,
    })
}

#[cfg(test)]
#[path = "body_tests.rs"]
mod tests;
