//! MISSION lines, named by their ids; each test cites what it shows.

mod protocol;
mod shapes;
mod table_events;
mod tracking;
