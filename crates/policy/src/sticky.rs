//! Who answered before goes on: in loops of tools, and in conversations if that is asked for.
//!
//! A model that called tools knows what it wanted of them; another one would have to guess. The gateway remembers who
//! it was and says so in the request ([`contract::Continues`]); without that, every request is decided by itself.

use contract::{Attempt, Check, Continued, Continues, Decision, Policy, Request, Role, Step};

use crate::Stickiness;
use crate::routing::fixed;

/// A policy that steps aside for the role that answered before.
pub(crate) struct Sticky {
    inner: Box<dyn Policy>,
    stickiness: Stickiness,
}

impl Sticky {
    pub(crate) fn new(inner: Box<dyn Policy>, stickiness: Stickiness) -> Self {
        Sticky { inner, stickiness }
    }

    /// Who goes on, and what it did before.
    fn bond(&self, request: &Request) -> Option<(Role, &'static str)> {
        let Continues { what, role } = request.continues?;
        match (what, self.stickiness) {
            (Continued::ToolCalls, Stickiness::Tools | Stickiness::Conversation) => {
                Some((role, "made the tool calls that this request answers"))
            }
            (Continued::Conversation, Stickiness::Conversation) => {
                Some((role, "has answered in this conversation"))
            }
            _ => None,
        }
    }

    /// The policy's decision after the role that was to go on has failed.
    fn afresh(&self, request: &Request, attempts: &[Attempt]) -> Decision {
        match attempts.split_first() {
            // Of small the policy knows what to do then. Large it would take for one that it had called itself.
            Some((failed, rest)) if failed.role == Role::Large => {
                let mut decision = self.inner.next(request, rest);
                if let Step::Answer { attempt } = &mut decision.step {
                    *attempt += 1;
                }
                decision
            }
            _ => self.inner.next(request, attempts),
        }
    }
}

impl Policy for Sticky {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn next(&self, request: &Request, attempts: &[Attempt]) -> Decision {
        let Some((role, did)) = self.bond(request) else { return self.inner.next(request, attempts) };
        let why = format!("{} {did}: it goes on", role.as_str());
        let Some(first) = attempts.first() else {
            return Decision::new(Step::Call { role, check: Check::Never }, why);
        };
        // Another role or a reading first: the policy has begun by itself, as in a ledger of other settings.
        if first.role != role || first.findings.is_some() {
            return self.inner.next(request, attempts);
        }
        match fixed::trouble(first) {
            None => Decision::new(Step::Answer { attempt: 0 }, why),
            Some(trouble) => {
                let mut decision = self.afresh(request, attempts);
                if attempts.len() == 1 {
                    decision.reason = format!("{} {did}, but {trouble}; {}", role.as_str(), decision.reason);
                }
                decision
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use contract::{AttemptStatus, FailureKind, FinishReason, Route, Signals};

    use super::*;
    use crate::calibration::PolicyKind;
    use crate::calibration::testing::calibration;
    use crate::routing::REGISTRY;
    use crate::routing::testing::{Outcome, attempt, every_build, failed, request};
    use crate::{PolicySettings, build, build_calibrated};

    const ROLES: [Role; 2] = [Role::Small, Role::Large];

    fn going_on(what: Continued, role: Role) -> Request {
        Request { continues: Some(Continues { what, role }), ..request(true) }
    }

    fn past(role: Role, status: AttemptStatus) -> Attempt {
        attempt(role, &Outcome { status, signals: Signals::default() })
    }

    fn with(stickiness: Stickiness) -> PolicySettings {
        PolicySettings { sticky: stickiness, ..PolicySettings::default() }
    }

    #[test]
    fn whoever_called_tools_answers_their_results_in_every_policy() {
        for stickiness in [Stickiness::Tools, Stickiness::Conversation] {
            for policy in REGISTRY.iter().flat_map(|entry| every_build(entry, &with(stickiness))) {
                for role in ROLES {
                    let decision = policy.next(&going_on(Continued::ToolCalls, role), &[]);
                    assert_eq!(decision.step, Step::Call { role, check: Check::Never });
                    let said = format!(
                        "{} made the tool calls that this request answers: it goes on",
                        role.as_str()
                    );
                    assert_eq!(decision.reason, said);
                    let done = past(role, AttemptStatus::Finished(FinishReason::Stop));
                    let decision = policy.next(&going_on(Continued::ToolCalls, role), &[done]);
                    assert_eq!(decision.step, Step::Answer { attempt: 0 });
                }
            }
        }
    }

    #[test]
    fn only_what_is_asked_for_binds() {
        let usual = build(&with(Stickiness::Off)).unwrap().next(&request(true), &[]);
        for (stickiness, what, binds) in [
            (Stickiness::Off, Continued::ToolCalls, false),
            (Stickiness::Off, Continued::Conversation, false),
            (Stickiness::Tools, Continued::Conversation, false),
            (Stickiness::Conversation, Continued::Conversation, true),
        ] {
            let decision = build(&with(stickiness)).unwrap().next(&going_on(what, Role::Large), &[]);
            assert_eq!(decision != usual, binds, "{stickiness:?} {what:?}: {decision:?}");
        }
        assert_eq!(PolicySettings::default().sticky, Stickiness::Tools);
    }

    #[test]
    fn a_role_that_the_client_forces_wins() {
        let mut forced = going_on(Continued::ToolCalls, Role::Large);
        forced.options.route = Route::Small;
        let decision = build(&PolicySettings::default()).unwrap().next(&forced, &[]);
        assert_eq!(decision.step, Step::Call { role: Role::Small, check: Check::Never });
        assert!(decision.reason.contains("the client asked"), "{}", decision.reason);
    }

    #[test]
    fn after_its_failure_the_policy_decides_as_ever() {
        let cascade = build(&PolicySettings::default()).unwrap();
        let lost = past(Role::Large, failed(FailureKind::Upstream));
        let large = going_on(Continued::ToolCalls, Role::Large);
        let decision = cascade.next(&large, std::slice::from_ref(&lost));
        assert_eq!(decision.step, Step::Call { role: Role::Small, check: Check::AfterTokens(24) });
        assert!(
            decision.reason.starts_with("large made the tool calls that this request answers, but failed"),
            "{}",
            decision.reason
        );
        let sure = Signals { tokens: 24, logprob_sum: -0.1, logprob_min: -0.1, entropy_sum: 0.0 };
        let small = attempt(Role::Small, &Outcome { status: AttemptStatus::Partial, signals: sure });
        assert_eq!(cascade.next(&large, &[lost.clone(), small]).step, Step::Answer { attempt: 1 });

        let lost_small = past(Role::Small, failed(FailureKind::Internal));
        let decision = cascade.next(&going_on(Continued::ToolCalls, Role::Small), &[lost_small]);
        assert_eq!(decision.step, Step::Call { role: Role::Large, check: Check::Never });

        let found = Some(Arc::new(calibration(PolicyKind::Route)));
        let settings = PolicySettings { kind: "route".to_owned(), ..PolicySettings::default() };
        let route = build_calibrated(&settings, found).unwrap();
        assert_eq!(route.next(&large, &[lost]).step, Step::Read);
    }
}
