//! What the gateway wants of whoever asks the application.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use rowcast_model::{AskError, Question};
use rowcast_wire::{ErrorCode, Frame, Ref, server};
use serde_json::value::RawValue;

/// Asks the application. Whoever makes a [`Question`] takes its caller from [`rowcast_hub::Hub::caller`].
pub trait Application: Send + Sync + 'static {
    /// Asks, and resolves in bounded time.
    fn ask(
        self: Arc<Self>,
        question: Question,
    ) -> BoxFuture<'static, Result<Box<RawValue>, AskError>>;
}

/// The number of the error that a caller is answered with.
pub fn ask_error_code(error: &AskError) -> ErrorCode {
    match error {
        AskError::Refused(_) => ErrorCode::Refused,
        AskError::Unavailable => ErrorCode::ApplicationUnavailable,
        AskError::Overloaded => ErrorCode::Overloaded,
        AskError::Failed => ErrorCode::ApplicationFailed,
    }
}

/// The `error` frame that a caller is answered with; a refusal keeps the code and the words of the application.
pub fn ask_error_frame(reference: Option<&Ref>, error: &AskError) -> Frame {
    let code = ask_error_code(error);
    match error {
        AskError::Refused(refusal) => {
            server::refusal(reference, code, &refusal.message, &refusal.code)
        }
        _ => server::error(reference, code, &error.to_string()),
    }
}
