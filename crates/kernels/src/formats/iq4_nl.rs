//! IQ4_NL: 32 values of 4 bits with a scale and unequal steps, `value = d · (CODEBOOK[q] − 128)`.

use super::block::{f16_at, field, nibbles};
use super::{Descriptor, Format, Integer, Quants};

/// Values in a block.
const VALUES: usize = 32;
/// Bytes of a block: `d: f16, q: [u4; 32]`.
const BYTES: usize = 18;
/// `value / d + 128` of each code: ggml's non-linear table.
pub(super) static CODEBOOK: [u8; 16] =
    [1, 24, 45, 63, 79, 93, 106, 118, 129, 141, 153, 166, 181, 197, 217, 241];
/// What the table adds to make its entries unsigned.
pub(super) const ZERO: i32 = 128;

/// The format IQ4_NL.
#[derive(Debug)]
pub struct Iq4Nl;

#[inline(always)]
fn codes(block: &[u8]) -> [u8; VALUES] {
    nibbles(field(block, 2))
}

impl Format for Iq4Nl {
    fn descriptor(&self) -> &'static Descriptor {
        &Descriptor { name: "IQ4_NL", ggml_type: 20, block_values: VALUES, block_bytes: BYTES }
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
