//! What `route`, `cascade` and `cascade-route` do with a calibration: [`Calibrated`].
//!
//! Small reads the request first where the calibration has use for its heads. By its reading, or by its whole answer,
//! it is estimated how likely small is right and how likely large is; the difference is what calling large gains, and
//! small answers where that is within the calibration's limit. Limits hold for whole answers, so a stream that small's
//! answer is judged for leaves once all of it is there.

use std::sync::Arc;

use contract::{Attempt, AttemptStatus, Check, Decision, Findings, Policy, Request, Role, Step};

use super::escalation::{EARLY_CHECK_TOKENS, after_failed_small, after_large, escalate, hold, shown};
use super::fixed;
use crate::PolicySettings;
use crate::calibration::{Calibration, Chances, PolicyKind, Right};

/// A policy that obeys a calibration.
pub(super) struct Calibrated {
    kind: PolicyKind,
    settings: PolicySettings,
    calibration: Arc<Calibration>,
}

/// What the calibration says for a request's limit.
enum Plan {
    /// One model answers, for this reason.
    Constant(Role, String),
    /// Small answers from this score on.
    Threshold(Least),
}

/// How sure small must be.
#[derive(Clone, Copy)]
struct Least {
    /// The least score.
    score: f64,
    /// The loss that it keeps.
    loss: f64,
    /// `cascade-route`: the least probability of the head with which small is tried.
    head: Option<f64>,
}

impl Calibrated {
    pub(super) fn boxed(
        kind: PolicyKind,
        settings: &PolicySettings,
        calibration: Arc<Calibration>,
    ) -> Box<dyn Policy> {
        Box::new(Calibrated { kind, settings: settings.clone(), calibration })
    }

    /// A request may lower what is configured, not raise it.
    fn plan(&self, request: &Request) -> Plan {
        let calibration = &self.calibration;
        if !calibration.routes {
            return Plan::Constant(
                calibration.constant,
                format!("it does not pay to route: {}", calibration.why),
            );
        }
        let configured = self.settings.max_quality_loss.unwrap_or(calibration.max_quality_loss);
        let limit = request.options.max_quality_loss.map_or(configured, |asked| asked.min(configured));
        let row = calibration.threshold(limit);
        let head = calibration.route_below(row);
        match row.and_then(|row| Some(Least { score: row.score_min?, loss: row.max_quality_loss, head })) {
            Some(least) => Plan::Threshold(least),
            None => {
                let why =
                    format!("the calibration has no threshold that loses at most {limit}: large answers");
                Plan::Constant(Role::Large, why)
            }
        }
    }

    fn reads_first(&self) -> bool {
        self.kind != PolicyKind::Cascade || self.calibration.right.judges_by_head()
    }

    fn begin(&self) -> Decision {
        if self.reads_first() {
            return Decision::new(Step::Read, "small reads the request first");
        }
        Decision::new(
            Step::Call { role: Role::Small, check: Check::WhenFinished },
            "small goes first; its whole answer will be judged before anything leaves",
        )
    }

    /// The best that small's answer can still come to. `None`: only the whole answer tells, also where the head has no
    /// part in it. For then traffic is watched by how answers look, and those that were given up would
    /// be missing.
    fn best(&self, request: &Request, attempt: &Attempt) -> Option<Chances> {
        let by_head = self.kind.judges_answers() && self.calibration.right.judges_by_head();
        self.calibration.best_chances(attempt, request.max_tokens).filter(|_| by_head)
    }

    /// Small has read the request.
    fn after_reading(&self, request: &Request, attempt: &Attempt, limit: Least) -> Decision {
        let Least { score: least, loss, head: head_min } = limit;
        let findings = attempt.findings.as_ref();
        let Some(chances) = self.calibration.chances_by_reading(findings) else {
            return escalate("a head says nothing of small's reading: large answers".to_owned(), None);
        };
        let part = findings.map(of_part).unwrap_or_default();
        let says = format!("by small's reading{part} {}", self.told(chances));
        let confidence = Some(chances.small);
        let at_once = match self.kind {
            PolicyKind::Route => Some(least),
            PolicyKind::Cascade => None,
            PolicyKind::CascadeRoute => head_min,
        };
        let best = self.best(request, attempt);
        match (at_once, best) {
            (Some(limit), _) if chances.score() < limit => {
                escalate(format!("{says} is above {}: large answers", gain(limit)), confidence)
            }
            (_, Some(best)) if best.score() < least => {
                let (best, least) = (gain(best.score()), gain(least));
                let reason = format!(
                    "{says}, and {best} by the best answer there could be, above {least}: large answers"
                );
                escalate(reason, confidence)
            }
            _ if self.kind == PolicyKind::Route => Decision {
                step: Step::Call { role: Role::Small, check: Check::Never },
                reason: format!("{says} is within {}{}: small answers", gain(least), self.promise(loss)),
                confidence,
            },
            (_, best) => Decision {
                step: Step::Call {
                    role: Role::Small,
                    check: best.map_or(Check::WhenFinished, |_| Check::Every(EARLY_CHECK_TOKENS)),
                },
                reason: format!("{says}; its whole answer will be judged before anything leaves"),
                confidence,
            },
        }
    }

    /// A part of an answer that will be judged as a whole.
    fn look_ahead(&self, request: &Request, attempt: &Attempt, least: f64) -> Decision {
        match self.best(request, attempt).filter(|best| best.score() < least) {
            Some(best) => {
                let reason = format!(
                    "after {} tokens of small's answer large's gain is {} at least, above {}: the request escalates \
                     to large before small is done",
                    attempt.signals.tokens,
                    gain(best.score()),
                    gain(least)
                );
                escalate(reason, Some(best.small))
            }
            None => hold(),
        }
    }

    /// Small has answered.
    fn judge(&self, index: usize, attempt: &Attempt, Least { score: least, loss, .. }: Least) -> Decision {
        if self.kind == PolicyKind::Route {
            let reason = "small answers, by its reading";
            let chances = self.calibration.chances_by_reading(attempt.findings.as_ref());
            let confidence = chances.map(|chances| chances.small);
            return Decision { confidence, ..Decision::new(Step::Answer { attempt: index }, reason) };
        }
        let Some(chances) = self.calibration.chances_by_answer(attempt) else {
            let reason =
                "small's backend did not tell what its answer is judged by: the request escalates to large";
            return escalate(reason.to_owned(), None);
        };
        let says = format!("by small's answer {}", self.told(chances));
        let confidence = Some(chances.small);
        if chances.score() >= least {
            let reason = format!("{says} is within {}{}: small answers", gain(least), self.promise(loss));
            return Decision { step: Step::Answer { attempt: index }, reason, confidence };
        }
        escalate(format!("{says} is above {}: the request escalates to large", gain(least)), confidence)
    }

    fn told(&self, chances: Chances) -> String {
        let large = if self.calibration.right.large == Right::default() {
            "large is taken to be right".to_owned()
        } else {
            format!("large with {}", shown(chances.large))
        };
        format!(
            "small is right with {}, {large}: large's gain {}",
            shown(chances.small),
            gain(chances.score())
        )
    }

    fn promise(&self, loss: f64) -> String {
        format!(" (which loses at most {loss} with confidence {})", self.calibration.confidence)
    }
}

/// A score as what calling large gains.
fn gain(score: f64) -> String {
    // Without the sign of a zero.
    format!("{:.3}", 0.0 - score)
}

/// Says that a prompt was not read whole.
fn of_part(findings: &Findings) -> String {
    if !findings.is_truncated() {
        return String::new();
    }
    format!(" of {} of {} tokens", findings.read_tokens, findings.prompt_tokens)
}

impl Policy for Calibrated {
    fn name(&self) -> &str {
        self.kind.as_str()
    }

    fn next(&self, request: &Request, attempts: &[Attempt]) -> Decision {
        let last_of = |role| attempts.iter().rposition(|attempt: &Attempt| attempt.role == role);
        let (small, large) = (last_of(Role::Small), last_of(Role::Large));
        let plan = self.plan(request);
        if let (Plan::Constant(Role::Small, why), _) = (&plan, large) {
            return fixed::next(Role::Small, why, attempts);
        }
        if let Some(large) = large {
            let chances = |index: usize| self.calibration.chances_by_answer(&attempts[index]);
            let small = small.map(|index| (index, chances(index).map(|chances| chances.small)));
            return after_large((small, large), attempts, self.settings.on_large_failure);
        }
        let least = match plan {
            Plan::Constant(_, why) => return escalate(why, None),
            Plan::Threshold(least) => least,
        };
        let Some(index) = small else { return self.begin() };
        let attempt = &attempts[index];
        match attempt.status {
            AttemptStatus::Failed(_) | AttemptStatus::Cancelled => after_failed_small(attempt),
            AttemptStatus::Read => self.after_reading(request, attempt, least),
            AttemptStatus::Partial if self.kind.judges_answers() => {
                self.look_ahead(request, attempt, least.score)
            }
            AttemptStatus::Partial | AttemptStatus::Finished(_) => self.judge(index, attempt, least),
        }
    }
}

#[cfg(test)]
mod tests {
    use contract::{FailureKind, FinishReason, Signals};

    use super::*;
    use crate::calibration::testing::calibration;
    use crate::routing::testing::{Outcome, attempt, failed, readings, request, signals};
    use crate::{OnLargeFailure, PolicyError, build, build_calibrated};

    const LARGE: Step = Step::Call { role: Role::Large, check: Check::Never };

    fn decide(kind: PolicyKind, asked: Option<f64>, attempts: &[Attempt]) -> Decision {
        let settings = PolicySettings { kind: kind.as_str().to_owned(), ..PolicySettings::default() };
        let policy = build_calibrated(&settings, Some(Arc::new(calibration(kind)))).unwrap();
        let mut request = request(true);
        request.options.max_quality_loss = asked;
        policy.next(&request, attempts)
    }

    /// Readings whose heads say that small is right with 0.9 and 0.1, and large with 0.95 and 0.8.
    fn read() -> [Attempt; 2] {
        let mut readings = readings();
        readings.truncate(2);
        readings.try_into().unwrap()
    }

    fn answered(mean: f64) -> Attempt {
        let status = AttemptStatus::Finished(FinishReason::Stop);
        let [sure, _] = read();
        Attempt {
            findings: sure.findings,
            ..attempt(Role::Small, &Outcome { status, signals: signals(9, mean, 0.1) })
        }
    }

    #[test]
    fn route_decides_by_the_reading() {
        let kind = PolicyKind::Route;
        assert_eq!(decide(kind, None, &[]).step, Step::Read);
        let [sure, unsure] = read();
        let decision = decide(kind, None, std::slice::from_ref(&sure));
        assert_eq!(decision.step, Step::Call { role: Role::Small, check: Check::Never });
        assert_eq!(decision.confidence, Some(0.9));
        assert_eq!(
            decision.reason,
            "by small's reading small is right with 0.90, large with 0.95: large's gain 0.050 is within 0.300 \
             (which loses at most 0.05 with confidence 0.95): small answers"
        );
        let decision = decide(kind, None, &[unsure]);
        assert_eq!((decision.step, decision.confidence), (LARGE, Some(0.1)));
        assert!(decision.reason.contains("large's gain 0.700 is above 0.300"), "{}", decision.reason);
        let mut part = sure;
        part.findings.as_mut().unwrap().prompt_tokens = 70;
        let decision = decide(kind, None, &[part]);
        assert!(decision.reason.contains("of 9 of 70 tokens"), "{}", decision.reason);
    }

    #[test]
    fn cascade_judges_whole_answers_also_of_streams() {
        let kind = PolicyKind::Cascade;
        let [sure, unsure] = read();
        let held = Step::Call { role: Role::Small, check: Check::Every(8) };
        assert_eq!(decide(kind, None, &[]).step, Step::Read);
        assert_eq!(decide(kind, None, &[sure]).step, held);
        let hopeless = decide(kind, None, &[unsure]);
        assert_eq!(hopeless.step, LARGE);
        assert!(
            hopeless.reason.contains("and 0.525 by the best answer there could be, above 0.300"),
            "{}",
            hopeless.reason
        );
        let good = decide(kind, None, &[answered(0.9)]);
        assert_eq!(good.step, Step::Answer { attempt: 0 });
        assert!(good.reason.contains("loses at most 0.05"), "{}", good.reason);
        assert_eq!(decide(kind, None, &[answered(0.5)]).step, LARGE);
        let silent = Attempt { signals: Signals::default(), ..answered(0.9) };
        assert_eq!(decide(kind, None, &[silent]).step, LARGE);
    }

    #[test]
    fn cascade_route_spares_small_what_it_can_not_do() {
        let kind = PolicyKind::CascadeRoute;
        let [sure, unsure] = read();
        assert_eq!(decide(kind, None, &[unsure]).step, LARGE);
        let held = Step::Call { role: Role::Small, check: Check::Every(8) };
        assert_eq!(decide(kind, None, &[sure]).step, held);
    }

    #[test]
    fn each_target_has_its_own_limit_of_who_is_tried() {
        let kind = PolicyKind::CascadeRoute;
        let mut found = calibration(kind);
        found.thresholds.iter_mut().for_each(|row| {
            row.score_min = Some(-0.9);
            row.route_below = Some(if row.max_quality_loss < 0.05 { 0.5 } else { -0.95 });
        });
        let settings = PolicySettings { kind: kind.as_str().to_owned(), ..PolicySettings::default() };
        let policy = build_calibrated(&settings, Some(Arc::new(found))).unwrap();
        let step = |asked, read: &Attempt| {
            let mut request = request(true);
            request.options.max_quality_loss = asked;
            policy.next(&request, std::slice::from_ref(read)).step
        };
        let held = Step::Call { role: Role::Small, check: Check::Every(8) };
        let [sure, unsure] = read();
        // The calibration's own limit, -0.6, is for thresholds without one.
        assert_eq!((step(None, &unsure), step(Some(0.02), &sure)), (held, LARGE));
    }

    #[test]
    fn small_is_given_up_once_no_end_of_its_answer_could_reach_the_threshold() {
        let settings = PolicySettings::default();
        let begun = |mean: f64, calibration: Calibration, max_tokens| {
            let policy = build_calibrated(&settings, Some(Arc::new(calibration))).unwrap();
            let part =
                Attempt { status: AttemptStatus::Partial, signals: signals(8, mean, 0.1), ..answered(mean) };
            policy.next(&Request { max_tokens, ..request(false) }, &[part])
        };
        let by_head = || calibration(PolicyKind::Cascade);
        let early = begun(0.3, by_head(), Some(20));
        assert_eq!(early.step, LARGE);
        assert!(
            early.reason.contains("after 8 tokens of small's answer large's gain is 0.43"),
            "{}",
            early.reason
        );
        // It could still write much that it is sure of.
        assert_eq!(begun(0.3, by_head(), None).step, Step::Hold);
        assert_eq!(begun(0.9, by_head(), Some(20)).step, Step::Hold);
        // Without a head traffic is watched by whole answers, so all of them are written.
        let mut by_answer = by_head();
        if let Some(combination) = &mut by_answer.right.small.combination {
            combination.parts.truncate(1);
        }
        assert_eq!(begun(0.1, by_answer.clone(), Some(20)).step, Step::Hold);
        let policy = build_calibrated(&settings, Some(Arc::new(by_answer))).unwrap();
        let check = Check::WhenFinished;
        assert_eq!(policy.next(&request(false), &[]).step, Step::Call { role: Role::Small, check });
    }

    #[test]
    fn a_request_may_lower_the_loss_and_not_raise_it() {
        let [sure, _] = read();
        let reason = |asked| decide(PolicyKind::Route, asked, std::slice::from_ref(&sure)).reason;
        assert!(reason(Some(0.5)).contains("at most 0.05"), "{}", reason(Some(0.5)));
        assert!(reason(Some(0.03)).contains("at most 0.02"), "{}", reason(Some(0.03)));
        let none = decide(PolicyKind::Route, Some(0.01), &[]);
        assert_eq!(none.step, LARGE);
        assert!(none.reason.contains("no threshold that loses at most 0.01"), "{}", none.reason);
    }

    #[test]
    fn when_large_is_down_small_stands_in_as_configured() {
        let broken = attempt(
            Role::Large,
            &Outcome { status: failed(FailureKind::Upstream), signals: Signals::default() },
        );
        let [_, unsure] = read();
        let after = [Attempt { status: AttemptStatus::Cancelled, ..unsure }, broken.clone()];
        let again = decide(PolicyKind::Route, None, &after);
        assert_eq!(again.step, Step::Call { role: Role::Small, check: Check::Never });
        assert!(again.reason.contains("not confident enough"), "{}", again.reason);
        let settings = PolicySettings {
            kind: "cascade".to_owned(),
            on_large_failure: OnLargeFailure::Error,
            ..PolicySettings::default()
        };
        let strict = build_calibrated(&settings, Some(Arc::new(calibration(PolicyKind::Cascade)))).unwrap();
        let decision = strict.next(&request(false), &[answered(0.5), broken]);
        assert!(matches!(decision.step, Step::Refuse(_)), "{decision:?}");
    }

    #[test]
    fn a_calibration_that_does_not_route_names_who_answers() {
        for constant in [Role::Small, Role::Large] {
            let found = Calibration { routes: false, constant, ..calibration(PolicyKind::Route) };
            // Of any policy: it decides nothing.
            let policy = build_calibrated(&PolicySettings::default(), Some(Arc::new(found))).unwrap();
            let decision = policy.next(&request(true), &[]);
            assert_eq!(decision.step, Step::Call { role: constant, check: Check::Never });
            assert!(decision.reason.contains("it pays"), "{}", decision.reason);
        }
    }

    #[test]
    fn policies_and_calibrations_must_fit() {
        let settings = |kind: &str| PolicySettings { kind: kind.to_owned(), ..PolicySettings::default() };
        for kind in ["route", "cascade-route"] {
            let error = build(&settings(kind)).err().unwrap();
            assert_eq!(error, PolicyError::NeedsCalibration { kind: kind.to_owned() });
        }
        let route = Some(Arc::new(calibration(PolicyKind::Route)));
        let error = build_calibrated(&settings("cascade"), route).err().unwrap().to_string();
        assert!(error.contains("--policy cascade"), "{error}");
    }
}
