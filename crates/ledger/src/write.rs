//! The statements that add rows. Nothing here changes or removes one.

use contract::{Attempt, AttemptStatus, Decision};
use serde::Serialize;
use sqlx::SqliteConnection;

use crate::Feedback;
use crate::keep::Kept;

const INSERT_REQUEST: &str = "INSERT INTO requests (id, arrived_unix_ms, tenant, request_json, prompt_sha256, \
    policy, route, status, error, client_gone, answered, confidence, cost_usd, saved_usd, overhead_ms, \
    first_token_ms, total_ms, guards_json) \
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18) \
    ON CONFLICT (id) DO NOTHING";

const INSERT_ATTEMPT: &str = "INSERT INTO attempts (request_id, ordinal, role, model, status, status_json, \
    text, text_sha256, signal_tokens, logprob_sum, logprob_min, prompt_tokens, cached_tokens, \
    completion_tokens, accepted_prediction_tokens, rejected_prediction_tokens, queue_ms, prompt_ms, \
    decode_ms, cost_usd, entropy_sum, findings_json) \
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, \
    $21, $22)";

const INSERT_DECISION: &str = "INSERT INTO decisions (request_id, ordinal, step_json, reason, confidence) \
    VALUES ($1, $2, $3, $4, $5)";

const INSERT_FEEDBACK: &str = "INSERT INTO feedback (request_id, given_unix_ms, score, comment) \
    SELECT $1, $2, $3, $4 WHERE EXISTS (SELECT 1 FROM requests WHERE id = $1)";

/// Adds a request with its attempts and decisions, inside the caller's transaction.
pub(crate) async fn insert(connection: &mut SqliteConnection, kept: &Kept) -> Result<(), sqlx::Error> {
    if !insert_request(connection, kept).await? {
        // Ids are unique; a batch whose commit succeeded but was reported as failed comes twice.
        tracing::warn!(request_id = kept.row.id, "the ledger already has a request with this id");
        return Ok(());
    }
    for ordinal in 0..kept.row.attempts.len() {
        insert_attempt(connection, kept, ordinal).await?;
    }
    for (ordinal, decision) in kept.row.decisions.iter().enumerate() {
        insert_decision(connection, (&kept.row.id, ordinal), decision).await?;
    }
    Ok(())
}

/// Adds feedback; `false`: there is no such request.
pub(crate) async fn insert_feedback(
    connection: &mut SqliteConnection,
    request_id: &str,
    feedback: &Feedback,
) -> Result<bool, sqlx::Error> {
    let result = sqlx::query(INSERT_FEEDBACK)
        .bind(request_id)
        .bind(feedback.given_unix_ms)
        .bind(feedback.score)
        .bind(&feedback.comment)
        .execute(connection)
        .await?;
    Ok(result.rows_affected() > 0)
}

/// `false`: the ledger has this id already.
async fn insert_request(connection: &mut SqliteConnection, kept: &Kept) -> Result<bool, sqlx::Error> {
    let row = &kept.row;
    let result = sqlx::query(INSERT_REQUEST)
        .bind(&row.id)
        .bind(row.arrived_unix_ms)
        .bind(&row.tenant)
        .bind(json(&row.request)?)
        .bind(&kept.prompt_sha256)
        .bind(&row.policy)
        .bind(&row.route)
        .bind(i64::from(row.status))
        .bind(&row.error)
        .bind(i64::from(row.client_gone))
        .bind(row.answered.map(index))
        .bind(row.confidence)
        .bind(row.cost_usd)
        .bind(row.saved_usd)
        .bind(row.overhead_ms)
        .bind(row.first_token_ms)
        .bind(row.total_ms)
        .bind((!row.guards.is_empty()).then(|| json(&row.guards)).transpose()?)
        .execute(connection)
        .await?;
    Ok(result.rows_affected() > 0)
}

async fn insert_attempt(
    connection: &mut SqliteConnection,
    kept: &Kept,
    ordinal: usize,
) -> Result<(), sqlx::Error> {
    let Some(attempt) = kept.row.attempts.get(ordinal) else { return Ok(()) };
    let Attempt { signals, usage, timings, .. } = attempt;
    sqlx::query(INSERT_ATTEMPT)
        .bind(&kept.row.id)
        .bind(index(ordinal))
        .bind(attempt.role.as_str())
        .bind(&attempt.model)
        .bind(status_name(&attempt.status))
        .bind(json(&attempt.status)?)
        .bind(kept.texts.then_some(&attempt.text))
        .bind(kept.answers_sha256.get(ordinal).cloned().flatten())
        .bind(i64::from(signals.tokens))
        .bind(signals.logprob_sum)
        .bind(signals.logprob_min)
        .bind(count(usage.prompt_tokens))
        .bind(count(usage.cached_tokens))
        .bind(count(usage.completion_tokens))
        .bind(count(usage.accepted_prediction_tokens))
        .bind(count(usage.rejected_prediction_tokens))
        .bind(timings.queue_ms)
        .bind(timings.prompt_ms)
        .bind(timings.decode_ms)
        .bind(attempt.cost_usd)
        .bind(signals.entropy_sum)
        .bind(attempt.findings.as_ref().map(json).transpose()?)
        .execute(connection)
        .await?;
    Ok(())
}

async fn insert_decision(
    connection: &mut SqliteConnection,
    (request_id, ordinal): (&str, usize),
    decision: &Decision,
) -> Result<(), sqlx::Error> {
    sqlx::query(INSERT_DECISION)
        .bind(request_id)
        .bind(index(ordinal))
        .bind(json(&decision.step)?)
        .bind(&decision.reason)
        .bind(decision.confidence)
        .execute(connection)
        .await?;
    Ok(())
}

fn status_name(status: &AttemptStatus) -> &'static str {
    match status {
        AttemptStatus::Read => "read",
        AttemptStatus::Partial => "partial",
        AttemptStatus::Finished(_) => "finished",
        AttemptStatus::Failed(_) => "failed",
        AttemptStatus::Cancelled => "cancelled",
    }
}

fn json(value: &impl Serialize) -> Result<String, sqlx::Error> {
    serde_json::to_string(value).map_err(|error| sqlx::Error::Encode(error.into()))
}

fn index(value: usize) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn count(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
