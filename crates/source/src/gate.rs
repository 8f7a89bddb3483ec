//! Waits until a transaction that the log has told is visible to new snapshots on the primary.
//!
//! Logical decoding may tell a commit before other sessions see it (a synchronous standby makes that long).
//! One connection asks for the current snapshot, again and again with growing pauses, until it sees the
//! transaction; what one answer has shown to be over is not asked again.

use std::time::Duration;

use tokio_postgres::{Client, Statement};

use crate::{conninfo::ConnInfo, error::SourceError, snapshot::Snapshot};

const FIRST_PAUSE: Duration = Duration::from_micros(200);
const LONGEST_PAUSE: Duration = Duration::from_millis(10);
/// Between attempts to connect.
const RECONNECT_PAUSE: Duration = Duration::from_millis(500);

/// Asks the primary what new snapshots see.
pub struct VisibilityGate {
    info: ConnInfo,
    connection: Option<(Client, Statement)>,
    last: Option<Snapshot>,
}

impl VisibilityGate {
    /// Connects when first needed.
    pub fn new(info: ConnInfo) -> VisibilityGate {
        VisibilityGate {
            info,
            connection: None,
            last: None,
        }
    }

    /// Returns when new snapshots see the transaction with these low 32 bits. Waits through lost
    /// connections: nothing is told that cannot be read.
    pub async fn wait(&mut self, xid: u32) {
        if self
            .last
            .as_ref()
            .is_some_and(|snapshot| snapshot.sees(xid))
        {
            return;
        }
        let mut pause = FIRST_PAUSE;
        loop {
            match self.ask().await {
                Ok(snapshot) => {
                    let seen = snapshot.sees(xid);
                    self.last = Some(snapshot);
                    if seen {
                        return;
                    }
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
                Err(error) => {
                    tracing::warn!(code = error.code(), "cannot ask what is visible: {error}");
                    self.connection = None;
                    // Another server may answer next time, with other running transactions.
                    self.last = None;
                    tokio::time::sleep(RECONNECT_PAUSE).await;
                }
            }
        }
    }

    async fn ask(&mut self) -> Result<Snapshot, SourceError> {
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => {
                let client = self.info.connect("rowcast visibility").await?;
                let statement = client.prepare("SELECT pg_current_snapshot()::text").await;
                (
                    client,
                    statement.map_err(|error| self.info.explain(&error))?,
                )
            }
        };
        let (client, statement) = self.connection.insert(connection);
        let row =
            tokio::time::timeout(Duration::from_secs(10), client.query_one(statement, &[])).await;
        let row = row.map_err(|_| SourceError::Connection("no answer within 10 s".into()))?;
        let text: String = row.map_err(|error| self.info.explain(&error))?.get(0);
        Snapshot::parse(&text)
            .ok_or_else(|| SourceError::Protocol(format!("a snapshot that cannot be read: {text}")))
    }
}
