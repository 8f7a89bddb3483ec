//! A TCP socket shared by the hub, which writes events straight to it, and the task that reads it.
//!
//! Everything that leaves goes through the hub's outbox, so that no control frame lands inside a half-written
//! event: what the WebSocket reader wants to answer (pong, close) is collected here and sent from there.

use std::{
    io::{self, IoSlice, Read, Write},
    sync::Arc,
};

use rowcast_hub::Sink;
use tokio::net::TcpStream;

/// The hub's side.
pub(crate) struct Out(pub Arc<TcpStream>);

impl Sink for Out {
    fn try_write_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match slices {
            [one] => self.0.try_write(one),
            many => self.0.try_write_vectored(many),
        }
    }
}

/// The reader's side.
pub(crate) struct In {
    pub socket: Arc<TcpStream>,
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
