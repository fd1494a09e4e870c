//! A scheduler's part in speculative decoding: when jobs are drafted for, and what is learnt from it.

use std::time::Instant;

use super::entry::{Entry, milliseconds};
use super::{Planned, Scheduler};
use crate::decoder::Pass;
use crate::recycle::emptied;
use crate::speculation::chain::Chain;
use crate::speculation::costs::{Gain, StepCosts, Terms};
use crate::speculation::{DRAFT_TOKENS_MAX, DraftJob, STEP_DRAFT_TOKENS};

/// Tokens of an answer, before any was seen.
const ANSWER_TOKENS: f64 = 128.0;
/// Weight of the newest answer in their running mean.
const NEWEST_ANSWER: f64 = 0.1;
/// Drafted tokens of a step that reads of prompts, too: these hold writers up enough.
const DRAFT_TOKENS_BESIDE: usize = 8;

/// Drafted tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DraftCounts {
    /// Those that were written.
    pub accepted: u64,
    /// Those that were not.
    pub rejected: u64,
}

/// How a scheduler's jobs are drafted for.
pub struct Speculation {
    drafters: Chain,
    costs: StepCosts,
    gain: Gain,
    /// What was measured so far, until the costs are known.
    points: Vec<(usize, f64)>,
    answer_tokens: f64,
    counts: DraftCounts,
    /// Of each place in a draft: tokens that were reached, and of these the right ones.
    places: [(u64, u64); DRAFT_TOKENS_MAX],
    /// Steps with and without drafts: tokens and milliseconds, and what one token a job would have taken.
    measured: Measured,
    /// Of the running step: what drafting took, and the tokens and milliseconds to expect of it.
    draft_ms: f64,
    expected: (f64, f64),
    jobs: Vec<DraftJob<'static>>,
}

/// What writing took, and what it was expected to take.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Measured {
    /// Steps in which nothing but writing was done.
    pub steps: u64,
    /// Tokens that they wrote.
    pub tokens: u64,
    /// What they took, drafting included.
    pub ms: f64,
    /// What the same tokens would have taken one by one, by the costs of steps.
    pub plain_ms: f64,
    /// Tokens that these steps should have written, by the estimates that the drafts were chosen by.
    pub expected_tokens: f64,
    /// What they should have taken.
    pub expected_ms: f64,
}

impl Measured {
    /// How much faster writing was than without drafts; 1 if nothing was written.
    pub fn speedup(&self) -> f64 {
        if self.ms > 0.0 { self.plain_ms / self.ms } else { 1.0 }
    }

    /// How much faster it should have been.
    pub fn expected_speedup(&self) -> f64 {
        if self.expected_ms > 0.0 && self.tokens > 0 {
            self.expected_tokens / self.expected_ms * self.plain_ms / self.tokens as f64
        } else {
            1.0
        }
    }
}

impl std::fmt::Debug for Speculation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Speculation").field("drafters", &self.drafters.names()).finish_non_exhaustive()
    }
}

impl Speculation {
    /// Drafts with `drafters`; step costs are measured when there is nothing else to do.
    pub fn new(drafters: Chain) -> Self {
        Speculation {
            drafters,
            costs: StepCosts::default(),
            gain: Gain::default(),
            points: Vec::new(),
            answer_tokens: ANSWER_TOKENS,
            counts: DraftCounts::default(),
            places: [(0, 0); DRAFT_TOKENS_MAX],
            measured: Measured::default(),
            draft_ms: 0.0,
            expected: (0.0, 0.0),
            jobs: Vec::new(),
        }
    }

    /// With known step costs, which then are not measured.
    #[must_use]
    pub fn with_costs(mut self, costs: StepCosts) -> Self {
        self.costs = costs;
        self
    }

    /// Drafted tokens so far.
    pub fn counts(&self) -> DraftCounts {
        self.counts
    }

    /// Milliseconds that drafting one token takes, by the slowest drafter.
    pub fn draft_ms(&self) -> f64 {
        self.drafters.draft_ms()
    }

    /// What steps take.
    pub fn costs(&self) -> &StepCosts {
        &self.costs
    }

    /// Of each place in a draft: how many tokens were reached there, and how many of these were right.
    pub fn places(&self) -> &[(u64, u64)] {
        &self.places
    }

    /// What writing took.
    pub fn measured(&self) -> Measured {
        self.measured
    }

    /// Takes in how much of a job's draft was right.
    pub(super) fn learn(&mut self, entry: &Entry, right: usize) {
        let drafted = entry.draft.ids().len();
        self.drafters.learn(entry.due.arrival, &entry.draft, right);
        self.counts.accepted += right as u64;
        self.counts.rejected += (drafted - right) as u64;
        for (place, (reached, accepted)) in self.places.iter_mut().take(drafted.min(right + 1)).enumerate() {
            *reached += 1;
            *accepted += u64::from(place < right);
        }
    }

    /// Takes a step in which nothing was read: its writers, the tokens they read, the tokens they wrote, and what
    /// it took without drafting. Returns what it took with that, in steps of as many writers without drafts, unless
    /// that says nothing of what drafts gain.
    pub(super) fn note(
        &mut self,
        (writers, columns, tokens): (usize, usize, usize),
        step_ms: f64,
    ) -> Option<f64> {
        let plain = self.costs.at(writers);
        self.costs.note(columns, step_ms);
        // Steps of jobs that want no drafts say nothing.
        (plain > 0.0 && self.expected.1 > 0.0).then(|| {
            let ms = step_ms + self.draft_ms;
            self.gain.note(tokens as f64 / writers as f64, ms / plain);
            self.measured.steps += 1;
            self.measured.tokens += tokens as u64;
            self.measured.ms += ms;
            self.measured.plain_ms += plain * tokens as f64 / writers as f64;
            self.measured.expected_tokens += self.expected.0;
            self.measured.expected_ms += self.expected.1;
            ms / plain
        })
    }

    /// Takes in that a job has ended.
    pub(super) fn end(&mut self, entry: &Entry) {
        let answer = &entry.tokens[entry.prompt_tokens..];
        self.drafters.end(entry.due.arrival, entry.job.client.as_ref(), answer);
        self.answer_tokens += NEWEST_ANSWER * (answer.len() as f64 - self.answer_tokens);
    }
}

impl Scheduler {
    /// Has drafts made for those who write.
    pub(super) fn draft(&mut self) {
        let Scheduler { plan, running, speculation, .. } = self;
        let writers = plan.iter().filter(|planned| planned.writes).count();
        let reading = plan.iter().filter(|planned| !planned.writes).map(|planned| planned.chunk).sum();
        running.iter_mut().for_each(|entry| entry.draft.clear());
        if let Some(speculation) = speculation.as_mut().filter(|s| s.costs.is_known() && writers > 0) {
            let Speculation { drafters, costs, gain, answer_tokens, draft_ms, expected, jobs: kept, .. } =
                speculation;
            let began = Instant::now();
            let room_max = if reading > 0 { DRAFT_TOKENS_BESIDE } else { STEP_DRAFT_TOKENS };
            let room = room_max.min(self.batch_tokens - writers - reading);
            let mut jobs: Vec<DraftJob> = emptied(std::mem::take(kept));
            let wants =
                |entry: &&mut Entry| entry.is_writing() && entry.job.speculative && entry.draft_limit() > 0;
            let mut gains = 0.0;
            jobs.extend(running.iter_mut().filter(wants).map(|entry| {
                gains += entry.gain.get_or_insert(gain.of_job()).factor();
                entry.draft_job(*answer_tokens)
            }));
            let mean = if jobs.is_empty() { 1.0 } else { gains / jobs.len() as f64 };
            let mut terms = Terms::new(costs, mean, (writers, reading), room);
            drafters.draft(&mut jobs, &mut terms);
            *expected = if jobs.is_empty() { (0.0, 0.0) } else { terms.expected() };
            *kept = emptied(jobs);
            *draft_ms = milliseconds(began, Instant::now());
        }
        for Planned { index, chunk, .. } in plan.iter_mut().filter(|planned| planned.writes) {
            let Entry { ahead, tokens, draft, .. } = &mut running[*index];
            ahead.clear();
            ahead.extend(tokens.last());
            ahead.extend(draft.ids());
            *chunk = ahead.len();
        }
    }

    /// Uses a pause to measure what steps take. False if that is known.
    pub(super) fn prepare(&mut self) -> bool {
        let Some(speculation) = &mut self.speculation else { return false };
        if speculation.costs.is_known() {
            return speculation.drafters.prepare();
        }
        let width = StepCosts::MEASURED[speculation.points.len() % StepCosts::MEASURED.len()];
        let _turn = self.seat.take();
        let Some(ms) = self.decoder.lock().pass_ms(width, Pass::Step) else { return false };
        speculation.points.push((width, ms));
        if speculation.points.len() == StepCosts::ROUNDS * StepCosts::MEASURED.len() {
            speculation.costs = StepCosts::measured(&std::mem::take(&mut speculation.points));
        }
        true
    }
}
