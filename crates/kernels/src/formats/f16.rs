//! F16: little-endian IEEE half-precision floats.

use half::slice::HalfFloatSliceExt;

use super::block::each_block;
use super::{Descriptor, Format};

/// Values converted at a time: enough for the conversion's SIMD, and a small piece of stack.
const BATCH_VALUES: usize = 64;

/// The format F16: 2 bytes, one value.
#[derive(Debug)]
pub struct F16;

impl Format for F16 {
    fn descriptor(&self) -> &'static Descriptor {
        &Descriptor { name: "F16", ggml_type: 1, block_values: 1, block_bytes: 2 }
    }

    fn dequantize(&self, blocks: &[u8], values: &mut [f32]) {
        let batched = values.len() / BATCH_VALUES * BATCH_VALUES;
        let (batches, rest) = blocks.split_at((2 * batched).min(blocks.len()));
        let (batch_values, rest_values) = values.split_at_mut(batched);
        for (bytes, values) in each_block::<{ 2 * BATCH_VALUES }, BATCH_VALUES>(batches, batch_values) {
            let halves: [half::f16; BATCH_VALUES] =
                std::array::from_fn(|k| half::f16::from_le_bytes([bytes[2 * k], bytes[2 * k + 1]]));
            halves.convert_to_f32_slice(values);
        }
        for (&bytes, [value]) in each_block(rest, rest_values) {
            *value = half::f16::from_le_bytes(bytes).to_f32();
        }
    }
}
