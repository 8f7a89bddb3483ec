//! What bytes mean on a socket: frames in, frames out, filters, numbers of errors and closes.
//!
//! Owns the text of every frame ([`ClientFrame`], [`server`], [`event`], [`phoenix`]), the filter language
//! ([`Filter`]) and the tables of [`ErrorCode`] and [`CloseCode`]. Promises: pure (no IO, no clock),
//! total (no input panics), bounded (size, depth and number of everything a client can send).

mod asyncapi;
mod client;
mod codes;
mod cursor_list;
mod docs;
pub mod event;
mod event_stream;
mod filter;
mod frame;
mod mask;
pub mod phoenix;
mod reference;
pub mod server;
mod time;

pub use asyncapi::asyncapi;
pub use client::{
    Auth, ClientBroadcast, ClientEvent, ClientFrame, ClientPresence, Columns, Follow, Forms,
    FrameError, GrantText, Limits, MAX_LISTED, MAX_REF_BYTES, Mode, PresenceAction, Subscribe,
    TableSelection, deeper_than, is_sound, parse,
};
pub use codes::{CloseCode, ErrorCode};
pub use cursor_list::CursorList;
pub use docs::{close_codes_markdown, error_codes_markdown};
pub use event::{EventClass, EventMemo, encode_event, encode_event_into};
pub use event_stream::{EventStream, Plan, event_of};
pub use filter::{
    CompareOp, Filter, FilterError, FilterLimits, Literal, Operand, Pattern, Test, Truth,
    eq_key_of_literal, eq_key_of_value, should_deliver,
};
pub use frame::{Frame, FrameWriter, close_frame, is_binary, payload_of, pong_frame, text_frame};
pub use mask::mask;
pub use reference::Ref;
pub use time::write_iso_millis;
