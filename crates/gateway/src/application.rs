//! What the gateway wants of whoever asks the application.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use rowcast_model::{AskError, Question};
use serde_json::value::RawValue;

pub use rowcast_hub::{ask_error_code, ask_error_frame};

/// Asks the application. Whoever makes a [`Question`] takes its caller from [`rowcast_hub::Hub::caller`].
pub trait Application: Send + Sync + 'static {
    /// Asks, and resolves in bounded time.
    fn ask(
        self: Arc<Self>,
        question: Question,
    ) -> BoxFuture<'static, Result<Box<RawValue>, AskError>>;
}
