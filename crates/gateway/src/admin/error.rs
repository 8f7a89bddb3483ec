//! Why a request of the operator is refused: a status, a stable code, and a sentence that says what mends it.

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::json;

use crate::{DurableError, access::NoAccess};

/// A refusal.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AdminError {
    /// No token is configured.
    #[error(
        "the admin endpoints are switched off: set ACCESS_TOKEN (or ACCESS_TOKEN_FILE, or auth.access_token) and send it as `Authorization: Bearer <token>`"
    )]
    Off,
    /// No token was sent, or another one.
    #[error("send the access token of this service: `Authorization: Bearer <ACCESS_TOKEN>`")]
    Unauthorized,
    /// Another method.
    #[error("only {0} is understood here")]
    Method(&'static str),
    /// A parameter or field cannot be used.
    #[error("{0}")]
    Invalid(String),
    /// The body is too large, or did not come.
    #[error("the body has to come within 10 s and may have 16 KiB")]
    Body,
    /// One such request is under way.
    #[error("another request that looks at everything is under way; try again")]
    Busy,
    /// The database refuses it, or is not there.
    #[error("{0}")]
    Database(DurableError),
    /// This service has no database to ask.
    #[error("this service has no connection of its own to the database")]
    NoDatabase,
}

impl From<NoAccess> for AdminError {
    fn from(why: NoAccess) -> AdminError {
        match why {
            NoAccess::Off => AdminError::Off,
            NoAccess::Unauthorized => AdminError::Unauthorized,
        }
    }
}

impl AdminError {
    /// Every code.
    pub const CODES: [&'static str; 8] = [
        "admin_off",
        "unauthorized",
        "method_not_allowed",
        "invalid_field",
        "bad_body",
        "busy",
        "database_refused",
        "database_unavailable",
    ];

    /// The stable code.
    pub fn code(&self) -> &'static str {
        match self {
            AdminError::Off => "admin_off",
            AdminError::Unauthorized => "unauthorized",
            AdminError::Method(_) => "method_not_allowed",
            AdminError::Invalid(_) => "invalid_field",
            AdminError::Body => "bad_body",
            AdminError::Busy => "busy",
            AdminError::Database(DurableError::Refused(_)) => "database_refused",
            AdminError::Database(DurableError::Unavailable(_)) | AdminError::NoDatabase => {
                "database_unavailable"
            }
        }
    }

    fn status(&self) -> StatusCode {
        match self {
            AdminError::Off => StatusCode::NOT_FOUND,
            AdminError::Unauthorized => StatusCode::UNAUTHORIZED,
            AdminError::Method(_) => StatusCode::METHOD_NOT_ALLOWED,
            AdminError::Invalid(_) => StatusCode::BAD_REQUEST,
            AdminError::Body => StatusCode::PAYLOAD_TOO_LARGE,
            AdminError::Database(DurableError::Refused(_)) => StatusCode::UNPROCESSABLE_ENTITY,
            AdminError::Busy | AdminError::Database(_) | AdminError::NoDatabase => {
                StatusCode::SERVICE_UNAVAILABLE
            }
        }
    }

    pub(super) fn invalid(message: impl Into<String>) -> AdminError {
        let message: String = message.into();
        AdminError::Invalid(message.chars().take(400).collect())
    }
}

impl IntoResponse for AdminError {
    fn into_response(self) -> Response {
        let error = json!({"error": {"code": self.code(), "message": self.to_string()}});
        let status = self.status();
        let mut answer = (status, Json(error)).into_response();
        let told = match &self {
            AdminError::Unauthorized => Some((header::WWW_AUTHENTICATE, "Bearer")),
            AdminError::Method(allowed) => Some((header::ALLOW, *allowed)),
            _ if status == StatusCode::SERVICE_UNAVAILABLE => Some((header::RETRY_AFTER, "1")),
            _ => None,
        };
        if let Some((name, value)) = told {
            let value = HeaderValue::from_static(value);
            answer.headers_mut().insert(name, value);
        }
        answer
    }
}
