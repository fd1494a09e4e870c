//! Fits a [`Calibrator`]: none, Platt scaling or isotonic regression, whichever predicts rows better that it has not seen.

use policy::calibrator::{Calibrator, logit};

use super::lbfgs::Stop;
use super::logistic::{self, Linear};
use super::matrix::Matrix;

/// The kinds of calibrators.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Scores are log-odds already: nothing is fitted, so nothing is fitted badly.
    AsTheyAre,
    /// Two parameters.
    Platt,
    /// Any rising line.
    Isotonic,
}

/// A calibrator, and what its kind predicts for each row when fitted on the other folds.
#[derive(Clone, Debug, PartialEq)]
pub struct Calibrated {
    /// Fitted on all rows.
    pub calibrator: Calibrator,
    /// `[rows]`: each by a fit on the other folds.
    pub probabilities: Vec<f64>,
}

/// Chooses the kind by the log loss of cross-validation, and fits it on all rows.
pub fn choose(scores: &[f64], labels: &[bool], folds: &[usize]) -> Calibrated {
    let loss = |calibrated: &Calibrated| log_loss(&calibrated.probabilities, labels);
    let [as_they_are, platt, isotonic] =
        [Kind::AsTheyAre, Kind::Platt, Kind::Isotonic].map(|kind| of_kind(kind, scores, labels, folds));
    let better = |a: Calibrated, b: Calibrated| if loss(&a) <= loss(&b) { a } else { b };
    better(better(as_they_are, platt), isotonic)
}

/// Fits this kind.
pub fn of_kind(kind: Kind, scores: &[f64], labels: &[bool], folds: &[usize]) -> Calibrated {
    let probabilities = held_out(kind, scores, labels, folds);
    Calibrated { calibrator: fit(kind, scores, labels), probabilities }
}

/// Each row's probability by a fit on the other folds.
fn held_out(kind: Kind, scores: &[f64], labels: &[bool], folds: &[usize]) -> Vec<f64> {
    let mut probabilities = vec![0.5; scores.len()];
    for fold in 0..=folds.iter().copied().max().unwrap_or(0) {
        let others = || (0..scores.len()).filter(|row| folds[*row] != fold);
        let of_scores: Vec<f64> = others().map(|row| scores[row]).collect();
        let of_labels: Vec<bool> = others().map(|row| labels[row]).collect();
        let calibrator = fit(kind, &of_scores, &of_labels);
        for row in (0..scores.len()).filter(|row| folds[*row] == fold) {
            probabilities[row] = calibrator.probability(scores[row]);
        }
    }
    probabilities
}

/// Fits a calibrator; of no rows it says one half.
pub fn fit(kind: Kind, scores: &[f64], labels: &[bool]) -> Calibrator {
    if scores.is_empty() {
        return Calibrator::Platt { slope: 0.0, intercept: 0.0 };
    }
    match kind {
        Kind::AsTheyAre => Calibrator::Platt { slope: 1.0, intercept: 0.0 },
        Kind::Platt => platt(scores, labels),
        Kind::Isotonic => isotonic(scores, labels),
    }
}

fn platt(scores: &[f64], labels: &[bool]) -> Calibrator {
    // Platt's prior, one half row of either label, and no slope worth it for scores that do not vary.
    let mut matrix = Matrix::new(1);
    scores.iter().for_each(|score| matrix.push([*score as f32]));
    let standard = matrix.standardise();
    let rows: Vec<usize> = (0..scores.len()).collect();
    let strength = 1.0 / scores.len() as f64;
    let stop = Stop { gradient_max: 1e-7, steps_max: 200 };
    let task = logistic::Task { matrix: &matrix, labels, weights: &[], rows: &rows, strength, stop };
    let positives = labels.iter().filter(|label| **label).count() as f64;
    let base = logit((positives + 0.5) / (labels.len() as f64 + 1.0));
    let fitted = logistic::fit(task, &Linear::zero(1));
    let (mean, scale) = (f64::from(standard.means[0]), f64::from(standard.scales[0]));
    let slope = fitted.weights()[0] / scale;
    // One label only sends the bias as far as the steps go; a score that points the wrong way says nothing.
    if positives == 0.0 || positives == labels.len() as f64 || slope <= 0.0 {
        return Calibrator::Platt { slope: 0.0, intercept: base };
    }
    Calibrator::Platt { slope, intercept: fitted.bias() - slope * mean }
}

/// Isotonic regression by pooling adjacent violators (Ayer et al., 1955): flat over each block's scores, linear between
/// blocks.
fn isotonic(scores: &[f64], labels: &[bool]) -> Calibrator {
    struct Block {
        rows: f64,
        lowest: f64,
        highest: f64,
        positives: f64,
    }
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|a, b| scores[*a].total_cmp(&scores[*b]));
    let mut blocks: Vec<Block> = Vec::new();
    for row in order {
        let positives = if labels[row] { 1.0 } else { 0.0 };
        let mut block = Block { rows: 1.0, lowest: scores[row], highest: scores[row], positives };
        // Equal scores are one block, and so are those whose shares would not rise.
        while let Some(last) = blocks.pop_if(|last| {
            last.highest >= block.lowest || last.positives * block.rows >= block.positives * last.rows
        }) {
            block = Block {
                rows: last.rows + block.rows,
                lowest: last.lowest,
                highest: block.highest,
                positives: last.positives + block.positives,
            };
        }
        blocks.push(block);
    }
    // No number of rows makes an event certain.
    let edge = 1.0 / (scores.len() as f64 + 2.0);
    let (mut knots, mut probabilities) = (Vec::new(), Vec::new());
    for block in blocks {
        let probability = (block.positives / block.rows).clamp(edge, 1.0 - edge);
        knots.push(block.lowest);
        probabilities.push(probability);
        if block.highest > block.lowest {
            knots.push(block.highest);
            probabilities.push(probability);
        }
    }
    Calibrator::Isotonic { scores: knots, probabilities }
}

/// Mean −ln of the probability that was given to what happened.
pub fn log_loss(probabilities: &[f64], labels: &[bool]) -> f64 {
    let each = |(p, label): (&f64, &bool)| {
        let p = p.clamp(1e-12, 1.0 - 1e-12);
        if *label { -p.ln() } else { -(1.0 - p).ln() }
    };
    probabilities.iter().zip(labels).map(each).sum::<f64>() / labels.len().max(1) as f64
}

#[cfg(test)]
mod tests {
    use policy::calibrator::sigmoid;
    use proptest::prelude::*;

    use super::*;
    use crate::fit::random::SplitMix;

    fn drawn(n: usize, probability: impl Fn(f64) -> f64) -> (Vec<f64>, Vec<bool>, Vec<usize>) {
        let mut random = SplitMix::new(11);
        let scores: Vec<f64> = (0..n).map(|_| 2.0 * random.normal()).collect();
        let labels = scores.iter().map(|score| random.unit() < probability(*score)).collect();
        (scores, labels, (0..n).map(|row| row % 5).collect())
    }

    #[test]
    fn a_logistic_truth_is_recovered_by_platt() {
        let (scores, labels, folds) = drawn(4000, |score| sigmoid(0.7 * score - 0.4));
        let chosen = choose(&scores, &labels, &folds);
        let Calibrator::Platt { slope, intercept } = chosen.calibrator else { panic!("{chosen:?}") };
        assert!((slope - 0.7).abs() < 0.06 && (intercept + 0.4).abs() < 0.08, "{slope} {intercept}");
    }

    #[test]
    fn log_odds_that_are_right_are_left_as_they_are() {
        let (scores, labels, folds) = drawn(400, sigmoid);
        let chosen = choose(&scores, &labels, &folds);
        assert_eq!(chosen.calibrator, Calibrator::Platt { slope: 1.0, intercept: 0.0 });
        assert_eq!(chosen.probabilities, scores.iter().map(|score| sigmoid(*score)).collect::<Vec<_>>());
    }

    #[test]
    fn a_step_is_recovered_by_isotonic_regression() {
        let step = |score: f64| if score > 0.5 { 0.9 } else { 0.3 };
        let (scores, labels, folds) = drawn(4000, step);
        let chosen = choose(&scores, &labels, &folds);
        assert!(matches!(chosen.calibrator, Calibrator::Isotonic { .. }), "{chosen:?}");
        for score in [-1.0, 0.0, 1.5, 2.5] {
            assert!((chosen.calibrator.probability(score) - step(score)).abs() < 0.08, "{score}");
        }
    }

    #[test]
    fn pooled_blocks_are_the_hand_computed_ones() {
        let labels = [false, true, false, false, true, true];
        let fitted = fit(Kind::Isotonic, &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], &labels);
        // 1 | 2 3 4 | 5 6, kept 1/8 away from certainty.
        let expected = Calibrator::Isotonic {
            scores: vec![1.0, 2.0, 4.0, 5.0, 6.0],
            probabilities: vec![0.125, 1.0 / 3.0, 1.0 / 3.0, 0.875, 0.875],
        };
        assert_eq!(fitted, expected);
    }

    #[test]
    fn scores_that_say_nothing_give_the_base_rate() {
        let labels = [true, false, false, false];
        for scores in [[1.0; 4], [0.0, 1.0, 2.0, 3.0]] {
            let p = fit(Kind::Platt, &scores, &labels).probability(1.0);
            assert!((p - 0.3).abs() < 1e-9, "{p}");
        }
        assert_eq!(fit(Kind::Isotonic, &[], &[]).probability(1.0), 0.5);
        assert!((fit(Kind::Platt, &[1.0, 2.0], &[true, true]).probability(5.0) - 2.5 / 3.0).abs() < 1e-9);
    }

    proptest! {
        #[test]
        fn every_fit_is_a_valid_calibrator(
            rows in proptest::collection::vec((-9i32..9, any::<bool>()), 1..60), scale in 1e-3..1e3f64,
        ) {
            let scores: Vec<f64> = rows.iter().map(|(score, _)| f64::from(*score) * scale).collect();
            let labels: Vec<bool> = rows.iter().map(|(_, label)| *label).collect();
            for kind in [Kind::AsTheyAre, Kind::Platt, Kind::Isotonic] {
                prop_assert_eq!(fit(kind, &scores, &labels).fault(), None);
            }
        }
    }
}
