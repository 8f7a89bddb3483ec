//! A few connections to the database, made when they are needed. How many at a time is the line's to say.

use std::time::Duration;

use parking_lot::Mutex;
use rowcast_source::{ConnInfo, SourceError};
use tokio_postgres::Client;

/// A connection that nobody used for so long is not kept.
const IDLE: Duration = Duration::from_secs(300);

/// Connections that nobody uses at the moment.
pub(crate) struct Pool {
    database: ConnInfo,
    idle: Mutex<Vec<Idle>>,
}

struct Idle {
    client: Client,
    since: std::time::Instant,
}

/// A connection, and whether somebody used it before.
pub(crate) struct Lease {
    pub client: Client,
    pub used: bool,
}

impl Pool {
    pub fn new(database: ConnInfo) -> Pool {
        Pool {
            database,
            idle: Mutex::new(Vec::new()),
        }
    }

    /// One of those that are there, else a new one.
    pub async fn lease(&self) -> Result<Lease, SourceError> {
        let idle = {
            let mut idle = self.idle.lock();
            idle.retain(|one| !one.client.is_closed() && one.since.elapsed() < IDLE);
            idle.pop()
        };
        match idle {
            Some(idle) => Ok(Lease {
                client: idle.client,
                used: true,
            }),
            None => self.fresh().await,
        }
    }

    /// A new one.
    pub async fn fresh(&self) -> Result<Lease, SourceError> {
        let client = self.database.connect("rowcast application").await?;
        Ok(Lease {
            client,
            used: false,
        })
    }

    /// Takes back a connection that is in no transaction. One that is not given back is closed.
    pub fn give_back(&self, lease: Lease) {
        if !lease.client.is_closed() {
            self.idle.lock().push(Idle {
                client: lease.client,
                since: std::time::Instant::now(),
            });
        }
    }
}
