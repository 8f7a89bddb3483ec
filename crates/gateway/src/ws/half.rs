//! A TCP socket shared by the hub, which writes events straight to it, and the task that reads it.
//!
//! Everything that leaves goes through the hub's outbox, so that no control frame lands inside a half-written
//! event: what the WebSocket reader wants to answer (pong, close) is collected here and sent from there.

use std::{
    io::{self, IoSlice, Read, Write},
    ops::Deref,
    sync::Arc,
};

use prometheus_client::metrics::gauge::Gauge;

use rowcast_hub::Sink;
use rustix::{
    io::Errno,
    net::{self, SendAncillaryBuffer, SendFlags},
};
use tokio::net::TcpStream;

use super::boundary::Boundary;

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

/// What messages of all clients may take that are not whole yet.
#[derive(Debug)]
pub(crate) struct Incoming {
    pub limit: usize,
    pub used: Gauge,
}

/// What the unfinished message of one socket takes of it.
pub(super) struct Held {
    all: Arc<Incoming>,
    bytes: usize,
}

impl Held {
    pub fn nothing(all: Arc<Incoming>) -> Held {
        Held { all, bytes: 0 }
    }

    /// Nothing, of the same whole.
    pub fn anew(&self) -> Held {
        Held::nothing(self.all.clone())
    }

    /// Takes more or gives back; false when there is no more for anybody.
    pub fn set(&mut self, bytes: usize) -> bool {
        let grown = signed(bytes) - signed(std::mem::replace(&mut self.bytes, bytes));
        match grown {
            0 => true,
            _ => {
                let before = self.all.used.inc_by(grown);
                grown < 0 || before + grown <= signed(self.all.limit)
            }
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.set(0);
    }
}

fn signed(bytes: usize) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// The reader's side.
pub(super) struct In {
    pub socket: Arc<Socket>,
    /// What the reader wants to answer.
    pub answers: Vec<u8>,
    /// How often the socket may still be read in this turn. Some frames yield no message (pieces of one, for
    /// example), so that the WebSocket reader would go on as long as somebody sends them: the end of a turn
    /// looks to it like a socket that has nothing more.
    pub reads_left: u32,
    /// Where in the stream of frames it is.
    pub boundary: Boundary,
    pub held: Held,
    /// Bytes of the longest message that is taken.
    pub most: usize,
    /// A message was so long that the reader has made its buffer larger.
    pub grown: bool,
}

/// What every socket keeps to read into: counted with the socket.
pub(super) const READ_BYTES: usize = 1024;

impl In {
    /// Takes note of what has come; false when there is no room for it.
    pub fn came(&mut self, bytes: &[u8]) -> bool {
        self.boundary.feed(bytes);
        let over = self.boundary.held(self.most).saturating_sub(READ_BYTES);
        self.grown |= over > READ_BYTES;
        self.held.set(over)
    }
}

impl Read for In {
    /// [`io::ErrorKind::OutOfMemory`] when there is no room for what comes.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.reads_left.checked_sub(1) {
            None => Err(io::ErrorKind::WouldBlock.into()),
            Some(left) => {
                self.reads_left = left;
                let read = self.socket.try_read(buffer)?;
                match self.came(buffer.get(..read).unwrap_or_default()) {
                    true => Ok(read),
                    false => Err(io::ErrorKind::OutOfMemory.into()),
                }
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
