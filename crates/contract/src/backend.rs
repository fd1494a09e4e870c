//! The trait [`Backend`]: something that can answer, and the events in which it does.

use std::pin::Pin;
use std::sync::Arc;

use futures_core::Stream;
use serde::{Deserialize, Serialize};

use crate::{Price, ReadFuture, ReadOptions, Request, Timings, Usage};

/// What kind of thing answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BackendKind {
    /// The engine in this process.
    Embedded,
    /// An OpenAI-compatible HTTP upstream.
    Openai,
    /// A script, for tests.
    Scripted,
}

/// What a backend says of itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BackendInfo {
    /// The name clients may ask for in `model`.
    pub model: String,
    /// What kind of backend this is.
    pub kind: BackendKind,
    /// Longest prompt plus answer in tokens, if known.
    pub context_tokens: Option<u32>,
    /// What its tokens cost.
    pub price: Price,
}

/// Whether a backend can take calls.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Readiness {
    /// It can.
    Ready,
    /// Not yet: the model is being fetched or loaded.
    Loading,
    /// Not at all, with the reason.
    Failed(String),
}

/// How what a backend writes is drafted, and what came of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Drafting {
    /// Who drafts, or might; empty: nothing is drafted.
    pub drafters: Vec<DrafterState>,
    /// Drafted tokens so far that were written.
    pub accepted_tokens: u64,
    /// Drafted tokens so far that were not.
    pub rejected_tokens: u64,
}

/// One drafter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DrafterState {
    /// Its name in settings.
    pub name: &'static str,
    /// Why it does not draft at present, if it does not.
    pub idle: Option<String>,
    /// What it does otherwise than it might, and why.
    pub note: Option<String>,
}

/// One call of one backend for one request.
#[derive(Clone, Debug)]
pub struct Call {
    /// The request to answer.
    pub request: Arc<Request>,
    /// Ask for per-token log-probabilities even if the client did not: the policy needs them.
    pub signals: bool,
    /// Whose API key the client sent, if keys are configured: caches are never shared across tenants, and
    /// tenants take turns.
    pub tenant: Option<Arc<str>>,
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// The model ended it, or a stop string did.
    Stop,
    /// `max_tokens` or the context's end.
    Length,
    /// The model calls tools.
    ToolCalls,
    /// A guard cut it.
    ContentFilter,
}

impl FinishReason {
    /// The name in OpenAI's JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            FinishReason::Stop => "stop",
            FinishReason::Length => "length",
            FinishReason::ToolCalls => "tool_calls",
            FinishReason::ContentFilter => "content_filter",
        }
    }
}

/// A token with its log-probability (natural log, of the model's own distribution at temperature 1,
/// before penalties) and the likeliest alternatives.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TokenLogprob {
    /// The token's text; not UTF-8 bytes become U+FFFD.
    pub token: String,
    /// The token's exact bytes.
    pub bytes: Vec<u8>,
    /// Natural log of the probability; at most 0.
    pub logprob: f32,
    /// The likeliest tokens, likeliest first; as many as asked for.
    #[serde(default)]
    pub top: Vec<(String, Vec<u8>, f32)>,
    /// Entropy, nats, of the distribution that it was drawn from, where the backend tells it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entropy: Option<f32>,
}

/// A piece of the answer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Delta {
    /// Text to append; may be empty while a token's bytes or a stop string are incomplete.
    pub text: String,
    /// The tokens behind it, where the backend tells them.
    pub tokens: Vec<TokenLogprob>,
    /// Whether a drafter had guessed it, where the backend tells that.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_drafted: bool,
    /// OpenAI's `tool_calls` fragments, passed on unread.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<serde_json::Value>,
}

/// The end of an answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Finished {
    /// Why it ended.
    pub reason: FinishReason,
    /// What was really processed, as the backend counted it.
    pub usage: Usage,
    /// Where the time went, as the backend measured it.
    pub timings: Timings,
}

/// What a call yields: `Started`? `Delta`* then exactly one of `Finished` and `Failed`.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The backend has begun on it (the queue is behind it), with what it knows of the usage by now:
    /// the prompt's tokens count even if the call is cancelled later.
    Started(Usage),
    /// A piece of the answer.
    Delta(Delta),
    /// It is complete.
    Finished(Finished),
    /// It failed; nothing follows.
    Failed(BackendError),
}

/// The kinds of failure a gateway must tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// The request can't be served as it stands (400).
    BadInput,
    /// Prompt plus answer exceed the context (413).
    TooLong,
    /// The queue is full or the upstream limits us (429).
    Busy,
    /// The backend is not ready (503).
    Unready,
    /// The upstream can't be reached or answered with an error or nonsense (502).
    Upstream,
    /// The upstream or the engine took too long (504).
    Timeout,
    /// The client's own deadline passed (408).
    Deadline,
    /// A fault of Tandem's own (500).
    Internal,
}

/// A failed call.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[error("{message}")]
pub struct BackendError {
    /// The kind, which decides the HTTP status.
    pub kind: FailureKind,
    /// What was wrong, where, and what to do.
    pub message: String,
    /// Seconds after which a retry makes sense, if known.
    pub retry_after_s: Option<u64>,
}

impl BackendError {
    /// An error without advice on when to retry.
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        BackendError { kind, message: message.into(), retry_after_s: None }
    }
}

/// The events of one call. Dropping the stream cancels the call within one step.
pub type EventStream = Pin<Box<dyn Stream<Item = Event> + Send>>;

/// Something that can answer.
pub trait Backend: Send + Sync {
    /// What it is.
    fn info(&self) -> BackendInfo;
    /// Whether it can take calls now.
    fn readiness(&self) -> Readiness;
    /// How what it writes is drafted, where the backend tells that.
    fn drafting(&self) -> Option<Drafting> {
        None
    }
    /// Starts answering. Never blocks and never fails outright: failures are events.
    fn call(&self, call: Call) -> EventStream;
    /// Reads the call's prompt and stops there, so that its heads can be asked before anything is written.
    /// Never blocks.
    fn read(&self, _call: Call, _options: &ReadOptions) -> ReadFuture {
        let message = format!("{} can't be read with: only a local model can", self.info().model);
        Box::pin(std::future::ready(Err(BackendError::new(FailureKind::Internal, message))))
    }
}
