//! The chaos test: writers keep going while everything around them fails, at random and replayable. At the
//! end each subscriber's copy has to equal what Postgres says.
//!
//! Alone it is the short form that `make test` runs. `CHAOS_FAULTS=1000 CHAOS_SECONDS=3600` make it the long
//! one (`make chaos`), `CHAOS_SEED=<n>` repeats the faults of a run, `CHAOS_ONLY=slot_dropped,…` names
//! the kinds, `CHAOS_REPORT=1` writes the table of docs/reliability.md.

// Helpers of tests are not inside test functions, where clippy allows these.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

#[allow(
    dead_code,
    reason = "shared with the end-to-end tests, which use all of it"
)]
mod harness;

mod chaos {
    mod app;
    mod arena;
    mod copy;
    mod failover;
    mod faults;
    mod forge;
    mod plan;
    mod proxy;
    mod report;
    mod run;
    mod session;
    mod slots;
    mod subscriber;
    mod tally;
    mod writer;
}
