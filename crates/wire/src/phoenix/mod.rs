//! What bytes mean on a socket of `@supabase/realtime-js`: the messages of Phoenix channels, versions 1.0.0 and 2.0.0.
//!
//! Owns the text of every such frame: those of clients ([`parse`], [`parse_binary`]), those of the service
//! ([`reply`] and the others), and those of events, which are encoded for each [`Voice`] once. Promises what the
//! whole crate promises: pure, total, bounded. What clients of all ages send is taken with patience: what has no
//! sense in a join is as if it were not there.

mod binding;
mod envelope;
mod event;
mod join;
mod push;
mod server;
mod table_event;
mod voice;

pub use self::{
    binding::{Binding, BindingError, RowBinding},
    join::Join,
    push::{
        Address, Broadcast, MAX_TOPIC_BYTES, Payload, PresencePush, Push, PushError, PushFault,
        Says, parse, parse_binary,
    },
    server::{
        close, crashed, heartbeat_reply, joined, presence_diff, presence_state, reply, reply_with,
        system,
    },
    table_event::{TABLE_EVENTS, TableEventFilter, UnknownColumn},
    voice::{Operations, Spoken, Version, Voice, What},
};
pub(crate) use self::{event::Memo, event::encode};

/// What the topic of every channel begins with.
pub const TOPIC_PREFIX: &str = "realtime:";

#[cfg(test)]
mod tests {
    mod events;
    mod pushes;
    mod replies;
}
