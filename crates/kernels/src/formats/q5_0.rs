//! Q5_0: 32 values of 5 bits with a scale, `value = d · (q − 16)`.

use super::block::{each_block, f16_at, field, five_bits};
use super::{Format, Integer, Quants};

/// Values in a block.
const VALUES: usize = 32;
/// Bytes of a block: `d: f16, fifth bits: u32, low bits: [u4; 32]`.
const BYTES: usize = 22;
/// The code that stands for 0.
const ZERO: i32 = 16;

/// The format Q5_0.
#[derive(Debug)]
pub struct Q5_0;

#[inline(always)]
fn codes(block: &[u8]) -> [u8; VALUES] {
    five_bits(field(block, 6), field(block, 2))
}

impl Format for Q5_0 {
    fn name(&self) -> &'static str {
        "Q5_0"
    }

    fn ggml_type(&self) -> u32 {
        6
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
            for (value, code) in values.iter_mut().zip(codes(block)) {
                *value = d * (i32::from(code) - ZERO) as f32;
            }
        }
    }

    fn integer(&self) -> Option<Integer> {
        Some(Integer { bits: 5, group: VALUES, zero: ZERO, has_min: false, codebook: None })
    }

    fn quants(&self, block: &[u8], out: &mut Quants) {
        out.q[..VALUES].copy_from_slice(&codes(block));
        out.scale[0] = 1;
        out.d = f16_at(block, 0);
    }
}
