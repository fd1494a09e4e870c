//! Confidence intervals by resampling clusters of rows with replacement (Efron & Tibshirani, 1993): percentile
//! intervals, paired where several figures are computed of the same resample.

use super::random::SplitMix;

/// Resamples that intervals are made of.
pub const RESAMPLES: usize = 1000;

/// How often each row counts in one resample.
pub type Weights = [u32];

/// Calls `figure` with every resample's weights, `[clusters.len()]`: rows of a cluster are drawn together. Figures
/// that can't be computed of a resample are left out.
pub fn resampled(clusters: &[usize], seed: u64, mut figure: impl FnMut(&Weights) -> Option<f64>) -> Vec<f64> {
    let mut names: Vec<usize> = clusters.to_vec();
    names.sort_unstable();
    names.dedup();
    let index: Vec<usize> = clusters.iter().map(|name| names.partition_point(|other| other < name)).collect();
    let mut random = SplitMix::new(seed);
    let mut figures = Vec::with_capacity(RESAMPLES);
    let mut drawn = vec![0_u32; names.len()];
    let mut weights = vec![0_u32; clusters.len()];
    for _ in 0..RESAMPLES {
        drawn.fill(0);
        (0..names.len()).for_each(|_| drawn[random.below(names.len())] += 1);
        weights.iter_mut().zip(&index).for_each(|(weight, cluster)| *weight = drawn[*cluster]);
        figures.extend(figure(&weights).filter(|figure| figure.is_finite()));
    }
    figures
}

/// The interval that holds the middle `confidence` of the figures; the whole line if there are none.
pub fn interval(mut figures: Vec<f64>, confidence: f64) -> [f64; 2] {
    figures.sort_by(f64::total_cmp);
    [
        quantile(&figures, (1.0 - confidence) / 2.0, f64::NEG_INFINITY),
        quantile(&figures, (1.0 + confidence) / 2.0, f64::INFINITY),
    ]
}

/// Linear between the sorted values; `otherwise` of none.
pub fn quantile(sorted: &[f64], share: f64, otherwise: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return otherwise };
    let place = share.clamp(0.0, 1.0) * last as f64;
    let (low, high) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
    low + (high - low) * place.fract()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mean(values: &[f64], weights: &Weights) -> Option<f64> {
        let total: u32 = weights.iter().sum();
        let sum: f64 = values.iter().zip(weights).map(|(value, weight)| value * f64::from(*weight)).sum();
        (total > 0).then(|| sum / f64::from(total))
    }

    #[test]
    fn the_interval_of_a_mean_is_about_two_standard_errors() {
        let mut random = SplitMix::new(5);
        let values: Vec<f64> = (0..400).map(|_| random.normal()).collect();
        let rows: Vec<usize> = (0..400).collect();
        let [low, high] = interval(resampled(&rows, 1, |weights| mean(&values, weights)), 0.95);
        let centre = values.iter().sum::<f64>() / 400.0;
        assert!((high - low - 4.0 * 0.98 / 20.0).abs() < 0.03, "{low} {high}");
        assert!(low < centre && centre < high);
    }

    #[test]
    fn rows_of_a_cluster_count_together() {
        let clusters = [7, 7, 3, 9, 3];
        let mut seen = 0;
        resampled(&clusters, 1, |weights| {
            assert_eq!((weights[0], weights[2]), (weights[1], weights[4]));
            assert_eq!(weights[0] + weights[2] + weights[3], 3);
            seen += 1;
            None
        });
        assert_eq!(seen, RESAMPLES);
    }

    #[test]
    fn quantiles_lie_between_the_values() {
        for (share, expected) in [(0.0, 1.0), (0.5, 2.5), (0.25, 1.75), (1.0, 4.0)] {
            assert_eq!(quantile(&[1.0, 2.0, 3.0, 4.0], share, 0.0), expected);
        }
        assert_eq!(interval(Vec::new(), 0.95), [f64::NEG_INFINITY, f64::INFINITY]);
    }
}
