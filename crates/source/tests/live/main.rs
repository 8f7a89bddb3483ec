//! The source against a real Postgres: what it decodes, how it survives, what it refuses.

// Helpers of tests are not inside test functions, where clippy allows it.
#![allow(clippy::unwrap_used)]

mod catalog;
mod decoding;
mod harness;
mod pool;
mod proxy;
mod refusals;
mod relations;
mod restarts;
mod trail;
mod visibility;
