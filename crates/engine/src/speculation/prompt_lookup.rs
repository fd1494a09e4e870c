//! Drafts what followed the text's end where it stood before: in the prompt, the answer so far, or recent
//! answers of the same client ("prompt look-up", Saxena 2023; LLMA, Yang et al. 2023). To a draft model it says what
//! it would guess, which that can read in one pass instead of writing it token by token.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use super::costs::Terms;
use super::shares::{Probe, Share};
use super::suffix::{Match, SuffixIndex};
use super::{DRAFT_TOKENS_MAX, Draft, DraftJob, Drafter};

/// Answers that are remembered.
const ANSWERS_MAX: usize = 16;
/// Of these, answers that a new job of the same client looks into.
const ANSWERS_OF_CLIENT: usize = 4;
/// Tokens that are kept of an answer, from its start.
const ANSWER_TOKENS_MAX: usize = 1024;

/// Lengths of matches from which a class of them starts: long ones are right more often.
const CLASSES: [usize; 7] = [0, 3, 4, 6, 9, 13, 20];
/// What to expect of a class before anything was seen.
const EXPECTED: [f64; 7] = [0.25, 0.35, 0.5, 0.65, 0.8, 0.85, 0.9];

/// The drafter.
#[derive(Default)]
pub struct PromptLookup {
    jobs: HashMap<u64, State>,
    answers: VecDeque<(Option<Arc<str>>, Vec<u32>)>,
    seen: Seen,
    /// Of the running draft; kept for the next.
    found: Vec<u32>,
}

/// Shares of right tokens by [`CLASSES`].
#[derive(Clone, Copy)]
struct Shares([Share; CLASSES.len()]);

impl Default for Shares {
    fn default() -> Self {
        Shares(EXPECTED.map(Share::expected))
    }
}

impl Shares {
    fn class(matched: usize) -> usize {
        CLASSES.partition_point(|&from| from <= matched) - 1
    }

    fn note(&mut self, matched: usize, is_right: bool) {
        self.0[Self::class(matched)].note(is_right);
    }

    /// Chances that a draft after `matched` tokens is right up to its first, second, … token. Each right
    /// one makes the match longer.
    fn chances(&self, matched: usize) -> impl Iterator<Item = f64> {
        let right = move |more: usize| self.0[Self::class(matched + more)].mean();
        (0..DRAFT_TOKENS_MAX).scan(1.0, move |all, more| {
            *all *= right(more);
            Some(*all)
        })
    }
}

/// Shares of right tokens, of drafts and of guesses.
#[derive(Clone, Copy, Default)]
struct Seen {
    drafts: Shares,
    guesses: Shares,
}

/// What it knows of a job.
struct State {
    index: SuffixIndex,
    /// Tokens of the job's text in the index.
    read: usize,
    found: Option<Match>,
    /// Tokens that spoke for the last guess.
    guessed: usize,
    seen: Seen,
    probe: Probe,
}

impl PromptLookup {
    /// What configurations call it.
    pub const NAME: &'static str = "prompt-lookup";

    /// Bytes that it takes, at most, for so many jobs at once whose texts have `tokens` tokens in all.
    pub const fn bytes_max(jobs: usize, tokens: usize) -> usize {
        let answers = ANSWERS_MAX * ANSWER_TOKENS_MAX * size_of::<u32>();
        // Every index has room for the answer that is to come as well.
        let texts = SuffixIndex::bytes_max(2 * tokens);
        answers + texts + jobs * SuffixIndex::bytes_max(ANSWERS_OF_CLIENT * ANSWER_TOKENS_MAX)
    }

    fn state(&mut self, job: &DraftJob) -> &mut State {
        let PromptLookup { jobs, answers, seen, .. } = self;
        let state = jobs.entry(job.id).or_insert_with(|| {
            let of_client = answers.iter().rev().filter(|(client, _)| client.as_ref() == job.client);
            let recent: Vec<&[u32]> = of_client.take(ANSWERS_OF_CLIENT).map(|(_, text)| &text[..]).collect();
            let tokens = recent.iter().map(|text| text.len()).sum::<usize>();
            let mut index = SuffixIndex::with_room(tokens + job.text.len() + job.expected_tokens);
            for text in recent.into_iter().rev() {
                index.extend(text);
                index.break_here();
            }
            State { index, read: 0, found: None, guessed: 0, seen: *seen, probe: Probe::default() }
        });
        state.index.extend(&job.text[state.read..]);
        state.read = job.text.len();
        state
    }
}

impl Drafter for PromptLookup {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn offer(&mut self, job: &DraftJob, terms: &Terms) -> f64 {
        let state = self.state(job);
        state.found = state.index.find();
        let Some(found) = state.found else { return 0.0 };
        let (_, gain) = terms.best_length(state.seen.drafts.chances(found.length).take(job.limit), 0.0);
        if gain <= 0.0 && state.probe.is_due() {
            return f64::MIN_POSITIVE;
        }
        gain
    }

    fn draft(&mut self, jobs: &mut [DraftJob], terms: &mut Terms, _: &mut [Box<dyn Drafter>]) {
        for job in jobs {
            let Some(state) = self.jobs.get_mut(&job.id) else { continue };
            let Some(found) = state.found else { continue };
            let chances = state.seen.drafts.chances(found.length).take(job.limit);
            // A probe is one token.
            let wanted = terms.best_length(chances, 0.0).0.max(1).min(terms.room());
            job.draft.matched = found.length;
            self.found.clear();
            state.index.continuation(found, &[], wanted, &mut self.found);
            let chances = || state.seen.drafts.chances(found.length);
            for (&id, chance) in self.found.iter().zip(chances()) {
                job.draft.push(id, chance as f32);
            }
            terms.take(chances().take(self.found.len()));
        }
    }

    fn guess(&mut self, job: u64, drafted: &[u32], limit: usize, guesses: &mut Vec<(u32, f64)>) {
        let Some(state) = self.jobs.get_mut(&job) else { return };
        let Some(found) = state.index.find_after(drafted) else { return };
        state.guessed = found.length;
        self.found.clear();
        state.index.continuation(found, drafted, limit, &mut self.found);
        guesses.extend(self.found.iter().copied().zip(state.seen.guesses.chances(found.length)));
    }

    fn learn_guess(&mut self, job: u64, right: usize, is_wrong: bool) {
        let Some(state) = self.jobs.get_mut(&job) else { return };
        for place in 0..right + usize::from(is_wrong) {
            for seen in [&mut self.seen, &mut state.seen] {
                seen.guesses.note(state.guessed + place, place < right);
            }
        }
    }

    fn learn(&mut self, job: u64, draft: &Draft, accepted: usize) {
        let Some(state) = self.jobs.get_mut(&job) else { return };
        for place in 0..draft.ids().len().min(accepted + 1) {
            for seen in [&mut self.seen, &mut state.seen] {
                seen.drafts.note(draft.matched + place, place < accepted);
            }
        }
        if accepted > 0 {
            state.probe.reset();
        }
    }

    fn end(&mut self, job: u64, client: Option<&Arc<str>>, answer: &[u32]) {
        self.jobs.remove(&job);
        if answer.is_empty() {
            return;
        }
        if self.answers.len() == ANSWERS_MAX {
            self.answers.pop_front();
        }
        self.answers.push_back((client.cloned(), answer[..answer.len().min(ANSWER_TOKENS_MAX)].to_vec()));
    }
}
