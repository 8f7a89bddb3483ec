//! One socket's life: say who you are, then listen. The loop only moves frames; decisions about time are in
//! [`Session`], those about channels in the hub.

use std::{
    io::ErrorKind,
    sync::Arc,
    time::{Duration, Instant},
};

use rowcast_hub::{Connection, HubError, spread};
use rowcast_wire::{ClientFrame, CloseCode, ErrorCode, Frame, Ref, close_frame, parse, server};
use tokio::net::TcpStream;

use super::{
    Shared,
    admit::{Member, Stranger, admit, refusal},
    enter::{Whose, expires_in, expiry},
    event::Sent,
    half::Socket,
    reader::{Read, Reader},
    say,
    tend::{LATEST_PAUSE, Tending},
};
use crate::{
    admission::Ticket,
    auth::Refused,
    limits::Kind,
    session::{Admit, Session},
};

/// How long a farewell may take to be read.
const LINGER: Duration = Duration::from_secs(2);

/// How a socket ends.
enum End {
    /// We close it.
    Close(CloseCode),
    /// The other side said goodbye, and its answer is under way.
    Left,
    /// There is nobody any more.
    Gone,
}

/// How a turn of reading ends.
enum Turn {
    /// Nothing more has come.
    Drained,
    /// There may be more.
    More,
    /// The socket is done.
    End(End),
}

/// Serves one socket until it ends.
pub(crate) async fn run(
    shared: Arc<Shared>,
    mut ticket: Ticket,
    stream: TcpStream,
    early: Vec<u8>,
) {
    shared.metrics.sockets.inc();
    let socket = Arc::new(Socket(stream));
    let mut reader = Reader::new(
        socket.clone(),
        early,
        shared.limits.message_bytes,
        shared.incoming.clone(),
    );
    // What is only needed at the beginning shall not be kept by ten thousand idle sockets.
    let admitted = Box::pin(admit(&shared, &mut ticket, &socket, &mut reader)).await;
    match admitted {
        Ok(mut member) => {
            let Member { whose, session } = &mut *member;
            let ended = listen(&shared, &socket, &mut reader, whose, session).await;
            let connection = &whose.connection;
            match ended {
                End::Close(code) => {
                    shared.metrics.closed(code);
                    connection.close(code);
                    shared.hub.vacate(connection, code.come_back());
                    let last = last_words(&shared, code, connection.id());
                    Box::pin(farewell(&socket, Some(connection), last)).await;
                }
                End::Left => {
                    shared.hub.vacate(connection, false);
                    Box::pin(farewell(&socket, Some(connection), Frame::new())).await;
                }
                End::Gone => shared.hub.vacate(connection, true),
            }
            shared.hub.disconnect(connection);
        }
        Err(Stranger::Refused(error, code)) => {
            shared.metrics.closed(code);
            let mut bytes = error.map(|frame| frame.to_vec()).unwrap_or_default();
            // Told apart from members, who are numbered from 0.
            let number = u64::MAX - shared.metrics.sockets.get().unsigned_abs();
            bytes.extend_from_slice(&last_words(&shared, code, number));
            Box::pin(farewell(&socket, None, bytes.into())).await;
        }
        Err(Stranger::Left(answer)) => {
            Box::pin(farewell(&socket, None, answer.unwrap_or_default())).await;
        }
        Err(Stranger::Gone) => {}
    }
    shared.metrics.sockets.dec();
}

/// The close frame, and before it when to come back if all sockets are closed at once.
fn last_words(shared: &Shared, code: CloseCode, number: u64) -> Frame {
    let close = close_frame(code);
    if code != CloseCode::Restarting {
        return close;
    }
    let after = shared.limits.goodbye_spread.mul_f64(spread(number));
    let after = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
    let goodbye = server::goodbye(code.name(), Some(after));
    [goodbye, close].concat().into()
}

/// Moves frames until the socket ends.
async fn listen(
    shared: &Arc<Shared>,
    socket: &TcpStream,
    reader: &mut Reader,
    whose: &Whose,
    session: &mut Session,
) -> End {
    let connection = &whose.connection;
    if shared.stopping.is_cancelled() {
        // Everybody was told to go while this one came in.
        return End::Close(CloseCode::Restarting);
    }
    let mut tending = Tending::default();
    let mut sent = Sent::default();
    // More than the first frame may have come already.
    let mut more = true;
    loop {
        let now = Instant::now();
        let work = match tending.tend(shared, connection, session, now) {
            Ok(work) => work,
            Err(code) => return End::Close(code),
        };
        if sent.next(shared).is_some_and(|at| at <= now) {
            whose.sender(shared).go_on(session, &mut sent, now);
        }
        if more {
            match read_turn(shared, socket, reader, whose, session, &mut sent).await {
                Turn::End(end) => return end,
                Turn::Drained => more = false,
                Turn::More => {
                    if work.writable {
                        connection.drain();
                    }
                    tokio::task::yield_now().await;
                }
            }
            continue;
        }
        let (told, wake) = tending.tell(shared, connection, session, work, now);
        let wake = sent.next(shared).map_or(wake, |at| wake.min(at));
        tokio::select! {
            ready = socket.readable() => match ready {
                Ok(()) => more = true,
                Err(_) => return End::Gone,
            },
            ready = socket.writable(), if work.writable => match ready {
                Ok(()) => drop(connection.drain()),
                Err(_) => return End::Gone,
            },
            // More of the past may follow; others get their turn.
            () = tokio::task::yield_now(), if told => {}
            () = tending.place.called() => {}
            () = connection.woken() => {}
            () = tokio::time::sleep_until(wake.into()) => {}
        }
    }
}

/// Handles what has arrived, up to the end of a turn.
async fn read_turn(
    shared: &Arc<Shared>,
    socket: &TcpStream,
    reader: &mut Reader,
    whose: &Whose,
    session: &mut Session,
    sent: &mut Sent,
) -> Turn {
    let connection = &whose.connection;
    reader.turn();
    loop {
        let read = reader.read();
        if let Some(answer) = reader.answers() {
            connection.send(answer);
        }
        let now = Instant::now();
        let refuse = |code: ErrorCode| {
            shared.metrics.error(code);
            connection.send(server::error(None, code, code.sentence()))
        };
        let too_many = match read {
            Read::Nothing => return Turn::Drained,
            Read::TurnOver => return Turn::More,
            Read::Gone => return Turn::End(End::Gone),
            Read::Leaving => return Turn::End(End::Left),
            Read::Broken => return Turn::End(End::Close(CloseCode::Protocol)),
            Read::TooLarge => {
                refuse(ErrorCode::TooLarge);
                return Turn::End(End::Close(CloseCode::TooLarge));
            }
            Read::NoRoom => {
                refuse(ErrorCode::Overloaded);
                return Turn::End(End::Close(CloseCode::Overloaded));
            }
            Read::Life => {
                connection.note_heard();
                session.heard(now);
                match session.admit(&whose.quota, 0, now) {
                    Admit::Yes | Admit::TooFast(_) => false,
                    Admit::Close(exceeded) => {
                        shared.metrics.limited(exceeded);
                        true
                    }
                }
            }
            Read::Binary => {
                session.heard(now);
                refuse(ErrorCode::BinaryFrame);
                session.refused()
            }
            Read::Text(text) => {
                connection.note_heard();
                session.heard(now);
                shared.metrics.frames.inc();
                let admitted = session.admit(&whose.quota, text.len(), now);
                let together = || {
                    whose.may(shared, Kind::Messages, 1, now)?;
                    whose.may(shared, Kind::Bytes, text.len(), now)
                };
                let admitted = match admitted {
                    // What all sockets of somebody do together is no fault of this one.
                    Admit::Yes => together().map_or_else(Admit::TooFast, |()| Admit::Yes),
                    no => no,
                };
                match admitted {
                    Admit::Close(exceeded) => {
                        shared.metrics.limited(exceeded);
                        true
                    }
                    Admit::TooFast(exceeded) => {
                        connection.send(shared.limited(None, exceeded));
                        false
                    }
                    Admit::Yes => match parse(&text, &shared.wire_limits()) {
                        Ok(frame) => {
                            Box::pin(handle(shared, socket, whose, session, sent, frame)).await
                        }
                        Err(error) => {
                            shared.metrics.error(error.code);
                            connection.send(refusal(&error));
                            session.refused()
                        }
                    },
                }
            }
        };
        if too_many {
            return Turn::End(End::Close(CloseCode::Protocol));
        }
        if connection.closed().is_some() {
            // Nothing that comes after the end is handled.
            return Turn::More;
        }
    }
}

/// Handles one frame; true when patience is at its end.
async fn handle(
    shared: &Arc<Shared>,
    socket: &TcpStream,
    whose: &Whose,
    session: &mut Session,
    sent: &mut Sent,
    frame: ClientFrame,
) -> bool {
    let Whose {
        connection, home, ..
    } = whose;
    let now = Instant::now();
    if let Some(reference) = asks(&frame)
        && let Err(exceeded) = whose.may(shared, Kind::Requests, 1, now)
    {
        connection.send(shared.limited(reference, exceeded));
        return false;
    }
    let answer = |reference: Option<&Ref>, error: &HubError| {
        shared.metrics.error(error.error_code());
        connection.send(server::error(
            reference,
            error.error_code(),
            &error.to_string(),
        ));
    };
    match frame {
        ClientFrame::Auth(_) => {
            let code = ErrorCode::AlreadyAuthenticated;
            shared.metrics.error(code);
            connection.send(server::error(None, code, code.sentence()));
            return session.refused();
        }
        ClientFrame::Subscribe(mut subscribe) => {
            subscribe.organization = subscribe.organization.or_else(|| Some(home.clone()));
            let reference = subscribe.reference.clone();
            if let Err(exceeded) = session.may_join(&whose.quota, now) {
                connection.send(shared.limited(reference.as_ref(), exceeded));
                return session.refused();
            }
            if let Err(exceeded) = whose.may(shared, Kind::Joins, 1, now) {
                connection.send(shared.limited(reference.as_ref(), exceeded));
                return false;
            }
            if let Err(error) = shared.hub.subscribe(connection, *subscribe) {
                answer(reference.as_ref(), &error);
                return session.refused();
            }
        }
        ClientFrame::Unsubscribe {
            reference,
            channel,
            organization,
        } => {
            let organization = organization.as_ref().unwrap_or(home);
            let ended = shared.hub.unsubscribe(
                connection,
                &channel,
                Some(organization),
                None,
                reference.as_ref(),
            );
            if let Err(error) = ended {
                answer(reference.as_ref(), &error);
            }
        }
        ClientFrame::Token { reference, token } => {
            // Checking may take time (a key set is fetched); until it succeeds the old token counts, with its end.
            let mut until = Instant::now() + shared.limits.auth_timeout;
            until = session.expires().map_or(until, |at| at.min(until));
            let verified = tokio::select! {
                verified = shared.verifier.verify(&token, &shared.hub) => verified,
                () = tokio::time::sleep_until(until.into()) => Err(Refused::unavailable()),
                () = keep_writing(socket, connection) => return false,
            };
            match verified {
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
                        // That of an API key is told with its work.
                        if verified.organizations.is_none() {
                            session.renewed(expiry(Instant::now(), verified.expires_at));
                        }
                        let seconds = expires_in(verified.expires_at);
                        connection.send(server::token_refreshed(reference.as_ref(), seconds));
                    }
                },
            }
        }
        ClientFrame::Broadcast(broadcast) => {
            let saying = say::Saying {
                shared,
                connection,
                home,
            };
            let said = tokio::select! {
                said = saying.say(session, *broadcast) => said,
                () = keep_writing(socket, connection) => return false,
            };
            if !said {
                return session.refused();
            }
        }
        ClientFrame::Presence(mut presence) => {
            let organization = presence.organization.take();
            presence.organization = organization.or_else(|| Some(home.clone()));
            if let Err(error) = shared.hub.present(connection, &presence) {
                answer(presence.reference.as_ref(), &error);
                // A cursor that still moves when its subscription has ended is nobody's attack.
                return error.error_code() == ErrorCode::StateTooLarge && session.refused();
            }
        }
        ClientFrame::Event(event) => {
            if !whose.sender(shared).take(session, sent, *event) {
                return session.refused();
            }
        }
        ClientFrame::Ping { reference } => drop(connection.send(server::pong(reference.as_ref()))),
        ClientFrame::Pong => {}
    }
    false
}

/// The reference of a frame that asks for something; others are signs of life, or about the socket itself.
fn asks(frame: &ClientFrame) -> Option<Option<&Ref>> {
    match frame {
        ClientFrame::Subscribe(subscribe) => Some(subscribe.reference.as_ref()),
        ClientFrame::Unsubscribe { reference, .. } => Some(reference.as_ref()),
        ClientFrame::Broadcast(broadcast) => Some(broadcast.reference.as_ref()),
        ClientFrame::Event(event) => Some(event.reference.as_ref()),
        ClientFrame::Presence(presence) => Some(presence.reference.as_ref()),
        ClientFrame::Auth(_)
        | ClientFrame::Token { .. }
        | ClientFrame::Ping { .. }
        | ClientFrame::Pong => None,
    }
}

/// Goes on delivering while a frame takes its time; ends when the connection does.
async fn keep_writing(socket: &TcpStream, connection: &Connection) {
    loop {
        let work = connection.work();
        if work.close.is_some() {
            return;
        }
        tokio::select! {
            ready = socket.writable(), if work.writable => match ready {
                Ok(()) => drop(connection.drain()),
                Err(_) => return,
            },
            () = tokio::time::sleep(LATEST_PAUSE), if work.latest => connection.flush_latest(),
            () = connection.woken() => {}
        }
    }
}

/// Sends the last bytes, behind what is still on its way, and waits a little for the other side to read
/// them and close.
pub(crate) async fn farewell(
    socket: &TcpStream,
    connection: Option<&Connection>,
    mut bytes: Frame,
) {
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
        // What is unread when a socket is closed makes the system drop what we have just written, so the other
        // side is told that no more comes, and is listened to until it goes.
        socket2::SockRef::from(socket).shutdown(std::net::Shutdown::Write)?;
        let mut rest = [0_u8; 1024];
        loop {
            socket.readable().await?;
            match socket.try_read(&mut rest) {
                Ok(0) => return Ok(()),
                Ok(_) => tokio::task::yield_now().await,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    };
    let _ = tokio::time::timeout(LINGER, ending).await;
}

#[cfg(test)]
mod tests {
    /// Every idle socket keeps this; what is needed rarely is boxed.
    #[test]
    fn the_future_of_a_socket_is_small() {
        fn bytes<A, B, C, D, F>(_: fn(A, B, C, D) -> F) -> usize {
            size_of::<F>()
        }
        let bytes = bytes(super::run);
        assert!(bytes <= 1600, "{bytes}");
    }
}
