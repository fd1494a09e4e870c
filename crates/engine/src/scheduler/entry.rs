//! A job on its way: [`Entry`], waiting or running.

use std::time::{Duration, Instant};

use kernels::isa::Isa;

use super::job::{Finished, Job, Output, Priority, StopReason};
use crate::decoder::{ForwardError, SequenceId};
use crate::model::Model;
use crate::sampling::Sampler;
use crate::stop::StopFilter;
use crate::tokenizer::StreamDecoder;

/// How a job leaves.
pub(super) enum End {
    Finished(StopReason),
    Failed(ForwardError),
    Cancelled,
    Expired,
}

/// When an entry's turn is, first things first: priority, then when it would be done if it were
/// alone, then the order of arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Due {
    pub priority: Priority,
    /// Arrival plus the time that its prompt takes: a short prompt passes a long one, but nobody waits
    /// for ever.
    pub at: Instant,
    pub arrival: u64,
}

/// A job and how far it is.
pub(super) struct Entry {
    pub job: Job,
    pub due: Due,
    /// Whose cached prefixes it may use.
    pub scope: u64,
    /// Its place in the cache while it runs.
    pub sequence: Option<SequenceId>,
    /// The prompt, and what was written since.
    pub tokens: Vec<u32>,
    /// Of these, tokens in the cache.
    pub read: usize,
    /// Tokens that the cache has promised room for.
    pub promised: usize,
    pub written_max: usize,
    pub end: Option<End>,
    sampler: Sampler,
    decoder: StreamDecoder,
    filter: StopFilter,
    /// What the last token's bytes completed.
    decoded: String,
    prompt_tokens: usize,
    cached_tokens: usize,
    arrived: Instant,
    started: Option<Instant>,
    first_token: Option<Instant>,
}

impl Entry {
    /// An entry that arrives now. `written_max`: most tokens to write.
    pub fn new(
        mut job: Job,
        (isa, scope): (Isa, u64),
        written_max: usize,
        (prompt_ms, arrival): (f64, u64),
    ) -> Self {
        let arrived = Instant::now();
        let done = arrived + Duration::from_secs_f64(prompt_ms / 1e3);
        let at = job.deadline.map_or(done, |deadline| deadline.min(done));
        let tokens = std::mem::take(&mut job.prompt);
        Entry {
            due: Due { priority: job.priority, at, arrival },
            scope,
            sequence: None,
            read: 0,
            promised: 0,
            written_max,
            end: None,
            sampler: Sampler::new(job.sampling.clone(), isa, &tokens),
            decoder: StreamDecoder::default(),
            filter: StopFilter::new(&job.stop),
            decoded: String::new(),
            prompt_tokens: tokens.len(),
            cached_tokens: 0,
            arrived,
            started: None,
            first_token: None,
            tokens,
            job,
        }
    }

    /// Tokens written.
    pub fn written(&self) -> usize {
        self.tokens.len() - self.prompt_tokens
    }

    /// Tokens that are to be read before the next one can be drawn.
    pub fn unread(&self) -> usize {
        self.tokens.len() - self.read
    }

    /// Whether it only reads the token that it wrote last.
    pub fn is_writing(&self) -> bool {
        self.unread() == 1 && self.written() > 0
    }

    /// Takes its place; `cached` of its tokens are there.
    pub fn start(&mut self, sequence: SequenceId, cached: usize) {
        (self.sequence, self.read) = (Some(sequence), cached);
        if self.started.is_none() {
            self.started = Some(Instant::now());
            self.cached_tokens = cached;
            // Writing must not allocate.
            self.tokens.reserve_exact(self.written_max);
            self.job.sink.send(Output::Started { cached_tokens: cached });
        }
    }

    /// Leaves its place, to start again later where it is. Gives the place.
    pub fn step_back(&mut self) -> Option<SequenceId> {
        (self.read, self.promised) = (0, 0);
        self.sequence.take()
    }

    /// Draws a token from its logits and hands on the text that it completes.
    pub fn draw(&mut self, model: &Model, logits: &[f32]) {
        let sampled = self.sampler.draw(logits, self.job.top_logprobs);
        self.first_token.get_or_insert_with(Instant::now);
        self.tokens.push(sampled.id);
        let tokenizer = model.tokenizer();
        let mut end = None;
        let mut text = String::new();
        let mut token = None;
        if tokenizer.is_end_of_generation(sampled.id) {
            end = Some(StopReason::EndOfGeneration);
        } else {
            self.decoded.clear();
            self.decoder.push(tokenizer.visible_piece(sampled.id), &mut self.decoded);
            text = self.filter.push(&self.decoded);
            token = Some(sampled);
            if self.filter.is_stopped() {
                end = Some(StopReason::StopString);
            } else if self.written() >= self.written_max {
                end = Some(StopReason::Length);
            }
        }
        if end.is_some_and(|reason| reason != StopReason::StopString) {
            let mut rest = String::new();
            self.decoder.finish(&mut rest);
            text += &self.filter.push(&rest);
            text += &self.filter.finish();
        }
        if token.is_some() || !text.is_empty() {
            self.job.sink.send(Output::Text { text, token });
        }
        self.end = end.map(End::Finished);
    }

    /// Tells the sink how it ended.
    pub fn leave(mut self) {
        match self.end.take() {
            Some(End::Finished(reason)) => {
                let finished = self.finished(reason);
                self.job.sink.send(Output::Finished(finished));
            }
            Some(End::Failed(error)) => self.job.sink.send(Output::Failed(error)),
            Some(End::Expired) => self.job.sink.send(Output::Expired),
            Some(End::Cancelled) | None => {}
        }
    }

    fn finished(&self, reason: StopReason) -> Finished {
        let now = Instant::now();
        let (started, first) = (self.started.unwrap_or(now), self.first_token.unwrap_or(now));
        Finished {
            reason,
            prompt_tokens: self.prompt_tokens,
            cached_tokens: self.cached_tokens,
            completion_tokens: self.written(),
            queue_ms: milliseconds(self.arrived, started),
            prompt_ms: milliseconds(started, first),
            decode_ms: milliseconds(first, now),
        }
    }
}

pub(super) fn milliseconds(from: Instant, to: Instant) -> f64 {
    to.duration_since(from).as_secs_f64() * 1e3
}
