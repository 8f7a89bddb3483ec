//! Why no event stream begins, as an answer: a status, and the number, name and sentence that a socket would get.

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use rowcast_hub::HubError;
use rowcast_wire::ErrorCode;
use serde_json::json;

/// What a client waits at least that is told to come back, in seconds.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("2");

/// A refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub code: ErrorCode,
    pub message: String,
}

impl Refusal {
    pub(super) fn new(code: ErrorCode, message: impl Into<String>) -> Refusal {
        let message: String = message.into();
        Refusal {
            code,
            message: message.chars().take(400).collect(),
        }
    }

    /// With the sentence of the code.
    pub(super) fn of(code: ErrorCode) -> Refusal {
        Refusal::new(code, code.sentence())
    }

    fn status(&self) -> StatusCode {
        match self.code {
            ErrorCode::AuthRequired
            | ErrorCode::TokenInvalid
            | ErrorCode::TokenExpired
            | ErrorCode::TokenNotYetValid
            | ErrorCode::TokenAudience
            | ErrorCode::TokenIssuer
            | ErrorCode::KeyRevoked => StatusCode::UNAUTHORIZED,
            ErrorCode::NotMember
            | ErrorCode::ChannelForbidden
            | ErrorCode::GrantInvalid
            | ErrorCode::GrantExpired
            | ErrorCode::OriginForbidden => StatusCode::FORBIDDEN,
            ErrorCode::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            ErrorCode::UnknownChannel => StatusCode::NOT_FOUND,
            ErrorCode::RateLimited | ErrorCode::ConnectsLimited | ErrorCode::ConnectionsLimited => {
                StatusCode::TOO_MANY_REQUESTS
            }
            ErrorCode::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            code if code.come_back() => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::BAD_REQUEST,
        }
    }
}

impl From<HubError> for Refusal {
    fn from(error: HubError) -> Refusal {
        Refusal::new(error.error_code(), error.to_string())
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = self.status();
        let (number, name) = (self.code.number(), self.code.name());
        let mut answer = answer(status, number, name, &self.message);
        let told = match status {
            StatusCode::UNAUTHORIZED => Some((header::WWW_AUTHENTICATE, "Bearer")),
            StatusCode::METHOD_NOT_ALLOWED => Some((header::ALLOW, "GET, OPTIONS")),
            _ => None,
        };
        if let Some((name, value)) = told {
            let value = HeaderValue::from_static(value);
            answer.headers_mut().insert(name, value);
        }
        answer
    }
}

fn answer(status: StatusCode, number: u16, name: &str, message: &str) -> Response {
    let error = json!({"error": {"code": name, "number": number, "message": message}});
    let mut answer = (status, Json(error)).into_response();
    if matches!(
        status,
        StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS
    ) {
        answer
            .headers_mut()
            .insert(header::RETRY_AFTER, RETRY_AFTER);
    }
    answer
}
