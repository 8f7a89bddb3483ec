//! The routes of the example page.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{Query, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::Mutex;
use tokio_postgres::Client;

use super::actions::{self, Act};
use crate::{
    commands::token::{Wanted, make},
    config::{Config, Span},
    db,
};

/// What the page needs: the configuration, and one connection (opened again when it is lost).
pub struct Page {
    config: Config,
    client: Mutex<Option<Arc<Client>>>,
}

impl Page {
    /// Makes the example tables; the page is ready when this returns.
    pub async fn prepare(config: &Config) -> anyhow::Result<Arc<Page>> {
        config.signing_secret()?;
        let client = db::connect(config).await?;
        client
            .batch_execute(actions::SCHEMA)
            .await
            .map_err(|error| {
                anyhow::anyhow!("the example tables: {}", crate::migrations::explain(&error))
            })?;
        Ok(Arc::new(Page {
            config: config.clone(),
            client: Mutex::new(Some(Arc::new(client))),
        }))
    }

    async fn client(&self) -> anyhow::Result<Arc<Client>> {
        let mut slot = self.client.lock().await;
        match &*slot {
            Some(client) if !client.is_closed() => Ok(Arc::clone(client)),
            _ => {
                let client = Arc::new(db::connect(&self.config).await?);
                *slot = Some(Arc::clone(&client));
                Ok(client)
            }
        }
    }
}

/// The routes.
pub fn routes(page: Arc<Page>) -> Router {
    let file = |kind: &'static str, text: &'static str| {
        get(move || async move {
            (
                [
                    (header::CONTENT_TYPE, kind),
                    (header::CACHE_CONTROL, "no-cache"),
                    (
                        header::CONTENT_SECURITY_POLICY,
                        "default-src 'self'; img-src data:; frame-ancestors 'none'",
                    ),
                ],
                text,
            )
        })
    };
    let html = include_str!("../../assets/demo.html");
    let css = include_str!("../../assets/demo.css");
    let js = include_str!("../../assets/demo.js");
    Router::new()
        .route("/", file("text/html; charset=utf-8", html))
        .route("/demo/demo.css", file("text/css; charset=utf-8", css))
        .route("/demo/demo.js", file("text/javascript; charset=utf-8", js))
        .route("/demo/token", get(token))
        .route("/demo/rows", get(rows))
        .route("/demo/psql", get(psql))
        .route("/demo/act", post(act))
        .with_state(page)
}

/// Something failed; its text is for the person at the page.
struct Failed(StatusCode, String);

impl IntoResponse for Failed {
    fn into_response(self) -> Response {
        (self.0, self.1).into_response()
    }
}

impl<E: std::fmt::Display> From<E> for Failed {
    fn from(error: E) -> Self {
        Failed(StatusCode::SERVICE_UNAVAILABLE, error.to_string())
    }
}

#[derive(Deserialize)]
struct Of {
    organization: String,
}

async fn token(State(page): State<Arc<Page>>, Query(of): Query<Of>) -> Result<Json<Value>, Failed> {
    let Some(user) = actions::member(&of.organization) else {
        return Err(Failed(
            StatusCode::NOT_FOUND,
            "There is no such organization.".to_owned(),
        ));
    };
    let wanted = Wanted {
        user,
        organization: None,
        roles: &[],
        good_for: Span::ms(3_600_000),
    };
    let token = make(&page.config, wanted)?;
    Ok(Json(
        json!({"token": token, "user": user, "organizationId": of.organization}),
    ))
}

async fn rows(State(page): State<Arc<Page>>, Query(of): Query<Of>) -> Result<Json<Value>, Failed> {
    let client = page.client().await?;
    Ok(Json(actions::rows(&client, &of.organization).await?))
}

async fn psql(State(page): State<Arc<Page>>) -> Json<Value> {
    Json(json!({"lines": Vec::from_iter(&page.config.demo.hint)}))
}

async fn act(State(page): State<Arc<Page>>, Json(wanted): Json<Act>) -> Result<StatusCode, Failed> {
    let client = page.client().await?;
    match actions::act(&client, &wanted).await {
        Ok(()) => Ok(StatusCode::NO_CONTENT),
        Err(why) => Err(Failed(StatusCode::CONFLICT, why)),
    }
}
