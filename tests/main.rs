//! End-to-end tests: a row goes in, a frame comes out. The real program, a real Postgres, real sockets.
//!
//! `ROWCAST_TEST_PG=15` chooses the major version; `ORACLE_SEED`, `ORACLE_SECONDS`,
//! `ROWCAST_TEST_SUBSCRIBES` and `ROWCAST_TEST_BIG_ROWS` make single tests repeatable or longer.

// Helpers of tests are not inside test functions, where clippy allows these.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

mod bad_input;
mod bounds;
mod commands;
mod demo_page;
mod disasters;
mod harness;
mod incidents;
mod mission;
mod oracle;
mod promises;
mod relations;
mod restarts;
mod security;
mod sql;
mod supabase;
mod survival;
mod types;
