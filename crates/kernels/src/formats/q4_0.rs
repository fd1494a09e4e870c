//! Q4_0: 32 values of 4 bits with a scale, `value = d · (q − 8)`.

use super::block::{f16_at, field, nibbles};
use super::{Descriptor, Format, Integer, Quants};

/// Values in a block.
const VALUES: usize = 32;
/// Bytes of a block: `d: f16, q: [u4; 32]`.
const BYTES: usize = 18;
/// The code that stands for 0.
const ZERO: i32 = 8;

/// The format Q4_0.
#[derive(Debug)]
pub struct Q4_0;

#[inline(always)]
fn codes(block: &[u8]) -> [u8; VALUES] {
    nibbles(field(block, 2))
}

impl Format for Q4_0 {
    fn descriptor(&self) -> &'static Descriptor {
        &Descriptor { name: "Q4_0", ggml_type: 2, block_values: VALUES, block_bytes: BYTES }
    }

    fn integer(&self) -> Option<Integer> {
        Some(Integer { bits: 4, group: VALUES, zero: ZERO, has_min: false, codebook: None })
    }

    fn quants(&self, block: &[u8], out: &mut Quants) {
        out.q[..VALUES].copy_from_slice(&codes(block));
        out.scale[0] = 1;
        out.d = f16_at(block, 0);
    }
}
