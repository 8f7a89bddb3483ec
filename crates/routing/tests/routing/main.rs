//! Routing as a whole: source events in, batches out.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod bodies;
mod configuration;
mod events;
mod fuzz;
mod masks;
mod oracle;
mod streaming;
mod support;
mod world;
