//! `/health`, `/ready` and `/metrics`.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use contract::{Readiness, Role};
use serde::Serialize;

use super::App;
use crate::wire::{self, ApiError};

#[derive(Serialize)]
struct Health {
    status: &'static str,
}

#[derive(Serialize)]
struct Ready {
    status: &'static str,
    backends: Vec<BackendLine>,
}

#[derive(Serialize)]
struct BackendLine {
    role: &'static str,
    model: String,
    ready: bool,
    /// Why it is not ready.
    why: Option<String>,
}

/// The process is alive; says nothing about models.
pub(super) async fn health() -> Response {
    wire::json(Health { status: "ok" })
}

/// Whether requests can be answered: both backends are ready and the server is not going down.
pub(super) async fn ready(State(app): State<App>) -> Response {
    let (small, large) = (app.flow.backend(Role::Small), app.flow.backend(Role::Large));
    let mut backends = vec![line(&app, Role::Small)];
    if !Arc::ptr_eq(small, large) {
        backends.push(line(&app, Role::Large));
    }
    let (code, status) = if app.draining() {
        (StatusCode::SERVICE_UNAVAILABLE, "draining")
    } else if backends.iter().all(|backend| backend.ready) {
        (StatusCode::OK, "ready")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not ready")
    };
    (code, wire::json(Ready { status, backends })).into_response()
}

fn line(app: &App, role: Role) -> BackendLine {
    let backend = app.flow.backend(role);
    let why = match backend.readiness() {
        Readiness::Ready => None,
        Readiness::Loading => Some("loading".to_owned()),
        Readiness::Failed(why) => Some(why),
    };
    BackendLine { role: role.as_str(), model: backend.info().model, ready: why.is_none(), why }
}

/// Prometheus' text format.
pub(super) async fn metrics(State(app): State<App>) -> Response {
    let lag_rows = app.flow.ledger().map_or(0, ledger::Ledger::lag_rows);
    match app.flow.metrics().render(lag_rows) {
        Ok(text) => {
            ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
        }
        Err(error) => {
            tracing::error!(%error, "the metrics could not be written");
            ApiError::new(500, "internal_error", "the metrics could not be written").into_response()
        }
    }
}
