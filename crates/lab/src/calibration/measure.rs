//! Figures of a policy on rows that it has not seen, with intervals by a paired bootstrap.

use std::collections::BTreeMap;

use contract::Role;
use policy::calibration::{CurvePoint, Ordering, Performance, Slice};

use super::candidates::Candidate;
use super::pairs::Pair;
use super::scores::Scored;
use crate::fit::bootstrap::{Weights, interval, resampled};
use crate::metrics::ranking::{auroc, auroc_ci, ece, reliability};
use crate::metrics::routing::{Choice, Ordered, Point, aiq, apgr, cpt, curve};

/// Points of the curve that is kept, after the first.
const CURVE_STEPS: usize = 20;

/// What happens to a row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Decided {
    /// What either way brings.
    pub choice: Choice,
    /// Whether small answers.
    pub to_small: bool,
    /// What it costs then; `choice` does not know policies that read nothing.
    pub cost_usd: f64,
    /// What large alone costs.
    pub cost_large_usd: f64,
}

/// What becomes of rows under a threshold, or where one model answers everything and nothing is asked before.
pub fn decide_all(
    candidate: &Candidate,
    rows: &[(&Pair, Scored)],
    threshold: Result<Option<f64>, Role>,
) -> Vec<Decided> {
    rows.iter()
        .map(|(pair, scored)| {
            let choice = candidate.choice(pair, scored);
            let to_small = match threshold {
                Ok(least) => least.is_some_and(|least| choice.score >= least),
                Err(constant) => constant == Role::Small,
            };
            let cost_usd = match (to_small, threshold) {
                (true, _) => choice.small.cost_usd,
                (false, Ok(Some(_))) => choice.large.cost_usd,
                (false, _) => pair.large_cost_usd,
            };
            Decided { choice, to_small, cost_usd, cost_large_usd: pair.large_cost_usd }
        })
        .collect()
}

impl Decided {
    fn quality(&self) -> f64 {
        if self.to_small { self.choice.small.quality } else { self.choice.large.quality }
    }
}

fn mean(rows: &[Decided], weights: &Weights, value: impl Fn(&Decided) -> f64) -> f64 {
    let total: f64 = weights.iter().map(|weight| f64::from(*weight)).sum();
    let sum: f64 = rows.iter().zip(weights).map(|(row, weight)| f64::from(*weight) * value(row)).sum();
    sum / total.max(1.0)
}

/// Quality above random mixing with the same share of large calls.
fn above_mixing(rows: &[Decided], weights: &Weights) -> f64 {
    let share = mean(rows, weights, |row| if row.to_small { 0.0 } else { 1.0 });
    let small = mean(rows, weights, |row| row.choice.small.quality);
    let large = mean(rows, weights, |row| row.choice.large.quality);
    mean(rows, weights, Decided::quality) - (share * large + (1.0 - share) * small)
}

/// The figures of one policy.
pub fn performance(rows: &[Decided], seed: u64) -> Performance {
    let (ids, once): (Vec<usize>, Vec<u32>) = ((0..rows.len()).collect(), vec![1; rows.len()]);
    let loss = |row: &Decided| row.choice.large.quality - row.quality();
    let band = |figure: &dyn Fn(&Weights) -> f64| {
        interval(resampled(&ids, seed, |weights| Some(figure(weights))), 0.95)
    };
    Performance {
        rows: rows.len() as u64,
        quality_small: mean(rows, &once, |row| row.choice.small.quality),
        quality_large: mean(rows, &once, |row| row.choice.large.quality),
        quality_policy: mean(rows, &once, Decided::quality),
        quality_policy_ci: band(&|weights| mean(rows, weights, Decided::quality)),
        large_share: mean(rows, &once, |row| if row.to_small { 0.0 } else { 1.0 }),
        cost_usd_per_1k: 1e3 * mean(rows, &once, |row| row.cost_usd),
        cost_large_usd_per_1k: 1e3 * mean(rows, &once, |row| row.cost_large_usd),
        realised_loss: mean(rows, &once, loss),
        realised_loss_ci: band(&|weights| mean(rows, weights, loss)),
        above_mixing: above_mixing(rows, &once),
        above_mixing_ci: band(&|weights| above_mixing(rows, weights)),
    }
}

/// 95% interval of what is saved per row against large alone, US dollars.
pub fn saved_ci(rows: &[Decided], seed: u64) -> [f64; 2] {
    let ids: Vec<usize> = (0..rows.len()).collect();
    let saved = |row: &Decided| row.cost_large_usd - row.cost_usd;
    interval(resampled(&ids, seed, |weights| Some(mean(rows, weights, saved))), 0.95)
}

/// How well the scores order rows, and how well the probabilities hold.
pub fn ordering(choices: &[Choice], probabilities: &[f64], seed: u64) -> Ordering {
    let line = curve(choices);
    let (ordered, _) = Ordered::new(choices);
    let ids: Vec<usize> = (0..choices.len()).collect();
    let resamples = resampled(&ids, seed, |weights| apgr(&ordered.curve(weights)));
    let labels: Vec<bool> = choices.iter().map(|choice| choice.small.quality > 0.5).collect();
    Ordering {
        rows: choices.len() as u64,
        apgr: apgr(&line),
        apgr_ci: apgr(&line).map(|_| interval(resamples, 0.95)),
        cpt50: cpt(&line, 0.5),
        cpt80: cpt(&line, 0.8),
        cpt95: cpt(&line, 0.95),
        aiq: aiq(&line),
        auroc: auroc(probabilities, &labels),
        auroc_ci: auroc_ci(probabilities, &labels, (&ids, seed)),
        ece: ece(probabilities, &labels),
        reliability: reliability(probabilities, &labels),
    }
}

/// The cost–quality curve at equal steps of the share of large calls.
pub fn curve_points(choices: &[Choice], seed: u64) -> Vec<CurvePoint> {
    if choices.is_empty() {
        return Vec::new();
    }
    let (ordered, _) = Ordered::new(choices);
    let ids: Vec<usize> = (0..choices.len()).collect();
    let shares: Vec<f64> = (0..=CURVE_STEPS).map(|step| step as f64 / CURVE_STEPS as f64).collect();
    let mut qualities = vec![Vec::new(); shares.len()];
    resampled(&ids, seed, |weights| {
        let line = ordered.curve(weights);
        for (qualities, share) in qualities.iter_mut().zip(&shares) {
            qualities.push(at(&line, *share).quality);
        }
        None
    });
    let line = curve(choices);
    let point = |(share, qualities): (&f64, Vec<f64>)| {
        let here = at(&line, *share);
        CurvePoint {
            large_share: *share,
            cost_usd_per_1k: 1e3 * here.cost_usd,
            quality: here.quality,
            quality_ci: interval(qualities, 0.95),
        }
    };
    shares.iter().zip(qualities).map(point).collect()
}

/// The curve at a share, on the line between its points.
fn at(line: &[Point], share: f64) -> Point {
    let above = line.partition_point(|point| point.large_share < share);
    let Some(high) = line.get(above).or(line.last()) else { return Point::default() };
    let Some(low) = above.checked_sub(1).and_then(|below| line.get(below)) else { return *high };
    let width = high.large_share - low.large_share;
    let part = if width > 0.0 { ((share - low.large_share) / width).clamp(0.0, 1.0) } else { 1.0 };
    let between = |low: f64, high: f64| low + part * (high - low);
    Point {
        large_share: share,
        quality: between(low.quality, high.quality),
        cost_usd: between(low.cost_usd, high.cost_usd),
    }
}

/// The policy by the rows' properties, largest parts first within each property.
pub fn slices(pairs: &[&Pair], rows: &[Decided]) -> Vec<Slice> {
    let mut parts: BTreeMap<(&str, &str), Vec<Decided>> = BTreeMap::new();
    for (pair, row) in pairs.iter().zip(rows) {
        for (by, value) in &pair.slices {
            parts.entry((by, value)).or_default().push(*row);
        }
    }
    let mut slices: Vec<Slice> = parts
        .into_iter()
        .map(|((by, value), rows)| {
            let once = vec![1; rows.len()];
            Slice {
                by: by.to_owned(),
                value: value.to_owned(),
                rows: rows.len() as u64,
                quality_small: mean(&rows, &once, |row| row.choice.small.quality),
                quality_large: mean(&rows, &once, |row| row.choice.large.quality),
                quality_policy: mean(&rows, &once, Decided::quality),
                large_share: mean(&rows, &once, |row| if row.to_small { 0.0 } else { 1.0 }),
            }
        })
        .collect();
    slices.sort_by(|a, b| (&a.by, b.rows).cmp(&(&b.by, a.rows)));
    slices
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::routing::Arm;

    fn decided(small: f64, large: f64, to_small: bool) -> Decided {
        let choice = Choice {
            score: small,
            small: Arm { quality: small, cost_usd: 1.0 },
            large: Arm { quality: large, cost_usd: 5.0 },
        };
        Decided { choice, to_small, cost_usd: if to_small { 1.0 } else { 5.0 }, cost_large_usd: 4.0 }
    }

    #[test]
    fn figures_are_the_hand_computed_ones() {
        let rows = [
            decided(1.0, 1.0, true),
            decided(0.0, 1.0, false),
            decided(0.0, 1.0, true),
            decided(0.0, 0.0, false),
        ];
        let found = performance(&rows, 1);
        assert_eq!((found.quality_small, found.quality_large, found.quality_policy), (0.25, 0.75, 0.5));
        assert_eq!((found.large_share, found.realised_loss), (0.5, 0.25));
        assert_eq!((found.cost_usd_per_1k, found.cost_large_usd_per_1k), (3000.0, 4000.0));
        // Random mixing at one half would have (0.25 + 0.75) / 2.
        assert_eq!(found.above_mixing, 0.0);
        assert!(found.quality_policy_ci[0] <= 0.5 && 0.5 <= found.quality_policy_ci[1]);
        assert_eq!(performance(&[], 1).rows, 0);
    }

    #[test]
    fn the_curve_is_kept_at_equal_steps() {
        let choices: Vec<Choice> = (0..40)
            .map(|row| Choice { score: f64::from(row), ..decided(f64::from(row / 20), 1.0, true).choice })
            .collect();
        let points = curve_points(&choices, 1);
        assert_eq!(points.len(), 21);
        for (place, expected) in [(0, 0.5), (5, 0.75), (10, 1.0), (20, 1.0)] {
            assert!((points[place].quality - expected).abs() < 1e-9, "{place}");
        }
        assert!(points.iter().all(|point| point.quality_ci[0] <= point.quality + 1e-9
            && point.quality <= point.quality_ci[1] + 1e-9));
    }
}
