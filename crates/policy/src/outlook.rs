//! What an answer can come to at best while it is being written: bounds that no end of it can pass, so giving up by
//! them changes no decision, only when it is taken.
//!
//! Tokens that are still to come can raise a mean up to a limit that the longest allowed answer sets; the lowest
//! probability only falls, the length only grows. A calibration's [`Combination`] takes evidence beyond the range of
//! its fit as that range's end, which bounds it before anything is written.

use contract::Signals;

use crate::calibration::{Combination, Evidence, Seen, Weighed};

/// What rounding may make of a sum, so that a bound stays one.
const ROUNDING: f64 = 1e-9;

/// The most tokens that an answer may have in the end, with one for a backend that counts the one that ends it.
fn tokens_max(signals: &Signals, max_tokens: Option<u32>) -> f64 {
    let limit = max_tokens.map_or(f64::INFINITY, f64::from);
    limit.max(f64::from(signals.tokens)) + 1.0
}

/// The highest mean log-probability that the answer may have in the end; at most 0. `None`: its figures are no numbers.
pub(crate) fn logprob_mean_max(signals: &Signals, max_tokens: Option<u32>) -> Option<f64> {
    let sum = signals.logprob_sum;
    (!sum.is_nan()).then(|| sum.min(0.0) / tokens_max(signals, max_tokens))
}

/// Between what a figure of the answer lies in the end, before a combination's range. `None`: not known, nor will be.
fn reach(evidence: Evidence, seen: &Seen<'_>, max_tokens: Option<u32>) -> Option<[f64; 2]> {
    let anything = [f64::NEG_INFINITY, f64::INFINITY];
    let signals = seen.signals;
    Some(match evidence {
        Evidence::LogprobMean => [f64::NEG_INFINITY, logprob_mean_max(signals, max_tokens)?],
        Evidence::LogprobMin if signals.tokens == 0 => anything,
        Evidence::LogprobMin => [f64::NEG_INFINITY, signals.logprob_min],
        Evidence::EntropyMean => {
            [signals.entropy_sum.max(0.0) / tokens_max(signals, max_tokens), f64::INFINITY]
        }
        Evidence::AnswerTokensLn => {
            [f64::from(signals.tokens).ln_1p(), tokens_max(signals, max_tokens).ln_1p()]
        }
        // A backend may count the prompt only at the end.
        Evidence::PromptTokensLn if seen.prompt_tokens == 0 => anything,
        Evidence::PromptTokensLn | Evidence::HeadLogit => [evidence.of(seen)?; 2],
    })
}

impl Weighed {
    /// The least and the most that it may add in the end.
    fn bounds(&self, seen: &Seen<'_>, max_tokens: Option<u32>) -> Option<[f64; 2]> {
        if self.weight == 0.0 {
            return Some([0.0; 2]);
        }
        let [low, high] = reach(self.evidence, seen, max_tokens)?.map(|value| self.adds(value));
        Some([low.min(high), low.max(high)])
    }
}

impl Combination {
    /// The lowest and the highest probability that any end of the answer could have; they draw together while the
    /// answer grows. `None`: nothing bounds it from above, or a part is not known.
    pub fn bounds(&self, so_far: &Seen<'_>, max_tokens: Option<u32>) -> Option<[f64; 2]> {
        let [mut low, mut high] = [self.bias; 2];
        for part in &self.parts {
            let [least, most] = part.bounds(so_far, max_tokens)?;
            low += least;
            high += most;
        }
        let at = |sum: f64, rounding: f64| {
            (self.calibrator.probability(sum + rounding) + rounding).clamp(0.0, 1.0)
        };
        // Without a bound from below the least is 0, which is true of any probability.
        let lowest = if low.is_finite() { at(low, -ROUNDING) } else { 0.0 };
        (!low.is_nan() && high.is_finite()).then(|| [lowest, at(high, ROUNDING)])
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::calibrator::Calibrator;

    fn signals(tokens: &[(f64, f64)]) -> Signals {
        let mut signals = Signals::default();
        for (logprob, entropy) in tokens {
            let first = signals.tokens == 0;
            signals.logprob_min = if first { *logprob } else { signals.logprob_min.min(*logprob) };
            signals.logprob_sum += logprob;
            signals.entropy_sum += entropy;
            signals.tokens += 1;
        }
        signals
    }

    fn combination(weights: [f64; 6], has_ranges: bool) -> Combination {
        let ranges = [[-1.0, -0.1], [-3.0, -0.2], [0.1, 2.0], [1.0, 4.0], [3.0, 5.0], [-2.0, 2.0]];
        let all = Evidence::OF_ANSWER.into_iter().chain([Evidence::HeadLogit]);
        let parts = all.zip(weights).zip(ranges).map(|((evidence, weight), range)| Weighed {
            evidence,
            mean: 0.3,
            scale: 0.7,
            weight,
            range: has_ranges.then_some(range),
        });
        let calibrator = Calibrator::Platt { slope: 1.2, intercept: -0.1 };
        Combination { parts: parts.collect(), bias: 0.4, calibrator }
    }

    fn seen(signals: &Signals, head: f64) -> Seen<'_> {
        Seen { signals, prompt_tokens: 70, head: Some(head) }
    }

    proptest! {
        /// Whatever comes, the end lies within the bounds, and they only draw together.
        #[test]
        fn no_end_of_an_answer_passes_the_bounds(
            tokens in proptest::collection::vec((-6.0..=0.0f64, 0.0..=4.0f64), 1..40),
            weights in proptest::array::uniform6(-2.0..2.0f64), head in 0.01..0.99f64,
            spare in proptest::option::of(0u32..9),
        ) {
            let combination = combination(weights, true);
            let max_tokens = spare.map(|spare| tokens.len() as u32 + spare);
            let whole = signals(&tokens);
            let end = combination.probability(&seen(&whole, head)).unwrap();
            let mut before = [0.0, 1.0];
            for written in 0..=tokens.len() {
                let part = signals(&tokens[..written]);
                let [worst, best] = combination.bounds(&seen(&part, head), max_tokens).unwrap();
                prop_assert!(worst <= end && end <= best, "{worst} {end} {best}");
                prop_assert!(before[0] <= worst + 1e-12 && best <= before[1] + 1e-12, "{before:?}");
                before = [worst, best];
                let mean = logprob_mean_max(&part, max_tokens).unwrap();
                prop_assert!(whole.logprob_mean().unwrap() <= mean);
            }
        }
    }

    #[test]
    fn what_is_known_already_is_in_the_bound_and_what_can_not_be_bounded_has_none() {
        let sure = [(-0.01, 0.05); 4];
        let unsure = [(-0.01, 0.05), (-2.5, 1.5), (-2.0, 1.5), (-2.0, 1.5)];
        let combination = combination([1.0, 1.0, -1.0, 0.0, 0.0, 1.0], true);
        let best = |tokens: &[(f64, f64)], prompt_tokens, max_tokens| {
            let signals = signals(tokens);
            let seen = Seen { signals: &signals, prompt_tokens, head: Some(0.5) };
            combination.bounds(&seen, max_tokens).map(|[_, best]| best)
        };
        assert!(2.0 * best(&unsure, 70, None).unwrap() < best(&sure, 70, None).unwrap());
        // Four tokens more leave less to hope for than any number of them.
        assert!(2.0 * best(&unsure, 70, Some(8)).unwrap() < best(&unsure, 70, None).unwrap());
        let silent = Signals::default();
        let seen = |head| Seen { signals: &silent, prompt_tokens: 70, head };
        assert_eq!(combination.bounds(&seen(None), None), None);
        let unbounded = self::combination([1.0, -1.0, 1.0, 0.0, 0.0, 1.0], false);
        assert_eq!(unbounded.bounds(&seen(Some(0.5)), None), None);
        let nan = Signals { tokens: 1, logprob_sum: f64::NAN, ..silent };
        assert_eq!(
            combination.bounds(&Seen { signals: &nan, prompt_tokens: 70, head: Some(0.5) }, None),
            None
        );
    }
}
