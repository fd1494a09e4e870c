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
    /// The most that it may add in the end.
    fn best(&self, seen: &Seen<'_>, max_tokens: Option<u32>) -> Option<f64> {
        if self.weight == 0.0 {
            return Some(0.0);
        }
        let [low, high] = reach(self.evidence, seen, max_tokens)?;
        Some(self.adds(if self.weight > 0.0 { high } else { low }))
    }
}

impl Combination {
    /// The highest probability that any end of the answer could have; it falls while the answer grows. `None`: there
    /// is no such bound, or a part is not known.
    pub fn best(&self, so_far: &Seen<'_>, max_tokens: Option<u32>) -> Option<f64> {
        let mut sum = self.bias;
        for part in &self.parts {
            sum += part.best(so_far, max_tokens)?;
        }
        sum.is_finite().then(|| (self.calibrator.probability(sum + ROUNDING) + ROUNDING).min(1.0))
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
        /// Whatever comes, the end is not above the bound, and bounds only fall.
        #[test]
        fn no_end_of_an_answer_passes_the_bound(
            tokens in proptest::collection::vec((-6.0..=0.0f64, 0.0..=4.0f64), 1..40),
            weights in proptest::array::uniform6(-2.0..2.0f64), head in 0.01..0.99f64,
            spare in proptest::option::of(0u32..9),
        ) {
            let combination = combination(weights, true);
            let max_tokens = spare.map(|spare| tokens.len() as u32 + spare);
            let whole = signals(&tokens);
            let end = combination.probability(&seen(&whole, head)).unwrap();
            let mut before = 1.0;
            for written in 0..=tokens.len() {
                let part = signals(&tokens[..written]);
                let best = combination.best(&seen(&part, head), max_tokens).unwrap();
                prop_assert!(end <= best && best <= before + 1e-12, "{end} {best} {before}");
                before = best;
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
            combination.best(&Seen { signals: &signals, prompt_tokens, head: Some(0.5) }, max_tokens)
        };
        assert!(2.0 * best(&unsure, 70, None).unwrap() < best(&sure, 70, None).unwrap());
        // Four tokens more leave less to hope for than any number of them.
        assert!(2.0 * best(&unsure, 70, Some(8)).unwrap() < best(&unsure, 70, None).unwrap());
        let silent = Signals::default();
        let seen = |head| Seen { signals: &silent, prompt_tokens: 70, head };
        assert_eq!(combination.best(&seen(None), None), None);
        let unbounded = self::combination([1.0, -1.0, 1.0, 0.0, 0.0, 1.0], false);
        assert_eq!(unbounded.best(&seen(Some(0.5)), None), None);
        let nan = Signals { tokens: 1, logprob_sum: f64::NAN, ..silent };
        assert_eq!(combination.best(&Seen { signals: &nan, prompt_tokens: 70, head: Some(0.5) }, None), None);
    }
}
