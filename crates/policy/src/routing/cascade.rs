//! `cascade`: small answers first; the request escalates to large when small's confidence in its own
//! tokens is too low.
//!
//! Confidence is the geometric mean of the token probabilities (so it does not depend on the
//! length), lowered in proportion where the least likely token falls under a floor: one token that
//! the model nearly excluded is worth more doubt than its share of the mean shows.
//! `confidence = exp(mean logprob) · min(1, lowest probability / floor)`.
//!
//! Signals count the likeliest token at each place, so a temperature that draws unlikely ones does not
//! count against the model. What to expect of the default thresholds: with Qwen2.5-Coder 0.5B (Q4_K_M) as
//! small, over the first 24 tokens, they let 8 of 12 easy questions and 2 of 12 hard ones through. A
//! calibration on the user's own traffic is what should set them: with one, `calibrated.rs` decides instead.

use contract::{Attempt, AttemptStatus, Check, Decision, Policy, Request, Role, Signals, Step};

use super::Entry;
use super::calibrated::Calibrated;
use super::escalation::{EARLY_CHECK_TOKENS, after_failed_small, after_large, escalate, hold, shown};
use crate::PolicySettings;
use crate::calibration::PolicyKind;
use crate::outlook::logprob_mean_max;

pub(super) const ENTRY: Entry = Entry {
    name: "cascade",
    about: "small answers; the request escalates to large when small's confidence is too low",
    calibrated: Some(PolicyKind::Cascade),
    build: |settings, calibration| match calibration {
        Some(calibration) => Calibrated::boxed(PolicyKind::Cascade, settings, calibration),
        None => Box::new(Cascade { settings: settings.clone() }),
    },
};

struct Cascade {
    settings: PolicySettings,
}

impl Policy for Cascade {
    fn name(&self) -> &str {
        ENTRY.name
    }

    fn next(&self, request: &Request, attempts: &[Attempt]) -> Decision {
        let last_of = |role| attempts.iter().rposition(|attempt: &Attempt| attempt.role == role);
        match (last_of(Role::Small), last_of(Role::Large)) {
            (None, None) => self.begin(request),
            (Some(small), None) => self.judge(request, small, &attempts[small]),
            (small, Some(large)) => {
                let small = small.map(|index| (index, self.confidence(&attempts[index])));
                after_large((small, large), attempts, self.settings.on_large_failure)
            }
        }
    }
}

impl Cascade {
    fn begin(&self, request: &Request) -> Decision {
        let window = self.settings.window_tokens;
        let (check, when) = if request.stream {
            (Check::AfterTokens(window), format!("its first {window} tokens"))
        } else {
            (Check::Every(EARLY_CHECK_TOKENS), "its whole answer".to_owned())
        };
        let reason = format!("small goes first; {when} will be judged before anything leaves");
        Decision::new(Step::Call { role: Role::Small, check }, reason)
    }

    /// Small has written something or failed; large was not called yet.
    fn judge(&self, request: &Request, index: usize, attempt: &Attempt) -> Decision {
        match &attempt.status {
            AttemptStatus::Failed(_) | AttemptStatus::Cancelled => after_failed_small(attempt),
            AttemptStatus::Partial if !request.stream => self.look_ahead(request.max_tokens, attempt),
            AttemptStatus::Read | AttemptStatus::Partial | AttemptStatus::Finished(_) => {
                self.weigh(index, attempt)
            }
        }
    }

    /// A part of an answer that will be judged as a whole.
    fn look_ahead(&self, max_tokens: Option<u32>, attempt: &Attempt) -> Decision {
        let PolicySettings { confidence_min: least, token_probability_min: floor, .. } = self.settings;
        let best = best_confidence(&attempt.signals, floor, max_tokens);
        match best.filter(|best| *best < least) {
            Some(best) => escalate(
                format!(
                    "after {} tokens small's confidence can come to {} at most, below the threshold {least}: the \
                     request escalates to large before small is done",
                    attempt.signals.tokens,
                    shown(best)
                ),
                Some(best),
            ),
            None => hold(),
        }
    }

    fn weigh(&self, index: usize, attempt: &Attempt) -> Decision {
        let Some(Confidence { mean, lowest, value }) =
            confidence(&attempt.signals, self.settings.token_probability_min)
        else {
            let reason = "small's backend told no usable token probabilities, so its confidence is \
                          unknown: the request escalates to large";
            return escalate(reason.to_owned(), None);
        };
        let first = if attempt.status == AttemptStatus::Partial { "first " } else { "" };
        let tokens = match attempt.signals.tokens {
            1 => "token has".to_owned(),
            many => format!("{many} tokens have"),
        };
        let PolicySettings { confidence_min: least, token_probability_min: floor, .. } = self.settings;
        let versus = if lowest < floor { "under" } else { "not under" };
        let figures = format!(
            "small's {first}{tokens} mean probability {} and lowest {} ({versus} {floor}): confidence {}",
            shown(mean),
            shown(lowest),
            shown(value),
        );
        if value >= least {
            let reason = format!("{figures} is at or above the threshold {least}: small answers");
            return Decision { step: Step::Answer { attempt: index }, reason, confidence: Some(value) };
        }
        escalate(
            format!("{figures} is below the threshold {least}: the request escalates to large"),
            Some(value),
        )
    }

    /// The confidence in an attempt, if its backend told enough.
    fn confidence(&self, attempt: &Attempt) -> Option<f64> {
        confidence(&attempt.signals, self.settings.token_probability_min).map(|confidence| confidence.value)
    }
}

/// Figures of an attempt's tokens as probabilities, each in 0..=1.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Confidence {
    /// Geometric mean of the tokens' probabilities.
    mean: f64,
    /// The least likely token's.
    lowest: f64,
    /// Both combined.
    value: f64,
}

/// `None` where the backend told nothing usable: no tokens, or figures that are no numbers.
fn confidence(signals: &Signals, floor: f64) -> Option<Confidence> {
    let mean = signals.logprob_mean()?;
    if mean.is_nan() || signals.logprob_min.is_nan() {
        return None;
    }
    // An upstream may report log-probabilities a hair (or a lie) above 0.
    let mean = mean.exp().min(1.0);
    let lowest = signals.logprob_min.exp().min(1.0);
    let discount = if lowest < floor { lowest / floor } else { 1.0 };
    Some(Confidence { mean, lowest, value: mean * discount })
}

/// The highest confidence that any end of an answer could have: its mean may rise, its lowest probability can't.
fn best_confidence(signals: &Signals, floor: f64, max_tokens: Option<u32>) -> Option<f64> {
    let logprob_min = if signals.tokens == 0 { 0.0 } else { signals.logprob_min };
    let logprob_sum = logprob_mean_max(signals, max_tokens)?;
    confidence(&Signals { tokens: 1, logprob_sum, logprob_min, ..*signals }, floor).map(|best| best.value)
}

#[cfg(test)]
mod tests {
    use contract::{FailureKind, FinishReason};

    use super::*;
    use crate::OnLargeFailure;
    use crate::routing::testing::{Outcome, attempt, failed, request, signals};

    const STOP: AttemptStatus = AttemptStatus::Finished(FinishReason::Stop);
    const TO_LARGE: Step = Step::Call { role: Role::Large, check: Check::Never };

    fn past(role: Role, status: AttemptStatus, signals: Signals) -> Attempt {
        attempt(role, &Outcome { status, signals })
    }

    fn decide(stream: bool, attempts: &[Attempt]) -> Decision {
        decide_with(PolicySettings::default(), stream, attempts)
    }

    fn decide_with(settings: PolicySettings, stream: bool, attempts: &[Attempt]) -> Decision {
        (ENTRY.build)(&settings, None).next(&request(stream), attempts)
    }

    #[test]
    fn small_goes_first_and_is_judged_by_its_window_or_as_a_whole() {
        let call = |check| Step::Call { role: Role::Small, check };
        assert_eq!(decide(true, &[]).step, call(Check::AfterTokens(24)));
        assert_eq!(decide(false, &[]).step, call(Check::Every(8)));
    }

    #[test]
    fn a_confident_window_answers_with_its_figures() {
        let decision =
            decide(true, &[past(Role::Small, AttemptStatus::Partial, signals(24, 0.9301, 0.4101))]);
        assert_eq!(decision.step, Step::Answer { attempt: 0 });
        assert_eq!(
            decision.reason,
            "small's first 24 tokens have mean probability 0.93 and lowest 0.41 (not under 0.05): confidence \
             0.93 is at or above the threshold 0.8: small answers"
        );
        assert!((decision.confidence.unwrap() - 0.9301).abs() < 1e-9);
    }

    #[test]
    fn an_answer_that_is_judged_whole_is_given_up_once_no_end_could_be_good_enough() {
        let part =
            |tokens, mean, lowest| [past(Role::Small, AttemptStatus::Partial, signals(tokens, mean, lowest))];
        let policy = (ENTRY.build)(&PolicySettings::default(), None);
        let asked =
            |max_tokens, part: &[Attempt]| policy.next(&Request { max_tokens, ..request(false) }, part);
        let doubted = asked(None, &part(8, 0.9, 0.0311));
        assert_eq!(doubted.step, TO_LARGE);
        assert!(
            doubted.reason.contains("can come to 0.62 at most, below the threshold 0.8"),
            "{}",
            doubted.reason
        );
        assert_eq!(asked(None, &part(8, 0.5, 0.3)).step, Step::Hold);
        // 0.5^8 over at most 19 tokens.
        assert_eq!(asked(Some(18), &part(8, 0.5, 0.3)).step, TO_LARGE);
        assert_eq!(asked(None, &part(0, 1.0, 1.0)).step, Step::Hold);
    }

    proptest::proptest! {
        /// Giving up early changes no decision.
        #[test]
        fn who_is_given_up_early_would_have_been_in_the_end(
            logprobs in proptest::collection::vec(-4.0..0.0f64, 1..40), spare in 0u32..9,
        ) {
            let of = |logprobs: &[f64]| Signals {
                tokens: logprobs.len() as u32,
                logprob_sum: logprobs.iter().sum(),
                logprob_min: logprobs.iter().copied().fold(0.0, f64::min),
                ..Signals::default()
            };
            let whole = confidence(&of(&logprobs), 0.05).unwrap().value;
            for written in 0..=logprobs.len() {
                let best = best_confidence(&of(&logprobs[..written]), 0.05, Some(logprobs.len() as u32 + spare));
                proptest::prop_assert!(best.unwrap() >= whole);
            }
        }
    }

    #[test]
    fn an_unsure_answer_escalates_with_its_figures() {
        let decision = decide(false, &[past(Role::Small, STOP, signals(10, 0.7999, 0.1))]);
        assert_eq!(decision.step, TO_LARGE);
        assert!(
            decision.reason.contains("confidence 0.79 is below the threshold 0.8"),
            "{}",
            decision.reason
        );
        assert!(decision.reason.starts_with("small's 10 tokens have"), "{}", decision.reason);
    }

    #[test]
    fn one_nearly_excluded_token_costs_confidence() {
        let decision = decide(false, &[past(Role::Small, STOP, signals(40, 0.9, 0.025))]);
        assert_eq!(decision.step, TO_LARGE);
        assert!((decision.confidence.unwrap() - 0.45).abs() < 1e-9);
        assert!(decision.reason.contains("lowest 0.02 (under 0.05)"), "{}", decision.reason);
    }

    #[test]
    fn the_verdict_does_not_depend_on_the_length() {
        for tokens in [1, 10, 1000] {
            let decision = decide(false, &[past(Role::Small, STOP, signals(tokens, 0.9, 0.3))]);
            assert_eq!(decision.step, Step::Answer { attempt: 0 }, "{tokens} tokens");
        }
    }

    #[test]
    fn without_usable_signals_it_escalates_and_says_so() {
        let broken = Signals { tokens: 3, logprob_sum: f64::NAN, logprob_min: -1.0, ..Signals::default() };
        for signals in [Signals::default(), broken] {
            let decision = decide(false, &[past(Role::Small, STOP, signals)]);
            assert_eq!((decision.step, decision.confidence), (TO_LARGE, None));
            assert!(decision.reason.contains("no usable token probabilities"), "{}", decision.reason);
        }
    }

    #[test]
    fn a_failed_small_escalates_unless_the_deadline_passed() {
        for kind in [FailureKind::Unready, FailureKind::TooLong, FailureKind::Internal] {
            let decision = decide(true, &[past(Role::Small, failed(kind), Signals::default())]);
            assert_eq!(decision.step, TO_LARGE, "{kind:?}");
            assert!(!decision.reason.contains("it said"), "quotes the backend: {}", decision.reason);
        }
        let late = decide(true, &[past(Role::Small, failed(FailureKind::Deadline), Signals::default())]);
        assert!(matches!(late.step, Step::Refuse(_)), "{:?}", late.step);
    }

    #[test]
    fn when_large_fails_small_stands_in_if_so_configured() {
        let unsure = past(Role::Small, STOP, signals(10, 0.5, 0.1));
        let broken = past(Role::Large, failed(FailureKind::Upstream), Signals::default());
        let attempts = [unsure, broken];
        let decision = decide(false, &attempts);
        assert_eq!(decision.step, Step::Answer { attempt: 0 });
        assert!(decision.reason.contains("large failed") && decision.reason.contains("small"));
        assert!((decision.confidence.unwrap() - 0.5).abs() < 1e-9);

        let strict = PolicySettings { on_large_failure: OnLargeFailure::Error, ..Default::default() };
        assert!(matches!(decide_with(strict, false, &attempts).step, Step::Refuse(_)));
    }

    #[test]
    fn a_cancelled_small_starts_over_when_large_fails_but_only_once() {
        let cancelled = past(Role::Small, AttemptStatus::Cancelled, signals(24, 0.5, 0.1));
        let broken = past(Role::Large, failed(FailureKind::Busy), Signals::default());
        let mut attempts = vec![cancelled, broken];
        let again = decide(true, &attempts);
        assert_eq!(again.step, Step::Call { role: Role::Small, check: Check::Never });
        for status in [failed(FailureKind::Internal), AttemptStatus::Cancelled] {
            attempts.truncate(2);
            attempts.push(past(Role::Small, status, Signals::default()));
            assert!(matches!(decide(true, &attempts).step, Step::Refuse(_)));
        }
    }
}
