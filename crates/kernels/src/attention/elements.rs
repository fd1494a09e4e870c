//! Elements of a block, as attention reads them.
//!
//! A head's half of a block (its keys, or its values) is the 64 × head_dim elements, then for the
//! quantized types the scales, `[head_dim / 32][64 positions]`: f16, those of 4-bit elements 8 bits (see `scale`).
//!
//! - Keys lie `[4 strips][head_dim][16 positions]`. 4-bit ones are `ranked`'s.
//! - Values lie `[64 positions][head_dim]`; of 4-bit ones a byte holds dimensions i and i + 16 of a group
//!   of 32, the first in its low half.
//!
//! Floats are read where they lie ([`Elements`]). Quantized halves are first unpacked to 32-bit floats, once for
//! all rows of the task ([`Quantized`]).

use super::block::{Ahead, BlockCall};
use super::kv_type::SCALE_GROUP;
use super::ranked::unpack_ranked;
use super::{BLOCK_POSITIONS, KvType, scale};
use crate::simd::{LANES, Simd};

/// What a 4-bit code stands for, in units of its scale: steps that widen outwards, as a head's values lie after their
/// rotation. Of symmetric ones those with the least error for 32 to 48 values of a normal distribution, by `store`'s
/// choice of scales.
pub(super) static LEVELS: [i8; 16] = [-123, -96, -75, -58, -44, -31, -18, -6, 6, 18, 31, 44, 58, 75, 96, 123];

/// Floats that attention computes with.
pub(super) trait Elements: 'static {
    /// Bytes of 16 elements.
    const VECTOR_BYTES: usize;

    /// 16 elements.
    ///
    /// # Safety
    /// The instruction set and the elements are there.
    unsafe fn load<S: Simd>(from: *const u8) -> S::F;

    /// Where a half of the block, its keys or its `VALUES`, lies as such floats: in the cache, or unpacked into
    /// `to`.
    ///
    /// # Safety
    /// The instruction set and the block are there; `to` holds twice a half of it.
    #[inline(always)]
    unsafe fn floats<S: Simd, const VALUES: bool>(
        _: &BlockCall,
        half: *const u8,
        _to: &mut [f32],
        _: &mut Ahead,
    ) -> *const u8 {
        half
    }
}

/// 16-bit floats.
pub(super) struct Half;
/// 32-bit floats, or quantized elements unpacked to them.
pub(super) struct Single;

impl Elements for Half {
    const VECTOR_BYTES: usize = LANES * 2;

    // SAFETY: the contract is the trait's.
    #[inline(always)]
    unsafe fn load<S: Simd>(from: *const u8) -> S::F {
        // SAFETY: as the caller vouches.
        unsafe { S::load_f16(from.cast()) }
    }
}

impl Elements for Single {
    const VECTOR_BYTES: usize = LANES * 4;

    // SAFETY: the contract is the trait's.
    #[inline(always)]
    unsafe fn load<S: Simd>(from: *const u8) -> S::F {
        // SAFETY: as the caller vouches.
        unsafe { S::load(from.cast()) }
    }

    // SAFETY: the contract is the trait's.
    #[inline(always)]
    unsafe fn floats<S: Simd, const VALUES: bool>(
        call: &BlockCall,
        half: *const u8,
        to: &mut [f32],
        ahead: &mut Ahead,
    ) -> *const u8 {
        let (kv_type, head_dim) = (call.task.cache.kv_type, call.task.shape.head_dim);
        let (to, rests) = to.split_at_mut(BLOCK_POSITIONS * head_dim);
        // SAFETY: as the caller vouches; rests are stored as what they are of.
        unsafe {
            let floats = unpack::<S, VALUES>(kv_type, (half, head_dim), to, ahead);
            if let Some((keys, values)) = call.rests() {
                let half = if VALUES { values } else { keys };
                unpack::<S, VALUES>(kv_type, (half, head_dim), rests, &mut Ahead::nothing());
                for at in (0..to.len()).step_by(LANES) {
                    let sum = S::add(S::load(to.as_ptr().add(at)), S::load(rests.as_ptr().add(at)));
                    S::store(to.as_mut_ptr().add(at), sum);
                }
            }
            floats
        }
    }
}

/// A half of a block as floats: in `to`, if it was none.
///
/// # Safety
/// The instruction set, the half and the room are there.
#[inline(always)]
unsafe fn unpack<S: Simd, const VALUES: bool>(
    kv_type: KvType,
    half: (*const u8, usize),
    to: &mut [f32],
    ahead: &mut Ahead,
) -> *const u8 {
    // SAFETY: as the caller vouches.
    unsafe {
        match (kv_type, VALUES) {
            (KvType::Q8 | KvType::K8V4, false) => unpack_keys::<S>(half, to, ahead),
            (KvType::Q8, true) => unpack_values::<S, Bytes>(half, to, ahead),
            (KvType::Q4, false) => unpack_ranked::<S>(half, to, ahead),
            (KvType::K8V4 | KvType::Q4, true) => unpack_values::<S, Nibbles>(half, to, ahead),
            (KvType::F32 | KvType::F16, _) => half.0,
        }
    }
}

/// One way to store values in few bits, in units of a scale.
pub(super) trait Quantized {
    /// Bytes of 16 elements.
    const VECTOR_BYTES: usize;

    /// 16 dimensions from `d` on of a position's row; `high` where they are the second half of their 32.
    ///
    /// # Safety
    /// The instruction set is there and the row holds the dimensions.
    unsafe fn values<S: Simd>(row: *const u8, d: usize, high: bool) -> S::F;

    /// The scales of a group of 32 dimensions of all positions.
    ///
    /// # Safety
    /// The instruction set is there and `scales` has those of the group.
    unsafe fn scales<S: Simd>(scales: *const u8, group: usize) -> [f32; BLOCK_POSITIONS];
}

/// 8-bit integers.
pub(super) struct Bytes;
/// 4-bit codes of [`LEVELS`].
pub(super) struct Nibbles;

impl Quantized for Bytes {
    const VECTOR_BYTES: usize = LANES;

    // SAFETY: the contract is the trait's.
    #[inline(always)]
    unsafe fn values<S: Simd>(row: *const u8, d: usize, _: bool) -> S::F {
        // SAFETY: as the caller vouches.
        unsafe { S::load_i8(row.add(d).cast()) }
    }

    // SAFETY: the contract is the trait's.
    #[inline(always)]
    unsafe fn scales<S: Simd>(scales: *const u8, group: usize) -> [f32; BLOCK_POSITIONS] {
        let mut of_group = [0f32; BLOCK_POSITIONS];
        for strip in (0..BLOCK_POSITIONS).step_by(LANES) {
            // SAFETY: as the caller vouches; the array holds a scale per position.
            unsafe {
                let scale = S::load_f16(scales.cast::<u16>().add(group * BLOCK_POSITIONS + strip));
                S::store(of_group.as_mut_ptr().add(strip), scale);
            }
        }
        of_group
    }
}

impl Quantized for Nibbles {
    const VECTOR_BYTES: usize = LANES / 2;

    // SAFETY: the contract is the trait's.
    #[inline(always)]
    unsafe fn values<S: Simd>(row: *const u8, d: usize, high: bool) -> S::F {
        // SAFETY: as the caller vouches; 32 dimensions are 16 bytes.
        unsafe { load_half::<S>(row.add(d / SCALE_GROUP * LANES), high, &LEVELS) }
    }

    // SAFETY: the contract is the trait's.
    #[inline(always)]
    unsafe fn scales<S: Simd>(scales: *const u8, group: usize) -> [f32; BLOCK_POSITIONS] {
        // SAFETY: as the caller vouches.
        unsafe { scale::of_positions(scales.add(group * BLOCK_POSITIONS)) }
    }
}

/// A table's entries for one half of each of 16 bytes.
///
/// # Safety
/// The instruction set and the bytes are there.
#[inline(always)]
pub(super) unsafe fn load_half<S: Simd>(from: *const u8, high: bool, table: &[i8; 16]) -> S::F {
    // SAFETY: as the caller vouches.
    unsafe { if high { S::load_nibbles::<true>(from, table) } else { S::load_nibbles::<false>(from, table) } }
}

/// Bytes from the beginning of a half of a block to its scales.
pub(super) fn scales_offset<Q: Quantized>(head_dim: usize) -> usize {
    BLOCK_POSITIONS * head_dim / LANES * Q::VECTOR_BYTES
}

/// to = 8-bit keys in floats, in the same order; asks `ahead` for as much as it reads.
///
/// # Safety
/// The instruction set, the keys and the room are there; dimensions are whole groups.
#[inline(always)]
unsafe fn unpack_keys<S: Simd>(
    (keys, head_dim): (*const u8, usize),
    to: &mut [f32],
    ahead: &mut Ahead,
) -> *const u8 {
    let out = to.as_mut_ptr();
    // SAFETY: as the caller vouches.
    unsafe {
        let scales = keys.add(scales_offset::<Bytes>(head_dim)).cast::<u16>();
        for strip in 0..BLOCK_POSITIONS / LANES {
            for first in (0..head_dim).step_by(SCALE_GROUP) {
                let at = (strip * head_dim + first) * LANES;
                ahead.ask::<S>(at, SCALE_GROUP * LANES);
                let scale = S::load_f16(scales.add(first / SCALE_GROUP * BLOCK_POSITIONS + strip * LANES));
                for at in (at..at + SCALE_GROUP * LANES).step_by(LANES) {
                    S::store(out.add(at), S::mul(S::load_i8(keys.add(at).cast()), scale));
                }
            }
        }
    }
    ahead.step = 0;
    out.cast_const().cast()
}

/// The same of values.
///
/// # Safety
/// As [`unpack_keys`].
#[inline(always)]
unsafe fn unpack_values<S: Simd, Q: Quantized>(
    (values, head_dim): (*const u8, usize),
    to: &mut [f32],
    ahead: &mut Ahead,
) -> *const u8 {
    let out = to.as_mut_ptr();
    let row_bytes = head_dim / LANES * Q::VECTOR_BYTES;
    // SAFETY: as the caller vouches.
    unsafe {
        let scales = values.add(scales_offset::<Q>(head_dim));
        for group in 0..head_dim / SCALE_GROUP {
            let d = group * SCALE_GROUP;
            for (p, scale) in Q::scales::<S>(scales, group).into_iter().enumerate() {
                let scale = S::splat(scale);
                let (from, out) = (values.add(p * row_bytes), out.add(p * head_dim + d));
                S::store(out, S::mul(Q::values::<S>(from, d, false), scale));
                S::store(out.add(LANES), S::mul(Q::values::<S>(from, d + LANES, true), scale));
            }
            let bytes = BLOCK_POSITIONS * SCALE_GROUP / LANES * Q::VECTOR_BYTES;
            ahead.ask::<S>(group * bytes, bytes);
        }
    }
    ahead.step = 0;
    out.cast_const().cast()
}

#[cfg(test)]
pub(super) mod oracle {
    //! The same layout read element by element.

    use super::*;
    use crate::attention::ranked;

    /// One position of a half of a block.
    pub struct Stored {
        pub kv_type: KvType,
        pub head_dim: usize,
        /// Position within the block.
        pub slot: usize,
    }

    impl Stored {
        /// Dimension `d` of the key.
        pub fn key(&self, keys: &[u8], d: usize) -> f32 {
            let at = (self.slot / 16 * self.head_dim + d) * 16 + self.slot % 16;
            match self.kv_type {
                KvType::Q4 => ranked::oracle::key(keys, (self.head_dim, self.slot), d),
                KvType::K8V4 => self.element((KvType::Q8, keys), d, at),
                kv_type => self.element((kv_type, keys), d, at),
            }
        }

        /// Dimension `d` of the value.
        pub fn value(&self, values: &[u8], d: usize) -> f32 {
            let kv_type = if self.kv_type == KvType::K8V4 { KvType::Q4 } else { self.kv_type };
            self.element((kv_type, values), d, self.slot * self.head_dim + d)
        }

        /// Dimension `d`, which is element `at` of the half. 4-bit ones are values.
        fn element(&self, (kv_type, half): (KvType, &[u8]), d: usize, at: usize) -> f32 {
            let f16 = |at: usize| half::f16::from_le_bytes([half[at], half[at + 1]]).to_f32();
            let scale = d / 32 * 64 + self.slot;
            match kv_type {
                KvType::F32 => f32::from_le_bytes(half[4 * at..][..4].try_into().unwrap()),
                KvType::F16 => f16(2 * at),
                KvType::Q8 | KvType::K8V4 => f32::from(half[at] as i8) * f16(64 * self.head_dim + 2 * scale),
                KvType::Q4 => {
                    let byte = half[self.slot * self.head_dim / 2 + d / 32 * 16 + d % 16];
                    let code = if d % 32 >= 16 { byte >> 4 } else { byte & 15 };
                    f32::from(LEVELS[usize::from(code)]) * scale::decoded(half[32 * self.head_dim + scale])
                }
            }
        }
    }
}
