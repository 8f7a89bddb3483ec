//! Asking against a real Postgres and a real HTTP server.

// Helpers of tests are not inside test functions, where clippy allows it.
#![allow(clippy::unwrap_used)]

mod functions;
mod harness;
mod webhooks;
