//! Q4_1: 32 values of 4 bits with a scale and a minimum, `value = d · q + m`.

use super::block::{each_block, f16_at, field, nibbles};
use super::{Format, Integer, Quants};

/// Values in a block.
const VALUES: usize = 32;
/// Bytes of a block: `d: f16, m: f16, q: [u4; 32]`.
const BYTES: usize = 20;

/// The format Q4_1.
#[derive(Debug)]
pub struct Q4_1;

#[inline(always)]
fn codes(block: &[u8]) -> [u8; VALUES] {
    nibbles(field(block, 4))
}

impl Format for Q4_1 {
    fn name(&self) -> &'static str {
        "Q4_1"
    }

    fn ggml_type(&self) -> u32 {
        3
    }

    fn block_values(&self) -> usize {
        VALUES
    }

    fn block_bytes(&self) -> usize {
        BYTES
    }

    fn dequantize(&self, blocks: &[u8], values: &mut [f32]) {
        for (block, values) in each_block::<BYTES, VALUES>(blocks, values) {
            let d = f16_at(block, 0).to_f32();
            let m = f16_at(block, 2).to_f32();
            for (value, code) in values.iter_mut().zip(codes(block)) {
                *value = d * f32::from(code) + m;
            }
        }
    }

    fn integer(&self) -> Option<Integer> {
        Some(Integer { bits: 4, group: VALUES, zero: 0, has_min: true, codebook: None })
    }

    fn quants(&self, block: &[u8], out: &mut Quants) {
        out.q[..VALUES].copy_from_slice(&codes(block));
        out.scale[0] = 1;
        out.min[0] = 1;
        out.d = f16_at(block, 0);
        out.dmin = -f16_at(block, 2);
    }
}
