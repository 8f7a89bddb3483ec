//! Private Postgres clusters for the demo, tests and benches: plain synchronous `std` code.
//!
//! Owns: finding the binaries of a major version, a cached `initdb` result, one directory, port and
//! socket directory per cluster, starting and stopping. Promises: the server listens on 127.0.0.1 and
//! its own socket directory only, never runs as root, and is gone (with its directory, unless told to
//! keep it) when the [`Cluster`] is dropped or this process ends in any way, `kill -9` included.

mod binaries;
mod cluster;
mod error;
mod options;
mod process;
mod system;
mod template;

pub use binaries::{Binaries, installed};
pub use cluster::Cluster;
pub use error::EmbeddedError;
pub use options::{Options, StopMode};
pub use system::reachable_for_server;
