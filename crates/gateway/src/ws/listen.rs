//! The loop of a socket that somebody is known on, whatever protocol it speaks. It only moves frames: decisions about
//! time are in [`Session`], those about channels in the hub, and what frames mean is a [`Speech`].

use std::{sync::Arc, time::Instant};

use bytes::Bytes;
use rowcast_hub::Connection;
use rowcast_wire::{CloseCode, ErrorCode};
use tokio::net::TcpStream;

use super::{
    Shared,
    enter::Whose,
    reader::{Read, Reader},
    tend::{LATEST_PAUSE, Tending},
};
use crate::{
    limits::{Exceeded, Kind},
    session::{Admit, Session},
};

/// A whole message of a client.
pub(crate) enum Said {
    /// Text.
    Text(Bytes),
    /// Bytes.
    Binary(Bytes),
}

impl Said {
    fn len(&self) -> usize {
        let (Said::Text(bytes) | Said::Binary(bytes)) = self;
        bytes.len()
    }
}

/// The socket on which something is said.
pub(crate) struct Place<'a> {
    pub shared: &'a Arc<Shared>,
    pub socket: &'a TcpStream,
    pub whose: &'a Whose,
    pub session: &'a mut Session,
}

/// What frames mean, in one protocol.
pub(crate) trait Speech: Send {
    /// Handles a message; true when patience is at its end.
    fn take(&mut self, place: &mut Place<'_>, message: Said) -> impl Future<Output = bool> + Send;

    /// Says that something cannot be taken.
    fn refuse(&self, place: &Place<'_>, code: ErrorCode);

    /// Says, and counts, that there was too much of something, so that this message is not handled.
    fn limited(&self, place: &Place<'_>, message: &Said, exceeded: Exceeded);

    /// When [`Speech::go_on`] is due, if it is.
    fn next(&self, shared: &Shared) -> Option<Instant>;

    /// Does what was put off.
    fn go_on(&mut self, place: &mut Place<'_>, now: Instant);
}

/// How a socket ends.
pub(crate) enum End {
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

/// Moves frames until the socket ends.
pub(crate) async fn listen<S: Speech>(
    shared: &Arc<Shared>,
    socket: &TcpStream,
    reader: &mut Reader,
    whose: &Whose,
    session: &mut Session,
    speech: &mut S,
) -> End {
    let connection = &whose.connection;
    if shared.stopping.is_cancelled() {
        // Everybody was told to go while this one came in.
        return End::Close(CloseCode::Restarting);
    }
    let mut tending = Tending::default();
    // More than the first frame may have come already.
    let mut more = true;
    loop {
        let now = Instant::now();
        let work = match tending.tend(shared, connection, session, now) {
            Ok(work) => work,
            Err(code) => return End::Close(code),
        };
        let mut place = Place {
            shared,
            socket,
            whose,
            session,
        };
        if speech.next(shared).is_some_and(|at| at <= now) {
            speech.go_on(&mut place, now);
        }
        if more {
            match read_turn(&mut place, reader, speech).await {
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
        let wake = speech.next(shared).map_or(wake, |at| wake.min(at));
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
async fn read_turn<S: Speech>(place: &mut Place<'_>, reader: &mut Reader, speech: &mut S) -> Turn {
    let (shared, whose) = (place.shared, place.whose);
    let connection = &whose.connection;
    reader.turn();
    loop {
        let read = reader.read();
        if let Some(answer) = reader.answers() {
            connection.send(answer);
        }
        let now = Instant::now();
        let refuse = |speech: &S, code: ErrorCode| {
            shared.metrics.error(code);
            speech.refuse(place, code);
        };
        let message = match read {
            Read::Nothing => return Turn::Drained,
            Read::TurnOver => return Turn::More,
            Read::Gone => return Turn::End(End::Gone),
            Read::Leaving => return Turn::End(End::Left),
            Read::Broken => return Turn::End(End::Close(CloseCode::Protocol)),
            Read::TooLarge => {
                refuse(speech, ErrorCode::TooLarge);
                return Turn::End(End::Close(CloseCode::TooLarge));
            }
            Read::NoRoom => {
                refuse(speech, ErrorCode::Overloaded);
                return Turn::End(End::Close(CloseCode::Overloaded));
            }
            Read::Life => None,
            Read::Text(text) => Some(Said::Text(text)),
            Read::Binary(bytes) => Some(Said::Binary(bytes)),
        };
        connection.note_heard();
        place.session.heard(now);
        let bytes = message.as_ref().map_or(0, Said::len);
        let admitted = place.session.admit(&whose.quota, bytes, now);
        let too_many = match (message, admitted) {
            (_, Admit::Close(exceeded)) => {
                shared.metrics.limited(exceeded);
                true
            }
            (None, _) => false,
            (Some(message), Admit::TooFast(exceeded)) => {
                speech.limited(place, &message, exceeded);
                false
            }
            (Some(message), Admit::Yes) => {
                shared.metrics.frames.inc();
                let together = whose.may(shared, Kind::Messages, 1, now);
                let together = together.and_then(|()| whose.may(shared, Kind::Bytes, bytes, now));
                match together {
                    Ok(()) => speech.take(place, message).await,
                    // What all sockets of somebody do together is no fault of this one.
                    Err(exceeded) => {
                        speech.limited(place, &message, exceeded);
                        false
                    }
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

/// Goes on delivering while a frame takes its time; ends when the connection does.
pub(crate) async fn keep_writing(socket: &TcpStream, connection: &Connection) {
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
