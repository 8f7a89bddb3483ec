//! How a request takes the connection that it came on: it is answered by whoever writes to the socket from then
//! on, and HTTP is over on it. The handler gives what is to be done with the socket, and is dropped.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::{net::TcpStream, sync::Notify};

/// What is done with the socket.
pub(crate) type Heir = Box<dyn FnOnce(TcpStream) + Send>;

/// A place for it, one for each connection; in the extensions of its requests.
#[derive(Clone, Default)]
pub(crate) struct Takeover(Arc<Place>);

#[derive(Default)]
struct Place {
    heir: Mutex<Option<Heir>>,
    bell: Notify,
}

impl Takeover {
    /// Has the connection given to `heir`. Nothing that the handler does afterwards counts; it should wait for its end.
    /// When the connection ends first, `heir` is dropped.
    pub(crate) fn take(&self, heir: Heir) {
        *self.0.heir.lock() = Some(heir);
        self.0.bell.notify_one();
    }

    /// Waits until somebody takes the connection.
    pub(crate) async fn taken(&self) -> Heir {
        loop {
            self.0.bell.notified().await;
            let heir = self.0.heir.lock().take();
            if let Some(heir) = heir {
                return heir;
            }
        }
    }
}
