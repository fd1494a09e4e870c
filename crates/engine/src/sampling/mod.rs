//! Drawing the next token: penalties, temperature, top-k, top-p, min-p, seed; drafted tokens by the same.

mod choices;
mod proposal;
mod random;

use std::cell::RefCell;

use kernels::isa::Isa;

pub use self::proposal::{Distribution, Proposal};

use self::choices::{Choices, Uniforms, mass};
use self::random::{Use, uniform};
use crate::score::likeliest;

/// Values that are looked at as one: those far below what is sought are passed over by their highest.
const STRETCH: usize = 256;
/// Sums that an entropy is added up in, so that one addition needn't wait for the other.
const ENTROPY_LANES: usize = 8;

/// How tokens are drawn. The order is: bias, penalties, temperature, min-p, top-k, top-p.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplingParams {
    /// 0 is greedy.
    pub temperature: f32,
    /// Keeps the k likeliest; 0 is off.
    pub top_k: u32,
    /// Keeps the likeliest tokens up to this mass; 1 is off.
    pub top_p: f32,
    /// Drops tokens below this share of the likeliest one's probability; 0 is off.
    pub min_p: f32,
    /// Divides positive (multiplies negative) logits of tokens in prompt or output; 1 is off.
    pub repetition_penalty: f32,
    /// Subtracted from logits of tokens in the output.
    pub presence_penalty: f32,
    /// Subtracted per occurrence in the output.
    pub frequency_penalty: f32,
    /// Added to single logits.
    pub logit_bias: Vec<(u32, f32)>,
    /// Same seed, same tokens.
    pub seed: u64,
    /// Whether they are to be the same with and without speculation. Then drafts are compared with what
    /// is drawn, which accepts fewer than rejection sampling.
    pub reproducible: bool,
}

impl Default for SamplingParams {
    fn default() -> Self {
        SamplingParams {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            logit_bias: Vec::new(),
            seed: 0,
            reproducible: false,
        }
    }
}

/// A drawn token.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampled {
    /// Its id.
    pub id: u32,
    /// Its log-probability in the model's own distribution (temperature 1, no penalties).
    pub logprob: f32,
    /// The likeliest tokens of that distribution, as many as asked for.
    pub top: Vec<(u32, f32)>,
    /// Entropy of that distribution, nats; told where some of the likeliest are.
    pub entropy: Option<f32>,
}

/// How a distribution is spread, at temperature 1 and without penalties.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Spread {
    /// Natural log of the likeliest token's probability.
    pub logprob_max: f32,
    /// That minus the second's.
    pub margin: f32,
    /// Nats.
    pub entropy: f32,
}

/// Draws one sequence's tokens.
#[derive(Debug)]
pub struct Sampler {
    params: SamplingParams,
    isa: Isa,
    /// Tokens drawn so far.
    drawn: u64,
    /// Tokens proposed so far.
    proposed: u64,
    /// Tokens of the prompt, until the first draw, if a penalty looks at them.
    prompt: Vec<u32>,
    seen: Vec<Seen>, // [vocabulary], or empty if no penalty looks at it
}

/// Memory of one draw.
#[derive(Debug, Default)]
struct Scratch {
    adjusted: Vec<f32>,    // [vocabulary], once something adjusts
    weights: Vec<f32>,     // [vocabulary]
    kept: Vec<(u32, f32)>, // room for the vocabulary, once something filters
}

thread_local! {
    /// The drawing thread's; kept, so that a draw allocates nothing.
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Bytes that drawing takes, at most, if one thread draws for `sequences` sequences.
pub(crate) fn bytes_max(vocabulary: usize, sequences: usize) -> usize {
    let scratch = 2 * size_of::<f32>() + size_of::<(u32, f32)>();
    vocabulary * (scratch + sequences * size_of::<Seen>())
}

/// What the text so far holds of one token: occurrences in the output, and [`IN_PROMPT`].
type Seen = u32;

/// Marks a token of the prompt. No output is as long.
const IN_PROMPT: Seen = 1 << 31;

impl Sampler {
    /// A sampler for a sequence that starts with `prompt`.
    pub fn new(params: SamplingParams, isa: Isa, prompt: &[u32]) -> Self {
        let prompt = if params.repetition_penalty != 1.0 { prompt.to_vec() } else { Vec::new() };
        Sampler { params, isa, drawn: 0, proposed: 0, prompt, seen: Vec::new() }
    }

    /// How the distribution that `logits` are of is spread; draws nothing.
    pub fn spread(&self, logits: &[f32]) -> Spread {
        SCRATCH.with_borrow_mut(|scratch| {
            let weights = sized(&mut scratch.weights, logits.len());
            let (_, highest) = highest(self.isa, logits);
            let sum = self.isa.exp_shifted(logits, (highest, 1.0), weights);
            let best = likeliest(logits, f64::from(highest) + sum.ln(), 2);
            let at = |place: usize| best.get(place).map_or(f64::NEG_INFINITY, |&(_, logprob)| logprob);
            Spread {
                logprob_max: at(0) as f32,
                margin: (at(0) - at(1)) as f32,
                entropy: entropy(logits, highest, (weights, sum)),
            }
        })
    }

    /// Draws a token from `logits` and remembers it. `top`: how many of the likeliest to report. After
    /// the first draw only the report allocates.
    pub fn draw(&mut self, logits: &[f32], top: usize) -> Sampled {
        self.next(logits, None, top)
    }

    /// Draws a token, against a drafted one if there is one.
    fn next(&mut self, logits: &[f32], drafted: Option<(u32, &Distribution)>, top: usize) -> Sampled {
        self.watch(logits.len());
        self.prompt = Vec::new();
        let (id, log_sum, entropy) = SCRATCH.with_borrow_mut(|scratch| {
            let weights = sized(&mut scratch.weights, logits.len());
            let found = highest(self.isa, logits);
            let sum = self.isa.exp_shifted(logits, (found.1, 1.0), weights);
            // Before the weights make room for others.
            let entropy = (top > 0).then(|| entropy(logits, found.1, (weights, sum)));
            (self.pick((logits, found), drafted, scratch), f64::from(found.1) + sum.ln(), entropy)
        });
        self.drawn += 1;
        self.count(&[id], 1);
        let report = if top > 0 { likeliest(logits, log_sum, top) } else { Vec::new() };
        Sampled {
            id,
            logprob: (f64::from(logits[id as usize]) - log_sum).min(0.0) as f32,
            top: report.into_iter().map(|(id, logprob)| (id, logprob as f32)).collect(),
            entropy,
        }
    }

    /// Draws by logits, given with their highest.
    fn pick(
        &self,
        (logits, found): (&[f32], (u32, f32)),
        drafted: Option<(u32, &Distribution)>,
        scratch: &mut Scratch,
    ) -> u32 {
        let Scratch { adjusted, weights, kept } = scratch;
        let logits = self.adjusted(logits, adjusted);
        let (at, top) = if self.adjusts() { highest(self.isa, logits) } else { found };
        if self.is_greedy() {
            return at;
        }
        let choices = self.choices(logits, top, (sized(weights, logits.len()), kept));
        let uniform = |of| uniform(self.params.seed, of, self.drawn);
        match drafted {
            None => choices.pick(uniform(Use::Draw)),
            Some((id, draft)) => {
                let (acceptance, residual) = (uniform(Use::Acceptance), uniform(Use::Residual));
                choices.settle((id, draft), &Uniforms { acceptance, residual })
            }
        }
    }

    /// Makes the counts of tokens as many as the vocabulary, if a penalty looks at them. A drafter's may
    /// be smaller than the target's.
    fn watch(&mut self, vocabulary: usize) {
        let counted = self.seen.len();
        if self.penalizes() && counted < vocabulary {
            self.seen.reserve_exact(vocabulary - counted);
            self.seen.resize(vocabulary, 0);
            for &id in &self.prompt {
                if let Some(seen) = self.seen[counted..].get_mut((id as usize).wrapping_sub(counted)) {
                    *seen |= IN_PROMPT;
                }
            }
        }
    }

    /// Counts tokens of the output, or takes them back.
    fn count(&mut self, tokens: &[u32], by: i32) {
        for &id in tokens {
            if let Some(seen) = self.seen.get_mut(id as usize) {
                *seen = seen.wrapping_add_signed(by);
            }
        }
    }

    fn is_greedy(&self) -> bool {
        self.params.temperature == 0.0
    }

    fn adjusts(&self) -> bool {
        !self.params.logit_bias.is_empty() || self.penalizes()
    }

    fn penalizes(&self) -> bool {
        let p = &self.params;
        p.repetition_penalty != 1.0 || p.presence_penalty != 0.0 || p.frequency_penalty != 0.0
    }

    fn filters(&self) -> bool {
        let p = &self.params;
        p.top_k > 0 || p.top_p < 1.0 || p.min_p > 0.0
    }

    /// Logits with bias and penalties: `logits` itself if there are none.
    fn adjusted<'a>(&self, logits: &'a [f32], room: &'a mut Vec<f32>) -> &'a [f32] {
        if !self.adjusts() {
            return logits;
        }
        let adjusted = sized(room, logits.len());
        adjusted.copy_from_slice(logits);
        self.adjust(adjusted);
        adjusted
    }

    fn adjust(&self, logits: &mut [f32]) {
        let p = &self.params;
        for &(id, bias) in &p.logit_bias {
            if let Some(logit) = logits.get_mut(id as usize) {
                *logit += bias;
            }
        }
        for (logit, &seen) in logits.iter_mut().zip(&self.seen) {
            if seen > 0 {
                let is_positive = *logit > 0.0;
                *logit =
                    if is_positive { *logit / p.repetition_penalty } else { *logit * p.repetition_penalty };
            }
            let count = seen & !IN_PROMPT;
            if count > 0 {
                *logit -= p.presence_penalty + p.frequency_penalty * count as f32;
            }
        }
    }

    /// What temperature and filters leave of logits, whose highest is given. In `all_weights`, as many;
    /// with filters in `kept` too.
    fn choices<'a>(
        &self,
        logits: &[f32],
        highest: f32,
        (all_weights, kept): (&'a mut [f32], &'a mut Vec<(u32, f32)>),
    ) -> Choices<'a> {
        let total = self.isa.exp_shifted(logits, (highest, 1.0 / self.params.temperature), all_weights);
        if !self.filters() {
            return Choices::all(all_weights, total);
        }
        self.filter((all_weights, total), kept);
        Choices::kept(kept)
    }

    /// Puts the tokens into `kept` that min-p, top-k and top-p leave, the likeliest first.
    fn filter(&self, (all_weights, total): (&[f32], f64), kept: &mut Vec<(u32, f32)>) {
        let p = &self.params;
        // Weights are relative to the likeliest token's, which is 1. Tokens below a share (1 − top_p) / n
        // of all have less than 1 − top_p together, so the nucleus lies above it. With min-p the mass is
        // that of what it leaves, all of which is needed.
        let mut floor = p.min_p;
        if p.top_p < 1.0 && p.min_p == 0.0 {
            floor = ((1.0 - f64::from(p.top_p)) * total / all_weights.len() as f64) as f32 * 0.5;
        }
        self.keep_likeliest((all_weights, floor), kept);
        if p.top_p < 1.0 {
            let is_all = p.top_k == 0 && p.min_p == 0.0;
            let mut end = self.nucleus(kept, if is_all { total } else { mass(kept) });
            if p.top_k > 0 && p.min_p == 0.0 {
                // Top-k leaves tokens below the floor too, if too few are above it: their mass counts.
                let absent = all_weights.len().min(p.top_k as usize).saturating_sub(kept.len());
                let most = mass(kept) + absent as f64 * f64::from(floor);
                if end != self.nucleus(kept, most) {
                    self.keep_likeliest((all_weights, 0.0), kept);
                    end = self.nucleus(kept, mass(kept));
                }
            }
            kept.truncate(end);
        }
    }

    /// Puts the tokens of at least a weight, at most top-k of them, into `kept`, the likeliest first.
    fn keep_likeliest(&self, (all_weights, floor): (&[f32], f32), kept: &mut Vec<(u32, f32)>) {
        kept.clear();
        kept.reserve_exact(all_weights.len());
        for (stretch, weights) in all_weights.chunks(STRETCH).enumerate() {
            if self.isa.highest(weights) >= floor {
                let all = weights.iter().enumerate().map(|(i, &w)| ((stretch * STRETCH + i) as u32, w));
                kept.extend(all.filter(|&(_, w)| w >= floor));
            }
        }
        kept.sort_unstable_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        if self.params.top_k > 0 {
            kept.truncate(self.params.top_k as usize);
        }
    }

    /// How many of `kept` have a share top-p of a mass together.
    fn nucleus(&self, kept: &[(u32, f32)], mass: f64) -> usize {
        let mut sum = 0.0;
        let end = kept.iter().position(|&(_, w)| {
            sum += f64::from(w);
            sum >= f64::from(self.params.top_p) * mass
        });
        end.map_or(kept.len(), |end| end + 1)
    }
}

/// The first `length` values of a buffer, which grows to them.
fn sized(buffer: &mut Vec<f32>, length: usize) -> &mut [f32] {
    if buffer.len() < length {
        buffer.reserve_exact(length - buffer.len());
        buffer.resize(length, 0.0);
    }
    &mut buffer[..length]
}

/// Entropy, nats, of the distribution that has `weights` e^(logit − highest) of a sum: one pass, in an order
/// that depends on nothing but the number of logits.
fn entropy(logits: &[f32], highest: f32, (weights, sum): (&[f32], f64)) -> f32 {
    let mut lanes = [0f64; ENTROPY_LANES];
    // What can't be drawn adds nothing, also where its logit is −∞.
    let term = |logit: f32, weight: f32| {
        if weight > 0.0 { f64::from(weight) * f64::from(highest - logit) } else { 0.0 }
    };
    let (logits, logits_left) = logits.as_chunks::<ENTROPY_LANES>();
    let (weights, weights_left) = weights.as_chunks::<ENTROPY_LANES>();
    for (logits, weights) in logits.iter().zip(weights) {
        for ((lane, &logit), &weight) in lanes.iter_mut().zip(logits).zip(weights) {
            *lane += term(logit, weight);
        }
    }
    for ((lane, &logit), &weight) in lanes.iter_mut().zip(logits_left).zip(weights_left) {
        *lane += term(logit, weight);
    }
    // Not below 0 by rounding; 0 as well where there is no distribution.
    (sum.ln() + lanes.iter().sum::<f64>() / sum).max(0.0) as f32
}

/// The highest logit and the first id that has it; id 0 if none has (all are NaN).
fn highest(isa: Isa, logits: &[f32]) -> (u32, f32) {
    let (mut from, mut top) = (0, f32::NEG_INFINITY);
    for (stretch, values) in logits.chunks(STRETCH).enumerate() {
        let highest = isa.highest(values);
        if highest > top {
            (from, top) = (stretch * STRETCH, highest);
        }
    }
    let at = logits[from..].iter().position(|&x| x == top);
    (at.map_or(0, |at| from + at) as u32, top)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sampler(params: SamplingParams) -> Sampler {
        Sampler::new(params, Isa::detect(), &[])
    }

    /// Frequencies of 20,000 independent draws.
    fn frequencies(params: &SamplingParams, logits: &[f32]) -> Vec<f64> {
        let mut counts = vec![0f64; logits.len()];
        for seed in 0..20_000 {
            let params = SamplingParams { seed: seed * 77 + 1, ..params.clone() };
            counts[sampler(params).draw(logits, 0).id as usize] += 1.0;
        }
        counts.iter().map(|c| c / 20_000.0).collect()
    }

    #[test]
    fn draws_follow_the_distribution() {
        let logits = [1.0f32, 0.0, 2.0, -1.0, 0.5];
        for temperature in [0.5f32, 1.0, 1.7] {
            let params = SamplingParams { temperature, ..SamplingParams::default() };
            let weights: Vec<f64> = logits.iter().map(|x| f64::from(x / temperature).exp()).collect();
            let total: f64 = weights.iter().sum();
            for (got, want) in frequencies(&params, &logits).iter().zip(&weights) {
                // Five standard deviations of 20,000 draws.
                assert!((got - want / total).abs() < 5.0 * (0.25f64 / 20_000.0).sqrt());
            }
        }
    }

    #[test]
    fn filters_keep_what_they_say() {
        let logits: Vec<f32> = [0.5f32, 0.25, 0.15, 0.07, 0.03].iter().map(|p: &f32| p.ln()).collect();
        let base = SamplingParams { temperature: 1.0, ..SamplingParams::default() };
        let kept =
            |params: SamplingParams| frequencies(&params, &logits).iter().filter(|&&f| f > 0.0).count();
        assert_eq!(kept(base.clone()), 5);
        assert_eq!(kept(SamplingParams { top_k: 2, ..base.clone() }), 2);
        assert_eq!(kept(SamplingParams { top_p: 0.76, ..base.clone() }), 3);
        assert_eq!(kept(SamplingParams { top_p: 0.01, ..base.clone() }), 1);
        assert_eq!(kept(SamplingParams { min_p: 0.2, ..base.clone() }), 3);
        // Of the two that top-k leaves, the first holds two thirds.
        assert_eq!(kept(SamplingParams { top_k: 2, top_p: 0.6, ..base.clone() }), 1);
        // Of what min-p or top-k leaves everything counts, also what the nucleus can't reach.
        let logits: Vec<f32> = [0.72f32, 0.235, 0.024, 0.02, 0.001].iter().map(|p: &f32| p.ln()).collect();
        let kept =
            |params: SamplingParams| frequencies(&params, &logits).iter().filter(|&&f| f > 0.0).count();
        assert_eq!(kept(SamplingParams { min_p: 0.02, top_p: 0.735, ..base.clone() }), 2);
        assert_eq!(kept(SamplingParams { top_k: 4, top_p: 0.735, ..base }), 2);
    }

    #[test]
    fn penalties_and_bias_move_the_greedy_choice() {
        let logits = [2.0f32, 1.9, 1.0, -3.0];
        let greedy = SamplingParams::default();
        assert_eq!(sampler(greedy.clone()).draw(&logits, 0).id, 0);
        let biased = SamplingParams { logit_bias: vec![(3, 100.0), (99, 1.0)], ..greedy.clone() };
        assert_eq!(sampler(biased).draw(&logits, 0).id, 3);
        let mut present = sampler(SamplingParams { presence_penalty: 0.5, ..greedy.clone() });
        let ids: Vec<u32> = (0..4).map(|_| present.draw(&logits, 0).id).collect();
        assert_eq!(ids, [0, 1, 0, 0]);
        let mut frequent = sampler(SamplingParams { frequency_penalty: 0.5, ..greedy.clone() });
        let ids: Vec<u32> = (0..4).map(|_| frequent.draw(&logits, 0).id).collect();
        assert_eq!(ids, [0, 1, 0, 1]);
        let repeated = SamplingParams { repetition_penalty: 1.5, ..greedy };
        assert_eq!(Sampler::new(repeated, Isa::detect(), &[0]).draw(&logits, 0).id, 1);
    }

    #[test]
    fn the_reported_log_probability_is_the_models_own() {
        let logits = [1.0f32, 0.0];
        let params =
            SamplingParams { temperature: 0.1, logit_bias: vec![(1, 50.0)], ..SamplingParams::default() };
        let sampled = sampler(params).draw(&logits, 2);
        assert_eq!(sampled.id, 1);
        let want = -(1.0 + 1f64.exp()).ln();
        assert!((f64::from(sampled.logprob) - want).abs() < 1e-5);
        assert_eq!(sampled.top[0].0, 0);
    }

    #[test]
    fn entropy_is_told_where_log_probabilities_are() {
        let even = [3.0f32; 40];
        let sampled = sampler(SamplingParams::default()).draw(&even, 1);
        assert!((sampled.entropy.unwrap() - 40f32.ln()).abs() < 1e-5);
        assert_eq!(sampler(SamplingParams::default()).draw(&even, 0).entropy, None);
        // Neither temperature nor bias changes the model's own distribution.
        let params =
            SamplingParams { temperature: 0.3, logit_bias: vec![(1, 9.0)], ..SamplingParams::default() };
        assert!((sampler(params).draw(&even, 1).entropy.unwrap() - 40f32.ln()).abs() < 1e-5);
        let mut sure = [f32::NEG_INFINITY; 19];
        sure[4] = 2.0;
        assert_eq!(sampler(SamplingParams::default()).draw(&sure, 1).entropy, Some(0.0));
    }

    #[test]
    fn the_highest_is_the_first_of_its_value() {
        let mut logits = vec![-1.0; 3 * STRETCH + 5];
        assert_eq!(highest(Isa::detect(), &logits), (0, -1.0));
        for at in [logits.len() - 1, 2 * STRETCH, STRETCH + 7, STRETCH + 6] {
            logits[at] = 2.0;
            assert_eq!(highest(Isa::detect(), &logits), (at as u32, 2.0));
        }
        assert_eq!(highest(Isa::detect(), &[f32::NAN; 3]).0, 0);
    }

    proptest! {
        #[test]
        fn entropy_is_that_of_its_definition(logits in prop::collection::vec(-30f32..30.0, 1..600)) {
            let got = sampler(SamplingParams::default()).draw(&logits, 1).entropy.unwrap();
            let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let weights: Vec<f64> = logits.iter().map(|&x| f64::from(x - top).exp()).collect();
            let sum: f64 = weights.iter().sum();
            let want: f64 = weights.iter().map(|w| w / sum).map(|p| if p > 0.0 { -p * p.ln() } else { 0.0 }).sum();
            prop_assert!((f64::from(got) - want).abs() < 1e-4 * (1.0 + want), "{} instead of {}", got, want);
        }

        #[test]
        fn a_spread_is_what_a_draw_tells(logits in prop::collection::vec(-30f32..30.0, 2..600)) {
            let mut sampler = sampler(SamplingParams::default());
            let spread = sampler.spread(&logits);
            let sampled = sampler.draw(&logits, 2);
            prop_assert_eq!(spread.entropy, sampled.entropy.unwrap());
            prop_assert_eq!(spread.logprob_max, sampled.top[0].1);
            prop_assert!((spread.margin - (sampled.top[0].1 - sampled.top[1].1)).abs() < 1e-4);
        }

        #[test]
        fn same_seed_same_tokens_and_every_draw_is_possible(
            logits in prop::collection::vec(-8f32..8.0, 1..50), seed: u64,
            temperature in 0f32..2.0, top_k in 0u32..10, top_p in 0.01f32..1.0, min_p in 0f32..1.0,
        ) {
            let params = SamplingParams { temperature, top_k, top_p, min_p, seed, ..SamplingParams::default() };
            let draw = || {
                let mut sampler = sampler(params.clone());
                (0..5).map(|_| sampler.draw(&logits, 0)).collect::<Vec<_>>()
            };
            let first = draw();
            prop_assert_eq!(&first, &draw());
            for sampled in &first {
                prop_assert!((sampled.id as usize) < logits.len() && sampled.logprob <= 0.0);
                if top_k > 0 {
                    let better = logits.iter().filter(|&&x| x > logits[sampled.id as usize]).count();
                    prop_assert!(better < top_k as usize);
                }
            }
        }
    }
}
