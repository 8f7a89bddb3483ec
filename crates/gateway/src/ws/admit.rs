//! From a stranger to a member: the first frame, the token, the organization, the first two channels.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use rowcast_hub::{Connection, Sink};
use rowcast_model::{Channel, OrgId, Role};
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
    auth::{Refused, Verified, since_1970},
    session::Session,
};

/// Somebody who may listen.
pub(super) struct Member {
    pub connection: Arc<Connection>,
    pub session: Session,
    /// The organization that it named.
    pub home: OrgId,
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
) -> Result<Member, Stranger> {
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
) -> Result<Member, Stranger> {
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
            Stranger::told(refused.code, refused.message, close_of(refused.code))
        })?;
    enter(shared, ticket, socket, auth, verified)
}

/// Makes a proved identity a member of one organization.
fn enter(
    shared: &Arc<Shared>,
    ticket: &mut Ticket,
    socket: &Arc<Socket>,
    auth: Auth,
    verified: Verified,
) -> Result<Member, Stranger> {
    let entry =
        enter_as(shared, ticket, &verified, auth.organization).map_err(|why| match why {
            Denied::NotMember => {
                let code = ErrorCode::NotMember;
                Stranger::told(code, code.sentence(), CloseCode::NotMember)
            }
            Denied::Full => Stranger::Refused(None, CloseCode::TooManyConnections),
        })?;
    let silence = u64::try_from(shared.limits.silence.as_millis()).unwrap_or(u64::MAX);
    let (connection, session) = entry.connect(shared, &verified, socket.clone(), Some(silence));
    for channel in entry.channels(verified) {
        let subscription = Subscribe {
            cursor: auth.cursor,
            ..Subscribe::to(channel)
        };
        if let Err(error) = shared.hub.subscribe(&connection, subscription) {
            // The membership ended between the look and the subscription.
            connection.send(server::error(None, error.error_code(), &error.to_string()));
        }
    }
    Ok(Member {
        connection,
        session,
        home: entry.organization,
    })
}

/// What somebody has become.
pub(crate) struct Entry {
    /// The organization that he named.
    pub organization: OrgId,
    roles: Vec<Role>,
}

/// Why he has not.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Denied {
    /// He is no member.
    NotMember,
    /// The organization has as many connections as allowed.
    Full,
}

/// A place in the organization that was asked for, for whoever has proved who he is.
pub(crate) fn enter_as(
    shared: &Shared,
    ticket: &mut Ticket,
    verified: &Verified,
    asked: Option<String>,
) -> Result<Entry, Denied> {
    let not_member = || {
        shared.metrics.refused(ErrorCode::NotMember);
        Denied::NotMember
    };
    let organization = organization_of(shared, verified, asked).ok_or_else(not_member)?;
    let roles = shared
        .hub
        .roles(&verified.identity, &organization)
        .ok_or_else(not_member)?;
    match ticket.join(&organization, shared.limits.connections_per_organization) {
        false => Err(Denied::Full),
        true => Ok(Entry {
            organization,
            roles,
        }),
    }
}

impl Entry {
    /// Connects to the hub, and greets: that leaves together with the reply to the first subscription, so who reads
    /// it is on the channel already.
    pub(crate) fn connect(
        &self,
        shared: &Shared,
        verified: &Verified,
        sink: Arc<dyn Sink>,
        ping_timeout_ms: Option<u64>,
    ) -> (Arc<Connection>, Session) {
        let now = Instant::now();
        let connection = shared.hub.connect(verified.identity.clone(), sink);
        let session = Session::new(&shared.limits, now, expiry(now, verified.expires_at));
        let session = session.spread(connection.id());
        let id = connection.id().to_string();
        let success = server::auth_success(&server::AuthSuccess {
            role: self.roles.first(),
            roles: &self.roles,
            auth_method: verified.method,
            user_id: verified.identity.user.as_str(),
            organization_id: self.organization.as_str(),
            connection_id: &id,
            ping_timeout_ms,
            expires_in: expires_in(verified.expires_at),
        });
        shared.hub.welcome(&connection, success);
        (connection, session)
    }

    /// The channels that somebody is on who asked for none.
    pub(crate) fn channels(&self, verified: Verified) -> Vec<Channel> {
        let mut channels = vec![Channel::Org(self.organization.clone())];
        if verified.organization.is_none() {
            channels.push(Channel::User(verified.identity.user));
        }
        channels
    }
}

/// The organization that was asked for; an API key has one, a user may have only one.
fn organization_of(shared: &Shared, verified: &Verified, asked: Option<String>) -> Option<OrgId> {
    match (asked, &verified.organization) {
        (Some(asked), Some(own)) => (asked == own.as_str()).then(|| own.clone()),
        (Some(asked), None) => Some(asked.into()),
        (None, Some(own)) => Some(own.clone()),
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

/// The moment a token ends, on the clock that cannot be set.
pub(super) fn expiry(now: Instant, expires_at: Option<u64>) -> Option<Instant> {
    now.checked_add(left(expires_at)?)
}
