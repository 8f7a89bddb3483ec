//! The drop-in for Supabase Realtime: real, unmodified libraries of Supabase against the real service, and the
//! wire itself where a library cannot look. A new version of the library speaks protocol 2.0.0, an old one 1.0.0.

mod broadcast;
mod client;
mod filters;
mod identity;
mod isolation;
mod masks;
mod presence;
mod raw;
mod rooms;
mod rows;
mod seed;
mod sockets;
mod storms;
mod tables;
mod who;
