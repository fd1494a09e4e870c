//! What sending the least promising requests to the large model brings: PGR, APGR, CPT (RouteLLM, Ong et al., 2024)
//! and AIQ (RouterBench, Hu et al., 2024).

use crate::fit::bootstrap::Weights;

/// Quality and cost of one way to answer a row.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Arm {
    /// 0..=1.
    pub quality: f64,
    /// US dollars, with everything that was spent on the way.
    pub cost_usd: f64,
}

/// One row: how promising small's answer is, and what either way brings.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Choice {
    /// Higher: small rather answers.
    pub score: f64,
    /// Small answers.
    pub small: Arm,
    /// Large does, what small cost before included.
    pub large: Arm,
}

/// A point of the curve over the share of large calls.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Point {
    /// Share of rows that large answers.
    pub large_share: f64,
    /// Mean quality.
    pub quality: f64,
    /// Mean cost, US dollars.
    pub cost_usd: f64,
}

/// Rows in the order in which they go to large.
#[derive(Clone, Debug)]
pub struct Ordered {
    choices: Vec<Choice>,
}

impl Ordered {
    /// Sorts once, for many resamples; `order` gives each place's row.
    pub fn new(choices: &[Choice]) -> (Self, Vec<usize>) {
        let mut order: Vec<usize> = (0..choices.len()).collect();
        order.sort_by(|a, b| choices[*a].score.total_cmp(&choices[*b].score));
        (Ordered { choices: order.iter().map(|row| choices[*row]).collect() }, order)
    }

    /// The curve from small alone to large alone, `weights` in the sorted order. Rows of one score go together: the
    /// line between two points is a random mixture of them. Empty without rows.
    pub fn curve(&self, weights: &Weights) -> Vec<Point> {
        let total: f64 = weights.iter().map(|weight| f64::from(*weight)).sum();
        if total == 0.0 {
            return Vec::new();
        }
        let mut at = Point::default();
        for (choice, weight) in self.choices.iter().zip(weights) {
            at.quality += f64::from(*weight) * choice.small.quality / total;
            at.cost_usd += f64::from(*weight) * choice.small.cost_usd / total;
        }
        let mut points = vec![at];
        for (place, (choice, weight)) in self.choices.iter().zip(weights).enumerate() {
            let share = f64::from(*weight) / total;
            at.large_share += share;
            at.quality += share * (choice.large.quality - choice.small.quality);
            at.cost_usd += share * (choice.large.cost_usd - choice.small.cost_usd);
            let is_tied = self.choices.get(place + 1).is_some_and(|next| next.score == choice.score);
            if !is_tied {
                points.push(at);
            }
        }
        points
    }
}

/// The curve of rows that count once.
pub fn curve(choices: &[Choice]) -> Vec<Point> {
    Ordered::new(choices).0.curve(&vec![1; choices.len()])
}

/// Performance gap recovered at each point: 0 is small alone, 1 large alone. `None` where large is not better.
pub fn pgr(curve: &[Point]) -> Option<Vec<(f64, f64)>> {
    let (small, large) = (curve.first()?.quality, curve.last()?.quality);
    let gap = large - small;
    (gap > 1e-12)
        .then(|| curve.iter().map(|point| (point.large_share, (point.quality - small) / gap)).collect())
}

/// Average PGR over all shares of large calls; random mixing has 0.5.
pub fn apgr(curve: &[Point]) -> Option<f64> {
    let line = pgr(curve)?;
    Some(line.windows(2).map(|pair| (pair[1].0 - pair[0].0) * (pair[0].1 + pair[1].1) / 2.0).sum())
}

/// The least share of large calls at which PGR reaches `level` (call-performance threshold), on the curve's monotone
/// envelope.
pub fn cpt(curve: &[Point], level: f64) -> Option<f64> {
    let line = pgr(curve)?;
    let first = line.iter().position(|(_, gain)| *gain >= level)?;
    let (share, gain) = line[first];
    let Some(&(share_before, gain_before)) = first.checked_sub(1).and_then(|before| line.get(before)) else {
        return Some(share);
    };
    Some(share_before + (share - share_before) * (level - gain_before) / (gain - gain_before))
}

/// Average improvement in quality: the mean height, over the range of costs, of the non-decreasing convex hull of
/// the points in (cost, quality). Of points that all cost the same, the best quality.
pub fn aiq(points: &[Point]) -> Option<f64> {
    let mut sorted: Vec<(f64, f64)> = points.iter().map(|point| (point.cost_usd, point.quality)).collect();
    sorted.sort_by(|a, b| a.0.total_cmp(&b.0).then(b.1.total_cmp(&a.1)));
    let (first, last) = (*sorted.first()?, *sorted.last()?);
    let best = sorted.iter().map(|point| point.1).fold(f64::NEG_INFINITY, f64::max);
    let range = last.0 - first.0;
    if range <= 1e-15 {
        return Some(best);
    }
    // What is worse than something cheaper is not on it: the best stays until the end.
    sorted.push((last.0, best));
    let mut hull: Vec<(f64, f64)> = Vec::new();
    for point in sorted {
        if hull.last().is_some_and(|top| point.1 < top.1) {
            continue;
        }
        while let [.., a, b] = hull[..] {
            // Keep `b` only if it lies above the line from `a` to the new point.
            if (b.1 - a.1) * (point.0 - a.0) > (point.1 - a.1) * (b.0 - a.0) {
                break;
            }
            hull.pop();
        }
        hull.push(point);
    }
    let area: f64 = hull.windows(2).map(|pair| (pair[1].0 - pair[0].0) * (pair[0].1 + pair[1].1) / 2.0).sum();
    Some(area / range)
}

/// Quality lost against large alone at a share of large calls; below 0, gained.
pub fn realised_loss(choices: &[Choice], goes_to_small: impl Fn(&Choice) -> bool) -> f64 {
    let lost = choices.iter().filter(|choice| goes_to_small(choice));
    let lost: f64 = lost.map(|choice| choice.large.quality - choice.small.quality).sum();
    lost / choices.len().max(1) as f64
}

/// Share of rows that go to large.
pub fn escalation_rate(choices: &[Choice], goes_to_small: impl Fn(&Choice) -> bool) -> f64 {
    choices.iter().filter(|choice| !goes_to_small(choice)).count() as f64 / choices.len().max(1) as f64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn choice(score: f64, small: f64, large: f64) -> Choice {
        Choice {
            score,
            small: Arm { quality: small, cost_usd: 1.0 },
            large: Arm { quality: large, cost_usd: 3.0 },
        }
    }

    /// Small is right in the two most promising of four rows, large in all but the first.
    fn toy() -> Vec<Choice> {
        vec![choice(0.9, 1.0, 1.0), choice(0.1, 0.0, 0.0), choice(0.4, 0.0, 1.0), choice(0.8, 1.0, 1.0)]
    }

    fn near(a: Option<f64>, b: f64) {
        assert!(a.is_some_and(|a| (a - b).abs() < 1e-12), "{a:?} is not {b}");
    }

    #[test]
    fn the_toy_case_is_as_computed_by_hand() {
        let curve = curve(&toy());
        let shares: Vec<f64> = curve.iter().map(|point| point.large_share).collect();
        let qualities: Vec<f64> = curve.iter().map(|point| point.quality).collect();
        let costs: Vec<f64> = curve.iter().map(|point| point.cost_usd).collect();
        assert_eq!(shares, [0.0, 0.25, 0.5, 0.75, 1.0]);
        assert_eq!(qualities, [0.5, 0.5, 0.75, 0.75, 0.75]);
        assert_eq!(costs, [1.0, 1.5, 2.0, 2.5, 3.0]);
        // PGR 0, 0, 1, 1, 1.
        near(apgr(&curve), 0.25 * 0.5 + 0.25 + 0.25);
        near(cpt(&curve, 0.5), 0.375);
        near(cpt(&curve, 0.8), 0.45);
        near(cpt(&curve, 1.0), 0.5);
        // The hull: (1, 0.5) – (2, 0.75) – (3, 0.75).
        near(aiq(&curve), (0.625 + 0.75) / 2.0);
        let to_small = |choice: &Choice| choice.score >= 0.4;
        assert_eq!(realised_loss(&toy(), to_small), 0.25);
        assert_eq!(escalation_rate(&toy(), to_small), 0.25);
    }

    #[test]
    fn a_score_that_says_nothing_is_random_mixing() {
        let flat: Vec<Choice> = toy().iter().map(|row| Choice { score: 0.5, ..*row }).collect();
        let curve = curve(&flat);
        assert_eq!(curve.len(), 2);
        near(apgr(&curve), 0.5);
        near(cpt(&curve, 0.8), 0.8);
    }

    #[test]
    fn the_envelope_keeps_what_was_reached() {
        // Large spoils the last row: PGR 0, 1, 2, 1.
        let rows = [choice(0.1, 0.0, 1.0), choice(0.2, 0.0, 1.0), choice(0.3, 1.0, 0.0)];
        let curve = curve(&rows);
        near(cpt(&curve, 1.0), 1.0 / 3.0);
        near(apgr(&curve), (0.5 + 1.5 + 1.5) / 3.0);
        // From (1, ⅓) by (1⅔, ⅔) and (2⅓, 1) to (3, 1).
        near(aiq(&curve), (0.5 + 2.5 / 3.0 + 1.0) / 3.0);
    }

    #[test]
    fn where_large_is_not_better_there_is_no_gap_to_recover() {
        let rows = [choice(0.1, 1.0, 1.0), choice(0.2, 1.0, 0.0)];
        assert_eq!((apgr(&curve(&rows)), cpt(&curve(&rows), 0.5)), (None, None));
        assert_eq!((apgr(&[]), aiq(&[])), (None, None));
        assert_eq!(curve(&[]), []);
    }

    proptest! {
        #[test]
        fn weights_are_repeated_rows(
            rows in proptest::collection::vec((0i32..5, 0u8..2, 0u8..2, 0u32..3), 1..25),
        ) {
            let choices: Vec<Choice> = rows.iter()
                .map(|row| choice(f64::from(row.0), f64::from(row.1), f64::from(row.2))).collect();
            let repeated: Vec<Choice> = choices.iter().zip(&rows)
                .flat_map(|(choice, row)| std::iter::repeat_n(*choice, row.3 as usize)).collect();
            let (ordered, order) = Ordered::new(&choices);
            let weights: Vec<u32> = order.iter().map(|row| rows[*row].3).collect();
            let (weighted, plain) = (apgr(&ordered.curve(&weights)), apgr(&curve(&repeated)));
            prop_assert_eq!(weighted.is_some(), plain.is_some());
            prop_assert!((weighted.unwrap_or(0.0) - plain.unwrap_or(0.0)).abs() < 1e-9);
        }
    }
}
