//! `/health`, `/ready` and `/metrics`.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use contract::{Backend, DrafterState, Drafting, Readiness, Role};
use policy::drift::DriftState;
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
    /// How far traffic is from what the policy was calibrated on.
    #[serde(skip_serializing_if = "Option::is_none")]
    calibration: Option<DriftState>,
}

#[derive(Serialize)]
struct BackendLine {
    role: &'static str,
    model: String,
    ready: bool,
    /// Why it is not ready.
    why: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    speculative: Option<Speculative>,
}

/// Who drafts what a backend writes.
#[derive(Serialize)]
#[serde(untagged)]
enum Speculative {
    Off { enabled: bool },
    On { drafters: Vec<DrafterLine> },
}

#[derive(Serialize)]
struct DrafterLine {
    name: &'static str,
    /// Why it does not draft at present.
    #[serde(skip_serializing_if = "Option::is_none")]
    idle: Option<String>,
    /// What it does otherwise than it might, and why.
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<String>,
}

impl From<Drafting> for Speculative {
    fn from(drafting: Drafting) -> Self {
        if drafting.drafters.is_empty() {
            return Speculative::Off { enabled: false };
        }
        let line = |DrafterState { name, idle, note }| DrafterLine { name, idle, note };
        Speculative::On { drafters: drafting.drafters.into_iter().map(line).collect() }
    }
}

/// The process is alive; says nothing about models.
pub(super) async fn health() -> Response {
    wire::json(Health { status: "ok" })
}

/// Whether requests can be answered: both backends are ready and the server is not going down.
pub(super) async fn ready(State(app): State<App>) -> Response {
    let backends: Vec<BackendLine> =
        backends(&app).into_iter().map(|(role, backend)| line(role, &**backend)).collect();
    let (code, status) = if app.draining() {
        (StatusCode::SERVICE_UNAVAILABLE, "draining")
    } else if backends.iter().all(|backend| backend.ready) {
        (StatusCode::OK, "ready")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not ready")
    };
    (code, wire::json(Ready { status, backends, calibration: app.flow.drift() })).into_response()
}

/// The backends by role; one that fills both stands once.
fn backends(app: &App) -> Vec<(Role, &Arc<dyn Backend>)> {
    let (small, large) = (app.flow.backend(Role::Small), app.flow.backend(Role::Large));
    let mut backends = vec![(Role::Small, small)];
    if !Arc::ptr_eq(small, large) {
        backends.push((Role::Large, large));
    }
    backends
}

fn line(role: Role, backend: &dyn Backend) -> BackendLine {
    let why = match backend.readiness() {
        Readiness::Ready => None,
        Readiness::Loading => Some("loading".to_owned()),
        Readiness::Failed(why) => Some(why),
    };
    BackendLine {
        role: role.as_str(),
        model: backend.info().model,
        ready: why.is_none(),
        why,
        speculative: backend.drafting().map(Speculative::from),
    }
}

/// Prometheus' text format.
pub(super) async fn metrics(State(app): State<App>) -> Response {
    let lag_rows = app.flow.ledger().map_or(0, ledger::Ledger::lag_rows);
    let drafting: Vec<(String, Drafting)> = backends(&app)
        .into_iter()
        .filter_map(|(_, backend)| Some((backend.info().model, backend.drafting()?)))
        .collect();
    match app.flow.metrics().render(lag_rows, &drafting) {
        Ok(text) => {
            ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
        }
        Err(error) => {
            tracing::error!(%error, "the metrics could not be written");
            ApiError::new(500, "internal_error", "the metrics could not be written").into_response()
        }
    }
}
