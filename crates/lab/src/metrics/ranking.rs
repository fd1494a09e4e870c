//! How well scores tell true labels from false ones, and how well probabilities hold.

use policy::heads::ReliabilityBin;

use crate::fit::bootstrap::{Weights, interval, resampled};

/// Bins of equal width of a reliability table and of the expected calibration error.
pub const BINS: usize = 10;

/// Scores in order, each row's label beside it, for areas under the ROC curve of many resamples.
#[derive(Clone, Debug)]
pub struct Ranked {
    /// Rows by ascending score; rows of one tie stand together.
    ties: Vec<Vec<usize>>,
    labels: Vec<bool>,
}

impl Ranked {
    /// Sorts once.
    pub fn new(scores: &[f64], labels: &[bool]) -> Self {
        let mut order: Vec<usize> = (0..scores.len()).collect();
        order.sort_by(|a, b| scores[*a].total_cmp(&scores[*b]));
        let ties = order.chunk_by(|a, b| scores[*a] == scores[*b]).map(<[usize]>::to_vec).collect();
        Ranked { ties, labels: labels.to_vec() }
    }

    /// The probability that a true row's score is above a false one's, ties counting half; `None` where one label
    /// has no weight.
    pub fn auroc(&self, weights: &Weights) -> Option<f64> {
        let (mut negatives, mut positives, mut above) = (0.0, 0.0, 0.0);
        for tie in &self.ties {
            let (mut tied_negatives, mut tied_positives) = (0.0, 0.0);
            for &row in tie {
                let side = if self.labels[row] { &mut tied_positives } else { &mut tied_negatives };
                *side += f64::from(weights[row]);
            }
            above += tied_positives * (negatives + 0.5 * tied_negatives);
            negatives += tied_negatives;
            positives += tied_positives;
        }
        (negatives > 0.0 && positives > 0.0).then(|| above / (negatives * positives))
    }
}

/// Area under the ROC curve; `None` if one label is missing.
pub fn auroc(scores: &[f64], labels: &[bool]) -> Option<f64> {
    Ranked::new(scores, labels).auroc(&vec![1; labels.len()])
}

/// Its 95% interval by a bootstrap over clusters.
pub fn auroc_ci(scores: &[f64], labels: &[bool], (clusters, seed): (&[usize], u64)) -> [f64; 2] {
    let ranked = Ranked::new(scores, labels);
    interval(resampled(clusters, seed, |weights| ranked.auroc(weights)), 0.95)
}

/// Probabilities in bins of equal width, empty bins left out, beside how often the label was true.
pub fn reliability(probabilities: &[f64], labels: &[bool]) -> Vec<ReliabilityBin> {
    let mut bins = [(0_u64, 0.0, 0.0); BINS];
    for (probability, label) in probabilities.iter().zip(labels) {
        let bin = &mut bins[((probability * BINS as f64) as usize).min(BINS - 1)];
        bin.0 += 1;
        bin.1 += probability;
        bin.2 += if *label { 1.0 } else { 0.0 };
    }
    let made = bins.into_iter().filter(|bin| bin.0 > 0);
    made.map(|(rows, predicted, observed)| ReliabilityBin {
        rows,
        predicted: predicted / rows as f64,
        observed: observed / rows as f64,
    })
    .collect()
}

/// Expected calibration error (Naeini et al., 2015): the bins' mean |predicted − observed|, weighted by rows.
pub fn ece(probabilities: &[f64], labels: &[bool]) -> f64 {
    let bins = reliability(probabilities, labels);
    let off = bins.iter().map(|bin| bin.rows as f64 * (bin.predicted - bin.observed).abs()).sum::<f64>();
    off / labels.len().max(1) as f64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_area_is_the_share_of_pairs_in_order() {
        let labels = [false, true, false, true];
        assert_eq!(auroc(&[1.0, 2.0, 3.0, 4.0], &labels), Some(0.75));
        assert_eq!(auroc(&[1.0, 1.0, 1.0, 1.0], &labels), Some(0.5));
        assert_eq!(auroc(&[1.0, 2.0, 2.0, 4.0], &labels), Some(0.875));
        assert_eq!(auroc(&[1.0, 2.0], &[true, true]), None);
        // Weights are repeated rows.
        let repeated = auroc(&[1.0, 2.0, 2.0, 3.0, 4.0], &[false, true, true, false, true]);
        assert_eq!(Ranked::new(&[1.0, 2.0, 3.0, 4.0], &labels).auroc(&[1, 2, 1, 1]), repeated);
    }

    #[test]
    fn the_interval_holds_the_truth_of_normal_scores() {
        let mut random = crate::fit::random::SplitMix::new(2);
        let labels: Vec<bool> = (0..800).map(|row| row % 2 == 0).collect();
        let shift = |label: &bool| if *label { 1.0 } else { 0.0 };
        let scores: Vec<f64> = labels.iter().map(|label| random.normal() + shift(label)).collect();
        let rows: Vec<usize> = (0..800).collect();
        // Φ(1/√2) = 0.7602
        let [low, high] = auroc_ci(&scores, &labels, (&rows, 1));
        assert!(low < 0.7602 && 0.7602 < high && high - low < 0.08, "{low} {high}");
    }

    #[test]
    fn calibration_errors_are_the_hand_computed_ones() {
        let probabilities = [0.1, 0.1, 0.9, 0.9, 1.0];
        let labels = [false, true, true, true, false];
        // Bin 1: two rows, 0.1 against 0.5. Bin 9: three rows, 2.8/3 against 2/3.
        let expected = (2.0 * 0.4 + 3.0 * (2.8 / 3.0 - 2.0 / 3.0)) / 5.0;
        assert!((ece(&probabilities, &labels) - expected).abs() < 1e-12);
        assert_eq!(reliability(&probabilities, &labels).len(), 2);
        assert_eq!(ece(&[], &[]), 0.0);
    }

    proptest! {
        #[test]
        fn the_area_is_that_of_counting_all_pairs(
            rows in proptest::collection::vec((0i32..6, any::<bool>(), 0u32..3), 2..40),
        ) {
            let scores: Vec<f64> = rows.iter().map(|row| f64::from(row.0)).collect();
            let labels: Vec<bool> = rows.iter().map(|row| row.1).collect();
            let weights: Vec<u32> = rows.iter().map(|row| row.2).collect();
            let (mut pairs, mut above) = (0.0, 0.0);
            for (a, label_a, weight_a) in &rows {
                for (b, label_b, weight_b) in &rows {
                    if *label_a && !*label_b {
                        let weight = f64::from(weight_a * weight_b);
                        pairs += weight;
                        above += weight * if a > b { 1.0 } else if a == b { 0.5 } else { 0.0 };
                    }
                }
            }
            let expected = (pairs > 0.0).then(|| above / pairs);
            prop_assert_eq!(Ranked::new(&scores, &labels).auroc(&weights), expected);
        }
    }
}
