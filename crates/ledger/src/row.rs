//! What goes into the ledger and comes out: [`RequestRow`], [`StoredRequest`], [`Feedback`].

use contract::{Attempt, Decision, GuardRecord, Request};
use serde::{Deserialize, Serialize};

/// One request with all that became of it, recorded once when it is over.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RequestRow {
    /// The request's id; unique.
    pub id: String,
    /// When it arrived, milliseconds since 1970.
    pub arrived_unix_ms: i64,
    /// Whose API key it came with, if keys are named.
    pub tenant: Option<String>,
    /// The request itself.
    pub request: Request,
    /// The policy's name.
    pub policy: String,
    /// `small`, `large`, `escalated` or `refused`.
    pub route: String,
    /// The HTTP status of the reply.
    pub status: u16,
    /// What the client was told went wrong.
    pub error: Option<String>,
    /// The client left before the end.
    pub client_gone: bool,
    /// All calls, in order.
    pub attempts: Vec<Attempt>,
    /// All decisions, in order.
    pub decisions: Vec<Decision>,
    /// Index of the attempt whose text the client got.
    pub answered: Option<usize>,
    /// What guards found and did.
    pub guards: Vec<GuardRecord>,
    /// The confidence behind the last decision that had one.
    pub confidence: Option<f64>,
    /// Cost of all attempts, US dollars.
    pub cost_usd: f64,
    /// Saved against always calling large, US dollars; negative when it cost more.
    pub saved_usd: f64,
    /// Tandem's own time: the total without the waiting for backends, milliseconds.
    pub overhead_ms: f64,
    /// From arrival to the first released token, milliseconds.
    pub first_token_ms: Option<f64>,
    /// From arrival to the end, milliseconds.
    pub total_ms: f64,
}

/// A person's or program's verdict on an answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Feedback {
    /// When it was given, milliseconds since 1970.
    pub given_unix_ms: i64,
    /// 0 (bad) to 1 (good).
    pub score: f64,
    /// In words; kept only where the ledger keeps texts.
    pub comment: Option<String>,
}

/// A recorded request as the ledger gives it back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StoredRequest {
    /// The row; its texts are empty or replaced by a note unless the ledger keeps texts.
    pub row: RequestRow,
    /// SHA-256 of the input's text ([`Request::text`]), hexadecimal; where hashes or texts are kept.
    pub prompt_sha256: Option<String>,
    /// SHA-256 of each attempt's text, hexadecimal; where hashes or texts are kept.
    pub answers_sha256: Vec<Option<String>>,
    /// All feedback, oldest first.
    pub feedback: Vec<Feedback>,
}
