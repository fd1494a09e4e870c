//! Q5_K: 256 values of 5 bits; groups of 32 with 6-bit scales and minima,
//! `value = d · scale[g] · q − dmin · min[g]`.

use super::block::{f16_at, field, super_block_nibbles};
use super::k_scales;
use super::{Descriptor, Format, Integer, Quants};

/// Values in a block.
const VALUES: usize = 256;
/// Bytes of a block: `d: f16, dmin: f16, scale and min: [(u6, u6); 8],
/// fifth bits: [u1; 256], low bits: [u4; 256]`.
const BYTES: usize = 176;
/// Values that share a scale.
const GROUP: usize = 32;

/// The format Q5_K.
#[derive(Debug)]
pub struct Q5K;

/// The codes of group `g`.
#[inline(always)]
fn codes(block: &[u8], g: usize) -> [u8; GROUP] {
    let mut codes = super_block_nibbles(field(block, 48), g);
    let fifth_bits: &[u8; GROUP] = field(block, 16);
    for (code, byte) in codes.iter_mut().zip(fifth_bits) {
        *code |= ((byte >> g) & 1) << 4;
    }
    codes
}

impl Format for Q5K {
    fn descriptor(&self) -> &'static Descriptor {
        &Descriptor { name: "Q5_K", ggml_type: 13, block_values: VALUES, block_bytes: BYTES }
    }

    fn integer(&self) -> Option<Integer> {
        Some(Integer { bits: 5, group: GROUP, zero: 0, has_min: true, codebook: None })
    }

    fn quants(&self, block: &[u8], out: &mut Quants) {
        let pairs = k_scales::unpack(field(block, 4));
        for (g, q) in out.q.as_chunks_mut::<GROUP>().0.iter_mut().enumerate() {
            *q = codes(block, g);
            (out.scale[g], out.min[g]) = (pairs[g].0 as i8, pairs[g].1);
        }
        out.d = f16_at(block, 0);
        out.dmin = f16_at(block, 2);
    }
}
