//! `POST /revoke`: an application ends a channel for those who may not be on it any more, at one place of the log.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    response::Response,
};
use rowcast_model::Revocation;
use serde::Deserialize;

use super::{BroadcastError, Broadcasts, DurableError, json_response, written};

/// The body.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Body {
    channel: String,
    epoch: Option<i64>,
    reason: Option<String>,
    organization_id: Option<String>,
}

/// The route.
pub(super) async fn handle(
    State(broadcasts): State<Arc<Broadcasts>>,
    request: Request,
) -> Response {
    match broadcasts.clone().revoke(request).await {
        Ok(response) => {
            broadcasts.metrics.broadcast("revoked");
            response
        }
        Err(error) => broadcasts.refuse(&error.of_all()),
    }
}

fn parse(bytes: &[u8]) -> Result<Revocation, BroadcastError> {
    let body: Body = serde_json::from_slice(bytes).map_err(|error| match error.classify() {
        serde_json::error::Category::Data => BroadcastError::field(error.to_string()),
        _ => BroadcastError::InvalidJson(error.to_string()),
    })?;
    Ok(Revocation {
        organization: body.organization_id.map(Into::into),
        channel: body.channel.into(),
        epoch: body.epoch,
        reason: body.reason.map(Into::into),
    })
}

impl Broadcasts {
    async fn revoke(self: Arc<Self>, request: Request) -> Result<Response, BroadcastError> {
        let (head, body) = request.into_parts();
        self.admit(&head.headers)?;
        let (bytes, _room) = self.read(&head.headers, body).await?;
        let revocation = parse(&bytes)?;
        let Some(durable) = self.durable.clone() else {
            let why = "this service writes nothing into the log";
            return Err(BroadcastError::Durable(DurableError::Refused(why.into())));
        };
        // Whoever asked may be gone before the end.
        let work = tokio::spawn(durable.revoke(revocation)).await;
        let cursor = work.map_err(|_| BroadcastError::Overloaded)?;
        let answer = written(cursor.map_err(BroadcastError::Durable)?);
        Ok(json_response(answer.status, answer.body))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_names_a_channel_and_nothing_unknown() {
        let text = r#"{"channel":"room:1","epoch":7,"reason":"left","organizationId":"acme"}"#;
        let revocation = parse(text.as_bytes()).unwrap();
        assert_eq!(
            (&*revocation.channel, revocation.epoch),
            ("room:1", Some(7))
        );
        assert_eq!(revocation.organization, Some("acme".into()));
        let code = |text: &str| parse(text.as_bytes()).unwrap_err().code();
        for bad in [
            "{}",
            r#"{"channel":1}"#,
            r#"{"channel":"a","user":"x"}"#,
            "[]",
        ] {
            assert_eq!(code(bad), "invalid_field", "{bad}");
        }
        assert_eq!(code("{"), "invalid_json");
    }
}
