//! The few plain pages: alive, ready, metrics.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header},
    response::IntoResponse,
    routing::get,
};
use prometheus_client::registry::Registry;
use serde_json::json;
use tokio::sync::watch;

/// Whether the service streams.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// It streams and is current.
    Ready,
    /// It does not, and why.
    NotReady(Arc<str>),
}

/// `GET /healthz`: the process is alive.
pub(crate) async fn healthz() -> impl IntoResponse {
    Json(json!({"status": "alive"}))
}

/// The internal routes.
pub(crate) fn internal(ready: watch::Receiver<Readiness>, registry: Arc<Registry>) -> Router {
    let readyz = Router::new()
        .route("/readyz", get(readyz))
        .with_state(ready);
    let metrics = Router::new()
        .route("/metrics", get(metrics))
        .with_state(registry);
    Router::new()
        .route("/healthz", get(healthz))
        .merge(readyz)
        .merge(metrics)
}

async fn readyz(State(ready): State<watch::Receiver<Readiness>>) -> impl IntoResponse {
    let now = ready.borrow().clone();
    match now {
        Readiness::Ready => (StatusCode::OK, Json(json!({"status": "ready"}))),
        Readiness::NotReady(why) => (
            StatusCode::SERVICE_UNAVAILABLE,
            Json(json!({"status": "not_ready", "reason": &*why})),
        ),
    }
}

async fn metrics(State(registry): State<Arc<Registry>>) -> impl IntoResponse {
    let mut text = String::new();
    match prometheus_client::encoding::text::encode(&mut text, &registry) {
        Ok(()) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, kind)], text).into_response()
        }
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}
