//! IQ4_XS: 256 values of 4 bits with IQ4_NL's unequal steps; groups of 32 with 6-bit scales,
//! `value = d · scale[g] · (CODEBOOK[q] − 128)`.

use super::block::{each_block, f16_at, field, nibbles};
use super::iq4_nl::{CODEBOOK, ZERO, levels};
use super::{Format, Integer, Quants};

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
    fn name(&self) -> &'static str {
        "IQ4_XS"
    }

    fn ggml_type(&self) -> u32 {
        23
    }

    fn block_values(&self) -> usize {
        VALUES
    }

    fn block_bytes(&self) -> usize {
        BYTES
    }

    fn dequantize(&self, blocks: &[u8], values: &mut [f32]) {
        for (block, values) in each_block::<BYTES, VALUES>(blocks, values) {
            let d = f16_at(block, 0).to_f32();
            for (g, values) in values.as_chunks_mut::<GROUP>().0.iter_mut().enumerate() {
                let levels = levels(d * f32::from(scale(block, g)));
                for (value, code) in values.iter_mut().zip(codes(block, g)) {
                    *value = levels[usize::from(code & 15)];
                }
            }
        }
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
