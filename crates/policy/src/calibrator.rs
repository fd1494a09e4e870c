//! From a score to a probability: [`Calibrator`].

use serde::{Deserialize, Serialize};

/// A monotone map from any finite score to a probability.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum Calibrator {
    /// `1 / (1 + exp(-(slope · score + intercept)))` (Platt, 1999).
    Platt {
        /// At least 0, so that a higher score never means less.
        slope: f64,
        /// Log-odds at score 0.
        intercept: f64,
    },
    /// Linear between knots, constant beyond them (isotonic regression: Zadrozny & Elkan, 2002).
    Isotonic {
        /// Ascending.
        scores: Vec<f64>,
        /// At each score, not descending.
        probabilities: Vec<f64>,
    },
}

impl Calibrator {
    /// The probability of a score; of one that is no number, 0.
    pub fn probability(&self, score: f64) -> f64 {
        if score.is_nan() {
            return 0.0;
        }
        match self {
            Calibrator::Platt { slope, intercept } => sigmoid(slope * score + intercept),
            Calibrator::Isotonic { scores, probabilities } => interpolated(scores, probabilities, score),
        }
    }

    /// What is wrong with it, if something is; one that was read from a file may be anything.
    pub fn fault(&self) -> Option<String> {
        match self {
            Calibrator::Platt { slope, intercept } => {
                let fits = slope.is_finite() && *slope >= 0.0 && intercept.is_finite();
                (!fits).then(|| format!("slope {slope} and intercept {intercept} are no Platt scaling"))
            }
            Calibrator::Isotonic { scores, probabilities } => {
                let finite = scores.iter().all(|score| score.is_finite());
                let rise = scores.windows(2).all(|pair| pair[0] < pair[1])
                    && probabilities.windows(2).all(|pair| pair[0] <= pair[1]);
                let range = probabilities.iter().all(|p| (0.0..=1.0).contains(p));
                let fits =
                    !scores.is_empty() && scores.len() == probabilities.len() && finite && rise && range;
                (!fits).then(|| "its isotonic knots are not a rising line of probabilities".to_owned())
            }
        }
    }
}

/// The logistic function.
pub fn sigmoid(x: f64) -> f64 {
    if x >= 0.0 {
        1.0 / (1.0 + (-x).exp())
    } else {
        let e = x.exp();
        e / (1.0 + e)
    }
}

/// Natural log-odds of a probability, which is kept 1e-6 away from 0 and 1; of NaN, that of 0.
pub fn logit(probability: f64) -> f64 {
    let p = if probability.is_nan() { 0.0 } else { probability }.clamp(1e-6, 1.0 - 1e-6);
    (p / (1.0 - p)).ln()
}

/// `scores` ascending, as many `values`, at least one.
fn interpolated(scores: &[f64], values: &[f64], at: f64) -> f64 {
    let above = scores.partition_point(|score| *score <= at);
    let (Some(first), Some(last)) = (values.first(), values.last()) else { return 0.0 };
    if above == 0 {
        return *first;
    }
    if above == scores.len() {
        return *last;
    }
    let share = (at - scores[above - 1]) / (scores[above] - scores[above - 1]);
    values[above - 1] + share * (values[above] - values[above - 1])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn steps() -> Calibrator {
        Calibrator::Isotonic { scores: vec![-1.0, 0.0, 2.0], probabilities: vec![0.1, 0.4, 0.8] }
    }

    #[test]
    fn probabilities_lie_on_the_lines_between_knots() {
        for (score, expected) in [(-9.0, 0.1), (-1.0, 0.1), (-0.5, 0.25), (1.0, 0.6), (2.0, 0.8), (9.0, 0.8)]
        {
            assert!((steps().probability(score) - expected).abs() < 1e-12, "{score}");
        }
        let platt = Calibrator::Platt { slope: 2.0, intercept: -1.0 };
        assert_eq!(platt.probability(0.5), 0.5);
        assert_eq!(platt.probability(f64::NAN), 0.0);
    }

    #[test]
    fn files_may_lie_about_it() {
        assert_eq!(steps().fault(), None);
        let isotonic = |scores: &[f64], probabilities: &[f64]| Calibrator::Isotonic {
            scores: scores.to_vec(),
            probabilities: probabilities.to_vec(),
        };
        for wrong in [
            isotonic(&[], &[]),
            isotonic(&[0.0], &[0.1, 0.2]),
            isotonic(&[0.0, 0.0], &[0.1, 0.2]),
            isotonic(&[0.0, 1.0], &[0.3, 0.2]),
            isotonic(&[0.0], &[1.5]),
            isotonic(&[f64::NAN], &[0.5]),
            Calibrator::Platt { slope: -1.0, intercept: 0.0 },
            Calibrator::Platt { slope: 1.0, intercept: f64::INFINITY },
        ] {
            assert!(wrong.fault().is_some(), "{wrong:?}");
        }
    }

    proptest! {
        #[test]
        fn more_score_never_means_less(a in -50.0..50.0f64, b in -50.0..50.0f64, slope in 0.0..5.0f64) {
            let (low, high) = (a.min(b), a.max(b));
            for calibrator in [steps(), Calibrator::Platt { slope, intercept: 0.3 }] {
                let (low, high) = (calibrator.probability(low), calibrator.probability(high));
                prop_assert!(low <= high && (0.0..=1.0).contains(&low) && (0.0..=1.0).contains(&high));
            }
        }

        #[test]
        fn log_odds_and_logistic_are_inverse(x in -13.0..13.0f64) {
            prop_assert!((logit(sigmoid(x)) - x).abs() < 1e-6);
        }
    }
}
