//! Random and mangled input for everything that reads bytes of others: the log, frames of clients,
//! filters, values, table events, tokens, bodies of HTTP requests.
//!
//! `FUZZ_SECONDS` (1) for each target, `FUZZ_SEED` to repeat a run. Inputs with an outcome not seen before
//! are kept and mangled further, so that the search gets past the first check of a parser. A failing
//! input is printed.

// Helpers of tests are not inside test functions, where clippy allows these.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

#[path = "harness/rng.rs"]
#[allow(
    dead_code,
    reason = "shared with the end-to-end tests, which use all of it"
)]
mod rng;

mod fuzz {
    pub mod bodies;
    pub mod engine;
    pub mod inputs;
    pub mod phoenix;
    pub mod targets;
}
