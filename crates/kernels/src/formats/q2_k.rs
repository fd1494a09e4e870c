//! Q2_K: 256 values of 2 bits; groups of 16 with 4-bit scales and minima,
//! `value = d · scale[g] · q − dmin · min[g]`.

use super::block::{f16_at, field, two_bits};
use super::{Descriptor, Format, Integer, Quants};

/// Values in a block.
const VALUES: usize = 256;
/// Bytes of a block: `scale and min: [(u4, u4); 16], q: [u2; 256], d: f16, dmin: f16`.
const BYTES: usize = 84;
/// Values that share a scale.
const GROUP: usize = 16;

/// The format Q2_K.
#[derive(Debug)]
pub struct Q2K;

/// The scale and the minimum of group `g`, both below 16.
#[inline(always)]
fn scale_and_min(block: &[u8], g: usize) -> (i8, u8) {
    ((block[g] & 15) as i8, block[g] >> 4)
}

/// The codes of group `g`.
#[inline(always)]
fn codes(block: &[u8], g: usize) -> [u8; GROUP] {
    two_bits(field(block, 16), g)
}

impl Format for Q2K {
    fn descriptor(&self) -> &'static Descriptor {
        &Descriptor { name: "Q2_K", ggml_type: 10, block_values: VALUES, block_bytes: BYTES }
    }

    fn integer(&self) -> Option<Integer> {
        Some(Integer { bits: 4, group: GROUP, zero: 0, has_min: true, codebook: None })
    }

    fn quants(&self, block: &[u8], out: &mut Quants) {
        for (g, q) in out.q.as_chunks_mut::<GROUP>().0.iter_mut().enumerate() {
            *q = codes(block, g);
            (out.scale[g], out.min[g]) = scale_and_min(block, g);
        }
        out.d = f16_at(block, 80);
        out.dmin = f16_at(block, 82);
    }
}
