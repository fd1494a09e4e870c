//! A fast 64-bit checksum against damage: truncated, flipped, swapped or zeroed bytes. Whoever wants
//! to forge data with the same checksum can.
//!
//! Eight lanes of 64-bit words, `lane = rotate((lane ^ word) · odd)`: every step is a bijection of the
//! lane and of the word, so damage to one word never goes unseen, and any other with a probability of
//! 2⁻⁶⁴ or so. The multiplications are independent, so memory is what limits it.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::lines::LINE_BYTES;
use crate::pool::Pool;

/// Bytes that one task of the pool takes. Changing it changes every checksum of more bytes.
const PART_BYTES: usize = 1 << 20;
const WORD_BYTES: usize = size_of::<u64>();
const LANES: usize = LINE_BYTES / WORD_BYTES;
/// 2⁶⁴ divided by the golden ratio, made odd: its bits have no pattern.
const FACTOR: u64 = 0x9E37_79B9_7F4A_7C15;
const ROTATION: u32 = 29;

/// The checksum of `bytes`, spread over the pool's threads; it does not depend on their number.
pub fn checksum(bytes: &[u8], pool: &Pool) -> u64 {
    let parts: Vec<&[u8]> = bytes.chunks(PART_BYTES).collect();
    let sums: Vec<AtomicU64> = parts.iter().map(|_| AtomicU64::new(0)).collect();
    pool.run(parts.len(), &|task, _| sums[task].store(of_part(parts[task]), Ordering::Relaxed));
    let all = sums.into_iter().map(AtomicU64::into_inner);
    all.fold(bytes.len() as u64, step)
}

/// The checksum of one task's bytes.
fn of_part(bytes: &[u8]) -> u64 {
    let mut lanes: [u64; LANES] = std::array::from_fn(|lane| lane as u64 + 1);
    let lines = bytes.chunks_exact(LINE_BYTES);
    let mut last = [0u8; LINE_BYTES];
    last[..lines.remainder().len()].copy_from_slice(lines.remainder());
    for line in lines.chain([last.as_slice()]) {
        for (lane, word) in lanes.iter_mut().zip(line.as_chunks::<WORD_BYTES>().0) {
            *lane = step(*lane, u64::from_le_bytes(*word));
        }
    }
    lanes.into_iter().fold(bytes.len() as u64, step)
}

#[inline(always)]
fn step(state: u64, word: u64) -> u64 {
    (state ^ word).wrapping_mul(FACTOR).rotate_left(ROTATION)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn alone(bytes: &[u8]) -> u64 {
        checksum(bytes, &Pool::new(1))
    }

    #[test]
    fn it_is_what_files_hold() {
        let bytes: Vec<u8> = (0..3 * PART_BYTES + 77).map(|i| ((i * 31) >> 3) as u8).collect();
        // Files on disk hold these: another value makes all of them worthless.
        let expected = [0, 886_871_856_775_339_685, 2_297_114_736_024_305_823];
        assert_eq!([alone(b""), alone(b"a"), alone(&bytes)], expected);
    }

    #[test]
    fn threads_do_not_matter_but_swapped_parts_do() {
        let bytes: Vec<u8> = (0..3 * PART_BYTES).map(|i| (i / 1000) as u8).collect();
        assert_eq!(checksum(&bytes, &Pool::new(3)), alone(&bytes));
        let swapped = [&bytes[PART_BYTES..2 * PART_BYTES], &bytes[..PART_BYTES], &bytes[2 * PART_BYTES..]];
        assert_ne!(alone(&swapped.concat()), alone(&bytes));
    }

    proptest! {
        #[test]
        fn damage_is_seen(
            bytes in prop::collection::vec(any::<u8>(), 1..1000),
            flips in prop::collection::vec((any::<prop::sample::Index>(), 0u32..8), 1..4),
        ) {
            let mut damaged = bytes.clone();
            for (at, bit) in &flips {
                damaged[at.index(bytes.len())] ^= 1 << bit;
            }
            prop_assert_eq!(alone(&damaged) == alone(&bytes), damaged == bytes);
            prop_assert_ne!(alone(&bytes[..bytes.len() - 1]), alone(&bytes));
            prop_assert_ne!(alone(&[bytes.as_slice(), &[0]].concat()), alone(&bytes));
        }
    }
}
