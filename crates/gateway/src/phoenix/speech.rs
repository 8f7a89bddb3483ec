//! What frames of the Supabase protocol mean on a socket that is somebody's.

use std::time::Instant;

use rowcast_hub::{HubError, Relay, Room};
use rowcast_model::{Channel, OrgId};
use rowcast_wire::{
    ClientPresence, CloseCode, ErrorCode, Frame, PresenceAction,
    phoenix::{self, Broadcast, Join, Payload, PresencePush, Push, PushError, Says, Version},
};
use secrecy::{ExposeSecret, SecretString};

use super::{
    NOBODY, join,
    known::Known,
    token::{self, Fingerprint},
};
use crate::{
    auth::Refused,
    limits::{Exceeded, Kind},
    ws::{Place, Said, Shared, Speech, between_transactions, expiry, keep_writing},
};

/// The protocol on one socket.
pub(super) struct Phoenix {
    version: Version,
    /// The token that counts.
    pub(super) token: Option<Fingerprint>,
    joins: Known<Flags>,
}

/// Why a token was not taken.
struct NotTaken {
    why: String,
    /// Nobody could say whether it is good: the one of before counts.
    unknown: bool,
}

/// How a channel was joined.
#[derive(Clone)]
struct Flags {
    ack: bool,
    to_self: bool,
    channel: Channel,
    organization: Option<OrgId>,
}

impl Phoenix {
    pub(super) fn new(version: Version) -> Phoenix {
        Phoenix {
            version,
            token: None,
            joins: Known::default(),
        }
    }

    fn reply(&self, push: &Push, result: Result<&str, &str>) -> Frame {
        let (join_ref, reference) = (push.join_ref.as_deref(), push.reference.as_deref());
        phoenix::reply(self.version, join_ref, reference, &push.topic, result)
    }

    fn read(&self, place: &Place<'_>, message: &Said) -> Result<Push, PushError> {
        let limits = place.shared.wire_limits();
        match message {
            Said::Text(text) => phoenix::parse(self.version, text, &limits),
            Said::Binary(bytes) => phoenix::parse_binary(bytes, &limits),
        }
    }

    fn too_much(&self, place: &Place<'_>, push: Option<&Push>, exceeded: Exceeded) {
        place.shared.metrics.limited(exceeded);
        place.shared.metrics.error(exceeded.code());
        let connection = &place.whose.connection;
        let why = exceeded.message();
        // Others are counted: what nobody can be told of must not make more of itself.
        if let Some(push) = push {
            let told = match push.reference.is_some() {
                true => self.reply(push, Err(&why)),
                false => phoenix::system(self.version, None, &push.topic, "system", false, &why),
            };
            connection.send(told);
        }
    }

    /// Handles a push; true when patience is at its end.
    pub(super) async fn handle(&mut self, place: &mut Place<'_>, push: Push) -> bool {
        let connection = place.whose.connection.clone();
        match &push.says {
            Says::Heartbeat => {
                let reference = push.reference.as_deref();
                connection.send(phoenix::heartbeat_reply(self.version, reference));
                false
            }
            Says::Join(join) => {
                // Clients try again by themselves, at longer and longer times, and for ever: what is refused costs no
                // patience, as all that is on the socket would end with it.
                if let Err(why) = self.join(place, &push, join).await {
                    connection.send(self.reply(&push, Err(&why)));
                }
                false
            }
            Says::Leave => {
                self.joins.forget(&push.topic);
                let answer = self.reply(&push, Ok("{}"));
                place.shared.hub.leave(&connection, &push.topic, answer);
                false
            }
            _ if self.joins.get(&push.topic).is_none() => {
                if push.reference.is_some() {
                    connection.send(self.reply(&push, Err("unmatched topic")));
                }
                place.session.refused()
            }
            Says::AccessToken(Some(token)) => {
                self.renew(place, &push.topic, token).await;
                false
            }
            Says::Broadcast(broadcast) => {
                self.broadcast(place, &push, broadcast).await;
                false
            }
            Says::Presence(presence) => self.present(place, &push, presence),
            Says::AccessToken(None) | Says::Unknown => false,
        }
    }

    async fn join(
        &mut self,
        place: &mut Place<'_>,
        push: &Push,
        wanted: &Join,
    ) -> Result<(), String> {
        let now = Instant::now();
        let (shared, whose) = (place.shared, place.whose);
        let allowed = place.session.may_join(&whose.quota, now);
        let allowed = allowed.and_then(|()| whose.may(shared, Kind::Joins, 1, now));
        allowed.map_err(|exceeded| {
            shared.metrics.limited(exceeded);
            format!("ClientJoinRateLimitReached: {}", exceeded.message())
        })?;
        if let Some(token) = &wanted.access_token {
            let taken = self.take_token(place, token).await;
            taken.map_err(|refused| refused.why)?;
        }
        let channel = join::channel_of(&push.topic)?;
        if wanted.replay {
            return Err(
                "UnableToReplayMessages: Realtime was unable to replay messages".to_owned(),
            );
        }
        let organization = Some(place.whose.home.clone());
        let flags = Flags {
            ack: wanted.ack,
            to_self: wanted.to_self,
            channel: channel.clone(),
            organization: organization.clone(),
        };
        let room = Room {
            channel,
            organization,
            required: wanted.private,
            presence: wanted.presence,
        };
        let join = join::of(self.version, push, wanted, room);
        let connection = &place.whose.connection;
        let joined = place.shared.hub.join(connection, join);
        joined.map_err(|error| {
            place.shared.metrics.error(error.error_code());
            refusal(&push.topic, &error)
        })?;
        let (hub, connection) = (&place.shared.hub, &place.whose.connection);
        let there = || hub.joined(connection);
        self.joins.note(push.topic.clone(), flags, there);
        Ok(())
    }

    /// Takes another token of the same user.
    async fn take_token(
        &mut self,
        place: &mut Place<'_>,
        token: &SecretString,
    ) -> Result<(), NotTaken> {
        let not = |why: String| NotTaken {
            why,
            unknown: false,
        };
        let text = token.expose_secret();
        let fingerprint = Fingerprint::of(text);
        if self.token == Some(fingerprint) {
            return Ok(());
        }
        if !token::is_somebodys(text) {
            // Its user has signed out: what he was told goes to nobody.
            return Err(not(NOBODY.to_owned()));
        }
        let (shared, connection) = (place.shared, &place.whose.connection);
        let mut until = Instant::now() + shared.limits.auth_timeout;
        until = place.session.expires().map_or(until, |at| at.min(until));
        let verified = tokio::select! {
            verified = shared.verifier.verify(text, &shared.hub) => verified,
            () = tokio::time::sleep_until(until.into()) => Err(Refused::unavailable()),
            () = keep_writing(place.socket, connection) => Err(Refused::unavailable()),
        };
        let verified = verified.map_err(|refused| {
            shared.metrics.refused(refused.code);
            NotTaken {
                why: token::reason(&refused),
                unknown: refused.code == ErrorCode::AuthUnavailable,
            }
        })?;
        if let Err(error) = shared.hub.renew(connection, verified.identity) {
            // Whoever it is now: the client dials again and joins with what it has.
            connection.close(CloseCode::UserChanged);
            return Err(not(format!("Unauthorized: {error}")));
        }
        if verified.organizations.is_none() {
            let expires = expiry(Instant::now(), verified.expires_at);
            place.session.renewed(expires);
        }
        self.token = Some(fingerprint);
        Ok(())
    }

    async fn renew(&mut self, place: &mut Place<'_>, topic: &str, token: &SecretString) {
        let before = self.token;
        let hub = &place.shared.hub;
        match self.take_token(place, token).await {
            Ok(()) if self.token == before => {}
            Ok(()) => hub.confirm(&place.whose.connection, topic),
            Err(refused) => {
                let why = refused.why.split_once(": ");
                let why = why.map_or(&*refused.why, |(_, why)| why);
                let connection = &place.whose.connection;
                if refused.unknown {
                    let version = self.version;
                    let told = phoenix::system(version, None, topic, "system", false, why);
                    connection.send(told);
                    return;
                }
                self.joins.forget(topic);
                hub.expel(connection, topic, why);
            }
        }
    }

    /// Says something about itself to those on a channel.
    fn present(&mut self, place: &mut Place<'_>, push: &Push, presence: &PresencePush) -> bool {
        let Some(flags) = self.joins.get(&push.topic).cloned() else {
            return false;
        };
        let (shared, connection) = (place.shared, &place.whose.connection);
        let action = match presence {
            PresencePush::Track(state) => Ok(PresenceAction::Join(state.clone())),
            PresencePush::Untrack => Ok(PresenceAction::Leave),
            PresencePush::NoMap => Err("Presence track payload must be a map"),
            PresencePush::Unknown => Err("presence knows track and untrack"),
        };
        let may = place.whose.may(shared, Kind::Requests, 1, Instant::now());
        if let Err(exceeded) = may {
            self.too_much(place, Some(push), exceeded);
            return false;
        }
        let done = action
            .map_err(|why| (why.to_owned(), true))
            .and_then(|action| {
                let wanted = ClientPresence {
                    reference: None,
                    channel: flags.channel,
                    organization: flags.organization,
                    action,
                };
                shared.hub.present(connection, &wanted).map_err(|error| {
                    shared.metrics.error(error.error_code());
                    let costs = error.error_code() == ErrorCode::StateTooLarge;
                    (error.to_string(), costs)
                })
            });
        let answer = |result| push.reference.is_some().then(|| self.reply(push, result));
        match done {
            Ok(()) => {
                answer(Ok("{}")).map(|frame| connection.send(frame));
                false
            }
            Err((why, costs)) => {
                answer(Err(&why)).map(|frame| connection.send(frame));
                costs && place.session.refused()
            }
        }
    }

    /// Says something to the others on a channel.
    async fn broadcast(&mut self, place: &mut Place<'_>, push: &Push, broadcast: &Broadcast) {
        let Some(flags) = self.joins.get(&push.topic).cloned() else {
            return;
        };
        let (shared, connection) = (place.shared, &place.whose.connection);
        let now = Instant::now();
        if let Err(exceeded) = place.whose.may(shared, Kind::Requests, 1, now) {
            self.too_much(place, Some(push), exceeded);
            return;
        }
        let said = match &broadcast.payload {
            _ if !place.session.may_say(&shared.limits, now) => {
                shared.metrics.error(ErrorCode::SendLimited);
                Err(ErrorCode::SendLimited.sentence().to_owned())
            }
            _ if broadcast.persist => {
                Err("broadcasts are not kept here: leave `persist` away".to_owned())
            }
            Payload::Binary(_) => Err("the payload has to be JSON".to_owned()),
            Payload::Json(payload) => {
                let relay = Relay {
                    channel: flags.channel,
                    organization: flags.organization,
                    event: broadcast.event.clone(),
                    payload: payload.clone(),
                    to_self: flags.to_self,
                };
                let hub = &shared.hub;
                let saying = between_transactions(hub, || hub.relay(connection, &relay));
                let said = tokio::select! {
                    said = saying => said,
                    () = keep_writing(place.socket, connection) => return,
                };
                said.map(drop).map_err(|error: HubError| {
                    shared.metrics.error(error.error_code());
                    error.to_string()
                })
            }
        };
        match said {
            Ok(()) => {
                if flags.ack {
                    connection.send(self.reply(push, Ok("{}")));
                }
            }
            // Whoever did not ask for an answer has been told by its client that all is well; so it is said anyway.
            Err(why) => {
                if flags.ack && push.reference.is_some() {
                    connection.send(self.reply(push, Err(&why)));
                } else {
                    let (version, topic) = (self.version, &push.topic);
                    let told = phoenix::system(version, None, topic, "broadcast", false, &why);
                    connection.send(told);
                }
            }
        }
    }
}

impl Speech for Phoenix {
    async fn take(&mut self, place: &mut Place<'_>, message: Said) -> bool {
        match self.read(place, &message) {
            Ok(push) => Box::pin(self.handle(place, push)).await,
            Err(error) => {
                place.shared.metrics.error(ErrorCode::InvalidField);
                let address = error.address.as_ref();
                // Others could not be answered: they name no channel, or want no answer.
                if let Some(to) = address.filter(|to| to.reference.is_some()) {
                    let (join_ref, reference) = (to.join_ref.as_deref(), to.reference.as_deref());
                    let why = error.to_string();
                    let (version, topic) = (self.version, &to.topic);
                    let answer = phoenix::reply(version, join_ref, reference, topic, Err(&why));
                    place.whose.connection.send(answer);
                }
                place.session.refused()
            }
        }
    }

    fn refuse(&self, place: &Place<'_>, code: ErrorCode) {
        let hub = &place.shared.hub;
        hub.tell_joins(&place.whose.connection, code.sentence());
    }

    fn limited(&self, place: &Place<'_>, message: &Said, exceeded: Exceeded) {
        // Whoever waits for an answer gets one.
        let push = self.read(place, message).ok();
        self.too_much(place, push.as_ref(), exceeded);
    }

    fn next(&self, _: &Shared) -> Option<Instant> {
        None
    }

    fn go_on(&mut self, _: &mut Place<'_>, _: Instant) {}
}

/// Why a join is refused, in words that clients know.
fn refusal(topic: &str, error: &HubError) -> String {
    let name = topic.strip_prefix(phoenix::TOPIC_PREFIX).unwrap_or(topic);
    match error {
        HubError::TooManySubscriptions(_)
        | HubError::SubscriptionsTooLarge(_)
        | HubError::TooManyFilters => {
            format!("ChannelRateLimitReached: Too many channels: {error}")
        }
        HubError::NotReady | HubError::Closed => format!("RealtimeRestarting: {error}"),
        _ => format!(
            "Unauthorized: You do not have permissions to read from this Channel topic: {name} ({error})"
        ),
    }
}
