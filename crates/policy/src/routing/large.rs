//! `large`: the large model answers everything; the baseline that costs are compared with.

use contract::{Attempt, Decision, Policy, Request, Role};

use super::{Entry, fixed};

pub(super) const ENTRY: Entry = Entry {
    name: "large",
    about: "the large model answers every request",
    calibrated: None,
    build: |_settings, _calibration| Box::new(Large),
};

pub(super) struct Large;

impl Policy for Large {
    fn name(&self) -> &str {
        ENTRY.name
    }

    fn next(&self, _request: &Request, attempts: &[Attempt]) -> Decision {
        fixed::next(Role::Large, "the policy is large for every request", attempts)
    }
}
