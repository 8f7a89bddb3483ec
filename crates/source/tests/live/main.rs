//! The source against a real Postgres: what it decodes, how it survives, what it refuses.

mod catalog;
mod decoding;
mod harness;
mod proxy;
mod refusals;
mod relations;
mod restarts;
mod visibility;
