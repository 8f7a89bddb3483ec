//! What is asked of the database: places in the log, rows of `realtime_table_events`, rules and marks.
//!
//! The rows are read in one pass for all organizations, each from its own place on, and put together by
//! record. Transaction ids are compared by the server, which knows how they wrap around; an id that is
//! older than half of all numbers looks like a new one, so that too much is told rather than too little.

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures_util::StreamExt;
use rowcast_model::{
    Lsn, Operation, OrgId, Recovery, RecoveryWanted, RelationId, Samples, TableName, Timestamp,
    UserId,
};
use rowcast_routing::{Mark, Past, PastRow, PastTable, TableRule};
use rowcast_source::{ConnInfo, SourceError};
use tokio_postgres::{Client, Row, SimpleQueryMessage, types::Type};

use super::choice::{self, Kept, Noted, Usable};

/// How much may be answered.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// How far back.
    pub window: Duration,
    /// Bytes of all answers to one question.
    pub total: usize,
    /// Bytes of one organization's.
    pub organization: usize,
}

/// What one record of an answer costs besides its id.
const RECORD: usize = 320;

/// Rows of one organization, or that there are too many.
struct Found {
    begin: Usable,
    /// From where on cursors can be answered.
    from: Lsn,
    rows: Option<Vec<PastRow>>,
    bytes: usize,
}

/// Answers a question; organizations that cannot be answered are left out.
pub async fn answer(
    info: &ConnInfo,
    wanted: &RecoveryWanted,
    bounds: &Bounds,
) -> Result<Vec<Recovery>, SourceError> {
    let sql = info.connect("rowcast past").await?;
    let database = Database { info, sql };
    database.prepare().await?;
    let noted = database.noted(i64::from(wanted.epoch().0)).await?;
    let Some(kept) = database.kept().await? else {
        return Ok(Vec::new());
    };
    let usable = choice::usable(&noted, &kept, bounds.window);
    let mut found: HashMap<OrgId, Found> = HashMap::new();
    for (organization, lsn) in &wanted.organizations {
        if let Some(begin) = choice::begin(&usable, *lsn) {
            let found_here = Found {
                begin,
                from: begin.sample.lsn.max(*lsn),
                rows: Some(Vec::new()),
                bytes: 0,
            };
            found.insert(organization.clone(), found_here);
        }
    }
    let Some(oldest) = found.values().map(|found| found.begin.sample.horizon).min() else {
        return Ok(Vec::new());
    };
    database.rows(&mut found, &kept, bounds).await?;
    let past = database.past(oldest, &found).await?;
    // What was removed while this was read is not in it.
    let Some(after) = database.kept().await? else {
        return Ok(Vec::new());
    };
    let whole = choice::usable(&noted, &Kept { ..after }, bounds.window);
    let answers = found.into_iter().filter_map(|(organization, found)| {
        let horizon = found.begin.sample.horizon;
        let samples = whole.iter().map(|usable| usable.sample);
        let samples = samples.filter(|sample| sample.horizon >= horizon).collect();
        let changed = past.tell(&organization, found.rows?, horizon, after.now)?;
        let bytes = changed.len() * RECORD + found.bytes;
        Some(Recovery {
            organization,
            from: found.from,
            upto: wanted.upto,
            samples: Arc::new(Samples::new(samples)),
            changed,
            bytes,
        })
    });
    Ok(answers.collect())
}

struct Database<'a> {
    info: &'a ConnInfo,
    sql: Client,
}

impl Database<'_> {
    async fn prepare(&self) -> Result<(), SourceError> {
        let settings = "SET statement_timeout = '4s'; SET lock_timeout = '1s'; SET jit = off;
            SET default_transaction_read_only = on; SET datestyle = ISO; SET timezone = UTC";
        self.sql
            .batch_execute(settings)
            .await
            .map_err(|error| self.info.explain(&error))
    }

    async fn query(
        &self,
        statement: &str,
        parameters: &[(&(dyn tokio_postgres::types::ToSql + Sync), Type)],
    ) -> Result<Vec<Row>, SourceError> {
        self.sql
            .query_typed(statement, parameters)
            .await
            .map_err(|error| self.info.explain(&error))
    }

    async fn noted(&self, epoch: i64) -> Result<Vec<Noted>, SourceError> {
        let rows = self
            .query(
                "SELECT (p.lsn - '0/0')::bigint, p.horizon::text::bigint, p.xid::text::bigint,
                        (extract(epoch FROM p.at) * 1000000)::bigint
                 FROM rowcast.positions p
                 WHERE p.epoch = $1 AND p.events = to_regclass('public.realtime_table_events')",
                &[(&epoch, Type::INT8)],
            )
            .await?;
        let number = |row: &Row, at| row.get::<_, i64>(at).unsigned_abs();
        let noted = rows.iter().map(|row| Noted {
            lsn: Lsn(number(row, 0)),
            horizon: number(row, 1),
            xid: number(row, 2),
            at: Timestamp(row.get(3)),
        });
        Ok(noted.collect())
    }

    /// `None`: a part of the table is missing.
    async fn kept(&self) -> Result<Option<Kept>, SourceError> {
        let rows = self
            .query(
                "SELECT (SELECT (extract(epoch FROM max(g.since)) * 1000000)::bigint FROM rowcast.event_gaps g),
                        (extract(epoch FROM clock_timestamp()) * 1000000)::bigint,
                        pg_snapshot_xmax(pg_current_snapshot())::text::bigint,
                        NOT pg_is_in_recovery() AND (
                            SELECT count(*) = 8 FROM pg_inherits i
                            WHERE i.inhparent = to_regclass('public.realtime_table_events')
                              AND i.inhrelid::regclass::text ~ '^rowcast\\.events_[0-7]$')",
                &[],
            )
            .await?;
        Ok(rows.first().filter(|row| row.get(3)).map(|row| Kept {
            since: row.get::<_, Option<i64>>(0).map(Timestamp),
            now: Timestamp(row.get(1)),
            next: row.get::<_, i64>(2).unsigned_abs(),
        }))
    }

    async fn rows(
        &self,
        found: &mut HashMap<OrgId, Found>,
        kept: &Kept,
        bounds: &Bounds,
    ) -> Result<(), SourceError> {
        let organizations: Vec<String> = found.keys().map(OrgId::to_string).collect();
        let horizons: Vec<String> = found
            .values()
            .map(|found| short(found.begin.sample.horizon))
            .collect();
        let since = found.values().map(|found| found.begin.since).min();
        let buckets = choice::buckets(since.unwrap_or(kept.now), kept.now);
        let parameters = [
            (
                &organizations as &(dyn tokio_postgres::types::ToSql + Sync),
                Type::TEXT_ARRAY,
            ),
            (&horizons, Type::TEXT_ARRAY),
            (&buckets, Type::INT2_ARRAY),
        ];
        let rows = self
            .sql
            .query_typed_raw(
                "WITH wanted AS MATERIALIZED (
                     SELECT w.organization, age(w.horizon::xid) AS reach
                     FROM unnest($1::text[], $2::text[]) AS w(organization, horizon))
                 SELECT e.organization_id, e.relation_id, e.table_schema, e.table_name, e.record_id, e.user_id,
                        bit_or(CASE e.event_type WHEN 'INSERT' THEN 1 WHEN 'UPDATE' THEN 2 WHEN 'DELETE' THEN 4
                                                 WHEN 'TRUNCATE' THEN 8 ELSE 0 END),
                        max(w.reach::bigint - age(e.xmin)::bigint),
                        (extract(epoch FROM max(e.created_at)) * 1000000)::bigint, e.changed::text
                 FROM public.realtime_table_events e JOIN wanted w ON w.organization = e.organization_id
                 WHERE (e.bucket = ANY ($3) OR e.bucket < 0 OR e.bucket > 7) AND age(e.xmin) <= w.reach
                   AND e.changed IS DISTINCT FROM '{}'
                 GROUP BY 1, 2, 3, 4, 5, 6, e.changed",
                parameters,
            )
            .await
            .map_err(|error| self.info.explain(&error))?;
        let mut rows = std::pin::pin!(rows);
        let mut total = 0;
        while let Some(row) = rows.next().await {
            let row = row.map_err(|error| self.info.explain(&error))?;
            let organization: &str = row.get(0);
            let Some(here) = found.get_mut(organization) else {
                continue;
            };
            let Some(known) = &mut here.rows else {
                continue;
            };
            let row = past_row(&row, here.begin.sample.horizon);
            let bytes = RECORD + row.record_id.as_ref().map_or(0, |id| id.len());
            here.bytes += bytes;
            total += bytes;
            known.push(row);
            if here.bytes > bounds.organization {
                total -= std::mem::take(&mut here.bytes);
                here.rows = None;
            }
            while total > bounds.total
                && let Some(largest) = found.values_mut().max_by_key(|found| found.bytes)
            {
                total -= std::mem::take(&mut largest.bytes);
                largest.rows = None;
            }
        }
        Ok(())
    }

    /// Rules and marks of now; numbers count from `oldest`.
    async fn past(&self, oldest: u64, found: &HashMap<OrgId, Found>) -> Result<Past, SourceError> {
        let mut past = Past::default();
        let horizon = short(oldest);
        let number = |after: i64| oldest.saturating_add_signed(after);
        let tables = format!(
            "SELECT t.*, age('{horizon}'::xid)::bigint - age(t.xmin)::bigint AS changed,
                    n.nspname AS now_schema, c.relname AS now_name
             FROM rowcast.tables t LEFT JOIN pg_class c ON c.oid = t.relid
             LEFT JOIN pg_namespace n ON n.oid = c.relnamespace"
        );
        let messages = self.sql.simple_query(&tables).await;
        for message in messages.map_err(|error| self.info.explain(&error))? {
            let SimpleQueryMessage::Row(row) = message else {
                continue;
            };
            let text = |name: &str| row.try_get(name).ok().flatten();
            let rule = match TableRule::from_text(&text) {
                Ok(rule) => rule,
                Err(problem) => {
                    // Nobody is told anything of it.
                    tracing::warn!(code = problem.code(), "{problem}");
                    let relation = text("relid").and_then(|oid| oid.parse().ok());
                    let relation = RelationId(relation.unwrap_or_default());
                    past.mark(relation, Mark::Untracked, None, 0);
                    continue;
                }
            };
            let name = match (text("now_schema"), text("now_name")) {
                (Some(schema), Some(name)) => Arc::new(TableName {
                    schema: schema.into(),
                    name: name.into(),
                }),
                _ => rule.name.clone(),
            };
            let changed = text("changed").and_then(|after| after.parse().ok());
            past.table(PastTable {
                rule: Arc::new(rule),
                name,
                changed: number(changed.unwrap_or(i64::MAX)),
            });
        }
        let organizations: Vec<String> = found.keys().map(OrgId::to_string).collect();
        let marks = self
            .query(
                "SELECT m.relid, m.what, m.organization_id,
                        age($2::text::xid)::bigint - min(age(m.xmin))::bigint
                 FROM rowcast.table_marks m
                 WHERE m.organization_id IS NULL OR m.organization_id = ANY ($1) GROUP BY 1, 2, 3",
                &[(&organizations, Type::TEXT_ARRAY), (&horizon, Type::TEXT)],
            )
            .await?;
        for row in &marks {
            let mark = match row.get(1) {
                "truncated" => Mark::Truncated,
                "untracked" => Mark::Untracked,
                _ => Mark::Moved,
            };
            let organization: Option<&str> = row.get(2);
            let newest = number(row.get(3));
            past.mark(
                RelationId(row.get(0)),
                mark,
                organization.map(OrgId::from),
                newest,
            );
        }
        Ok(past)
    }
}

/// The low half of an id, as the server's `xid` reads it.
fn short(xid: u64) -> String {
    (xid & u64::from(u32::MAX)).to_string()
}

fn past_row(row: &Row, horizon: u64) -> PastRow {
    const OPERATIONS: [Operation; 4] = [
        Operation::Insert,
        Operation::Update,
        Operation::Delete,
        Operation::Truncate,
    ];
    let bits: i32 = row.get(6);
    let operations = OPERATIONS.into_iter().enumerate();
    PastRow {
        relation: row.get::<_, Option<u32>>(1).map(RelationId),
        table: TableName {
            schema: row.get::<_, &str>(2).into(),
            name: row.get::<_, &str>(3).into(),
        },
        record_id: row.get::<_, Option<&str>>(4).map(Arc::from),
        user: row.get::<_, Option<&str>>(5).map(UserId::from),
        operations: operations
            .filter(|(bit, _)| bits >> bit & 1 == 1)
            .map(|(_, operation)| operation)
            .collect(),
        newest: horizon.saturating_add_signed(row.get(7)),
        at: Timestamp(row.get(8)),
        changed: row.get::<_, Option<&str>>(9).map(Arc::from),
    }
}
