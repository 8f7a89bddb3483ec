//! A TCP socket shared by the hub, which writes events straight to it, and the task that reads it.
//!
//! Everything that leaves goes through the hub's outbox, so that no control frame lands inside a half-written
//! event: what the WebSocket reader wants to answer (pong, close) is collected here and sent from there.

use std::{
    io::{self, IoSlice, Read, Write},
    ops::Deref,
    sync::Arc,
};

use rowcast_hub::Sink;
use rustix::{
    io::Errno,
    net::{self, SendAncillaryBuffer, SendFlags},
};
use tokio::net::TcpStream;

/// The socket. The hub writes to it.
///
/// It asks the kernel straight away: an event goes to thousands of sockets in a row, nearly all of which
/// take it, and what the runtime remembers of each would be one more place in memory that is cold. Only
/// when the socket is full the runtime is asked, so that it knows what to wait for.
pub(crate) struct Socket(pub TcpStream);

impl Deref for Socket {
    type Target = TcpStream;

    fn deref(&self) -> &TcpStream {
        &self.0
    }
}

impl Sink for Socket {
    fn try_write_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        let sent = match slices {
            [one] => net::send(&self.0, one, flags),
            many => net::sendmsg(&self.0, many, &mut SendAncillaryBuffer::default(), flags),
        };
        match (sent, slices) {
            (Ok(sent), _) => Ok(sent),
            (Err(Errno::AGAIN), [one]) => self.0.try_write(one),
            (Err(Errno::AGAIN), many) => self.0.try_write_vectored(many),
            (Err(error), _) => Err(error.into()),
        }
    }
}

/// The reader's side.
pub(crate) struct In {
    pub socket: Arc<Socket>,
    /// What the reader wants to answer.
    pub answers: Vec<u8>,
    /// How often the socket may still be read in this turn. Some frames yield no message (pieces of one, for
    /// example), so that the WebSocket reader would go on as long as somebody sends them: the end of a turn
    /// looks to it like a socket that has nothing more.
    pub reads_left: u32,
}

impl Read for In {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.reads_left.checked_sub(1) {
            None => Err(io::ErrorKind::WouldBlock.into()),
            Some(left) => {
                self.reads_left = left;
                self.socket.try_read(buffer)
            }
        }
    }
}

impl Write for In {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.answers.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
