//! F32: plain little-endian floats.

use super::Format;
use super::block::each_block;

/// The format F32: 4 bytes, one value.
#[derive(Debug)]
pub struct F32;

impl Format for F32 {
    fn name(&self) -> &'static str {
        "F32"
    }

    fn ggml_type(&self) -> u32 {
        0
    }

    fn block_values(&self) -> usize {
        1
    }

    fn block_bytes(&self) -> usize {
        4
    }

    fn dequantize(&self, blocks: &[u8], values: &mut [f32]) {
        for (&bytes, [value]) in each_block(blocks, values) {
            *value = f32::from_le_bytes(bytes);
        }
    }
}
