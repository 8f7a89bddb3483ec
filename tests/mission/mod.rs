//! MISSION lines, named by their ids; each test cites what it shows.

mod authorized;
mod authorized_webhooks;
mod broadcast;
mod channels;
mod masks;
mod protocol;
mod sending;
mod shapes;
mod table_events;
mod tracking;
mod who_sees_what;
