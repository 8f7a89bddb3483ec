//! Rules of client events: what a client may send on which channels, and what becomes of it. Owns the words;
//! whether somebody may send is decided in the hub, how often in the gateway.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{Definition, Handler, InputSchema, Pattern, Role};

/// Longest data of a client event in bytes of its JSON text, when the rule does not say.
pub const CLIENT_EVENT_BYTES: usize = 16 * 1024;
/// The field of a relayed event that says who sent it.
pub const SENDER_FIELD: &str = "user_id";

/// What becomes of a client event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Becomes {
    /// The application is asked: its answer is the sender's.
    Question(Handler),
    /// The others on the channel get it under this name, with the sender put in by the service.
    Relay(Arc<str>),
}

/// What becomes of those that come too fast.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Edge {
    /// The last one is handled when its time has come; those between are dropped.
    Trailing,
    /// All are dropped until the time is over.
    Leading,
}

/// At most one in so many milliseconds, for each socket, channel and event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ThrottleRule {
    /// Milliseconds between two.
    pub interval_ms: u32,
    /// What becomes of the others.
    pub edge: Edge,
}

/// At most so many in a fixed window, for each user over all his sockets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RateRule {
    /// How many.
    pub limit: u32,
    /// Length of the window in milliseconds. It begins with the first event.
    pub window_ms: u32,
    /// Events with the same key are counted together.
    pub key: Arc<str>,
}

/// One row of `rowcast.client_events`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientEventRule {
    /// On which channels.
    pub pattern: Pattern,
    /// The event's name.
    pub event: Arc<str>,
    /// What becomes of it.
    pub becomes: Becomes,
    /// The sender needs one of these roles; empty: none.
    pub roles: Arc<[Role]>,
    /// What its data must look like; `None`: any JSON, of a relay any object.
    pub input: Option<InputSchema>,
    /// Largest data, in bytes of JSON text.
    pub max_bytes: usize,
    /// How fast.
    pub throttle: Option<ThrottleRule>,
    /// How many.
    pub rate: Option<RateRule>,
}

impl ClientEventRule {
    /// What its handler was defined for.
    pub fn definition(&self) -> Definition {
        Definition {
            pattern: self.pattern.text().clone(),
            event: self.event.clone(),
        }
    }
}

/// A change of such a rule, in log order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientEventChange {
    /// The pattern, as text.
    pub pattern: Arc<str>,
    /// The event's name.
    pub event: Arc<str>,
    /// The rule from here on; `None`: there is none.
    pub now: Option<Arc<ClientEventRule>>,
}
