//! Continuous batching: [`Scheduler`] takes generation jobs and advances all of them step by step.
//!
//! Each step is schedule → run → settle: every job that writes contributes its last token, prompts share
//! what room is left; one forward pass; then tokens are drawn, decoded and handed to the jobs' sinks.
//!
//! Jobs are admitted when the cache has room for their prompts. Answers grow into what is left; where
//! nothing is, the job that is due last steps back: its blocks stay in the cache as long as they can, and
//! when there is room it reads on from what is still there. Results depend on none of this.

mod drafting;
mod entry;
mod job;
mod pace;
mod turns;

use std::sync::Arc;
use std::time::Instant;

use kernels::attention::BLOCK_POSITIONS;
use kernels::isa::Isa;

pub use self::drafting::{DraftCounts, Speculation};
use self::entry::{Due, End, Entry, milliseconds};
pub use self::job::{Finished, Hold, Job, Output, Priority, ReadingJob, Sink, StopReason, SubmitError};
use self::pace::Pace;
pub use self::turns::{Seat, Turns};
use crate::decoder::{Decoder, Held, KvBlocks, Logits, SequenceId, SharedDecoder, Work};
use crate::model::Model;
use crate::recycle::emptied;
use crate::speculation::DRAFT_TOKENS_MAX;

/// Limits of a [`Scheduler`].
#[derive(Clone, Copy, Debug)]
pub struct SchedulerLimits {
    /// Jobs that run at once; as many as the decoder has sequences.
    pub running_max: usize,
    /// Jobs that wait.
    pub waiting_max: usize,
    /// Positions of the decoder's cache: no job is longer.
    pub kv_tokens: usize,
}

/// Runs jobs on one decoder.
pub struct Scheduler {
    decoder: Arc<SharedDecoder>,
    model: Arc<Model>,
    isa: Isa,
    limits: SchedulerLimits,
    batch_tokens: usize,
    seat: Seat,
    pace: Pace,
    speculation: Option<Speculation>,
    arrivals: u64,
    hit_tokens: u64,
    waiting: Vec<Entry>,
    running: Vec<Entry>,
    // Lists of the running step; kept, so that a step allocates nothing.
    plan: Vec<Planned>,
    readers: Vec<(Due, usize)>,
    works: Vec<Work<'static>>,
}

/// What a running job contributes to a step.
#[derive(Clone, Copy)]
struct Planned {
    /// Which one of `running`.
    index: usize,
    /// Tokens.
    chunk: usize,
    /// Whether a token is to be drawn after them.
    draws: bool,
    /// Whether it writes: its tokens are the last one and the draft of what follows.
    writes: bool,
}

/// Figures of a [`Scheduler`] at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Jobs that wait.
    pub waiting: usize,
    /// Jobs that run.
    pub running: usize,
    /// Blocks of the cache.
    pub blocks: KvBlocks,
    /// Prompt tokens so far that were in the cache already.
    pub hit_tokens: u64,
    /// Drafted tokens so far.
    pub drafts: DraftCounts,
}

impl std::fmt::Debug for Scheduler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scheduler").field("load", &self.load()).finish_non_exhaustive()
    }
}

impl Scheduler {
    /// A scheduler over `decoder`, which has its pool to itself.
    pub fn new(decoder: Decoder, isa: Isa, limits: SchedulerLimits) -> Self {
        Self::with_seat(decoder, isa, limits, Arc::<Turns>::default().seat())
    }

    /// A scheduler over `decoder`, which shares its pool with the decoders of other seats.
    pub fn with_seat(decoder: Decoder, isa: Isa, limits: SchedulerLimits, seat: Seat) -> Self {
        // All who write must fit into one pass.
        let running_max = limits.running_max.min(decoder.batch_tokens());
        let limits = SchedulerLimits { running_max, ..limits };
        Scheduler {
            model: decoder.model().clone(),
            batch_tokens: decoder.batch_tokens(),
            decoder: Arc::new(SharedDecoder::new(decoder)),
            isa,
            limits,
            seat,
            pace: Pace::default(),
            speculation: None,
            arrivals: 0,
            hit_tokens: 0,
            waiting: Vec::new(),
            running: Vec::with_capacity(limits.running_max),
            plan: Vec::new(),
            readers: Vec::new(),
            works: Vec::new(),
        }
    }

    /// Lets its jobs' tokens be drafted.
    #[must_use]
    pub fn with_speculation(mut self, speculation: Speculation) -> Self {
        self.speculation = Some(speculation);
        self
    }

    /// The model.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// The decoder, for drafters of other models' tokens.
    pub fn decoder(&self) -> &Arc<SharedDecoder> {
        &self.decoder
    }

    /// How its jobs' tokens are drafted.
    pub fn speculation(&self) -> Option<&Speculation> {
        self.speculation.as_ref()
    }

    /// How much there is to do, and what it holds.
    pub fn load(&self) -> Load {
        let (waiting, running) = (self.waiting.len(), self.running.len());
        let drafts = self.speculation.as_ref().map_or_else(DraftCounts::default, Speculation::counts);
        let blocks = self.decoder.lock().decoder.blocks();
        Load { waiting, running, blocks, hit_tokens: self.hit_tokens, drafts }
    }

    /// Longest prompt and answer of one job.
    fn context_tokens(&self) -> usize {
        self.model.spec().context_tokens.min(self.limits.kv_tokens)
    }

    /// Queues a job, or tells its sink why not: the queue is full, or it can never run.
    pub fn submit(&mut self, mut job: Job) {
        self.waiting.retain(|entry| !entry.job.sink.is_closed());
        if let Err(error) = self.check(&job) {
            return job.sink.refuse(&error);
        }
        let prompt = job.prompt.len();
        let written_max = job.max_tokens.unwrap_or(self.context_tokens() - prompt);
        let scope = self.decoder.scope(job.client.as_ref());
        self.arrivals += 1;
        let timing = (self.pace.prompt_ms(prompt), self.arrivals);
        self.waiting.push(Entry::new(job, (self.isa, scope), written_max, timing));
    }

    fn check(&self, job: &Job) -> Result<(), SubmitError> {
        let context = self.context_tokens();
        let prompt = job.prompt.len();
        let answer = job.max_tokens.unwrap_or(1);
        if prompt == 0 {
            return Err(SubmitError::EmptyPrompt);
        }
        let vocabulary = self.model.vocabulary();
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

    /// Does one step, when it is this model's turn. False if there was nothing to do.
    pub fn step(&mut self) -> bool {
        self.drop_unwanted();
        self.admit();
        if self.running.is_empty() {
            self.seat.tell(None);
            return self.prepare();
        }
        self.schedule();
        if self.plan.is_empty() {
            // All wait for somebody's word.
            self.seat.tell(None);
            return false;
        }
        self.draft();
        self.run();
        self.settle();
        true
    }

    /// Forgets jobs that nobody waits for, or not any more.
    fn drop_unwanted(&mut self) {
        let now = Instant::now();
        for entry in self.waiting.iter_mut().chain(&mut self.running) {
            if entry.job.sink.is_closed() {
                entry.end = Some(End::Cancelled);
            } else if entry.job.deadline.is_some_and(|deadline| deadline <= now) {
                entry.end = Some(End::Expired);
            }
        }
        self.waiting.extract_if(.., |entry| entry.end.is_some()).for_each(Entry::leave);
        self.settle();
    }

    /// Starts waiting jobs while there is room. Where the first in line finds none, the others wait too.
    fn admit(&mut self) {
        while let Some(index) = self.first_in_line() {
            let priority = self.waiting[index].due.priority;
            while !self.start(index) {
                let newest = self.running.iter().map(|entry| entry.due).max();
                match newest {
                    // What runs in the background makes way.
                    Some(due) if due.priority > priority => self.step_back(due),
                    _ => return,
                }
            }
        }
    }

    /// The job to start next: by priority, then the client who has the fewest running, then when it is due.
    fn first_in_line(&self) -> Option<usize> {
        let served = |scope: u64| self.running.iter().filter(|entry| entry.scope == scope).count();
        let rank = |entry: &Entry| (entry.due.priority, served(entry.scope), entry.due);
        (0..self.waiting.len()).min_by_key(|&index| rank(&self.waiting[index]))
    }

    /// Gives a waiting job its place. False if there is none.
    fn start(&mut self, index: usize) -> bool {
        if self.running.len() >= self.limits.running_max {
            return false;
        }
        let entry = &mut self.waiting[index];
        // The prompt, and the beginning of an answer.
        let ahead = (entry.written_max - entry.written()).min(BLOCK_POSITIONS);
        entry.promised = entry.tokens.len() + ahead;
        let held = &mut *self.decoder.lock();
        let (sequence, cached) = loop {
            if let Some(found) = place(&mut held.decoder, entry) {
                break found;
            }
            if !held.make_room() {
                return false;
            }
        };
        let mut entry = self.waiting.remove(index);
        self.hit_tokens += cached as u64;
        entry.start(sequence, cached);
        self.running.push(entry);
        true
    }

    /// Sends a running job back into the queue.
    fn step_back(&mut self, due: Due) {
        let Some(index) = self.running.iter().position(|entry| entry.due == due) else { return };
        let mut entry = self.running.remove(index);
        if let Some(sequence) = entry.step_back() {
            self.decoder.lock().decoder.end(sequence);
        }
        self.waiting.push(entry);
    }

    /// Chooses what each running job contributes: first those that write, then prompts as they are due.
    fn schedule(&mut self) {
        self.make_room();
        self.plan.clear();
        self.readers.clear();
        for (index, entry) in self.running.iter().enumerate() {
            if entry.is_held() {
                continue;
            }
            if entry.is_writing() {
                self.plan.push(Planned { index, chunk: 1, draws: true, writes: true });
            } else {
                self.readers.push((entry.due, index));
            }
        }
        let writing = self.plan.len();
        let mut room = self.batch_tokens - writing;
        let own = if writing > 0 { self.pace.step_ms() } else { None };
        let others = self.seat.others_step_ms();
        self.seat.tell(own);
        if writing > 0 || others.is_some() {
            let shortest = own.into_iter().chain(others).min_by(f64::total_cmp);
            room = room.min(self.pace.chunk_tokens(shortest, (writing, self.readers.len())));
            if writing > 0 && self.pace.is_due_a_look() {
                room = 0;
            }
        }
        self.readers.sort_unstable();
        for &(_, index) in &self.readers {
            let left = self.running[index].unread();
            let chunk = left.min(room);
            if chunk > 0 {
                self.plan.push(Planned { index, chunk, draws: chunk == left, writes: false });
                room -= chunk;
            }
        }
    }

    /// Sees to it that everyone who writes has room for the next token, and for a draft if there is.
    fn make_room(&mut self) {
        let mut index = 0;
        while let Some(entry) = self.running.get_mut(index) {
            let Some(sequence) = entry.sequence else { break };
            let left = entry.written_max - entry.written();
            let draft = if self.speculation.is_some() { left.min(DRAFT_TOKENS_MAX) } else { 0 };
            if entry.tokens.len() + draft <= entry.promised {
                index += 1;
                continue;
            }
            let wanted = entry.tokens.len() + left.min(BLOCK_POSITIONS);
            let has_room = self.decoder.lock().promise(sequence, wanted);
            if has_room {
                entry.promised = wanted;
            }
            if has_room || entry.tokens.len() <= entry.promised {
                index += 1;
                continue;
            }
            let Some(last) = self.running.iter().map(|entry| entry.due).max() else { break };
            // Perhaps this one itself: then its place is another's.
            self.step_back(last);
            index = 0;
        }
    }

    /// One forward pass, and what it means for each job of the plan.
    fn run(&mut self) {
        let mut works: Vec<Work> = emptied(std::mem::take(&mut self.works));
        works.extend(self.plan.iter().filter_map(|planned| {
            let entry = &self.running[planned.index];
            let sequence = entry.sequence?;
            Some(match (planned.writes, planned.draws) {
                (true, _) => Work { sequence, tokens: &entry.ahead, logits: Logits::All },
                (false, draws) => Work {
                    sequence,
                    tokens: &entry.tokens[entry.read..entry.read + planned.chunk],
                    logits: if draws { Logits::Last } else { Logits::None },
                },
            })
        }));
        let turn = self.seat.take();
        let shared = self.decoder.clone();
        let held = &mut *shared.lock();
        let began = Instant::now();
        let result = held.decoder.forward(&works).map(|_| ());
        let took_ms = milliseconds(began, Instant::now());
        drop(turn);
        self.works = emptied(works);
        if let Err(error) = result {
            for planned in &self.plan {
                self.running[planned.index].end = Some(End::Failed(error.clone()));
            }
            return;
        }
        for planned in &self.plan {
            self.running[planned.index].keep_token_states(&held.decoder);
        }
        let mut rest = held.decoder.logits();
        for planned in self.plan.iter_mut().filter(|planned| planned.draws) {
            let entry = &mut self.running[planned.index];
            let rows;
            (rows, rest) = rest.split_at((1 + entry.draft.ids().len()) * self.model.vocabulary());
            entry.tell_reading(&held.decoder, rows);
            let right = entry.write(&self.model, rows);
            if planned.writes {
                if let (Some(speculation), false) = (&mut self.speculation, entry.draft.ids().is_empty()) {
                    speculation.learn(entry, right);
                }
                planned.chunk = 1 + right;
            }
        }
        self.note(held, took_ms, milliseconds(began, Instant::now()));
    }

    /// Counts what the step has read, and how long it took: the pass, and with what follows from it.
    fn note(&mut self, held: &mut Held, pass_ms: f64, step_ms: f64) {
        let (mut writers, mut writing, mut reading) = (0, 0, 0);
        for &Planned { index, chunk, writes, .. } in &self.plan {
            let entry = &mut self.running[index];
            let read = entry.read..entry.read + chunk;
            if writes {
                writers += 1;
                writing += entry.ahead.len();
            } else {
                reading += chunk;
            }
            if let Some(sequence) = entry.sequence {
                if writes && chunk < entry.ahead.len() {
                    held.decoder.truncate(sequence, read.end);
                }
                held.decoder.settle(sequence, &entry.tokens[read.clone()]);
            }
            entry.read = read.end;
        }
        let drafted =
            self.speculation.as_ref().map_or(1.0, |s| s.costs().ratio(writing + reading, writers + reading));
        self.pace.note((writers, reading), pass_ms / drafted);
        if let (Some(speculation), 0) = (&mut self.speculation, reading) {
            let tokens = self.plan.iter().map(|planned| planned.chunk).sum();
            if let Some(time) = speculation.note((self.plan.len(), writing, tokens), step_ms) {
                for &Planned { index, chunk, .. } in &self.plan {
                    self.running[index].gain.iter_mut().for_each(|gain| gain.note(chunk as f64, time));
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
            let mut entry = self.running.remove(index);
            if let Some(sequence) = entry.step_back() {
                self.decoder.lock().decoder.end(sequence);
            }
            if let Some(speculation) = &mut self.speculation {
                speculation.end(&entry);
            }
            entry.leave();
        }
    }
}

/// A sequence for a waiting job, with what the cache has of its text, and how much that is. `None` if there is
/// no room.
fn place(decoder: &mut Decoder, entry: &Entry) -> Option<(SequenceId, usize)> {
    let known = if entry.reads_afresh() { &[] } else { &entry.tokens[..] };
    let (sequence, cached) = decoder.begin_with(entry.scope, known).ok()?;
    if !decoder.promise(sequence, entry.promised) {
        decoder.end(sequence);
        return None;
    }
    Some((sequence, cached))
}
