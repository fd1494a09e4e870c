//! Continuous batching: [`Scheduler`] takes generation jobs and advances all of them step by step.
//!
//! Each step is schedule → run → settle: every running job contributes its last token, one waiting
//! prompt a chunk of its own; one forward pass; then tokens are drawn, decoded and handed to the jobs'
//! sinks.

use std::collections::VecDeque;
use std::time::Instant;

use kernels::isa::Isa;

use crate::decoder::{Decoder, ForwardError, Logits, SequenceId, Work};
use crate::model::Model;
use crate::recycle::emptied;
use crate::sampling::{Sampled, Sampler, SamplingParams};
use crate::stop::StopFilter;
use crate::tokenizer::StreamDecoder;

/// Prompt tokens per step while other jobs are writing, so that they wait for no more than this.
const CHUNK_TOKENS_SHARED: usize = 64;

/// Limits of a [`Scheduler`].
#[derive(Clone, Copy, Debug)]
pub struct SchedulerLimits {
    /// Jobs that run at once; as many as the decoder has sequences.
    pub running_max: usize,
    /// Jobs that wait.
    pub waiting_max: usize,
    /// Positions that running jobs may need in all.
    pub kv_tokens: usize,
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
    /// Where the output goes.
    pub sink: Box<dyn Sink>,
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

/// What a job yields: `Started`, `Text`*, then `Finished` or `Failed`.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// It has left the queue.
    Started,
    /// One token and the text that it completes (possibly none).
    Text {
        /// Text that may leave.
        text: String,
        /// The token; `None` where held-back text is flushed at the end.
        token: Option<Sampled>,
    },
    /// It is complete.
    Finished(Finished),
    /// It could not go on.
    Failed(ForwardError),
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

struct Waiting {
    job: Job,
    since: Instant,
}

struct Running {
    job: Job,
    sequence: SequenceId,
    sampler: Sampler,
    decoder: StreamDecoder,
    filter: StopFilter,
    /// What the last token's bytes completed.
    decoded: String,
    /// Prompt tokens processed.
    read: usize,
    /// Tokens written.
    written: usize,
    written_max: usize,
    /// The token to feed next, once the prompt is read.
    last: u32,
    queue_ms: f64,
    started: Instant,
    first_token: Option<Instant>,
    end: Option<End>,
}

/// How a running job leaves.
enum End {
    Finished(StopReason),
    Failed(ForwardError),
    Cancelled,
}

/// Runs jobs on one decoder.
pub struct Scheduler {
    decoder: Decoder,
    isa: Isa,
    limits: SchedulerLimits,
    waiting: VecDeque<Waiting>,
    running: Vec<Running>,
    // Lists of the running step; kept, so that a step allocates nothing.
    plan: Vec<Planned>,
    works: Vec<Work<'static>>,
}

/// What a running job contributes to a step.
#[derive(Clone, Copy)]
struct Planned {
    /// Which one of `running`.
    index: usize,
    /// Tokens of the prompt; 0: the token written last.
    chunk: usize,
    /// Whether a token is to be drawn after them.
    draws: bool,
}

impl std::fmt::Debug for Scheduler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (waiting, running) = (self.waiting.len(), self.running.len());
        f.debug_struct("Scheduler").field("waiting", &waiting).field("running", &running).finish()
    }
}

impl Scheduler {
    /// A scheduler over `decoder`.
    pub fn new(decoder: Decoder, isa: Isa, limits: SchedulerLimits) -> Self {
        let (waiting, running) = (VecDeque::new(), Vec::with_capacity(limits.running_max));
        Scheduler { decoder, isa, limits, waiting, running, plan: Vec::new(), works: Vec::new() }
    }

    /// The model.
    pub fn model(&self) -> &Model {
        self.decoder.model()
    }

    /// Jobs waiting and running.
    pub fn load(&self) -> (usize, usize) {
        (self.waiting.len(), self.running.len())
    }

    /// Blocks of the key-value cache in use.
    pub fn blocks_used(&self) -> usize {
        self.decoder.blocks_used()
    }

    /// Queues a job, or tells its sink why not: the queue is full, or it can never run.
    pub fn submit(&mut self, mut job: Job) {
        self.waiting.retain(|w| !w.job.sink.is_closed());
        match self.check(&job) {
            Ok(()) => self.waiting.push_back(Waiting { job, since: Instant::now() }),
            Err(error) => job.sink.refuse(&error),
        }
    }

    fn check(&self, job: &Job) -> Result<(), SubmitError> {
        let context = self.decoder.model().spec().context_tokens.min(self.limits.kv_tokens);
        let prompt = job.prompt.len();
        let answer = job.max_tokens.unwrap_or(1);
        if prompt == 0 {
            return Err(SubmitError::EmptyPrompt);
        }
        let vocabulary = self.decoder.model().vocabulary();
        if let Some(&token) = job.prompt.iter().find(|&&t| t as usize >= vocabulary) {
            return Err(SubmitError::Token { token, vocabulary });
        }
        if prompt.saturating_add(answer) > context {
            return Err(SubmitError::TooLong { prompt, answer, context });
        }
        if self.waiting.len() >= self.limits.waiting_max {
            return Err(SubmitError::QueueFull { waiting: self.limits.waiting_max });
        }
        Ok(())
    }

    /// Does one step. False if there was nothing to do.
    pub fn step(&mut self) -> bool {
        self.drop_closed();
        self.admit();
        if self.running.is_empty() {
            return false;
        }
        self.schedule();
        self.run();
        self.settle();
        true
    }

    /// Forgets jobs that nobody waits for.
    fn drop_closed(&mut self) {
        self.waiting.retain(|w| !w.job.sink.is_closed());
        for running in &mut self.running {
            if running.job.sink.is_closed() {
                running.end = Some(End::Cancelled);
            }
        }
        self.settle();
    }

    /// Starts waiting jobs, first come first served, while there are sequences and positions.
    fn admit(&mut self) {
        while let Some(waiting) = self.waiting.front() {
            let context = self.decoder.model().spec().context_tokens.min(self.limits.kv_tokens);
            let prompt = waiting.job.prompt.len();
            let written_max = waiting.job.max_tokens.unwrap_or(context - prompt);
            let taken: usize = self.running.iter().map(|r| r.job.prompt.len() + r.written_max).sum();
            let fits = taken + prompt + written_max <= self.limits.kv_tokens;
            if !fits || self.running.len() >= self.limits.running_max {
                return;
            }
            let Ok(sequence) = self.decoder.begin() else { return };
            let Some(Waiting { mut job, since }) = self.waiting.pop_front() else { return };
            job.sink.send(Output::Started);
            let started = Instant::now();
            self.running.push(Running {
                sequence,
                sampler: Sampler::new(job.sampling.clone(), self.isa, &job.prompt),
                decoder: StreamDecoder::default(),
                filter: StopFilter::new(&job.stop),
                decoded: String::new(),
                read: 0,
                written: 0,
                written_max,
                last: 0,
                queue_ms: milliseconds(since, started),
                started,
                first_token: None,
                end: None,
                job,
            });
        }
    }

    /// Chooses what each running job contributes: first those that write, then prompts.
    fn schedule(&mut self) {
        self.plan.clear();
        for (index, running) in self.running.iter().enumerate() {
            if running.read == running.job.prompt.len() {
                self.plan.push(Planned { index, chunk: 0, draws: true });
            }
        }
        let mut room = self.decoder.batch_tokens() - self.plan.len();
        if !self.plan.is_empty() {
            room = room.min(CHUNK_TOKENS_SHARED);
        }
        for (index, running) in self.running.iter().enumerate() {
            let left = running.job.prompt.len() - running.read;
            if left > 0 && room > 0 {
                let chunk = left.min(room);
                self.plan.push(Planned { index, chunk, draws: chunk == left });
                room -= chunk;
            }
        }
    }

    /// One forward pass, and what it means for each job of the plan.
    fn run(&mut self) {
        let mut works: Vec<Work> = emptied(std::mem::take(&mut self.works));
        works.extend(self.plan.iter().map(|planned| {
            let running = &self.running[planned.index];
            let tokens = match planned.chunk {
                0 => std::slice::from_ref(&running.last),
                chunk => &running.job.prompt[running.read..running.read + chunk],
            };
            let logits = if planned.draws { Logits::Last } else { Logits::None };
            Work { sequence: running.sequence, tokens, logits }
        }));
        let model = self.decoder.model().clone();
        let result = self.decoder.forward(&works);
        self.works = emptied(works);
        match result {
            Ok(logits) => {
                let mut rows = logits.chunks_exact(model.vocabulary());
                for &Planned { index, chunk, draws } in &self.plan {
                    let row = if draws { rows.next() } else { None };
                    settle_one(&mut self.running[index], &model, chunk, row);
                }
            }
            Err(error) => {
                for planned in &self.plan {
                    self.running[planned.index].end = Some(End::Failed(error.clone()));
                }
            }
        }
    }

    /// Takes ended jobs out and tells their sinks.
    fn settle(&mut self) {
        let mut index = 0;
        while index < self.running.len() {
            if self.running[index].end.is_none() {
                index += 1;
                continue;
            }
            let mut running = self.running.remove(index);
            self.decoder.end(running.sequence);
            match running.end.take() {
                Some(End::Finished(reason)) => {
                    let finished = running.finished(reason);
                    running.job.sink.send(Output::Finished(finished));
                }
                Some(End::Failed(error)) => running.job.sink.send(Output::Failed(error)),
                Some(End::Cancelled) | None => {}
            }
        }
    }
}

impl Running {
    fn finished(&self, reason: StopReason) -> Finished {
        let now = Instant::now();
        let first = self.first_token.unwrap_or(now);
        Finished {
            reason,
            prompt_tokens: self.job.prompt.len(),
            cached_tokens: 0,
            completion_tokens: self.written,
            queue_ms: self.queue_ms,
            prompt_ms: milliseconds(self.started, first),
            decode_ms: milliseconds(first, now),
        }
    }
}

/// Counts a chunk in and, if there are logits, draws and hands on a token.
fn settle_one(running: &mut Running, model: &Model, chunk: usize, logits: Option<&[f32]>) {
    running.read += chunk;
    let Some(logits) = logits else { return };
    let sampled = running.sampler.draw(logits, running.job.top_logprobs);
    running.first_token.get_or_insert_with(Instant::now);
    running.written += 1;
    running.last = sampled.id;
    let tokenizer = model.tokenizer();
    let mut end = None;
    let mut text = String::new();
    let mut token = None;
    if tokenizer.is_end_of_generation(sampled.id) {
        end = Some(StopReason::EndOfGeneration);
    } else {
        running.decoded.clear();
        running.decoder.push(tokenizer.visible_piece(sampled.id), &mut running.decoded);
        text = running.filter.push(&running.decoded);
        token = Some(sampled);
        if running.filter.is_stopped() {
            end = Some(StopReason::StopString);
        } else if running.written >= running.written_max {
            end = Some(StopReason::Length);
        }
    }
    if end.is_some_and(|reason| reason != StopReason::StopString) {
        let mut rest = String::new();
        running.decoder.finish(&mut rest);
        text += &running.filter.push(&rest);
        text += &running.filter.finish();
    }
    if token.is_some() || !text.is_empty() {
        running.job.sink.send(Output::Text { text, token });
    }
    running.end = end.map(End::Finished);
}

fn milliseconds(from: Instant, to: Instant) -> f64 {
    to.duration_since(from).as_secs_f64() * 1e3
}
