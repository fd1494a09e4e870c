//! What all keys of a layer have in common: [`key_centres`].
//!
//! A bias on keys is the same for every token but for the rotation by its position, and slowly rotating
//! dimensions hardly turn within a context. Some models put nearly all of a key there (Qwen2.5 Coder 0.5B: biases of
//! up to 211 where the median is below 1), so the scale of a quantized key leaves nothing for what differs between
//! tokens. But what is subtracted from all keys alike changes each score of a query by the same amount, and softmax
//! does not see it: keys are quantized without the mean of the rotated bias, and nothing is added back.

use super::rope::RopeTable;
use super::weights::Layer;
use crate::spec::DecoderSpec;

/// Positions over which the mean is taken, unless the context is shorter.
const POSITIONS_MAX: usize = 8192;
/// Every so many of them.
const POSITIONS_STEP: usize = 64;

/// What to subtract from the keys of each layer, `[kv_heads · head_dim]`; nothing where keys have no bias, or where
/// scores or keys go through something that would see it.
pub(super) fn key_centres(spec: &DecoderSpec, layers: &[Layer]) -> Vec<Option<Vec<f32>>> {
    let positions = || (0..spec.context_tokens.min(POSITIONS_MAX)).step_by(POSITIONS_STEP);
    let mut table = RopeTable::default();
    let mut centre = |(index, layer): (usize, &Layer)| {
        let bias = layer.qkv_bias.as_ref().filter(|_| layer.key_norm.is_none())?;
        let keys = &bias[spec.heads * spec.head_dim..][..spec.kv_heads * spec.head_dim];
        let Some(rope) = spec.layers[index].rope else { return Some(keys.to_vec()) };
        table.fill(&spec.ropes[rope], positions());
        let mut sum = vec![0f32; keys.len()];
        for at in 0..positions().count() {
            let mut turned = keys.to_vec();
            turned.chunks_exact_mut(spec.head_dim).for_each(|head| table.rotate(spec.rope_pairs, at, head));
            sum.iter_mut().zip(turned).for_each(|(sum, x)| *sum += x);
        }
        let share = 1.0 / positions().count().max(1) as f32;
        sum.iter_mut().for_each(|x| *x *= share);
        Some(sum)
    };
    if spec.attention_soft_cap.is_some() {
        return layers.iter().map(|_| None).collect();
    }
    layers.iter().enumerate().map(&mut centre).collect()
}
