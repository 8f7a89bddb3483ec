//! From the log to the people: pairs row changes with their table events, decides who may see them
//! and in which form, and turns rows into JSON.
//!
//! Owns: the pairing inside a transaction, the audience of an event, its position and order, the JSON
//! of a row, and the configuration as the log says it is. Promises: no IO, no clock; bounded memory
//! for transactions of any size; total on arbitrary bytes; no event without a mapping, and never the
//! data of one organization to another.

mod array_text;
mod catalog;
mod changed;
mod channel;
mod client_event;
mod delivery;
mod error;
mod explain;
mod group;
mod intern;
pub mod json;
mod live;
mod membership;
mod message;
mod outbox;
mod pairing;
mod past;
mod plan;
mod plans;
mod queue;
mod record_id;
mod router;
mod rows;
mod rule;
mod saying;
mod statement;
mod stats;
mod table_event;
mod transaction;

pub use catalog::Catalog;
pub use channel::{channel_from_text, namespace_from_text};
pub use client_event::client_event_from_text;
pub use error::RoutingError;
pub use explain::{Standing, would_tell};
pub use membership::{MembershipSource, key_from_text};
pub use past::{Mark, Past, PastRow, PastTable};
pub use record_id::join_key;
pub use router::{Limits, Router};
pub use rule::{Detail, Storage, TableRule};
pub use stats::Stats;
