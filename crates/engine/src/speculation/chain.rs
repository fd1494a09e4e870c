//! Several drafters as one: each job gets the one that offers most ([`Chain`]).

use std::sync::Arc;

use super::costs::Terms;
use super::{Draft, DraftJob, Drafter};

/// Drafters, first preferred among equals.
#[derive(Default)]
pub struct Chain {
    drafters: Vec<Box<dyn Drafter>>,
    names: String,
}

impl Chain {
    /// A chain of `drafters`.
    pub fn new(drafters: Vec<Box<dyn Drafter>>) -> Self {
        let names: Vec<&str> = drafters.iter().map(|drafter| drafter.name()).collect();
        Chain { names: names.join(" + "), drafters }
    }

    /// Its drafters' names.
    pub fn names(&self) -> &str {
        &self.names
    }

    /// Drafts for those jobs that gain by it.
    pub fn draft(&mut self, jobs: &mut [DraftJob], terms: &mut Terms) {
        let nobody = self.drafters.len();
        for job in jobs.iter_mut() {
            let mut best = (nobody, 0.0);
            for (index, drafter) in self.drafters.iter_mut().enumerate() {
                let offer = drafter.offer(job, terms);
                if offer > best.1 {
                    best = (index, offer);
                }
            }
            job.draft.drafter = best.0;
        }
        jobs.sort_unstable_by_key(|job| job.draft.drafter);
        let mut rest = jobs;
        for (index, drafter) in self.drafters.iter_mut().enumerate() {
            let count = rest.iter().take_while(|job| job.draft.drafter == index).count();
            let (chosen, others) = rest.split_at_mut(count);
            if !chosen.is_empty() {
                drafter.draft(chosen, terms);
            }
            rest = others;
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

    /// Names of its drafters, and why each does not draft at present, if it does not.
    pub fn states(&self) -> Vec<(&'static str, Option<String>)> {
        self.drafters.iter().map(|drafter| (drafter.name(), drafter.idle_reason())).collect()
    }
}
