//! Q5_0: 32 values of 5 bits with a scale, `value = d · (q − 16)`.

use super::block::{f16_at, field, five_bits};
use super::{Descriptor, Format, Integer, Quants};

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
    fn descriptor(&self) -> &'static Descriptor {
        &Descriptor { name: "Q5_0", ggml_type: 6, block_values: VALUES, block_bytes: BYTES }
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
