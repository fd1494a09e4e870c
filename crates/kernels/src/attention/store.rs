//! Writing one position's key and value into its block; `elements` says where what lies.
//!
//! A position's bytes depend on its own elements only, and on no instruction set.

use super::BLOCK_POSITIONS;
use super::elements::{Bytes, LEVELS, Nibbles, scales_offset};
use super::kv_type::{KvType, SCALE_GROUP};
use crate::simd::{LANES, Simd};

/// Largest magnitude of an f16: larger keys and values are clamped, since infinity times a masked
/// zero would be NaN.
const F16_MAX: f32 = 65504.0;
/// Largest magnitude of an 8-bit element.
const Q8_MAX: f32 = 127.0;

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

/// Writes one token's key and value of one head, rotated already if the type wants it.
///
/// # Safety
/// The instruction set is there, and the slot's memory is exclusively the caller's.
#[inline(always)]
pub(crate) unsafe fn store_kv<S: Simd>(to: &KvSlot, key: &[f32], value: &[f32]) {
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
                store_key_q4::<S>(to, key);
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
unsafe fn store_key_q8<S: Simd>(to: &KvSlot, key: &[f32]) {
    let head_dim = key.len();
    // SAFETY: as the caller vouches.
    unsafe {
        let scales = to.keys.add(scales_offset::<Bytes>(head_dim));
        for d in (0..head_dim).step_by(SCALE_GROUP) {
            let mut quants = [0i8; SCALE_GROUP];
            let scale = quantize_q8::<S>(key[d..][..SCALE_GROUP].as_ptr(), &mut quants);
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
unsafe fn store_value_q8<S: Simd>(to: &KvSlot, value: &[f32]) {
    let head_dim = value.len();
    // SAFETY: as the caller vouches.
    unsafe {
        let scales = to.values.add(scales_offset::<Bytes>(head_dim));
        for d in (0..head_dim).step_by(SCALE_GROUP) {
            let mut quants = [0i8; SCALE_GROUP];
            let scale = quantize_q8::<S>(value[d..][..SCALE_GROUP].as_ptr(), &mut quants);
            store_scale(scales, (d, to.slot), scale);
            let row = to.values.cast::<i8>().add(to.slot * head_dim + d);
            row.copy_from_nonoverlapping(quants.as_ptr(), SCALE_GROUP);
        }
    }
}

/// # Safety
/// As [`store_kv`], of which it is a part.
#[inline(always)]
unsafe fn store_key_q4<S: Simd>(to: &KvSlot, key: &[f32]) {
    let head_dim = key.len();
    // SAFETY: as the caller vouches; two dimensions share a byte.
    unsafe {
        let scales = to.keys.add(scales_offset::<Nibbles>(head_dim));
        for d in (0..head_dim).step_by(SCALE_GROUP) {
            let mut codes = [0u8; SCALE_GROUP];
            let scale = quantize_q4::<S>(&key[d..][..SCALE_GROUP], &mut codes);
            store_scale(scales, (d, to.slot), scale);
            for i in (0..SCALE_GROUP).step_by(2) {
                *to.keys.add(to.key_at(head_dim / 2, (d + i) / 2)) = codes[i] | codes[i + 1] << 4;
            }
        }
    }
}

/// # Safety
/// As [`store_kv`], of which it is a part.
#[inline(always)]
unsafe fn store_value_q4<S: Simd>(to: &KvSlot, value: &[f32]) {
    let head_dim = value.len();
    // SAFETY: as the caller vouches; two dimensions share a byte.
    unsafe {
        let scales = to.values.add(scales_offset::<Nibbles>(head_dim));
        for d in (0..head_dim).step_by(SCALE_GROUP) {
            let mut codes = [0u8; SCALE_GROUP];
            let scale = quantize_q4::<S>(&value[d..][..SCALE_GROUP], &mut codes);
            store_scale(scales, (d, to.slot), scale);
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

/// Rounds 32 elements to whole multiples of a scale, −127 to 127 of them. Returns the scale.
///
/// # Safety
/// The instruction set and 32 elements are there.
#[inline(always)]
unsafe fn quantize_q8<S: Simd>(from: *const f32, quants: &mut [i8; SCALE_GROUP]) -> u16 {
    // SAFETY: as the caller vouches.
    unsafe {
        let (a, b) = (clamp::<S>(S::load(from), f32::MAX), clamp::<S>(S::load(from.add(LANES)), f32::MAX));
        let (bits, scale) = to_f16::<S>(S::largest(S::max(S::abs(a), S::abs(b))) / Q8_MAX);
        let factor = S::splat(inverse(scale));
        for (half, x) in [(0, a), (LANES, b)] {
            let whole = clamp::<S>(S::round(S::mul(x, factor)), Q8_MAX);
            S::i_store_i8(quants.as_mut_ptr().add(half), S::f_to_i(whole));
        }
        bits
    }
}

/// The nearest levels of 32 elements under a scale, and the scale that suits these levels best: that
/// of the smallest sum of squared errors.
///
/// # Safety
/// The instruction set is there; 32 elements.
#[inline(always)]
unsafe fn quantize_q4<S: Simd>(from: &[f32], codes: &mut [u8; SCALE_GROUP]) -> u16 {
    let mut x = [0f32; SCALE_GROUP];
    let mut extreme = 0f32;
    for (x, &from) in x.iter_mut().zip(from) {
        *x = if from.is_nan() { 0.0 } else { from.clamp(-F16_MAX, F16_MAX) };
        extreme = if x.abs() > extreme.abs() { *x } else { extreme };
    }
    // The lowest level is the farthest from zero.
    let factor = inverse(extreme / f32::from(LEVELS[0]));
    *codes = [0; SCALE_GROUP];
    for step in LEVELS.windows(2) {
        let middle = f32::from(i16::from(step[0]) + i16::from(step[1])) / 2.0;
        for (code, x) in codes.iter_mut().zip(&x) {
            *code += u8::from(x * factor > middle);
        }
    }
    let levels = codes.map(|code| f32::from(LEVELS[usize::from(code)]));
    // SAFETY: as the caller vouches; both arrays hold two vectors.
    unsafe {
        let (mut fit, mut square) = (S::splat(0.0), S::splat(0.0));
        for at in [0, LANES] {
            let level = S::load(levels.as_ptr().add(at));
            fit = S::fma(S::load(x.as_ptr().add(at)), level, fit);
            square = S::fma(level, level, square);
        }
        to_f16::<S>(S::sum(fit) / S::sum(square)).0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::attention::elements::oracle::Stored;
    use crate::isa::Isa;

    /// Writes one position into a block of zeros; returns its keys' and values' bytes.
    fn written(isa: Isa, kv_type: KvType, slot: usize, (key, value): (&[f32], &[f32])) -> (Vec<u8>, Vec<u8>) {
        let bytes = kv_type.bytes_of(BLOCK_POSITIONS * key.len());
        let (mut keys, mut values) = (vec![0u8; bytes.0], vec![0u8; bytes.1]);
        let to = KvSlot { keys: keys.as_mut_ptr(), values: values.as_mut_ptr(), slot, kv_type };
        // SAFETY: the set is available; both halves are whole.
        unsafe { (isa.kernels().store_kv)(&to, key, value) };
        (keys, values)
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
            for group in (0..head_dim).step_by(32) {
                let halves = match kv_type {
                    KvType::K8V4 => [KvType::Q8, KvType::Q4],
                    alike => [alike; 2],
                };
                for (stored_as, from, read) in [
                    (halves[0], &key, (0..32).map(|i| stored.key(&keys, group + i)).collect::<Vec<_>>()),
                    (halves[1], &value, (0..32).map(|i| stored.value(&values, group + i)).collect()),
                ] {
                    let from = &from[group..][..32];
                    let largest = from.iter().fold(0f32, |m, x| m.max(x.abs()));
                    // Half a step; a scale of 2⁻²⁴ is the smallest there is. Refitting moves 4-bit ones.
                    let allowed = match stored_as {
                        KvType::F32 => 0.0,
                        KvType::F16 => largest / 2048.0 + 6e-8,
                        KvType::Q8 | KvType::K8V4 => largest * 0.51 / 127.0 + 127.0 * 3e-8 + 6e-8,
                        KvType::Q4 => largest * 0.14 + 127.0 * 3e-8,
                    };
                    for (got, want) in read.iter().zip(from) {
                        prop_assert!((got - want).abs() <= allowed, "{got} for {want}");
                    }
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

    #[test]
    fn what_is_no_number_or_too_large_stays_finite() {
        let key = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e30, -1e-30, 0.0, 1.0, f32::MIN].repeat(8);
        for kv_type in KvType::choices() {
            let all = Isa::available().map(|isa| written(isa, kv_type, 17, (&key, &key)));
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
