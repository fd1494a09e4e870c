//! A calibration on outcomes: the figures of `tandem eval --outcomes`.

use contract::Role;
use policy::Calibration;
use policy::calibration::{Ordering, Performance};
use serde::Serialize;

use super::candidates::Candidate;
use super::measure::{decide_all, ordering, performance};
use super::pairs::{Pair, Pairs, Unpaired};
use super::scores::{Scored, score};
use super::{Split, small_right, split};

/// The best that one model can do alone.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BestConstant {
    /// Who answers everything.
    pub backend: Role,
    /// Its quality.
    pub quality: f64,
    /// US dollars per 1,000 requests.
    pub cost_usd_per_1k: f64,
}

/// How a calibration does.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Evaluation {
    /// Rows that it was measured on.
    pub rows: u64,
    /// Rows that were left out, for only one model has an outcome of them.
    pub unpaired: Unpaired,
    /// Whether these are only those of the file that the calibration was not made with.
    pub held_out_only: bool,
    /// Average performance gap recovered; null where large is not better.
    pub apgr: Option<f64>,
    /// Its 95% interval.
    pub apgr_ci: Option<[f64; 2]>,
    /// Share of large calls that recovers half of the gap.
    pub cpt50: Option<f64>,
    /// Four fifths of it.
    pub cpt80: Option<f64>,
    /// Nineteen twentieths of it.
    pub cpt95: Option<f64>,
    /// Mean height of the cost–quality hull.
    pub aiq: Option<f64>,
    /// Of "small is right".
    pub auroc: Option<f64>,
    /// Its 95% interval.
    pub auroc_ci: [f64; 2],
    /// Of the head on the reading alone, if there is one.
    pub auroc_reading: Option<f64>,
    /// Expected calibration error.
    pub ece: f64,
    /// Of small alone.
    pub quality_small: f64,
    /// Of large alone.
    pub quality_large: f64,
    /// Of the policy.
    pub quality_policy: f64,
    /// Its 95% interval.
    pub quality_policy_ci: [f64; 2],
    /// Share of rows that large answers.
    pub large_share: f64,
    /// Share of rows that small began and large answers: 0 for `route`.
    pub escalation_rate: f64,
    /// US dollars per 1,000 requests.
    pub cost_usd_per_1k: f64,
    /// Of large alone.
    pub cost_large_usd_per_1k: f64,
    /// Quality lost against large alone.
    pub realised_loss: f64,
    /// Its 95% interval.
    pub realised_loss_ci: [f64; 2],
    /// The loss that was allowed.
    pub max_quality_loss: f64,
    /// Quality above random mixing with the same share of large calls.
    pub above_mixing: f64,
    /// Its 95% interval.
    pub above_mixing_ci: [f64; 2],
    /// The cheaper model that keeps the target alone, or large.
    pub best_constant: BestConstant,
}

/// Measures a calibration at its own target, or a stricter one. Of the file that it was made with, only held-out rows
/// count.
pub fn evaluate(
    calibration: &Calibration,
    pairs: &Pairs,
    (outcomes_sha256, max_quality_loss): (&str, Option<f64>),
) -> Evaluation {
    let is_own = calibration.data.outcomes_sha256 == outcomes_sha256;
    let seed = calibration.data.seed;
    let unseen = pairs.pairs.iter().filter(|pair| !is_own || split(&pair.id, seed) == Split::HeldOut);
    let rows: Vec<(&Pair, Scored)> = unseen.map(|pair| (pair, score(&calibration.right, pair))).collect();
    let target = max_quality_loss.unwrap_or(1.0).min(calibration.max_quality_loss);
    let row = calibration.threshold(target);
    let candidate = Candidate { kind: calibration.policy, route_below: calibration.route_below(row) };
    let threshold = match calibration.routes {
        true => Ok(row.and_then(|threshold| threshold.score_min)),
        false => Err(calibration.constant),
    };
    let decided = decide_all(&candidate, &rows, threshold);
    let found: Performance = performance(&decided, seed);
    let choices = candidate.choices(&rows);
    let order: Ordering = ordering(&choices, &small_right(&rows, candidate.kind), seed);
    let labels: Vec<bool> = rows.iter().map(|(pair, _)| pair.small_correct).collect();
    let heads: Option<Vec<f64>> = rows.iter().map(|(_, scored)| Some(scored.head?.small)).collect();
    let began = candidate.kind.judges_answers() && matches!(threshold, Ok(Some(_)));
    let escalated = decided.iter().filter(|row| began && !row.to_small && row.choice.score >= -1.0).count();
    Evaluation {
        rows: found.rows,
        unpaired: pairs.unpaired,
        held_out_only: is_own,
        apgr: order.apgr,
        apgr_ci: order.apgr_ci,
        cpt50: order.cpt50,
        cpt80: order.cpt80,
        cpt95: order.cpt95,
        aiq: order.aiq,
        auroc: order.auroc,
        auroc_ci: order.auroc_ci,
        auroc_reading: heads.and_then(|heads| crate::metrics::ranking::auroc(&heads, &labels)),
        ece: order.ece,
        quality_small: found.quality_small,
        quality_large: found.quality_large,
        quality_policy: found.quality_policy,
        quality_policy_ci: found.quality_policy_ci,
        large_share: found.large_share,
        escalation_rate: escalated as f64 / rows.len().max(1) as f64,
        cost_usd_per_1k: found.cost_usd_per_1k,
        cost_large_usd_per_1k: found.cost_large_usd_per_1k,
        realised_loss: found.realised_loss,
        realised_loss_ci: found.realised_loss_ci,
        max_quality_loss: target,
        above_mixing: found.above_mixing,
        above_mixing_ci: found.above_mixing_ci,
        best_constant: best_constant(&rows, &found, target),
    }
}

fn best_constant(rows: &[(&Pair, Scored)], found: &Performance, target: f64) -> BestConstant {
    let keeps = found.quality_large - found.quality_small <= target;
    let small_cost: f64 = rows.iter().map(|(pair, _)| pair.small_cost_usd).sum();
    let small = BestConstant {
        backend: Role::Small,
        quality: found.quality_small,
        cost_usd_per_1k: 1e3 * small_cost / rows.len().max(1) as f64,
    };
    let large = BestConstant {
        backend: Role::Large,
        quality: found.quality_large,
        cost_usd_per_1k: found.cost_large_usd_per_1k,
    };
    if keeps && small.cost_usd_per_1k <= large.cost_usd_per_1k { small } else { large }
}

#[cfg(test)]
mod tests {
    use super::super::calibrate;
    use super::super::testing::{pairs, settings};
    use super::*;

    #[test]
    fn the_own_file_is_measured_on_held_out_rows_only() {
        let (pairs, settings) = (pairs(2000, 3.0), settings());
        let calibration = calibrate(&pairs, &settings).unwrap();
        let own = evaluate(&calibration, &pairs, (&settings.outcomes_sha256, None));
        assert!(own.held_out_only && own.rows == calibration.data.held_out);
        assert_eq!(own.quality_policy, calibration.held_out.quality_policy);
        assert_eq!(own.best_constant.backend, Role::Large);
        assert!(own.escalation_rate <= own.large_share && own.auroc_reading.unwrap() > 0.6, "{own:?}");
        let other = evaluate(&calibration, &pairs, ("other", None));
        assert!(!other.held_out_only && other.rows == 2000);
        // A stricter request may only send more to large, a laxer one changes nothing.
        let stricter = evaluate(&calibration, &pairs, ("other", Some(0.02)));
        assert!(stricter.large_share >= other.large_share);
        let laxer = evaluate(&calibration, &pairs, ("other", Some(0.5)));
        assert_eq!((laxer.large_share, laxer.max_quality_loss), (other.large_share, 0.03));
    }
}
