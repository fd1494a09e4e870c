//! What the ledger knows of a request, and what people think of its answer: `/v1/requests/{id}` and
//! `/v1/feedback`.

use axum::extract::rejection::PathRejection;
use axum::extract::{Extension, Path, State};
use axum::response::{IntoResponse, Response};
use contract::{Decision, GuardRecord};
use ledger::{Feedback, Ledger, LedgerError, StoredRequest};
use serde::Serialize;

use super::{App, body};
use crate::auth::Tenant;
use crate::door::{self, Fields, Interval};
use crate::wire::{self, ApiError, AttemptBody};

/// Longest comment, in characters.
const COMMENT_CHARS_MAX: usize = 4096;

/// A recorded request as it is explained to whoever sent it; without its texts.
#[derive(Serialize)]
struct Explained<'a> {
    object: &'static str,
    id: &'a str,
    created: i64,
    policy: &'a str,
    route: &'a str,
    model: Option<&'a str>,
    reason: Option<&'a str>,
    confidence: Option<f64>,
    status: u16,
    error: Option<&'a str>,
    client_gone: bool,
    cost_usd: f64,
    saved_usd: f64,
    overhead_ms: f64,
    first_token_ms: Option<f64>,
    total_ms: f64,
    answered: Option<usize>,
    #[serde(skip_serializing_if = "<[GuardRecord]>::is_empty")]
    guards: &'a [GuardRecord],
    decisions: &'a [Decision],
    attempts: Vec<AttemptBody<'a>>,
    feedback: &'a [Feedback],
}

#[derive(Serialize)]
struct Taken<'a> {
    object: &'static str,
    id: &'a str,
    score: f64,
}

impl<'a> From<&'a StoredRequest> for Explained<'a> {
    fn from(stored: &'a StoredRequest) -> Self {
        let row = &stored.row;
        let standing = row.answered.or(row.attempts.len().checked_sub(1));
        Explained {
            object: "tandem.request",
            id: &row.id,
            created: row.arrived_unix_ms.div_euclid(1000),
            policy: &row.policy,
            route: &row.route,
            model: standing.and_then(|index| row.attempts.get(index)).map(|attempt| attempt.model.as_str()),
            reason: row.decisions.last().map(|decision| decision.reason.as_str()),
            confidence: row.confidence,
            status: row.status,
            error: row.error.as_deref(),
            client_gone: row.client_gone,
            cost_usd: row.cost_usd,
            saved_usd: row.saved_usd,
            overhead_ms: row.overhead_ms,
            first_token_ms: row.first_token_ms,
            total_ms: row.total_ms,
            answered: row.answered,
            guards: &row.guards,
            decisions: &row.decisions,
            attempts: row.attempts.iter().map(AttemptBody::from).collect(),
            feedback: &stored.feedback,
        }
    }
}

pub(super) async fn request(
    State(app): State<App>,
    Extension(tenant): Extension<Tenant>,
    id: Result<Path<String>, PathRejection>,
) -> Response {
    let found = async { stored(&app, &tenant, &super::path_id(id)?).await };
    match found.await {
        Ok((_, stored)) => wire::json(Explained::from(&stored)),
        Err(error) => error.into_response(),
    }
}

pub(super) async fn feedback(
    State(app): State<App>,
    Extension(tenant): Extension<Tenant>,
    request: axum::extract::Request,
) -> Response {
    match take_feedback(&app, &tenant, request).await {
        Ok(response) => response,
        Err(error) => error.into_response(),
    }
}

async fn take_feedback(
    app: &App,
    tenant: &Tenant,
    request: axum::extract::Request,
) -> Result<Response, ApiError> {
    let (parts, body) = request.into_parts();
    let mut charge = app.memory.charge();
    let bytes = body::read(&parts.headers, body, (&app.settings, &mut charge)).await?;
    let map = door::parse_body(&bytes)?;
    let fields = Fields::new(&map, "");
    if let Some(unknown) = fields.names().find(|name| !["id", "score", "comment"].contains(name)) {
        return Err(ApiError::field(
            unknown,
            format!("{unknown} is unknown; the fields are id, score, comment"),
        ));
    }
    let id = fields.string("id")?.ok_or_else(|| fields.wrong("id", "the id of a request"))?;
    let score = fields.number("score", Interval::closed(0.0, 1.0))?;
    let score = score.ok_or_else(|| fields.wrong("score", "a number from 0 (bad) to 1 (good)"))?;
    let comment = fields.string("comment")?;
    if let Some(chars) = comment.map(|comment| comment.chars().count()).filter(|n| *n > COMMENT_CHARS_MAX) {
        let message = format!("comment has {chars} characters, but at most {COMMENT_CHARS_MAX} are allowed");
        return Err(ApiError::field("comment", message));
    }
    let (ledger, _) = stored(app, tenant, id).await?;
    if !ledger.feedback(id, score, comment).await.map_err(|error| unavailable(&error))? {
        return Err(unknown_request(id));
    }
    Ok(wire::json(Taken { object: "tandem.feedback", id, score }))
}

/// Looks a request up among those of this tenant: others' do not exist for it.
async fn stored<'a>(
    app: &'a App,
    tenant: &Tenant,
    id: &str,
) -> Result<(&'a Ledger, StoredRequest), ApiError> {
    let Some(ledger) = app.flow.ledger() else {
        let message = "this server keeps no ledger, so requests can't be looked up";
        return Err(ApiError::new(404, "no_ledger", message));
    };
    let mut found = ledger.request(id).await.map_err(|error| unavailable(&error))?;
    if found.is_none() && ledger.lag_rows() > 0 {
        // It may have ended a moment ago.
        ledger.flush().await.map_err(|error| unavailable(&error))?;
        found = ledger.request(id).await.map_err(|error| unavailable(&error))?;
    }
    let found = found.filter(|stored| tenant.0.is_none() || stored.row.tenant == tenant.0);
    found.map(|stored| (ledger, stored)).ok_or_else(|| unknown_request(id))
}

fn unknown_request(id: &str) -> ApiError {
    let shown: String = id.chars().take(80).collect();
    let message = format!("no request {shown:?} is recorded; one that still runs is recorded at its end");
    ApiError { param: Some("id".to_owned()), ..ApiError::new(404, "request_not_found", message) }
}

fn unavailable(error: &LedgerError) -> ApiError {
    tracing::error!(%error, "the ledger did not answer");
    ApiError::new(500, "ledger_error", "the ledger could not be read or written; see the server's log")
}
