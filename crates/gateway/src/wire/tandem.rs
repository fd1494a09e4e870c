//! The `tandem` object of an answer: who answered, why, and what it cost.

use contract::{
    Attempt, AttemptStatus, Decision, Findings, FinishReason, GuardRecord, Signals, Timings, Usage,
};
use serde::Serialize;

use crate::flow::Outcome;

#[derive(Debug, Serialize)]
pub(crate) struct Tandem<'a> {
    request_id: &'a str,
    route: &'static str,
    model: Option<&'a str>,
    reason: &'a str,
    confidence: Option<f64>,
    cost_usd: f64,
    saved_usd: f64,
    overhead_ms: f64,
    first_token_ms: Option<f64>,
    total_ms: f64,
    #[serde(skip_serializing_if = "<[GuardRecord]>::is_empty")]
    guards: &'a [GuardRecord],
    #[serde(skip_serializing_if = "Option::is_none")]
    decisions: Option<&'a [Decision]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    attempts: Option<Vec<AttemptBody<'a>>>,
}

impl<'a> Tandem<'a> {
    /// `explain`: with all decisions and attempts.
    pub(crate) fn new(outcome: &'a Outcome, explain: bool) -> Self {
        Tandem {
            request_id: &outcome.request_id,
            route: outcome.route.as_str(),
            model: outcome.model.as_deref(),
            reason: &outcome.reason,
            confidence: outcome.confidence,
            cost_usd: outcome.cost_usd,
            saved_usd: outcome.saved_usd,
            overhead_ms: outcome.overhead_ms,
            first_token_ms: outcome.first_token_ms,
            total_ms: outcome.total_ms,
            guards: &outcome.guards,
            decisions: explain.then_some(&outcome.decisions),
            attempts: explain.then(|| outcome.attempts.iter().map(AttemptBody::from).collect()),
        }
    }
}

/// An attempt without its text.
#[derive(Debug, Serialize)]
pub(crate) struct AttemptBody<'a> {
    role: &'static str,
    model: &'a str,
    status: &'static str,
    finish_reason: Option<FinishReason>,
    error: Option<&'a str>,
    signals: Signals,
    findings: Option<&'a Findings>,
    usage: Usage,
    timings: Timings,
    cost_usd: f64,
}

impl<'a> From<&'a Attempt> for AttemptBody<'a> {
    fn from(attempt: &'a Attempt) -> Self {
        let (status, finish_reason, error) = match &attempt.status {
            AttemptStatus::Read => ("read", None, None),
            AttemptStatus::Partial => ("partial", None, None),
            AttemptStatus::Finished(reason) => ("finished", Some(*reason), None),
            AttemptStatus::Failed(error) => ("failed", None, Some(error.message.as_str())),
            AttemptStatus::Cancelled => ("cancelled", None, None),
        };
        AttemptBody {
            role: attempt.role.as_str(),
            model: &attempt.model,
            status,
            finish_reason,
            error,
            signals: attempt.signals,
            findings: attempt.findings.as_ref(),
            usage: attempt.usage,
            timings: attempt.timings,
            cost_usd: attempt.cost_usd,
        }
    }
}
