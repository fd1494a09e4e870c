//! What a span of time in the ledger adds up to: [`Report`].

use serde::{Deserialize, Serialize};

/// Which requests a report is over; without bounds, all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportQuery {
    /// First arrival that counts, milliseconds since 1970.
    pub since_unix_ms: Option<i64>,
    /// First arrival that no longer counts.
    pub until_unix_ms: Option<i64>,
}

impl ReportQuery {
    /// Both bounds, the widest where there is none.
    pub(crate) fn bounds(self) -> (i64, i64) {
        (self.since_unix_ms.unwrap_or(i64::MIN), self.until_unix_ms.unwrap_or(i64::MAX))
    }
}

/// Nearest-rank percentiles of a duration, milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Percentiles {
    /// Half of the values are at most this.
    pub p50_ms: f64,
    /// 95% are.
    pub p95_ms: f64,
    /// 99% are.
    pub p99_ms: f64,
}

/// Sums over attempts, as the backends counted: failed and cancelled attempts included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Totals {
    /// Calls of backends.
    pub attempts: u64,
    /// Of these, how many failed.
    pub failed: u64,
    /// And how many were cancelled.
    pub cancelled: u64,
    /// Prompt tokens, cached ones included.
    pub prompt_tokens: u64,
    /// Of these, cached.
    pub cached_tokens: u64,
    /// Written tokens.
    pub completion_tokens: u64,
    /// Of these, drafted.
    pub accepted_prediction_tokens: u64,
    /// Tokens that were drafted and not written.
    pub rejected_prediction_tokens: u64,
    /// Cost, US dollars.
    pub cost_usd: f64,
}

impl Totals {
    /// Both together.
    pub fn plus(&self, other: &Totals) -> Totals {
        Totals {
            attempts: self.attempts + other.attempts,
            failed: self.failed + other.failed,
            cancelled: self.cancelled + other.cancelled,
            prompt_tokens: self.prompt_tokens + other.prompt_tokens,
            cached_tokens: self.cached_tokens + other.cached_tokens,
            completion_tokens: self.completion_tokens + other.completion_tokens,
            accepted_prediction_tokens: self.accepted_prediction_tokens + other.accepted_prediction_tokens,
            rejected_prediction_tokens: self.rejected_prediction_tokens + other.rejected_prediction_tokens,
            cost_usd: self.cost_usd + other.cost_usd,
        }
    }
}

/// Requests of one route that the same model answered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RouteLine {
    /// `small`, `large`, `escalated` or `refused`.
    pub route: String,
    /// The model whose answer the client got; `None`: there was no answer.
    pub model: Option<String>,
    /// How many.
    pub requests: u64,
    /// Of these, with an HTTP status of 400 and above, clients that left not counted.
    pub errors: u64,
    /// Of these, how many clients left before the end.
    pub clients_gone: u64,
    /// All attempts of these requests.
    pub totals: Totals,
    /// Saved against always calling large, US dollars.
    pub saved_usd: f64,
    /// From arrival to the end, over requests answered in full.
    pub total: Option<Percentiles>,
    /// From arrival to the first token, over requests answered in full.
    pub first_token: Option<Percentiles>,
}

/// All attempts of one role and model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BackendLine {
    /// `small` or `large`.
    pub role: String,
    /// The model's name.
    pub model: String,
    /// Its sums.
    pub totals: Totals,
}

/// What a span of time adds up to. Every sum of tokens and cost is over attempts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// What was asked for.
    pub query: ReportQuery,
    /// Requests that arrived.
    pub requests: u64,
    /// Of these, with an HTTP status of 400 and above, clients that left not counted.
    pub errors: u64,
    /// Of these, how many clients left before the end.
    pub clients_gone: u64,
    /// By route and answering model, in the alphabet's order.
    pub routes: Vec<RouteLine>,
    /// By role and model, in the alphabet's order.
    pub backends: Vec<BackendLine>,
    /// All attempts.
    pub totals: Totals,
    /// Saved against always calling large, US dollars.
    pub saved_usd: f64,
    /// Escalated requests over those that small began (`small` and `escalated`); `None`: none.
    pub escalation_rate: Option<f64>,
    /// From arrival to the end, over requests answered in full.
    pub total: Option<Percentiles>,
    /// From arrival to the first token, over requests answered in full.
    pub first_token: Option<Percentiles>,
    /// Tandem's own time, over all requests.
    pub overhead: Option<Percentiles>,
    /// Feedback rows on these requests.
    pub feedback_rows: u64,
    /// Their mean score.
    pub feedback_mean: Option<f64>,
}
