//! Q3_K: 256 values of 3 bits; groups of 16 with 6-bit scales, `value = d · scale[g] · (q − 4)`.

use super::block::{f16_at, field, two_bits};
use super::{Descriptor, Format, Integer, Quants};

/// Values in a block.
const VALUES: usize = 256;
/// Bytes of a block: `third bits: [u1; 256], low bits: [u2; 256], scale: [u6; 16], d: f16`.
const BYTES: usize = 110;
/// Values that share a scale.
const GROUP: usize = 16;
/// The code that stands for 0.
const ZERO: i32 = 4;

/// The format Q3_K.
#[derive(Debug)]
pub struct Q3K;

/// The scale of group `g`, from −32 to 31.
///
/// Of the twelve bytes, the first eight hold the low nibbles (groups 0–7 low, 8–15 high) and the last
/// four the two high bits.
#[inline(always)]
fn scale(block: &[u8], g: usize) -> i8 {
    let packed: &[u8; 12] = field(block, 96);
    let low = (packed[g % 8] >> (g / 8 * 4)) & 15;
    let high = (packed[8 + g % 4] >> (g / 4 * 2)) & 3;
    (low | high << 4) as i8 - 32
}

/// The codes of group `g`.
#[inline(always)]
fn codes(block: &[u8], g: usize) -> [u8; GROUP] {
    let mut codes = two_bits(field(block, 32), g);
    let third_bits: &[u8; GROUP] = field(block, g % 2 * GROUP);
    for (code, byte) in codes.iter_mut().zip(third_bits) {
        *code |= ((byte >> (g / 2)) & 1) << 2;
    }
    codes
}

impl Format for Q3K {
    fn descriptor(&self) -> &'static Descriptor {
        &Descriptor { name: "Q3_K", ggml_type: 11, block_values: VALUES, block_bytes: BYTES }
    }

    fn integer(&self) -> Option<Integer> {
        Some(Integer { bits: 4, group: GROUP, zero: ZERO, has_min: false, codebook: None })
    }

    fn quants(&self, block: &[u8], out: &mut Quants) {
        for (g, q) in out.q.as_chunks_mut::<GROUP>().0.iter_mut().enumerate() {
            *q = codes(block, g);
            out.scale[g] = scale(block, g);
        }
        out.d = f16_at(block, 108);
    }
}
