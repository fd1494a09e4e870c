//! What a token is drawn from: weights of tokens, and the rule by which a drafted token is accepted in
//! the place of a drawn one.

use super::proposal::Distribution;

/// What penalties, temperature and filters have left of a model's distribution.
#[derive(Clone, Copy, Debug)]
pub(super) struct Choices<'a> {
    weights: Weights<'a>,
    /// Sum of the weights.
    total: f64,
}

#[derive(Clone, Copy, Debug)]
enum Weights<'a> {
    /// Of each token.
    All(&'a [f32]),
    /// Of the tokens that filters have left, the likeliest first.
    Kept(&'a [(u32, f32)]),
}

/// Two numbers in 0..1: for accepting a draft, and for drawing another token.
pub(super) struct Uniforms {
    pub acceptance: f64,
    pub residual: f64,
}

impl<'a> Choices<'a> {
    /// Every token, by its weight; `total` is the sum.
    pub fn all(weights: &'a [f32], total: f64) -> Self {
        Choices { weights: Weights::All(weights), total }
    }

    /// A few tokens, by their weights.
    pub fn kept(kept: &'a [(u32, f32)]) -> Self {
        Choices { weights: Weights::Kept(kept), total: mass(kept) }
    }

    /// One over the sum of the weights: what makes them probabilities.
    pub fn scale(&self) -> f64 {
        1.0 / self.total
    }

    /// The token at a place in 0..1 of the distribution.
    pub fn pick(&self, uniform: f64) -> u32 {
        let target = uniform * self.total;
        match self.weights {
            Weights::All(weights) => {
                pick_by_weight((0u32..).zip(weights.iter().map(|&w| f64::from(w))), target)
            }
            Weights::Kept(kept) => pick_by_weight(kept.iter().map(|&(id, w)| (id, f64::from(w))), target),
        }
    }

    /// A token's probability.
    pub fn probability(&self, id: u32) -> f64 {
        let weight = match self.weights {
            Weights::All(weights) => weights.get(id as usize).copied(),
            Weights::Kept(kept) => kept.iter().find(|&&(other, _)| other == id).map(|&(_, w)| w),
        };
        share(weight.unwrap_or(0.0), self.scale())
    }

    /// A token of this distribution, given one that was drawn from `draft`: that one as often as this
    /// distribution allows. (Leviathan et al. 2023, algorithm 1; Chen et al. 2023, algorithm 2.)
    pub fn settle(&self, (drafted, draft): (u32, &Distribution), uniforms: &Uniforms) -> u32 {
        if uniforms.acceptance < acceptance(self.probability(drafted), draft.probability(drafted)) {
            return drafted;
        }
        // No residual is left where the two are one distribution but for rounding.
        self.pick_residual(draft, uniforms.residual).unwrap_or_else(|| self.pick(uniforms.residual))
    }

    fn pick_residual(&self, draft: &Distribution, uniform: f64) -> Option<u32> {
        let scale = self.scale();
        let left = |(id, weight): (u32, f32)| (id, residual(share(weight, scale), draft.probability(id)));
        match self.weights {
            Weights::All(weights) => pick_by_share((0u32..).zip(weights.iter().copied()).map(left), uniform),
            Weights::Kept(kept) => pick_by_share(kept.iter().copied().map(left), uniform),
        }
    }
}

/// The probability with which a token is accepted that one distribution gives `target`, and the one
/// that it was drawn from `draft`.
fn acceptance(target: f64, draft: f64) -> f64 {
    if target > 0.0 { (target / draft).min(1.0) } else { 0.0 }
}

/// The weight of a token among those that take the place of a rejected one; nothing for the rejected
/// one itself, which `target` gave less.
fn residual(target: f64, draft: f64) -> f64 {
    (target - draft).max(0.0)
}

/// A weight as a probability, given one over the sum of weights. One rounding for everyone: what is
/// rejected because its share is the smaller has no residual.
pub(super) fn share(weight: f32, scale: f64) -> f64 {
    f64::from(weight) * scale
}

/// Sum of the weights.
pub(super) fn mass(kept: &[(u32, f32)]) -> f64 {
    kept.iter().map(|&(_, w)| f64::from(w)).sum()
}

/// The token at a place in 0..1 of the weights' sum; none if they have none.
fn pick_by_share(weights: impl Iterator<Item = (u32, f64)> + Clone, uniform: f64) -> Option<u32> {
    let sum: f64 = weights.clone().map(|(_, weight)| weight).sum();
    (sum > 0.0).then(|| pick_by_weight(weights, uniform * sum))
}

/// The first token whose running weight passes `target`; the last with any weight if rounding left
/// none.
fn pick_by_weight(weights: impl Iterator<Item = (u32, f64)>, target: f64) -> u32 {
    let mut sum = 0.0;
    let mut last = 0;
    for (id, weight) in weights {
        if weight > 0.0 {
            sum += weight;
            last = id;
            if sum > target {
                break;
            }
        }
    }
    last
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    impl Choices<'_> {
        /// The probability of each of the first tokens, if one is drawn from `draft` and settled: what
        /// [`settle`](Choices::settle) does, summed over all it may draw.
        pub fn settled(&self, draft: &Distribution, vocabulary: usize) -> Vec<f64> {
            let ids = 0..vocabulary as u32;
            let pairs: Vec<(f64, f64)> =
                ids.map(|id| (self.probability(id), draft.probability(id))).collect();
            let accepted: Vec<f64> = pairs.iter().map(|&(p, q)| q * acceptance(p, q)).collect();
            let left: Vec<f64> = pairs.iter().map(|&(p, q)| residual(p, q)).collect();
            let rejected = 1.0 - accepted.iter().sum::<f64>();
            let all_left: f64 = left.iter().sum();
            let share = if all_left > 0.0 { rejected / all_left } else { 0.0 };
            accepted.iter().zip(&left).map(|(accepted, left)| accepted + share * left).collect()
        }
    }

    /// Weights of which one is 1 and some are 0.
    fn weights() -> impl Strategy<Value = Vec<f32>> {
        let weight = prop_oneof![Just(0f32), 1e-6f32..1.0, 0.1f32..1.0];
        (prop::collection::vec(weight, 1..12), any::<prop::sample::Index>()).prop_map(
            |(mut all, likeliest)| {
                let at = likeliest.index(all.len());
                all[at] = 1.0;
                all
            },
        )
    }

    /// The same weights as a filter leaves them.
    fn kept(weights: &[f32]) -> Vec<(u32, f32)> {
        let mut kept: Vec<(u32, f32)> = (0u32..).zip(weights.iter().copied()).collect();
        kept.retain(|&(_, weight)| weight > 0.0);
        kept.sort_by(|a, b| b.1.total_cmp(&a.1));
        kept
    }

    fn total(weights: &[f32]) -> f64 {
        weights.iter().map(|&weight| f64::from(weight)).sum()
    }

    proptest! {
        #[test]
        fn accepting_and_replacing_give_the_targets_distribution(target in weights(), draft in weights()) {
            let few = kept(&target);
            let draft = Distribution::of(draft);
            for choices in [Choices::all(&target, total(&target)), Choices::kept(&few)] {
                for (id, got) in choices.settled(&draft, 12).into_iter().enumerate() {
                    let want = f64::from(target.get(id).copied().unwrap_or(0.0)) / total(&target);
                    prop_assert!((got - want).abs() < 1e-12, "token {}: {} for {}", id, got, want);
                }
            }
        }

        #[test]
        fn a_draft_is_kept_exactly_if_accepted_and_what_replaces_it_is_left_over(
            target in weights(), draft in weights(), uniforms in (0f64..1.0, 0f64..1.0),
        ) {
            let few = kept(&target);
            let (acceptance_at, residual_at) = uniforms;
            let drafted: Vec<u32> = kept(&draft).iter().map(|&(id, _)| id).collect();
            let draft = Distribution::of(draft);
            for choices in [Choices::all(&target, total(&target)), Choices::kept(&few)] {
                for &id in &drafted {
                    let (p, q) = (choices.probability(id), draft.probability(id));
                    let uniforms = Uniforms { acceptance: acceptance_at, residual: residual_at };
                    let settled = choices.settle((id, &draft), &uniforms);
                    prop_assert_eq!(settled == id, acceptance_at < acceptance(p, q));
                    if settled != id {
                        prop_assert!(choices.probability(settled) > draft.probability(settled));
                    }
                }
            }
        }

        #[test]
        fn what_replaces_a_draft_is_spread_as_what_is_left(target in weights(), draft in weights()) {
            let draft = Distribution::of(draft);
            let choices = Choices::all(&target, total(&target));
            let left: Vec<f64> = (0..target.len() as u32)
                .map(|id| residual(choices.probability(id), draft.probability(id)))
                .collect();
            const STEPS: usize = 2000;
            let mut counts = vec![0usize; target.len()];
            for step in 0..STEPS {
                let at = (step as f64 + 0.5) / STEPS as f64;
                if let Some(id) = choices.pick_residual(&draft, at) {
                    counts[id as usize] += 1;
                }
            }
            let all_left: f64 = left.iter().sum();
            for (count, left) in counts.iter().zip(&left) {
                let want = if all_left > 0.0 { STEPS as f64 * left / all_left } else { 0.0 };
                prop_assert!((*count as f64 - want).abs() <= 1.0 + 1e-6, "{} for {}", count, want);
            }
        }
    }

    #[test]
    fn nothing_left_and_no_numbers_still_give_a_token_of_the_target() {
        let target = [1.0f32, 0.5];
        let choices = Choices::all(&target, total(&target));
        let same = Distribution::of(target.to_vec());
        assert_eq!(choices.pick_residual(&same, 0.5), None);
        let beyond = Distribution::of(vec![0.0, 0.0, 1.0]);
        let uniforms = Uniforms { acceptance: 0.0, residual: 0.9 };
        assert_eq!(choices.settle((2, &beyond), &uniforms), 1);
        let nan = Choices::all(&[f32::NAN; 2], f64::NAN);
        assert_eq!(nan.settle((2, &beyond), &uniforms), 0);
    }
}
