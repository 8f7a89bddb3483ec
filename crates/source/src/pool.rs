//! A few connections to the database, made when they are needed, and kept a while for who asks again.
//!
//! How many at a time is for the caller to say. Promises: a connection that nobody used for the time is closed, also
//! when nobody comes any more.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio_postgres::Client;

use crate::{ConnInfo, SourceError};

/// Connections under one name.
pub struct Pool {
    database: ConnInfo,
    name: &'static str,
    keep: Duration,
    idle: Arc<Mutex<Idle>>,
}

/// Connections that nobody uses at the moment.
#[derive(Default)]
struct Idle {
    clients: Vec<(Instant, Client)>,
    /// Somebody closes them in time.
    watched: bool,
}

/// A connection, and whether somebody used it before: then it may have died meanwhile.
pub struct Lease {
    /// The connection.
    pub client: Client,
    /// It was kept.
    pub used: bool,
}

impl Pool {
    /// Connections whose `application_name` is `name`; one that nobody used for `keep` is closed within as long again.
    pub fn new(database: ConnInfo, name: &'static str, keep: Duration) -> Pool {
        Pool {
            database,
            name,
            keep,
            idle: Arc::default(),
        }
    }

    /// One of those that are there, else a new one.
    ///
    /// # Errors
    /// [`SourceError`] when no connection can be made.
    pub async fn lease(&self) -> Result<Lease, SourceError> {
        let kept = {
            let mut idle = self.idle.lock();
            idle.retain(self.keep);
            idle.clients.pop()
        };
        match kept {
            Some((_, client)) => Ok(Lease { client, used: true }),
            None => self.fresh().await,
        }
    }

    /// A new one.
    ///
    /// # Errors
    /// [`SourceError`] when no connection can be made.
    pub async fn fresh(&self) -> Result<Lease, SourceError> {
        let client = self.database.connect(self.name).await?;
        Ok(Lease {
            client,
            used: false,
        })
    }

    /// Takes back a connection that is in no transaction; inside a runtime. One that is not given back is closed.
    pub fn give_back(&self, lease: Lease) {
        let mut idle = self.idle.lock();
        idle.clients.push((Instant::now(), lease.client));
        if std::mem::replace(&mut idle.watched, true) {
            return;
        }
        let (kept, keep) = (Arc::downgrade(&self.idle), self.keep);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(keep).await;
                let Some(idle) = kept.upgrade() else {
                    return;
                };
                let mut idle = idle.lock();
                idle.retain(keep);
                idle.watched = !idle.clients.is_empty();
                if !idle.watched {
                    return;
                }
            }
        });
    }
}

impl Idle {
    fn retain(&mut self, keep: Duration) {
        self.clients
            .retain(|(since, client)| !client.is_closed() && since.elapsed() < keep);
    }
}
