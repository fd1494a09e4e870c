//! What makes keys easy to quantize without changing any score: [`Smoothing`].
//!
//! Softmax does not see what all scores of a query have in common, so keys are stored without their mean. And a
//! score stays what it is when a dimension of the key is divided by what the query's is multiplied with. A model
//! has dimensions of large keys that small queries look at, and the other way round; error in the former hardly
//! shows. Keys are divided by √(σ key / σ query) of each dimension, where the error of the scores is least for an
//! error that is spread evenly (QServe's SmoothAttention, Lin et al. 2024, with this exponent). How keys and queries
//! lie is a property of the model: it reads [`TEXT`] once, before anything else, through a cache of floats.
//!
//! Where the first dimensions of a key have more bits than the others ([`KvType::ranks_keys`]), dimensions change places:
//! σ query · σ key falls. So much does a dimension have to do with the scores.
//!
//! The means count as at positions of a long context, by turning them as rotary embeddings do: a bias in a dimension
//! that turns often leaves no mean, one in a dimension that hardly turns leaves most of it.

use std::sync::Arc;

use kernels::attention::{KvType, KvTypeError};
use kernels::isa::Isa;
use kernels::pool::Pool;

use super::rope::RopeTable;
use super::{Decoder, DecoderOptions, Logits, Work};
use crate::model::Model;
use crate::spec::{DecoderSpec, Rope, RopePairs};

/// Positions over which means are taken, unless the context is shorter.
const POSITIONS_MAX: usize = 8192;
/// Every so many of them.
const POSITIONS_STEP: usize = 64;
/// Most tokens of [`TEXT`] that are read.
const TEXT_TOKENS_MAX: usize = 256;
/// Tokens of a pass.
const PASS_TOKENS: usize = 64;
/// Least variance of a dimension, as a share of its head's mean one.
const VARIANCE_MIN: f64 = 1e-4;

/// Prose, questions and code: what small models are given.
const TEXT: &str = "The lighthouse at the end of the bay was built in 1874, after three ships had been lost on the \
rocks in a single winter. Its keeper, a quiet man named Aldous Finch, wrote down the weather every morning: \
\"Wind from the north-west, rain until noon, visibility poor.\" Nobody asked him to; he simply thought that somebody \
should. When the lamp was changed to electricity, eighty years later, his notes filled 41 books.\n\n\
User: How do I count the words of a file, and which of them is the most frequent?\n\
Assistant: Read the text, split it at white space and keep a table of counts:\n\n\
```python\nfrom collections import Counter\n\ndef most_frequent(path: str) -> tuple[str, int]:\n    \
with open(path, encoding=\"utf-8\") as file:\n        words = file.read().lower().split()\n    \
return Counter(words).most_common(1)[0]\n```\n\n\
It returns a pair, for example `(\"the\", 1284)`. If the file is empty, an `IndexError` is raised. \
In JSON: {\"id\": 7, \"tags\": [\"a\", \"b\"], \"ok\": true}. Der Hund schl\u{e4}ft; le chat mange. \
Energy is conserved, so that half the mass times the square of the speed stays the same: E = m v^2 / 2.";

/// What is done to the queries and keys of one layer.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Smoothing {
    centre: Vec<f32>,  // [kv_heads · head_dim], subtracted from keys
    keys: Vec<f32>,    // [kv_heads · head_dim], factors
    queries: Vec<f32>, // [kv_heads · head_dim], factors of a group's queries
    swaps: Vec<u16>, // [kv_heads · head_dim], what each dimension in turn changes places with; empty: nothing
}

impl Smoothing {
    /// For one token's queries and keys, turned by their position; heads are of `head_dim`.
    pub fn apply(&self, (queries, keys): (&mut [f32], &mut [f32]), head_dim: usize) {
        for ((key, centre), factor) in keys.iter_mut().zip(&self.centre).zip(&self.keys) {
            *key = (*key - centre) * factor;
        }
        let of_group = queries.len() / self.queries.len() * head_dim;
        let groups = queries.chunks_exact_mut(of_group).zip(self.queries.chunks_exact(head_dim));
        for (group, factors) in groups {
            for head in group.chunks_exact_mut(head_dim) {
                head.iter_mut().zip(factors).for_each(|(query, factor)| *query *= factor);
            }
        }
        let swaps = self.swaps.chunks_exact(head_dim);
        for ((group, key), swaps) in
            queries.chunks_exact_mut(of_group).zip(keys.chunks_exact_mut(head_dim)).zip(swaps)
        {
            for head in group.chunks_exact_mut(head_dim).chain([key]) {
                swaps.iter().enumerate().for_each(|(d, &other)| head.swap(d, usize::from(other)));
            }
        }
    }

    /// Of a layer whose queries and keys are known by `moments` and turn by `rope`; `ranks`: whether dimensions change
    /// places.
    fn of(spec: &DecoderSpec, rope: Option<&Rope>, moments: &Moments, ranks: bool) -> Self {
        let (head_dim, tokens) = (spec.head_dim, moments.tokens.max(1) as f64);
        let heads_of_group = (spec.heads / spec.kv_heads) as f64;
        let mut centre: Vec<f32> = moments.key_sums.iter().map(|sum| (sum / tokens) as f32).collect();
        if let Some(rope) = rope {
            let positions = spec.context_tokens.min(POSITIONS_MAX);
            centre = mean_turned((&centre, head_dim), (rope, spec.rope_pairs), positions);
        }
        if spec.attention_soft_cap.is_some() || !centre.iter().all(|x| x.is_finite()) {
            centre.fill(0.0);
        }
        let partner = |d: usize| partner(rope, spec.rope_pairs, d);
        let mut factors = Vec::with_capacity(centre.len());
        let mut swaps = Vec::new();
        for first in (0..centre.len()).step_by(head_dim) {
            let key =
                |d: usize| moments.key_squares[first + d] / tokens - f64::from(centre[first + d]).powi(2);
            let query = |d: usize| moments.query_squares[first + d] / tokens / heads_of_group;
            let keys = floored((0..head_dim).map(|d| (key(d) + key(partner(d))) / 2.0).collect());
            let queries = floored((0..head_dim).map(|d| (query(d) + query(partner(d))) / 2.0).collect());
            factors.extend(keys.iter().zip(&queries).map(|(key, query)| {
                let factor = (query / key).sqrt().sqrt();
                if factor.is_normal() { factor } else { 1.0 }
            }));
            if ranks {
                let weights = keys.iter().zip(&queries).map(|(key, query)| key * query);
                let weights = weights.map(|weight| if weight.is_nan() { 0.0 } else { weight });
                swaps.extend(falling(&weights.collect::<Vec<f64>>()));
            }
        }
        Smoothing {
            centre,
            keys: factors.iter().map(|&factor| factor as f32).collect(),
            queries: factors.iter().map(|&factor| (1.0 / factor) as f32).collect(),
            swaps,
        }
    }
}

/// What each dimension in turn has to change places with, so that `weights` fall; equal ones keep their order.
fn falling(weights: &[f64]) -> Vec<u16> {
    let mut order: Vec<usize> = (0..weights.len()).collect();
    order.sort_by(|&a, &b| weights[b].total_cmp(&weights[a]));
    // Which dimension lies at each place, and where each dimension lies, while they change places.
    let (mut at, mut place): (Vec<usize>, Vec<usize>) = (0..weights.len()).map(|d| (d, d)).unzip();
    let mut swaps = Vec::with_capacity(order.len());
    for (to, wanted) in order.into_iter().enumerate() {
        let from = place[wanted];
        swaps.push(from as u16);
        at.swap(to, from);
        place[at[from]] = from;
        place[wanted] = to;
    }
    swaps
}

/// Variances of a head's dimensions, none far below their mean.
fn floored(variances: Vec<f64>) -> Vec<f64> {
    let least = VARIANCE_MIN * variances.iter().sum::<f64>() / variances.len() as f64;
    variances.into_iter().map(|x| x.max(least)).collect()
}

/// The dimension that dimension `d` of a head turns with; itself if with none.
fn partner(rope: Option<&Rope>, pairs: RopePairs, d: usize) -> usize {
    let count = rope.map_or(0, |rope| rope.frequencies.len());
    match pairs {
        _ if d >= 2 * count => d,
        RopePairs::Interleaved => d ^ 1,
        RopePairs::HalfSplit => (d + count) % (2 * count),
    }
}

/// The mean of heads turned as at some of the first `positions` positions.
fn mean_turned(
    (heads, head_dim): (&[f32], usize),
    (rope, pairs): (&Rope, RopePairs),
    positions: usize,
) -> Vec<f32> {
    let positions = || (0..positions.max(1)).step_by(POSITIONS_STEP);
    let (share, mut mean) = (1.0 / positions().count() as f32, vec![0f32; heads.len()]);
    let mut table = RopeTable::default();
    table.fill(&turning(rope), positions());
    for at in 0..positions().count() {
        let mut turned = heads.to_vec();
        turned.chunks_exact_mut(head_dim).for_each(|head| table.rotate(pairs, at, head));
        mean.iter_mut().zip(turned).for_each(|(mean, x)| *mean += share * x);
    }
    mean
}

/// The same rope without its magnitude: keys have it already.
fn turning(rope: &Rope) -> Rope {
    Rope { magnitude: 1.0, ..rope.clone() }
}

/// Sums over the tokens of a text, of one layer.
#[derive(Clone, Debug)]
struct Moments {
    tokens: usize,
    key_sums: Vec<f64>,      // [kv_heads · head_dim], of keys turned back to position 0
    key_squares: Vec<f64>,   // [kv_heads · head_dim]
    query_squares: Vec<f64>, // [kv_heads · head_dim], of all heads of a group
}

/// Who looks at a decoder's queries and keys while it reads.
#[derive(Debug)]
pub(super) struct Watch(Vec<Moments>);

impl Watch {
    fn new(spec: &DecoderSpec) -> Self {
        let zeros = vec![0f64; spec.kv_heads * spec.head_dim];
        let none =
            Moments { tokens: 0, key_sums: zeros.clone(), key_squares: zeros.clone(), query_squares: zeros };
        Watch(vec![none; spec.layers.len()])
    }

    /// Takes a pass's rows of layer `index`, `[token][queries, keys, …]`, the first at `position`.
    pub fn take(
        &mut self,
        spec: &DecoderSpec,
        index: usize,
        (rows, width): (&[f32], usize),
        position: usize,
    ) {
        let moments = &mut self.0[index];
        let (head_dim, group) = (spec.head_dim, spec.heads / spec.kv_heads);
        let mut back = RopeTable::default();
        if let Some(rope) = spec.layers[index].rope {
            back.fill(&turning(&spec.ropes[rope]), position..position + rows.len() / width);
            back.reverse();
        }
        for (token, row) in rows.chunks_exact(width).enumerate() {
            let (queries, rest) = row.split_at(spec.heads * head_dim);
            let mut keys = rest[..spec.kv_heads * head_dim].to_vec();
            for (head, query) in queries.chunks_exact(head_dim).enumerate() {
                let sums = &mut moments.query_squares[head / group * head_dim..][..head_dim];
                sums.iter_mut().zip(query).for_each(|(sum, &x)| *sum += f64::from(x).powi(2));
            }
            moments.key_squares.iter_mut().zip(&keys).for_each(|(sum, &x)| *sum += f64::from(x).powi(2));
            if spec.layers[index].rope.is_some() {
                keys.chunks_exact_mut(head_dim).for_each(|head| back.rotate(spec.rope_pairs, token, head));
            }
            moments.key_sums.iter_mut().zip(&keys).for_each(|(sum, &x)| *sum += f64::from(x));
            moments.tokens += 1;
        }
    }
}

/// Reads [`TEXT`]; what is to be done to the queries and keys of each layer before they are stored as `kv_type`. Nothing
/// where the model can't read it.
///
/// # Errors
/// None that a decoder with a cache of floats does not have.
pub(super) fn learn(
    model: &Arc<Model>,
    pool: &Arc<Pool>,
    isa: Isa,
    kv_type: KvType,
) -> Result<Vec<Smoothing>, KvTypeError> {
    let spec = model.spec();
    let mut tokens = model.tokenizer().encode(TEXT, true, false);
    tokens.retain(|&token| (token as usize) < model.vocabulary());
    tokens.truncate(TEXT_TOKENS_MAX.min(spec.context_tokens));
    let options = DecoderOptions { batch_tokens: PASS_TOKENS, ..DecoderOptions::new(1, TEXT_TOKENS_MAX) };
    let mut reader = Decoder::new(model.clone(), pool.clone(), isa, options)?;
    reader.watch = Some(Watch::new(spec));
    let Ok(sequence) = reader.begin() else { return Ok(Vec::new()) };
    for tokens in tokens.chunks(PASS_TOKENS) {
        if reader.forward(&[Work { sequence, tokens, logits: Logits::None }]).is_err() {
            return Ok(Vec::new());
        }
    }
    let learned = reader.watch.iter().flat_map(|watch| watch.0.iter().zip(&spec.layers));
    Ok(learned
        .map(|(moments, layer)| {
            let rope = layer.rope.map(|rope| &spec.ropes[rope]);
            Smoothing::of(spec, rope, moments, kv_type.ranks_keys())
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whatever the factors and the centre: the scores of a query lie as they did, but for a constant.
        #[test]
        fn scores_differ_as_before(
            values in prop::collection::vec(-1f32..1.0, 6 * 8),
            exponents in prop::collection::vec(-6i32..6, 8),
            weights in prop::collection::vec(0f64..1.0, 8),
        ) {
            // Two groups of two query heads of 4 dimensions, and two keys of each group.
            let (centre, rest) = values.split_at(8);
            let (queries, keys) = rest.split_at(16);
            let factors = |sign: i32| exponents.iter().map(|e| 2f32.powi(sign * e)).collect::<Vec<_>>();
            let swaps = weights.chunks(4).flat_map(falling).collect();
            let smoothing = Smoothing { centre: centre.to_vec(), keys: factors(1), queries: factors(-1), swaps };
            let score = |queries: &[f32], keys: &[f32], head: usize| -> f32 {
                let key = &keys[head / 2 * 4..][..4];
                queries[head * 4..][..4].iter().zip(key).map(|(q, k)| q * k).sum()
            };
            let apply = |key: &[f32]| {
                let (mut queries, mut keys) = (queries.to_vec(), key.to_vec());
                smoothing.apply((&mut queries, &mut keys), 4);
                (queries, keys)
            };
            let (a, b) = keys[..16].split_at(8);
            let (smooth_a, smooth_b) = (apply(a), apply(b));
            for head in 0..4 {
                let plain = score(queries, a, head) - score(queries, b, head);
                let smooth = score(&smooth_a.0, &smooth_a.1, head) - score(&smooth_b.0, &smooth_b.1, head);
                prop_assert!((plain - smooth).abs() < 1e-4, "{smooth} for {plain}");
            }
        }
    }

    proptest! {
        #[test]
        fn what_weighs_most_comes_first(weights in prop::collection::vec(0u8..10, 1..100)) {
            let weights: Vec<f64> = weights.into_iter().map(f64::from).collect();
            let mut moved: Vec<(f64, usize)> = weights.iter().copied().zip(0..).collect();
            falling(&weights).into_iter().enumerate().for_each(|(d, other)| moved.swap(d, usize::from(other)));
            let falls = |pair: &[(f64, usize)]| pair[0].0 > pair[1].0 || pair[0].0 == pair[1].0 && pair[0].1 < pair[1].1;
            prop_assert!(moved.windows(2).all(falls), "{moved:?}");
        }
    }

    #[test]
    fn what_hardly_turns_is_taken_off_and_what_turns_is_left() {
        // A pair that turns often, one that does not, and a dimension outside of both.
        let rope = Rope { frequencies: vec![0.9, 1e-7], magnitude: 1.0 };
        let heads = [10.0, 20.0, 30.0, 40.0, 50.0, -1.0, -2.0, -3.0, -4.0, -5.0];
        let mean = mean_turned((&heads, 5), (&rope, RopePairs::HalfSplit), 8192);
        for (head, mean) in heads.chunks(5).zip(mean.chunks(5)) {
            for (still, of) in [(1, 1), (3, 3), (4, 4)] {
                assert!((mean[still] - head[of]).abs() < 0.01 * head[of].abs(), "{mean:?}");
            }
            assert!(mean[0].abs() < 0.1 * head[2].abs() && mean[2].abs() < 0.1 * head[2].abs(), "{mean:?}");
        }
    }

    #[test]
    fn partners_are_each_others() {
        let rope = Rope { frequencies: vec![1.0, 0.1, 0.01], magnitude: 1.0 };
        for (pairs, of_zero) in [(RopePairs::Interleaved, 1), (RopePairs::HalfSplit, 3)] {
            let of: Vec<usize> = (0..8).map(|d| partner(Some(&rope), pairs, d)).collect();
            assert_eq!((of[0], of[6], of[7]), (of_zero, 6, 7));
            assert!((0..8).all(|d| of[of[d]] == d), "{of:?}");
        }
        assert_eq!(partner(None, RopePairs::HalfSplit, 2), 2);
    }

    /// The tiny model's numbers with one layer, two query heads and one key head of 4 dimensions.
    fn spec() -> DecoderSpec {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
        let path = path.join("../../tests/golden/tiny/tiny-qwen2.gguf");
        let model = Model::load(&path, crate::model::LoadOptions::default(), &Pool::new(1)).unwrap();
        let mut spec = model.spec().clone();
        (spec.heads, spec.kv_heads, spec.head_dim, spec.context_tokens) = (2, 1, 4, 8192);
        spec.layers.truncate(1);
        spec.layers[0].rope = Some(0);
        spec.ropes = vec![Rope { frequencies: vec![0.9, 0.0], magnitude: 2.0 }];
        spec.rope_pairs = RopePairs::HalfSplit;
        spec
    }

    #[test]
    fn large_keys_that_small_queries_look_at_are_made_small() {
        let spec = spec();
        let (query, key) = ([0.5f32, 1.0, 0.5, 1.0], [8f32, 3.0, 8.0, -3.0]);
        let mut table = RopeTable::default();
        table.fill(&turning(&spec.ropes[0]), 5..69);
        let rows: Vec<f32> = (0..64)
            .flat_map(|token| {
                // Keys are the same before they turn, but for a sign of the second pair's.
                let mut head = key;
                head[1] += if token % 2 == 0 { 1.0 } else { -1.0 };
                head[3] += if token % 2 == 0 { 1.0 } else { -1.0 };
                table.rotate(spec.rope_pairs, token, &mut head);
                [query, query, head].concat()
            })
            .collect();
        let mut watch = Watch::new(&spec);
        for (at, rows) in rows.chunks(32 * 12).enumerate() {
            watch.take(&spec, 0, (rows, 12), 5 + 32 * at);
        }
        let found = Smoothing::of(&spec, Some(&spec.ropes[0]), &watch.0[0], true);
        // The pair of σ query · σ key 4 comes before that of 1.
        assert_eq!(found.swaps, [0, 2, 2, 3]);
        // What turns keeps its length; what does not goes without its mean and has a variance of 1 left.
        let mean = found.centre.iter().map(|x| (x * 10.0).round() / 10.0).collect::<Vec<_>>();
        assert_eq!((mean[1], mean[3]), (3.0, -3.0));
        assert!(mean[0].abs() < 1.0 && mean[2].abs() < 1.0, "{mean:?}");
        for (d, want) in [(0, 0.25), (1, 1.0), (2, 0.25), (3, 1.0)] {
            assert!((found.keys[d] - want).abs() < 0.03 * want, "{:?}", found.keys);
            assert!((found.keys[d] * found.queries[d] - 1.0).abs() < 1e-6);
        }
    }

    #[test]
    fn what_is_no_number_leaves_keys_and_queries_as_they_are() {
        let spec = spec();
        let mut watch = Watch::new(&spec);
        watch.take(&spec, 0, (&[f32::NAN; 12], 12), 0);
        let found = Smoothing::of(&spec, Some(&spec.ropes[0]), &watch.0[0], true);
        let ones = vec![1.0; 4];
        let want =
            Smoothing { centre: vec![0.0; 4], keys: ones.clone(), queries: ones, swaps: vec![0, 1, 2, 3] };
        assert_eq!(found, want);
    }
}
