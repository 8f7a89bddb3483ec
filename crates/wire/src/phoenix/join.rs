//! What a join asks for. Owns its defaults: what is missing or has no sense falls to them, and fails nothing.

use std::collections::BTreeMap;

use secrecy::SecretString;
use serde_json::value::RawValue;

use super::{
    binding::{self, Binding},
    push::PushFault,
};
use crate::Limits;

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
    /// It wants broadcasts of before.
    pub replay: bool,
    /// It wants to know who is there. Clients of before August 2025 do not say it and mean yes.
    pub presence: bool,
    /// Which rows it wants, in its order.
    pub bindings: Vec<Binding>,
    /// Who it is; absent: whoever the socket is.
    pub access_token: Option<SecretString>,
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
    let list: Vec<&RawValue> = config
        .get("postgres_changes")
        .and_then(|raw| serde_json::from_str(raw.get()).ok())
        .unwrap_or_default();
    if list.len() > limits.tables {
        return Err(PushFault::TooManyBindings(limits.tables));
    }
    let set = |of: &Members<'_>, name: &str| flag(of.get(name)).unwrap_or(false);
    Ok(Join {
        ack: set(&broadcast, "ack"),
        to_self: set(&broadcast, "self"),
        private: set(&config, "private"),
        replication_ready: set(&broadcast, "replication_ready"),
        replay: broadcast
            .get("replay")
            .is_some_and(|raw| raw.get() != "null"),
        presence: flag(presence.get("enabled")).unwrap_or(true),
        bindings: binding::read(&list, limits),
        access_token: token(payload.get("access_token"))
            .or_else(|| token(payload.get("user_token"))),
    })
}
