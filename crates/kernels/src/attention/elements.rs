//! Elements of a block, as attention reads them: one type of [`Elements`] for each `KvType`.
//!
//! A head's half of a block (its keys, or its values) is the 64 × head_dim elements, then for the
//! quantized types the scales, f16, `[head_dim / 32][64 positions]`.
//!
//! - Keys lie `[4 strips][head_dim][16 positions]`; of 4-bit ones a byte holds two dimensions of one
//!   position, the even one in its low half.
//! - Values lie `[64 positions][head_dim]`; of 4-bit ones a byte holds dimensions i and i + 16 of a group
//!   of 32, the first in its low half.

use super::BLOCK_POSITIONS;
use super::kv_type::SCALE_GROUP;
use crate::simd::{LANES, Simd};

/// What a 4-bit code stands for, in units of its scale: steps that widen outwards, as a head's values lie
/// after their rotation (ggml's table for IQ4_NL).
pub(super) static LEVELS: [i8; 16] =
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// One way to store elements.
pub(super) trait Elements: 'static {
    /// Bytes of 16 elements.
    const VECTOR_BYTES: usize;
    /// Whether what is loaded is in units of the scales.
    const SCALED: bool;
    /// Whether two elements share a byte.
    const PAIRED: bool;

    /// Dimension `d`, whose parity is `odd`, of a strip's 16 positions.
    ///
    /// # Safety
    /// The instruction set is there and the strip holds the dimension.
    unsafe fn keys<S: Simd>(strip: *const u8, d: usize, odd: bool) -> S::F;

    /// 16 dimensions from `d` on of a position's row; `high` where they are the second half of their 32.
    ///
    /// # Safety
    /// The instruction set is there and the row holds the dimensions.
    unsafe fn values<S: Simd>(row: *const u8, d: usize, high: bool) -> S::F;
}

/// 32-bit floats.
pub(super) struct Single;
/// 16-bit floats.
pub(super) struct Half;
/// 8-bit integers.
pub(super) struct Bytes;
/// 4-bit codes of [`LEVELS`].
pub(super) struct Nibbles;

/// Elements that lie one after the other: vector v begins `v · VECTOR_BYTES` bytes on.
macro_rules! plain {
    ($elements:ident, $bytes:literal, $scaled:literal, $load:ident) => {
        impl Elements for $elements {
            const VECTOR_BYTES: usize = LANES * $bytes;
            const SCALED: bool = $scaled;
            const PAIRED: bool = false;

            #[inline(always)]
            unsafe fn keys<S: Simd>(strip: *const u8, d: usize, _: bool) -> S::F {
                // SAFETY: as the caller vouches.
                unsafe { S::$load(strip.add(d * Self::VECTOR_BYTES).cast()) }
            }

            #[inline(always)]
            unsafe fn values<S: Simd>(row: *const u8, d: usize, _: bool) -> S::F {
                // SAFETY: as the caller vouches.
                unsafe { S::$load(row.add(d * $bytes).cast()) }
            }
        }
    };
}

plain!(Single, 4, false, load);
plain!(Half, 2, false, load_f16);
plain!(Bytes, 1, true, load_i8);

impl Elements for Nibbles {
    const VECTOR_BYTES: usize = LANES / 2;
    const SCALED: bool = true;
    const PAIRED: bool = true;

    #[inline(always)]
    unsafe fn keys<S: Simd>(strip: *const u8, d: usize, odd: bool) -> S::F {
        // SAFETY: as the caller vouches; a pair of dimensions is 16 bytes.
        unsafe { load_half::<S>(strip.add(d / 2 * LANES), odd) }
    }

    #[inline(always)]
    unsafe fn values<S: Simd>(row: *const u8, d: usize, high: bool) -> S::F {
        // SAFETY: as the caller vouches; 32 dimensions are 16 bytes.
        unsafe { load_half::<S>(row.add(d / SCALE_GROUP * LANES), high) }
    }
}

/// The levels of one half of each of 16 bytes.
///
/// # Safety
/// The instruction set and the bytes are there.
#[inline(always)]
unsafe fn load_half<S: Simd>(from: *const u8, high: bool) -> S::F {
    // SAFETY: as the caller vouches.
    unsafe {
        if high { S::load_nibbles::<true>(from, &LEVELS) } else { S::load_nibbles::<false>(from, &LEVELS) }
    }
}

/// Bytes from the beginning of a half of a block to its scales.
pub(super) fn scales_offset<E: Elements>(head_dim: usize) -> usize {
    BLOCK_POSITIONS * head_dim / LANES * E::VECTOR_BYTES
}

#[cfg(test)]
pub(super) mod oracle {
    //! The same layout read element by element.

    use super::*;
    use crate::attention::KvType;

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
            let (strip, lane) = (self.slot / 16, self.slot % 16);
            let byte = (strip * self.head_dim / 2 + d / 2) * 16 + lane;
            self.element(keys, d, (strip * self.head_dim + d) * 16 + lane, (byte, d % 2 == 1))
        }

        /// Dimension `d` of the value.
        pub fn value(&self, values: &[u8], d: usize) -> f32 {
            let byte = self.slot * self.head_dim / 2 + d / 32 * 16 + d % 16;
            self.element(values, d, self.slot * self.head_dim + d, (byte, d % 32 >= 16))
        }

        /// The element that is number `at` of the half, or lies in half of byte `byte`.
        fn element(&self, half: &[u8], d: usize, at: usize, (byte, high): (usize, bool)) -> f32 {
            let f16 = |at: usize| half::f16::from_le_bytes([half[at], half[at + 1]]).to_f32();
            let scale = |elements: usize| f16(elements + 2 * (d / 32 * 64 + self.slot));
            match self.kv_type {
                KvType::F32 => f32::from_le_bytes(half[4 * at..][..4].try_into().unwrap()),
                KvType::F16 => f16(2 * at),
                KvType::Q8 => f32::from(half[at] as i8) * scale(64 * self.head_dim),
                KvType::Q4 => {
                    let code = if high { half[byte] >> 4 } else { half[byte] & 15 };
                    f32::from(LEVELS[usize::from(code)]) * scale(32 * self.head_dim)
                }
            }
        }
    }
}
