//! The server's routes: which path leads where, and what all handlers share ([`App`]).

mod answer;
mod body;
mod dashboard;
mod models;
mod moderations;
mod record;
mod status;

pub(crate) use answer::Held;

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request};
use axum::http::{HeaderName, HeaderValue};
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use contract::Role;
use tokio_util::task::TaskTracker;
use tower_http::cors::{AllowHeaders, Any, CorsLayer};

use crate::auth::{self, Keys};
use crate::door::Models;
use crate::flow::Flow;
use crate::memory::RequestMemory;
use crate::origin;
use crate::settings::GatewaySettings;
use crate::wire::ApiError;

/// Most names of unknown fields that are remembered so as to be logged once.
const WARNED_MAX: usize = 256;
/// Longest part of such a name that is logged.
const WARNED_CHARS_MAX: usize = 64;

/// What the handlers share. Clones share it.
#[derive(Clone)]
pub(crate) struct App {
    inner: Arc<AppInner>,
}

pub(crate) struct AppInner {
    pub(crate) flow: Flow,
    pub(crate) keys: Keys,
    pub(crate) settings: GatewaySettings,
    pub(crate) memory: RequestMemory,
    pub(crate) models: Models,
    /// Requests being answered; shutdown waits for them.
    pub(crate) running: TaskTracker,
    pub(crate) started_unix_s: u64,
    draining: AtomicBool,
    warned: Mutex<HashSet<String>>,
}

impl std::ops::Deref for App {
    type Target = AppInner;

    fn deref(&self) -> &AppInner {
        &self.inner
    }
}

/// Now, Unix seconds.
pub(crate) fn unix_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

impl App {
    pub(crate) fn new(settings: GatewaySettings, flow: Flow) -> Self {
        let models = Models {
            small: flow.backend(Role::Small).info().model,
            large: flow.backend(Role::Large).info().model,
        };
        let keys = Keys::new(&settings.api_keys);
        let memory = RequestMemory::new(&settings);
        let inner = AppInner {
            flow,
            memory,
            keys,
            settings,
            models,
            running: TaskTracker::new(),
            started_unix_s: unix_s(),
            draining: AtomicBool::new(false),
            warned: Mutex::new(HashSet::new()),
        };
        App { inner: Arc::new(inner) }
    }
}

impl AppInner {
    /// From now on no new requests are taken.
    pub(crate) fn drain(&self) {
        self.draining.store(true, Ordering::SeqCst);
    }

    pub(crate) fn draining(&self) -> bool {
        self.draining.load(Ordering::SeqCst)
    }

    /// Logs names of fields that are ignored, each once.
    fn warn_ignored(&self, names: &[String]) {
        for name in names {
            let name: String = name.chars().take(WARNED_CHARS_MAX).collect();
            let mut warned = self.warned.lock().unwrap_or_else(PoisonError::into_inner);
            if warned.len() < WARNED_MAX && warned.insert(name.clone()) {
                tracing::warn!(field = name, "requests hold a field that is not known here; it is ignored");
            }
        }
    }
}

/// All routes.
pub(crate) fn router(app: App) -> Router {
    let guarded = Router::new()
        .route("/v1/chat/completions", post(answer::chat))
        .route("/v1/completions", post(answer::completions))
        .route("/v1/moderations", post(moderations::moderate))
        .route("/v1/models", get(models::list))
        .route("/v1/models/{*id}", get(models::one))
        .route("/v1/feedback", post(record::feedback))
        .route("/v1/requests/{id}", get(record::request))
        .route("/metrics", get(status::metrics))
        .route("/", get(dashboard::page))
        .route("/dashboard.json", get(dashboard::figures))
        .layer(middleware::from_fn_with_state(app.clone(), auth::require))
        .layer(middleware::from_fn_with_state(app.clone(), origin::require));
    let open = Router::new().route("/health", get(status::health)).route("/ready", get(status::ready));
    let router = guarded
        .merge(open)
        .fallback(no_such_path)
        .method_not_allowed_fallback(no_such_method)
        .with_state(app.clone());
    match cors(&app.settings.cors) {
        Some(cors) => router.layer(cors),
        None => router,
    }
}

/// An id in a path, which must be UTF-8 once its escapes are resolved.
fn path_id(id: Result<Path<String>, PathRejection>) -> Result<String, ApiError> {
    let Path(id) = id.map_err(|error| ApiError::field("id", format!("the path can't be read: {error}")))?;
    Ok(id)
}

fn cors(origins: &[String]) -> Option<CorsLayer> {
    if origins.is_empty() {
        return None;
    }
    let shown: Vec<HeaderName> = [
        "x-tandem-request-id",
        "x-tandem-route",
        "x-tandem-model",
        "x-tandem-reason",
        "x-tandem-confidence",
        "x-tandem-cost-usd",
        "x-tandem-saved-usd",
        "x-tandem-overhead-ms",
        "retry-after",
    ]
    .map(HeaderName::from_static)
    .to_vec();
    // `*` would not cover `authorization`, so the headers asked for are allowed by name.
    let headers = AllowHeaders::mirror_request();
    let layer = CorsLayer::new().allow_methods(Any).allow_headers(headers).expose_headers(shown);
    if origins.iter().any(|origin| origin == "*") {
        return Some(layer.allow_origin(Any));
    }
    // The settings were validated: each origin is visible ASCII.
    let origins: Vec<HeaderValue> = origins.iter().filter_map(|origin| origin.parse().ok()).collect();
    Some(layer.allow_origin(origins))
}

async fn no_such_path(request: Request) -> Response {
    let path: String = request.uri().path().chars().take(200).collect();
    ApiError::new(404, "not_found", format!("there is no {path} here")).into_response()
}

async fn no_such_method(request: Request) -> Response {
    let message = format!("{} does not allow the method {}", request.uri().path(), request.method());
    ApiError::new(405, "method_not_allowed", message).into_response()
}
