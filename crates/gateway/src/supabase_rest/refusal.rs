//! Why nothing was said, as an answer that clients of Supabase show: a status and a `message`; beside it `errors` by
//! field where the request cannot be used, as there, and the stable `code` that all answers of this service have.

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use rowcast_hub::HubError;
use rowcast_wire::ErrorCode;
use serde_json::{Map, Value, json};

use crate::{auth::Refused, broadcast::BroadcastError, limits::Exceeded};

/// A refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub status: StatusCode,
    pub code: &'static str,
    pub message: String,
    /// What of the request it is about.
    pub field: Option<String>,
}

impl Refusal {
    fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Refusal {
        let message: String = message.into();
        Refusal {
            status,
            code,
            message: message.chars().take(400).collect(),
            field: None,
        }
    }

    /// Something of the request cannot be used.
    pub(super) fn invalid(field: impl Into<String>, message: impl Into<String>) -> Refusal {
        Refusal {
            field: Some(field.into()),
            ..Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid_field", message)
        }
    }

    /// Nobody may say nothing.
    pub(super) fn nobody() -> Refusal {
        let message = "Unauthorized: this is nobody; send `Authorization: Bearer <token of a user, API key or ACCESS_TOKEN>`";
        Refusal::new(StatusCode::UNAUTHORIZED, "unauthorized", message)
    }

    pub(super) fn not_member() -> Refusal {
        let code = ErrorCode::NotMember;
        Refusal::new(StatusCode::FORBIDDEN, code.name(), code.sentence())
    }

    pub(super) fn not_ready(message: &str) -> Refusal {
        let code = ErrorCode::NotReady.name();
        Refusal::new(StatusCode::SERVICE_UNAVAILABLE, code, message)
    }

    pub(super) fn origin() -> Refusal {
        let code = ErrorCode::OriginForbidden;
        Refusal::new(StatusCode::FORBIDDEN, code.name(), code.sentence())
    }

    pub(super) fn method() -> Refusal {
        let message = "only POST is understood here";
        let status = StatusCode::METHOD_NOT_ALLOWED;
        Refusal::new(status, "method_not_allowed", message)
    }

    pub(super) fn media_type(message: &str) -> Refusal {
        let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        Refusal::new(status, "unsupported_media_type", message)
    }

    pub(super) fn too_large(field: String, message: String) -> Refusal {
        Refusal {
            field: Some(field),
            ..Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", message)
        }
    }

    /// More than a socket may send.
    pub(super) fn too_fast() -> Refusal {
        let message = "You have exceeded your rate limit";
        Refusal::new(StatusCode::TOO_MANY_REQUESTS, "send_limited", message)
    }

    /// More at once than a socket may ever send.
    pub(super) fn too_many() -> Refusal {
        let message = "Too many messages to broadcast, please reduce the batch size";
        Refusal::new(StatusCode::TOO_MANY_REQUESTS, "send_limited", message)
    }

    pub(super) fn answer(&self) -> Response {
        let mut body = json!({ "code": self.code, "message": self.message });
        if let Some(field) = &self.field {
            let errors = Map::from_iter([(field.clone(), json!([self.message]))]);
            body["errors"] = Value::Object(errors);
        }
        // The one status of which Supabase's server calls the text so.
        if self.status == StatusCode::UNSUPPORTED_MEDIA_TYPE {
            body["error"] = self.message.as_str().into();
        }
        let mut answer = (self.status, Json(body)).into_response();
        let told = match self.status {
            StatusCode::UNAUTHORIZED => Some((header::WWW_AUTHENTICATE, "Bearer")),
            StatusCode::METHOD_NOT_ALLOWED => Some((header::ALLOW, "POST, OPTIONS")),
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                Some((header::RETRY_AFTER, "1"))
            }
            _ => None,
        };
        if let Some((name, value)) = told {
            let value = HeaderValue::from_static(value);
            answer.headers_mut().insert(name, value);
        }
        answer
    }
}

impl From<Refused> for Refusal {
    fn from(refused: Refused) -> Refusal {
        match refused.code {
            ErrorCode::AuthUnavailable => Refusal::new(
                StatusCode::SERVICE_UNAVAILABLE,
                refused.code.name(),
                refused.message,
            ),
            code => {
                let message = format!("Unauthorized: {}", refused.message);
                Refusal::new(StatusCode::UNAUTHORIZED, code.name(), message)
            }
        }
    }
}

impl From<HubError> for Refusal {
    fn from(error: HubError) -> Refusal {
        let (code, message) = (error.error_code(), error.to_string());
        let status = match code {
            ErrorCode::NotMember | ErrorCode::ChannelForbidden | ErrorCode::SendForbidden => {
                StatusCode::FORBIDDEN
            }
            code if code.come_back() => StatusCode::SERVICE_UNAVAILABLE,
            _ => {
                return Refusal {
                    code: code.name(),
                    ..Refusal::invalid(
                        if code == ErrorCode::UndeclaredEvent {
                            "event"
                        } else {
                            "topic"
                        },
                        message,
                    )
                };
            }
        };
        Refusal::new(status, code.name(), message)
    }
}

impl From<BroadcastError> for Refusal {
    fn from(error: BroadcastError) -> Refusal {
        Refusal::new(error.status(), error.code(), error.to_string())
    }
}

impl From<Exceeded> for Refusal {
    fn from(exceeded: Exceeded) -> Refusal {
        let code = exceeded.code().name();
        let message = format!("You have exceeded your rate limit: {}", exceeded.message());
        Refusal::new(StatusCode::TOO_MANY_REQUESTS, code, message)
    }
}
