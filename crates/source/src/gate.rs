//! Waits until a transaction that the log has told is visible to new snapshots on the primary.
//!
//! Logical decoding may tell a commit before other sessions see it (a synchronous standby makes that long).
//! One connection asks for the current snapshot, again and again with growing pauses, until it sees the
//! transaction; what one answer has shown to be over is not asked again. Never gives up silently, and never
//! asks a standby.

use std::time::Duration;

use tokio::time::Instant;
use tokio_postgres::{Client, Statement};

use crate::{conninfo::ConnInfo, error::SourceError, snapshot::Snapshot};

const FIRST_PAUSE: Duration = Duration::from_micros(200);
const LONGEST_PAUSE: Duration = Duration::from_millis(10);
/// Between attempts to connect: first and longest.
const RECONNECT_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_RECONNECT_PAUSE: Duration = Duration::from_secs(5);
/// How long one answer may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// After a failover, transactions of before that the new primary never got would be waited for until their
/// numbers are used again. So for a while, which is enough for what was on its way, waiting is cut short.
const DOUBT: Duration = Duration::from_secs(60);
const DOUBTFUL_WAIT: Duration = Duration::from_secs(2);

struct Connection {
    client: Client,
    statement: Statement,
}

/// Asks the primary what new snapshots see.
pub struct VisibilityGate {
    info: ConnInfo,
    connection: Option<Connection>,
    timeline: Option<String>,
    doubt_until: Option<Instant>,
    last: Option<Snapshot>,
}

impl VisibilityGate {
    /// Connects with [`Self::prepare`], or when first needed.
    pub fn new(info: ConnInfo) -> VisibilityGate {
        VisibilityGate {
            info,
            connection: None,
            timeline: None,
            doubt_until: None,
            last: None,
        }
    }

    /// Connects ahead of the first question: the process may have no file left by then, when many sockets came
    /// first. A failure is told by the question.
    pub async fn prepare(&mut self) {
        if self.connection.is_none() {
            self.connection = Box::pin(self.connect()).await.ok();
        }
    }

    /// Returns when new snapshots see the transaction with these low 32 bits. Waits through lost
    /// connections: nothing is told that cannot be read. May be dropped while it waits.
    pub async fn wait(&mut self, xid: u32) {
        if self.sees(xid) {
            return;
        }
        let begin = Instant::now();
        let mut pause = FIRST_PAUSE;
        let mut reconnect_pause = RECONNECT_PAUSE;
        loop {
            match self.ask().await {
                Ok(snapshot) => {
                    self.last = Some(snapshot);
                    if self.sees(xid) {
                        return;
                    }
                    let now = Instant::now();
                    if self.doubt_until.is_some_and(|until| now < until)
                        && now.duration_since(begin) > DOUBTFUL_WAIT
                    {
                        tracing::warn!(
                            xid,
                            "the server was replaced and does not know this transaction; not waited for"
                        );
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
                    tokio::time::sleep(reconnect_pause).await;
                    reconnect_pause = (reconnect_pause * 2).min(LONGEST_RECONNECT_PAUSE);
                }
            }
        }
    }

    fn sees(&self, xid: u32) -> bool {
        self.last.as_ref().is_some_and(|last| last.sees(xid))
    }

    async fn ask(&mut self) -> Result<Snapshot, SourceError> {
        // Taken out while it is asked: a question that is dropped half-way costs the connection, no more.
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => Box::pin(self.connect()).await?,
        };
        let asking = connection.client.query_one(&connection.statement, &[]);
        let row = tokio::time::timeout(ANSWER_LIMIT, asking)
            .await
            .map_err(|_| SourceError::Connection("no answer within 10 s".into()))?
            .map_err(|error| self.info.explain(&error))?;
        let text: String = row.get(0);
        self.connection = Some(connection);
        Snapshot::parse(&text)
            .ok_or_else(|| SourceError::Protocol(format!("a snapshot that cannot be read: {text}")))
    }

    async fn connect(&mut self) -> Result<Connection, SourceError> {
        let client = self.info.connect("rowcast visibility").await?;
        // Fails on a standby, which is no place to ask.
        let timeline =
            client.query_one("SELECT left(pg_walfile_name(pg_current_wal_lsn()), 8)", &[]);
        let timeline: String = timeline
            .await
            .map_err(|error| self.info.explain(&error))?
            .get(0);
        if self
            .timeline
            .as_ref()
            .is_some_and(|before| *before != timeline)
        {
            self.doubt_until = Some(Instant::now() + DOUBT);
        }
        self.timeline = Some(timeline);
        let statement = client.prepare("SELECT pg_current_snapshot()::text").await;
        let statement = statement.map_err(|error| self.info.explain(&error))?;
        Ok(Connection { client, statement })
    }
}
