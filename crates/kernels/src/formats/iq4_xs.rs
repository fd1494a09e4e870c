//! IQ4_XS: 256 values of 4 bits with IQ4_NL's unequal steps; groups of 32 with 6-bit scales,
//! `value = d · scale[g] · (CODEBOOK[q] − 128)`.

use super::block::{f16_at, field, nibbles};
use super::iq4_nl::{CODEBOOK, ZERO};
use super::{Descriptor, Format, Integer, Quants};

/// Values in a block.
const VALUES: usize = 256;
/// Bytes of a block: `d: f16, scale high bits: [u2; 8], scale low bits: [u4; 8], q: [u4; 256]`.
const BYTES: usize = 136;
/// Values that share a scale.
const GROUP: usize = 32;

/// The format IQ4_XS.
#[derive(Debug)]
pub struct Iq4Xs;

/// The scale of group `g`, from −32 to 31.
#[inline(always)]
fn scale(block: &[u8], g: usize) -> i8 {
    let high = (u16::from_le_bytes(*field(block, 2)) >> (2 * g)) as u8 & 3;
    let low = (block[4 + g / 2] >> (g % 2 * 4)) & 15;
    (low | high << 4) as i8 - 32
}

/// The codes of group `g`.
#[inline(always)]
fn codes(block: &[u8], g: usize) -> [u8; GROUP] {
    nibbles(field(block, 8 + g * 16))
}

impl Format for Iq4Xs {
    fn descriptor(&self) -> &'static Descriptor {
        &Descriptor { name: "IQ4_XS", ggml_type: 23, block_values: VALUES, block_bytes: BYTES }
    }

    fn integer(&self) -> Option<Integer> {
        Some(Integer { bits: 4, group: GROUP, zero: ZERO, has_min: false, codebook: Some(&CODEBOOK) })
    }

    fn quants(&self, block: &[u8], out: &mut Quants) {
        for (g, q) in out.q.as_chunks_mut::<GROUP>().0.iter_mut().enumerate() {
            *q = codes(block, g);
            out.scale[g] = scale(block, g);
        }
        out.d = f16_at(block, 0);
    }
}
