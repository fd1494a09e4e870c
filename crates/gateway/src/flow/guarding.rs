//! The guards of one request on its way: [`Guarding`]. The request is guarded before anybody else sees it, the
//! answer between its release and its leaving.

use std::sync::Arc;

use contract::{Delta, GuardRecord, Request};
use policy::guards::{Chain, Guarded, OutputGuard};

use super::FlowError;

/// What guards said, and the one that stands at the exit.
pub(super) struct Guarding {
    input: Vec<GuardRecord>,
    refusal: Option<FlowError>,
    output: Option<OutputGuard>,
}

impl Guarding {
    /// Guards the request in place.
    pub(super) fn new(chain: &Chain, request: &mut Request) -> Self {
        let Guarded { records, blocked, vault } = chain.input(request);
        let refusal =
            blocked.map(|record| FlowError::Guarded { reason: record.reason(), guard: record.guard });
        Guarding { input: records, refusal, output: chain.output(&Arc::new(vault)) }
    }

    /// Why the request is refused, if it is.
    pub(super) fn refusal(&self) -> Option<FlowError> {
        self.refusal.clone()
    }

    /// What of a released piece may leave now.
    pub(super) fn pass(&mut self, delta: Delta) -> Delta {
        match &mut self.output {
            Some(guard) => guard.push(delta),
            None => delta,
        }
    }

    /// What was held back of an answer that is complete.
    pub(super) fn rest(&mut self) -> Option<Delta> {
        self.output.as_mut().map(OutputGuard::finish)
    }

    /// Whether a guard ended the answer.
    pub(super) fn has_ended(&self) -> bool {
        self.output.as_ref().is_some_and(OutputGuard::is_blocked)
    }

    /// What was found so far.
    pub(super) fn records(&self) -> Vec<GuardRecord> {
        let output = self.output.iter().flat_map(OutputGuard::records);
        self.input.iter().chain(output).cloned().collect()
    }
}
