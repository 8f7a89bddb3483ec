//! The way through routing: source events in, batches out.

use std::collections::VecDeque;

use rowcast_model::{Batch, SourceEvent};

use crate::{Catalog, MembershipSource, RoutingError, Stats};

/// How much memory routing may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one transaction that may be held while its table events have not come.
    pub transaction_bytes: usize,
    /// A transaction is handed on in parts of about this many bytes.
    pub batch_bytes: usize,
}

impl Default for Limits {
    /// 64 MiB and 256 KiB.
    fn default() -> Self {
        Limits {
            transaction_bytes: 64 << 20,
            batch_bytes: 256 << 10,
        }
    }
}

/// Turns what the source says into what the hub does.
#[derive(Debug)]
pub struct Router {
    limits: Limits,
    catalog: Catalog,
    ready: VecDeque<Batch>,
    stats: Stats,
    problems: Vec<RoutingError>,
    reload: Option<MembershipSource>,
}

impl Router {
    /// A router that knows this configuration.
    pub fn new(limits: Limits, catalog: Catalog) -> Router {
        Router {
            limits,
            catalog,
            ready: VecDeque::new(),
            stats: Stats::default(),
            problems: Vec::new(),
            reload: None,
        }
    }

    /// Takes in the next event of the source. Call [`Router::take_batch`] until it gives nothing.
    pub fn apply(&mut self, event: SourceEvent) {
        let _ = (event, self.limits);
    }

    /// The next batch for the hub, in order.
    pub fn take_batch(&mut self) -> Option<Batch> {
        self.ready.pop_front()
    }

    /// What was counted.
    pub fn stats(&self) -> Stats {
        self.stats
    }

    /// The configuration as the log says it is now.
    pub fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    /// Configuration rows that could not be used since the last call, for the log of the service.
    pub fn take_problems(&mut self) -> Vec<RoutingError> {
        std::mem::take(&mut self.problems)
    }

    /// Memberships are read from another table from here on: its present rows are not in the log, so
    /// the caller selects them and hands them to the hub as membership changes.
    pub fn take_reload(&mut self) -> Option<MembershipSource> {
        self.reload.take()
    }
}
