//! What the gateway wants of whoever writes broadcasts into the log of the database.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use rowcast_model::Cursor;

use super::body::Broadcast;

/// Writes broadcasts into the log.
pub trait DurableSender: Send + Sync + 'static {
    /// Writes all or none, in order, as one transaction. Resolves with the position behind it, or with `None`
    /// when it is written but was not seen in the log in time.
    fn send(
        self: Arc<Self>,
        broadcasts: Vec<Broadcast>,
    ) -> BoxFuture<'static, Result<Option<Cursor>, DurableError>>;
}

/// Why nothing was written, or why it is not known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DurableError {
    /// The database refuses it: an unknown channel, an undeclared event. Nothing was written.
    #[error("{0}")]
    Refused(String),
    /// There is no database at the moment. When the connection broke in between, it may have been written.
    #[error("the database cannot be reached: {0}; try again")]
    Unavailable(String),
}
