//! `POST /realtime/v1/api/broadcast` and `…/broadcast/{topic}/events/{event}`, and the same under `/api`: what
//! clients of Supabase say over HTTP.
//!
//! Owns the addresses and their answers. Promises: nothing of a body is read before it is known who sends it; a
//! request is said as a whole or not at all; whoever is no server of the application may say what he may on a
//! socket, at the rate of a socket. Whom it reaches, and who may, is decided in the hub. Bodies share the bounds of
//! `POST /broadcast`.

mod body;
mod caller;
mod refusal;
mod senders;

use std::{sync::Arc, time::Instant};

use axum::{
    Router,
    extract::{Path, Query, Request, State},
    http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header},
    response::{IntoResponse, Response},
    routing::any,
};
use rowcast_hub::Relay;
use rowcast_model::{MAX_ID_BYTES, OrgId, RoutedEvent, is_name};

pub use senders::SENDER_BYTES;

use self::{
    body::Saying,
    caller::{Caller, Somebody},
    refusal::Refusal,
    senders::Senders,
};
use crate::{
    broadcast::{
        Broadcasts,
        body::{Broadcast, Target},
    },
    sse::cors,
    ws::Shared,
};

/// What the routes need.
pub(crate) struct Rest {
    shared: Arc<Shared>,
    broadcasts: Arc<Broadcasts>,
    senders: Senders,
}

/// What the address says besides where it is.
#[derive(Debug, Default, PartialEq, Eq)]
struct Parameters {
    organization: Option<OrgId>,
}

/// The routes. Behind Supabase's gateway there is one family of addresses, without it the other.
pub(crate) fn routes(shared: Arc<Shared>, broadcasts: Arc<Broadcasts>) -> Router {
    let mut router = Router::new();
    for base in ["/realtime/v1/api/broadcast", "/api/broadcast"] {
        router = router
            .route(base, any(batch))
            .route(&format!("{base}/{{topic}}/events/{{event}}"), any(single));
    }
    router.with_state(Arc::new(Rest {
        shared,
        broadcasts,
        senders: Senders::new(Instant::now()),
    }))
}

async fn batch(State(rest): State<Arc<Rest>>, request: Request) -> Response {
    rest.answer(request, None).await
}

async fn single(
    State(rest): State<Arc<Rest>>,
    place: Result<Path<(String, String)>, axum::extract::rejection::PathRejection>,
    request: Request,
) -> Response {
    // What cannot be decoded names no channel.
    let place = place.map(|place| place.0).unwrap_or_default();
    rest.answer(request, Some(place)).await
}

impl Rest {
    async fn answer(&self, request: Request, place: Option<(String, String)>) -> Response {
        let (head, body) = request.into_parts();
        let allowed = self.shared.allows_origin(&head.headers);
        let mut answer = match (head.method, allowed) {
            (_, false) => self.refuse(&Refusal::origin()),
            (Method::OPTIONS, true) => preflight(&head.headers),
            (Method::POST, true) => match self.say(&head.uri, &head.headers, body, place).await {
                Ok(()) => {
                    self.shared.metrics.broadcast("said");
                    StatusCode::ACCEPTED.into_response()
                }
                Err(refusal) => self.refuse(&refusal),
            },
            (_, true) => self.refuse(&Refusal::method()),
        };
        if allowed {
            answer
                .headers_mut()
                .extend(cors(&self.shared, &head.headers));
        }
        answer
    }

    fn refuse(&self, refusal: &Refusal) -> Response {
        self.shared.metrics.broadcast(refusal.code);
        refusal.answer()
    }

    async fn say(
        &self,
        uri: &Uri,
        headers: &HeaderMap,
        body: axum::body::Body,
        place: Option<(String, String)>,
    ) -> Result<(), Refusal> {
        let caller = caller::find(&self.shared, &self.broadcasts, headers).await?;
        body::check_type(headers.get(header::CONTENT_TYPE))?;
        let parameters = parameters(uri)?;
        let (bytes, _room) = self.broadcasts.read(headers, body).await?;
        let sayings = match &place {
            Some((topic, event)) => body::single(topic, event, &bytes).map(|one| vec![one]),
            None => body::batch(&bytes),
        };
        let events = match caller {
            Caller::Service => self.of_service(sayings?, parameters.organization)?,
            Caller::Somebody(somebody) => {
                let home = somebody.home(&self.shared, parameters.organization)?;
                // A body that cannot be read counts, too.
                let count = sayings.as_ref().map_or(1, Vec::len);
                let senders = &self.senders;
                let may =
                    somebody.may_send(&self.shared, senders, home.as_ref(), count, bytes.len());
                may.await?;
                self.of_somebody(&somebody, sayings?, home.as_ref())?
            }
        };
        self.broadcasts.say_events(events).await?;
        Ok(())
    }

    /// A server of the application may say anything.
    fn of_service(
        &self,
        sayings: Vec<Saying>,
        organization: Option<OrgId>,
    ) -> Result<Vec<RoutedEvent>, Refusal> {
        let event = |saying: Saying| {
            let Saying {
                channel,
                event,
                payload,
            } = saying;
            let to = Target::Channel(channel, organization.clone());
            self.broadcasts
                .broadcast_event(Broadcast { event, payload, to })
        };
        let events: Result<_, _> = sayings.into_iter().map(event).collect();
        Ok(events?)
    }

    /// Others what the channels let clients say.
    fn of_somebody(
        &self,
        somebody: &Somebody,
        sayings: Vec<Saying>,
        home: Option<&OrgId>,
    ) -> Result<Vec<RoutedEvent>, Refusal> {
        let event = |saying: Saying| {
            let relay = Relay {
                channel: saying.channel,
                organization: home.cloned(),
                event: saying.event,
                payload: saying.payload,
                to_self: true,
            };
            self.shared.hub.relayed(somebody.identity(), &relay)
        };
        let events: Result<_, _> = sayings.into_iter().map(event).collect();
        Ok(events?)
    }
}

/// Clients leave the parameters of their socket's address on this one, so others than ours are passed over.
fn parameters(uri: &Uri) -> Result<Parameters, Refusal> {
    let pairs = Query::<Vec<(String, String)>>::try_from_uri(uri);
    let pairs = pairs
        .map_err(|_| Refusal::invalid("query", "the parameters of the address cannot be read"))?;
    let mut parameters = Parameters::default();
    for (name, value) in pairs.0 {
        match &*name {
            "organization" if is_name(&value, MAX_ID_BYTES) => {
                parameters.organization = Some(value.as_str().into());
            }
            "organization" => {
                return Err(Refusal::invalid(
                    "organization",
                    "this cannot be an organization",
                ));
            }
            // Every channel here says by its rule who may send, which is what private channels do.
            "private" if !matches!(value.to_ascii_lowercase().as_str(), "true" | "false") => {
                return Err(Refusal::invalid("private", "must be true or false"));
            }
            _ => {}
        }
    }
    Ok(parameters)
}

/// There are no cookies here, so whatever headers a page wants to send it may.
fn preflight(headers: &HeaderMap) -> Response {
    let usual = HeaderValue::from_static("authorization, apikey, content-type, x-client-info");
    let asked = headers.get(header::ACCESS_CONTROL_REQUEST_HEADERS);
    let headers = [
        (
            header::ACCESS_CONTROL_ALLOW_METHODS,
            HeaderValue::from_static("POST"),
        ),
        (
            header::ACCESS_CONTROL_ALLOW_HEADERS,
            asked.cloned().unwrap_or(usual),
        ),
        (
            header::ACCESS_CONTROL_MAX_AGE,
            HeaderValue::from_static("600"),
        ),
    ];
    (StatusCode::NO_CONTENT, headers).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_the_parameters_only_ours_are_read() {
        let read = |query: &str| parameters(&format!("/api/broadcast{query}").parse().unwrap());
        let organization = Some(OrgId::from("org:1"));
        assert_eq!(
            read("?apikey=eyJ&vsn=2.0.0&log_level=info&organization=org%3A1&private=True"),
            Ok(Parameters { organization })
        );
        assert_eq!(read(""), Ok(Parameters::default()));
        for (query, field) in [
            ("?private=perhaps", "private"),
            ("?organization=", "organization"),
            ("?organization=a%00", "organization"),
        ] {
            let refusal = read(query).unwrap_err();
            assert_eq!(
                (refusal.status.as_u16(), refusal.field.as_deref()),
                (422, Some(field))
            );
        }
    }
}
