//! Whether a mean loss is within its target, with confidence, without assuming anything of its distribution.
//!
//! The test is by betting (Waudby-Smith & Ramdas, *Estimating means of bounded random variables by betting*, JRSS B
//! 2024): a gambler who bets against "the mean loss is above the target" can't expect to win under it, so capital
//! that grows 1/δ-fold refutes it with confidence 1 − δ (Ville's inequality). Thresholds are tested in a fixed
//! sequence, safest first, until one fails (*Learn then Test*, Angelopoulos et al., 2021): no correction is needed.

/// How much of the capital may be lost on one row.
const STAKE_MAX: f64 = 0.9;

/// Whether independent `losses`, each in −1..=1, show at level `delta` that their mean is at most `target`.
pub fn keeps_target(losses: &[f64], target: f64, delta: f64) -> bool {
    // In 0..=1, and the higher the better: what is to be refuted is a mean of at most `bar`.
    let bar = (1.0 - target) / 2.0;
    if bar <= 0.0 {
        return true;
    }
    let goal = (1.0 / delta).ln();
    let (mut sum, mut squares, mut seen) = (0.5_f64, 0.25_f64, 1.0_f64);
    let mut capital = 0.0_f64;
    for loss in losses {
        let value = (1.0 - loss.clamp(-1.0, 1.0)) / 2.0;
        // Bets know only the rows before.
        let variance = (squares / seen).max(1e-6);
        let stake = (2.0 * goal / (variance * losses.len() as f64)).sqrt().min(STAKE_MAX / bar);
        capital += (stake * (value - bar)).ln_1p();
        if capital >= goal {
            return true;
        }
        sum += value;
        seen += 1.0;
        squares += (value - sum / seen).powi(2);
    }
    false
}

/// The last of `thresholds`, safest first, up to which all keep the target; `losses` gives every row's loss at one.
pub fn last_that_keeps(
    thresholds: &[f64],
    (target, delta): (f64, f64),
    losses: impl Fn(f64) -> Vec<f64>,
) -> Option<f64> {
    let kept = thresholds.iter().take_while(|threshold| keeps_target(&losses(**threshold), target, delta));
    kept.last().copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fit::random::SplitMix;

    /// How often 500 losses of a mean just above the target pass.
    fn false_passes(gain_rate: f64, target: f64) -> u32 {
        let mut random = SplitMix::new(9);
        let loss_rate = target + gain_rate + 1e-9;
        let draw = |random: &mut SplitMix| match random.unit() {
            u if u < loss_rate => 1.0,
            u if u < loss_rate + gain_rate => -1.0,
            _ => 0.0,
        };
        let passes = |random: &mut SplitMix| {
            let losses: Vec<f64> = (0..500).map(|_| draw(random)).collect();
            keeps_target(&losses, target, 0.05)
        };
        (0..2000).filter(|_| passes(&mut random)).count() as u32
    }

    #[test]
    fn a_mean_above_the_target_passes_in_at_most_five_percent() {
        for (gains, target) in [(0.0, 0.02), (0.05, 0.02), (0.2, 0.05), (0.0, 0.1)] {
            // 100 of 2000, and three standard deviations.
            let passes = false_passes(gains, target);
            assert!(passes <= 130, "{gains} {target}: {passes}");
        }
    }

    #[test]
    fn what_is_clearly_within_the_target_passes() {
        let with = |bad: usize, n: usize| -> Vec<f64> {
            (0..n).map(|row| if row % n.div_ceil(bad.max(1)) == 1 && bad > 0 { 1.0 } else { 0.0 }).collect()
        };
        assert!(keeps_target(&with(0, 400), 0.02, 0.05));
        assert!(keeps_target(&with(10, 1000), 0.05, 0.05));
        assert!(!keeps_target(&with(0, 50), 0.02, 0.05), "fifty rows can't show two percent");
        assert!(!keeps_target(&with(30, 1000), 0.02, 0.05));
        assert!(!keeps_target(&[], 0.02, 0.05));
        assert!(keeps_target(&[], 1.0, 0.05));
    }

    #[test]
    fn the_sequence_ends_at_the_first_failure() {
        let losses = |threshold: f64| vec![if threshold == 0.5 { 1.0 } else { 0.0 }; 400];
        assert_eq!(last_that_keeps(&[0.9, 0.7, 0.5, 0.3], (0.02, 0.05), losses), Some(0.7));
        assert_eq!(last_that_keeps(&[0.5, 0.3], (0.02, 0.05), losses), None);
    }
}
