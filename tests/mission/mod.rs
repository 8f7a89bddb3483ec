//! MISSION lines, named by their ids; each test cites what it shows.

mod masks;
mod protocol;
mod shapes;
mod table_events;
mod tracking;
mod who_sees_what;
