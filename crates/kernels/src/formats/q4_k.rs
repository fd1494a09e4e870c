//! Q4_K: 256 values of 4 bits; groups of 32 with 6-bit scales and minima,
//! `value = d · scale[g] · q − dmin · min[g]`.

use super::block::{f16_at, field, super_block_nibbles};
use super::k_scales;
use super::{Descriptor, Format, Integer, Quants};

/// Values in a block.
const VALUES: usize = 256;
/// Bytes of a block: `d: f16, dmin: f16, scale and min: [(u6, u6); 8], q: [u4; 256]`.
const BYTES: usize = 144;
/// Values that share a scale.
const GROUP: usize = 32;

/// The format Q4_K.
#[derive(Debug)]
pub struct Q4K;

/// The codes of group `g`.
#[inline(always)]
fn codes(block: &[u8], g: usize) -> [u8; GROUP] {
    super_block_nibbles(field(block, 16), g)
}

impl Format for Q4K {
    fn descriptor(&self) -> &'static Descriptor {
        &Descriptor { name: "Q4_K", ggml_type: 12, block_values: VALUES, block_bytes: BYTES }
    }

    fn integer(&self) -> Option<Integer> {
        Some(Integer { bits: 4, group: GROUP, zero: 0, has_min: true, codebook: None })
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
