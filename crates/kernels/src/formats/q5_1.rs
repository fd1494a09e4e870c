//! Q5_1: 32 values of 5 bits with a scale and a minimum, `value = d · q + m`.

use super::block::{f16_at, field, five_bits};
use super::{Descriptor, Format, Integer, Quants};

/// Values in a block.
const VALUES: usize = 32;
/// Bytes of a block: `d: f16, m: f16, fifth bits: u32, low bits: [u4; 32]`.
const BYTES: usize = 24;

/// The format Q5_1.
#[derive(Debug)]
pub struct Q5_1;

#[inline(always)]
fn codes(block: &[u8]) -> [u8; VALUES] {
    five_bits(field(block, 8), field(block, 4))
}

impl Format for Q5_1 {
    fn descriptor(&self) -> &'static Descriptor {
        &Descriptor { name: "Q5_1", ggml_type: 7, block_values: VALUES, block_bytes: BYTES }
    }

    fn integer(&self) -> Option<Integer> {
        Some(Integer { bits: 5, group: VALUES, zero: 0, has_min: true, codebook: None })
    }

    fn quants(&self, block: &[u8], out: &mut Quants) {
        out.q[..VALUES].copy_from_slice(&codes(block));
        out.scale[0] = 1;
        out.min[0] = 1;
        out.d = f16_at(block, 0);
        out.dmin = -f16_at(block, 2);
    }
}
