//! What all keys of a layer have in common: [`key_centres`].
//!
//! A bias on keys is the same for every token but for the rotation by its position, and slowly rotating
//! dimensions hardly turn within a context. Some models put nearly all of a key there (Qwen2.5 Coder 0.5B: biases of
//! up to 211 where the median is below 1), so the scale of a quantized key leaves nothing for what differs between
//! tokens. But what is subtracted from all keys alike changes each score of a query by the same amount, and softmax
//! does not see it: keys are quantized without the mean of the rotated bias, and nothing is added back.

use super::rope::RopeTable;
use super::weights::Layer;
use crate::spec::{DecoderSpec, Rope, RopePairs};

/// Positions over which the mean is taken, unless the context is shorter.
const POSITIONS_MAX: usize = 8192;
/// Every so many of them.
const POSITIONS_STEP: usize = 64;

/// What to subtract from the keys of each layer, `[kv_heads · head_dim]`; nothing where keys have no bias, or where
/// scores or keys go through something that would see it.
pub(super) fn key_centres(spec: &DecoderSpec, layers: &[Layer]) -> Vec<Option<Vec<f32>>> {
    let positions = spec.context_tokens.min(POSITIONS_MAX);
    let centre = |(index, layer): (usize, &Layer)| {
        let is_seen = layer.key_norm.is_some() || spec.attention_soft_cap.is_some();
        let bias = layer.qkv_bias.as_ref().filter(|_| !is_seen)?;
        let keys = &bias[spec.heads * spec.head_dim..][..spec.kv_heads * spec.head_dim];
        Some(match spec.layers[index].rope {
            Some(rope) => mean_turned((keys, spec.head_dim), (&spec.ropes[rope], spec.rope_pairs), positions),
            None => keys.to_vec(),
        })
    };
    layers.iter().enumerate().map(centre).collect()
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
    table.fill(rope, positions());
    for at in 0..positions().count() {
        let mut turned = heads.to_vec();
        turned.chunks_exact_mut(head_dim).for_each(|head| table.rotate(pairs, at, head));
        mean.iter_mut().zip(turned).for_each(|(mean, x)| *mean += share * x);
    }
    mean
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
