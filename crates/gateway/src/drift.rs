//! Whether live traffic is still what the policy's calibration was made on: [`Watched`] and its [`Watch`], which the
//! outcomes of requests feed. Beyond the limit a fallback policy decides.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use contract::{Attempt, Decision, Policy, Request, Role};
use policy::Calibration;
use policy::drift::{Drift, DriftState};

/// What is watched, and who decides once it has drifted.
pub struct Watched {
    /// What the policy obeys.
    pub calibration: Arc<Calibration>,
    /// Decides when traffic has drifted.
    pub fallback: Arc<dyn Policy>,
}

/// A calibration beside the traffic.
pub(crate) struct Watch {
    watched: Watched,
    drift: Mutex<Drift>,
}

impl Watch {
    /// `None`: the calibration decides nothing that traffic could drift from.
    pub(crate) fn new(watched: Watched) -> Option<Self> {
        let drift = Mutex::new(Drift::of(&watched.calibration)?);
        Some(Watch { watched, drift })
    }

    /// The fallback's decision, for requests that begin while traffic has drifted and those that it has begun; `None`:
    /// the policy decides. What the client forces is no matter of the calibration.
    pub(crate) fn instead(&self, request: &Request, attempts: &[Attempt]) -> Option<Decision> {
        let state = self.state();
        let went_on = request.continues.map(|continues| continues.role);
        // A policy that is watched never begins with large unless it does what the fallback does, or has large go on.
        let begun = attempts.first().filter(|first| Some(first.role) != went_on);
        let falls_back = begun.map_or(state.drifted, |first| first.role == Role::Large);
        if !falls_back || request.forced_role().is_some() {
            return None;
        }
        let mut decision = self.watched.fallback.next(request, attempts);
        if attempts.is_empty() {
            decision.reason += &format!(
                "; traffic has drifted from the calibration's (distance {:.2}, p {:.1e}), so its promise is off",
                state.statistic, state.p_value
            );
        }
        Some(decision)
    }

    /// Takes in what a request that is over has shown.
    pub(crate) fn note(&self, attempts: &[Attempt]) -> DriftState {
        let mut drift = self.lock();
        match drift.value(&self.watched.calibration, attempts) {
            Some(value) => drift.push(value),
            None => drift.pass(),
        }
        drift.state()
    }

    pub(crate) fn state(&self) -> DriftState {
        self.lock().state()
    }

    fn lock(&self) -> MutexGuard<'_, Drift> {
        self.drift.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
