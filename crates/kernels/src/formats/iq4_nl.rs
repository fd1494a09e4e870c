//! IQ4_NL: 32 values of 4 bits with a scale and unequal steps, `value = d · (CODEBOOK[q] − 128)`.

use super::block::{each_block, f16_at, field, nibbles};
use super::{Format, Integer, Quants};

/// Values in a block.
const VALUES: usize = 32;
/// Bytes of a block: `d: f16, q: [u4; 32]`.
const BYTES: usize = 18;
/// `value / d + 128` of each code: ggml's non-linear table.
pub(super) static CODEBOOK: [u8; 16] =
    [1, 24, 45, 63, 79, 93, 106, 118, 129, 141, 153, 166, 181, 197, 217, 241];
/// What the table adds to make its entries unsigned.
pub(super) const ZERO: i32 = 128;

/// The value of each code under the scale `d`.
#[inline(always)]
pub(super) fn levels(d: f32) -> [f32; 16] {
    CODEBOOK.map(|entry| d * (i32::from(entry) - ZERO) as f32)
}

/// The format IQ4_NL.
#[derive(Debug)]
pub struct Iq4Nl;

#[inline(always)]
fn codes(block: &[u8]) -> [u8; VALUES] {
    nibbles(field(block, 2))
}

impl Format for Iq4Nl {
    fn name(&self) -> &'static str {
        "IQ4_NL"
    }

    fn ggml_type(&self) -> u32 {
        20
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
            let levels = levels(d);
            for (value, code) in values.iter_mut().zip(codes(block)) {
                *value = levels[usize::from(code & 15)];
            }
        }
    }

    fn integer(&self) -> Option<Integer> {
        Some(Integer { bits: 4, group: VALUES, zero: ZERO, has_min: false, codebook: Some(&CODEBOOK) })
    }

    fn quants(&self, block: &[u8], out: &mut Quants) {
        out.q[..VALUES].copy_from_slice(&codes(block));
        out.scale[0] = 1;
        out.d = f16_at(block, 0);
    }
}
