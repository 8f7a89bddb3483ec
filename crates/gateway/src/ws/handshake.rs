//! From an HTTP request to a socket: origin, limits, upgrade.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, Response, StatusCode, header},
    response::IntoResponse,
};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::{Shared, socket};
use crate::{
    admission::Ticket,
    phoenix::{self, Dialed},
};

type Answer = axum::response::Response;

fn refuse(status: StatusCode, why: &'static str) -> Answer {
    (
        status,
        [(header::CONTENT_TYPE, "text/plain; charset=utf-8")],
        format!("{why}\n"),
    )
        .into_response()
}

/// `GET /realtime/v1/websocket`.
pub(crate) async fn upgrade(State(shared): State<Arc<Shared>>, request: Request) -> Answer {
    if let Some(dialed) = Dialed::of(&request) {
        return phoenix::upgrade(shared, request, dialed).await;
    }
    switch(shared, request, socket::run)
}

/// `GET /socket/websocket`: for those who speak Supabase's protocol.
pub(crate) async fn upgrade_phoenix(State(shared): State<Arc<Shared>>, request: Request) -> Answer {
    let dialed = Dialed::expected(&request);
    phoenix::upgrade(shared, request, dialed).await
}

/// Makes a socket of a request and has it served, if it may be one.
pub(crate) fn switch<F: Future<Output = ()> + Send>(
    shared: Arc<Shared>,
    mut request: Request,
    serve: impl FnOnce(Arc<Shared>, Ticket, TcpStream, Vec<u8>) -> F + Send + 'static,
) -> Answer {
    let (outcome, answer) = match check(request.headers(), &shared) {
        Err((outcome, status, why)) => (outcome, refuse(status, why)),
        Ok(accept) => {
            let limits = &shared.limits;
            match shared
                .admission
                .stranger(limits.connections, limits.unauthenticated)
            {
                None => (
                    "full",
                    refuse(
                        StatusCode::SERVICE_UNAVAILABLE,
                        "as many connections as allowed; come back later",
                    ),
                ),
                Some(ticket) => {
                    let upgrading = hyper::upgrade::on(&mut request);
                    let own = shared.clone();
                    shared.sockets.spawn(async move {
                        if let Some((stream, early)) = upgraded(upgrading).await {
                            serve(own, ticket, stream, early).await;
                        }
                    });
                    ("accepted", switching(accept))
                }
            }
        }
    };
    shared.metrics.handshake(outcome);
    answer
}

/// Whether a request may become a socket, as far as its head says.
pub(crate) fn takes(shared: &Shared, headers: &HeaderMap) -> bool {
    check(headers, shared).is_ok()
}

type Refusal = (&'static str, StatusCode, &'static str);

fn check(headers: &HeaderMap, shared: &Shared) -> Result<HeaderValue, Refusal> {
    if shared.stopping.is_cancelled() {
        return Err((
            "stopping",
            StatusCode::SERVICE_UNAVAILABLE,
            "the service is stopping; come back",
        ));
    }
    let says = |name: header::HeaderName, word: &str| {
        let values = headers
            .get_all(name)
            .into_iter()
            .filter_map(|value| value.to_str().ok());
        values
            .flat_map(|value| value.split(','))
            .any(|part| part.trim().eq_ignore_ascii_case(word))
    };
    if !says(header::CONNECTION, "upgrade") || !says(header::UPGRADE, "websocket") {
        return Err((
            "not_websocket",
            StatusCode::UPGRADE_REQUIRED,
            "this is a WebSocket address",
        ));
    }
    if !says(header::SEC_WEBSOCKET_VERSION, "13") {
        return Err((
            "version",
            StatusCode::UPGRADE_REQUIRED,
            "WebSocket version 13 is spoken here",
        ));
    }
    if !shared.allows_origin(headers) {
        return Err((
            "origin",
            StatusCode::FORBIDDEN,
            "pages of this origin may not connect; see ALLOWED_ORIGINS",
        ));
    }
    let key = headers.get(header::SEC_WEBSOCKET_KEY).ok_or((
        "no_key",
        StatusCode::BAD_REQUEST,
        "the header Sec-WebSocket-Key is missing",
    ))?;
    HeaderValue::from_str(&derive_accept_key(key.as_bytes())).map_err(|_| {
        (
            "no_key",
            StatusCode::BAD_REQUEST,
            "the header Sec-WebSocket-Key cannot be used",
        )
    })
}

fn switching(accept: HeaderValue) -> Answer {
    let mut response = Response::new(axum::body::Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    response
}

/// The bare socket, and what was read ahead of the upgrade.
async fn upgraded(upgrading: OnUpgrade) -> Option<(TcpStream, Vec<u8>)> {
    let upgraded = upgrading.await.ok()?;
    let parts = upgraded.downcast::<TokioIo<TcpStream>>().ok()?;
    Some((parts.io.into_inner(), parts.read_buf.to_vec()))
}
