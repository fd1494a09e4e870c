//! F32: plain little-endian floats.

use super::block::each_block;
use super::{Descriptor, Format};

/// The format F32: 4 bytes, one value.
#[derive(Debug)]
pub struct F32;

impl Format for F32 {
    fn descriptor(&self) -> &'static Descriptor {
        &Descriptor { name: "F32", ggml_type: 0, block_values: 1, block_bytes: 4 }
    }

    fn dequantize(&self, blocks: &[u8], values: &mut [f32]) {
        for (&bytes, [value]) in each_block(blocks, values) {
            *value = f32::from_le_bytes(bytes);
        }
    }
}
