//! The guards of one request on its way: [`Guarding`]. The request is guarded before anybody else sees it, the
//! answer between its release and its leaving.

use std::sync::Arc;

use contract::{Delta, GuardAction, GuardRecord, Request};
use policy::guards::asked::{AskedLink, Holdback};
use policy::guards::redact::Vault;
use policy::guards::{Chain, Guarded, OutputGuard};

use super::FlowError;
use super::locating::looks_at_requests;

/// What guards said, and those that stand at the exit.
pub(super) struct Guarding {
    input: Vec<GuardRecord>,
    refusal: Option<FlowError>,
    output: Option<OutputGuard>,
    /// The request's values.
    vault: Arc<Vault>,
    /// Whether guards that redact have not seen the request yet.
    pub(super) is_unlocated: bool,
    /// Keeps the answer until guards that ask a model have judged it.
    holdback: Option<Holdback>,
    /// What those said of the answer, one record a guard.
    judged: Vec<GuardRecord>,
    is_stopped: bool,
    /// What asking cost, US dollars.
    pub(super) cost_usd: f64,
}

impl Guarding {
    /// Guards the request in place, as far as no model is asked.
    pub(super) fn new(chain: &Chain, request: &mut Request) -> Self {
        let Guarded { records, blocked, vault } = chain.input(request);
        let refusal =
            blocked.map(|record| FlowError::Guarded { reason: record.reason(), guard: record.guard });
        let at_exit = chain.asked().iter().filter(|link| link.looks_at(contract::Channel::Output));
        let window_tokens = at_exit.map(AskedLink::window_tokens).min();
        let redacts = |link: &AskedLink| {
            link.locates() && link.action() == GuardAction::Redact && looks_at_requests(link)
        };
        let vault = Arc::new(vault);
        Guarding {
            input: records,
            refusal,
            output: chain.output(&vault),
            vault,
            is_unlocated: chain.asked().iter().any(redacts),
            holdback: window_tokens.map(Holdback::new),
            judged: Vec::new(),
            is_stopped: false,
            cost_usd: 0.0,
        }
    }

    /// Why the request is refused, if it is.
    pub(super) fn refusal(&self) -> Option<FlowError> {
        self.refusal.clone()
    }

    /// The values that placeholders of the request stand for.
    pub(super) fn vault(&self) -> Vault {
        (*self.vault).clone()
    }

    /// Takes further values in, before anything of an answer is there.
    pub(super) fn put_values(&mut self, chain: &Chain, vault: Vault) {
        self.vault = Arc::new(vault);
        self.output = chain.output(&self.vault);
    }

    /// Adds what guards that ask a model said of the request.
    pub(super) fn add_input(&mut self, records: Vec<GuardRecord>) {
        self.input.extend(records);
    }

    /// What of a released piece may leave now.
    pub(super) fn pass(&mut self, delta: Delta) -> Option<Delta> {
        let delta = match &mut self.output {
            Some(guard) => guard.push(delta),
            None => delta,
        };
        self.hold(delta)
    }

    /// What was held back of an answer that is complete. What is still to be judged comes later.
    pub(super) fn rest(&mut self) -> Option<Delta> {
        let rest = self.output.as_mut().map(OutputGuard::finish);
        let rest = rest.and_then(|rest| self.hold(rest));
        self.holdback.iter_mut().for_each(Holdback::close);
        rest
    }

    fn hold(&mut self, delta: Delta) -> Option<Delta> {
        match &mut self.holdback {
            None => Some(delta),
            Some(_) if self.is_stopped => None,
            Some(holdback) => {
                holdback.push(delta);
                None
            }
        }
    }

    /// What of the answer models are to be asked about before more of it leaves.
    pub(super) fn due(&self) -> Option<String> {
        self.holdback.as_ref().and_then(Holdback::due)
    }

    /// Takes in what they said of it; gives what leaves.
    pub(super) fn add_output(&mut self, records: Vec<GuardRecord>, is_refused: bool) -> Vec<Delta> {
        for record in records {
            match self.judged.iter_mut().find(|known| known.guard == record.guard) {
                Some(known) => known.merge(record),
                None => self.judged.push(record),
            }
        }
        if is_refused {
            self.stop();
        }
        self.holdback.as_mut().map(Holdback::pass).unwrap_or_default()
    }

    /// Nothing leaves any more.
    pub(super) fn stop(&mut self) {
        self.is_stopped = true;
        self.holdback.iter_mut().for_each(Holdback::stop);
    }

    /// Whether a guard ended the answer.
    pub(super) fn has_ended(&self) -> bool {
        self.is_stopped || self.output.as_ref().is_some_and(OutputGuard::is_blocked)
    }

    /// What was found so far.
    pub(super) fn records(&self) -> Vec<GuardRecord> {
        let output = self.output.iter().flat_map(OutputGuard::records);
        self.input.iter().chain(output).chain(&self.judged).cloned().collect()
    }
}
