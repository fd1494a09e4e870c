//! `small`: the small model answers everything.

use contract::{Attempt, Decision, Policy, Request, Role};

use super::{Entry, fixed};

pub(super) const ENTRY: Entry = Entry {
    name: "small",
    about: "the small model answers every request",
    calibrated: None,
    build: |_settings, _calibration| Box::new(Small),
};

struct Small;

impl Policy for Small {
    fn name(&self) -> &str {
        ENTRY.name
    }

    fn next(&self, _request: &Request, attempts: &[Attempt]) -> Decision {
        fixed::next(Role::Small, "the policy is small for every request", attempts)
    }
}
