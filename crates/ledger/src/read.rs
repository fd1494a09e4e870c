//! One recorded request, put together again.

use contract::{Attempt, Decision, Role, Signals, Timings, Usage};
use serde::de::DeserializeOwned;
use sqlx::{FromRow, SqlitePool};

use crate::{Feedback, LedgerError, ReportQuery, RequestRow, StoredRequest};

const SELECT_REQUEST: &str = "SELECT id, arrived_unix_ms, tenant, request_json, prompt_sha256, policy, route, \
    status, error, client_gone, answered, confidence, cost_usd, saved_usd, overhead_ms, first_token_ms, \
    total_ms, guards_json FROM requests WHERE id = $1";

/// Ids in the order of arrival, from behind a place on.
const SELECT_PAGE: &str = "SELECT arrived_unix_ms, id FROM requests WHERE arrived_unix_ms >= $1 AND \
    arrived_unix_ms < $2 AND (arrived_unix_ms, id) > ($3, $4) ORDER BY arrived_unix_ms, id LIMIT $5";

const SELECT_ATTEMPTS: &str = "SELECT role, model, status_json, text, text_sha256, signal_tokens, logprob_sum, \
    logprob_min, prompt_tokens, cached_tokens, completion_tokens, accepted_prediction_tokens, \
    rejected_prediction_tokens, queue_ms, prompt_ms, decode_ms, cost_usd, \
    entropy_sum, findings_json \
    FROM attempts WHERE request_id = $1 ORDER BY ordinal";

const SELECT_DECISIONS: &str =
    "SELECT step_json, reason, confidence FROM decisions WHERE request_id = $1 ORDER BY ordinal";

const SELECT_FEEDBACK: &str =
    "SELECT given_unix_ms, score, comment FROM feedback WHERE request_id = $1 ORDER BY given_unix_ms";

#[derive(FromRow)]
struct RequestColumns {
    id: String,
    arrived_unix_ms: i64,
    tenant: Option<String>,
    request_json: String,
    prompt_sha256: Option<String>,
    policy: String,
    route: String,
    status: i64,
    error: Option<String>,
    client_gone: i64,
    answered: Option<i64>,
    confidence: Option<f64>,
    cost_usd: f64,
    saved_usd: f64,
    overhead_ms: f64,
    first_token_ms: Option<f64>,
    total_ms: f64,
    guards_json: Option<String>,
}

#[derive(FromRow)]
struct AttemptColumns {
    role: String,
    model: String,
    status_json: String,
    text: Option<String>,
    text_sha256: Option<String>,
    signal_tokens: i64,
    logprob_sum: f64,
    logprob_min: f64,
    prompt_tokens: i64,
    cached_tokens: i64,
    completion_tokens: i64,
    accepted_prediction_tokens: i64,
    rejected_prediction_tokens: i64,
    queue_ms: f64,
    prompt_ms: f64,
    decode_ms: f64,
    cost_usd: f64,
    entropy_sum: f64,
    findings_json: Option<String>,
}

#[derive(FromRow)]
struct DecisionColumns {
    step_json: String,
    reason: String,
    confidence: Option<f64>,
}

#[derive(FromRow)]
struct FeedbackColumns {
    given_unix_ms: i64,
    score: f64,
    comment: Option<String>,
}

/// The request with this id, as far as it is durable.
pub(crate) async fn request(readers: &SqlitePool, id: &str) -> Result<Option<StoredRequest>, LedgerError> {
    let mut transaction = readers.begin().await.map_err(LedgerError::Read)?;
    let request: Option<RequestColumns> = sqlx::query_as(SELECT_REQUEST)
        .bind(id)
        .fetch_optional(&mut *transaction)
        .await
        .map_err(LedgerError::Read)?;
    let Some(request) = request else { return Ok(None) };
    let attempts: Vec<AttemptColumns> = sqlx::query_as(SELECT_ATTEMPTS)
        .bind(id)
        .fetch_all(&mut *transaction)
        .await
        .map_err(LedgerError::Read)?;
    let decisions: Vec<DecisionColumns> = sqlx::query_as(SELECT_DECISIONS)
        .bind(id)
        .fetch_all(&mut *transaction)
        .await
        .map_err(LedgerError::Read)?;
    let feedback: Vec<FeedbackColumns> = sqlx::query_as(SELECT_FEEDBACK)
        .bind(id)
        .fetch_all(&mut *transaction)
        .await
        .map_err(LedgerError::Read)?;
    let prompt_sha256 = request.prompt_sha256.clone();
    let answers_sha256 = attempts.iter().map(|attempt| attempt.text_sha256.clone()).collect();
    Ok(Some(StoredRequest {
        row: row(request, attempts, decisions)?,
        prompt_sha256,
        answers_sha256,
        feedback: feedback.into_iter().map(feedback_of).collect(),
    }))
}

/// The next requests behind `after` (arrival and id), oldest first; at most [`crate::PAGE_ROWS`].
pub(crate) async fn page(
    readers: &SqlitePool,
    query: ReportQuery,
    after: Option<&StoredRequest>,
) -> Result<Vec<StoredRequest>, LedgerError> {
    let (since, until) = query.bounds();
    let (arrived, last) = after.map_or((i64::MIN, ""), |it| (it.row.arrived_unix_ms, it.row.id.as_str()));
    let places: Vec<(i64, String)> = sqlx::query_as(SELECT_PAGE)
        .bind(since)
        .bind(until)
        .bind(arrived)
        .bind(last)
        .bind(i64::from(crate::PAGE_ROWS))
        .fetch_all(readers)
        .await
        .map_err(LedgerError::Read)?;
    let mut requests = Vec::with_capacity(places.len());
    for (_, id) in places {
        // Rows are only ever added, so it is there.
        requests.extend(request(readers, &id).await?);
    }
    Ok(requests)
}

fn row(
    columns: RequestColumns,
    attempts: Vec<AttemptColumns>,
    decisions: Vec<DecisionColumns>,
) -> Result<RequestRow, LedgerError> {
    let id = columns.id;
    Ok(RequestRow {
        arrived_unix_ms: columns.arrived_unix_ms,
        tenant: columns.tenant,
        request: json(&id, "request_json", &columns.request_json)?,
        policy: columns.policy,
        route: columns.route,
        status: number(&id, "status", columns.status)?,
        error: columns.error,
        client_gone: columns.client_gone != 0,
        attempts: attempts.into_iter().map(|columns| attempt(&id, columns)).collect::<Result<_, _>>()?,
        decisions: decisions.into_iter().map(|columns| decision(&id, columns)).collect::<Result<_, _>>()?,
        answered: columns.answered.map(|index| number(&id, "answered", index)).transpose()?,
        confidence: columns.confidence,
        cost_usd: columns.cost_usd,
        saved_usd: columns.saved_usd,
        overhead_ms: columns.overhead_ms,
        first_token_ms: columns.first_token_ms,
        total_ms: columns.total_ms,
        guards: columns
            .guards_json
            .map(|text| json(&id, "guards_json", &text))
            .transpose()?
            .unwrap_or_default(),
        id,
    })
}

fn attempt(id: &str, columns: AttemptColumns) -> Result<Attempt, LedgerError> {
    let tokens = |name, value| number(id, name, value);
    Ok(Attempt {
        role: role(id, &columns.role)?,
        model: columns.model,
        status: json(id, "status_json", &columns.status_json)?,
        text: columns.text.unwrap_or_default(),
        signals: Signals {
            tokens: number(id, "signal_tokens", columns.signal_tokens)?,
            logprob_sum: columns.logprob_sum,
            logprob_min: columns.logprob_min,
            entropy_sum: columns.entropy_sum,
        },
        usage: Usage {
            prompt_tokens: tokens("prompt_tokens", columns.prompt_tokens)?,
            cached_tokens: tokens("cached_tokens", columns.cached_tokens)?,
            completion_tokens: tokens("completion_tokens", columns.completion_tokens)?,
            accepted_prediction_tokens: tokens(
                "accepted_prediction_tokens",
                columns.accepted_prediction_tokens,
            )?,
            rejected_prediction_tokens: tokens(
                "rejected_prediction_tokens",
                columns.rejected_prediction_tokens,
            )?,
        },
        timings: Timings {
            queue_ms: columns.queue_ms,
            prompt_ms: columns.prompt_ms,
            decode_ms: columns.decode_ms,
        },
        findings: columns.findings_json.map(|text| json(id, "findings_json", &text)).transpose()?,
        cost_usd: columns.cost_usd,
    })
}

fn role(id: &str, name: &str) -> Result<Role, LedgerError> {
    let known = [Role::Small, Role::Large].into_iter().find(|role| role.as_str() == name);
    known.ok_or_else(|| damaged(id, "role", &format!("{name:?} is no role")))
}

fn decision(id: &str, columns: DecisionColumns) -> Result<Decision, LedgerError> {
    Ok(Decision {
        step: json(id, "step_json", &columns.step_json)?,
        reason: columns.reason,
        confidence: columns.confidence,
    })
}

fn feedback_of(columns: FeedbackColumns) -> Feedback {
    Feedback { given_unix_ms: columns.given_unix_ms, score: columns.score, comment: columns.comment }
}

fn json<T: DeserializeOwned>(id: &str, column: &str, text: &str) -> Result<T, LedgerError> {
    serde_json::from_str(text).map_err(|error| damaged(id, column, &error.to_string()))
}

fn number<T: TryFrom<i64>>(id: &str, column: &str, value: i64) -> Result<T, LedgerError> {
    T::try_from(value).map_err(|_| damaged(id, column, &format!("{value} is out of range")))
}

fn damaged(id: &str, column: &str, what: &str) -> LedgerError {
    LedgerError::Damaged { request_id: id.to_owned(), what: format!("{column}: {what}") }
}
