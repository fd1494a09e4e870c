//! BF16: the upper 16 bits of little-endian floats.

use super::block::each_block;
use super::{Descriptor, Format};

/// The format BF16: 2 bytes, one value.
#[derive(Debug)]
pub struct Bf16;

impl Format for Bf16 {
    fn descriptor(&self) -> &'static Descriptor {
        &Descriptor { name: "BF16", ggml_type: 30, block_values: 1, block_bytes: 2 }
    }

    fn dequantize(&self, blocks: &[u8], values: &mut [f32]) {
        for (&bytes, [value]) in each_block(blocks, values) {
            // Not `half::bf16::to_f32`: that quiets NaNs, which ggml leaves as they are.
            *value = f32::from_bits(u32::from(u16::from_le_bytes(bytes)) << 16);
        }
    }
}
