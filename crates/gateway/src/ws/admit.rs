//! From a stranger to a member: the first frame, the token, the organization, the first two channels.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use rowcast_hub::{Connection, Identity, Sink};
use rowcast_model::{Channel, OrgId, Timestamp};
use rowcast_wire::{
    Auth, ClientFrame, CloseCode, ErrorCode, Frame, FrameError, Subscribe, parse, server,
};
use tokio::net::TcpStream;

use super::{
    Shared,
    half::Socket,
    reader::{Read, Reader},
};
use crate::{
    Readiness,
    admission::Ticket,
    auth::{Refused, Verified, is_api_key, since_1970},
    limits::{Exceeded, Kind, Level, Quota, Who},
    session::Session,
};

/// Somebody who may listen.
pub(super) struct Member {
    pub whose: Whose,
    pub session: Session,
}

/// Whose socket it is.
pub(super) struct Whose {
    pub connection: Arc<Connection>,
    pub identity: Identity,
    /// The organization that it said it is for.
    pub home: OrgId,
    /// What may be used there.
    pub quota: Arc<Quota>,
}

impl Whose {
    /// Whether user and organization may do this now.
    pub(super) fn may(
        &self,
        shared: &Shared,
        kind: Kind,
        n: usize,
        now: Instant,
    ) -> Result<(), Exceeded> {
        let who = Who {
            identity: &self.identity,
            organization: &self.home,
        };
        let n = u32::try_from(n).unwrap_or(u32::MAX);
        shared.gates.ask(who, &self.quota, kind, n, now)
    }
}

/// Somebody who may not.
pub(super) enum Stranger {
    /// He is told why.
    Refused(Option<Frame>, CloseCode),
    /// He said goodbye; this is the answer.
    Left(Option<Frame>),
    /// There is nobody to tell.
    Gone,
}

impl Stranger {
    fn told(code: ErrorCode, message: &str, close: CloseCode) -> Stranger {
        Stranger::Refused(Some(server::error(None, code, message)), close)
    }
}

/// Waits for the first frame and decides. The ticket stays with the caller until the socket is gone, so that
/// those who are being sent away are counted too.
pub(super) async fn admit(
    shared: &Arc<Shared>,
    ticket: &mut Ticket,
    socket: &Arc<Socket>,
    reader: &mut Reader,
) -> Result<Box<Member>, Stranger> {
    tokio::select! {
        biased;
        () = shared.stopping.cancelled() => Err(Stranger::Refused(None, CloseCode::Restarting)),
        outcome = introduced(shared, ticket, socket, reader) => outcome,
    }
}

async fn introduced(
    shared: &Arc<Shared>,
    ticket: &mut Ticket,
    socket: &Arc<Socket>,
    reader: &mut Reader,
) -> Result<Box<Member>, Stranger> {
    let first = tokio::time::timeout(shared.limits.auth_timeout, first_frame(socket, reader));
    let text = first.await.unwrap_or_else(|_| {
        Err(Stranger::told(
            ErrorCode::AuthRequired,
            "no auth frame came in time",
            CloseCode::AuthTimeout,
        ))
    })?;
    let auth = match parse(&text, &shared.wire_limits()) {
        Ok(ClientFrame::Auth(auth)) => auth,
        Ok(_) => {
            return Err(Stranger::told(
                ErrorCode::AuthRequired,
                "the first frame must be `auth`",
                CloseCode::Protocol,
            ));
        }
        Err(error) => {
            return Err(Stranger::Refused(
                Some(refusal(&error)),
                CloseCode::Protocol,
            ));
        }
    };
    if !matches!(&*shared.ready.borrow(), Readiness::Ready) {
        return Err(Stranger::told(
            ErrorCode::NotReady,
            "the service is not streaming yet",
            CloseCode::Stale,
        ));
    }
    let checking = shared.verifier.verify(&auth.token, &shared.hub);
    let verified = tokio::time::timeout(shared.limits.auth_timeout, checking)
        .await
        .unwrap_or(Err(Refused::unavailable()))
        .map_err(|refused| {
            shared.metrics.refused(refused.code);
            let close = match (refused.code, is_api_key(&auth.token)) {
                (ErrorCode::TokenExpired, true) => CloseCode::KeyExpired,
                (code, _) => close_of(code),
            };
            Stranger::told(refused.code, refused.message, close)
        })?;
    let organization = organization_of(shared, &verified, auth.organization.clone())
        .filter(|organization| shared.hub.roles(&verified.identity, organization).is_some())
        .ok_or_else(|| not_member(shared))?;
    // Only members cost a question, and only those of this organization wait for it.
    let version = shared.hub.plans_version();
    let quota = shared.plans.of(&organization, version).await;
    let place = Place {
        organization,
        quota,
    };
    enter(shared, ticket, socket, auth, verified, place)
}

fn not_member(shared: &Shared) -> Stranger {
    let code = ErrorCode::NotMember;
    shared.metrics.refused(code);
    Stranger::told(code, code.sentence(), CloseCode::NotMember)
}

/// Where somebody wants to be, and what may be used there.
struct Place {
    organization: OrgId,
    quota: Arc<Quota>,
}

impl Place {
    /// Takes a place among the sockets of the organization, if there is one.
    fn take(
        &self,
        shared: &Shared,
        ticket: &mut Ticket,
        identity: &Identity,
        now: Instant,
    ) -> Result<(), Exceeded> {
        let who = Who {
            identity,
            organization: &self.organization,
        };
        (shared.gates).ask(who, &self.quota, Kind::Connects, 1, now)?;
        match ticket.join(&self.organization, self.quota.connections) {
            true => Ok(()),
            false => Err(Exceeded {
                kind: Kind::Connections,
                level: Level::Organization,
            }),
        }
    }
}

/// Makes a proved identity a member of one organization.
fn enter(
    shared: &Arc<Shared>,
    ticket: &mut Ticket,
    socket: &Arc<Socket>,
    auth: Auth,
    verified: Verified,
    place: Place,
) -> Result<Box<Member>, Stranger> {
    let now = Instant::now();
    let organization = place.organization.clone();
    // The membership may have ended meanwhile.
    let roles = shared.hub.roles(&verified.identity, &organization);
    let roles = roles.ok_or_else(|| not_member(shared))?;
    (place.take(shared, ticket, &verified.identity, now)).map_err(|exceeded| {
        Stranger::Refused(Some(shared.limited(None, exceeded)), exceeded.close())
    })?;
    let sink: Arc<dyn Sink> = socket.clone();
    let connection = shared.hub.connect(verified.identity.clone(), sink);
    let expires = expiry(now, verified.expires_at);
    let session = Session::new(&shared.limits, now, expires).spread(connection.id());
    let session = match verified.organizations {
        Some(_) => session.of_key(),
        None => session,
    };
    let id = connection.id().to_string();
    // It leaves together with the reply to the subscription: who reads it is on the channel already.
    let success = server::auth_success(&server::AuthSuccess {
        role: roles.first(),
        roles: &roles,
        auth_method: verified.method,
        user_id: verified.identity.user.as_str(),
        organization_id: organization.as_str(),
        connection_id: &id,
        ping_timeout_ms: u64::try_from(shared.limits.silence.as_millis()).unwrap_or(u64::MAX),
        expires_in: expires_in(verified.expires_at),
    });
    shared.hub.welcome(&connection, success);
    let mut channels = vec![Channel::Org(organization.clone())];
    if verified.organizations.is_none() {
        channels.push(Channel::User(verified.identity.user.clone()));
    }
    for channel in channels {
        let subscription = Subscribe {
            cursor: auth.cursor,
            ..Subscribe::to(channel)
        };
        if let Err(error) = shared.hub.subscribe(&connection, subscription) {
            // The membership ended between the look and the subscription.
            connection.send(server::error(None, error.error_code(), &error.to_string()));
        }
    }
    let whose = Whose {
        connection,
        identity: verified.identity,
        home: organization,
        quota: place.quota,
    };
    Ok(Box::new(Member { whose, session }))
}

/// The organization that was asked for; the first of an API key, the only one of a user.
fn organization_of(shared: &Shared, verified: &Verified, asked: Option<String>) -> Option<OrgId> {
    match (asked, &verified.organizations) {
        (Some(asked), Some(own)) => own.iter().find(|own| asked == own.as_str()).cloned(),
        (Some(asked), None) => Some(asked.into()),
        (None, Some(own)) => own.first().cloned(),
        (None, None) => match shared.hub.organizations(&verified.identity).as_slice() {
            [only] => Some(only.clone()),
            _ => None,
        },
    }
}

async fn first_frame(socket: &TcpStream, reader: &mut Reader) -> Result<Bytes, Stranger> {
    reader.turn();
    loop {
        let read = reader.read();
        let answer = reader.answers();
        if matches!(read, Read::Leaving) {
            return Err(Stranger::Left(answer));
        }
        // A stranger's ping is answered at once or not at all: what is cut off would garble the rest.
        if let Some(answer) = answer
            && socket.try_write(&answer).ok() != Some(answer.len())
        {
            return Err(Stranger::Gone);
        }
        let (code, close) = match read {
            Read::Text(text) => return Ok(text),
            Read::Binary => (ErrorCode::BinaryFrame, CloseCode::Protocol),
            Read::TooLarge => (ErrorCode::TooLarge, CloseCode::TooLarge),
            Read::NoRoom => (ErrorCode::Overloaded, CloseCode::Overloaded),
            Read::Broken => return Err(Stranger::Refused(None, CloseCode::Protocol)),
            Read::Gone | Read::Leaving => return Err(Stranger::Gone),
            Read::Life => continue,
            Read::Nothing => {
                socket.readable().await.map_err(|_| Stranger::Gone)?;
                reader.turn();
                continue;
            }
            Read::TurnOver => {
                tokio::task::yield_now().await;
                reader.turn();
                continue;
            }
        };
        return Err(Stranger::told(code, code.sentence(), close));
    }
}

pub(super) fn refusal(error: &FrameError) -> Frame {
    server::error(error.reference.as_ref(), error.code, &error.message)
}

fn close_of(code: ErrorCode) -> CloseCode {
    match code {
        ErrorCode::TokenExpired => CloseCode::TokenExpired,
        ErrorCode::AuthUnavailable => CloseCode::AuthUnavailable,
        ErrorCode::KeyRevoked => CloseCode::KeyRevoked,
        _ => CloseCode::AuthFailed,
    }
}

/// How long a token has, from its end in seconds since 1970.
fn left(expires_at: Option<u64>) -> Option<Duration> {
    expires_at.map(|at| Duration::from_secs(at).saturating_sub(since_1970()))
}

/// The same for the client, who does not care for parts of a second.
pub(super) fn expires_in(expires_at: Option<u64>) -> Option<u64> {
    left(expires_at).map(|left| left.as_secs())
}

/// The moment at which an API key ends, on the clock that cannot be set.
pub(super) fn moment(now: Instant, ends: Option<Timestamp>) -> Option<Instant> {
    let at = Duration::from_micros(u64::try_from(ends?.0).unwrap_or_default());
    now.checked_add(at.saturating_sub(since_1970()))
}

/// The moment a token ends, on the clock that cannot be set.
pub(super) fn expiry(now: Instant, expires_at: Option<u64>) -> Option<Instant> {
    now.checked_add(left(expires_at)?)
}
