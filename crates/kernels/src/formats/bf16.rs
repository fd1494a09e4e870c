//! BF16: the upper 16 bits of little-endian floats.

use super::Format;
use super::block::each_block;

/// The format BF16: 2 bytes, one value.
#[derive(Debug)]
pub struct Bf16;

impl Format for Bf16 {
    fn name(&self) -> &'static str {
        "BF16"
    }

    fn ggml_type(&self) -> u32 {
        30
    }

    fn block_values(&self) -> usize {
        1
    }

    fn block_bytes(&self) -> usize {
        2
    }

    fn dequantize(&self, blocks: &[u8], values: &mut [f32]) {
        for (&bytes, [value]) in each_block(blocks, values) {
            // Not `half::bf16::to_f32`: that quiets NaNs, which ggml leaves as they are.
            *value = f32::from_bits(u32::from(u16::from_le_bytes(bytes)) << 16);
        }
    }
}
