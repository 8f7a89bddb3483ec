//! What is said without a row: broadcasts of an application, and news about a key of its queries. Owns the
//! limits of such messages, which are the same wherever one comes from.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::UserId;

/// Longest name of an event, in bytes.
pub const MAX_EVENT_BYTES: usize = 128;
/// Longest payload, in bytes of its JSON text.
pub const MAX_PAYLOAD_BYTES: usize = 256 * 1024;
/// Longest id of an organization or a user, or name of a role, in bytes.
pub const MAX_ID_BYTES: usize = 255;
/// Most roles that a message may name.
pub const MAX_TARGET_ROLES: usize = 64;

/// One message. Its payload is JSON text that was checked where it came in, and is copied from here on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// What it says.
    pub says: Says,
    /// Whose socket it came from; `None`: the application's.
    pub sender: Option<Sender>,
}

/// What a message says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Says {
    /// Something happened.
    Broadcast {
        /// What, such as `processing-complete` or `extraction:started`.
        event: Arc<str>,
        /// More about it.
        payload: Bytes,
    },
    /// The answer to a query is another one now.
    Stale {
        /// The name of the query.
        key: Arc<str>,
        /// The query is to be run again once for all who follow it.
        refresh: bool,
    },
    /// The answer to a query, for everybody who follows it.
    Data {
        /// The name of the query.
        key: Arc<str>,
        /// The answer.
        data: Bytes,
    },
}

/// Who a socket belongs to, for the others: put in by the service, never by the sender.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Sender {
    /// A person.
    User(UserId),
    /// A machine, by the id of its API key.
    ApiKey(Arc<str>),
}

impl Sender {
    /// The id of the user or of the key.
    pub fn id(&self) -> &str {
        match self {
            Sender::User(user) => user.as_str(),
            Sender::ApiKey(id) => id,
        }
    }
}

impl Message {
    /// What an application broadcasts.
    pub fn broadcast(event: impl Into<Arc<str>>, payload: Bytes) -> Message {
        let event = event.into();
        Message {
            says: Says::Broadcast { event, payload },
            sender: None,
        }
    }

    /// Bytes of JSON that it keeps alive.
    pub fn cost(&self) -> usize {
        match &self.says {
            Says::Broadcast { event, payload } => event.len() + payload.len(),
            Says::Stale { key, .. } => key.len(),
            Says::Data { key, data } => key.len() + data.len(),
        }
    }
}

/// Whether a text can name an event, an organization, a user or a role.
pub fn is_name(text: &str, most: usize) -> bool {
    (1..=most).contains(&text.len()) && !text.chars().any(char::is_control)
}
