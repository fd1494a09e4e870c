//! Writing one position's key and value into its block; `elements` says where what lies.
//!
//! A position's bytes depend on its own elements only, and on no instruction set.

use super::elements::{Bytes, LEVELS, Nibbles, scales_offset};
use super::kv_type::{KvType, SCALE_GROUP};
use super::ranked::{self, GROUP_MAX};
use super::{BLOCK_POSITIONS, scale};
use crate::simd::{LANES, Simd};

/// Largest magnitude of an f16: larger keys and values are clamped, since infinity times a masked
/// zero would be NaN.
const F16_MAX: f32 = 65504.0;
/// Largest magnitude of an 8-bit element.
const Q8_MAX: f32 = 127.0;
/// Largest magnitude of a 4-bit element under the scale that its codes are first chosen for: a little beyond the
/// last level, which leaves less error to the others.
const Q4_MAX: f32 = 127.0;

/// Where one token's key and value go.
#[derive(Clone, Copy, Debug)]
pub struct KvSlot {
    /// This head's keys in the token's block.
    pub keys: *mut u8,
    /// This head's values in the token's block.
    pub values: *mut u8,
    /// Position within the block, below 64.
    pub slot: usize,
    /// How elements are stored.
    pub kv_type: KvType,
}

/// Writes one token's key and value of one head, rotated already if the type wants it. Quantized types leave in both what
/// the stored elements lack.
///
/// # Safety
/// The instruction set is there, and the slot's memory is exclusively the caller's.
#[inline(always)]
pub(crate) unsafe fn store_kv<S: Simd>(to: &KvSlot, key: &mut [f32], value: &mut [f32]) {
    let head_dim = key.len();
    assert!(value.len() == head_dim && head_dim.is_multiple_of(LANES) && to.slot < BLOCK_POSITIONS);
    assert!(to.kv_type.check(head_dim).is_ok());
    // SAFETY: all elements are of the slot's position, within the block.
    unsafe {
        match to.kv_type {
            KvType::F32 => store_f32::<S>(to, key, value),
            KvType::F16 => store_f16::<S>(to, key, value),
            KvType::Q8 => {
                store_key_q8::<S>(to, key);
                store_value_q8::<S>(to, value);
            }
            KvType::K8V4 => {
                store_key_q8::<S>(to, key);
                store_value_q4::<S>(to, value);
            }
            KvType::Q4 => {
                ranked::store_key::<S>(to, key);
                store_value_q4::<S>(to, value);
            }
        }
    }
}

impl KvSlot {
    /// Elements from a strip's first to dimension `d` of this position.
    fn key_at(&self, head_dim: usize, d: usize) -> usize {
        (self.slot / LANES * head_dim + d) * LANES + self.slot % LANES
    }
}

/// # Safety
/// As [`store_kv`], of which it is a part.
#[inline(always)]
unsafe fn store_f32<S: Simd>(to: &KvSlot, key: &[f32], value: &[f32]) {
    let head_dim = key.len();
    // SAFETY: as the caller vouches.
    unsafe {
        for (d, &k) in key.iter().enumerate() {
            *to.keys.cast::<f32>().add(to.key_at(head_dim, d)) = k;
        }
        let row = to.values.cast::<f32>().add(to.slot * head_dim);
        for d in (0..head_dim).step_by(LANES) {
            S::store(row.add(d), S::load(value.as_ptr().add(d)));
        }
    }
}

/// # Safety
/// As [`store_kv`], of which it is a part.
#[inline(always)]
unsafe fn store_f16<S: Simd>(to: &KvSlot, key: &[f32], value: &[f32]) {
    let head_dim = key.len();
    // SAFETY: as the caller vouches.
    unsafe {
        let row = to.values.cast::<u16>().add(to.slot * head_dim);
        for d in (0..head_dim).step_by(LANES) {
            let mut halves = [0u16; LANES];
            S::store_f16(halves.as_mut_ptr(), clamp::<S>(S::load(key.as_ptr().add(d)), F16_MAX));
            for (i, &k) in halves.iter().enumerate() {
                *to.keys.cast::<u16>().add(to.key_at(head_dim, d + i)) = k;
            }
            S::store_f16(row.add(d), clamp::<S>(S::load(value.as_ptr().add(d)), F16_MAX));
        }
    }
}

/// # Safety
/// As [`store_kv`], of which it is a part.
#[inline(always)]
unsafe fn store_key_q8<S: Simd>(to: &KvSlot, key: &mut [f32]) {
    let head_dim = key.len();
    // SAFETY: as the caller vouches.
    unsafe {
        let scales = to.keys.add(scales_offset::<Bytes>(head_dim));
        for d in (0..head_dim).step_by(SCALE_GROUP) {
            let mut quants = [0i8; SCALE_GROUP];
            let scale = quantize_q8::<S>(key[d..][..SCALE_GROUP].as_mut_ptr(), &mut quants);
            store_scale(scales, (d, to.slot), scale);
            for (i, &q) in quants.iter().enumerate() {
                *to.keys.cast::<i8>().add(to.key_at(head_dim, d + i)) = q;
            }
        }
    }
}

/// # Safety
/// As [`store_kv`], of which it is a part.
#[inline(always)]
unsafe fn store_value_q8<S: Simd>(to: &KvSlot, value: &mut [f32]) {
    let head_dim = value.len();
    // SAFETY: as the caller vouches.
    unsafe {
        let scales = to.values.add(scales_offset::<Bytes>(head_dim));
        for d in (0..head_dim).step_by(SCALE_GROUP) {
            let mut quants = [0i8; SCALE_GROUP];
            let scale = quantize_q8::<S>(value[d..][..SCALE_GROUP].as_mut_ptr(), &mut quants);
            store_scale(scales, (d, to.slot), scale);
            let row = to.values.cast::<i8>().add(to.slot * head_dim + d);
            row.copy_from_nonoverlapping(quants.as_ptr(), SCALE_GROUP);
        }
    }
}

/// # Safety
/// As [`store_kv`], of which it is a part.
#[inline(always)]
unsafe fn store_value_q4<S: Simd>(to: &KvSlot, value: &mut [f32]) {
    let head_dim = value.len();
    // SAFETY: as the caller vouches; two dimensions share a byte.
    unsafe {
        let scales = to.values.add(scales_offset::<Nibbles>(head_dim));
        for d in (0..head_dim).step_by(SCALE_GROUP) {
            let mut codes = [0u8; SCALE_GROUP];
            *scales.add(d / SCALE_GROUP * BLOCK_POSITIONS + to.slot) =
                quantize_q4::<S>(&mut value[d..][..SCALE_GROUP], &mut codes);
            let row = to.values.add((to.slot * head_dim + d) / 2);
            for i in 0..LANES {
                *row.add(i) = codes[i] | codes[i + LANES] << 4;
            }
        }
    }
}

/// Writes the scale of the 32 dimensions from `d` on of position `slot`.
///
/// # Safety
/// `scales` has one for each.
#[inline(always)]
unsafe fn store_scale(scales: *mut u8, (d, slot): (usize, usize), scale: u16) {
    // SAFETY: as the caller vouches.
    unsafe { scales.cast::<u16>().add(d / SCALE_GROUP * BLOCK_POSITIONS + slot).write_unaligned(scale) }
}

/// x within −limit..=limit; NaN becomes the limit.
///
/// # Safety
/// The instruction set is there.
#[inline(always)]
unsafe fn clamp<S: Simd>(x: S::F, limit: f32) -> S::F {
    // SAFETY: as the caller vouches.
    unsafe { S::max(S::min(x, S::splat(limit)), S::splat(-limit)) }
}

/// `x` as f16 bits, and what these stand for.
///
/// # Safety
/// The instruction set is there.
#[inline(always)]
unsafe fn to_f16<S: Simd>(x: f32) -> (u16, f32) {
    let (mut bits, mut rounded) = ([0u16; LANES], [0f32; LANES]);
    // SAFETY: as the caller vouches; the arrays hold a vector.
    unsafe {
        S::store_f16(bits.as_mut_ptr(), clamp::<S>(S::splat(x), F16_MAX));
        S::store(rounded.as_mut_ptr(), S::load_f16(bits.as_ptr()));
    }
    (bits[0], rounded[0])
}

/// 1/x, or 0 for 0: elements too small for their scale become 0.
fn inverse(x: f32) -> f32 {
    if x == 0.0 { 0.0 } else { 1.0 / x }
}

/// Rounds 32 elements to whole multiples of a scale, −127 to 127 of them. Returns the scale, and leaves what these lack
/// in `from`.
///
/// # Safety
/// The instruction set and 32 elements are there.
#[inline(always)]
unsafe fn quantize_q8<S: Simd>(from: *mut f32, quants: &mut [i8; SCALE_GROUP]) -> u16 {
    // SAFETY: as the caller vouches.
    unsafe {
        let (a, b) = (clamp::<S>(S::load(from), f32::MAX), clamp::<S>(S::load(from.add(LANES)), f32::MAX));
        let (bits, scale) = to_f16::<S>(S::largest(S::max(S::abs(a), S::abs(b))) / Q8_MAX);
        let factor = S::splat(inverse(scale));
        for (half, x) in [(0, a), (LANES, b)] {
            let whole = clamp::<S>(S::round(S::mul(x, factor)), Q8_MAX);
            S::i_store_i8(quants.as_mut_ptr().add(half), S::f_to_i(whole));
            S::store(from.add(half), S::sub(x, S::mul(whole, S::splat(scale))));
        }
        bits
    }
}

/// The nearest levels of at most [`GROUP_MAX`] elements under a scale that suits them: that of the smallest sum of
/// squared errors for the levels nearest under one that is given by the largest. Returns the scale's code, and leaves
/// what the levels lack in `from`.
///
/// # Safety
/// The instruction set is there.
#[inline(always)]
pub(super) unsafe fn quantize_q4<S: Simd>(from: &mut [f32], codes: &mut [u8]) -> u8 {
    let mut x = [0f32; GROUP_MAX];
    let mut largest = 0f32;
    for (x, &mut from) in x.iter_mut().zip(&mut *from) {
        *x = if from.is_nan() { 0.0 } else { from.clamp(-F16_MAX, F16_MAX) };
        largest = largest.max(x.abs());
    }
    let first = inverse(largest / Q4_MAX);
    // SAFETY: as the caller vouches; the array holds whole vectors.
    let fitted = unsafe {
        let (mut fit, mut square) = (S::splat(0.0), S::splat(0.0));
        for at in (0..from.len()).step_by(LANES) {
            let mut levels = [0f32; LANES];
            nearest::<S>(&x[at..at + LANES], first, &mut levels);
            levels[(from.len() - at).min(LANES)..].fill(0.0);
            let level = S::load(levels.as_ptr());
            fit = S::fma(S::load(x.as_ptr().add(at)), level, fit);
            square = S::fma(level, level, square);
        }
        S::sum(fit) / S::sum(square)
    };
    let scale = scale::nearest(fitted);
    let step = scale::decoded(scale);
    for at in (0..from.len()).step_by(LANES) {
        let mut levels = [0f32; LANES];
        // SAFETY: as above.
        let found = unsafe { nearest::<S>(&x[at..at + LANES], inverse(step), &mut levels) };
        let count = (from.len() - at).min(LANES);
        let mut rests = [0f32; LANES];
        for ((rest, x), level) in rests.iter_mut().zip(&x[at..]).zip(levels) {
            *rest = x - level * step;
        }
        from[at..at + count].copy_from_slice(&rests[..count]);
        codes[at..at + count].copy_from_slice(&found[..count]);
    }
    scale
}

/// Between which magnitudes of levels the nearest changes: [`LEVELS`] are symmetric.
static BORDERS: [f32; 7] = {
    let mut borders = [0.0; 7];
    let mut at = 0;
    while at < borders.len() {
        borders[at] = (LEVELS[8 + at] as f32 + LEVELS[9 + at] as f32) / 2.0;
        at += 1;
    }
    borders
};

/// Codes of the levels nearest to 16 elements times `factor`, and the levels.
///
/// # Safety
/// The instruction set is there.
#[inline(always)]
unsafe fn nearest<S: Simd>(x: &[f32], factor: f32, levels: &mut [f32; LANES]) -> [u8; LANES] {
    let (mut scaled, mut outward, mut codes) = ([0f32; LANES], [0i32; LANES], [0u8; LANES]);
    for (scaled, x) in scaled.iter_mut().zip(x) {
        *scaled = x * factor;
    }
    for border in BORDERS {
        for (outward, scaled) in outward.iter_mut().zip(&scaled) {
            *outward += i32::from(scaled.abs() > border);
        }
    }
    for ((code, outward), scaled) in codes.iter_mut().zip(outward).zip(scaled) {
        *code = if scaled > 0.0 { 8 + outward } else { 7 - outward } as u8;
    }
    // SAFETY: as the caller vouches; both arrays hold a vector.
    unsafe { S::store(levels.as_mut_ptr(), S::load_nibbles::<false>(codes.as_ptr(), &LEVELS)) };
    codes
}

#[cfg(test)]
mod tests {
    use std::ops::Range;

    use proptest::prelude::*;

    use super::*;
    use crate::attention::elements::oracle::Stored;
    use crate::isa::Isa;

    /// Writes one position into a block of zeros; returns its keys' and values' bytes.
    fn written(isa: Isa, kv_type: KvType, slot: usize, (key, value): (&[f32], &[f32])) -> (Vec<u8>, Vec<u8>) {
        let (mut key, mut value) = (key.to_vec(), value.to_vec());
        written_with_rests(isa, kv_type, slot, (&mut key, &mut value))
    }

    /// The same, with the rests in key and value.
    fn written_with_rests(
        isa: Isa,
        kv_type: KvType,
        slot: usize,
        (key, value): (&mut [f32], &mut [f32]),
    ) -> (Vec<u8>, Vec<u8>) {
        let bytes = kv_type.bytes_of(BLOCK_POSITIONS * key.len());
        let (mut keys, mut values) = (vec![0u8; bytes.0], vec![0u8; bytes.1]);
        let to = KvSlot { keys: keys.as_mut_ptr(), values: values.as_mut_ptr(), slot, kv_type };
        // SAFETY: the set is available; both halves are whole.
        unsafe { (isa.kernels().store_kv)(&to, key, value) };
        (keys, values)
    }

    /// Groups of 32 dimensions.
    fn by_scale(head_dim: usize, share: f32) -> Vec<(Range<usize>, f32)> {
        (0..head_dim).step_by(32).map(|first| (first..first + 32, share)).collect()
    }

    proptest! {
        /// What is read back is as near as the type allows, the same on every instruction set, and
        /// touches no other position.
        #[test]
        fn elements_come_back(
            kv_type in prop::sample::select(vec![KvType::F32, KvType::F16, KvType::Q8, KvType::K8V4, KvType::Q4]),
            groups in 1usize..5,
            slot in 0usize..BLOCK_POSITIONS,
            key in prop::collection::vec(-1f32..1.0, 128),
            exponents in (-20i32..14, -20i32..14),
        ) {
            let head_dim = 32 * groups;
            let scaled = |x: &[f32], e: i32| x[..head_dim].iter().map(|x| x * 2f32.powi(e)).collect::<Vec<_>>();
            let value: Vec<f32> = key.iter().rev().copied().collect();
            let (key, value) = (scaled(&key, exponents.0), scaled(&value, exponents.1));
            let (keys, values) = written(Isa::detect(), kv_type, slot, (&key, &value));
            let stored = Stored { kv_type, head_dim, slot };
            // Dimensions that share a scale, at least, and how far off each may be, as a share of their largest.
            let groups = |of_keys: bool| -> Vec<(Range<usize>, f32)> {
                let wide = ranked::wide(head_dim);
                match (kv_type, of_keys) {
                    (KvType::F32, _) => vec![(0..head_dim, 0.0)],
                    (KvType::F16, _) => vec![(0..head_dim, 1.0 / 2048.0)],
                    // Half a step, of a scale rounded up by an eighth at most; refitting moves 4-bit ones.
                    (KvType::Q4, true) => vec![(0..wide, 1.13 / 63.0), (wide..head_dim, 0.2)],
                    (KvType::Q8, _) | (KvType::K8V4, true) => by_scale(head_dim, 0.51 / 127.0),
                    (KvType::K8V4 | KvType::Q4, false) => by_scale(head_dim, 0.2),
                }
            };
            // No scale is smaller than 2⁻²⁵.
            let least = if kv_type == KvType::F32 { 0.0 } else { 127.0 * 6e-8 };
            for d in 0..head_dim {
                for (of_keys, from, got) in
                    [(true, &key, stored.key(&keys, d)), (false, &value, stored.value(&values, d))]
                {
                    let groups = groups(of_keys);
                    let (group, share) = groups.iter().find(|(group, _)| group.contains(&d)).unwrap();
                    let largest = from[group.clone()].iter().fold(0f32, |m, x| m.max(x.abs()));
                    let want = from[d];
                    prop_assert!((got - want).abs() <= largest * share + least, "{got} for {want} at {d}");
                }
            }
            for other in (0..BLOCK_POSITIONS).filter(|&other| other != slot) {
                let other = Stored { kv_type, head_dim, slot: other };
                // Codes of zero stand for a level, but of a scale of zero.
                prop_assert!((0..head_dim).all(|d| other.key(&keys, d) == 0.0 && other.value(&values, d) == 0.0));
            }
            for isa in Isa::available() {
                let same = written(isa, kv_type, slot, (&key, &value)) == (keys.clone(), values.clone());
                prop_assert!(same, "{}", isa.name());
            }
        }
    }

    proptest! {
        /// What is stored and its rest are what was written; stored too, the rest leaves a fifth of the error at most.
        #[test]
        fn rests_are_what_is_lacking(
            kv_type in prop::sample::select(KvType::choices().filter(|kv_type| kv_type.has_rests()).collect::<Vec<_>>()),
            groups in 1usize..5,
            slot in 0usize..BLOCK_POSITIONS,
            vectors in (prop::collection::vec(-1f32..1.0, 128), prop::collection::vec(-1f32..1.0, 128)),
        ) {
            let head_dim = 32 * groups;
            let stored = Stored { kv_type, head_dim, slot };
            let (key, value) = (&vectors.0[..head_dim], &vectors.1[..head_dim]);
            for isa in Isa::available() {
                let mut rests = (key.to_vec(), value.to_vec());
                let first = written_with_rests(isa, kv_type, slot, (&mut rests.0, &mut rests.1));
                let second = written(isa, kv_type, slot, (&rests.0, &rests.1));
                let mut off = [[0f32; 2]; 2];
                for d in 0..head_dim {
                    let of = [
                        (key[d], rests.0[d], stored.key(&first.0, d), stored.key(&second.0, d)),
                        (value[d], rests.1[d], stored.value(&first.1, d), stored.value(&second.1, d)),
                    ];
                    for ((written, rest, first, second), off) in of.into_iter().zip(&mut off) {
                        prop_assert!((first + rest - written).abs() < 1e-6, "{first} and {rest} of {written}");
                        off[0] = off[0].max((written - first).abs());
                        off[1] = off[1].max((written - first - second).abs());
                    }
                }
                prop_assert!(off.iter().all(|[before, after]| *after <= 0.21 * before + 1e-6), "{off:?}");
            }
        }
    }

    #[test]
    fn what_is_no_number_or_too_large_stays_finite() {
        let key = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e30, -1e-30, 0.0, 1.0, f32::MIN].repeat(8);
        for kv_type in KvType::choices() {
            let all = Isa::available().flat_map(|isa| {
                let (mut key, mut value) = (key.clone(), key.clone());
                // And so do its rests.
                [(); 2].map(|()| written_with_rests(isa, kv_type, 17, (&mut key, &mut value)))
            });
            for (keys, values) in all {
                let stored = Stored { kv_type, head_dim: key.len(), slot: 17 };
                for d in 0..key.len() {
                    let (key, value) = (stored.key(&keys, d), stored.value(&values, d));
                    assert!(key.is_finite() && value.is_finite(), "{kv_type:?}: {key}, {value}");
                }
            }
        }
    }
}
