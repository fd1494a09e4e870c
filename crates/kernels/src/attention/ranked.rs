//! Keys of 4 bits, the first of whose dimensions have 6.
//!
//! Scores depend on some dimensions of a key far more than on others (`engine::decoder`'s smoothing puts these first).
//! Two more bits for a quarter of them leave less error than half a bit more for each. The quarter is *wide*, the others
//! are narrow; each part is rotated by itself and has scales of its own.
//!
//! A head's keys in a block are
//!
//! - the low four bits of every dimension, `[4 strips][head_dim / 2][16 positions]`: a byte holds two dimensions of one
//!   position, the even one in its low half;
//! - two bits more of each wide dimension, `[4 strips][wide / 4][16 positions]`: a byte holds four dimensions, the first
//!   in its lowest bits;
//! - the scales (see `scale`), `[groups][64 positions]`, first those of the wide groups.

use std::ops::Range;

use super::block::Ahead;
use super::elements::{LEVELS, load_half};
use super::kv_type::SCALE_GROUP;
use super::store::{KvSlot, quantize_q4};
use super::{BLOCK_POSITIONS, scale};
use crate::simd::{LANES, Simd};

/// Strips of 16 positions in a block.
const STRIPS: usize = BLOCK_POSITIONS / LANES;
/// Dimensions that share a byte of two bits each.
const QUAD: usize = 4;
/// Most dimensions of one scale: those of two groups, where a head has but two scales.
pub(super) const GROUP_MAX: usize = 2 * SCALE_GROUP;
/// Largest magnitude of a 6-bit element, an odd number.
const WIDE_MAX: f32 = 63.0;

/// What the low four bits of a 6-bit element add to it.
static LOW: [i8; 16] = {
    let mut table = [0; 16];
    let mut code = 0;
    while code < 16 {
        table[code] = 2 * code as i8 - 63;
        code += 1;
    }
    table
};
/// What its other two add, for the first and the second of the two dimensions in half a byte.
static HIGH: [[i8; 16]; 2] = {
    let mut tables = [[0; 16]; 2];
    let mut code = 0;
    while code < 16 {
        tables[0][code] = 32 * (code as i8 & 3);
        tables[1][code] = 32 * (code as i8 >> 2);
        code += 1;
    }
    tables
};

/// Scales of a key of `head_dim` dimensions.
fn scales(head_dim: usize) -> usize {
    (head_dim / SCALE_GROUP).max(2)
}

/// Dimensions that have 6 bits: as many as leave room for the scales in 19 bytes of 32 dimensions.
pub(super) fn wide(head_dim: usize) -> usize {
    QUAD * (3 * head_dim / SCALE_GROUP - scales(head_dim))
}

/// Dimensions that share a scale: the groups of the wide ones, then the others.
fn groups(head_dim: usize) -> impl Iterator<Item = Range<usize>> {
    let wide = wide(head_dim);
    let wide_groups = wide.div_ceil(SCALE_GROUP);
    let parts = [(0..wide, wide_groups), (wide..head_dim, scales(head_dim) - wide_groups)];
    parts.into_iter().flat_map(|(part, count)| {
        let size = part.len().div_ceil(count).next_multiple_of(QUAD);
        part.clone().step_by(size).map(move |first| first..part.end.min(first + size))
    })
}

/// Bytes from the beginning of a block's keys to the bits of the wide dimensions, and to the scales.
fn offsets(head_dim: usize) -> (usize, usize) {
    let planes = BLOCK_POSITIONS * head_dim / 2;
    (planes, planes + BLOCK_POSITIONS * wide(head_dim) / QUAD)
}

/// Writes one position's key, and leaves what the elements lack of it in `key`.
///
/// # Safety
/// The instruction set is there, and the slot's memory is exclusively the caller's.
#[inline(always)]
pub(super) unsafe fn store_key<S: Simd>(to: &KvSlot, key: &mut [f32]) {
    let (head_dim, wide) = (key.len(), wide(key.len()));
    let (planes, scales) = offsets(head_dim);
    let (strip, lane) = (to.slot / LANES, to.slot % LANES);
    // SAFETY: as the caller vouches; every offset is of this position and within the block's keys.
    unsafe {
        let low = to.keys.add(strip * head_dim / 2 * LANES + lane);
        let high = to.keys.add(planes + strip * wide / QUAD * LANES + lane);
        for (group, dimensions) in groups(head_dim).enumerate() {
            let mut codes = [0u8; GROUP_MAX];
            let codes = &mut codes[..dimensions.len()];
            let part = &mut key[dimensions.clone()];
            let is_wide = dimensions.start < wide;
            let scale = if is_wide { quantize_q6(part, codes) } else { quantize_q4::<S>(part, codes) };
            *to.keys.add(scales + group * BLOCK_POSITIONS + to.slot) = scale;
            for (i, pair) in codes.chunks_exact(2).enumerate() {
                *low.add((dimensions.start / 2 + i) * LANES) = pair[0] & 15 | pair[1] << 4;
            }
            for (i, quad) in codes.chunks_exact(QUAD).enumerate().filter(|_| is_wide) {
                let bits = quad.iter().rev().fold(0, |bits, code| bits << 2 | code >> 4);
                *high.add((dimensions.start / QUAD + i) * LANES) = bits;
            }
        }
    }
}

/// Rounds elements to odd multiples of a scale, −63 to 63 of them. Returns the scale's code, and leaves what these
/// lack in `from`.
#[inline(always)]
fn quantize_q6(from: &mut [f32], codes: &mut [u8]) -> u8 {
    let extreme = from.iter().fold(0f32, |extreme, x| extreme.max(x.abs()));
    let scale = scale::at_least(extreme.min(f32::MAX) / WIDE_MAX);
    let step = scale::decoded(scale);
    let factor = if step == 0.0 { 0.0 } else { 0.5 / step };
    for (code, x) in codes.iter_mut().zip(from) {
        // NaN becomes the lowest.
        *code = (*x * factor + 32.0).clamp(0.0, 63.0) as u8;
        *x -= (2.0 * f32::from(*code) - WIDE_MAX) * step;
    }
    scale
}

/// to = a block's keys in floats, `[4 strips][head_dim][16 positions]`; asks `ahead` for as much as it reads.
///
/// # Safety
/// The instruction set, the keys and the room are there.
#[inline(always)]
pub(super) unsafe fn unpack_ranked<S: Simd>(
    (keys, head_dim): (*const u8, usize),
    to: &mut [f32],
    ahead: &mut Ahead,
) -> *const u8 {
    let (wide, out) = (wide(head_dim), to.as_mut_ptr());
    let (planes, scales) = offsets(head_dim);
    let mut asked = 0;
    for (group, dimensions) in groups(head_dim).enumerate() {
        // SAFETY: as the caller vouches.
        unsafe {
            let of_positions = scale::of_positions(keys.add(scales + group * BLOCK_POSITIONS));
            let bytes = BLOCK_POSITIONS * dimensions.len() / 2;
            ahead.ask::<S>(asked, bytes);
            asked += bytes;
            for strip in 0..STRIPS {
                let scale = S::load(of_positions.as_ptr().add(strip * LANES));
                let low = keys.add(strip * head_dim / 2 * LANES);
                let high = keys.add(planes + strip * wide / QUAD * LANES);
                let out = out.add(strip * head_dim * LANES);
                if dimensions.start < wide {
                    for d in dimensions.clone().step_by(QUAD) {
                        unpack_quad::<S>((low, high), d, (out, scale));
                    }
                } else {
                    for d in dimensions.clone().step_by(2) {
                        let pair = low.add(d / 2 * LANES);
                        let even = S::load_nibbles::<false>(pair, &LEVELS);
                        let odd = S::load_nibbles::<true>(pair, &LEVELS);
                        S::store(out.add(d * LANES), S::mul(even, scale));
                        S::store(out.add((d + 1) * LANES), S::mul(odd, scale));
                    }
                }
            }
        }
    }
    ahead.step = 0;
    out.cast_const().cast()
}

/// Four wide dimensions from `d` on of 16 positions.
///
/// # Safety
/// The instruction set, the strip and the room are there.
#[inline(always)]
unsafe fn unpack_quad<S: Simd>(
    (low, high): (*const u8, *const u8),
    d: usize,
    (out, scale): (*mut f32, S::F),
) {
    // SAFETY: as the caller vouches.
    unsafe {
        let high = high.add(d / QUAD * LANES);
        for i in 0..QUAD {
            let odd = i % 2 == 1;
            let low = load_half::<S>(low.add((d + i) / 2 * LANES), odd, &LOW);
            let high = load_half::<S>(high, i >= 2, &HIGH[i % 2]);
            S::store(out.add((d + i) * LANES), S::mul(S::add(low, high), scale));
        }
    }
}

#[cfg(test)]
pub(super) mod oracle {
    //! The same layout read element by element.

    use super::*;

    /// Dimension `d` of the key of position `slot`.
    pub fn key(keys: &[u8], (head_dim, slot): (usize, usize), d: usize) -> f32 {
        let (strip, lane) = (slot / 16, slot % 16);
        let wide = wide(head_dim);
        let nibble = keys[(strip * head_dim / 2 + d / 2) * 16 + lane] >> (d % 2 * 4) & 15;
        let planes = 32 * head_dim;
        let scales = planes + 16 * wide;
        let group = groups(head_dim).position(|group| group.contains(&d)).unwrap();
        let scale = scale::decoded(keys[scales + 64 * group + slot]);
        let level = if d < wide {
            let bits = keys[planes + (strip * wide / 4 + d / 4) * 16 + lane] >> (d % 4 * 2) & 3;
            2 * i32::from(bits << 4 | nibble) - 63
        } else {
            i32::from(LEVELS[usize::from(nibble)])
        };
        level as f32 * scale
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attention::KvType;

    #[test]
    fn groups_cover_a_head_and_fill_its_bytes() {
        for head_dim in (32..=512).step_by(32) {
            let all: Vec<Range<usize>> = groups(head_dim).collect();
            assert!(all.windows(2).all(|pair| pair[0].end == pair[1].start), "{all:?}");
            assert_eq!((all[0].start, all.last().unwrap().end), (0, head_dim));
            assert!(all.iter().all(|group| group.len() <= GROUP_MAX && group.start % QUAD == 0), "{all:?}");
            assert!(all.iter().any(|group| group.end == wide(head_dim)) && all.len() <= scales(head_dim));
            let bytes = offsets(head_dim).1 + BLOCK_POSITIONS * scales(head_dim);
            assert_eq!(bytes, KvType::Q4.bytes_of(BLOCK_POSITIONS * head_dim).0);
        }
        assert_eq!([32, 64, 96, 128, 256].map(wide), [4, 16, 24, 32, 64]);
    }
}
