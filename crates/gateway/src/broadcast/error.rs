//! Why a request to `POST /broadcast` is refused: a status, a stable code, and a sentence that says what mends it.

use axum::http::StatusCode;
use rowcast_hub::HubError;

use super::DurableError;

/// Why nothing of a request was said.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BroadcastError {
    /// No token is configured.
    #[error(
        "POST /broadcast is switched off: set ACCESS_TOKEN (or ACCESS_TOKEN_FILE, or auth.access_token) and send it as `Authorization: Bearer <token>`"
    )]
    Off,
    /// No token was sent, or another one.
    #[error("send the access token of this service: `Authorization: Bearer <ACCESS_TOKEN>`")]
    Unauthorized,
    /// Another method.
    #[error("only POST is understood here")]
    Method,
    /// The body has too many bytes.
    #[error("the body may have {0} bytes (limits.broadcast_bytes); send less at a time")]
    TooLarge(usize),
    /// The body did not come in time.
    #[error("the body did not come in time; try again")]
    TooSlow,
    /// Bodies take as much memory as they may.
    #[error("too many broadcasts are under way (limits.broadcasts_bytes); try again")]
    Overloaded,
    /// The body is no JSON.
    #[error("the body is not JSON as it should be: {0}")]
    InvalidJson(String),
    /// A field cannot be used.
    #[error("{0}")]
    InvalidField(String),
    /// The hub refuses it.
    #[error("{0}")]
    Hub(HubError),
    /// A change of a row cannot be made durable by itself.
    #[error(
        "only broadcasts can be durable; a change is durable when the row of a tracked table is written"
    )]
    DurableChange,
    /// The database refuses it, or is not there.
    #[error("{0}")]
    Durable(DurableError),
    /// The key was used for something else.
    #[error(
        "the idempotency key was used with another body; take a key of its own for each request"
    )]
    KeyReused,
    /// A request with the key is under way.
    #[error("a request with this idempotency key is under way; try again")]
    KeyInUse,
}

impl BroadcastError {
    /// The stable code.
    pub fn code(&self) -> &'static str {
        match self {
            BroadcastError::Off => "broadcast_off",
            BroadcastError::Unauthorized => "unauthorized",
            BroadcastError::Method => "method_not_allowed",
            BroadcastError::TooLarge(_) => "too_large",
            BroadcastError::TooSlow => "too_slow",
            BroadcastError::Overloaded => "overloaded",
            BroadcastError::InvalidJson(_) => "invalid_json",
            BroadcastError::InvalidField(_) => "invalid_field",
            BroadcastError::Hub(error) => error.code(),
            BroadcastError::DurableChange => "durable_change",
            BroadcastError::Durable(DurableError::Refused(_)) => "durable_refused",
            BroadcastError::Durable(DurableError::Unavailable(_)) => "durable_unavailable",
            BroadcastError::KeyReused => "idempotency_key_reused",
            BroadcastError::KeyInUse => "idempotency_key_in_use",
        }
    }

    /// The status of the answer.
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            BroadcastError::Off => StatusCode::NOT_FOUND,
            BroadcastError::Unauthorized => StatusCode::UNAUTHORIZED,
            BroadcastError::Method => StatusCode::METHOD_NOT_ALLOWED,
            BroadcastError::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            BroadcastError::TooSlow => StatusCode::REQUEST_TIMEOUT,
            BroadcastError::Hub(HubError::NotReady | HubError::Busy)
            | BroadcastError::Overloaded
            | BroadcastError::Durable(DurableError::Unavailable(_)) => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            BroadcastError::InvalidJson(_) | BroadcastError::InvalidField(_) => {
                StatusCode::BAD_REQUEST
            }
            BroadcastError::KeyInUse => StatusCode::CONFLICT,
            BroadcastError::Hub(_)
            | BroadcastError::DurableChange
            | BroadcastError::Durable(DurableError::Refused(_))
            | BroadcastError::KeyReused => StatusCode::UNPROCESSABLE_ENTITY,
        }
    }

    /// The same as the refusal of a request as a whole.
    pub(super) fn of_all(self) -> Refusal {
        Refusal {
            index: None,
            error: self,
        }
    }

    pub(super) fn field(message: impl Into<String>) -> BroadcastError {
        let message: String = message.into();
        BroadcastError::InvalidField(message.chars().take(400).collect())
    }
}

/// Why a request is refused, and because of which of its messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Which message of a batch, from 0.
    pub index: Option<usize>,
    /// Why.
    pub error: BroadcastError,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every refusal is in the documents, with its status.
    #[test]
    fn refusals_are_documented() {
        let document = include_str!("../../../../docs/protocol.md");
        let text = String::new;
        for error in [
            BroadcastError::Off,
            BroadcastError::Unauthorized,
            BroadcastError::Method,
            BroadcastError::TooLarge(1),
            BroadcastError::TooSlow,
            BroadcastError::Overloaded,
            BroadcastError::InvalidJson(text()),
            BroadcastError::InvalidField(text()),
            BroadcastError::Hub(HubError::NotReady),
            BroadcastError::Hub(HubError::NoSuchChannel("x".into())),
            BroadcastError::Hub(HubError::OrganizationNeeded("x".into())),
            BroadcastError::Hub(HubError::Undeclared("x".into())),
            BroadcastError::DurableChange,
            BroadcastError::Durable(DurableError::Refused(text())),
            BroadcastError::Durable(DurableError::Unavailable(text())),
            BroadcastError::KeyReused,
            BroadcastError::KeyInUse,
        ] {
            let row = format!("| {} | `{}` |", error.status().as_u16(), error.code());
            assert!(document.contains(&row), "{row}");
        }
    }
}
