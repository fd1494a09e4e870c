//! Whether traffic is still what a calibration was made on: [`Drift`].
//!
//! Small's answers are compared, as a window of the last ones, with the calibration's stored quantiles, by the
//! Kolmogorov–Smirnov test of two samples. Pure: the gateway feeds it.

use std::collections::VecDeque;

use contract::{Attempt, AttemptStatus, Role};
use serde::Serialize;

use crate::calibration::{Calibration, Evidence, PolicyKind, Seen};

/// Values in a full window.
pub const WINDOW_VALUES: usize = 200;
/// Fewer say nothing.
pub const WINDOW_VALUES_MIN: usize = 50;
/// Traffic has drifted once the p-value is below this: low, for the window is tested again at every answer.
pub const P_VALUE_DRIFTED: f64 = 1e-4;
/// And is itself again once the p-value is above this.
pub const P_VALUE_BACK: f64 = 1e-2;
/// Smaller distances cost no promise, however sure they are.
pub const STATISTIC_MIN: f64 = 0.15;
/// Requests without a value, while traffic has drifted, after which it is looked at afresh: large answers meanwhile, so
/// nothing else would tell that it is itself again.
pub const PAUSE_REQUESTS: usize = 1000;
/// Terms of Kolmogorov's series; the rest is below 1e-15 wherever it is summed.
const SERIES_TERMS: u32 = 100;

/// What the test says.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct DriftState {
    /// Values in the window.
    pub values: usize,
    /// Largest distance, 0..=1, of the two distribution functions; 0 before there is enough traffic.
    pub statistic: f64,
    /// How likely such a distance is if nothing has changed; 1 before there is enough traffic.
    pub p_value: f64,
    /// Whether the calibration's promise is off.
    pub drifted: bool,
}

/// Before anything is known.
const CALM: DriftState = DriftState { values: 0, statistic: 0.0, p_value: 1.0, drifted: false };

/// A window of one signal beside its reference.
#[derive(Clone, Debug)]
pub struct Drift {
    signal: Evidence,
    /// Ascending, at equal steps of probability.
    quantiles: Vec<f64>,
    /// Rows behind the quantiles.
    rows: u64,
    window: VecDeque<f64>,
    state: DriftState,
    /// Requests without a value since traffic has drifted.
    passed: usize,
}

impl Drift {
    /// Watches what the calibration's policy decides by: the log-odds of small's head where a head has a part in it, the
    /// mean log-probability of small's answers otherwise. `None` where it does not route, or has no reference for it.
    pub fn of(calibration: &Calibration) -> Option<Self> {
        let signal = match calibration.policy {
            PolicyKind::Route => Evidence::HeadLogit,
            PolicyKind::Cascade | PolicyKind::CascadeRoute => Evidence::LogprobMean,
        };
        // Where hopeless requests go to large unanswered, or their answers are given up, what is answered is the rest:
        // the head sees all.
        let by_head = calibration.route_below.is_some() || calibration.right.judges_by_head();
        let signal = if by_head { Evidence::HeadLogit } else { signal };
        let reference = calibration.references.iter().find(|reference| reference.signal == signal)?;
        let data = &calibration.data;
        calibration.routes.then(|| Drift {
            signal,
            quantiles: reference.quantiles.clone(),
            rows: (data.fit + data.calibration + data.held_out).max(reference.quantiles.len() as u64),
            window: VecDeque::with_capacity(WINDOW_VALUES),
            state: CALM,
            passed: 0,
        })
    }

    /// What a request's attempts show of the signal, if anything: whole answers of small, or its reading.
    pub fn value(&self, calibration: &Calibration, attempts: &[Attempt]) -> Option<f64> {
        let fits = |attempt: &&Attempt| match self.signal {
            Evidence::HeadLogit => attempt.findings.is_some(),
            _ => matches!(attempt.status, AttemptStatus::Finished(_)),
        };
        let small = attempts.iter().filter(|attempt| attempt.role == Role::Small).find(fits)?;
        let head = calibration.chances_by_reading(small.findings.as_ref()).map(|chances| chances.small);
        let prompt_tokens = small.usage.prompt_tokens;
        self.signal.of(&Seen { signals: &small.signals, prompt_tokens, head })
    }

    /// Takes the next value in; the oldest one leaves a full window. What is not finite is left out.
    pub fn push(&mut self, value: f64) {
        if !value.is_finite() {
            return;
        }
        if self.window.len() >= WINDOW_VALUES {
            self.window.pop_front();
        }
        self.window.push_back(value);
        self.state.values = self.window.len();
        if self.window.len() < WINDOW_VALUES_MIN {
            return;
        }
        let statistic = self.distance();
        let p_value = p_value(statistic, self.rows, self.window.len());
        let drifted = if self.state.drifted {
            p_value < P_VALUE_BACK
        } else {
            p_value < P_VALUE_DRIFTED && statistic >= STATISTIC_MIN
        };
        self.state = DriftState { values: self.window.len(), statistic, p_value, drifted };
    }

    /// A request went by that showed nothing. After [`PAUSE_REQUESTS`] of them drifted traffic is looked at afresh.
    pub fn pass(&mut self) {
        self.passed = if self.state.drifted { self.passed + 1 } else { 0 };
        if self.passed >= PAUSE_REQUESTS {
            self.window.clear();
            self.passed = 0;
            self.state = CALM;
        }
    }

    /// What is known so far.
    pub fn state(&self) -> DriftState {
        self.state
    }

    /// The two-sample statistic, with the reference's distribution function linear between its quantiles.
    fn distance(&self) -> f64 {
        let mut values: Vec<f64> = self.window.iter().copied().collect();
        values.sort_by(f64::total_cmp);
        let amount = values.len() as f64;
        let mut farthest: f64 = 0.0;
        for (index, &value) in values.iter().enumerate() {
            // Equal values are one step: only its two ends count.
            let (below, upto) = self.reference(value);
            let is_first = index == 0 || values[index - 1] < value;
            let is_last = values.get(index + 1).is_none_or(|next| *next > value);
            if is_first {
                farthest = farthest.max((below - index as f64 / amount).abs());
            }
            if is_last {
                farthest = farthest.max((upto - (index + 1) as f64 / amount).abs());
            }
        }
        farthest
    }

    /// Shares of the reference below a value and up to it; they differ where quantiles are equal.
    fn reference(&self, value: f64) -> (f64, f64) {
        let quantiles = &self.quantiles;
        let steps = (quantiles.len().saturating_sub(1)).max(1) as f64;
        let less = quantiles.partition_point(|quantile| *quantile < value);
        let upto = quantiles.partition_point(|quantile| *quantile <= value);
        if less < upto {
            let below = if less == 0 { 0.0 } else { less as f64 / steps };
            let end = if upto == quantiles.len() { 1.0 } else { (upto - 1) as f64 / steps };
            return (below.min(end), end);
        }
        if less == 0 || less == quantiles.len() {
            let outside = if less == 0 { 0.0 } else { 1.0 };
            return (outside, outside);
        }
        let (left, right) = (quantiles[less - 1], quantiles[less]);
        let share = ((less - 1) as f64 + (value - left) / (right - left)) / steps;
        (share, share)
    }
}

/// Kolmogorov's distribution with Stephens' correction for small samples (Numerical Recipes, 14.3).
fn p_value(statistic: f64, rows: u64, values: usize) -> f64 {
    let (rows, values) = (rows as f64, values as f64);
    let root = (rows * values / (rows + values)).sqrt();
    let lambda = (root + 0.12 + 0.11 / root) * statistic;
    // Below this the series converges slowly, and the value is 1 to nine digits.
    if lambda < 0.2 {
        return 1.0;
    }
    let term = |k: u32| {
        let sign = if k % 2 == 1 { 2.0 } else { -2.0 };
        sign * (-2.0 * f64::from(k * k) * lambda * lambda).exp()
    };
    (1..=SERIES_TERMS).map(term).sum::<f64>().clamp(0.0, 1.0)
}

#[cfg(test)]
mod tests {
    use contract::Signals;

    use super::*;
    use crate::calibration::Reference;
    use crate::calibration::testing::calibration;

    /// Quantiles of the even distribution on 0..=1, of 400 rows.
    fn even() -> Calibration {
        let mut calibration = calibration(PolicyKind::Cascade);
        let parts =
            calibration.right.small.combination.iter_mut().flat_map(|combination| &mut combination.parts);
        parts
            .filter(|part| part.evidence == Evidence::HeadLogit)
            .for_each(|part| part.evidence = Evidence::LogprobMin);
        let quantiles = (0..=100).map(|step| f64::from(step) / 100.0).collect();
        calibration.references = vec![Reference { signal: Evidence::LogprobMean, quantiles }];
        calibration.data.fit = 400;
        calibration
    }

    /// Evenly spread values in a scattered order (multiples of the golden ratio).
    fn spread(amount: usize, map: fn(f64) -> f64) -> impl Iterator<Item = f64> {
        (0..amount).map(move |index| map((index as f64 * 0.618_033_988_749_895).fract()))
    }

    #[test]
    fn traffic_like_the_calibrations_does_not_drift_and_shifted_traffic_does_and_returns() {
        let mut drift = Drift::of(&even()).unwrap();
        spread(300, |value| value).for_each(|value| drift.push(value));
        let calm = drift.state();
        assert!(!calm.drifted && calm.statistic < 0.05 && calm.p_value > 0.9, "{calm:?}");
        spread(200, |value| 0.5 * value).for_each(|value| drift.push(value));
        let shifted = drift.state();
        assert!(shifted.drifted && (shifted.statistic - 0.5).abs() < 0.02, "{shifted:?}");
        assert!(shifted.p_value < 1e-20, "{shifted:?}");
        // Half of the window alone is not enough to come back.
        spread(80, |value| value).for_each(|value| drift.push(value));
        assert!(drift.state().drifted, "{:?}", drift.state());
        spread(200, |value| value).for_each(|value| drift.push(value));
        assert!(!drift.state().drifted && drift.state().values == WINDOW_VALUES, "{:?}", drift.state());
    }

    #[test]
    fn a_few_values_say_nothing_and_broken_ones_are_left_out() {
        let mut drift = Drift::of(&even()).unwrap();
        (0..WINDOW_VALUES_MIN - 1).for_each(|_| drift.push(9.0));
        (0..999).for_each(|_| drift.push(f64::NAN));
        assert_eq!(
            drift.state(),
            DriftState { values: WINDOW_VALUES_MIN - 1, statistic: 0.0, p_value: 1.0, drifted: false }
        );
        drift.push(9.0);
        assert_eq!((drift.state().statistic, drift.state().drifted), (1.0, true));
    }

    #[test]
    fn drifted_traffic_is_looked_at_afresh_after_a_pause() {
        let mut drift = Drift::of(&even()).unwrap();
        (0..PAUSE_REQUESTS).for_each(|_| drift.pass());
        (0..WINDOW_VALUES_MIN).for_each(|_| drift.push(9.0));
        (1..PAUSE_REQUESTS).for_each(|_| drift.pass());
        assert!(drift.state().drifted);
        drift.pass();
        assert_eq!(drift.state(), CALM);
    }

    #[test]
    fn p_values_are_those_of_tables() {
        // Kolmogorov's critical values for large samples: 1.224 at 0.1, 1.358 at 0.05, 1.628 at 0.01.
        for (lambda, expected) in [(1.224, 0.1), (1.358, 0.05), (1.628, 0.01)] {
            let amount = 100_000_000u64;
            let root = (amount as f64 / 2.0).sqrt();
            let found = p_value(lambda / root, amount, 100_000_000);
            assert!((found - expected).abs() < 5e-4, "{lambda}: {found}");
        }
        assert_eq!(p_value(0.0, 100, 100), 1.0);
    }

    #[test]
    fn equal_values_on_both_sides_are_no_distance() {
        let mut calibration = even();
        calibration.references[0].quantiles = vec![0.0; 11];
        let mut drift = Drift::of(&calibration).unwrap();
        (0..WINDOW_VALUES).for_each(|_| drift.push(0.0));
        assert_eq!(drift.state().statistic, 0.0);
    }

    #[test]
    fn what_is_watched_is_what_the_policy_decides_by() {
        let calibration = even();
        let drift = Drift::of(&calibration).unwrap();
        let attempt = |role, status| Attempt {
            role,
            model: String::new(),
            status,
            findings: None,
            text: String::new(),
            signals: Signals { tokens: 4, logprob_sum: -2.0, logprob_min: -1.0, entropy_sum: 0.0 },
            usage: contract::Usage::default(),
            timings: contract::Timings::default(),
            cost_usd: 0.0,
        };
        let stop = AttemptStatus::Finished(contract::FinishReason::Stop);
        assert_eq!(drift.value(&calibration, &[attempt(Role::Small, stop.clone())]), Some(-0.5));
        assert_eq!(drift.value(&calibration, &[attempt(Role::Large, stop)]), None);
        assert_eq!(drift.value(&calibration, &[attempt(Role::Small, AttemptStatus::Cancelled)]), None);
        let idle = Calibration { routes: false, ..calibration };
        assert!(Drift::of(&idle).is_none());
    }
}
