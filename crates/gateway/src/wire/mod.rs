//! OpenAI's JSON shapes, going out: errors, answers whole and in chunks, usage, and the `tandem`
//! object and headers that Tandem adds.

mod chat;
mod completions;
mod error;
mod headers;
mod tandem;
mod usage;

use contract::{Delta, TokenLogprob};
use serde::Serialize;
use serde_json::Value;

pub(crate) use chat::Chat;
pub(crate) use completions::Completion;
pub use error::ApiError;
pub(crate) use error::json;
pub(crate) use headers::{insert_decided, insert_outcome, insert_request_id};
pub(crate) use tandem::{AttemptBody, Tandem};
use usage::UsageBody;

use crate::flow::Outcome;

/// What every answer of a request has in common.
#[derive(Clone, Debug)]
pub(crate) struct Head {
    /// The request's id.
    pub(crate) id: String,
    /// When it was made, Unix seconds.
    pub(crate) created: u64,
    /// The model that answers; set when that is decided.
    pub(crate) model: String,
    /// Whether the client asked for log-probabilities.
    pub(crate) logprobs: bool,
    /// `stream_options.include_usage`.
    pub(crate) include_usage: bool,
    /// `tandem.explain`.
    pub(crate) explain: bool,
}

/// The answer of an endpoint in its JSON: whole, or as chunks.
pub(crate) trait Shape: Send {
    /// Says who answers; called before anything else but `whole`.
    fn set_model(&mut self, model: String);
    /// The chunk before the first text, if the endpoint has one.
    fn opening(&mut self) -> Option<String>;
    /// The chunk of a piece; `None` if it shows nothing.
    fn piece(&mut self, delta: &Delta) -> Option<String>;
    /// The chunks after the last text.
    fn closing(&mut self, outcome: &Outcome) -> Vec<String>;
    /// The whole answer in one.
    fn whole(&mut self, answer: &Collected, outcome: &Outcome) -> String;
}

/// All pieces of an answer.
#[derive(Debug, Default)]
pub(crate) struct Collected {
    pub(crate) text: String,
    pub(crate) tokens: Vec<TokenLogprob>,
    /// OpenAI's fragments, in order.
    pub(crate) tool_calls: Vec<Value>,
}

impl Collected {
    pub(crate) fn add(&mut self, delta: Delta) {
        self.text.push_str(&delta.text);
        self.tokens.extend(delta.tokens);
        self.tool_calls.extend(delta.tool_calls);
    }
}

/// What surrounds the choices, in whole answers and in chunks.
#[derive(Serialize)]
struct Envelope<'a, C> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    choices: Vec<C>,
    /// `Some(None)`: `null`, as OpenAI writes before the chunk that has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Option<UsageBody>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tandem: Option<Tandem<'a>>,
}

impl<'a, C: Serialize> Envelope<'a, C> {
    /// A chunk on the way: no usage yet.
    fn chunk(head: &'a Head, object: &'static str, choice: C) -> Self {
        Envelope {
            id: &head.id,
            object,
            created: head.created,
            model: &head.model,
            choices: vec![choice],
            usage: head.include_usage.then_some(None),
            tandem: None,
        }
    }

    /// A whole answer.
    fn whole(head: &'a Head, object: &'static str, choice: C, outcome: &'a Outcome) -> Self {
        Envelope {
            usage: Some(Some(UsageBody::from(&outcome.usage))),
            // What a guard did is told without being asked for.
            tandem: (head.explain || !outcome.guards.is_empty()).then(|| Tandem::new(outcome, head.explain)),
            ..Envelope::chunk(head, object, choice)
        }
    }

    /// The last chunks: the finish reason, then, if asked for, the usage. The `tandem` object stands in
    /// whichever is last.
    fn last(head: &'a Head, object: &'static str, choice: C, outcome: &'a Outcome) -> Vec<String> {
        let tandem = Some(Tandem::new(outcome, head.explain));
        let finish = Envelope::chunk(head, object, choice);
        if !head.include_usage {
            return vec![Envelope { tandem, ..finish }.json()];
        }
        let usage = Envelope::<C> {
            choices: Vec::new(),
            usage: Some(Some(UsageBody::from(&outcome.usage))),
            tandem,
            id: &head.id,
            object,
            created: head.created,
            model: &head.model,
        };
        vec![finish.json(), usage.json()]
    }

    fn json(&self) -> String {
        // Only maps with keys that are not strings fail to serialise, and there are none.
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// A log-probability as JSON can hold it: OpenAI writes -9999 for what is practically impossible.
fn finite(logprob: f32) -> f32 {
    if logprob.is_finite() { logprob } else { -9999.0 }
}
