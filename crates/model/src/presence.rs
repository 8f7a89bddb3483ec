//! Who is there: what the members of a channel do, what is known of each, and what the application is told of it.
//!
//! Owns the words of presence. Who a member is, is put in by the service and never by the client; what he says of
//! himself (his state) is JSON text that was checked where it came in.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use crate::{Sender, Timestamp, Topic};

/// Version of the messages in this module; raised with every incompatible change.
pub const PRESENCE_VERSION: u16 = 1;

/// One step of one connection on one channel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PresenceOp {
    /// Where.
    pub topic: Topic,
    /// Who, as the service knows him.
    pub who: Sender,
    /// Which of his connections; no two processes that share a channel use one number twice.
    pub connection: u64,
    /// What.
    pub act: PresenceAct,
}

/// What a connection does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PresenceAct {
    /// It is there from here on, with this state; if it is there already, only its state changes.
    Join(Bytes),
    /// Its state is another one. Nobody comes by that.
    Update(Bytes),
    /// Its socket broke: it stays for a moment, so that he can come back unnoticed.
    Lose,
    /// It is gone.
    Leave,
}

/// A user who is on a channel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PresentUser {
    /// Who.
    pub who: Sender,
    /// Users are listed in this order: that of their coming.
    pub order: u64,
    /// When the first of his connections came.
    pub since: Timestamp,
    /// His connections, in the order of their coming.
    pub connections: SmallVec<[Present; 1]>,
}

/// A connection that is on a channel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Present {
    /// Its number.
    pub connection: u64,
    /// What it says of itself: a JSON object.
    pub state: Bytes,
    /// Its socket broke a moment ago.
    pub lost: bool,
}

/// What changed of one user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PresenceUpdate {
    /// Who.
    pub who: Sender,
    /// The state of each connection that came or whose state changed, `None` for one that is gone.
    pub connections: SmallVec<[(u64, Option<Bytes>); 1]>,
}

/// What changed in the list of a channel's users since it was told last.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PresenceDiff {
    /// Users who came.
    pub joins: Vec<Arc<PresentUser>>,
    /// Users who were there, and are listed only now as somebody before them left.
    pub shown: Vec<Arc<PresentUser>>,
    /// Users of whom something changed.
    pub updates: Vec<PresenceUpdate>,
    /// Users who left.
    pub leaves: Vec<Sender>,
}

impl PresenceDiff {
    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        self.joins.is_empty()
            && self.shown.is_empty()
            && self.updates.is_empty()
            && self.leaves.is_empty()
    }
}

/// How many are there: a user may have several connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PresenceCounts {
    /// Users.
    pub users: usize,
    /// Connections.
    pub connections: usize,
}

/// A user came to a channel, or left it: for those who do something about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PresenceNews {
    /// Where.
    pub topic: Topic,
    /// The name of the channel.
    pub channel: Arc<str>,
    /// Who.
    pub who: Sender,
    /// His first connection, or his last.
    pub connection: u64,
    /// Its state.
    pub state: Bytes,
    /// He came; otherwise he left.
    pub came: bool,
    /// When.
    pub at: Timestamp,
}

impl PresenceNews {
    /// The name under which handlers of events know it.
    pub fn event(&self) -> &'static str {
        match self.came {
            true => "presence.join",
            false => "presence.leave",
        }
    }
}
