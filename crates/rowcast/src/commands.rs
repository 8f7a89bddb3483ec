//! One file per command that is more than a few lines.

pub mod demo;
pub mod explain;
pub mod generate;
pub mod healthcheck;
pub mod migrate;
pub mod tail;
pub mod token;
