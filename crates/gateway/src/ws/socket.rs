//! One native socket's life: say who you are, then listen, then the last words.

use std::{io::ErrorKind, sync::Arc, time::Duration};

use rowcast_hub::{Connection, spread};
use rowcast_wire::{CloseCode, Frame, close_frame, server};
use tokio::net::TcpStream;

use super::{
    Shared,
    admit::{Member, Stranger, admit},
    half::Socket,
    listen::{End, listen},
    native::Native,
    reader::Reader,
};
use crate::admission::Ticket;

/// How long a farewell may take to be read.
const LINGER: Duration = Duration::from_secs(2);

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
            let mut speech = Native::default();
            let ended = listen(&shared, &socket, &mut reader, whose, session, &mut speech).await;
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
