//! Why somebody gets nothing: what the database says, and then what the hub says, gate by gate.

use rowcast_hub::{Gate, Identity, Question, Verdict};
use rowcast_model::{Channel, Cursor};
use serde::Serialize;

use super::{Admin, AdminError, ExplainQuestion, RowAnswer, RowQuestion, ask::organization};

/// The answer.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ExplainAnswer {
    /// Who, as it was asked.
    who: String,
    /// On which channel.
    channel: String,
    /// Whether the event is delivered: null when some gate cannot be known.
    pub delivered: Option<bool>,
    /// The first gate that says no.
    stops: Option<&'static str>,
    /// What was judged: the last event that is remembered, or (without a cursor) what would be told now.
    event: Option<EventAnswer>,
    /// Every gate in order.
    pub gates: Vec<GateAnswer>,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct EventAnswer {
    cursor: Option<Cursor>,
    operation: &'static str,
    organization_id: Option<String>,
}

/// What one gate says.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GateAnswer {
    gate: &'static str,
    verdict: &'static str,
    says: String,
    mend: Vec<String>,
}

impl From<Gate> for GateAnswer {
    fn from(gate: Gate) -> GateAnswer {
        GateAnswer {
            gate: gate.gate,
            verdict: gate.verdict.name(),
            says: gate.says,
            mend: gate.mend,
        }
    }
}

impl Admin {
    pub(super) async fn explain(
        &self,
        asked: ExplainQuestion,
    ) -> Result<ExplainAnswer, AdminError> {
        let identity = match (&asked.user, &asked.api_key) {
            (Some(user), None) => Identity::session(user.as_str()),
            (None, Some(key)) => {
                // As whoever shows its present secret.
                let known = self.hub.api_key(key);
                let secret = known.and_then(|known| known.secrets.first().cloned());
                let hash = secret.map_or_else(|| "".into(), |secret| secret.hash);
                Identity::api_key(key.as_str(), hash)
            }
            _ => return Err(AdminError::invalid("say who: `user` or `apiKey`")),
        };
        let organization = organization(asked.organization.as_deref())?;
        let channel = match (&asked.channel, &organization) {
            (Some(name), _) => name
                .parse::<Channel>()
                .map_err(|error| AdminError::invalid(error.to_string()))?,
            (None, Some(organization)) => Channel::Org(organization.clone()),
            (None, None) => {
                return Err(AdminError::invalid(
                    "say where: `channel` or `organization`",
                ));
            }
        };
        if asked.record.is_some() && asked.table.is_none() {
            return Err(AdminError::invalid("a `record` is of a `table`: name it"));
        }
        let operation = asked.operation()?;
        let table = asked
            .table
            .as_deref()
            .map(|table| match table.split_once('.') {
                Some((schema, table)) => (Some(schema.to_owned()), table.to_owned()),
                None => (None, table.to_owned()),
            });
        let row = match (&table, self.operator.clone()) {
            (Some((schema, name)), Some(operator)) => {
                let which = RowQuestion {
                    schema: schema.clone(),
                    table: name.clone(),
                    record: asked.record.clone(),
                    operation,
                };
                operator.row(which).await
            }
            _ => RowAnswer::default(),
        };
        let table = table.map(|(schema, name)| (schema.or(row.schema), name));
        let answer = self.hub.explain(&Question {
            identity,
            organization,
            channel: channel.clone(),
            table,
            record: asked.record,
            operation,
            otherwise: row.event,
        });
        // What was told is judged as it was told, wherever its row is now.
        let remembered = answer.event.as_ref().filter(|event| event.cursor.is_some());
        let of_row = match remembered.map(|event| &event.organization) {
            None => row.row,
            Some(None) => Vec::new(),
            Some(Some(organization)) => {
                let says = format!("the event is one of `{organization}`");
                vec![Gate::yes("organization", says)]
            }
        };
        let gates = row.gates.into_iter().chain(of_row).chain(answer.gates);
        let gates: Vec<Gate> = gates.collect();
        let says = |verdict| gates.iter().find(|gate| gate.verdict == verdict);
        let stops = says(Verdict::No).map(|gate| gate.gate);
        let unknown = says(Verdict::Unknown).is_some() || answer.event.is_none();
        Ok(ExplainAnswer {
            who: asked.user.or(asked.api_key).unwrap_or_default(),
            channel: channel.to_string(),
            delivered: match (stops, unknown) {
                (Some(_), _) => Some(false),
                (None, true) => None,
                (None, false) => Some(true),
            },
            stops,
            event: answer.event.map(|event| EventAnswer {
                cursor: event.cursor,
                operation: event.operation,
                organization_id: event
                    .organization
                    .map(|organization| organization.to_string()),
            }),
            gates: gates.into_iter().map(GateAnswer::from).collect(),
        })
    }
}
