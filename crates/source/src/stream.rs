//! The bytes of the log, behind a trait of ours.
//!
//! [`PgWire`] is pgwire-replication with what it lacks: a limit on the time to start, an abort where its
//! shutdown may hang, and SQLSTATEs as errors of ours. It acknowledges only what it is told.

use std::time::Duration;

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
    },
}

/// A stream of log from a slot. Tests may feed a recorded one.
pub trait WalSource: Send {
    /// The next event; waits for it. Dropping the future loses nothing.
    fn next(&mut self) -> impl Future<Output = Result<WalEvent, SourceError>> + Send;
    /// Everything before `lsn` may be forgotten.
    fn acknowledge(&self, lsn: Lsn);
    /// Ends the stream in bounded time, telling the server what was acknowledged if it can.
    fn close(self) -> impl Future<Output = ()> + Send;
}

/// [`WalSource`] over pgwire-replication.
pub struct PgWire {
    client: ReplicationClient,
    slot: String,
    publication: String,
    role: String,
}

impl PgWire {
    /// Starts streaming from where the slot stands.
    pub async fn start(
        info: &ConnInfo,
        slot: &str,
        publication: &str,
        status_interval: Duration,
        max_message: usize,
    ) -> Result<PgWire, SourceError> {
        let config = info
            .replication(slot, publication)?
            .with_status_interval(status_interval)
            .with_wakeup_interval(status_interval)
            .with_buffer_size(1024)
            .with_options(OUTPUT_OPTIONS)
            .with_application_name("rowcast")
            .with_max_message_size(max_message);
        let role = info.user().to_owned();
        let failed = |error| translate(&error, slot, publication, &role);
        let mut client = ReplicationClient::connect(config).await.map_err(failed)?;
        match tokio::time::timeout(CONNECT_TIMEOUT, client.wait_started()).await {
            Ok(Ok(())) => Ok(PgWire {
                client,
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
        PgWireError::MessageTooLarge { .. } => SourceError::Protocol(text),
        _ => SourceError::Connection(text),
    }
}

fn time(micros: i64) -> Timestamp {
    Timestamp(micros.saturating_add(POSTGRES_EPOCH_US))
}

impl WalSource for PgWire {
    async fn next(&mut self) -> Result<WalEvent, SourceError> {
        loop {
            let event = self.client.recv().await;
            let event = event
                .map_err(|error| translate(&error, &self.slot, &self.publication, &self.role))?;
            return Ok(match event {
                None => {
                    return Err(SourceError::Connection(
                        "the server ended the stream".into(),
                    ));
                }
                Some(ReplicationEvent::XLogData { data, .. }) => WalEvent::Data(data),
                Some(ReplicationEvent::Begin {
                    final_lsn,
                    xid,
                    commit_time_micros,
                }) => WalEvent::Begin {
                    final_lsn: Lsn(final_lsn.as_u64()),
                    xid,
                    commit_time: time(commit_time_micros),
                },
                Some(ReplicationEvent::Commit { end_lsn, .. }) => WalEvent::Commit {
                    end_lsn: Lsn(end_lsn.as_u64()),
                },
                Some(ReplicationEvent::Message {
                    transactional,
                    lsn,
                    prefix,
                    content,
                }) => WalEvent::Logical {
                    transactional,
                    prefix,
                    content,
                    lsn: Lsn(lsn.as_u64()),
                },
                Some(ReplicationEvent::KeepAlive { wal_end, .. }) => WalEvent::KeepAlive {
                    lsn: Lsn(wal_end.as_u64()),
                },
                Some(_) => continue,
            });
        }
    }

    fn acknowledge(&self, lsn: Lsn) {
        self.client
            .update_applied_lsn(pgwire_replication::Lsn::from_u64(lsn.0));
    }

    async fn close(mut self) {
        // The last acknowledgement leaves with the next status; wait for it a little, then end. Correctness
        // does not need it: what is read again is recognized.
        let metrics = self.client.metrics();
        let sent = metrics.feedback_sent();
        let waiting = async {
            while self.client.is_running()
                && self.client.feedback_pending_since().is_some()
                && metrics.feedback_sent() == sent
            {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let _ = tokio::time::timeout(Duration::from_millis(1500), waiting).await;
        // The shutdown hangs when the peer stalls in the middle of a message.
        if tokio::time::timeout(Duration::from_secs(1), self.client.shutdown())
            .await
            .is_err()
        {
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
