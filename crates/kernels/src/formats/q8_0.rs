//! Q8_0: 32 signed bytes with a scale, `value = d · x`; its code is `x + 128`.

use super::block::{each_block, f16_at, field};
use super::{Format, Integer, Quants};

/// Values in a block.
const VALUES: usize = 32;
/// Bytes of a block: `d: f16, x: [i8; 32]`.
const BYTES: usize = 34;
/// The code that stands for 0.
const ZERO: i32 = 128;

/// The format Q8_0.
#[derive(Debug)]
pub struct Q8_0;

// Adding 128 to a two's complement byte is flipping its top bit.
#[inline(always)]
fn codes(block: &[u8]) -> [u8; VALUES] {
    field::<VALUES>(block, 2).map(|byte| byte ^ 0x80)
}

impl Format for Q8_0 {
    fn name(&self) -> &'static str {
        "Q8_0"
    }

    fn ggml_type(&self) -> u32 {
        8
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
        Some(Integer { bits: 8, group: VALUES, zero: ZERO, has_min: false, codebook: None })
    }

    fn quants(&self, block: &[u8], out: &mut Quants) {
        out.q[..VALUES].copy_from_slice(&codes(block));
        out.scale[0] = 1;
        out.d = f16_at(block, 0);
    }
}
