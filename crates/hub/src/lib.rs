//! Who hears what: subscriptions, memberships, and the bytes on their way to the sockets.
//!
//! Owns the channels of all connections, the directory of members and API keys, the decision who may
//! see an event ([`may_see`]), encoding once per class of subscribers, and a bounded outbox for each
//! socket. Promises: events leave in log order and one way for each connection, so a reply never
//! overtakes an event; a membership ends at its place in the log; nothing here waits for a socket;
//! memory is bounded in bytes by [`HubLimits`].
//!
//! Locks, in this order and never across an await: the press (one publisher), the state, an outbox.

mod authorize;
mod caller;
mod cast;
mod channels;
mod chunk;
mod classes;
mod client_events;
mod connection;
mod direct;
mod directory;
mod doors;
mod error;
mod explain;
mod gates;
mod grants;
mod guest;
mod history;
mod hub;
mod identity;
mod joins;
mod latest;
mod limits;
mod membership;
mod metrics;
mod outbox;
mod pass;
mod presence;
mod publish;
mod recovery;
mod replay;
mod resume;
mod revoke;
mod roster;
mod rules;
mod run;
mod sights;
mod spread;
mod stage;
mod state;
mod stream;
mod subscribe;
mod topics;
mod verdict;

pub use authorize::{Asked, Ticket};
pub use caller::KeptClaims;
pub use client_events::Sending;
pub use connection::{Connection, Work};
pub use direct::{Relay, Sent};
pub use directory::ApiKey;
pub use error::{HubError, ask_error_code, ask_error_frame};
pub use explain::{Explained, Judged, Question};
pub use gates::{Gate, Verdict};
pub use grants::ShownGrant;
pub use hub::{Hub, Subscribed};
pub use identity::{Auth, Grant, Identity, may_see, view};
pub use joins::{Binding, Join, Room};
pub use limits::HubLimits;
pub use outbox::Sink;
pub use presence::{PresenceLimits, PresenceWork, PresentPage, Turning};
pub use roster::{COUNTED_CHANNELS, Connected, Heard, Which};
pub use rowcast_wire::Subscribe as Subscription;
pub use spread::spread;
pub use stream::StreamState;
