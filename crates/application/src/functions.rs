//! Calls functions of the database: `f(input jsonb, channel text, arguments jsonb, caller jsonb) returns jsonb`, each in
//! a transaction of its own, as the caller's role and with his claims, so that row level security holds.
//!
//! The role and the claims are set and seen to be set before the function is called. Statements have no name, so
//! a pooler that hands out connections by transaction may stand between. What a handler changes and tells nobody is
//! looked for before its transaction ends, and harms neither the transaction nor its time.

use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rowcast_model::{Caller, FunctionName, Method, Question};
use rowcast_source::{Lease, Pool};
use serde_json::value::RawValue;
use tokio_postgres::{
    Client, Error, Row,
    types::{ToSql, Type},
};

use crate::{
    FunctionsConfig,
    circuit::Circuit,
    line::{Line, Trouble},
    meaning::meaning,
    metrics::Metrics,
    untold::{self, Key, Looks},
};

/// Failures in a row after which the database is left alone.
const FAILURES: u32 = 5;
/// For how long.
const PAUSE: Duration = Duration::from_secs(1);
/// The server is to give up a little before we do, so that the connection lives on.
const MARGIN: Duration = Duration::from_millis(100);
/// A connection that nobody used for so long is not kept.
const IDLE: Duration = Duration::from_secs(300);
/// Longest look at what was told to nobody.
const LOOK: Duration = Duration::from_millis(500);

/// The role is the transaction's own from here on, as with SET LOCAL ROLE.
const BECOME: &str = "SELECT set_config('statement_timeout', $1, true), set_config('request.jwt.claims', $2, true), \
    set_config('rowcast.user_id', $3, true), set_config('rowcast.organization_id', $4, true), \
    set_config('rowcast.organization', $4, true), set_config('rowcast.told', '', true), \
    set_config('role', $5, true)";

/// Calls functions.
pub(crate) struct Functions {
    config: FunctionsConfig,
    answer_bytes: usize,
    pool: Pool,
    line: Line,
    looks: Mutex<Looks>,
    metrics: Metrics,
}

/// One call.
struct Call<'c> {
    name: &'c FunctionName,
    role: &'c str,
    texts: &'c Texts<'c>,
    /// For a handler that may write.
    handler: Option<&'c Key>,
    until: Instant,
}

/// What came of it.
struct Called {
    answer: Box<RawValue>,
    /// Tables that it changed, of which nobody is told.
    untold: Vec<String>,
}

impl Functions {
    pub fn new(config: FunctionsConfig, answer_bytes: usize, metrics: &Metrics) -> Functions {
        let circuit = Circuit::new(FAILURES, PAUSE);
        Functions {
            pool: Pool::new(config.database.clone(), "rowcast application", IDLE),
            line: Line::new(
                "database".into(),
                circuit,
                config.connections,
                config.timeout,
                metrics,
            ),
            config,
            answer_bytes,
            looks: Mutex::default(),
            metrics: metrics.clone(),
        }
    }

    pub fn timeout(&self) -> Duration {
        self.line.timeout
    }

    pub async fn call(
        &self,
        name: &FunctionName,
        question: &Question,
    ) -> Result<Box<RawValue>, Trouble> {
        let role = self.role(&question.caller)?;
        let texts = Texts::of(question)?;
        let definition = question.definition.clone();
        let handler = definition.map(|definition| (definition, name.clone()));
        let call = |until| Call {
            name,
            role: &role,
            texts: &texts,
            handler: handler.as_ref(),
            until,
        };
        // Boxed: this holds many futures of the client.
        let asked = self.line.ask(|until| Box::pin(self.run(call(until))));
        let called = asked.await?;
        if let Some(handler) = &handler
            && !called.untold.is_empty()
            && self.looks.lock().warn(handler, Instant::now())
        {
            self.metrics.looked("warned");
            tracing::warn!("{}", untold::warning(handler, &called.untold));
        }
        Ok(called.answer)
    }

    /// The role of the database that the caller acts as.
    fn role(&self, caller: &Caller) -> Result<String, Trouble> {
        let (role, setting) = match caller.auth_method {
            Method::ApiKey => (self.config.api_key_role.clone(), "application.api_key_role"),
            Method::Session => {
                let claimed = caller.claims.text("role");
                let claimed = claimed.filter(|role| self.config.claim_roles.contains(role));
                (claimed.or(self.config.role.clone()), "application.role")
            }
        };
        role.filter(|role| is_a_role(role)).ok_or_else(|| {
            Trouble::Broken(
                "no_role",
                format!("nobody said as which role of the database; set {setting}"),
            )
        })
    }

    async fn run(&self, call: Call<'_>) -> Result<Called, Trouble> {
        let mut lease = self.lease(self.pool.lease()).await?;
        if lease.client.batch_execute("BEGIN").await.is_err() {
            // It may have died while nobody used it.
            if !lease.used {
                return Err(Trouble::Gone("database", "the connection broke".into()));
            }
            lease = self.lease(self.pool.fresh()).await?;
            let begun = lease.client.batch_execute("BEGIN").await;
            begun.map_err(|error| self.trouble(&error))?;
        }
        let answer = self.in_transaction(&lease.client, &call).await;
        let end = if answer.is_ok() { "COMMIT" } else { "ROLLBACK" };
        let ended = lease.client.batch_execute(end).await;
        match (answer, ended) {
            (answer, Ok(())) => {
                self.pool.give_back(lease);
                answer
            }
            // What is checked at the end refuses as well.
            (Ok(_), Err(error)) => Err(self.trouble(&error)),
            (Err(trouble), Err(_)) => Err(trouble),
        }
    }

    async fn lease(
        &self,
        leasing: impl Future<Output = Result<Lease, rowcast_source::SourceError>>,
    ) -> Result<Lease, Trouble> {
        Box::pin(leasing)
            .await
            .map_err(|error| Trouble::Gone("database", error.to_string()))
    }

    async fn in_transaction(&self, client: &Client, call: &Call<'_>) -> Result<Called, Trouble> {
        let Call {
            name, role, texts, ..
        } = call;
        let left = call.until.saturating_duration_since(Instant::now());
        let timeout = left.saturating_sub(MARGIN).as_millis().max(1).to_string();
        let (claims, user, organization) = (texts.claims, texts.user, texts.organization);
        let settings: [&(dyn ToSql + Sync); 5] = [&timeout, &claims, &user, &organization, &role];
        self.query(client, BECOME, &settings).await?;
        // Seen by a statement of its own: it holds for the next one, too, or there is no transaction.
        let role_alone: [&(dyn ToSql + Sync); 1] = [&role];
        let me = self.query(client, "SELECT current_user::text = $1", &role_alone);
        let me = me.await?;
        if !me.is_some_and(|row| row.try_get(0).unwrap_or(false)) {
            let words = format!("the database did not take the role {role}");
            return Err(Trouble::Broken("no_role", words));
        }
        let (most, silent) = (self.answer_bytes, untold::SILENT);
        // The fence keeps the planner from calling it twice.
        let statement = format!(
            "SELECT CASE WHEN octet_length(a) <= {most} THEN a END, a IS NULL, {silent} FROM \
             (SELECT {name}($1::text::jsonb, $2::text, $3::text::jsonb, $4::text::jsonb)::jsonb::text AS a OFFSET 0) AS answer"
        );
        let values: [&(dyn ToSql + Sync); 4] = [
            &texts.input,
            &texts.channel,
            &texts.arguments,
            &texts.caller,
        ];
        let row = self.query(client, &statement, &values).await?;
        let row = row.ok_or_else(|| Trouble::Broken("answer", "no row".into()))?;
        let text: Option<String> = row.try_get(0).map_err(|error| self.trouble(&error))?;
        let answer = match (text, row.try_get(1)) {
            (Some(text), _) => RawValue::from_string(text)
                .map_err(|_| Trouble::Broken("answer", "it is not JSON".into()))?,
            (None, Ok(true)) => RawValue::NULL.to_owned(),
            _ => {
                let words = format!("it is longer than {most} bytes");
                return Err(Trouble::Broken("answer", words));
            }
        };
        let look = match call.handler {
            Some(handler) if row.try_get(2).unwrap_or(false) => {
                self.looks.lock().take(handler, Instant::now())
            }
            _ => false,
        };
        let untold = if look {
            self.look(client, call.until).await?
        } else {
            Vec::new()
        };
        Ok(Called { answer, untold })
    }

    /// The tables that were changed and of which nobody is told. Whatever comes of the look is taken back, and it
    /// has a short time of its own, so that the handler's transaction goes on as if nobody had looked.
    async fn look(&self, client: &Client, until: Instant) -> Result<Vec<String>, Trouble> {
        let left = until.saturating_duration_since(Instant::now());
        let most = (left / 4).min(LOOK).as_millis().max(1);
        let begin = format!(
            "SAVEPOINT rowcast_look; SET LOCAL statement_timeout = {most}; SET LOCAL search_path = pg_catalog, pg_temp"
        );
        let begun = client.batch_execute(&begin).await;
        begun.map_err(|error| self.trouble(&error))?;
        let found = client.query_typed(untold::UNTOLD, &[]).await;
        let taken_back = client
            .batch_execute("ROLLBACK TO SAVEPOINT rowcast_look")
            .await;
        taken_back.map_err(|error| self.trouble(&error))?;
        let tables = found.and_then(|rows| {
            let names = rows.iter().map(|row| row.try_get(0));
            names.collect::<Result<Vec<String>, Error>>()
        });
        match tables {
            Ok(tables) => {
                if tables.is_empty() {
                    self.metrics.looked("tracked");
                }
                Ok(tables)
            }
            Err(error) => {
                self.metrics.looked("unknown");
                let error = self.config.database.explain(&error);
                tracing::debug!("what a handler changed cannot be looked at: {error}");
                Ok(Vec::new())
            }
        }
    }

    async fn query(
        &self,
        client: &Client,
        statement: &str,
        values: &[&(dyn ToSql + Sync)],
    ) -> Result<Option<Row>, Trouble> {
        let values: Vec<(&(dyn ToSql + Sync), Type)> =
            values.iter().map(|value| (*value, Type::TEXT)).collect();
        let rows = client.query_typed(statement, &values).await;
        rows.map(|rows| rows.into_iter().next())
            .map_err(|error| self.trouble(&error))
    }

    fn trouble(&self, error: &Error) -> Trouble {
        match error.as_db_error() {
            Some(error) => meaning(error.code().code(), error.message(), error.detail()),
            None => Trouble::Gone("database", self.config.database.explain(error).to_string()),
        }
    }
}

/// `none` would mean the role that we are connected as.
fn is_a_role(role: &str) -> bool {
    !role.is_empty() && !role.eq_ignore_ascii_case("none")
}

/// A question as texts, for the statement.
struct Texts<'q> {
    input: &'q str,
    channel: &'q str,
    arguments: String,
    caller: String,
    claims: &'q str,
    user: &'q str,
    organization: &'q str,
}

impl Texts<'_> {
    fn of(question: &Question) -> Result<Texts<'_>, Trouble> {
        let broken = |error: serde_json::Error| Trouble::Broken("question", error.to_string());
        let caller = &question.caller;
        let texts = Texts {
            input: question.input.get(),
            channel: &question.channel,
            arguments: serde_json::to_string(&question.arguments).map_err(broken)?,
            caller: serde_json::to_string(caller).map_err(broken)?,
            claims: caller.claims.json(),
            user: caller.user_id.as_ref().map_or("", |user| user.as_str()),
            organization: (caller.organization_id.as_ref()).map_or("", |one| one.as_str()),
        };
        let all = [texts.input, &texts.arguments, &texts.caller];
        // A user's doing, so it is said to him and not to the operator.
        match all.iter().any(|text| text.contains("\\u0000")) {
            true => Err(Trouble::Refused(rowcast_model::Refusal::new(
                "invalid_input",
                "there is a character with the number 0 in it, which PostgreSQL cannot keep",
            ))),
            false => Ok(texts),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn none_is_no_role() {
        assert!(is_a_role("app_user") && is_a_role("nonesuch"));
        assert!(!is_a_role("") && !is_a_role("none") && !is_a_role("NONE"));
    }
}
