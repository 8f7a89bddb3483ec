//! Broadcasts that go through the log: written by the service's own SQL connection, told like everything the
//! log says, and answered with their position.
//!
//! Owns that connection, and how the position of a transaction is found: whoever writes waits until the
//! pipeline has told a transaction with this number.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::{FutureExt, future::BoxFuture};
use parking_lot::Mutex;
use rowcast_gateway::{
    DurableError, DurableSender,
    broadcast::body::{Broadcast, Target},
};
use rowcast_model::{Batch, Cursor, HubOp};
use rowcast_source::ConnInfo;
use serde::Serialize;
use serde_json::value::RawValue;
use tokio::sync::Notify;
use tokio_postgres::{
    Client,
    types::{ToSql, Type},
};

/// Most time for the statement.
const STATEMENT: Duration = Duration::from_secs(10);
/// Most time until the log tells what was written.
const TELLING: Duration = Duration::from_secs(5);
/// Most transactions that are remembered while somebody waits for one of them.
const REMEMBERED: usize = 16_384;

/// One statement, so that it is one transaction, and many can be under way on one connection. Not prepared by
/// name, as a pooler may stand between.
const SAY: &str = "
    WITH said AS MATERIALIZED (
        SELECT CASE WHEN m.channel IS NULL
            THEN rowcast.broadcast(m.organization, m.event, m.payload, m.user_id, m.roles)
            ELSE rowcast.send(m.channel, m.event, m.payload, m.organization) END
        FROM (
            SELECT e ->> 'organization' AS organization, e ->> 'channel' AS channel, e ->> 'event' AS event,
                e -> 'payload' AS payload, e ->> 'user_id' AS user_id,
                CASE WHEN jsonb_typeof(e -> 'roles') = 'array'
                    THEN ARRAY(SELECT jsonb_array_elements_text(e -> 'roles')) END AS roles
            FROM jsonb_array_elements($1::text::jsonb) WITH ORDINALITY AS all_of_them(e, number)
            ORDER BY number
        ) m
    )
    SELECT pg_current_xact_id()::xid::text::bigint, count(*) FROM said";

/// Writes broadcasts.
pub struct DurableBroadcasts {
    sql: ConnInfo,
    client: tokio::sync::Mutex<Option<Arc<Client>>>,
    seen: Arc<Seen>,
}

#[derive(Serialize)]
struct Row<'a> {
    organization: Option<&'a str>,
    channel: Option<String>,
    event: &'a str,
    payload: &'a RawValue,
    user_id: Option<&'a str>,
    roles: Option<Vec<&'a str>>,
}

impl DurableBroadcasts {
    /// On a connection that is made when it is needed.
    pub fn new(sql: ConnInfo, seen: Arc<Seen>) -> DurableBroadcasts {
        DurableBroadcasts {
            sql,
            client: tokio::sync::Mutex::new(None),
            seen,
        }
    }

    async fn client(&self) -> Result<Arc<Client>, DurableError> {
        let mut client = self.client.lock().await;
        match &*client {
            Some(client) if !client.is_closed() => Ok(Arc::clone(client)),
            _ => {
                let fresh = self.sql.connect("rowcast broadcasts").await;
                let fresh = fresh.map_err(|error| DurableError::Unavailable(error.to_string()))?;
                Ok(Arc::clone(client.insert(Arc::new(fresh))))
            }
        }
    }

    async fn write(&self, broadcasts: &[Broadcast]) -> Result<Option<Cursor>, DurableError> {
        let rows: Result<Vec<Row<'_>>, _> = broadcasts.iter().map(row).collect();
        let json = rows.and_then(|rows| serde_json::to_string(&rows));
        let json = json.map_err(|error| DurableError::Refused(error.to_string()))?;
        self.run(SAY, &[(&json, Type::TEXT)]).await
    }

    /// Runs a statement that answers with the number of its transaction, and waits until the log tells that:
    /// its position, or `None` when it was not seen in time.
    pub async fn run(
        &self,
        statement: &str,
        values: &[(&(dyn ToSql + Sync), Type)],
    ) -> Result<Option<Cursor>, DurableError> {
        let client = self.client().await?;
        let waiting = self.seen.watch();
        let said = client.query_typed(statement, values);
        let rows = match tokio::time::timeout(STATEMENT, said).await {
            Ok(said) => said.map_err(|error| self.explain(&error))?,
            Err(_) => {
                // Others need not wait behind it.
                *self.client.lock().await = None;
                return Err(DurableError::Unavailable("no answer within 10 s".into()));
            }
        };
        let xid = rows.first().and_then(|row| row.try_get::<_, i64>(0).ok());
        let Some(xid) = xid.and_then(|xid| u32::try_from(xid).ok()) else {
            return Ok(None);
        };
        let told = tokio::time::timeout(TELLING, waiting.told(xid)).await;
        Ok(told.ok())
    }

    /// What the functions refuse is the sender's mistake; all else is for the operator.
    fn explain(&self, error: &tokio_postgres::Error) -> DurableError {
        let refused = error
            .as_db_error()
            .filter(|error| matches!(error.code().code().get(..2), Some("22" | "54")));
        match refused {
            Some(error) => {
                let hint = error.hint().map(|hint| format!(" ({hint})"));
                DurableError::Refused(format!("{}{}", error.message(), hint.unwrap_or_default()))
            }
            None => {
                let error = self.sql.explain(error);
                tracing::warn!(
                    code = error.code(),
                    "a broadcast could not be written: {error}"
                );
                DurableError::Unavailable(error.to_string())
            }
        }
    }
}

fn row(broadcast: &Broadcast) -> Result<Row<'_>, serde_json::Error> {
    let (organization, channel, audience) = match &broadcast.to {
        Target::Organization(organization, audience) => (Some(organization), None, Some(audience)),
        Target::Channel(channel, organization) => {
            (organization.as_ref(), Some(channel.to_string()), None)
        }
    };
    let roles = audience.map(|audience| &*audience.required_roles);
    let roles = roles.filter(|roles| !roles.is_empty());
    Ok(Row {
        organization: organization.map(|id| id.as_str()),
        channel,
        event: &broadcast.event,
        payload: serde_json::from_slice(&broadcast.payload)?,
        user_id: audience.and_then(|audience| audience.user.as_ref().map(|user| user.as_str())),
        roles: roles.map(|roles| roles.iter().map(|role| role.as_str()).collect()),
    })
}

impl DurableSender for DurableBroadcasts {
    fn send(
        self: Arc<Self>,
        broadcasts: Vec<Broadcast>,
    ) -> BoxFuture<'static, Result<Option<Cursor>, DurableError>> {
        async move { self.write(&broadcasts).await }.boxed()
    }
}

/// Transactions that were told while somebody waited for one.
#[derive(Default)]
pub struct Seen {
    waiting: AtomicUsize,
    told: Mutex<Told>,
    more: Notify,
}

#[derive(Default)]
struct Told {
    cursors: HashMap<u32, Cursor>,
    order: VecDeque<u32>,
}

/// Somebody who waits; what is told from here on is remembered for him.
pub struct Watch<'a>(&'a Seen);

impl Seen {
    /// Begins to remember.
    fn watch(&self) -> Watch<'_> {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        Watch(self)
    }

    /// The transaction that ends with this batch, if somebody may wait for it.
    pub fn ended(&self, batch: &Batch) -> Option<(u32, Cursor)> {
        if self.waiting.load(Ordering::SeqCst) == 0 {
            return None;
        }
        let xid = batch.xid?;
        let ends = batch.ops.iter().rev().find_map(|op| match op {
            HubOp::Commit { cursor, .. } => Some(*cursor),
            _ => None,
        });
        Some((xid, ends?))
    }

    /// It was told.
    pub fn note(&self, ended: Option<(u32, Cursor)>) {
        let Some((xid, cursor)) = ended else { return };
        let mut told = self.told.lock();
        if told.cursors.insert(xid, cursor).is_none() {
            told.order.push_back(xid);
        }
        if told.order.len() > REMEMBERED
            && let Some(oldest) = told.order.pop_front()
        {
            told.cursors.remove(&oldest);
        }
        drop(told);
        self.more.notify_waiters();
    }
}

impl Watch<'_> {
    /// The position behind the transaction with this number, when it was told.
    async fn told(&self, xid: u32) -> Cursor {
        loop {
            let mut more = std::pin::pin!(self.0.more.notified());
            more.as_mut().enable();
            if let Some(cursor) = self.0.told.lock().cursors.get(&xid) {
                return *cursor;
            }
            more.await;
        }
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        let mut told = self.0.told.lock();
        if self.0.waiting.fetch_sub(1, Ordering::SeqCst) == 1 {
            *told = Told::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rowcast_model::{Epoch, Lsn, Timestamp};

    fn commit(xid: u32) -> Batch {
        Batch {
            xid: Some(xid),
            ops: vec![HubOp::Commit {
                cursor: Cursor::after_commit(Epoch(1), Lsn(xid.into())),
                commit_time: Timestamp(0),
            }],
            ..Batch::default()
        }
    }

    #[tokio::test]
    async fn a_transaction_is_found_by_its_number_whether_told_before_or_after() {
        let seen = Seen::default();
        assert_eq!(seen.ended(&commit(1)), None, "nobody waits");
        let watch = seen.watch();
        seen.note(seen.ended(&commit(2)));
        assert_eq!(watch.told(2).await.commit_lsn, Lsn(2));
        let later = async {
            tokio::task::yield_now().await;
            seen.note(seen.ended(&commit(3)));
        };
        let (cursor, ()) = tokio::join!(watch.told(3), later);
        assert_eq!(cursor.commit_lsn, Lsn(3));
        for xid in 0..u32::try_from(REMEMBERED).unwrap() * 2 {
            seen.note(seen.ended(&commit(xid)));
        }
        assert_eq!(seen.told.lock().cursors.len(), REMEMBERED);
        drop(watch);
        assert!(seen.told.lock().cursors.is_empty());
    }
}
