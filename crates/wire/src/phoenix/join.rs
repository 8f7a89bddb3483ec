//! What a join asks for. Owns its defaults: what is missing or has no sense falls to them, and fails nothing.

use std::{collections::BTreeMap, sync::Arc};

use secrecy::SecretString;
use serde_json::value::RawValue;

use super::{
    binding::{self, Binding},
    push::PushFault,
};
use crate::Limits;

/// Longest key of a presence, in bytes.
const MAX_KEY_BYTES: usize = 255;

/// The payload of `phx_join`.
#[derive(Clone, Debug)]
pub struct Join {
    /// The client's own broadcasts are answered.
    pub ack: bool,
    /// The client's own broadcasts come back to it.
    pub to_self: bool,
    /// The channel has to admit the user.
    pub private: bool,
    /// It wants to be told when broadcasts from the database flow.
    pub replication_ready: bool,
    /// Which broadcasts of before it wants.
    pub replay: Option<Result<Replay, InvalidReplay>>,
    /// What it wants to know of who is there.
    pub presence: PresenceConfig,
    /// Which rows it wants, in its order.
    pub bindings: Vec<Binding>,
    /// The reply shall wait until rows flow.
    pub wait: bool,
    /// How long, in milliseconds.
    pub wait_timeout_ms: Option<u64>,
    /// Who it is; absent: whoever the socket is.
    pub access_token: Option<SecretString>,
}

/// Which broadcasts of before a client wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replay {
    /// Not older than this, in milliseconds since 1970.
    pub since_ms: i64,
    /// So many, the newest; absent: as many as there may be.
    pub limit: Option<u32>,
}

/// A `replay` that is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("UnableToReplayMessages: Replay params are not valid")]
pub struct InvalidReplay;

/// What a client wants to know of who is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PresenceConfig {
    /// It is told. Clients of before August 2025 do not say it and mean yes.
    pub enabled: bool,
    /// Under which key it is known to the others; absent: one of the service's choice.
    pub key: Option<Arc<str>>,
}

impl Join {
    /// Bytes that its bindings take in memory, roughly.
    pub fn cost(&self) -> usize {
        self.bindings.iter().map(Binding::cost).sum()
    }
}

/// Members of an object by name; of several of one name the last.
pub(super) type Members<'a> = BTreeMap<String, &'a RawValue>;

/// None, where it is no object.
pub(super) fn members(raw: Option<&RawValue>) -> Members<'_> {
    raw.and_then(|raw| serde_json::from_str(raw.get()).ok())
        .unwrap_or_default()
}

/// A text, if it is one.
pub(super) fn text(raw: &RawValue) -> Option<String> {
    serde_json::from_str(raw.get()).ok()
}

/// True or false, also as text in any case.
fn flag(raw: Option<&&RawValue>) -> Option<bool> {
    let word = raw?.get().trim_matches('"').to_ascii_lowercase();
    match word.as_str() {
        "true" => Some(true),
        "false" => Some(false),
        _ => None,
    }
}

/// A token that may be somebody's: keys that only name a project are nobody's.
pub(super) fn token(raw: Option<&&RawValue>) -> Option<SecretString> {
    let mut token = text(raw?)?;
    token.retain(|c| !c.is_ascii_whitespace());
    let somebody = !token.is_empty() && !token.starts_with("sb_");
    somebody.then(|| token.into())
}

/// Reads the payload of a join.
pub(super) fn read(payload: &RawValue, limits: &Limits) -> Result<Join, PushFault> {
    let payload = members(Some(payload));
    let config = members(payload.get("config").copied());
    let part = |name: &str| members(config.get(name).copied());
    let (broadcast, presence) = (part("broadcast"), part("presence"));
    let options = part("postgres_changes_options");
    let list: Vec<&RawValue> = config
        .get("postgres_changes")
        .and_then(|raw| serde_json::from_str(raw.get()).ok())
        .unwrap_or_default();
    if list.len() > limits.tables {
        return Err(PushFault::TooManyBindings(limits.tables));
    }
    let set = |of: &Members<'_>, name: &str| flag(of.get(name)).unwrap_or(false);
    let key = presence.get("key").and_then(|raw| text(raw));
    let key = key.filter(|key| {
        (1..=MAX_KEY_BYTES).contains(&key.len()) && !key.chars().any(char::is_control)
    });
    Ok(Join {
        ack: set(&broadcast, "ack"),
        to_self: set(&broadcast, "self"),
        private: set(&config, "private"),
        replication_ready: set(&broadcast, "replication_ready"),
        replay: replay(broadcast.get("replay").copied()),
        presence: PresenceConfig {
            enabled: flag(presence.get("enabled")).unwrap_or(true),
            key: key.map(Arc::from),
        },
        bindings: binding::read(&list, limits),
        wait: set(&options, "wait"),
        wait_timeout_ms: options
            .get("timeout")
            .and_then(|raw| raw.get().parse().ok()),
        access_token: token(payload.get("access_token"))
            .or_else(|| token(payload.get("user_token"))),
    })
}

fn replay(raw: Option<&RawValue>) -> Option<Result<Replay, InvalidReplay>> {
    let raw = raw.filter(|raw| raw.get() != "null")?;
    let fields = members(Some(raw));
    let since = fields.get("since").and_then(|raw| raw.get().parse().ok());
    let limit = match fields.get("limit").map(|raw| raw.get()) {
        None | Some("null") => Ok(None),
        Some(limit) => limit.parse().map(Some).map_err(|_| InvalidReplay),
    };
    Some(match (since, limit) {
        (Some(since_ms), Ok(limit)) => Ok(Replay { since_ms, limit }),
        _ => Err(InvalidReplay),
    })
}
