//! The routing policies, one file each, and the registry that names them.
//!
//! A new policy is a file here plus a line in [`REGISTRY`]; the tests below then hold for it too.

use std::sync::Arc;

use contract::Policy;

use crate::PolicySettings;
use crate::calibration::{Calibration, PolicyKind};

mod calibrated;
mod cascade;
mod cascade_route;
mod escalation;
pub(crate) mod fixed;
mod large;
mod route;
pub mod rules;
mod small;

/// A policy that configuration can name.
pub struct Entry {
    /// The name in `policy.kind`, the ledger and metrics.
    pub name: &'static str,
    /// What it does, in a line.
    pub about: &'static str,
    /// The calibrations that it obeys, if it does any.
    pub calibrated: Option<PolicyKind>,
    /// Makes it from settings that are already validated, and a calibration of that kind.
    pub build: fn(&PolicySettings, Option<Arc<Calibration>>) -> Box<dyn Policy>,
}

/// All policies there are.
pub const REGISTRY: &[Entry] =
    &[small::ENTRY, large::ENTRY, rules::ENTRY, route::ENTRY, cascade::ENTRY, cascade_route::ENTRY];

#[cfg(test)]
pub(crate) mod testing;

#[cfg(test)]
mod tests {
    use contract::{
        Attempt, AttemptStatus, Check, Continued, Continues, Decision, FinishReason, Request, Role, Route,
        Signals, Step,
    };
    use proptest::prelude::*;

    use super::testing::{
        Outcome, all_statuses, attempt, every_build, outcomes, readings, request, settings, signals, statuses,
    };
    use super::*;
    use crate::OnLargeFailure;

    /// No policy here may need more: small, large, and small once more, after one that was to go on.
    const CALLS_MAX: usize = 4;

    fn ask(policy: &dyn Policy, request: &Request, attempts: &[Attempt]) -> Decision {
        let decision = policy.next(request, attempts);
        assert_eq!(decision, policy.next(request, attempts), "the same question, two answers");
        assert!(!decision.reason.trim().is_empty(), "no reason for {:?}", decision.step);
        if let Some(confidence) = decision.confidence {
            assert!((0.0..=1.0).contains(&confidence), "confidence {confidence}");
        }
        if decision.step == Step::Hold {
            assert!(attempts.iter().any(|attempt| attempt.status == AttemptStatus::Partial), "{attempts:?}");
        }
        if let Step::Answer { attempt } = decision.step {
            let answering = &attempts[attempt].status;
            assert!(
                matches!(answering, AttemptStatus::Partial | AttemptStatus::Finished(_)),
                "{answering:?}"
            );
        }
        decision
    }

    /// Everything that can become of a request from here on, whichever of `outcomes` each call has.
    /// Panics unless every path ends within `calls_left` calls.
    fn explore(
        policy: &dyn Policy,
        request: &Request,
        past: &[Attempt],
        (outcomes, calls_left): (&[Outcome], usize),
    ) {
        let (role, check) = match ask(policy, request, past).step {
            Step::Call { role, check } => (role, check),
            Step::Read => {
                assert!(past.iter().all(|attempt| attempt.role == Role::Large), "read after {past:?}");
                for read in readings() {
                    let attempts: Vec<Attempt> = past.iter().cloned().chain([read]).collect();
                    explore(policy, request, &attempts, (outcomes, calls_left));
                }
                return;
            }
            Step::Hold => return end(policy, request, past, (outcomes, calls_left)),
            Step::Answer { .. } | Step::Refuse(_) => return,
        };
        assert!(calls_left > 0, "one more call after {past:?}");
        for outcome in outcomes {
            let mut attempts = past.to_vec();
            let mut next = attempt(role, outcome);
            let runs = |last: &Attempt| matches!(last.status, AttemptStatus::Partial | AttemptStatus::Read);
            if let Some(last) = attempts.pop_if(|last| runs(last)) {
                if last.status == AttemptStatus::Read && role == Role::Small {
                    // The same attempt goes on.
                    next.findings = last.findings;
                } else {
                    attempts.push(Attempt { status: AttemptStatus::Cancelled, ..last });
                }
            }
            match (check, &next.status) {
                // Released at once: the policy is not asked again.
                (Check::Never, AttemptStatus::Partial | AttemptStatus::Finished(_)) => continue,
                (Check::WhenFinished, AttemptStatus::Partial) => {
                    next.status = AttemptStatus::Finished(FinishReason::Length);
                }
                _ => {}
            }
            attempts.push(next);
            explore(policy, request, &attempts, (outcomes, calls_left - 1));
        }
    }

    /// What is held back comes to its end.
    fn end(
        policy: &dyn Policy,
        request: &Request,
        past: &[Attempt],
        (outcomes, calls_left): (&[Outcome], usize),
    ) {
        let (last, before) = past.split_last().unwrap();
        assert_eq!(last.status, AttemptStatus::Partial, "nothing to hold back");
        let whole = Attempt { status: AttemptStatus::Finished(FinishReason::Stop), ..last.clone() };
        let attempts: Vec<Attempt> = before.iter().cloned().chain([whole]).collect();
        explore(policy, request, &attempts, (outcomes, calls_left));
    }

    /// `explore` for every policy, forced or not, streaming or not.
    fn explore_all(settings: &PolicySettings, outcomes: &[Outcome]) {
        for entry in REGISTRY {
            for policy in every_build(entry, settings) {
                let bond = |role| Some(Continues { what: Continued::ToolCalls, role });
                let ways = [
                    (Route::Auto, None),
                    (Route::Small, None),
                    (Route::Large, None),
                    (Route::Auto, bond(Role::Small)),
                    (Route::Auto, bond(Role::Large)),
                ];
                for (route, continues) in ways {
                    for stream in [true, false] {
                        let mut request = request(stream);
                        request.options.route = route;
                        request.continues = continues;
                        explore(policy.as_ref(), &request, &[], (outcomes, CALLS_MAX));
                    }
                }
            }
        }
    }

    #[test]
    fn every_policy_ends_whatever_the_backends_do() {
        let sure = signals(24, 0.95, 0.5);
        let unsure = signals(24, 0.4, 0.01);
        let all_signals = [Signals::default(), sure, unsure];
        let outcomes: Vec<Outcome> = all_statuses()
            .into_iter()
            .flat_map(|status| all_signals.map(|signals| Outcome { status: status.clone(), signals }))
            .collect();
        for on_large_failure in [OnLargeFailure::Small, OnLargeFailure::Error] {
            explore_all(&PolicySettings { on_large_failure, ..PolicySettings::default() }, &outcomes);
        }
    }

    proptest! {
        #[test]
        fn no_signals_or_thresholds_keep_a_policy_from_ending(outcomes in outcomes(4), settings in settings()) {
            explore_all(&settings, &outcomes);
        }

        /// Also histories that no gateway makes, such as a damaged ledger's.
        #[test]
        fn no_history_makes_a_policy_answer_with_a_failed_attempt(
            roles in proptest::collection::vec(any::<bool>(), 0..6), outcomes in outcomes(6), stream: bool,
            settings in settings(), cancelled in statuses(),
        ) {
            let mut attempts: Vec<Attempt> = roles.iter().zip(&outcomes)
                .map(|(small, outcome)| attempt(if *small { Role::Small } else { Role::Large }, outcome))
                .collect();
            if let Some(first) = attempts.first_mut() {
                first.status = cancelled;
            }
            for entry in REGISTRY {
                for policy in every_build(entry, &settings) {
                    ask(policy.as_ref(), &request(stream), &attempts);
                }
            }
        }
    }

    #[test]
    fn entries_are_described_and_build_what_their_name_says() {
        for (index, entry) in REGISTRY.iter().enumerate() {
            assert!(!entry.about.is_empty(), "{}", entry.name);
            for policy in every_build(entry, &PolicySettings::default()) {
                assert_eq!(policy.name(), entry.name);
            }
            assert!(REGISTRY[..index].iter().all(|other| other.name != entry.name), "{} twice", entry.name);
        }
    }
}
