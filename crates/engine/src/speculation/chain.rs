//! Several drafters as one: each job gets the one that offers most ([`Chain`]).

use std::sync::Arc;

use super::costs::Terms;
use super::{DRAFT_TOKENS_MAX, Draft, DraftJob, Drafter};

/// Drafters, first preferred among equals.
pub struct Chain {
    drafters: Vec<Box<dyn Drafter>>,
    names: String,
    tokens_max: usize,
}

impl Chain {
    /// A chain of `drafters`.
    pub fn new(drafters: Vec<Box<dyn Drafter>>) -> Self {
        let names: Vec<&str> = drafters.iter().map(|drafter| drafter.name()).collect();
        Chain { names: names.join(" + "), drafters, tokens_max: DRAFT_TOKENS_MAX }
    }

    /// With drafts of at most `tokens` tokens.
    #[must_use]
    pub fn limited_to(self, tokens: usize) -> Self {
        Chain { tokens_max: tokens.min(DRAFT_TOKENS_MAX), ..self }
    }

    /// Its drafters' names.
    pub fn names(&self) -> &str {
        &self.names
    }

    /// Drafts for those jobs that gain by it.
    pub fn draft(&mut self, jobs: &mut [DraftJob], terms: &mut Terms) {
        let nobody = self.drafters.len();
        for job in jobs.iter_mut() {
            job.limit = job.limit.min(self.tokens_max);
            let mut best = (nobody, 0.0);
            for (index, drafter) in self.drafters.iter_mut().enumerate() {
                let offer = drafter.offer(job, terms);
                if offer > best.1 {
                    best = (index, offer);
                    job.offered = offer;
                }
            }
            job.draft.drafter = best.0;
        }
        jobs.sort_unstable_by_key(|job| job.draft.drafter);
        let mut rest = jobs;
        for index in 0..nobody {
            let count = rest.iter().take_while(|job| job.draft.drafter == index).count();
            let (chosen, left) = rest.split_at_mut(count);
            let (before, drafter) = self.drafters.split_at_mut(index);
            if !chosen.is_empty() {
                drafter[0].draft(chosen, terms, before);
            }
            rest = left;
        }
    }

    /// Tells the drafter of a draft how much of it was right.
    pub fn learn(&mut self, job: u64, draft: &Draft, accepted: usize) {
        if let Some(drafter) = self.drafters.get_mut(draft.drafter) {
            drafter.learn(job, draft, accepted);
        }
    }

    /// Tells all that a job has ended.
    pub fn end(&mut self, job: u64, client: Option<&Arc<str>>, answer: &[u32]) {
        self.drafters.iter_mut().for_each(|drafter| drafter.end(job, client, answer));
    }

    /// Lets one of them prepare. True if it did.
    pub fn prepare(&mut self) -> bool {
        self.drafters.iter_mut().any(|drafter| drafter.prepare())
    }

    /// What drafting one token takes, by the slowest of them.
    pub fn draft_ms(&self) -> f64 {
        self.drafters.iter().map(|drafter| drafter.draft_ms()).fold(0.0, f64::max)
    }
}
