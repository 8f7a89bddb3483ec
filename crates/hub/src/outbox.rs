//! What waits for one socket. Owns its order and its bound.
//!
//! Bytes go straight to the socket while nothing waits; what the socket does not take is queued and
//! written when it is writable again, many frames in one write. While the publisher has bytes of a
//! batch for this connection that it has not written yet ([`Outbox::staged`]), other frames line up
//! behind them, so that a reply never overtakes an event that came before it.

use std::{
    collections::VecDeque,
    io::{self, IoSlice},
};

use bytes::{Buf, Bytes};
use prometheus_client::metrics::{counter::Counter, gauge::Gauge};
use rowcast_wire::CloseCode;
use smallvec::SmallVec;

use crate::latest::{Effect, Latest, RecordKey};

/// Frames in one vectored write.
pub(crate) const SLICES: usize = 64;
/// What an entry of a queue costs besides its bytes.
const ENTRY_BYTES: usize = 64;

/// Where bytes go. Implemented on a socket by the gateway.
pub trait Sink: Send + Sync {
    /// Writes as much as is possible at once, without waiting. With one slice this should be a plain
    /// write.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] when nothing can be written now; anything else ends the connection.
    fn try_write_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize>;
}

/// Bytes that wait for all sockets together.
#[derive(Debug)]
pub(crate) struct Budget {
    pub limit: usize,
    pub used: Gauge,
    /// Counts connections closed as slow.
    pub slow: Counter,
}

impl Budget {
    /// Whether half of it is in use.
    pub(crate) fn is_half_used(&self) -> bool {
        self.used.get() > signed(self.limit / 2)
    }

    /// Whether so much is in use that what can wait should.
    pub(crate) fn is_nearly_used(&self) -> bool {
        self.used.get() > signed(self.limit / 4 * 3)
    }

    /// What one socket may have of it at present: a part of what is left. So it is the longest queues that
    /// end when many stall, and something is always left for those who are only a moment late.
    fn share(&self) -> usize {
        let left = signed(self.limit).saturating_sub(self.used.get());
        usize::try_from(left).unwrap_or(0) / 4
    }

    fn take(&self, bytes: usize) -> bool {
        let before = self.used.inc_by(signed(bytes));
        if before.saturating_add(signed(bytes)) > signed(self.limit) {
            self.give_back(bytes);
            return false;
        }
        true
    }

    /// Takes even when the budget is used up.
    fn force(&self, bytes: usize) {
        self.used.inc_by(signed(bytes));
    }

    fn give_back(&self, bytes: usize) {
        self.used.dec_by(signed(bytes));
    }
}

fn signed(bytes: usize) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// What a write came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Written {
    /// Nothing waits.
    All,
    /// The socket takes no more at present.
    Blocked,
    /// The connection is closed.
    Closed,
}

/// An event that is held back.
pub(crate) struct ToHold {
    pub key: Option<RecordKey>,
    pub generation: u64,
    pub effect: Effect,
    pub frame: Bytes,
}

/// What holding an event back came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Holding {
    /// It is the only one.
    First,
    /// Others were held already.
    More,
    /// Time to send them all.
    Full,
}

/// Small while nothing waits, as for nearly all connections nearly always.
#[derive(Default)]
pub(crate) struct Outbox {
    /// What waits; none when nothing does.
    waiting: Option<Box<Waiting>>,
    /// Events held back for subscriptions of the latest.
    latest: Option<Box<Latest>>,
    closed: Option<CloseCode>,
    /// The publisher has bytes for this connection in hand.
    staged: bool,
    /// The socket took no more; whoever waits for it to be writable goes on.
    blocked: bool,
    /// The socket failed: there is nobody to tell.
    broken: bool,
    /// Some subscription is being told the past.
    pub replaying: bool,
}

#[derive(Default)]
struct Waiting {
    queue: VecDeque<Bytes>,
    /// Frames that line up behind what is staged.
    late: Vec<Bytes>,
    /// Cost of both.
    bytes: usize,
    /// The front of the queue is the rest of a frame whose beginning the socket has.
    cut: bool,
}

impl Outbox {
    pub(crate) fn closed(&self) -> Option<CloseCode> {
        self.closed
    }

    pub(crate) fn broken(&self) -> bool {
        self.broken
    }

    pub(crate) fn queued(&self) -> bool {
        self.waiting
            .as_ref()
            .is_some_and(|waiting| !waiting.queue.is_empty())
    }

    /// What waits, with what it costs to keep it.
    pub(crate) fn waiting_bytes(&self) -> usize {
        self.waiting.as_ref().map_or(0, |waiting| waiting.bytes)
    }

    /// Nothing waits, and nothing is about to be written.
    pub(crate) fn is_idle(&self) -> bool {
        self.waiting.is_none() && !self.staged && self.closed.is_none()
    }

    pub(crate) fn is_blocked(&self) -> bool {
        self.blocked
    }

    /// Tells that bytes of a batch are coming; false when the connection is closed.
    pub(crate) fn stage(&mut self) -> bool {
        self.staged = self.closed.is_none();
        self.staged
    }

    /// Closes; what waits is dropped when the socket would not take it anyway.
    pub(crate) fn close(&mut self, code: CloseCode, budget: &Budget) {
        if self.closed.is_none() {
            self.closed = Some(code);
            self.drop_latest(budget);
            if code == CloseCode::Slow {
                budget.slow.inc();
                self.drop_whole_frames(budget);
            }
        }
    }

    /// Gives back everything but the rest of a frame that has begun: behind its end the other side can
    /// still be told why.
    fn drop_whole_frames(&mut self, budget: &Budget) {
        let rest = self.waiting.as_mut().filter(|waiting| waiting.cut);
        let rest = rest.and_then(|waiting| waiting.queue.pop_front());
        if let Some(waiting) = self.waiting.take() {
            budget.give_back(waiting.bytes);
        }
        self.waiting = rest.map(|rest| {
            let bytes = rest.len() + ENTRY_BYTES;
            // One frame, on its way out: taken even when the budget is used up.
            budget.force(bytes);
            Box::new(Waiting {
                queue: [rest].into(),
                late: Vec::new(),
                bytes,
                cut: true,
            })
        });
    }

    /// Gives back everything.
    pub(crate) fn drop_all(&mut self, budget: &Budget) {
        if let Some(waiting) = self.waiting.take() {
            budget.give_back(waiting.bytes);
        }
        self.drop_latest(budget);
    }

    fn drop_latest(&mut self, budget: &Budget) {
        if let Some(held) = self.latest.take() {
            budget.give_back(held.bytes());
        }
    }

    /// Whether something is held back.
    pub(crate) fn holds_latest(&self) -> bool {
        self.latest.as_ref().is_some_and(|held| !held.is_empty())
    }

    /// Holds an event back, or says that it is time to send what is held: there is too much of it, for one
    /// or for all.
    pub(crate) fn hold_latest(&mut self, most: usize, budget: &Budget, held: ToHold) -> Holding {
        let latest = self.latest.get_or_insert_with(Box::<Latest>::default);
        let (first, before) = (latest.is_empty(), latest.bytes());
        latest.hold(held.key, held.generation, held.effect, held.frame);
        let after = latest.bytes();
        // What is taken beyond the budget is sent at once, and that keeps to it.
        budget.give_back(before);
        budget.force(after);
        match () {
            () if after > most || budget.is_half_used() => Holding::Full,
            () if first => Holding::First,
            () => Holding::More,
        }
    }

    /// Forgets what is held for a subscription that ended.
    pub(crate) fn forget_latest(&mut self, generation: u64, budget: &Budget) {
        if let Some(held) = &mut self.latest {
            budget.give_back(held.bytes());
            held.forget(generation);
            budget.force(held.bytes());
        }
    }

    /// Lines up what is held back behind what waits.
    pub(crate) fn release_latest(&mut self, limit: usize, budget: &Budget) {
        if let Some(mut held) = self.latest.take() {
            budget.give_back(held.bytes());
            for frame in held.take() {
                self.push(frame, limit, budget);
            }
        }
    }

    /// Appends one frame, without writing. A frame that does not fit closes the connection; one that nothing
    /// waits before may be of any size, or whoever is to get it never would.
    pub(crate) fn push(&mut self, frame: Bytes, limit: usize, budget: &Budget) -> bool {
        if self.closed.is_some() || frame.is_empty() {
            return false;
        }
        let cost = frame.len() + ENTRY_BYTES;
        let before = self.waiting.as_ref().map_or(0, |waiting| waiting.bytes);
        let fits = before == 0 || before.saturating_add(cost) <= limit.min(budget.share());
        if !fits || !budget.take(cost) {
            self.close(CloseCode::Slow, budget);
            return false;
        }
        let waiting = self.waiting.get_or_insert_with(Box::default);
        waiting.bytes += cost;
        if self.staged {
            waiting.late.push(frame);
        } else {
            waiting.queue.push_back(frame);
        }
        true
    }

    /// Ends staging: writes `slices`, the beginning of `total` bytes, at once if nothing waits before
    /// them. What could not be written is appended by `rest`, which gets the number of bytes that were.
    pub(crate) fn deliver(
        &mut self,
        sink: &dyn Sink,
        slices: &[IoSlice<'_>],
        total: usize,
        limit: usize,
        budget: &Budget,
        rest: impl FnOnce(usize, &mut dyn FnMut(Bytes) -> bool),
    ) -> Written {
        self.staged = false;
        if self.closed.is_some() {
            return Written::Closed;
        }
        let mut done = 0;
        if !self.queued() && !self.blocked {
            match sink.try_write_vectored(slices) {
                Ok(written) => done = written,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.blocked = true,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return self.fail(budget),
            }
            if done == total && self.waiting.is_none() {
                return Written::All;
            }
        }
        if done < total {
            let mut cut = done > 0;
            rest(done, &mut |frame| {
                if std::mem::take(&mut cut) {
                    self.begin_with_rest(frame, budget);
                    return true;
                }
                self.push(frame, limit, budget)
            });
        }
        self.line_up();
        if self.closed.is_some() {
            return Written::Closed;
        }
        if self.blocked {
            return Written::Blocked;
        }
        self.write(sink, budget)
    }

    /// Queues what is left of a frame whose beginning was written: it must follow, whatever the limits say.
    fn begin_with_rest(&mut self, rest: Bytes, budget: &Budget) {
        let cost = rest.len() + ENTRY_BYTES;
        budget.force(cost);
        let waiting = self.waiting.get_or_insert_with(Box::default);
        waiting.bytes += cost;
        waiting.cut = true;
        waiting.queue.push_front(rest);
    }

    /// Writes what waits, unless the socket is known to take nothing.
    pub(crate) fn pump(&mut self, sink: &dyn Sink, budget: &Budget) -> Written {
        match () {
            () if self.blocked => Written::Blocked,
            () => self.write(sink, budget),
        }
    }

    /// Writes what waits, as the socket is writable again.
    pub(crate) fn drain(&mut self, sink: &dyn Sink, budget: &Budget) -> Written {
        self.blocked = false;
        self.write(sink, budget)
    }

    fn write(&mut self, sink: &dyn Sink, budget: &Budget) -> Written {
        if self.closed.is_some() {
            // What is staged is not written any more; what lined up behind it is the farewell.
            self.line_up();
        }
        while let Some(waiting) = &mut self.waiting {
            if waiting.queue.is_empty() {
                if waiting.late.is_empty() {
                    self.waiting = None;
                }
                break;
            }
            match write_front(&waiting.queue, sink) {
                Ok(0) => return self.fail(budget),
                Ok(written) => waiting.advance(written, budget),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.blocked = true;
                    return Written::Blocked;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return self.fail(budget),
            }
        }
        match self.closed {
            None => Written::All,
            Some(_) => Written::Closed,
        }
    }

    fn line_up(&mut self) {
        if let Some(waiting) = &mut self.waiting {
            waiting.queue.extend(waiting.late.drain(..));
        }
    }

    fn fail(&mut self, budget: &Budget) -> Written {
        self.broken = true;
        self.closed.get_or_insert(CloseCode::Internal);
        self.drop_all(budget);
        Written::Closed
    }
}

impl Waiting {
    fn advance(&mut self, mut written: usize, budget: &Budget) {
        while let Some(front) = self.queue.front_mut() {
            if written < front.len() {
                front.advance(written);
                self.cut |= written > 0;
                self.bytes -= written;
                budget.give_back(written);
                return;
            }
            let cost = front.len() + ENTRY_BYTES;
            written -= front.len();
            self.bytes -= cost;
            self.cut = false;
            budget.give_back(cost);
            self.queue.pop_front();
        }
    }
}

fn write_front(queue: &VecDeque<Bytes>, sink: &dyn Sink) -> io::Result<usize> {
    let front = queue.iter().take(SLICES);
    let slices: SmallVec<[IoSlice<'_>; 16]> = front.map(|frame| IoSlice::new(frame)).collect();
    sink.try_write_vectored(&slices)
}
