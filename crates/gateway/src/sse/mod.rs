//! `GET /realtime/v1/events`: what a socket receives, as server-sent events.
//!
//! Owns the address, its answers, and the life of a stream. Everything else is what sockets have: the same
//! connection in the hub with its outbox, the same limits, the same bytes. Who may not listen gets an ordinary
//! answer; who may is subscribed first, so that the answer begins when all channels have said yes, and then
//! the connection is his ([`Takeover`]).

mod grants;
mod query;
mod refusal;
mod sink;
mod stream;

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use rowcast_hub::{Connection, Hub, spread};
use rowcast_model::Channel;
use rowcast_wire::{ErrorCode, EventStream};

use crate::{
    Readiness,
    admission::Ticket,
    auth::Refused,
    session::Session,
    takeover::Takeover,
    ws::{Denied, Shared, enter_as},
};
use query::Wanted;
use refusal::Refusal;
use sink::EventSink;

/// Whoever is cut off comes back after a second, and at most so many milliseconds more.
const RETRY_SPREAD_MS: f64 = 4000.0;

/// Somebody who may listen. Leaves the hub when dropped.
struct Listener {
    hub: Arc<Hub>,
    connection: Arc<Connection>,
    session: Session,
    sink: Arc<EventSink>,
    _ticket: Ticket,
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.hub.disconnect(&self.connection);
    }
}

/// `GET /realtime/v1/events`, and the question of a browser whether its page may ask.
pub(crate) async fn events(
    State(shared): State<Arc<Shared>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    request: Request,
) -> Response {
    let takeover = request.extensions().get::<Takeover>().cloned();
    drop(request);
    let mut answer = match (method, shared.allows_origin(&headers)) {
        (_, false) => refuse(&shared, Refusal::of(ErrorCode::OriginForbidden)),
        (Method::OPTIONS, true) => preflight(),
        (Method::GET, true) => match listener(&shared, &uri, &headers).await {
            Ok(listener) => match takeover {
                Some(takeover) => {
                    shared.metrics.handshake("accepted");
                    let tasks = shared.sockets.clone();
                    takeover.take(Box::new(move |stream| {
                        tasks.spawn(stream::run(shared, listener, stream));
                    }));
                    return std::future::pending().await;
                }
                None => refuse(&shared, Refusal::of(ErrorCode::Internal)),
            },
            Err(answer) => *answer,
        },
        (_, true) => refuse(&shared, Refusal::of(ErrorCode::MethodNotAllowed)),
    };
    if shared.allows_origin(&headers) {
        let into = answer.headers_mut();
        for (name, value) in cors(&shared, &headers) {
            into.insert(name, value);
        }
    }
    answer
}

fn refuse(shared: &Shared, refusal: Refusal) -> Response {
    shared.metrics.handshake(refusal.code.name());
    refusal.into_response()
}

/// What lets the page of an allowed origin read the answer. There are no cookies here, so none are allowed.
pub(crate) fn cors(shared: &Shared, headers: &HeaderMap) -> Vec<(header::HeaderName, HeaderValue)> {
    let Some(origin) = headers.get(header::ORIGIN) else {
        return Vec::new();
    };
    let allowed = match shared.origins.is_empty() {
        true => HeaderValue::from_static("*"),
        false => origin.clone(),
    };
    vec![
        (header::ACCESS_CONTROL_ALLOW_ORIGIN, allowed),
        (header::VARY, HeaderValue::from_static("Origin")),
    ]
}

fn preflight() -> Response {
    let allowed = "authorization, last-event-id, x-organization-id, rowcast-grant, cache-control";
    let headers = [
        (header::ACCESS_CONTROL_ALLOW_METHODS, "GET"),
        (header::ACCESS_CONTROL_ALLOW_HEADERS, allowed),
        (header::ACCESS_CONTROL_MAX_AGE, "600"),
    ];
    (StatusCode::NO_CONTENT, headers).into_response()
}

/// Somebody who may listen, subscribed to all that he asked for.
async fn listener(
    shared: &Arc<Shared>,
    uri: &Uri,
    headers: &HeaderMap,
) -> Result<Listener, Box<Response>> {
    let no = |refusal: Refusal| Box::new(refuse(shared, refusal));
    let not_ready = |why| no(Refusal::new(ErrorCode::NotReady, why));
    if shared.stopping.is_cancelled() {
        return Err(not_ready("the service is stopping; come back"));
    }
    let wanted = Wanted::read(uri, headers).map_err(no)?;
    let token = bearer(headers).ok_or_else(|| {
        let message = "send a token or an API key: `Authorization: Bearer <token>`";
        no(Refusal::new(ErrorCode::AuthRequired, message))
    })?;
    if !matches!(&*shared.ready.borrow(), Readiness::Ready) {
        return Err(not_ready("the service is not streaming yet"));
    }
    let limits = &shared.limits;
    let places = shared
        .admission
        .stranger(limits.connections, limits.unauthenticated);
    let mut ticket = places.ok_or_else(|| {
        let message = "as many connections as allowed; come back later";
        no(Refusal::new(ErrorCode::Overloaded, message))
    })?;
    let checking = shared.verifier.verify(token, &shared.hub);
    let verified = tokio::time::timeout(limits.auth_timeout, checking)
        .await
        .unwrap_or(Err(Refused::unavailable()))
        .map_err(|refused| {
            shared.metrics.refused(refused.code);
            no(Refusal::new(refused.code, refused.message))
        })?;
    let entry = enter_as(shared, &mut ticket, &verified, wanted.organization.clone());
    let entry = entry.await.map_err(|denied| match denied {
        Denied::NotMember => no(Refusal::of(ErrorCode::NotMember)),
        Denied::Limited(exceeded) => {
            shared.metrics.limited(exceeded);
            no(Refusal::new(exceeded.code(), exceeded.message()))
        }
    })?;

    let channels = match wanted.channels.is_empty() {
        true => entry.channels(&verified),
        false => {
            let all = wanted.channels.iter().map(|name| name.parse::<Channel>());
            let all: Result<Vec<_>, _> = all.collect();
            all.map_err(|error| no(Refusal::new(ErrorCode::UnknownChannel, error.to_string())))?
        }
    };
    let places = wanted.places(channels.len()).map_err(no)?;
    let grants = wanted.grants.of(&channels, &shared.grants).map_err(no)?;
    let mut subscriptions = Vec::with_capacity(channels.len());
    for (at, (channel, shown)) in channels.iter().zip(grants).enumerate() {
        let subscription = wanted.subscription(channel, &entry.organization, &shared.wire_limits());
        let mut subscription = subscription.map_err(no)?;
        subscription.cursor = places.get(at);
        subscriptions.push((subscription, shown));
    }
    // What is told on the channel of an organization is not told again on that of the user.
    subscriptions.sort_by_key(|(one, _)| matches!(one.channel, Channel::User(_)));

    let names: Vec<String> = channels.iter().map(Channel::to_string).collect();
    let head = head(
        &cors(shared, headers),
        shared.metrics.sockets.get().unsigned_abs(),
    );
    let sink = Arc::new(EventSink::new(EventStream::new(head, &names, places)));
    let (connection, session) = entry.connect(shared, &verified, sink.clone(), None);
    let listener = Listener {
        hub: shared.hub.clone(),
        connection,
        session,
        sink,
        _ticket: ticket,
    };
    for (subscription, shown) in subscriptions {
        // Where the application is asked who may, its answer comes in the stream.
        let requested = (shared.hub).request(&listener.connection, subscription, shown);
        requested.map_err(|error| no(error.into()))?;
    }
    Ok(listener)
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (kind, token) = value.split_once(' ')?;
    let token = token.trim();
    (kind.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

/// The head of the answer, and when to come back if the stream breaks off: not all at once.
fn head(cors: &[(header::HeaderName, HeaderValue)], number: u64) -> Vec<u8> {
    let mut head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n\
        cache-control: no-store, no-transform\r\nx-accel-buffering: no\r\nconnection: close\r\n"
        .to_vec();
    for (name, value) in cors {
        let line = [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat();
        head.extend_from_slice(&line);
    }
    let retry = 1000.0 + spread(number) * RETRY_SPREAD_MS;
    head.extend_from_slice(format!("\r\nretry: {retry:.0}\n\n").as_bytes());
    head
}
