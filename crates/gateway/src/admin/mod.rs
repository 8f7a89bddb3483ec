//! `/admin/…`: what an operator asks and does. Whoever holds the access token may, nobody else; without one in the
//! configuration nobody at all.
//!
//! Owns the addresses, their parameters and the text of the answers. What is listed and explained is the hub's to
//! say; what is in the database is asked of an [`Operator`]. Answers are bounded, and nothing here holds up an event.

mod ask;
mod error;
mod explain;
mod show;

use std::{sync::Arc, time::Duration};

use axum::{
    Json, Router,
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, Method, Uri},
    response::{IntoResponse, Response},
    routing::any,
};
use futures_util::future::BoxFuture;
use rowcast_hub::{Gate, Hub};
use rowcast_model::{Cursor, Operation, RoutedEvent};
use serde::de::DeserializeOwned;
use tokio::sync::Semaphore;

pub use ask::{Disconnect, ExplainQuestion, Revoke, Select};
pub use error::AdminError;
pub use explain::{ExplainAnswer, GateAnswer};
pub use show::{ChannelsAnswer, ConnectionsAnswer};

use crate::{DurableError, GatewayMetrics, access::AccessToken};

/// Largest body of a request.
const BODY_BYTES: usize = 16 * 1024;
/// Most time for it to come.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the database knows of a row.
#[derive(Debug, Default)]
pub struct RowAnswer {
    /// The gates of the table, in order.
    pub gates: Vec<Gate>,
    /// The gates of the row as it is now; of no use where an event is remembered.
    pub row: Vec<Gate>,
    /// What would be told of the row if it were written now.
    pub event: Option<RoutedEvent>,
    /// The schema of the table, where it was found.
    pub schema: Option<String>,
}

/// Which row.
#[derive(Clone, Debug)]
pub struct RowQuestion {
    /// The schema of the table, if it was named.
    pub schema: Option<String>,
    /// The table.
    pub table: String,
    /// The key as text.
    pub record: Option<String>,
    /// What happens to it; `None`: whatever is told of the table.
    pub operation: Option<Operation>,
}

/// What is done and asked in the database. Implemented by whoever has a connection to it.
pub trait Operator: Send + Sync {
    /// Takes everybody off a channel, at a place of the log: the position, or `None` when it was not seen in
    /// time.
    fn revoke(
        self: Arc<Self>,
        what: Revoke,
    ) -> BoxFuture<'static, Result<Option<Cursor>, DurableError>>;

    /// What the database knows of a row.
    fn row(self: Arc<Self>, which: RowQuestion) -> BoxFuture<'static, RowAnswer>;
}

/// What the routes need.
pub(crate) struct Admin {
    pub hub: Arc<Hub>,
    pub token: AccessToken,
    pub operator: Option<Arc<dyn Operator>>,
    pub metrics: GatewayMetrics,
    /// One at a time looks at everything.
    turn: Semaphore,
}

impl Admin {
    pub(crate) fn new(
        hub: Arc<Hub>,
        token: AccessToken,
        operator: Option<Arc<dyn Operator>>,
        metrics: GatewayMetrics,
    ) -> Admin {
        Admin {
            hub,
            token,
            operator,
            metrics,
            turn: Semaphore::new(1),
        }
    }
}

/// The routes.
pub(crate) fn routes(admin: Arc<Admin>) -> Router {
    Router::new()
        .route("/admin/{what}", any(handle))
        .with_state(admin)
}

async fn handle(State(admin): State<Arc<Admin>>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let answer = admin
        .answer(&head.method, &head.uri, &head.headers, body)
        .await;
    match answer {
        Ok(answer) => {
            admin.metrics.admin("answered");
            answer
        }
        Err(error) => {
            admin.metrics.admin(error.code());
            error.into_response()
        }
    }
}

impl Admin {
    async fn answer(
        &self,
        method: &Method,
        uri: &Uri,
        headers: &HeaderMap,
        body: Body,
    ) -> Result<Response, AdminError> {
        self.token.admit(headers)?;
        let what = uri.path().trim_start_matches("/admin/");
        let allowed = match what {
            "connections" | "channels" => "GET",
            "disconnect" | "revoke" => "POST",
            "explain" => "GET, POST",
            _ => {
                return Err(AdminError::invalid(
                    "there is connections, channels, disconnect, revoke, explain",
                ));
            }
        };
        if !allowed.split(", ").any(|one| method == one) {
            return Err(AdminError::Method(allowed));
        }
        match what {
            "connections" => {
                let asked: Select = query(uri)?;
                self.connections(asked).map(json)
            }
            "channels" => {
                let asked: Select = query(uri)?;
                self.channels(asked).map(json)
            }
            "disconnect" => {
                let asked: Disconnect = read(body).await?;
                self.disconnect(&asked).map(json)
            }
            "revoke" => {
                let asked: Revoke = read(body).await?;
                self.revoke(asked).await.map(json)
            }
            _ => {
                let asked: ExplainQuestion = match *method == Method::POST {
                    true => read(body).await?,
                    false => query(uri)?,
                };
                self.explain(asked).await.map(json)
            }
        }
    }
}

fn json(answer: impl serde::Serialize) -> Response {
    Json(answer).into_response()
}

fn query<T: DeserializeOwned>(uri: &Uri) -> Result<T, AdminError> {
    let query = axum::extract::Query::<T>::try_from_uri(uri);
    let query = query.map_err(|error| AdminError::invalid(error.body_text()))?;
    Ok(query.0)
}

async fn read<T: DeserializeOwned>(body: Body) -> Result<T, AdminError> {
    let bytes = axum::body::to_bytes(body, BODY_BYTES);
    let bytes = tokio::time::timeout(PATIENCE, bytes).await;
    let Ok(Ok(bytes)) = bytes else {
        return Err(AdminError::Body);
    };
    if rowcast_wire::deeper_than(&bytes, 16) {
        return Err(AdminError::invalid(
            "the body is nested deeper than 16 levels",
        ));
    }
    serde_json::from_slice(&bytes).map_err(|error| AdminError::invalid(error.to_string()))
}
