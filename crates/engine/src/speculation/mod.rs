//! Speculative decoding: drafters guess the next tokens, the target model verifies them in one step.
//!
//! What is written is what the target would have written by itself (see [`crate::sampling::Sampler::verify`]);
//! how much is drafted depends on what it gains ([`costs`]). One file per [`Drafter`]; [`chain`] lets each job
//! have the one that offers most.

pub mod chain;
pub mod costs;
pub mod model;
pub mod prompt_lookup;
mod shares;
pub mod suffix;
pub mod vocabulary;

use std::sync::Arc;

use self::costs::Terms;
use crate::sampling::{Proposal, Sampler};

/// Drafted tokens of one job in one step, at most: with the one before them they fill two tiles.
pub const DRAFT_TOKENS_MAX: usize = 15;

/// Drafted tokens of all jobs in one step.
pub const STEP_DRAFT_TOKENS: usize = 24;

/// What a drafter is told of a job that writes.
#[derive(Debug)]
pub struct DraftJob<'a> {
    /// Its number, the same from step to step.
    pub id: u64,
    /// Whose it is.
    pub client: Option<&'a Arc<str>>,
    /// The prompt and what was written since.
    pub text: &'a [u32],
    /// Tokens that it will probably still write.
    pub expected_tokens: usize,
    /// Longest draft that has room.
    pub limit: usize,
    /// The best that was offered for it in this step so far.
    pub offered: f64,
    /// The samplers that drafts go through, as the target's tokens do.
    pub sampler: &'a mut Sampler,
    /// Where the draft goes; empty before.
    pub draft: &'a mut Draft,
}

/// Guessed tokens of one job for one step.
#[derive(Debug, Default)]
pub struct Draft {
    /// Which drafter of a chain guessed.
    pub drafter: usize,
    /// How many tokens before the draft spoke for it, of drafters that go by that.
    pub matched: usize,
    ids: Vec<u32>,
    /// Of each token; those behind the last are kept for the next time.
    proposals: Vec<Proposal>,
}

impl Draft {
    /// The tokens.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// What is known of each token.
    pub fn proposals(&self) -> &[Proposal] {
        &self.proposals[..self.ids.len()]
    }

    /// Forgets the tokens.
    pub fn clear(&mut self) {
        self.ids.clear();
    }

    /// Adds a token that was found, not drawn, and the chance that it is right.
    pub fn push(&mut self, id: u32, probability: f32) {
        self.next().fix(id, probability);
        self.ids.push(id);
    }

    /// Adds the token that `sampler` proposes after the text and this draft, given a drafter's logits.
    /// Returns the drafter's probability of it.
    pub fn propose(&mut self, sampler: &mut Sampler, logits: &[f32]) -> f32 {
        self.next();
        let proposal = &mut self.proposals[self.ids.len()];
        sampler.propose(logits, &self.ids, proposal);
        self.ids.push(proposal.id);
        proposal.probability
    }

    /// Room for one more proposal.
    fn next(&mut self) -> &mut Proposal {
        if self.proposals.len() == self.ids.len() {
            self.proposals.push(Proposal::default());
        }
        &mut self.proposals[self.ids.len()]
    }

    /// Drops the last token.
    fn pop(&mut self) {
        self.ids.pop();
    }
}

/// Guesses what a model will write.
pub trait Drafter: Send {
    /// What configurations call it.
    fn name(&self) -> &'static str;

    /// What a draft for this job would gain, in expected tokens net of its cost; not above 0: it should have
    /// none.
    fn offer(&mut self, job: &DraftJob, terms: &Terms) -> f64;

    /// Drafts for jobs whose offers were taken, and takes the drafts' room from the terms. `others`: drafters whose
    /// guesses may help.
    fn draft(&mut self, jobs: &mut [DraftJob], terms: &mut Terms, others: &mut [Box<dyn Drafter>]);

    /// Guesses at no cost, for another drafter, what follows a job's text as of its last offer and `drafted` tokens:
    /// adds to `guesses` up to `limit` tokens with the chances that that drafter drafts the same up to each.
    fn guess(&mut self, _job: u64, _drafted: &[u32], _limit: usize, _guesses: &mut Vec<(u32, f64)>) {}

    /// Hears how many tokens of its last guess for a job were drafted, and whether the next one was another.
    fn learn_guess(&mut self, _job: u64, _right: usize, _is_wrong: bool) {}

    /// Hears how many tokens of its draft were right.
    fn learn(&mut self, job: u64, draft: &Draft, accepted: usize);

    /// Hears that a job has ended, and what text it leaves.
    fn end(&mut self, job: u64, client: Option<&Arc<str>>, answer: &[u32]);

    /// Called while there is nothing else to do. True if it has used the time.
    fn prepare(&mut self) -> bool {
        false
    }

    /// Milliseconds that drafting one token takes.
    fn draft_ms(&self) -> f64 {
        0.0
    }
}
