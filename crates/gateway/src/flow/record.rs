//! The end of a request as figures, a log line and a ledger row.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use contract::{Input, Request};
use ledger::RequestRow;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio::time::Duration;

use super::{FlowError, Outcome, Shared};

/// What servers have come to write down for a client that left before its answer was complete.
pub(super) const STATUS_CLIENT_GONE: u16 = 499;

/// A request that is over.
pub(super) struct Row<'a> {
    pub(super) request: &'a Request,
    pub(super) tenant: Option<&'a str>,
    pub(super) arrived_unix_ms: i64,
    pub(super) outcome: &'a Outcome,
    pub(super) error: Option<&'a FlowError>,
}

/// A request without its texts: it ended before guards had redacted them.
pub(super) fn withheld(request: &Request) -> Request {
    let input = Input::Completion { prompt: "(not kept: it ended before it was redacted)".to_owned() };
    Request { input, stop: Vec::new(), passthrough: Default::default(), ..request.clone() }
}

/// The wall clock `ago` before now, Unix milliseconds.
pub(super) fn unix_ms_before(ago: Duration) -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.saturating_sub(ago).as_millis()).unwrap_or(i64::MAX)
}

/// Counts, logs and records it. The handle is done when the ledger has taken the row over.
pub(super) fn record(shared: &Arc<Shared>, row: Row<'_>) -> Option<JoinHandle<()>> {
    shared.metrics.request(row.outcome);
    shared.board.add(row.outcome);
    if let Some(watch) = &shared.watch {
        shared.metrics.drift(watch.note(&row.outcome.attempts));
    }
    log(&row);
    let ledger = shared.ledger.clone()?;
    let row = ledger_row(shared.policy.name(), row);
    let Ok(runtime) = Handle::try_current() else {
        tracing::error!(request = row.id, "no runtime left to record the request in the ledger");
        return None;
    };
    let recording = async move {
        let id = row.id.clone();
        if let Err(error) = ledger.record(row).await {
            tracing::error!(request = id, %error, "the ledger could not take the request");
        }
    };
    Some(shared.recordings.spawn_on(recording, &runtime))
}

/// Errors that are the client's stand there by their code only: their messages may quote the request.
fn log(row: &Row<'_>) {
    let outcome = row.outcome;
    let error = row.error.map(|error| match error.status() {
        500.. => error.to_string(),
        _ => error.code().to_owned(),
    });
    tracing::info!(
        request = outcome.request_id,
        route = outcome.route.as_str(),
        model = outcome.model.as_deref().unwrap_or("none"),
        status = outcome.status,
        prompt_tokens = outcome.usage.prompt_tokens,
        completion_tokens = outcome.usage.completion_tokens,
        cost_usd = outcome.cost_usd,
        total_ms = outcome.total_ms,
        error,
        "request over"
    );
}

fn ledger_row(policy: &str, row: Row<'_>) -> RequestRow {
    let outcome = row.outcome;
    RequestRow {
        id: outcome.request_id.clone(),
        arrived_unix_ms: row.arrived_unix_ms,
        tenant: row.tenant.map(str::to_owned),
        request: row.request.clone(),
        policy: policy.to_owned(),
        route: outcome.route.as_str().to_owned(),
        status: outcome.status,
        error: row.error.map(ToString::to_string),
        client_gone: outcome.status == STATUS_CLIENT_GONE,
        attempts: outcome.attempts.clone(),
        decisions: outcome.decisions.clone(),
        answered: outcome.answered,
        guards: outcome.guards.clone(),
        confidence: outcome.confidence,
        cost_usd: outcome.cost_usd,
        saved_usd: outcome.saved_usd,
        overhead_ms: outcome.overhead_ms,
        first_token_ms: outcome.first_token_ms,
        total_ms: outcome.total_ms,
    }
}
