//! Q8_0: 32 signed bytes with a scale, `value = d · x`; its code is `x + 128`.

use super::block::{f16_at, field};
use super::{Descriptor, Format, Integer, Quants};

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
    fn descriptor(&self) -> &'static Descriptor {
        &Descriptor { name: "Q8_0", ggml_type: 8, block_values: VALUES, block_bytes: BYTES }
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
