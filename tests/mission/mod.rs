//! MISSION lines, named by their ids; each test cites what it shows.

mod admin;
mod authorized;
mod authorized_webhooks;
mod broadcast;
mod channels;
mod client_events;
mod examples;
mod explain;
mod explain_matrix;
mod handlers;
mod helper;
mod keys;
mod limits;
pub mod masks;
mod mutations;
mod presence;
mod presence_rights;
mod protocol;
mod sending;
mod shapes;
mod sse;
mod sse_answers;
mod sse_grants;
mod supabase_rest;
mod table_events;
mod tracking;
pub mod who_sees_what;
