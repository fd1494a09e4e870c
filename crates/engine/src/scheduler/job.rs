//! What the scheduler takes and gives: [`Job`], its [`Output`] and its [`Sink`].

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use crate::decoder::{ForwardError, LayerSet, LayerState, TokenStates};
use crate::sampling::{Sampled, SamplingParams, Spread};

/// Who goes first where not all can.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Priority {
    /// Somebody waits for it.
    #[default]
    Interactive,
    /// Takes what interactive jobs leave, and makes way for them.
    Background,
}

/// One text to generate.
pub struct Job {
    /// Tokens to continue; at least one.
    pub prompt: Vec<u32>,
    /// Most tokens to write; `None`: up to the context's end.
    pub max_tokens: Option<usize>,
    /// Texts that end it.
    pub stop: Vec<String>,
    /// How tokens are drawn.
    pub sampling: SamplingParams,
    /// How many of the likeliest tokens to report with each.
    pub top_logprobs: usize,
    /// Whose it is: clients take turns, and share no cached prefix.
    pub client: Option<Arc<str>>,
    /// Who goes first.
    pub priority: Priority,
    /// Whether its tokens may be drafted. They are the same either way, but for their randomness where they
    /// are sampled and not reproducible.
    pub speculative: bool,
    /// What is to be told once the prompt is read; `None`: nothing.
    pub reading: Option<ReadingJob>,
    /// When nobody wants it any more.
    pub deadline: Option<Instant>,
    /// Where the output goes.
    pub sink: Box<dyn Sink>,
}

/// What a job tells of its prompt.
#[derive(Clone, Debug, Default)]
pub struct ReadingJob {
    /// Layers whose hidden states are told, of those that the decoder keeps.
    pub layers: LayerSet,
    /// Layers whose states at every token are told, likewise. If there are any, nothing of the prompt is taken from the
    /// cache, which has no states.
    pub token_layers: LayerSet,
    /// If there is one, nothing is written before it is released.
    pub hold: Option<Hold>,
}

/// Keeps a job, once it has read its prompt, from going on; clones are one. Whoever releases it has to see to it
/// that the scheduler takes a step.
#[derive(Clone, Debug, Default)]
pub struct Hold(Arc<AtomicBool>);

impl Hold {
    /// Lets the job go on.
    pub fn release(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Whether it may.
    pub fn is_released(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// Receives a job's output. A closed sink cancels the job within one step.
pub trait Sink: Send {
    /// Takes one piece of output. Must not block.
    fn send(&mut self, output: Output);
    /// Hears that the job was not taken; nothing else follows.
    fn refuse(&mut self, error: &SubmitError);
    /// Whether nobody is interested any more.
    fn is_closed(&self) -> bool;
}

/// What a job yields: `Started`, `Read`?, `Text`*, then `Finished`, `Failed` or `Expired`.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// It has left the queue.
    Started {
        /// Tokens of its prompt that are in the cache already.
        cached_tokens: usize,
    },
    /// The prompt is read.
    Read {
        /// Hidden states of the layers asked for.
        states: Vec<LayerState>,
        /// States at every token, of the layers whose were asked for.
        tokens: Vec<TokenStates>,
        /// What might be written next.
        next: Spread,
        /// Milliseconds in the queue, and from there to the prompt's end.
        queue_ms: f64,
        /// See `queue_ms`.
        prompt_ms: f64,
    },
    /// One token and the text that it completes (possibly none).
    Text {
        /// Text that may leave.
        text: String,
        /// The token; `None` where held-back text is flushed at the end.
        token: Option<Sampled>,
        /// Whether a drafter had guessed it.
        is_drafted: bool,
    },
    /// It is complete.
    Finished(Finished),
    /// It could not go on.
    Failed(ForwardError),
    /// Its deadline has passed.
    Expired,
}

/// Why a job ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// The model ended its turn.
    EndOfGeneration,
    /// A stop string was written.
    StopString,
    /// `max_tokens` or the context's end.
    Length,
}

/// A job's end.
#[derive(Clone, Debug, PartialEq)]
pub struct Finished {
    /// Why.
    pub reason: StopReason,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Of these, tokens that were in the cache already.
    pub cached_tokens: usize,
    /// Tokens written, an end-of-generation token included.
    pub completion_tokens: usize,
    /// Drafted tokens that were written, and that were not.
    pub accepted_tokens: usize,
    /// See `accepted_tokens`.
    pub rejected_tokens: usize,
    /// Milliseconds in the queue, to the first token, and from there to the last.
    pub queue_ms: f64,
    /// See `queue_ms`.
    pub prompt_ms: f64,
    /// See `queue_ms`.
    pub decode_ms: f64,
}

/// Why a job is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// Too many wait already.
    #[error("{waiting} requests are waiting already, the limit")]
    QueueFull {
        /// The limit.
        waiting: usize,
    },
    /// Nothing to continue.
    #[error("the prompt has no tokens")]
    EmptyPrompt,
    /// A token of the prompt does not exist.
    #[error("token {token} is not in the vocabulary of {vocabulary}")]
    Token {
        /// The token.
        token: u32,
        /// Tokens there are.
        vocabulary: usize,
    },
    /// The prompt, or prompt and answer, are longer than the context.
    #[error("the prompt has {prompt} tokens and asks for {answer} more, the context holds {context}")]
    TooLong {
        /// Tokens of the prompt.
        prompt: usize,
        /// Tokens wanted at the least.
        answer: usize,
        /// The context.
        context: usize,
    },
}
