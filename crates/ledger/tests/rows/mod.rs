//! Rows for the ledger's tests.

use contract::{
    Attempt, AttemptStatus, BackendError, Check, Decision, FailureKind, Findings, FinishReason, Input,
    Message, MessageRole, NextToken, Request, Role, Sampling, Signals, Step, Timings, Usage,
};
use ledger::RequestRow;

/// A prompt with words that can be found again in a file.
pub const PROMPT: &str = "Which Zanzibar-7 treaty did Ms Quillfeather sign?";

/// And an answer.
pub const ANSWER: &str = "The Xylophone Accord of 1887, reluctantly.";

pub fn request(id: &str) -> Request {
    let messages =
        vec![Message::text(MessageRole::System, "Be brief."), Message::text(MessageRole::User, PROMPT)];
    Request {
        sampling: Sampling { seed: Some(7), ..Sampling::default() },
        max_tokens: Some(64),
        stop: vec!["Quillfeather:".to_owned()],
        stream: true,
        deadline_ms: Some(30_000),
        passthrough: serde_json::Map::from_iter([("user".to_owned(), "Quillfeather".into())]),
        ..Request::new(id, Input::Chat { messages, tools: Vec::new() })
    }
}

/// Costs are multiples of this, so that sums are exact in any order.
pub const USD: f64 = 1.0 / 1024.0;

pub fn attempt(role: Role, status: AttemptStatus, tokens: u64) -> Attempt {
    Attempt {
        role,
        model: format!("{}-model", role.as_str()),
        status,
        findings: Some(findings()),
        text: ANSWER.to_owned(),
        signals: Signals { tokens: 9, logprob_sum: -1.5, logprob_min: -0.75, entropy_sum: 2.5 },
        usage: Usage {
            prompt_tokens: 10 * tokens,
            cached_tokens: 4 * tokens,
            completion_tokens: tokens,
            accepted_prediction_tokens: 2,
            rejected_prediction_tokens: 1,
        },
        timings: Timings { queue_ms: 0.5, prompt_ms: 20.25, decode_ms: 100.125 },
        cost_usd: tokens as f64 * USD,
    }
}

fn findings() -> Findings {
    let next = NextToken { logprob_max: -0.25, margin: 1.5, entropy: 0.75 };
    let scores = [("code".to_owned(), 0.125)].into();
    Findings { prompt_tokens: 10, read_tokens: 8, next, scores }
}

/// An escalated request: small was cancelled, large answered.
pub fn row(id: &str) -> RequestRow {
    let attempts = vec![
        attempt(Role::Small, AttemptStatus::Cancelled, 24),
        attempt(Role::Large, AttemptStatus::Finished(FinishReason::Stop), 40),
    ];
    let call = |role, check| Step::Call { role, check };
    let mut escalate = Decision::new(call(Role::Large, Check::Never), "confidence 0.41 is below 0.8");
    escalate.confidence = Some(0.41);
    RequestRow {
        id: id.to_owned(),
        arrived_unix_ms: 1_700_000_000_000,
        tenant: Some("team-a".to_owned()),
        request: request(id),
        policy: "cascade".to_owned(),
        route: "escalated".to_owned(),
        status: 200,
        error: None,
        client_gone: false,
        cost_usd: attempts.iter().map(|attempt| attempt.cost_usd).sum(),
        attempts,
        decisions: vec![
            Decision::new(call(Role::Small, Check::AfterTokens(24)), "small goes first"),
            escalate,
        ],
        answered: Some(1),
        guards: vec![contract::GuardRecord {
            guard: "pii".to_owned(),
            channel: contract::Channel::User,
            action: contract::GuardAction::Redact,
            score: 0.5,
            entities: [("email".to_owned(), 2)].into(),
            error: Some("it took longer than 5 ms".to_owned()),
            is_truncated: true,
        }],
        confidence: Some(0.41),
        saved_usd: -24.0 * USD,
        overhead_ms: 0.25,
        first_token_ms: Some(150.5),
        total_ms: 900.75,
    }
}

/// A request that no backend could answer; the errors quote the prompt.
#[allow(dead_code, reason = "the crash test has no use for it")]
pub fn refused_row(id: &str) -> RequestRow {
    let quoting = format!("upstream said: can't parse {PROMPT:?}");
    let error =
        BackendError { retry_after_s: Some(3), ..BackendError::new(FailureKind::Upstream, &*quoting) };
    let refusal = contract::Refusal { code: "upstream_failed".to_owned(), message: format!("no: {PROMPT}") };
    RequestRow {
        route: "refused".to_owned(),
        status: 502,
        error: Some(quoting),
        attempts: vec![attempt(Role::Large, AttemptStatus::Failed(error), 0)],
        decisions: vec![
            Decision::new(Step::Read, "the word Zanzibar-7 was seen"),
            Decision::new(Step::Refuse(refusal), "large failed (its upstream answered with an error)"),
        ],
        answered: None,
        confidence: None,
        cost_usd: 0.0,
        saved_usd: 0.0,
        first_token_ms: None,
        ..row(id)
    }
}
