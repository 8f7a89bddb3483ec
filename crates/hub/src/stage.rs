//! The bytes of one batch on their way to the sockets.
//!
//! Frames of one class are written behind each other into one chunk, and a connection only notes which
//! stretches of which chunks it gets: neighbours become one stretch. So a subscriber of everything
//! gets a whole batch with one write of one slice, and no reference count is touched on the way.
//! Nothing is copied unless a socket does not take it at once.

use std::{cell::OnceCell, io::IoSlice, ops::Range, sync::Arc};

use bytes::Bytes;
use rowcast_model::Timestamp;
use rowcast_wire::payload_of;
use smallvec::SmallVec;

use crate::{
    connection::{Connection, Shared},
    outbox::SLICES,
};

/// A chunk that has grown to this is not appended to any more. Also what bounds the memory that a
/// queued frame keeps alive beyond its own bytes.
const CHUNK_BYTES: usize = 64 * 1024;
/// Bytes staged before they are written in the middle of a batch.
const STAGE_BYTES: usize = 4 << 20;
/// Deliveries staged before they are written in the middle of a batch.
const STAGE_DELIVERIES: u64 = 200_000;
/// Room in chunks that is kept from batch to batch.
const KEPT_BYTES: usize = STAGE_BYTES;

/// Where a frame lies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stretch {
    chunk: u32,
    bytes: Range<usize>,
}

impl Stretch {
    /// Whether the next one begins where this ends.
    pub(crate) fn is_before(&self, next: &Stretch) -> bool {
        self.chunk == next.chunk && self.bytes.end == next.bytes.start
    }

    /// Takes the next one in, if it begins where this ends.
    pub(crate) fn append(&mut self, next: &Stretch) -> bool {
        let follows = self.is_before(next);
        if follows {
            self.bytes.end = next.bytes.end;
        }
        follows
    }
}

/// The chunk that a class writes to during one batch.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Pen {
    batch: u64,
    chunk: u32,
}

/// Whether a connection gets something of the batch, and where that is noted.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Mark {
    batch: u64,
    at: u32,
}

#[derive(Default)]
struct Chunk {
    bytes: Vec<u8>,
    /// Made when the first socket does not take its part.
    shared: OnceCell<Bytes>,
}

struct Touched {
    connection: Arc<Connection>,
    /// Closed when it was touched: nothing is written.
    open: bool,
    stretches: SmallVec<[Stretch; 2]>,
}

#[derive(Default)]
pub(crate) struct Stage {
    /// Counts batches from 1; marks and pens of other batches mean nothing.
    batch: u64,
    chunks: Vec<Chunk>,
    used: usize,
    touched: Vec<Touched>,
    /// Commit times of events that somebody gets.
    commits: Vec<Timestamp>,
    staged_bytes: usize,
    deliveries: u64,
    private: Pen,
}

impl Stage {
    /// Begins a batch; nothing of the one before is left.
    pub(crate) fn begin(&mut self) {
        self.batch += 1;
    }

    /// Whether it is time to flush, in the middle of a batch: too many bytes are held, or so much was
    /// staged that others have waited some milliseconds for the state.
    pub(crate) fn is_full(&self) -> bool {
        self.staged_bytes > STAGE_BYTES || self.deliveries > STAGE_DELIVERIES
    }

    /// Writes a frame with the pen of its class.
    pub(crate) fn write(&mut self, pen: &mut Pen, write: impl FnOnce(&mut Vec<u8>)) -> Stretch {
        let full = |chunk: &Chunk| chunk.bytes.len() >= CHUNK_BYTES;
        let current = self.chunks.get(pen.chunk as usize);
        if pen.batch != self.batch || current.is_none_or(full) {
            if self.used == self.chunks.len() {
                self.chunks.push(Chunk::default());
            }
            *pen = Pen {
                batch: self.batch,
                chunk: u32::try_from(self.used).unwrap_or(u32::MAX),
            };
            self.used += 1;
        }
        let Some(chunk) = self.chunks.get_mut(pen.chunk as usize) else {
            return Stretch::default();
        };
        let start = chunk.bytes.len();
        write(&mut chunk.bytes);
        let end = chunk.bytes.len();
        self.staged_bytes += end - start;
        Stretch {
            chunk: pen.chunk,
            bytes: start..end,
        }
    }

    /// A frame for one connection alone.
    pub(crate) fn push_frame(
        &mut self,
        mark: &mut Mark,
        connection: &Arc<Connection>,
        frame: &[u8],
    ) {
        let mut pen = self.private;
        let stretch = self.write(&mut pen, |out| out.extend_from_slice(frame));
        self.private = pen;
        self.push(mark, connection, &stretch);
    }

    /// Notes that a connection gets a stretch of one frame.
    pub(crate) fn push(
        &mut self,
        mark: &mut Mark,
        connection: &Arc<Connection>,
        stretch: &Stretch,
    ) {
        self.push_many(mark, connection, stretch, 1);
    }

    /// The same of several.
    pub(crate) fn push_many(
        &mut self,
        mark: &mut Mark,
        connection: &Arc<Connection>,
        stretch: &Stretch,
        frames: u64,
    ) {
        if mark.batch != self.batch {
            *mark = Mark {
                batch: self.batch,
                at: u32::try_from(self.touched.len()).unwrap_or(u32::MAX),
            };
            self.touched.push(Touched {
                open: connection.stage(),
                connection: connection.clone(),
                stretches: SmallVec::new(),
            });
        }
        let Some(touched) = self.touched.get_mut(mark.at as usize) else {
            return;
        };
        self.deliveries += frames;
        let last = touched.stretches.last_mut();
        if !last.is_some_and(|last| last.append(stretch)) {
            touched.stretches.push(stretch.clone());
        }
    }

    /// Notes that an event of a transaction that committed at this time is delivered. Its events follow each
    /// other, and are counted once.
    pub(crate) fn delivered(&mut self, commit: Timestamp) {
        if self.commits.last() != Some(&commit) {
            self.commits.push(commit);
        }
    }

    /// Writes everything to the sockets and ends the batch. `now` is asked once, at the end.
    pub(crate) fn flush(&mut self, shared: &Shared, now: impl FnOnce() -> Timestamp) {
        let mut sent = 0;
        for touched in self.touched.drain(..) {
            if touched.open {
                sent += deliver(&self.chunks, &touched);
            }
        }
        let metrics = &shared.metrics;
        metrics.bytes.inc_by(sent);
        metrics.deliveries.inc_by(self.deliveries);
        if !self.commits.is_empty() {
            let now = now();
            for commit in self.commits.drain(..) {
                let micros = now.0.saturating_sub(commit.0).max(0);
                // Fifty-two bits of microseconds are more than a century.
                metrics.commit_to_socket.observe(micros as f64 / 1e6);
            }
        }
        self.deliveries = 0;
        self.staged_bytes = 0;
        self.used = 0;
        self.batch += 1;
        let mut kept = 0;
        self.chunks.retain_mut(|chunk| {
            chunk.shared = OnceCell::new();
            chunk.bytes.clear();
            kept += chunk.bytes.capacity();
            kept <= KEPT_BYTES
        });
        self.touched.shrink_to(4096);
    }
}

fn deliver(chunks: &[Chunk], touched: &Touched) -> u64 {
    let part = |stretch: &Stretch| {
        let chunk = chunks.get(stretch.chunk as usize)?;
        Some((chunk, stretch.bytes.clone()))
    };
    let parts = || touched.stretches.iter().filter_map(part);
    let total = parts().map(|(_, range)| range.len()).sum();
    let slices: SmallVec<[IoSlice<'_>; 8]> = parts()
        .take(SLICES)
        .filter_map(|(chunk, range)| Some(IoSlice::new(chunk.bytes.get(range)?)))
        .collect();
    touched
        .connection
        .deliver(&slices, total, |mut done, queue| {
            for (chunk, range) in parts() {
                let skip = done.min(range.len());
                done -= skip;
                if !chunk.queue(range, skip, queue) {
                    return;
                }
            }
        });
    total as u64
}

impl Chunk {
    /// Queues the frames of a stretch behind its first `skip` bytes one by one, so that the outbox
    /// knows where each ends. False when it takes no more.
    fn queue(
        &self,
        stretch: Range<usize>,
        skip: usize,
        queue: &mut dyn FnMut(Bytes) -> bool,
    ) -> bool {
        let (start, length) = (stretch.start, stretch.len());
        if skip == length {
            return true;
        }
        let kept = self.keep(start + skip..stretch.end);
        let bytes = self.bytes.get(stretch).unwrap_or_default();
        let mut at = 0;
        while at < length {
            let left = bytes.get(at..).unwrap_or_default();
            let end = payload_of(left).map_or(length, |(_, rest)| length - rest.len());
            if end > skip && !queue(kept.slice(at.max(skip) - skip..end - skip)) {
                return false;
            }
            at = end;
        }
        true
    }

    /// A lasting copy of a part of this chunk: of the whole chunk and shared, unless the part is so
    /// small that it would keep far more alive than itself.
    fn keep(&self, part: Range<usize>) -> Bytes {
        if part.len() < self.bytes.len() / 4 {
            return Bytes::copy_from_slice(self.bytes.get(part).unwrap_or_default());
        }
        self.shared
            .get_or_init(|| Bytes::copy_from_slice(&self.bytes))
            .slice(part)
    }
}
