//! Where the hub writes the events of a stream to: the same frames as everybody gets, turned into lines of text on
//! their way into the socket. The JSON is not copied.

use std::{
    io::{self, ErrorKind, IoSlice},
    sync::OnceLock,
};

use parking_lot::Mutex;
use rowcast_hub::Sink;
use rowcast_wire::EventStream;

use crate::ws::Socket;

/// A stream; takes nothing before it has its socket.
pub(super) struct EventSink {
    socket: OnceLock<Socket>,
    stream: Mutex<EventStream>,
}

impl EventSink {
    pub(super) fn new(stream: EventStream) -> EventSink {
        EventSink {
            socket: OnceLock::new(),
            stream: Mutex::new(stream),
        }
    }

    /// From here on it writes to this socket.
    pub(super) fn attach(&self, socket: Socket) -> &Socket {
        self.socket.get_or_init(|| socket)
    }

    /// What has to go out before anything that is not an event of the hub.
    pub(super) fn take_preface(&self) -> Vec<u8> {
        self.stream.lock().take_preface()
    }
}

impl Sink for EventSink {
    fn try_write_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let Some(socket) = self.socket.get() else {
            return Err(ErrorKind::WouldBlock.into());
        };
        let total = slices.iter().map(|slice| slice.len()).sum();
        let mut stream = self.stream.lock();
        let mut done = 0;
        while done < total {
            let mut skip = done;
            let rest = slices.iter().filter_map(|slice| {
                let here = skip.min(slice.len());
                skip -= here;
                slice.get(here..).filter(|rest| !rest.is_empty())
            });
            let plan = stream.plan(rest);
            if plan.is_empty() {
                return Err(io::Error::new(ErrorKind::InvalidData, "not a whole frame"));
            }
            let pieces: Vec<IoSlice<'_>> = plan.pieces().map(IoSlice::new).collect();
            match socket.try_write_vectored(&pieces) {
                Ok(written) => done += stream.written(&plan, written),
                Err(error) if error.kind() == ErrorKind::WouldBlock && done > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }
}
