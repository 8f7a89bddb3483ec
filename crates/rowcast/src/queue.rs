//! The queue between the reader and the publisher, bounded in bytes. When it is full the reader waits,
//! and with it the server: nothing is dropped and memory does not grow.

use std::sync::Arc;

use rowcast_model::Batch;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

/// What a batch costs besides its bytes.
const OVERHEAD: usize = 256;
/// Room is counted in units of this many bytes: a semaphore counts to 2^29 only on small machines.
const UNIT: usize = 256;

/// The end that is written to.
#[derive(Clone, Debug)]
pub struct Sender {
    items: mpsc::UnboundedSender<(Batch, OwnedSemaphorePermit)>,
    room: Arc<Semaphore>,
    most: u32,
}

/// The end that is read from. The room of a batch is free again when the next one is asked for.
#[derive(Debug)]
pub struct Receiver {
    items: mpsc::UnboundedReceiver<(Batch, OwnedSemaphorePermit)>,
    current: Option<OwnedSemaphorePermit>,
}

/// A queue that holds about so many bytes.
pub fn bounded(bytes: usize) -> (Sender, Receiver) {
    let most = u32::try_from((bytes / UNIT).max(1)).unwrap_or(u32::MAX >> 4);
    let (sender, receiver) = mpsc::unbounded_channel();
    let sender = Sender {
        items: sender,
        room: Arc::new(Semaphore::new(most as usize)),
        most,
    };
    let receiver = Receiver {
        items: receiver,
        current: None,
    };
    (sender, receiver)
}

impl Sender {
    /// Waits for room and adds a batch. One that is larger than the whole queue goes alone. `Err`: the
    /// other end is gone.
    pub async fn push(&self, batch: Batch) -> Result<(), Closed> {
        let units = (batch.bytes.saturating_add(OVERHEAD)).div_ceil(UNIT);
        let units = u32::try_from(units).unwrap_or(u32::MAX).min(self.most);
        let room = Arc::clone(&self.room);
        tokio::select! {
            permit = room.acquire_many_owned(units) => {
                let permit = permit.map_err(|_| Closed)?;
                self.items.send((batch, permit)).map_err(|_| Closed)
            }
            () = self.items.closed() => Err(Closed),
        }
    }

    /// Bytes that wait, about.
    pub fn used(&self) -> usize {
        (self.most as usize).saturating_sub(self.room.available_permits()) * UNIT
    }
}

/// The other end is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the publisher has stopped")]
pub struct Closed;

impl Receiver {
    /// The next batch; `None` when the other end is gone and all was taken.
    pub async fn pop(&mut self) -> Option<Batch> {
        self.current = None;
        let (batch, permit) = self.items.recv().await?;
        self.current = Some(permit);
        Some(batch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::Future;

    fn batch(bytes: usize) -> Batch {
        Batch {
            bytes,
            ..Batch::default()
        }
    }

    #[tokio::test]
    async fn the_writer_waits_when_it_is_full_and_goes_on_when_there_is_room() {
        let (sender, mut receiver) = bounded(4 * UNIT);
        sender.push(batch(UNIT)).await.unwrap();
        sender.push(batch(UNIT)).await.unwrap();
        let mut third = Box::pin(sender.push(batch(UNIT)));
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(third.as_mut().poll(&mut context).is_pending());
        assert!(receiver.pop().await.is_some());
        // The first is still worked on: its room is taken until the next is asked for.
        assert!(third.as_mut().poll(&mut context).is_pending());
        assert!(receiver.pop().await.is_some());
        third.await.unwrap();
        assert_eq!(sender.used(), 4 * UNIT);
    }

    #[tokio::test]
    async fn one_that_is_too_large_goes_alone() {
        let (sender, mut receiver) = bounded(UNIT);
        sender.push(batch(100 * UNIT)).await.unwrap();
        assert_eq!(receiver.pop().await.unwrap().bytes, 100 * UNIT);
    }

    #[tokio::test]
    async fn both_ends_notice_that_the_other_is_gone() {
        let (sender, mut receiver) = bounded(1000);
        sender.push(batch(1)).await.unwrap();
        drop(sender);
        assert!(receiver.pop().await.is_some());
        assert!(receiver.pop().await.is_none());
        let (sender, receiver) = bounded(1);
        sender.push(batch(1)).await.unwrap();
        drop(receiver);
        assert_eq!(sender.push(batch(1)).await, Err(Closed));
    }
}
