//! What organizations may use, asked of `rowcast.limits_for` when one of their sockets comes.
//!
//! Owns the connections for that: few, so that many organizations at once are no load, and more than one, so that a
//! slow answer does not keep the others waiting. Promises: every question ends in bounded time, and one that
//! was given up is given up in the database, too.

use std::{sync::Arc, time::Duration};

use futures_util::{FutureExt, future::BoxFuture};
use parking_lot::Mutex;
use rowcast_gateway::{PlanError, PlanSource};
use rowcast_model::OrgId;
use rowcast_source::ConnInfo;
use tokio::sync::Semaphore;
use tokio_postgres::{
    Client, Row,
    types::{ToSql, Type},
};

/// Connections at most.
const CONNECTIONS: usize = 4;
/// Most time for one answer.
const ANSWER: Duration = Duration::from_millis(1_500);
/// Most time to get a turn.
const TURN: Duration = Duration::from_secs(10);
/// Most time for the database to give up what takes too long.
const GIVING_UP: Duration = Duration::from_secs(1);

/// Asks the database.
pub struct SqlPlans {
    sql: ConnInfo,
    turns: Semaphore,
    idle: Mutex<Vec<Client>>,
}

impl SqlPlans {
    /// On connections that are made when they are needed.
    pub fn new(sql: ConnInfo) -> SqlPlans {
        SqlPlans {
            sql,
            turns: Semaphore::new(CONNECTIONS),
            idle: Mutex::default(),
        }
    }

    async fn ask(&self, organization: &OrgId) -> Result<Option<String>, PlanError> {
        let failed = |why: &dyn std::fmt::Display| PlanError(why.to_string());
        let turn = tokio::time::timeout(TURN, self.turns.acquire()).await;
        let Ok(Ok(_turn)) = turn else {
            return Err(failed(&"too many ask at a time"));
        };
        let idle = self.idle.lock().pop().filter(|client| !client.is_closed());
        let client = match idle {
            Some(client) => client,
            None => {
                let connecting = self.sql.connect("rowcast plans");
                let client = tokio::time::timeout(ANSWER, Box::pin(connecting)).await;
                let client = client.map_err(|_| failed(&"the database does not answer"))?;
                client.map_err(|error| failed(&error))?
            }
        };
        let answer = self.answer(&client, organization).await;
        let answer = answer.ok_or_else(|| {
            failed(&format!(
                "rowcast.limits_for has not answered within {ANSWER:?}"
            ))
        })?;
        let rows = answer.map_err(|error| {
            let error = self.sql.explain(&error);
            failed(&format!("rowcast.limits_for: {error}"))
        });
        self.idle.lock().push(client);
        let rows = rows?;
        let limits = rows.first().map(|row| row.try_get(0)).transpose();
        limits.map(Option::flatten).map_err(|error| failed(&error))
    }

    /// The answer, or `None` when it was given up.
    async fn answer(
        &self,
        client: &Client,
        organization: &OrgId,
    ) -> Option<Result<Vec<Row>, tokio_postgres::Error>> {
        let organization = organization.as_str();
        let values: [(&(dyn ToSql + Sync), Type); 1] = [(&organization, Type::TEXT)];
        // Typed, so that it takes one turn and leaves nothing prepared behind.
        let asking = client.query_typed("SELECT rowcast.limits_for($1)::text", &values);
        let mut asking = std::pin::pin!(asking);
        if let Ok(answer) = tokio::time::timeout(ANSWER, asking.as_mut()).await {
            return Some(answer);
        }
        let cancelling = async {
            self.sql.cancel(client).await;
            // It goes on working until it hears of that; until then it is one of the few.
            let _ = asking.as_mut().await;
        };
        let _ = tokio::time::timeout(GIVING_UP, cancelling).await;
        None
    }
}

impl PlanSource for SqlPlans {
    fn limits(
        self: Arc<Self>,
        organization: OrgId,
    ) -> BoxFuture<'static, Result<Option<String>, PlanError>> {
        async move { self.ask(&organization).await }.boxed()
    }
}
