//! Taking blocks of bytes apart: walking a tensor block by block, and reading a block's fields.

use half::f16;

/// Checks that `values` has room for exactly what whole `blocks` hold.
///
/// # Panics
/// If `blocks` is not a whole number of blocks or `values` is not as long as they hold.
#[inline]
pub(super) fn check_lengths(blocks: &[u8], block_bytes: usize, values: &[f32], block_values: usize) {
    assert!(blocks.len().is_multiple_of(block_bytes), "a block of {block_bytes} bytes is not whole");
    let held = blocks.len() / block_bytes * block_values;
    assert_eq!(values.len(), held, "values to write and values in the blocks differ");
}

/// Pairs each block with its values.
///
/// # Panics
/// As [`check_lengths`].
pub(super) fn each_block<'a, const BYTES: usize, const VALUES: usize>(
    blocks: &'a [u8],
    values: &'a mut [f32],
) -> impl Iterator<Item = (&'a [u8; BYTES], &'a mut [f32; VALUES])> {
    check_lengths(blocks, BYTES, values, VALUES);
    blocks.as_chunks().0.iter().zip(values.as_chunks_mut().0)
}

/// The `N` bytes of a block that begin at `at`.
///
/// # Panics
/// If the block is shorter than that.
#[inline(always)]
pub(super) fn field<const N: usize>(block: &[u8], at: usize) -> &[u8; N] {
    block[at..].first_chunk().expect("a field lies inside its block")
}

/// The little-endian f16 of a block that begins at `at`.
///
/// # Panics
/// If the block is shorter than that.
#[inline(always)]
pub(super) fn f16_at(block: &[u8], at: usize) -> f16 {
    f16::from_le_bytes(*field(block, at))
}

/// The nibbles of 16 bytes: the 16 low ones, then the 16 high ones.
#[inline(always)]
pub(super) fn nibbles(packed: &[u8; 16]) -> [u8; 32] {
    std::array::from_fn(|k| if k < 16 { packed[k] & 15 } else { packed[k - 16] >> 4 })
}

/// As [`nibbles`], with bit `k` of `fifth_bits` (little-endian) as bit 4 of code `k`.
#[inline(always)]
pub(super) fn five_bits(packed: &[u8; 16], fifth_bits: &[u8; 4]) -> [u8; 32] {
    let mut codes = nibbles(packed);
    let fifth_bits = u32::from_le_bytes(*fifth_bits);
    for (k, code) in codes.iter_mut().enumerate() {
        *code |= ((fifth_bits >> k) as u8 & 1) << 4;
    }
    codes
}

/// The 2-bit fields of Q2_K and Q3_K: group `g` of 16 values, of 256 values in 64 bytes.
///
/// Each half of the bytes holds half of the values: 32 values in bits 0–1, the next 32 in bits 2–3,
/// and so on.
#[inline(always)]
pub(super) fn two_bits(packed: &[u8; 64], g: usize) -> [u8; 16] {
    let bytes: &[u8; 16] = field(packed, g / 8 * 32 + g % 2 * 16);
    let shift = g % 8 / 2 * 2;
    bytes.map(|byte| (byte >> shift) & 3)
}

/// The nibbles of Q4_K and Q5_K: group `g` of 32 values, of 256 values in 128 bytes.
#[inline(always)]
pub(super) fn super_block_nibbles(packed: &[u8; 128], g: usize) -> [u8; 32] {
    let bytes: &[u8; 32] = field(packed, g / 2 * 32);
    let shift = g % 2 * 4;
    bytes.map(|byte| (byte >> shift) & 15)
}
