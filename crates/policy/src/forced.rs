//! What holds for every policy, said once: a role that the client forces wins, and an option that
//! can't be honoured is named in the reason.

use contract::{Attempt, Decision, Policy, Request};

use crate::routing::fixed;

/// A policy that steps aside where the client forces a role.
pub(crate) struct Forced {
    inner: Box<dyn Policy>,
    is_calibrated: bool,
}

impl Forced {
    pub(crate) fn new(inner: Box<dyn Policy>, is_calibrated: bool) -> Self {
        Forced { inner, is_calibrated }
    }
}

impl Policy for Forced {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn next(&self, request: &Request, attempts: &[Attempt]) -> Decision {
        if let Some(role) = request.forced_role() {
            return fixed::next(role, &format!("the client asked for {}", role.as_str()), attempts);
        }
        let mut decision = self.inner.next(request, attempts);
        if let Some(loss) = request.options.max_quality_loss.filter(|_| !self.is_calibrated) {
            // A promise about quality needs labelled traffic behind it; without, it would be a lie.
            decision.reason +=
                &format!("; max_quality_loss {loss} is not applied, for there is no calibration");
        }
        decision
    }
}

#[cfg(test)]
mod tests {
    use contract::{Check, Role, Route, Step, Target};

    use crate::routing::testing::{every_build, request};
    use crate::{PolicySettings, build, routing};

    #[test]
    fn a_forced_role_wins_in_every_policy_and_is_explained() {
        for entry in routing::REGISTRY {
            let policies = every_build(entry, &PolicySettings::default());
            let roles = |policy| [Role::Small, Role::Large].map(|role| (policy, role));
            for (policy, role) in policies.iter().flat_map(roles) {
                let mut by_model = request(true);
                by_model.target = Target::Fixed(role);
                let mut by_option = request(false);
                by_option.options.route = if role == Role::Small { Route::Small } else { Route::Large };
                for request in [by_model, by_option] {
                    let decision = policy.next(&request, &[]);
                    assert_eq!(decision.step, Step::Call { role, check: Check::Never });
                    let said = format!("the client asked for {}", role.as_str());
                    assert!(decision.reason.contains(&said), "{}: {}", entry.name, decision.reason);
                }
            }
        }
    }

    #[test]
    fn an_option_that_needs_a_calibration_is_named_as_not_applied() {
        let policy = build(&PolicySettings::default()).unwrap();
        let mut request = request(true);
        request.options.max_quality_loss = Some(0.02);
        let decision = policy.next(&request, &[]);
        assert!(decision.reason.contains("max_quality_loss 0.02 is not applied"), "{}", decision.reason);
    }
}
