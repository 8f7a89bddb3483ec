//! One socket's life: say who you are, then listen. The loop only moves frames; decisions about time are in
//! [`Session`], those about channels in the hub.

use std::{
    io::ErrorKind,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use rowcast_hub::{Connection, HubError, Sink};
use rowcast_model::{Channel, OrgId};
use rowcast_wire::{
    ClientFrame, CloseCode, ErrorCode, Frame, FrameError, Ref, Subscribe, close_frame, parse,
    server,
};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::{
    self, Message, WebSocket,
    protocol::{Role, WebSocketConfig},
};

use super::{
    Shared,
    half::{In, Out},
};
use crate::{
    Readiness,
    admission::Ticket,
    auth::{Refused, Verified, now_seconds},
    session::{Admit, Due, Session},
};

/// Held-back events (`latest`) leave this long after the first of them.
const LATEST_PAUSE: Duration = Duration::from_millis(50);
/// How long a farewell may take to be read.
const LINGER: Duration = Duration::from_secs(2);

/// What the reader found.
enum Read {
    /// A text frame.
    Text(Vec<u8>),
    /// A binary frame.
    Binary,
    /// A ping or pong: a sign of life.
    Life,
    /// Nothing more at the moment.
    Nothing,
    /// Larger than allowed.
    TooLarge,
    /// The other side broke the rules of WebSocket.
    Broken,
    /// The other side is gone or leaving.
    Gone,
}

struct Reader(WebSocket<In>);

impl Reader {
    fn new(socket: Arc<TcpStream>, early: Vec<u8>, most: usize) -> Reader {
        let config = WebSocketConfig::default()
            .read_buffer_size(1024)
            .write_buffer_size(0)
            .max_write_buffer_size(64 * 1024)
            .max_message_size(Some(most))
            .max_frame_size(Some(most));
        let half = In {
            socket,
            answers: Vec::new(),
        };
        Reader(WebSocket::from_partially_read(
            half,
            early,
            Role::Server,
            Some(config),
        ))
    }

    fn read(&mut self) -> Read {
        use tungstenite::Error;
        match self.0.read() {
            Ok(Message::Text(text)) => Read::Text(Bytes::from(text).to_vec()),
            Ok(Message::Binary(_)) => Read::Binary,
            Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_)) => Read::Life,
            Ok(Message::Close(_)) => Read::Gone,
            Err(Error::Io(error))
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) =>
            {
                Read::Nothing
            }
            Err(Error::Capacity(_)) => Read::TooLarge,
            Err(Error::ConnectionClosed | Error::AlreadyClosed | Error::Io(_)) => Read::Gone,
            Err(Error::Protocol(
                tungstenite::error::ProtocolError::ResetWithoutClosingHandshake,
            )) => Read::Gone,
            Err(_) => Read::Broken,
        }
    }

    /// What WebSocket itself has to answer.
    fn answers(&mut self) -> Option<Frame> {
        let answers = std::mem::take(&mut self.0.get_mut().answers);
        (!answers.is_empty()).then(|| Frame::from(answers))
    }
}

/// Serves one socket until it ends.
pub(crate) async fn run(shared: Arc<Shared>, ticket: Ticket, stream: TcpStream, early: Vec<u8>) {
    shared.metrics.sockets.inc();
    let socket = Arc::new(stream);
    let mut reader = Reader::new(socket.clone(), early, shared.limits.message_bytes);
    // What is only needed at the beginning shall not be kept by ten thousand idle sockets.
    let admitted = Box::pin(admit(&shared, ticket, &socket, &mut reader)).await;
    match admitted {
        Ok(member) => {
            let Member {
                connection,
                session,
                ticket,
            } = member;
            let code = listen(&shared, &socket, &mut reader, &connection, session).await;
            if let Some(code) = code {
                shared.metrics.closed(code);
                connection.close(code);
                Box::pin(farewell(&socket, Some(&connection), close_frame(code))).await;
            }
            shared.hub.disconnect(&connection);
            drop(ticket);
        }
        Err(Some((error, code))) => {
            shared.metrics.closed(code);
            let mut bytes = error.map(|frame| frame.to_vec()).unwrap_or_default();
            bytes.extend_from_slice(&close_frame(code));
            Box::pin(farewell(&socket, None, bytes.into())).await;
        }
        Err(None) => {}
    }
    shared.metrics.sockets.dec();
}

struct Member {
    connection: Arc<Connection>,
    session: Session,
    ticket: Ticket,
}

/// Nobody, and what to tell him.
type Stranger = Option<(Option<Frame>, CloseCode)>;

fn stranger(code: ErrorCode, message: &str, close: CloseCode) -> Stranger {
    Some((Some(server::error(None, code, message)), close))
}

async fn admit(
    shared: &Arc<Shared>,
    mut ticket: Ticket,
    socket: &Arc<TcpStream>,
    reader: &mut Reader,
) -> Result<Member, Stranger> {
    let first = tokio::time::timeout(
        shared.limits.auth_timeout,
        first_frame(shared, socket, reader),
    )
    .await;
    let text = first.map_err(|_| {
        stranger(
            ErrorCode::AuthRequired,
            "no auth frame came in time",
            CloseCode::AuthTimeout,
        )
    })??;
    let limits = wire_limits(shared);
    let auth = match parse(&text, &limits) {
        Ok(ClientFrame::Auth(auth)) => auth,
        Ok(_) => {
            return Err(stranger(
                ErrorCode::AuthRequired,
                "the first frame must be `auth`",
                CloseCode::Protocol,
            ));
        }
        Err(error) => return Err(Some((Some(refusal(&error)), CloseCode::Protocol))),
    };
    if !matches!(&*shared.ready.borrow(), Readiness::Ready) {
        return Err(stranger(
            ErrorCode::NotReady,
            "the service is not streaming yet",
            CloseCode::Stale,
        ));
    }
    let checking = tokio::time::timeout(
        shared.limits.auth_timeout,
        shared.verifier.verify(&auth.token, &shared.hub),
    );
    let verified = checking
        .await
        .unwrap_or(Err(Refused::new(
            ErrorCode::AuthUnavailable,
            "the token cannot be checked at the moment",
        )))
        .map_err(|refused| {
            shared.metrics.refused(refused.code);
            stranger(refused.code, refused.message, close_of(refused.code))
        })?;
    let not_member = || {
        shared.metrics.refused(ErrorCode::NotMember);
        stranger(
            ErrorCode::NotMember,
            ErrorCode::NotMember.sentence(),
            CloseCode::NotMember,
        )
    };
    let organization =
        organization_of(shared, &verified, auth.organization).ok_or_else(not_member)?;
    let roles = shared
        .hub
        .roles(&verified.identity, &organization)
        .ok_or_else(not_member)?;
    if !ticket.join(&organization, shared.limits.connections_per_organization) {
        return Err(Some((None, CloseCode::TooManyConnections)));
    }
    let now = Instant::now();
    let session = Session::new(&shared.limits, now, expiry(now, verified.expires_at));
    let sink: Arc<dyn Sink> = Arc::new(Out(socket.clone()));
    let connection = shared.hub.connect(verified.identity.clone(), sink);
    let id = connection.id().to_string();
    connection.send(server::auth_success(&server::AuthSuccess {
        role: roles.first(),
        roles: &roles,
        auth_method: verified.method,
        user_id: verified.identity.user.as_str(),
        organization_id: organization.as_str(),
        connection_id: &id,
        ping_timeout_ms: u64::try_from(shared.limits.silence.as_millis()).unwrap_or(u64::MAX),
        expires_in: verified
            .expires_at
            .map(|at| at.saturating_sub(now_seconds())),
    }));
    let mut channels = vec![Channel::Org(organization)];
    if verified.organization.is_none() {
        channels.push(Channel::User(verified.identity.user));
    }
    for channel in channels {
        if let Err(error) = shared.hub.subscribe(&connection, Subscribe::to(channel)) {
            // The membership ended between the look and the subscription.
            connection.send(server::error(None, error.error_code(), &error.to_string()));
        }
    }
    Ok(Member {
        connection,
        session,
        ticket,
    })
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

async fn first_frame(
    shared: &Shared,
    socket: &TcpStream,
    reader: &mut Reader,
) -> Result<Vec<u8>, Stranger> {
    loop {
        match reader.read() {
            Read::Text(text) => return Ok(text),
            Read::Binary => {
                return Err(stranger(
                    ErrorCode::BinaryFrame,
                    ErrorCode::BinaryFrame.sentence(),
                    CloseCode::Protocol,
                ));
            }
            Read::TooLarge => {
                return Err(stranger(
                    ErrorCode::TooLarge,
                    ErrorCode::TooLarge.sentence(),
                    CloseCode::TooLarge,
                ));
            }
            Read::Broken => return Err(Some((None, CloseCode::Protocol))),
            Read::Gone => return Err(None),
            Read::Life => {}
            Read::Nothing => {
                tokio::select! {
                    ready = socket.readable() => ready.map_err(|_| None)?,
                    () = shared.stopping.cancelled() => return Err(Some((None, CloseCode::Restarting))),
                }
            }
        }
        // A stranger's ping is answered at once or not at all.
        if let Some(answer) = reader.answers() {
            let _ = socket.try_write(&answer);
        }
    }
}

/// Moves frames until the socket is to be closed with a code, or is gone.
async fn listen(
    shared: &Arc<Shared>,
    socket: &TcpStream,
    reader: &mut Reader,
    connection: &Arc<Connection>,
    mut session: Session,
) -> Option<CloseCode> {
    let mut latest_due: Option<Instant> = None;
    loop {
        let work = connection.work();
        if let Some(code) = work.close {
            return Some(code);
        }
        let now = Instant::now();
        match session.due(now) {
            Due::Nothing => {}
            Due::Ping => drop(connection.send(server::ping())),
            Due::Close(code) => return Some(code),
        }
        match (work.latest, latest_due) {
            (true, None) => latest_due = Some(now + LATEST_PAUSE),
            (true, Some(at)) if at <= now => {
                connection.flush_latest();
                latest_due = None;
            }
            (false, _) => latest_due = None,
            _ => {}
        }
        let wake = latest_due.map_or(session.next(), |at| at.min(session.next()));
        tokio::select! {
            ready = socket.readable() => {
                if ready.is_err() {
                    return None;
                }
                if let Some(end) = read_all(shared, reader, connection, &mut session).await {
                    return end;
                }
            }
            ready = socket.writable(), if work.writable => {
                if ready.is_err() {
                    return None;
                }
                connection.drain();
            }
            () = connection.woken() => {}
            () = tokio::time::sleep_until(wake.into()) => {}
        }
    }
}

/// Handles what has arrived. `Some(None)`: the socket is gone.
async fn read_all(
    shared: &Arc<Shared>,
    reader: &mut Reader,
    connection: &Arc<Connection>,
    session: &mut Session,
) -> Option<Option<CloseCode>> {
    loop {
        let read = reader.read();
        if let Some(answer) = reader.answers() {
            connection.send(answer);
        }
        let now = Instant::now();
        let refused = match read {
            Read::Nothing => return None,
            Read::Gone => return Some(None),
            Read::Broken => return Some(Some(CloseCode::Protocol)),
            Read::TooLarge => {
                connection.send(server::error(
                    None,
                    ErrorCode::TooLarge,
                    ErrorCode::TooLarge.sentence(),
                ));
                return Some(Some(CloseCode::TooLarge));
            }
            Read::Life => {
                session.heard(now);
                continue;
            }
            Read::Binary => {
                session.heard(now);
                connection.send(server::error(
                    None,
                    ErrorCode::BinaryFrame,
                    ErrorCode::BinaryFrame.sentence(),
                ));
                session.refused()
            }
            Read::Text(text) => {
                session.heard(now);
                shared.metrics.frames.inc();
                match session.admit(now) {
                    Admit::Close => true,
                    Admit::TooFast => {
                        connection.send(server::error(
                            None,
                            ErrorCode::RateLimited,
                            ErrorCode::RateLimited.sentence(),
                        ));
                        false
                    }
                    Admit::Yes => match parse(&text, &wire_limits(shared)) {
                        Ok(frame) => Box::pin(handle(shared, connection, session, frame)).await,
                        Err(error) => {
                            connection.send(refusal(&error));
                            session.refused()
                        }
                    },
                }
            }
        };
        if refused {
            return Some(Some(CloseCode::Protocol));
        }
    }
}

/// Handles one frame; true when patience is at its end.
async fn handle(
    shared: &Arc<Shared>,
    connection: &Arc<Connection>,
    session: &mut Session,
    frame: ClientFrame,
) -> bool {
    let answer = |reference: Option<&Ref>, error: &HubError| {
        connection.send(server::error(
            reference,
            error.error_code(),
            &error.to_string(),
        ));
    };
    match frame {
        ClientFrame::Auth(_) => {
            let code = ErrorCode::AlreadyAuthenticated;
            connection.send(server::error(None, code, code.sentence()));
            return session.refused();
        }
        ClientFrame::Subscribe(subscribe) => {
            let reference = subscribe.reference.clone();
            if let Err(error) = shared.hub.subscribe(connection, *subscribe) {
                answer(reference.as_ref(), &error);
                return session.refused();
            }
        }
        ClientFrame::Unsubscribe { reference, channel } => {
            if let Err(error) =
                shared
                    .hub
                    .unsubscribe(connection, &channel, None, reference.as_ref())
            {
                answer(reference.as_ref(), &error);
            }
        }
        ClientFrame::Token { reference, token } => {
            match shared.verifier.verify(&token, &shared.hub).await {
                Err(refused) => {
                    shared.metrics.refused(refused.code);
                    connection.send(server::error(
                        reference.as_ref(),
                        refused.code,
                        refused.message,
                    ));
                    return session.refused();
                }
                Ok(verified) => match shared.hub.renew(connection, verified.identity) {
                    Err(error) => {
                        answer(reference.as_ref(), &error);
                        return session.refused();
                    }
                    Ok(()) => {
                        session.renewed(expiry(Instant::now(), verified.expires_at));
                        let seconds = verified
                            .expires_at
                            .map(|at| at.saturating_sub(now_seconds()));
                        connection.send(server::token_refreshed(reference.as_ref(), seconds));
                    }
                },
            }
        }
        ClientFrame::Ping { reference } => drop(connection.send(server::pong(reference.as_ref()))),
        ClientFrame::Pong => {}
    }
    false
}

/// Sends the last bytes, behind what is still on its way, and waits a little for the other side to read
/// them and close.
async fn farewell(socket: &TcpStream, connection: Option<&Connection>, mut bytes: Frame) {
    let ending = async {
        while connection.is_some_and(|connection| !connection.drain()) {
            socket.writable().await?;
        }
        while !bytes.is_empty() {
            match socket.try_write(&bytes) {
                Ok(written) => drop(bytes.split_to(written)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => socket.writable().await?,
                Err(error) => return Err(error),
            }
        }
        let mut rest = [0_u8; 1024];
        loop {
            socket.readable().await?;
            match socket.try_read(&mut rest) {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    };
    let _ = tokio::time::timeout(LINGER, ending).await;
}

fn wire_limits(shared: &Shared) -> rowcast_wire::Limits {
    rowcast_wire::Limits {
        frame_bytes: shared.limits.message_bytes,
        ..rowcast_wire::Limits::default()
    }
}

fn refusal(error: &FrameError) -> Frame {
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

/// The moment a token ends, on the clock that cannot be set.
fn expiry(now: Instant, expires_at: Option<u64>) -> Option<Instant> {
    let left = expires_at?.saturating_sub(now_seconds());
    now.checked_add(Duration::from_secs(left))
}
