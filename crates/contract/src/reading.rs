//! What the small model's one prefill of a request shows: the [`Reading`] itself, and the [`Findings`] that
//! heads make of it.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{BackendError, EventStream, Timings, Usage};

/// Hidden states of one layer over a prompt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LayerState {
    /// After how many layers: 0 is the embedding, the model's number of layers its last state.
    pub layer: u32,
    /// At the prompt's last token, `[hidden]`.
    pub last: Vec<f32>,
    /// Mean over the prompt's tokens, `[hidden]`.
    pub mean: Vec<f32>,
}

/// Hidden states of one layer at every token of a prompt.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LayerTokens {
    /// As in [`LayerState`].
    pub layer: u32,
    /// `[token][hidden]`.
    pub states: Vec<f32>,
}

/// What was seen at every token of a prompt.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TokenStates {
    /// The prompt as its tokens spell it, chat template and all.
    pub text: Vec<u8>,
    /// Where each token ends in it, ascending.
    pub ends: Vec<usize>,
    /// The layers asked for, ascending.
    pub layers: Vec<LayerTokens>,
}

/// What the model would write next, in figures of its distribution at temperature 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct NextToken {
    /// Natural log of the likeliest token's probability.
    pub logprob_max: f32,
    /// The likeliest token's log-probability minus the second's.
    pub margin: f32,
    /// Entropy of the whole distribution, nats.
    pub entropy: f32,
}

/// One prefill of a request's prompt.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Reading {
    /// Tokens of the prompt as the model's template renders it.
    pub prompt_tokens: u64,
    /// Of these, tokens that were read: fewer where a long prompt was read from both ends only.
    pub read_tokens: u64,
    /// Hidden states of the layers asked for, ascending.
    pub states: Vec<LayerState>,
    /// What was seen at every token, if that was asked for.
    #[serde(skip)]
    pub tokens: Option<Arc<TokenStates>>,
    /// What would be written next.
    pub next: NextToken,
    /// What was processed: prompt tokens read, cached ones among them, none written.
    pub usage: Usage,
    /// Where the time went.
    pub timings: Timings,
}

impl Reading {
    /// The state after `layer` layers, if it was asked for.
    pub fn layer(&self, layer: u32) -> Option<&LayerState> {
        self.states.iter().find(|state| state.layer == layer)
    }

    /// Whether it left out a part of the prompt.
    pub fn is_truncated(&self) -> bool {
        self.read_tokens < self.prompt_tokens
    }
}

/// What a reading says: small enough to be recorded with the attempt that made it, and all that policies see.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Findings {
    /// Tokens of the prompt.
    pub prompt_tokens: u64,
    /// Of these, tokens that were read.
    pub read_tokens: u64,
    /// What would be written next.
    pub next: NextToken,
    /// Each head's calibrated probability, by its name.
    pub scores: BTreeMap<String, f64>,
}

impl Findings {
    /// Whether a part of the prompt was left out.
    pub fn is_truncated(&self) -> bool {
        self.read_tokens < self.prompt_tokens
    }
}

/// Longest prompt whose every token's states are told, tokens.
pub const TOKEN_STATES_MAX: usize = 1024;

/// How a prompt is to be read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReadOptions {
    /// Layers whose states are wanted, each as in [`LayerState::layer`].
    pub layers: Vec<u32>,
    /// Layers whose states at every token are wanted, of a prompt of at most [`TOKEN_STATES_MAX`] tokens that is read
    /// whole.
    pub token_layers: Vec<u32>,
    /// Of a longer prompt only as many tokens are read, half from each end; `None`: all of it.
    pub tokens_max: Option<u32>,
}

/// A reading, and the answer that would follow it without reading again.
pub struct Read {
    /// What was read.
    pub reading: Reading,
    /// Goes on with the answer to the call. Dropped instead, the call is cancelled; what it read stays in
    /// the cache for those who come later.
    pub go_on: Box<dyn FnOnce() -> EventStream + Send>,
}

impl fmt::Debug for Read {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Read").field("reading", &self.reading).finish_non_exhaustive()
    }
}

/// What [`crate::Backend::read`] gives. Dropping it cancels the call.
pub type ReadFuture = Pin<Box<dyn Future<Output = Result<Read, BackendError>> + Send>>;
