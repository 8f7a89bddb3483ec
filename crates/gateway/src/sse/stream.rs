//! The life of one event stream: the loop of a socket that has nothing to say.
//!
//! Nothing is heard from its reader, so its system is asked instead: it has to acknowledge what was sent within the
//! time that a socket may be silent. A `position` at least every ten seconds keeps that going.

use std::{io::ErrorKind, sync::Arc, time::Instant};

use rowcast_hub::spread;
use rowcast_wire::{CloseCode, event_of, server};
use tokio::net::TcpStream;

use super::Listener;
use crate::ws::{Shared, Socket, Tending, farewell};

/// What a client may send behind its request before it is let go; there is nothing to say.
const IGNORED_BYTES: usize = 16 * 1024;

/// Serves one stream until it ends.
pub(super) async fn run(shared: Arc<Shared>, mut listener: Listener, stream: TcpStream) {
    shared.metrics.sockets.inc();
    shared.metrics.streams.inc();
    let silence = u32::try_from(shared.limits.silence.as_millis()).unwrap_or(u32::MAX);
    let _ = rustix::net::sockopt::set_tcp_user_timeout(&stream, silence);
    let sink = listener.sink.clone();
    let socket = sink.attach(Socket(stream));
    if let Some(code) = listen(&shared, socket, &mut listener).await {
        shared.metrics.closed(code);
        listener.connection.close(code);
        let last = last_words(&shared, code, &listener);
        Box::pin(farewell(socket, Some(&listener.connection), last.into())).await;
    }
    shared.metrics.streams.dec();
    shared.metrics.sockets.dec();
}

/// Moves bytes until the stream ends; `None`: there is nobody any more.
async fn listen(
    shared: &Arc<Shared>,
    socket: &Socket,
    listener: &mut Listener,
) -> Option<CloseCode> {
    if shared.stopping.is_cancelled() {
        return Some(CloseCode::Restarting);
    }
    let mut tending = Tending::default();
    let mut ignored = 0;
    let connection = listener.connection.clone();
    // What was said before it had its socket.
    connection.drain();
    loop {
        let now = Instant::now();
        let session = &mut listener.session;
        session.heard(now);
        let work = match tending.tend(shared, &connection, session, now) {
            Ok(work) => work,
            Err(code) => return Some(code),
        };
        let (told, wake) = tending.tell(shared, &connection, session, work, now);
        tokio::select! {
            ready = socket.readable() => {
                ready.ok()?;
                ignored += ignore(socket)?;
                if ignored > IGNORED_BYTES {
                    return Some(CloseCode::Protocol);
                }
            }
            ready = socket.writable(), if work.writable => {
                ready.ok()?;
                connection.drain();
            }
            // More of the past may follow; others get their turn.
            () = tokio::task::yield_now(), if told => {}
            () = tending.place.called() => {}
            () = connection.woken() => {}
            () = tokio::time::sleep_until(wake.into()) => {}
        }
    }
}

/// Reads what nobody asked for; `None` when the other side is gone.
fn ignore(socket: &TcpStream) -> Option<usize> {
    let mut bytes = [0_u8; 1024];
    match socket.try_read(&mut bytes) {
        Ok(0) => None,
        Ok(read) => Some(read),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Some(0),
        Err(_) => None,
    }
}

/// Why the stream ends, and when to come back.
fn last_words(shared: &Shared, code: CloseCode, listener: &Listener) -> Vec<u8> {
    let mut words = listener.sink.take_preface();
    let number = listener.connection.id();
    let after = code.come_back().then(|| {
        let spread = shared.limits.goodbye_spread.mul_f64(spread(number));
        u64::try_from(spread.as_millis()).unwrap_or(u64::MAX)
    });
    if let Some(after) = after {
        words.extend_from_slice(format!("retry: {after}\n").as_bytes());
    }
    words.extend_from_slice(&event_of(&server::closed(code, after)));
    words
}
