//! From a stranger to a member: the first frame, the token, the organization, the first two channels.

use std::sync::Arc;

use bytes::Bytes;
use rowcast_wire::{
    Auth, ClientFrame, CloseCode, ErrorCode, Frame, FrameError, Subscribe, parse, server,
};
use tokio::net::TcpStream;

use super::{
    Shared,
    enter::{Denied, Whose, enter_as},
    half::Socket,
    reader::{Read, Reader},
};
use crate::{
    Readiness,
    admission::Ticket,
    auth::{Refused, Verified, is_api_key},
    session::Session,
};

/// Somebody who may listen.
pub(super) struct Member {
    pub whose: Whose,
    pub session: Session,
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
    enter(shared, ticket, socket, auth, verified).await
}

/// Makes a proved identity a member of one organization.
async fn enter(
    shared: &Arc<Shared>,
    ticket: &mut Ticket,
    socket: &Arc<Socket>,
    auth: Auth,
    verified: Verified,
) -> Result<Box<Member>, Stranger> {
    let entered = enter_as(shared, ticket, &verified, auth.organization).await;
    let entry = entered.map_err(|why| match why {
        Denied::NotMember => {
            let code = ErrorCode::NotMember;
            Stranger::told(code, code.sentence(), CloseCode::NotMember)
        }
        Denied::Limited(exceeded) => {
            Stranger::Refused(Some(shared.limited(None, exceeded)), exceeded.close())
        }
    })?;
    let silence = u64::try_from(shared.limits.silence.as_millis()).unwrap_or(u64::MAX);
    let (connection, session) = entry.connect(shared, &verified, socket.clone(), Some(silence));
    for channel in entry.channels(&verified) {
        let subscription = Subscribe {
            cursor: auth.cursor,
            ..Subscribe::to(channel)
        };
        if let Err(error) = shared.hub.subscribe(&connection, subscription) {
            // The membership ended between the look and the subscription.
            connection.send(server::error(None, error.error_code(), &error.to_string()));
        }
    }
    let whose = entry.whose(connection, verified);
    Ok(Box::new(Member { whose, session }))
}

async fn first_frame(socket: &TcpStream, reader: &mut Reader) -> Result<Bytes, Stranger> {
    reader.turn();
    loop {
        let (code, close) = match heard(socket, reader).await? {
            Read::Text(text) => return Ok(text),
            Read::Binary(_) => (ErrorCode::BinaryFrame, CloseCode::Protocol),
            Read::TooLarge => (ErrorCode::TooLarge, CloseCode::TooLarge),
            Read::NoRoom => (ErrorCode::Overloaded, CloseCode::Overloaded),
            Read::Broken => return Err(Stranger::Refused(None, CloseCode::Protocol)),
            _ => continue,
        };
        return Err(Stranger::told(code, code.sentence(), close));
    }
}

/// A stranger who has ended it himself.
pub(crate) enum Departed {
    /// He said goodbye; this is the answer.
    Left(Option<Frame>),
    /// There is nobody to tell.
    Gone,
}

impl From<Departed> for Stranger {
    fn from(departed: Departed) -> Stranger {
        match departed {
            Departed::Left(answer) => Stranger::Left(answer),
            Departed::Gone => Stranger::Gone,
        }
    }
}

/// Waits for what comes next from a stranger, in the turn that the caller has begun.
pub(crate) async fn heard(socket: &TcpStream, reader: &mut Reader) -> Result<Read, Departed> {
    loop {
        let read = reader.read();
        let answer = reader.answers();
        if matches!(read, Read::Leaving) {
            return Err(Departed::Left(answer));
        }
        // A stranger's ping is answered at once or not at all: what is cut off would garble the rest.
        if let Some(answer) = answer
            && socket.try_write(&answer).ok() != Some(answer.len())
        {
            return Err(Departed::Gone);
        }
        match read {
            Read::Gone => return Err(Departed::Gone),
            Read::Nothing => socket.readable().await.map_err(|_| Departed::Gone)?,
            Read::TurnOver => tokio::task::yield_now().await,
            read => return Ok(read),
        }
        reader.turn();
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
