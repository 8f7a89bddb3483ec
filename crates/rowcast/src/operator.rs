//! What an operator asks of the database and does in it. Owns the statements, the connections for them, and the gates
//! that stand in the database: whether a table is tracked and published, and where a row of it belongs.

use std::{sync::Arc, time::Duration};

use futures_util::{FutureExt, future::BoxFuture};
use rowcast_gateway::{
    DurableError,
    admin::{Operator, Revoke, RowAnswer, RowQuestion},
};
use rowcast_hub::Gate;
use rowcast_model::{Cursor, Operation, RoutedEvent, UserId};
use rowcast_routing::{Standing, TableRule, would_tell};
use rowcast_source::{ConnInfo, Lease, Pool};
use serde::Deserialize;
use tokio_postgres::{SimpleQueryMessage, types::Type};

use crate::durable::DurableBroadcasts;

/// Most time for the questions.
const PATIENCE: Duration = Duration::from_secs(8);
/// Questions at a time; each has a connection of its own.
const AT_A_TIME: usize = 4;
/// A connection waits so long for the next question: whoever asks, asks more than once, and what a new connection
/// has to learn first costs many times the question.
const KEPT: Duration = Duration::from_secs(10);

/// A transaction, so that nothing of it stays with a connection that a pooler gives to others.
const BEGIN: &str = "BEGIN READ ONLY; SET LOCAL statement_timeout = '4s'; SET LOCAL lock_timeout = '1s'; SET LOCAL datestyle = ISO";

const REVOKE: &str = "
    WITH done AS MATERIALIZED (SELECT rowcast.revoke($1, $2, $3, $4))
    SELECT pg_current_xact_id()::xid::text::bigint, count(*) FROM done";

const ROW: &str = "SELECT rowcast.explain_row($1, $2, $3)::text";

/// Asks the database.
pub struct DatabaseOperator {
    sql: ConnInfo,
    durable: Arc<DurableBroadcasts>,
    room: tokio::sync::Semaphore,
    pool: Pool,
}

/// What `rowcast.explain_row` answers.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Known {
    there: bool,
    relid: Option<u32>,
    name: String,
    schema: Option<String>,
    tracked: bool,
    by_hand: bool,
    in_publication: bool,
    triggers: i64,
    problem: Option<String>,
    problems: i64,
    failed: Option<String>,
    found: Option<bool>,
    organization: Option<String>,
    user: Option<String>,
    owner: Option<String>,
}

impl DatabaseOperator {
    /// On connections that are made when they are needed.
    pub fn new(sql: ConnInfo, durable: Arc<DurableBroadcasts>) -> DatabaseOperator {
        DatabaseOperator {
            pool: Pool::new(sql.clone(), "rowcast explain", KEPT),
            sql,
            durable,
            room: tokio::sync::Semaphore::new(AT_A_TIME),
        }
    }

    /// A connection in a transaction.
    async fn begin(&self) -> anyhow::Result<Lease> {
        loop {
            let lease = self.pool.lease().await?;
            match lease.client.batch_execute(BEGIN).await {
                Ok(()) => return Ok(lease),
                // It may have died while nobody used it.
                Err(_) if lease.used => {}
                Err(error) => anyhow::bail!(self.sql.explain(&error)),
            }
        }
    }

    async fn ask(&self, which: &RowQuestion) -> anyhow::Result<(Known, Option<TableRule>)> {
        let _room = self.room.acquire().await?;
        let lease = self.begin().await?;
        let client = &lease.client;
        let values: [(&(dyn tokio_postgres::types::ToSql + Sync), Type); 3] = [
            (&which.schema, Type::TEXT),
            (&which.table, Type::TEXT),
            (&which.record, Type::TEXT),
        ];
        let rows = client.query_typed(ROW, &values).await;
        let rows = rows.map_err(|error| anyhow::anyhow!(self.sql.explain(&error)))?;
        let text: String = rows.first().map_or_else(String::new, |row| row.get(0));
        let known: Known = serde_json::from_str(&text)?;
        let rule = match known.relid.filter(|_| known.tracked) {
            None => None,
            Some(relid) => {
                let statement = format!("SELECT * FROM rowcast.tables WHERE relid = {relid}");
                let rows = client.simple_query(&statement).await?;
                let row = rows.into_iter().find_map(|message| match message {
                    SimpleQueryMessage::Row(row) => Some(row),
                    _ => None,
                });
                row.and_then(|row| {
                    let get = |name: &str| row.try_get(name).ok().flatten();
                    TableRule::from_text(&get).ok()
                })
            }
        };
        if client.batch_execute("COMMIT").await.is_ok() {
            self.pool.give_back(lease);
        }
        Ok((known, rule))
    }

    async fn answer(&self, which: RowQuestion) -> RowAnswer {
        match tokio::time::timeout(PATIENCE, self.ask(&which)).await {
            Ok(Ok((known, rule))) => judge(&which, known, rule.as_ref()),
            Ok(Err(error)) => RowAnswer {
                gates: vec![
                    Gate::unknown("tracked", format!("the database does not say: {error:#}"))
                        .mend("-- rowcast doctor; the role needs rowcast.grant_service()"),
                ],
                ..RowAnswer::default()
            },
            Err(_) => RowAnswer {
                gates: vec![Gate::unknown(
                    "tracked",
                    "the database does not answer in time",
                )],
                ..RowAnswer::default()
            },
        }
    }
}

/// Pure: what is known to gates, and the event that would be told.
fn judge(which: &RowQuestion, known: Known, rule: Option<&TableRule>) -> RowAnswer {
    let mut gates = Vec::new();
    let schema = known.schema.clone();
    let literal = format!("'{}'", known.name.replace('\'', "''"));
    let answer = |gates, event| RowAnswer {
        gates,
        event,
        schema,
        ..RowAnswer::default()
    };
    if !known.there {
        let name = &which.table;
        gates.push(
            Gate::no("tracked", format!("there is no table `{name}`"))
                .mend("-- check the name, and the schema: schema.table"),
        );
        return answer(gates, None);
    }
    let Some(rule) = rule else {
        gates.push(match known.by_hand {
            true => Gate::yes("tracked", format!("{} has the trigger trigger_notify_org_change: it is told that its rows change, not how", known.name)),
            false => Gate::no("tracked", format!("{} is not tracked", known.name)).mend(format!("SELECT rowcast.track({literal});")),
        });
        return answer(gates, None);
    };
    gates.push(match known.triggers {
        0 => Gate::no(
            "tracked",
            format!("{} is tracked, but has no triggers that fire", known.name),
        )
        .mend("SELECT rowcast.repair();"),
        _ => Gate::yes("tracked", format!("{} is tracked", known.name)),
    });
    gates.push(match (rule.published, known.in_publication) {
        (true, false) => Gate::no("published", "its rows are not in the publication")
            .mend("SELECT rowcast.sync_publication();"),
        (true, true) => Gate::yes("published", "its rows are in the publication"),
        (false, _) => Gate::yes(
            "published",
            "only invalidations are sent of it, which need no publication",
        ),
    });
    let operations: Vec<&str> = rule.operations.iter().map(|op| op.as_str()).collect();
    let operations = operations.join(", ");
    gates.push(match which.operation {
        None => Gate::yes("operation", format!("told are {operations}")),
        Some(op) if rule.delivers(op) => {
            Gate::yes("operation", format!("{} is told ({operations})", op.as_str()))
        }
        Some(op) => {
            let says = format!("{} is not told, only {operations}", op.as_str());
            Gate::no("operation", says).mend(format!(
                "UPDATE rowcast.tables SET operations = operations || '{{{}}}' WHERE relid = {literal}::regclass;",
                op.as_str()
            ))
        }
    });
    let (row, event) = match which.record.is_some() {
        true => judge_row(which, &known, rule, &literal),
        false => (Vec::new(), None),
    };
    RowAnswer {
        row,
        ..answer(gates, event)
    }
}

/// The same of the row as it is now.
fn judge_row(
    which: &RowQuestion,
    known: &Known,
    rule: &TableRule,
    literal: &str,
) -> (Vec<Gate>, Option<RoutedEvent>) {
    let gate = "organization";
    let noted = match (&known.problem, known.problems) {
        (Some(problem), _) => format!("; when it was written, this was noted: {problem}"),
        (None, 0) => String::new(),
        (None, many) => format!("; {many} problems were noted for the table in the last day"),
    };
    let look = "SELECT * FROM rowcast.problems ORDER BY at DESC;";
    if let Some(failed) = &known.failed {
        let says = format!("the row cannot be looked up: {failed}");
        return (vec![Gate::unknown(gate, says)], None);
    }
    if known.found != Some(true) {
        let says = format!("there is no such row at present{noted}");
        return (vec![Gate::unknown(gate, says)], None);
    }
    let Some(organization) = known
        .organization
        .as_deref()
        .filter(|text| !text.is_empty())
    else {
        let no = Gate::no(gate, format!("the row belongs to no organization{noted}"));
        let no = no.mend(format!(
            "-- its column or path is null or leads nowhere: SELECT organization_column, organization_path FROM rowcast.tables WHERE relid = {literal}::regclass;"
        ));
        let no = match noted.is_empty() {
            true => no,
            false => no.mend(look),
        };
        return (vec![no], None);
    };
    let mut gates = vec![Gate::yes(
        gate,
        format!("the row belongs to `{organization}`"),
    )];
    let standing = Standing {
        organization: organization.into(),
        record_id: which.record.as_deref().map(Into::into),
        user: known.user.as_deref().map(UserId::from),
        owner: known.owner.as_deref().map(UserId::from),
    };
    let likely = [Operation::Update, Operation::Insert, Operation::Delete];
    let likely = likely.into_iter().find(|op| rule.delivers(*op));
    let op = which.operation.or(likely).unwrap_or(Operation::Update);
    let event = would_tell(rule, op, standing);
    if event.is_none() {
        let says = "the table is told to the user of each row, and this row names none";
        gates.push(Gate::no("user_column", says));
    }
    (gates, event)
}

impl Operator for DatabaseOperator {
    fn revoke(
        self: Arc<Self>,
        what: Revoke,
    ) -> BoxFuture<'static, Result<Option<Cursor>, DurableError>> {
        async move {
            self.durable
                .run(
                    REVOKE,
                    &[
                        (&what.channel, Type::TEXT),
                        (&what.epoch, Type::INT8),
                        (&what.reason, Type::TEXT),
                        (&what.organization, Type::TEXT),
                    ],
                )
                .await
        }
        .boxed()
    }

    fn row(self: Arc<Self>, which: RowQuestion) -> BoxFuture<'static, RowAnswer> {
        async move { self.answer(which).await }.boxed()
    }
}
