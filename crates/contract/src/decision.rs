//! The trait [`Policy`] and what it says: a [`Decision`] is a [`Step`] and the reason for it.

use serde::{Deserialize, Serialize};

use crate::{Attempt, Request, Role};

/// When the policy wants to see an attempt before its text may leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Check {
    /// Never: the text leaves as it is written.
    Never,
    /// Once this many tokens are written (or the attempt is over), then not again.
    AfterTokens(u32),
    /// Each time so many more tokens are written, and when the attempt is over.
    Every(u32),
    /// When the attempt is over.
    WhenFinished,
}

/// Why a request is refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// Machine-readable, OpenAI's `code`.
    pub code: String,
    /// For the client, in words.
    pub message: String,
}

/// What to do next with a request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Step {
    /// Have the small model read the request, for its heads.
    Read,
    /// Call the backend of a role; attempts that still run are cancelled.
    Call {
        /// Whom.
        role: Role,
        /// When to ask the policy again.
        check: Check,
    },
    /// Go on holding back what the running attempt writes, until it is checked again. It is not recorded: nothing was
    /// decided.
    Hold,
    /// Release this attempt (index into the attempts) to the client: what is written and what follows.
    Answer {
        /// Which.
        attempt: usize,
    },
    /// Refuse the request.
    Refuse(Refusal),
}

/// A step with its reason.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    /// What to do.
    pub step: Step,
    /// Why, in a sentence with its numbers.
    pub reason: String,
    /// The confidence (0..=1) behind it, if one was computed.
    pub confidence: Option<f64>,
}

impl Decision {
    /// A decision without a confidence.
    pub fn new(step: Step, reason: impl Into<String>) -> Self {
        Decision { step, reason: reason.into(), confidence: None }
    }
}

/// Decides, purely: equal arguments give equal decisions, so the lab replays what the gateway did.
pub trait Policy: Send + Sync {
    /// The policy's name in configuration, ledger and metrics.
    fn name(&self) -> &str;
    /// The next step, given the attempts so far (the last one may still be `Partial`).
    /// After `Answer` or `Refuse` it is not asked again.
    fn next(&self, request: &Request, attempts: &[Attempt]) -> Decision;
}
