//! From a replication slot to an ordered stream of source events; owns what is acknowledged.
//!
//! Guarantees: transactions come in commit order, item by item, typed, without copies of values; nothing is
//! acknowledged that was not handed on; keepalives are answered whatever the consumer does (a task of its own
//! does that); a dead connection is noticed by a heartbeat written into the log that must come back.
//! Does not: decide who sees what, filter repeated transactions after a reconnection (routing does, by cursor).

mod ack;
mod address;
mod catalog;
mod catalog_client;
mod conninfo;
mod error;
mod gate;
mod live;
mod liveness;
mod metrics;
pub mod pgoutput;
mod pool;
mod progress;
mod reach;
mod relation;
mod setup;
mod snapshot;
mod source;
mod stream;
mod tls;
mod trail;

pub use ack::AckHandle;
pub use catalog::{CatalogRows, TextRow, load as load_catalog};
pub use catalog_client::HEARTBEAT_PREFIX;
pub use conninfo::ConnInfo;
pub use error::{SourceError, sqlstate};
pub use gate::VisibilityGate;
pub use metrics::SourceMetrics;
pub use pool::{Lease, Pool};
pub use progress::Progress;
pub use relation::{TypeRow, Types, describe};
pub use setup::{Standing, check_slot_name, prepare};
pub use snapshot::Snapshot;
pub use source::{Source, SourceConfig, SourceStatus};
pub use stream::{PgWire, WalEvent, WalSource};
pub use trail::{Trail, Window};
