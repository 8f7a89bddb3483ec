//! MISSION lines, named by their ids; each test cites what it shows.

mod broadcast;
mod channels;
mod masks;
mod protocol;
mod sending;
mod shapes;
mod sse;
mod sse_answers;
mod table_events;
mod tracking;
mod who_sees_what;
