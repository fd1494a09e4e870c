//! Drafted tokens: what a drafter would say, and what the target makes of it.

use super::choices::share;
use super::random::{Use, uniform};
use super::{SCRATCH, Sampled, Sampler, Scratch, highest, sized};

/// A drafted token. Its buffers are kept from one use to the next.
#[derive(Debug, Default)]
pub struct Proposal {
    /// The token.
    pub id: u32,
    /// Its probability in the drafter's own distribution after all samplers; of a greedy request, at
    /// temperature 1 and after penalties and bias.
    ///
    /// The rule that accepts drafts holds for every token that the drafter may draw. So whether *this*
    /// token is verified must not depend on it; whether there is one more after it may.
    pub probability: f32,
    distribution: Distribution,
    is_drawn: bool,
}

impl Proposal {
    /// Drafts a token that was not drawn from a distribution, such as a copied one. `probability`: how
    /// far to trust it.
    pub fn fix(&mut self, id: u32, probability: f32) {
        (self.id, self.probability, self.is_drawn) = (id, probability, false);
    }

    fn set(&mut self, (id, probability): (u32, f64), is_drawn: bool) {
        // `max` makes 0 of NaN, which logits may be.
        (self.id, self.probability, self.is_drawn) = (id, (probability as f32).max(0.0), is_drawn);
    }

    /// The distribution that the token was drawn from; none if it was not.
    pub fn distribution(&self) -> Option<&Distribution> {
        self.is_drawn.then_some(&self.distribution)
    }

    /// Bytes that a proposal of a drafter with `vocabulary` tokens takes, at most.
    pub fn bytes_max(vocabulary: usize) -> usize {
        vocabulary * size_of::<f32>()
    }
}

/// Probabilities of a drafter's tokens.
#[derive(Debug, Default)]
pub struct Distribution {
    weights: Vec<f32>, // [the drafter's vocabulary], or room for it
    /// One over their sum.
    scale: f64,
}

impl Distribution {
    /// A token's probability; tokens beyond the drafter's vocabulary have none.
    pub fn probability(&self, id: u32) -> f64 {
        self.weights.get(id as usize).map_or(0.0, |&weight| share(weight, self.scale))
    }

    /// Leaves only these tokens.
    fn keep(&mut self, kept: &[(u32, f32)]) {
        self.weights.fill(0.0);
        for &(id, weight) in kept {
            self.weights[id as usize] = weight;
        }
    }
}

impl Sampler {
    /// What a drafter with these logits says next, after the text so far and the drafted tokens `ahead`,
    /// under the request's own samplers: penalties count `ahead` too. `logits` are those of the first
    /// tokens of the vocabulary, or of all; other tokens are not proposed.
    ///
    /// The token is drawn; for a greedy or reproducible request it is the likeliest, and the proposal
    /// has no distribution. Nothing changes that [`draw`](Self::draw) looks at.
    pub fn propose(&mut self, logits: &[f32], ahead: &[u32], proposal: &mut Proposal) {
        self.watch(logits.len());
        self.count(ahead, 1);
        let uniform = uniform(self.params.seed, Use::Proposal, self.proposed);
        self.proposed += 1;
        SCRATCH.with_borrow_mut(|scratch| self.fill(proposal, logits, uniform, scratch));
        self.count(ahead, -1);
    }

    /// Draws the token that follows `proposal`'s place from the target's `logits`, and remembers it. It is
    /// the proposed one if and only if that is accepted. `top`: as for [`draw`](Self::draw).
    ///
    /// A proposal with a distribution is accepted by rejection sampling, so that the token's distribution
    /// is that of `draw`. For others, and for greedy and reproducible requests, the token is the very one
    /// that `draw` would draw.
    pub fn verify(&mut self, logits: &[f32], proposal: &Proposal, top: usize) -> Sampled {
        let drawn = proposal.distribution().filter(|_| self.draws_proposals());
        self.next(logits, drawn.map(|distribution| (proposal.id, distribution)), top)
    }

    fn draws_proposals(&self) -> bool {
        !self.is_greedy() && !self.params.reproducible
    }

    fn fill(&self, proposal: &mut Proposal, logits: &[f32], uniform: f64, scratch: &mut Scratch) {
        let Scratch { adjusted, weights, kept } = scratch;
        let logits = self.adjusted(logits, adjusted);
        let (at, top) = highest(self.isa, logits);
        if self.is_greedy() {
            let total = self.isa.exp_shifted(logits, (top, 1.0), sized(weights, logits.len()));
            proposal.set((at, 1.0 / total), false);
        } else if !self.draws_proposals() {
            let choices = self.choices(logits, top, (sized(weights, logits.len()), kept));
            proposal.set((at, choices.probability(at)), false);
        } else {
            let weights = &mut proposal.distribution.weights;
            weights.resize(logits.len(), 0.0);
            let choices = self.choices(logits, top, (weights, kept));
            let (id, scale) = (choices.pick(uniform), choices.scale());
            proposal.distribution.scale = scale;
            if self.filters() {
                proposal.distribution.keep(kept);
            }
            proposal.set((id, proposal.distribution.probability(id)), true);
        }
    }
}

#[cfg(test)]
impl Distribution {
    /// Of given weights.
    pub(super) fn of(weights: Vec<f32>) -> Self {
        let scale = 1.0 / weights.iter().map(|&weight| f64::from(weight)).sum::<f64>();
        Distribution { weights, scale }
    }
}

#[cfg(test)]
mod tests {
    use kernels::isa::Isa;
    use proptest::prelude::*;

    use super::super::SamplingParams;
    use super::*;

    /// Tokens of the target; the drafter has fewer.
    const VOCABULARY: usize = 6;
    const TRIMMED: usize = 5;
    /// Tokens that a text is long, and drafts are ahead.
    const LENGTH: usize = 3;
    const AHEAD: usize = 2;
    const PROMPT: [u32; 3] = [0, 2, 2];
    const SAMPLES: u64 = 60_000;
    /// The normal deviation that is passed once in 10^6.
    const DEVIATION: f64 = 4.753;

    fn sampler(params: &SamplingParams, seed: u64) -> Sampler {
        Sampler::new(SamplingParams { seed, ..params.clone() }, Isa::detect(), &PROMPT)
    }

    /// Logits that look random, of a text by its last token.
    fn logits(seed: u64, text: &[u32], vocabulary: usize) -> Vec<f32> {
        let last = text.last().map_or(99, |&id| u64::from(id));
        let noise = |id| uniform(seed, Use::Draw, 100 * last + id) as f32 * 4.0 - 2.0;
        (0..vocabulary as u64).map(noise).collect()
    }

    fn target(text: &[u32]) -> Vec<f32> {
        logits(1, text, VOCABULARY)
    }

    /// Somewhat like the target.
    fn drafter(text: &[u32]) -> Vec<f32> {
        let noise = logits(2, text, TRIMMED);
        target(text).iter().zip(noise).map(|(own, noise)| own + 0.7 * noise).collect()
    }

    /// The distribution after all samplers, plainly; none where rounding may decide what a filter keeps.
    fn oracle(params: &SamplingParams, logits: &[f32], text: &[u32]) -> Option<Vec<f64>> {
        let p = params;
        let is_close = |a: f64, b: f64| (a - b).abs() < 1e-4;
        let mut weights = Vec::new();
        for (id, &logit) in (0u32..).zip(logits) {
            let mut x = f64::from(logit);
            x += p.logit_bias.iter().filter(|b| b.0 == id).map(|b| f64::from(b.1)).sum::<f64>();
            let count = text.iter().filter(|&&other| other == id).count();
            if count > 0 || PROMPT.contains(&id) {
                let penalty = f64::from(p.repetition_penalty);
                x = if x > 0.0 { x / penalty } else { x * penalty };
            }
            if count > 0 {
                x -= f64::from(p.presence_penalty) + f64::from(p.frequency_penalty) * count as f64;
            }
            weights.push((id as usize, (x / f64::from(p.temperature)).exp()));
        }
        weights.sort_by(|a, b| b.1.total_cmp(&a.1));
        let (highest, min_p) = (weights[0].1, f64::from(p.min_p));
        if weights.iter().any(|&(_, w)| min_p > 0.0 && is_close(w / highest, min_p)) {
            return None;
        }
        weights.retain(|&(_, w)| w >= min_p * highest);
        let k = if p.top_k == 0 { weights.len() } else { weights.len().min(p.top_k as usize) };
        if weights.get(k).is_some_and(|&(_, w)| is_close(w / weights[k - 1].1, 1.0)) {
            return None;
        }
        weights.truncate(k);
        if p.top_p < 1.0 {
            let all: f64 = weights.iter().map(|&(_, w)| w).sum();
            let mut sum = 0.0;
            let sums: Vec<f64> = weights
                .iter()
                .map(|&(_, w)| {
                    sum += w / all;
                    sum
                })
                .collect();
            if sums.iter().any(|&sum| is_close(sum, f64::from(p.top_p))) {
                return None;
            }
            weights.truncate(1 + sums.iter().filter(|&&sum| sum < f64::from(p.top_p)).count());
        }
        let all: f64 = weights.iter().map(|&(_, w)| w).sum();
        let mut probabilities = vec![0.0; VOCABULARY.max(logits.len())];
        weights.iter().for_each(|&(id, w)| probabilities[id] = w / all);
        Some(probabilities)
    }

    fn params_of_all_kinds() -> Vec<SamplingParams> {
        let plain = SamplingParams { temperature: 1.0, ..SamplingParams::default() };
        let penalized = SamplingParams {
            temperature: 1.3,
            repetition_penalty: 1.4,
            presence_penalty: 0.5,
            frequency_penalty: 0.3,
            ..plain.clone()
        };
        vec![
            plain.clone(),
            SamplingParams { temperature: 0.6, top_k: 3, ..plain.clone() },
            SamplingParams { top_p: 0.8, ..plain.clone() },
            SamplingParams { min_p: 0.2, logit_bias: vec![(5, 1.0), (1, -2.0)], ..plain },
            penalized.clone(),
            SamplingParams { top_k: 4, top_p: 0.9, min_p: 0.05, logit_bias: vec![(5, 1.5)], ..penalized },
        ]
    }

    /// A text as speculation writes it: drafts of up to [`AHEAD`] tokens, and a token after those that
    /// were all accepted.
    fn speculate(sampler: &mut Sampler) -> Vec<u32> {
        let mut text: Vec<u32> = Vec::new();
        let mut proposals = [Proposal::default(), Proposal::default()];
        while text.len() < LENGTH {
            let written = text.len();
            let mut drafted = text.clone();
            for proposal in proposals.iter_mut().take(AHEAD.min(LENGTH - written)) {
                sampler.propose(&drafter(&drafted), &drafted[written..], proposal);
                drafted.push(proposal.id);
            }
            for proposal in proposals.iter().take(drafted.len() - written) {
                text.push(sampler.verify(&target(&text), proposal, 0).id);
                if text.last() != Some(&proposal.id) {
                    break;
                }
            }
            if text == drafted && text.len() < LENGTH {
                text.push(sampler.draw(&target(&text), 0).id);
            }
        }
        text
    }

    fn write(sampler: &mut Sampler) -> Vec<u32> {
        let mut text = Vec::new();
        while text.len() < LENGTH {
            text.push(sampler.draw(&target(&text), 0).id);
        }
        text
    }

    /// The probability of each text of [`LENGTH`] tokens, as a number in base [`VOCABULARY`].
    fn probabilities_of_texts(params: &SamplingParams) -> Vec<f64> {
        let texts = 0..VOCABULARY.pow(LENGTH as u32);
        let text = |number: usize| -> Vec<u32> {
            (0..LENGTH as u32).map(|at| (number / VOCABULARY.pow(at) % VOCABULARY) as u32).collect()
        };
        let of = |text: Vec<u32>| -> f64 {
            let next = |at: usize| {
                let law = oracle(params, &target(&text[..at]), &text[..at]);
                law.expect("no filter of the test is on a border")[text[at] as usize]
            };
            (0..LENGTH).map(next).product()
        };
        texts.map(|number| of(text(number))).collect()
    }

    /// The G statistic of counts and their degrees of freedom; cells that expect less than five are one.
    fn g_statistic(counts: &[u64], probabilities: &[f64]) -> (f64, f64) {
        let samples: u64 = counts.iter().sum();
        let (mut cells, mut rest) = (Vec::new(), (0.0, 0.0));
        for (&count, &probability) in counts.iter().zip(probabilities) {
            let (count, expected) = (count as f64, probability * samples as f64);
            assert!(expected > 0.0 || count == 0.0, "drawn though it has no probability");
            match expected {
                5.0.. => cells.push((count, expected)),
                _ => rest = (rest.0 + count, rest.1 + expected),
            }
        }
        if rest.1 >= 5.0 {
            cells.push(rest);
        }
        let term = |&(count, expected): &(f64, f64)| {
            if count > 0.0 { 2.0 * count * (count / expected).ln() } else { 0.0 }
        };
        (cells.iter().map(term).sum(), (cells.len() - 1) as f64)
    }

    /// What chi-square passes once in 10^6 (Wilson and Hilferty 1931).
    fn chi_square_limit(freedom: f64) -> f64 {
        let part = 2.0 / (9.0 * freedom);
        freedom * (1.0 - part + DEVIATION * part.sqrt()).powi(3)
    }

    fn assert_follows(params: &SamplingParams, write: impl Fn(&mut Sampler) -> Vec<u32>) {
        let mut counts = vec![0; VOCABULARY.pow(LENGTH as u32)];
        for seed in 0..SAMPLES {
            let text = write(&mut sampler(params, seed));
            counts[text.iter().rev().fold(0, |number, &id| number * VOCABULARY + id as usize)] += 1;
        }
        let (statistic, freedom) = g_statistic(&counts, &probabilities_of_texts(params));
        let limit = chi_square_limit(freedom);
        assert!(statistic < limit, "G = {statistic} of {freedom} degrees, limit {limit}: {params:?}");
    }

    #[test]
    fn drawn_texts_follow_the_distribution() {
        params_of_all_kinds().iter().for_each(|params| assert_follows(params, write));
    }

    #[test]
    fn speculated_texts_follow_the_distribution() {
        params_of_all_kinds().iter().for_each(|params| assert_follows(params, speculate));
    }

    #[test]
    fn as_many_drafts_are_accepted_as_the_distributions_share() {
        for params in params_of_all_kinds() {
            let law = |logits| oracle(&params, logits, &[]).expect("no filter of the test is on a border");
            let (target, drafter) = (target(&[]), drafter(&[]));
            let want: f64 = law(&target).iter().zip(law(&drafter)).map(|(p, q)| p.min(q)).sum();
            let mut accepted = 0;
            let mut proposal = Proposal::default();
            for seed in 0..SAMPLES {
                let mut sampler = sampler(&params, seed);
                sampler.propose(&drafter, &[], &mut proposal);
                accepted += u64::from(sampler.verify(&target, &proposal, 0).id == proposal.id);
            }
            let got = accepted as f64 / SAMPLES as f64;
            let deviation = (want * (1.0 - want) / SAMPLES as f64).sqrt();
            assert!((got - want).abs() < DEVIATION * deviation + 1e-6, "{got}, not {want}: {params:?}");
        }
    }

    #[test]
    fn a_greedy_proposal_is_the_likeliest_with_its_probability() {
        let mut sampler = sampler(&SamplingParams::default(), 0);
        let mut proposal = Proposal::default();
        sampler.propose(&[0.0, 3f32.ln(), 0.0], &[], &mut proposal);
        assert_eq!((proposal.id, proposal.distribution().is_none()), (1, true));
        assert!((proposal.probability - 0.6).abs() < 1e-6);
        sampler.propose(&[f32::NAN; 3], &[], &mut proposal);
        assert_eq!((proposal.id, proposal.probability), (0, 0.0));
    }

    #[test]
    fn what_is_no_number_and_tokens_that_are_not_there_end_nothing() {
        let drawn = SamplingParams { temperature: 1.0, ..SamplingParams::default() };
        let filtered = SamplingParams { top_k: 2, presence_penalty: 0.5, ..drawn.clone() };
        let mut proposal = Proposal::default();
        for params in [drawn, filtered, SamplingParams::default()] {
            for strange in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                for (target, drafter) in [(strange, 1.0), (1.0, strange), (strange, strange)] {
                    let mut sampler = sampler(&params, 3);
                    // A drafter with more tokens than the target, the last of them the likeliest.
                    let mut drafter = [drafter; 9];
                    drafter[8] += 50.0;
                    sampler.propose(&drafter, &[8, 77], &mut proposal);
                    assert!(sampler.verify(&[target; 4], &proposal, 2).id < 4);
                }
            }
        }
    }

    fn any_params() -> impl Strategy<Value = SamplingParams> {
        let off = |off: f32, on: std::ops::Range<f32>| prop_oneof![Just(off), on];
        let filters = (0u32..5, off(1.0, 0.1..1.0), off(0.0, 0.0..0.6));
        let penalties = (off(1.0, 0.8..1.6), off(0.0, -1.0..1.0), off(0.0, -1.0..1.0));
        let bias = prop::collection::vec((0u32..8, -3f32..3.0), 0..3);
        (0.2f32..2.0, filters, penalties, bias, any::<u64>()).prop_map(
            |(temperature, (top_k, top_p, min_p), penalties, logit_bias, seed)| SamplingParams {
                temperature,
                top_k,
                top_p,
                min_p,
                repetition_penalty: penalties.0,
                presence_penalty: penalties.1,
                frequency_penalty: penalties.2,
                logit_bias,
                seed,
                reproducible: false,
            },
        )
    }

    fn any_logits(vocabulary: usize) -> impl Strategy<Value = Vec<f32>> {
        prop::collection::vec(-4f32..4.0, vocabulary)
    }

    fn any_text() -> impl Strategy<Value = Vec<u32>> {
        prop::collection::vec(0u32..VOCABULARY as u32, 0..6)
    }

    /// A sampler that has drawn `text`.
    fn after(params: &SamplingParams, text: &[u32]) -> Sampler {
        let mut sampler = sampler(params, params.seed);
        for &id in text {
            let mut logits = [f32::NEG_INFINITY; VOCABULARY];
            logits[id as usize] = 0.0;
            assert_eq!(sampler.draw(&logits, 0).id, id);
        }
        sampler
    }

    proptest! {
        #[test]
        fn samplers_apply_to_drafts_and_all_of_it_gives_the_targets_distribution(
            params in any_params(), text in any_text(), ahead in any_text(),
            target in any_logits(VOCABULARY), drafter in any_logits(TRIMMED),
        ) {
            let mut sampler = after(&params, &text);
            let mut proposal = Proposal::default();
            let all: Vec<u32> = text.iter().chain(&ahead).copied().collect();
            let (Some(wanted), Some(drafts)) =
                (oracle(&params, &target, &all), oracle(&params, &drafter, &all))
            else {
                return Ok(());
            };
            sampler.propose(&drafter, &ahead, &mut proposal);
            let draft = proposal.distribution().expect("drawn proposals have one");
            prop_assert!((f64::from(proposal.probability) - drafts[proposal.id as usize]).abs() < 1e-4);
            for (id, want) in (0u32..).zip(&drafts) {
                prop_assert!((draft.probability(id) - want).abs() < 1e-4);
                prop_assert_eq!(draft.probability(id) > 0.0, *want > 0.0);
            }
            let mut sampler = after(&params, &all);
            sampler.watch(VOCABULARY);
            let (mut room, mut weights, mut kept) = (Vec::new(), vec![0.0; VOCABULARY], Vec::new());
            let logits = sampler.adjusted(&target, &mut room);
            let (_, top) = highest(sampler.isa, logits);
            let choices = sampler.choices(logits, top, (&mut weights, &mut kept));
            for (got, want) in choices.settled(draft, VOCABULARY).iter().zip(&wanted) {
                prop_assert!((got - want).abs() < 1e-4, "{} for {}", got, want);
            }
        }

        #[test]
        fn proposing_leaves_no_trace(
            params in any_params(), greedy: bool, reproducible: bool, aheads in prop::collection::vec(any_text(), 4),
            targets in prop::collection::vec(any_logits(VOCABULARY), 3), drafter in any_logits(TRIMMED),
        ) {
            let params = SamplingParams {
                temperature: if greedy { 0.0 } else { params.temperature }, reproducible, ..params
            };
            let (mut plain, mut proposing) = (sampler(&params, params.seed), sampler(&params, params.seed));
            let mut proposal = Proposal::default();
            for (target, ahead) in targets.iter().zip(&aheads) {
                proposing.propose(&drafter, ahead, &mut proposal);
                prop_assert_eq!(plain.draw(target, 2), proposing.draw(target, 2));
                proposing.propose(target, ahead, &mut proposal);
                prop_assert_eq!(&plain.seen, &proposing.seen);
            }
        }

        #[test]
        fn without_a_distribution_verifying_is_drawing(
            params in any_params(), kind in 0..3, proposed in prop::collection::vec(0u32..8, 5),
            targets in prop::collection::vec(any_logits(VOCABULARY), 5), drafter in any_logits(TRIMMED),
        ) {
            // Greedy, reproducible, or copied drafts.
            let temperature = if kind == 0 { 0.0 } else { params.temperature };
            let params = SamplingParams { temperature, reproducible: kind == 1, ..params };
            let (mut plain, mut speculating) = (sampler(&params, params.seed), sampler(&params, params.seed));
            let mut proposal = Proposal::default();
            for (target, &id) in targets.iter().zip(&proposed) {
                if kind < 2 {
                    speculating.propose(&drafter, &[id], &mut proposal);
                    prop_assert!(proposal.distribution().is_none());
                    prop_assert!((0.0..=1.0).contains(&proposal.probability));
                }
                if kind == 2 || id % 2 == 0 {
                    proposal.fix(id, 0.5);
                }
                prop_assert_eq!(plain.draw(target, 2), speculating.verify(target, &proposal, 2));
            }
        }

        #[test]
        fn a_greedy_or_reproducible_request_compares_also_what_was_drawn(
            params in any_params(), greedy: bool, target in any_logits(VOCABULARY),
            drafter in any_logits(TRIMMED),
        ) {
            let mut proposal = Proposal::default();
            sampler(&params, params.seed).propose(&drafter, &[], &mut proposal);
            prop_assert!(proposal.distribution().is_some());
            let temperature = if greedy { 0.0 } else { params.temperature };
            let params = SamplingParams { temperature, reproducible: !greedy, ..params };
            let (mut plain, mut speculating) = (sampler(&params, params.seed), sampler(&params, params.seed));
            prop_assert_eq!(plain.draw(&target, 0), speculating.verify(&target, &proposal, 0));
        }

        #[test]
        fn a_reproducible_requests_proposal_is_its_likeliest(
            params in any_params(), text in any_text(), drafter in any_logits(TRIMMED),
        ) {
            let Some(want) = oracle(&params, &drafter, &text) else { return Ok(()) };
            let params = SamplingParams { reproducible: true, ..params };
            let mut proposal = Proposal::default();
            after(&params, &text).propose(&drafter, &[], &mut proposal);
            let highest = want.iter().copied().fold(0.0, f64::max);
            prop_assert!((f64::from(proposal.probability) - highest).abs() < 1e-4);
            prop_assert!((want[proposal.id as usize] - highest).abs() < 1e-4);
        }
    }
}
