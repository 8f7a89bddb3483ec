//! Whether the log is being read, as subscribers are told.

use std::sync::Arc;

use rowcast_model::Timestamp;
use rowcast_wire::{Frame, server};

/// Whether what is written in the database arrives here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum StreamState {
    /// It does.
    #[default]
    Live,
    /// It does not at present.
    Stale {
        /// What was written before this has arrived.
        since: Timestamp,
        /// Why, for people.
        reason: Arc<str>,
    },
}

impl StreamState {
    pub(crate) fn frame(&self) -> Frame {
        match self {
            StreamState::Live => server::status_live(),
            StreamState::Stale { since, reason } => server::status_stale(*since, reason),
        }
    }
}
