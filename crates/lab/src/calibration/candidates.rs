//! The policies that may be calibrated, as an order of rows: the least score goes to large first.

use policy::calibration::{Chances, PolicyKind, Threshold};

use super::bound::last_that_keeps;
use super::pairs::Pair;
use super::scores::Scored;
use crate::fit::bootstrap::quantile;
use crate::metrics::routing::{Arm, Choice, escalation_rate};

/// Thresholds that are tested, at most: at equal steps of the share of large calls.
const THRESHOLDS: usize = 50;

/// The score of rows whose chances are not known: below all others'.
const UNKNOWN: f64 = -1.5;
/// By how much the scores of rows that go to large at once lie below the others': more than scores differ.
const SCORES_RANGE: f64 = 2.5;

/// A policy but for its threshold.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    /// Which.
    pub kind: PolicyKind,
    /// `cascade-route`: below this score of the reading, large answers at once.
    pub route_below: Option<f64>,
}

impl Candidate {
    /// Those that scores allow: `cascade-route` with several limits, which are scores of the reading that shares of
    /// the rows lie below; none of them with the first.
    pub fn all(scored: &[Scored]) -> Vec<Candidate> {
        let mut heads: Vec<f64> = scored.iter().filter_map(|scored| Some(scored.head?.score())).collect();
        heads.sort_by(f64::total_cmp);
        let has_answers = scored.iter().any(|scored| scored.answer.is_some());
        let plain = |kind| Candidate { kind, route_below: None };
        let mut all = Vec::new();
        all.extend(has_answers.then(|| plain(PolicyKind::Cascade)));
        all.extend((!heads.is_empty()).then(|| plain(PolicyKind::Route)));
        if has_answers && !heads.is_empty() {
            all.extend((0..=8).map(|tenth| Candidate {
                kind: PolicyKind::CascadeRoute,
                route_below: Some(quantile(&heads, f64::from(tenth) / 10.0, 0.0)),
            }));
        }
        all
    }

    /// Whether large answers at once, by the reading alone.
    fn goes_at_once(&self, scored: &Scored) -> bool {
        match (self.kind, self.route_below) {
            (PolicyKind::Route, _) => true,
            (_, Some(limit)) => scored.head.is_none_or(|head| head.score() < limit),
            (_, None) => false,
        }
    }

    /// The score, in −1..=1 where small may answer. What is not known, or goes to large at once, lies below.
    pub fn score(&self, scored: &Scored) -> f64 {
        let or_unknown = |chances: Option<Chances>| chances.map_or(UNKNOWN, |chances| chances.score());
        match self.kind {
            PolicyKind::Route => or_unknown(scored.head),
            _ if self.goes_at_once(scored) => or_unknown(scored.head) - SCORES_RANGE,
            _ => or_unknown(scored.answer),
        }
    }

    /// A row's score, and what either way brings and costs.
    pub fn choice(&self, pair: &Pair, scored: &Scored) -> Choice {
        let quality = |correct: bool| if correct { 1.0 } else { 0.0 };
        let before = if self.goes_at_once(scored) {
            // Without a head nothing needs to be read.
            if scored.head.is_some() { pair.reading_cost_usd } else { 0.0 }
        } else {
            pair.small_cost_usd
        };
        Choice {
            score: self.score(scored),
            small: Arm { quality: quality(pair.small_correct), cost_usd: pair.small_cost_usd },
            large: Arm { quality: quality(pair.large_correct), cost_usd: before + pair.large_cost_usd },
        }
    }

    /// All rows' choices.
    pub fn choices(&self, rows: &[(&Pair, Scored)]) -> Vec<Choice> {
        rows.iter().map(|(pair, scored)| self.choice(pair, scored)).collect()
    }
}

/// Thresholds from the safest on, by scores of rows other than those that will test them.
pub fn grid(choices: &[Choice]) -> Vec<f64> {
    let mut scores: Vec<f64> = choices.iter().map(|choice| choice.score).collect();
    scores.sort_by(f64::total_cmp);
    let at = |step: usize| quantile(&scores, 1.0 - step as f64 / THRESHOLDS as f64, 0.0).clamp(-1.0, 1.0);
    let mut grid: Vec<f64> = (1..=THRESHOLDS).map(at).chain([-1.0]).collect();
    grid.dedup();
    grid
}

/// For every target the least threshold that keeps it, tested on these rows.
pub fn thresholds(choices: &[Choice], grid: &[f64], (targets, delta): (&[f64], f64)) -> Vec<Threshold> {
    let losses = |threshold: f64| -> Vec<f64> {
        let loss = |choice: &Choice| {
            if choice.score >= threshold { choice.large.quality - choice.small.quality } else { 0.0 }
        };
        choices.iter().map(loss).collect()
    };
    let of = |&target: &f64| {
        let score_min = last_that_keeps(grid, (target, delta), losses);
        let goes_to_small = |choice: &Choice| score_min.is_some_and(|least| choice.score >= least);
        Threshold {
            max_quality_loss: target,
            score_min,
            route_below: None,
            large_share: escalation_rate(choices, goes_to_small),
            cost_usd_per_1k: 1e3 * mean_cost(choices, score_min),
        }
    };
    targets.iter().map(of).collect()
}

/// Mean cost of a row under a threshold; without one, of large alone, which reads nothing first.
pub fn mean_cost(choices: &[Choice], score_min: Option<f64>) -> f64 {
    let cost = |choice: &Choice| match score_min {
        Some(least) if choice.score >= least => choice.small.cost_usd,
        _ => choice.large.cost_usd,
    };
    choices.iter().map(cost).sum::<f64>() / choices.len().max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fit::random::SplitMix;

    fn chances(small: f64, large: f64) -> Option<Chances> {
        Some(Chances { small, large })
    }

    fn pair(small: bool) -> Pair {
        Pair {
            small_correct: small,
            large_correct: true,
            small_cost_usd: 2.0,
            reading_cost_usd: 0.5,
            large_cost_usd: 10.0,
            ..Pair::default()
        }
    }

    #[test]
    fn each_policy_orders_and_pays_in_its_way() {
        let scored = Scored { head: chances(0.25, 0.5), answer: chances(0.75, 0.5) };
        let with = |kind, route_below| Candidate { kind, route_below }.choice(&pair(true), &scored);
        let route = with(PolicyKind::Route, None);
        assert_eq!((route.score, route.small.cost_usd, route.large.cost_usd), (-0.25, 2.0, 10.5));
        let cascade = with(PolicyKind::Cascade, None);
        assert_eq!((cascade.score, cascade.small.cost_usd, cascade.large.cost_usd), (0.25, 2.0, 12.0));
        let asked = with(PolicyKind::CascadeRoute, Some(-0.5));
        assert_eq!((asked.score, asked.large.cost_usd), (0.25, 12.0));
        let at_once = with(PolicyKind::CascadeRoute, Some(-0.125));
        assert!(at_once.score < -1.0 && at_once.large.cost_usd == 10.5, "{at_once:?}");
    }

    #[test]
    fn what_is_not_known_never_goes_to_small() {
        let unknown = Scored::default();
        for candidate in Candidate::all(&[Scored { head: chances(0.5, 0.5), answer: chances(0.5, 0.5) }]) {
            assert!(candidate.score(&unknown) < -1.0, "{candidate:?}");
        }
        assert_eq!(Candidate::all(&[unknown]), []);
    }

    #[test]
    fn thresholds_keep_their_targets() {
        let cascade = Candidate { kind: PolicyKind::Cascade, route_below: None };
        // Small is right exactly where it is sure.
        let mut rows: Vec<(Pair, Scored)> = (0..1000)
            .map(|row| {
                let answer = f64::from(row) / 1000.0;
                (pair(answer >= 0.4), Scored { head: None, answer: chances(answer, 1.0) })
            })
            .collect();
        // The test by betting takes rows in an order that tells nothing.
        SplitMix::new(4).shuffle(&mut rows);
        let rows: Vec<(&Pair, Scored)> = rows.iter().map(|(pair, scored)| (pair, *scored)).collect();
        let choices = cascade.choices(&rows);
        let found = thresholds(&choices, &grid(&choices), (&[0.01, 0.05, 1.0], 0.05));
        let least: Vec<f64> = found.iter().map(|threshold| threshold.score_min.unwrap()).collect();
        assert!((-0.62..-0.58).contains(&least[0]) && (-0.65..-0.60).contains(&least[1]), "{found:?}");
        assert_eq!(least[2], -1.0);
        assert!((found[0].large_share - 0.4).abs() < 0.03, "{found:?}");
        assert!((found[2].cost_usd_per_1k - 2000.0).abs() < 1e-6);
        let few = thresholds(&choices[..40], &grid(&choices), (&[0.01], 0.05));
        assert_eq!((few[0].score_min, few[0].large_share), (None, 1.0));
    }
}
