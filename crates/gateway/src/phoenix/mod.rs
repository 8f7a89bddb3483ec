//! Sockets of the Supabase protocol: what clients of Supabase Realtime dial, unmodified.
//!
//! Owns the handshake, whose socket it is (nobody's, until a join brings a token), and what frames mean; the loop, the
//! limits and the hub are those of all sockets. Promises: whoever has not shown a valid token of a user is told so on
//! every join and hears nothing; a socket has one user, and another one's token closes it, upon which clients dial
//! again and join with what they have by then.

mod dial;
mod join;
mod known;
mod socket;
mod speech;
mod token;

use std::sync::Arc;

use axum::{
    extract::Request,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use rowcast_wire::{ErrorCode, phoenix::Version};
use secrecy::ExposeSecret;

pub(crate) use dial::Dialed;

use crate::{
    Readiness,
    auth::{Verified, is_api_key},
    ws::{self, Shared},
};

/// Why a join is refused as long as nobody knows whose socket it is.
const NOBODY: &str = "Unauthorized: this socket has shown no token of a user; give the client one before it subscribes (setAuth, accessToken)";

/// What a socket begins with.
struct Caller {
    version: Version,
    /// The organization that the address names.
    organization: Option<String>,
    /// Whom the key of the header belongs to, if it is somebody's.
    verified: Option<Verified>,
}

/// From a request to a socket. Browsers cannot read what a refused handshake says, so a token that counts is better
/// shown in a join.
pub(crate) async fn upgrade(shared: Arc<Shared>, request: Request, dialed: Dialed) -> Response {
    // Whom a socket is refused whatever he shows costs no look at what that is.
    let welcome = ws::takes(&shared, request.headers());
    match call(&shared, dialed, welcome).await {
        Ok(caller) => ws::switch(shared, request, |shared, ticket, stream, early| {
            socket::run(shared, ticket, stream, early, caller)
        }),
        Err(refusal) => {
            shared.metrics.handshake(refusal.outcome);
            refusal.into_response()
        }
    }
}

/// Why there is no socket.
struct Refusal {
    outcome: &'static str,
    status: StatusCode,
    says: &'static str,
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let body = serde_json::json!({ "error": self.says }).to_string();
        let json = [(header::CONTENT_TYPE, "application/json")];
        (self.status, json, body).into_response()
    }
}

async fn call(shared: &Shared, dialed: Dialed, welcome: bool) -> Result<Caller, Refusal> {
    let refuse = |outcome, status, says| Refusal {
        outcome,
        status,
        says,
    };
    let unauthorized = |outcome, says| refuse(outcome, StatusCode::UNAUTHORIZED, says);
    let Some(version) = dialed.version else {
        let says = "`vsn` may be 1.0.0 or 2.0.0";
        return Err(refuse("version", StatusCode::FORBIDDEN, says));
    };
    if !matches!(&*shared.ready.borrow(), Readiness::Ready) {
        let says = "the service is not streaming yet; come back";
        return Err(refuse("not_ready", StatusCode::SERVICE_UNAVAILABLE, says));
    }
    let Some(key) = dialed.key else {
        return Err(unauthorized("no_key", "API key is missing"));
    };
    let mut verified = None;
    if is_api_key(key.expose_secret()) && dialed.in_address {
        let says = "an API key of Rowcast is a secret and must not stand in an address; use a publishable key there and bring this one as access token";
        return Err(unauthorized("key_in_address", says));
    }
    // What stands in an address stands in logs: it is nobody's proof of anything.
    if welcome && !dialed.in_address && token::is_somebodys(key.expose_secret()) {
        let checking = shared.verifier.verify(key.expose_secret(), &shared.hub);
        match tokio::time::timeout(shared.limits.auth_timeout, checking).await {
            Ok(Ok(somebody)) => verified = Some(somebody),
            Ok(Err(refused)) if refused.code == ErrorCode::TokenExpired => {
                return Err(unauthorized("token_expired", "Token has expired"));
            }
            // A key that is nobody's is what most applications dial with.
            Ok(Err(_)) | Err(_) => {}
        }
    }
    Ok(Caller {
        version,
        organization: dialed.organization,
        verified,
    })
}
