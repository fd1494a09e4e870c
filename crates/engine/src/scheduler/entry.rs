//! A job on its way: [`Entry`], waiting or running.

use std::time::{Duration, Instant};

use kernels::isa::Isa;

use super::job::{Finished, Hold, Job, Output, Priority, ReadingJob, StopReason};
use crate::decoder::{Decoder, ForwardError, SequenceId, TokenStates};
use crate::model::Model;
use crate::sampling::{Sampled, Sampler};
use crate::speculation::costs::Gain;
use crate::speculation::{DRAFT_TOKENS_MAX, Draft, DraftJob};
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
    /// What is guessed to follow.
    pub draft: Draft,
    /// The last token and its draft, as a step reads them.
    pub ahead: Vec<u32>,
    /// Drafted tokens so far that were written, and that were not.
    accepted_tokens: usize,
    rejected_tokens: usize,
    /// How much faster drafts have made it, once it was drafted for.
    pub gain: Option<Gain>,
    sampler: Sampler,
    decoder: StreamDecoder,
    filter: StopFilter,
    /// What the last token's bytes completed.
    decoded: String,
    pub prompt_tokens: usize,
    cached_tokens: usize,
    /// What keeps it from writing, once it has read its prompt.
    hold: Option<Hold>,
    /// States at the tokens read so far, of the layers whose are to be told.
    token_states: Vec<TokenStates>,
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
            draft: Draft::default(),
            ahead: Vec::new(),
            accepted_tokens: 0,
            rejected_tokens: 0,
            gain: None,
            sampler: Sampler::new(job.sampling.clone(), isa, &tokens),
            decoder: StreamDecoder::default(),
            filter: StopFilter::new(&job.stop),
            decoded: String::new(),
            prompt_tokens: tokens.len(),
            cached_tokens: 0,
            hold: None,
            token_states: Vec::new(),
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

    /// Whether it waits for somebody's word, after its reading.
    pub fn is_held(&self) -> bool {
        self.hold.as_ref().is_some_and(|hold| !hold.is_released())
    }

    /// Whether every token of its prompt is to be read, to tell of it.
    pub fn reads_afresh(&self) -> bool {
        self.job.reading.as_ref().is_some_and(|reading| !reading.token_layers.is_empty())
    }

    /// Keeps the states of the tokens that the last pass of `decoder` has read, if they are to be told.
    pub fn keep_token_states(&mut self, decoder: &Decoder) {
        let (true, Some(sequence)) = (self.reads_afresh(), self.sequence) else { return };
        decoder.add_token_states(sequence, &mut self.token_states);
    }

    /// Tells of the prompt that the last pass of `decoder` has read to its end, if that is wanted. A prompt that
    /// has to be read again is not told of again.
    pub fn tell_reading(&mut self, decoder: &Decoder, logits: &[f32]) {
        let Some(ReadingJob { layers, hold, .. }) = self.job.reading.take() else { return };
        let states = self.sequence.map_or_else(Vec::new, |sequence| decoder.states(sequence, layers));
        let next = self.sampler.spread(logits);
        let now = Instant::now();
        let started = self.started.unwrap_or(now);
        self.job.sink.send(Output::Read {
            states,
            tokens: std::mem::take(&mut self.token_states),
            next,
            queue_ms: milliseconds(self.arrived, started),
            prompt_ms: milliseconds(started, now),
        });
        self.hold = hold;
    }

    /// Whether it only reads the token that it wrote last.
    pub fn is_writing(&self) -> bool {
        self.unread() == 1 && self.written() > 0
    }

    /// Takes its place; `cached` of its tokens are there.
    pub fn start(&mut self, sequence: SequenceId, cached: usize) {
        (self.sequence, self.read) = (Some(sequence), cached);
        if let Some(reading) = &self.job.reading {
            let begun = |layer| TokenStates { layer, states: Vec::new() };
            self.token_states = reading.token_layers.iter().map(begun).collect();
        }
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
        self.draft.clear();
        self.sequence.take()
    }

    /// Tokens that may be drafted for it.
    pub fn draft_limit(&self) -> usize {
        let left = self.written_max - self.written();
        // The last token is the target's own in any case.
        left.saturating_sub(1).min(self.promised.saturating_sub(self.tokens.len())).min(DRAFT_TOKENS_MAX)
    }

    /// What drafters are told. `answer_tokens`: what answers are long on average.
    pub fn draft_job(&mut self, answer_tokens: f64) -> DraftJob<'_> {
        let limit = self.draft_limit();
        let left = self.written_max - self.written();
        // Who has written more than most may go on for as long again.
        let expected = (answer_tokens - self.written() as f64).max(answer_tokens / 2.0);
        DraftJob {
            id: self.due.arrival,
            client: self.job.client.as_ref(),
            text: &self.tokens,
            expected_tokens: left.min(expected as usize),
            limit,
            offered: 0.0,
            sampler: &mut self.sampler,
            draft: &mut self.draft,
        }
    }

    /// Draws tokens from the logits after the last token and after each drafted one, as long as the draft
    /// is right. Returns how much of it was.
    pub fn write(&mut self, model: &Model, logits: &[f32]) -> usize {
        if self.written_max == 0 {
            self.end = Some(End::Finished(StopReason::Length));
            return 0;
        }
        let drafted = self.draft.ids().len();
        for (place, row) in logits.chunks_exact(model.vocabulary()).enumerate() {
            let top = self.job.top_logprobs;
            let guess = self.draft.proposals().get(place);
            let sampled = match guess {
                Some(proposal) => self.sampler.verify(row, proposal, top),
                None => self.sampler.draw(row, top),
            };
            let is_drafted = guess.is_some_and(|proposal| proposal.id == sampled.id);
            self.take(model, sampled, is_drafted);
            self.accepted_tokens += usize::from(is_drafted);
            if !is_drafted || self.end.is_some() {
                self.rejected_tokens += drafted - place - usize::from(is_drafted);
                return place + usize::from(is_drafted);
            }
        }
        drafted
    }

    /// Takes a drawn token and hands on the text that it completes.
    fn take(&mut self, model: &Model, sampled: Sampled, is_drafted: bool) {
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
            self.job.sink.send(Output::Text { text, token, is_drafted });
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
            accepted_tokens: self.accepted_tokens,
            rejected_tokens: self.rejected_tokens,
            queue_ms: milliseconds(self.arrived, started),
            prompt_ms: milliseconds(started, first),
            decode_ms: milliseconds(first, now),
        }
    }
}

pub(super) fn milliseconds(from: Instant, to: Instant) -> f64 {
    to.duration_since(from).as_secs_f64() * 1e3
}
