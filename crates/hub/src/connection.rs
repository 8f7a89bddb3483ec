//! One socket as the hub sees it: an outbox, a way to write, and a bell for its gateway task.

use std::{
    io::{self, IoSlice},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
};

use bytes::Bytes;
use parking_lot::Mutex;
use rowcast_model::Timestamp;
use rowcast_wire::{CloseCode, Frame};
use tokio::sync::Notify;

use crate::{
    latest::{Effect, RecordKey},
    metrics::Metrics,
    outbox::{Budget, Holding, Outbox, Sink, ToHold, Written},
};

/// What all connections share.
pub(crate) struct Shared {
    pub budget: Budget,
    pub outbox_bytes: usize,
    pub latest_bytes: usize,
    pub metrics: Metrics,
}

/// What the gateway task of a connection has to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Close the socket, with this code (after [`Connection::drain`]).
    pub close: Option<CloseCode>,
    /// Bytes wait: call [`Connection::drain`] when the socket is writable.
    pub writable: bool,
    /// Events are held back: call [`Connection::flush_latest`] in 50 to 100 ms.
    pub latest: bool,
    /// The past is being told, and the socket takes it: call [`crate::Hub::replay`].
    pub replay: bool,
    /// Close the socket then, with [`CloseCode::KeyExpired`].
    pub ends: Option<Timestamp>,
}

/// A connected socket. Small, as most are idle.
pub struct Connection {
    pub(crate) id: u64,
    pub(crate) slot: u32,
    sink: Arc<dyn Sink>,
    bell: Notify,
    /// When its API key ends, in microseconds since 1970.
    ends: AtomicI64,
    outbox: Mutex<Outbox>,
    shared: Arc<Shared>,
    /// The client gave a sign of life since somebody looked.
    heard: AtomicBool,
}

/// What stands in place of a time that never comes.
const NEVER: i64 = i64::MAX;

impl Connection {
    pub(crate) fn new(id: u64, slot: u32, sink: Arc<dyn Sink>, shared: Arc<Shared>) -> Connection {
        Connection {
            id,
            slot,
            sink,
            bell: Notify::new(),
            ends: AtomicI64::new(NEVER),
            outbox: Mutex::default(),
            shared,
            heard: AtomicBool::new(true),
        }
    }

    /// The number of this connection in this process, never used twice.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The client gave a sign of life. Costs nothing.
    pub fn note_heard(&self) {
        self.heard.store(true, Ordering::Relaxed);
    }

    /// Whether it did since [`Connection::forget_heard`].
    pub(crate) fn was_heard(&self) -> bool {
        self.heard.load(Ordering::Relaxed)
    }

    pub(crate) fn forget_heard(&self) {
        self.heard.store(false, Ordering::Relaxed);
    }

    /// Has the task of the socket look what there is to do.
    pub(crate) fn wake_task(&self) {
        self.bell.notify_one();
    }

    /// Waits until there may be something to do; see [`Connection::work`]. One task at a time.
    pub async fn woken(&self) {
        self.bell.notified().await;
    }

    /// What there is to do now.
    pub fn work(&self) -> Work {
        let ends = self.ends.load(Ordering::Acquire);
        let outbox = self.outbox.lock();
        Work {
            close: outbox.closed(),
            writable: outbox.queued() && !outbox.broken(),
            latest: outbox.holds_latest(),
            replay: outbox.replaying && outbox.is_idle(),
            ends: (ends != NEVER).then_some(Timestamp(ends)),
        }
    }

    /// Says when the socket ends, by the clock on the wall; `None`: it does not.
    pub(crate) fn ends(&self, end: Option<Timestamp>) {
        let end = end.map_or(NEVER, |end| end.0);
        if self.ends.swap(end, Ordering::AcqRel) != end {
            self.bell.notify_one();
        }
    }

    /// Says that there is a past to be told, or no more.
    pub(crate) fn note_replay(&self, replaying: bool) {
        self.outbox.lock().replaying = replaying;
    }

    /// Writes what was queued, and has the task of the socket look what there is to do.
    pub(crate) fn wake(&self) {
        self.pump();
        self.bell.notify_one();
    }

    /// Queues what is held back for `latest` subscriptions, in front of what comes next.
    pub(crate) fn queue_latest(&self) {
        let mut outbox = self.outbox.lock();
        self.release_latest(&mut outbox);
    }

    /// Sends one frame, behind everything that was sent before. Never waits: what the socket does not
    /// take is queued; a full queue closes the connection as slow. False when it is closed.
    pub fn send(&self, frame: Frame) -> bool {
        let mut outbox = self.outbox.lock();
        let open = outbox.push(frame, self.shared.outbox_bytes, &self.shared.budget);
        let was_blocked = outbox.is_blocked();
        let written = outbox.pump(&*self.sink, &self.shared.budget);
        drop(outbox);
        self.ring(written, was_blocked);
        open
    }

    /// Writes what waits; to be called when the socket is writable. True when nothing is left.
    pub fn drain(&self) -> bool {
        let mut outbox = self.outbox.lock();
        match outbox.drain(&*self.sink, &self.shared.budget) {
            Written::All => true,
            Written::Blocked => false,
            Written::Closed => !outbox.queued(),
        }
    }

    /// Sends what was held back for `latest` subscriptions.
    pub fn flush_latest(&self) {
        let mut outbox = self.outbox.lock();
        let was_blocked = outbox.is_blocked();
        self.release_latest(&mut outbox);
        let written = outbox.pump(&*self.sink, &self.shared.budget);
        drop(outbox);
        self.ring(written, was_blocked);
    }

    /// Ends the connection from this side: [`Work::close`] says so to the gateway, which sends the close
    /// frame. The first code stays.
    pub fn close(&self, code: CloseCode) {
        self.outbox.lock().close(code, &self.shared.budget);
        self.bell.notify_one();
    }

    /// Why the connection is closed, if it is.
    pub fn closed(&self) -> Option<CloseCode> {
        self.outbox.lock().closed()
    }

    /// Bytes that wait for it.
    pub(crate) fn queued_bytes(&self) -> usize {
        self.outbox.lock().waiting_bytes()
    }

    /// Queues a frame without writing: it leaves in front of the next one that is sent, such as the
    /// reply to a subscription. False when the connection is closed.
    pub fn queue(&self, frame: Frame) -> bool {
        self.outbox
            .lock()
            .push(frame, self.shared.outbox_bytes, &self.shared.budget)
    }

    pub(crate) fn pump(&self) {
        let mut outbox = self.outbox.lock();
        let was_blocked = outbox.is_blocked();
        let written = outbox.pump(&*self.sink, &self.shared.budget);
        drop(outbox);
        self.ring(written, was_blocked);
    }

    /// Announces bytes of a batch; false when the connection is closed.
    pub(crate) fn stage(&self) -> bool {
        self.outbox.lock().stage()
    }

    /// Writes the bytes of a batch, `total` of them, of which `slices` are the beginning. `rest` yields
    /// what is left after a number of bytes.
    pub(crate) fn deliver(
        &self,
        slices: &[IoSlice<'_>],
        total: usize,
        rest: impl FnOnce(usize, &mut dyn FnMut(Bytes) -> bool),
    ) {
        let shared = &*self.shared;
        let mut outbox = self.outbox.lock();
        let was_blocked = outbox.is_blocked();
        let written = outbox.deliver(
            &*self.sink,
            slices,
            total,
            shared.outbox_bytes,
            &shared.budget,
            rest,
        );
        let replaying = outbox.replaying;
        drop(outbox);
        self.ring(written, was_blocked);
        if replaying {
            // The task did not go on with the past while this was on its way.
            self.bell.notify_one();
        }
    }

    /// Holds an event back; what is held beyond the limit is sent.
    pub(crate) fn hold(
        &self,
        key: Option<RecordKey>,
        generation: u64,
        effect: Effect,
        frame: Frame,
    ) {
        let mut outbox = self.outbox.lock();
        if outbox.closed().is_some() {
            return;
        }
        let was_blocked = outbox.is_blocked();
        let event = ToHold {
            key,
            generation,
            effect,
            frame,
        };
        let budget = &self.shared.budget;
        match outbox.hold_latest(self.shared.latest_bytes, budget, event) {
            Holding::More => {}
            Holding::First => {
                drop(outbox);
                self.bell.notify_one();
            }
            Holding::Full => {
                self.release_latest(&mut outbox);
                let written = outbox.pump(&*self.sink, budget);
                drop(outbox);
                self.ring(written, was_blocked);
            }
        }
    }

    /// Sends what is held for all subscriptions, or forgets it for one that ended.
    pub(crate) fn forget_latest(&self, generation: u64) {
        self.outbox
            .lock()
            .forget_latest(generation, &self.shared.budget);
    }

    /// Gives back what waits; the gateway is gone.
    pub(crate) fn abandon(&self) {
        let mut outbox = self.outbox.lock();
        outbox.close(CloseCode::Internal, &self.shared.budget);
        outbox.drop_all(&self.shared.budget);
    }

    fn release_latest(&self, outbox: &mut Outbox) {
        outbox.release_latest(self.shared.outbox_bytes, &self.shared.budget);
    }

    fn ring(&self, written: Written, was_blocked: bool) {
        match written {
            Written::All => {}
            Written::Blocked if was_blocked => {}
            Written::Blocked | Written::Closed => self.bell.notify_one(),
        }
    }
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Connection({})", self.id)
    }
}

/// Writes to nowhere; for tests and tools that only count.
impl Sink for () {
    fn try_write_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        Ok(slices.iter().map(|slice| slice.len()).sum())
    }
}
