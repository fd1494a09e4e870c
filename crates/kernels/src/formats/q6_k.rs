//! Q6_K: 256 values of 6 bits; groups of 16 with 8-bit scales, `value = d · scale[g] · (q − 32)`.

use super::block::{f16_at, field, two_bits};
use super::{Descriptor, Format, Integer, Quants};

/// Values in a block.
const VALUES: usize = 256;
/// Bytes of a block: `low bits: [u4; 256], high bits: [u2; 256], scale: [i8; 16], d: f16`.
const BYTES: usize = 210;
/// Values that share a scale.
const GROUP: usize = 16;
/// The code that stands for 0.
const ZERO: i32 = 32;

/// The format Q6_K.
#[derive(Debug)]
pub struct Q6K;

/// The codes of group `g`.
#[inline(always)]
fn codes(block: &[u8], g: usize) -> [u8; GROUP] {
    let low_bits: &[u8; GROUP] = field(block, g / 8 * 64 + g % 4 * GROUP);
    let low_shift = g % 8 / 4 * 4;
    let mut codes = two_bits(field(block, 128), g);
    for (code, byte) in codes.iter_mut().zip(low_bits) {
        *code = *code << 4 | (byte >> low_shift) & 15;
    }
    codes
}

impl Format for Q6K {
    fn descriptor(&self) -> &'static Descriptor {
        &Descriptor { name: "Q6_K", ggml_type: 14, block_values: VALUES, block_bytes: BYTES }
    }

    fn integer(&self) -> Option<Integer> {
        Some(Integer { bits: 6, group: GROUP, zero: ZERO, has_min: false, codebook: None })
    }

    fn quants(&self, block: &[u8], out: &mut Quants) {
        for (g, q) in out.q.as_chunks_mut::<GROUP>().0.iter_mut().enumerate() {
            *q = codes(block, g);
            out.scale[g] = block[192 + g] as i8;
        }
        out.d = f16_at(block, 208);
    }
}
