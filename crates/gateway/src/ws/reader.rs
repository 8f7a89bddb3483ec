//! Frames of a client, one turn at a time. Owns the WebSocket rules; promises that a turn ends, whatever comes.

use std::{io::ErrorKind, sync::Arc};

use bytes::Bytes;
use rowcast_wire::Frame;
use tokio_tungstenite::tungstenite::{
    self, Message, WebSocket,
    protocol::{Role, WebSocketConfig},
};

use super::{
    boundary::Boundary,
    half::{Held, In, Incoming, READ_BYTES, Socket},
};

/// Reads of one turn; then others have theirs, and timers are looked at.
const READS_PER_TURN: u32 = 16;

/// What the reader found.
pub(crate) enum Read {
    /// A text frame.
    Text(Bytes),
    /// A binary frame.
    Binary(Bytes),
    /// A ping or pong: a sign of life.
    Life,
    /// Nothing more at the moment.
    Nothing,
    /// The turn is over and there may be more.
    TurnOver,
    /// Larger than allowed.
    TooLarge,
    /// Too much has come of messages of all clients that are not whole yet.
    NoRoom,
    /// The other side broke the rules of WebSocket.
    Broken,
    /// The other side says that it leaves; the answer to that is among the answers.
    Leaving,
    /// The other side is gone.
    Gone,
}

pub(crate) struct Reader(WebSocket<In>);

impl Reader {
    /// Reads `early` first, which came before this was a WebSocket; no message may be longer than `most` bytes.
    pub fn new(
        socket: Arc<Socket>,
        early: Vec<u8>,
        most: usize,
        incoming: Arc<Incoming>,
    ) -> Reader {
        let mut half = In {
            socket,
            answers: Vec::new(),
            reads_left: READS_PER_TURN,
            boundary: Boundary::default(),
            held: Held::nothing(incoming),
            most,
            grown: false,
        };
        half.came(&early);
        Reader(Reader::over(half, early))
    }

    fn over(half: In, early: Vec<u8>) -> WebSocket<In> {
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BYTES)
            .write_buffer_size(0)
            .max_write_buffer_size(64 * 1024)
            .max_message_size(Some(half.most))
            .max_frame_size(Some(half.most));
        WebSocket::from_partially_read(half, early, Role::Server, Some(config))
    }

    /// Gives back the buffer that a long message has made large: between messages nothing is in it.
    fn shrink(&mut self) {
        let half = self.0.get_mut();
        if half.grown && half.boundary.held(half.most) == 0 && self.0.can_read() {
            self.renew();
        }
    }

    /// Forgets what has come of the present message, with its buffer.
    fn renew(&mut self) {
        let half = self.0.get_mut();
        let half = In {
            socket: half.socket.clone(),
            answers: std::mem::take(&mut half.answers),
            boundary: Boundary::default(),
            held: half.held.anew(),
            grown: false,
            ..*half
        };
        self.0 = Reader::over(half, Vec::new());
    }

    /// Begins a turn.
    pub fn turn(&mut self) {
        self.0.get_mut().reads_left = READS_PER_TURN;
    }

    pub fn read(&mut self) -> Read {
        use tungstenite::Error;
        match self.0.read() {
            Ok(Message::Text(text)) => Read::Text(text.into()),
            Ok(Message::Binary(bytes)) => Read::Binary(bytes),
            Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_)) => Read::Life,
            Ok(Message::Close(_)) => {
                // Moves the answer to the answers; that the connection is closed now is no news.
                let _ = self.0.flush();
                Read::Leaving
            }
            Err(Error::Io(error))
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) =>
            {
                self.shrink();
                match self.0.get_ref().reads_left {
                    0 => Read::TurnOver,
                    _ => Read::Nothing,
                }
            }
            Err(Error::Io(error)) if error.kind() == ErrorKind::OutOfMemory => {
                // The socket is closed now, and that may take a while.
                self.renew();
                Read::NoRoom
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
    pub fn answers(&mut self) -> Option<Frame> {
        let answers = std::mem::take(&mut self.0.get_mut().answers);
        (!answers.is_empty()).then(|| Frame::from(answers))
    }
}
