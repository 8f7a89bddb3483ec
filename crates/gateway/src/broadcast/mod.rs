//! `POST /broadcast`: what an application says over HTTP.
//!
//! Owns who may ask, what a body may hold, and that a request sent twice with one key is said once. Promises:
//! nothing is read before the token was checked; memory for bodies and kept answers is bounded in bytes; a
//! request is said as a whole, as one transaction, or not at all. Whom it reaches is decided in the hub, as for
//! everything else. What is to be durable is handed to a [`DurableSender`], which this crate knows nothing about.

pub mod body;
mod durable;
mod error;
mod idempotency;
mod row;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::post,
};
use bytes::Bytes;
use futures_util::StreamExt;
use parking_lot::Mutex;
use rowcast_hub::{Hub, HubError, Sent};
use rowcast_model::{Body as Says, Cursor, Message, RoutedEvent, Timestamp, Topic};
use serde::Serialize;
use sha2::{Digest, Sha256};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

pub use durable::{DurableError, DurableSender};
pub use error::{BroadcastError, Refusal};

use self::{
    body::{Broadcast, Change, Target},
    idempotency::{Answer, Answers, Begin},
};
use crate::{
    BroadcastConfig, GatewayMetrics,
    access::{AccessToken, NoAccess},
};

/// Most time to wait for the end of a transaction that is being published.
const SETTLE: Duration = Duration::from_secs(5);
/// Attempts to get in between two transactions.
const ATTEMPTS: usize = 100;
/// A body that is too large is read to its end, and forgotten, up to so many times the limit.
const UNREAD: usize = 8;
/// The header with the key of a request.
const KEY_HEADER: &str = "idempotency-key";

/// What the route needs.
pub(crate) struct Broadcasts {
    hub: Arc<Hub>,
    durable: Option<Arc<dyn DurableSender>>,
    token: AccessToken,
    body_bytes: usize,
    room: Arc<Semaphore>,
    room_bytes: usize,
    patience: Duration,
    answers: Arc<Mutex<Answers>>,
    metrics: GatewayMetrics,
}

impl Broadcasts {
    pub(crate) fn new(
        config: &BroadcastConfig,
        hub: Arc<Hub>,
        durable: Option<Arc<dyn DurableSender>>,
        metrics: GatewayMetrics,
    ) -> Broadcasts {
        let room_bytes = config.bodies_bytes.clamp(1, Semaphore::MAX_PERMITS >> 3);
        let answers = Answers::new(config.idempotency_bytes, config.idempotency_time);
        Broadcasts {
            hub,
            durable,
            token: AccessToken::new(config.access_token.as_ref()),
            body_bytes: config.body_bytes,
            room: Arc::new(Semaphore::new(room_bytes)),
            room_bytes,
            patience: config.patience,
            answers: Arc::new(Mutex::new(answers)),
            metrics,
        }
    }
}

/// The route.
pub(crate) fn routes(broadcasts: Arc<Broadcasts>) -> Router {
    let refused = async |State(broadcasts): State<Arc<Broadcasts>>| {
        broadcasts.refuse(&BroadcastError::Method.of_all())
    };
    Router::new()
        .route("/broadcast", post(handle).fallback(refused))
        .with_state(broadcasts)
}

async fn handle(State(broadcasts): State<Arc<Broadcasts>>, request: Request) -> Response {
    match broadcasts.clone().answer(request).await {
        Ok((answer, again)) => {
            let outcome = if again { "answered_again" } else { "said" };
            broadcasts.metrics.broadcast(outcome);
            let mut response = json_response(answer.status, answer.body);
            if again {
                let yes = HeaderValue::from_static("true");
                response.headers_mut().insert("idempotency-replayed", yes);
            }
            response
        }
        Err(refusal) => broadcasts.refuse(&refusal),
    }
}

fn json_response(status: u16, body: Bytes) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::OK);
    let kind = [(header::CONTENT_TYPE, "application/json")];
    (status, kind, body).into_response()
}

/// One answer of a request.
#[derive(Serialize)]
struct Told {
    cursor: Cursor,
    sockets: usize,
}

impl Broadcasts {
    fn refuse(&self, refusal: &Refusal) -> Response {
        #[derive(Serialize)]
        struct Error<'a> {
            code: &'a str,
            message: String,
            #[serde(skip_serializing_if = "Option::is_none")]
            index: Option<usize>,
        }
        #[derive(Serialize)]
        struct Whole<'a> {
            error: Error<'a>,
        }
        let error = &refusal.error;
        self.metrics.broadcast(error.code());
        let body = to_json(&Whole {
            error: Error {
                code: error.code(),
                message: error.to_string(),
                index: refusal.index,
            },
        });
        let mut response = json_response(error.status().as_u16(), body);
        let headers = response.headers_mut();
        match error {
            BroadcastError::Unauthorized => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            _ if error.status() == StatusCode::SERVICE_UNAVAILABLE => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
            }
            _ => {}
        }
        response
    }

    /// The answer, and whether it was given before.
    async fn answer(self: Arc<Self>, request: Request) -> Result<(Answer, bool), Refusal> {
        let (head, body) = request.into_parts();
        self.admit(&head.headers).map_err(BroadcastError::of_all)?;
        let (bytes, room) = self
            .read(&head.headers, body)
            .await
            .map_err(BroadcastError::of_all)?;
        let request = body::parse(&bytes)?;
        let key = key_of(&head.headers, request.key.as_deref()).map_err(BroadcastError::of_all)?;
        let claim = match key {
            None => None,
            Some(key) => {
                let digest = Sha256::digest(&bytes).into();
                let begun = idempotency::begin(&self.answers, &key, digest, Instant::now());
                match begun.map_err(BroadcastError::of_all)? {
                    Begin::Answered(answer) => return Ok((answer, true)),
                    Begin::First(claim) => Some(claim),
                }
            }
        };
        // Whoever asked may be gone before the end; what was begun is finished, and remembered.
        let work = tokio::spawn(async move {
            let answer = match request.durable {
                true => self.write(request).await.map_err(BroadcastError::of_all)?,
                false => self.say(request).await?,
            };
            if let Some(claim) = claim {
                claim.finish(answer.clone(), Instant::now());
                let used = self.answers.lock().used();
                self.metrics.kept_answers(used);
            }
            drop(room);
            Ok((answer, false))
        });
        work.await
            .unwrap_or_else(|_| Err(BroadcastError::Overloaded.of_all()))
    }

    /// Whether the request comes from whoever holds the token.
    fn admit(&self, headers: &HeaderMap) -> Result<(), BroadcastError> {
        self.token.admit(headers).map_err(|why| match why {
            NoAccess::Off => BroadcastError::Off,
            NoAccess::Unauthorized => BroadcastError::Unauthorized,
        })
    }

    /// Whether whoever asks is a server of the application.
    pub(crate) fn is_service(&self, headers: &HeaderMap) -> bool {
        self.token.admit(headers).is_ok()
    }

    /// The body, and the right to the memory that it takes.
    pub(crate) async fn read(
        &self,
        headers: &HeaderMap,
        body: Body,
    ) -> Result<(Vec<u8>, OwnedSemaphorePermit), BroadcastError> {
        let most = self.body_bytes;
        let length = headers.get(header::CONTENT_LENGTH);
        let length = length.and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
        if length.is_some_and(|length| length > most.saturating_mul(UNREAD)) {
            return Err(BroadcastError::TooLarge(most));
        }
        let wanted = length.unwrap_or(most).min(most).clamp(1, self.room_bytes);
        let wanted = u32::try_from(wanted).unwrap_or(u32::MAX);
        let room = self.room.clone().acquire_many_owned(wanted);
        let room = tokio::time::timeout(self.patience, room).await;
        let Ok(Ok(room)) = room else {
            return Err(BroadcastError::Overloaded);
        };
        let mut bytes = Vec::with_capacity(length.unwrap_or_default().min(most));
        let mut parts = body.into_data_stream();
        let mut come = 0_usize;
        let all = async {
            while let Some(part) = parts.next().await {
                // The sender is gone, or broke off.
                let part = part.map_err(|_| BroadcastError::TooSlow)?;
                come = come.saturating_add(part.len());
                match come <= most {
                    true => bytes.extend_from_slice(&part),
                    // Who is still writing does not read the answer, so a little is taken and thrown away.
                    false if come <= most.saturating_mul(UNREAD) => bytes = Vec::new(),
                    false => break,
                }
            }
            match come <= most {
                true => Ok(()),
                false => Err(BroadcastError::TooLarge(most)),
            }
        };
        tokio::time::timeout(self.patience, all)
            .await
            .unwrap_or(Err(BroadcastError::TooSlow))?;
        Ok((bytes, room))
    }

    /// Says it at once.
    async fn say(&self, request: body::Request) -> Result<Answer, Refusal> {
        let batch = request.batch;
        let mut events = Vec::with_capacity(request.messages.len());
        for (index, message) in request.messages.into_iter().enumerate() {
            let event = match message {
                body::Message::Change(change) => Ok(change_event(*change)),
                body::Message::Broadcast(broadcast) => self.broadcast_event(broadcast),
            };
            events.push(event.map_err(|error| Refusal {
                index: batch.then_some(index),
                error: BroadcastError::Hub(error),
            })?);
        }
        let sent = self.say_events(events).await;
        let sent = sent.map_err(|error| BroadcastError::Hub(error).of_all())?;
        let told = sent.into_iter().map(|sent| Told {
            cursor: sent.cursor,
            sockets: sent.sockets,
        });
        let told: Vec<Told> = told.collect();
        Ok(ok(match (batch, told.first()) {
            (false, Some(one)) => to_json(one),
            _ => {
                #[derive(Serialize)]
                struct Batch {
                    results: Vec<Told>,
                }
                to_json(&Batch { results: told })
            }
        }))
    }

    /// Says these as one transaction, as soon as no transaction of the log is published in part.
    pub(crate) async fn say_events(
        &self,
        mut events: Vec<RoutedEvent>,
    ) -> Result<Vec<Sent>, HubError> {
        let patience = tokio::time::Instant::now() + SETTLE;
        let mut attempts = 0;
        loop {
            attempts += 1;
            match self.hub.say(&mut events, None) {
                Ok(sent) => {
                    self.metrics.broadcast_messages.inc_by(sent.len() as u64);
                    return Ok(sent);
                }
                Err(HubError::Busy) if attempts < ATTEMPTS => {
                    let settled = tokio::time::timeout_at(patience, self.hub.settled());
                    settled.await.map_err(|_| HubError::Busy)?;
                }
                Err(error) => return Err(error),
            }
        }
    }

    pub(crate) fn broadcast_event(&self, broadcast: Broadcast) -> Result<RoutedEvent, HubError> {
        let Broadcast { event, payload, to } = broadcast;
        let (topic, audience) = match to {
            Target::Organization(organization, audience) => {
                let channel = rowcast_model::Channel::Org(organization);
                let (topic, _) = self.hub.address(&channel, None, &event)?;
                (topic, audience)
            }
            Target::Channel(channel, organization) => {
                self.hub.address(&channel, organization.as_ref(), &event)?
            }
        };
        Ok(RoutedEvent::message(
            Cursor::NOWHERE,
            Timestamp(0),
            topic,
            audience,
            Arc::new(Message::broadcast(event, payload)),
        ))
    }

    /// Has it written into the log, from where it comes as everything does.
    async fn write(&self, request: body::Request) -> Result<Answer, BroadcastError> {
        let Some(durable) = self.durable.clone() else {
            let why = "this service writes nothing into the log; leave `durable` away";
            return Err(BroadcastError::Durable(DurableError::Refused(why.into())));
        };
        let broadcasts = request.messages.into_iter().filter_map(|message| {
            match message {
                body::Message::Broadcast(broadcast) => Some(broadcast),
                // Refused with the body.
                body::Message::Change(_) => None,
            }
        });
        let broadcasts: Vec<Broadcast> = broadcasts.collect();
        let count = broadcasts.len() as u64;
        let cursor = durable.send(broadcasts).await;
        let cursor = cursor.map_err(BroadcastError::Durable)?;
        self.metrics.broadcast_messages.inc_by(count);
        Ok(written(cursor))
    }
}

/// The answer to what was written into the log.
fn written(cursor: Option<Cursor>) -> Answer {
    #[derive(Serialize)]
    struct Written {
        durable: bool,
        cursor: Option<Cursor>,
    }
    let body = to_json(&Written {
        durable: true,
        cursor,
    });
    // Written, but not seen in the log yet.
    let status = if cursor.is_some() { 200 } else { 202 };
    Answer { status, body }
}

fn ok(body: Bytes) -> Answer {
    Answer { status: 200, body }
}

/// A change as the log would tell it.
fn change_event(change: Change) -> RoutedEvent {
    let Change {
        organization,
        audience,
        table,
        op,
        new,
        old,
    } = change;
    // A key that is masked is told to nobody beside its row.
    let masked = audience.masked.as_ref();
    let hidden = masked.is_some_and(|masked| masked.masks.of("id").is_some());
    let id = |row: &Option<row::Row>| {
        let row = row.as_ref().filter(|_| !hidden);
        row.and_then(|row| row.id.clone())
    };
    let (new_id, old_id) = (id(&new), id(&old));
    let moved = new_id.is_some() && old_id.is_some() && new_id != old_id;
    RoutedEvent {
        cursor: Cursor::NOWHERE,
        commit_time: Timestamp(0),
        topic: Topic::Org(organization),
        audience,
        table,
        op,
        old_record_id: old_id.clone().filter(|_| moved),
        record_id: new_id.or(old_id),
        body: Says::Change {
            new: new.map(|row| row.values),
            old: old.map(|row| row.values),
            unchanged: Arc::new([]),
        },
        last: false,
    }
}

/// The key of a request, from the header or from the body.
fn key_of(headers: &HeaderMap, of_body: Option<&str>) -> Result<Option<String>, BroadcastError> {
    let mut of_header = headers.get_all(KEY_HEADER).iter();
    let first = match of_header.next() {
        None => None,
        Some(value) => Some(
            value
                .to_str()
                .map_err(|_| BroadcastError::field("`Idempotency-Key` must be plain text"))?,
        ),
    };
    if of_header.next().is_some() || matches!((first, of_body), (Some(a), Some(b)) if a != b) {
        return Err(BroadcastError::field(
            "the request has two idempotency keys",
        ));
    }
    if let Some(key) = first {
        body::check_key(key)?;
    }
    Ok(first.or(of_body).map(str::to_owned))
}

/// Structures of texts and numbers: nothing that JSON cannot say.
fn to_json(value: &impl Serialize) -> Bytes {
    serde_json::to_vec(value).unwrap_or_default().into()
}
