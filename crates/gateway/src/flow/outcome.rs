//! What became of a request: [`Decided`] when text may leave, [`Outcome`] at the end.

use contract::{Attempt, AttemptStatus, Decision, FinishReason, GuardRecord, Role, Timings, Usage};
use serde::Serialize;

use super::FlowError;

/// Which way a request took.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RouteTaken {
    /// Small answers.
    Small,
    /// Large answers, and nobody was asked before.
    Large,
    /// Large answers after small was tried.
    Escalated,
    /// Nobody answers.
    Refused,
}

impl RouteTaken {
    /// The name in headers, metrics and ledger.
    pub fn as_str(self) -> &'static str {
        match self {
            RouteTaken::Small => "small",
            RouteTaken::Large => "large",
            RouteTaken::Escalated => "escalated",
            RouteTaken::Refused => "refused",
        }
    }

    /// The way that leads to the attempt at `index`.
    pub(super) fn to(attempts: &[Attempt], index: usize) -> Self {
        // Who only read the request was not tried.
        let was_tried =
            |attempt: &Attempt| attempt.role == Role::Small && attempt.status != AttemptStatus::Read;
        let small_before = || attempts.iter().take(index).any(was_tried);
        match attempts.get(index).map(|attempt| attempt.role) {
            None => RouteTaken::Refused,
            Some(Role::Small) => RouteTaken::Small,
            Some(Role::Large) if small_before() => RouteTaken::Escalated,
            Some(Role::Large) => RouteTaken::Large,
        }
    }
}

/// Who answers and why, known when the first text leaves.
#[derive(Clone, Debug, PartialEq)]
pub struct Decided {
    /// The way taken.
    pub route: RouteTaken,
    /// The model that answers.
    pub model: String,
    /// The deciding sentence.
    pub reason: String,
    /// The confidence behind it, in 0..=1, if one was computed.
    pub confidence: Option<f64>,
    /// Tandem's own time until now, milliseconds.
    pub overhead_ms: f64,
}

/// Everything about a request that is over.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// The request's id.
    pub request_id: String,
    /// The way taken, as far as it went.
    pub route: RouteTaken,
    /// The model that answered, or was tried last.
    pub model: Option<String>,
    /// The last decision's sentence.
    pub reason: String,
    /// The confidence behind it.
    pub confidence: Option<f64>,
    /// The HTTP status that fits; 499 when the client left.
    pub status: u16,
    /// Why the answer ended; `None`: it is not complete.
    pub finish: Option<FinishReason>,
    /// What the answering attempt processed.
    pub usage: Usage,
    /// Where its time went.
    pub timings: Timings,
    /// What all attempts cost, US dollars.
    pub cost_usd: f64,
    /// Saved against always-large, US dollars; negative when it cost more.
    pub saved_usd: f64,
    /// Tandem's own time, milliseconds.
    pub overhead_ms: f64,
    /// From arrival to the first released text of a stream, milliseconds.
    pub first_token_ms: Option<f64>,
    /// From arrival to the end, milliseconds.
    pub total_ms: f64,
    /// What the policy decided, in order.
    pub decisions: Vec<Decision>,
    /// All attempts, in order.
    pub attempts: Vec<Attempt>,
    /// The attempt whose text was released, if any.
    pub answered: Option<usize>,
    /// What guards found and did.
    pub guards: Vec<GuardRecord>,
}

/// A request that failed.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Why.
    pub error: FlowError,
    /// How far it came.
    pub outcome: Outcome,
}
