//! The bytes of the log, behind a trait of ours.
//!
//! [`PgWire`] is pgwire-replication with what it lacks: a limit on the time to start, an abort where its
//! shutdown may hang, and SQLSTATEs as errors of ours. It acknowledges only what it is told.

use std::{
    pin::pin,
    sync::atomic::{AtomicU64, Ordering},
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use pgwire_replication::{PgWireError, ReplicationClient, ReplicationEvent};
use rowcast_model::{Lsn, Timestamp};

use crate::{
    conninfo::{CONNECT_TIMEOUT, ConnInfo},
    error::{SourceError, classify, sqlstate},
    pgoutput::POSTGRES_EPOCH_US,
};

/// Text output is pinned, so that values mean the same whatever the database's settings are.
const OUTPUT_OPTIONS: &str = "-c datestyle=ISO -c intervalstyle=postgres -c extra_float_digits=1 -c timezone=UTC -c bytea_output=hex";

/// Messages that wait between socket and reader. The library bounds their number, not their bytes, so few:
/// more gain nothing, since both ends run on one thread and take turns.
const BUFFERED_MESSAGES: usize = 256;

/// What a source of log says.
#[derive(Clone, Debug)]
pub enum WalEvent {
    /// A transaction begins.
    Begin {
        /// LSN of its commit record.
        final_lsn: Lsn,
        /// Its id.
        xid: u32,
        /// When it committed.
        commit_time: Timestamp,
    },
    /// It ends.
    Commit {
        /// End of the commit record.
        end_lsn: Lsn,
    },
    /// A logical message.
    Logical {
        /// Part of the transaction around it.
        transactional: bool,
        /// Its prefix.
        prefix: String,
        /// Its content.
        content: Bytes,
        /// Where it stands.
        lsn: Lsn,
    },
    /// A message of the output plugin.
    Data(Bytes),
    /// The server's position while nothing else is to be told.
    KeepAlive {
        /// The position.
        lsn: Lsn,
        /// When, by its clock, the server asked how far we are, if it wants to hear that at once.
        asked: Option<Timestamp>,
    },
}

/// A stream of log from a slot. Tests may feed a recorded one.
pub trait WalSource: Send {
    /// The next event; waits for it. Dropping the future loses nothing.
    fn next(&mut self) -> impl Future<Output = Result<WalEvent, SourceError>> + Send;
    /// An event that has arrived already; `None` when [`WalSource::next`] would have to wait.
    fn arrived(&mut self) -> Option<Result<WalEvent, SourceError>> {
        None
    }
    /// Everything before `lsn` may be forgotten.
    fn acknowledge(&self, lsn: Lsn);
    /// Ends the stream in bounded time, telling the server what was acknowledged if it can.
    fn close(self) -> impl Future<Output = ()> + Send;
}

/// [`WalSource`] over pgwire-replication.
pub struct PgWire {
    client: ReplicationClient,
    acknowledged: AtomicU64,
    status_interval: Duration,
    slot: String,
    publication: String,
    role: String,
}

impl PgWire {
    /// Starts streaming at `from`, or where the slot stands if that is further; everything before
    /// `acknowledged` may be forgotten.
    ///
    /// # Errors
    /// Why the server does not let it start, or that it takes longer than 10 s.
    pub async fn start(
        info: &ConnInfo,
        slot: &str,
        publication: &str,
        (from, acknowledged): (Lsn, Lsn),
        status_interval: Duration,
        max_message: usize,
    ) -> Result<PgWire, SourceError> {
        let config = info
            .replication(slot, publication, OUTPUT_OPTIONS)?
            .with_start_lsn(pgwire_replication::Lsn::from_u64(from.0))
            .with_ack_lsn(pgwire_replication::Lsn::from_u64(acknowledged.0))
            .with_status_interval(status_interval)
            .with_wakeup_interval(status_interval)
            .with_buffer_size(BUFFERED_MESSAGES)
            .with_application_name("rowcast")
            .with_max_message_size(max_message);
        let role = info.user().to_owned();
        let failed = |error| translate(&error, slot, publication, &role);
        let mut client = ReplicationClient::connect(config).await.map_err(failed)?;
        match tokio::time::timeout(CONNECT_TIMEOUT, client.wait_started()).await {
            Ok(Ok(())) => Ok(PgWire {
                client,
                acknowledged: AtomicU64::new(acknowledged.0),
                status_interval,
                slot: slot.into(),
                publication: publication.into(),
                role,
            }),
            Ok(Err(error)) => Err(translate(&error, slot, publication, &role)),
            Err(_) => {
                client.abort();
                Err(SourceError::Connection(
                    "replication did not start within 10 s".into(),
                ))
            }
        }
    }
}

fn translate(error: &PgWireError, slot: &str, publication: &str, role: &str) -> SourceError {
    let text = error.to_string();
    match error {
        PgWireError::Io(_) | PgWireError::Task(_) => SourceError::Connection(text),
        PgWireError::Auth(_) => SourceError::AuthFailed(text),
        PgWireError::Tls(_) => SourceError::Tls(text),
        PgWireError::Server(_) => classify(sqlstate(&text), &text, slot, publication, role),
        PgWireError::MessageTooLarge {
            payload_bytes,
            limit_bytes,
        } => SourceError::MessageTooLarge {
            bytes: *payload_bytes,
            limit: *limit_bytes,
        },
        _ => SourceError::Connection(text),
    }
}

fn time(micros: i64) -> Timestamp {
    Timestamp(micros.saturating_add(POSTGRES_EPOCH_US))
}

fn lsn(lsn: pgwire_replication::Lsn) -> Lsn {
    Lsn(lsn.as_u64())
}

impl PgWire {
    /// The library's word in ours; `None` for what is of no interest.
    fn understood(
        &self,
        received: Result<Option<ReplicationEvent>, PgWireError>,
    ) -> Option<Result<WalEvent, SourceError>> {
        let event = match received {
            Ok(Some(event)) => event,
            Ok(None) => {
                return Some(Err(SourceError::Connection(
                    "the server ended the stream".into(),
                )));
            }
            Err(error) => {
                return Some(Err(translate(
                    &error,
                    &self.slot,
                    &self.publication,
                    &self.role,
                )));
            }
        };
        Some(Ok(match event {
            ReplicationEvent::XLogData { data, .. } => WalEvent::Data(data),
            ReplicationEvent::Begin {
                final_lsn,
                xid,
                commit_time_micros,
            } => WalEvent::Begin {
                final_lsn: lsn(final_lsn),
                xid,
                commit_time: time(commit_time_micros),
            },
            ReplicationEvent::Commit { end_lsn, .. } => WalEvent::Commit {
                end_lsn: lsn(end_lsn),
            },
            ReplicationEvent::Message {
                transactional,
                lsn: at,
                prefix,
                content,
            } => WalEvent::Logical {
                transactional,
                prefix,
                content,
                lsn: lsn(at),
            },
            ReplicationEvent::KeepAlive {
                wal_end,
                reply_requested,
                server_time_micros,
            } => WalEvent::KeepAlive {
                lsn: lsn(wal_end),
                asked: reply_requested.then(|| time(server_time_micros)),
            },
            _ => return None,
        }))
    }
}

impl WalSource for PgWire {
    async fn next(&mut self) -> Result<WalEvent, SourceError> {
        loop {
            let received = self.client.recv().await;
            if let Some(event) = self.understood(received) {
                return event;
            }
        }
    }

    fn arrived(&mut self) -> Option<Result<WalEvent, SourceError>> {
        loop {
            // Asked once without leaving a waker behind: whoever gets nothing waits with `next`.
            let asked = pin!(self.client.recv()).poll(&mut Context::from_waker(Waker::noop()));
            let Poll::Ready(received) = asked else {
                return None;
            };
            if let Some(event) = self.understood(received) {
                return Some(event);
            }
        }
    }

    fn acknowledge(&self, lsn: Lsn) {
        self.acknowledged.fetch_max(lsn.0, Ordering::Relaxed);
        self.client
            .update_applied_lsn(pgwire_replication::Lsn::from_u64(lsn.0));
    }

    async fn close(mut self) {
        // The last acknowledgement leaves with the next status, and the library's shutdown does not wait for
        // it: wait here, a little. Correctness does not need it: what is read again is recognized.
        let metrics = self.client.metrics();
        let acknowledged = self.acknowledged.load(Ordering::Relaxed);
        let told = async {
            while self.client.is_running() && metrics.last_applied_lsn().as_u64() < acknowledged {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let _ = tokio::time::timeout(self.status_interval * 2, told).await;
        // The shutdown hangs when the peer stalls in the middle of a message.
        let ended = tokio::time::timeout(Duration::from_secs(1), self.client.shutdown()).await;
        if ended.is_err() {
            self.client.abort();
        }
    }
}

impl Drop for PgWire {
    fn drop(&mut self) {
        // A client that is merely dropped leaves its task, and so the slot, running.
        self.client.abort();
    }
}
