//! The rotation that quantized heads get: a Walsh–Hadamard transform, which spreads a dimension of large
//! values over many, so that none of them alone decides the scale of its 32.
//!
//! It is orthonormal and its own inverse. Queries and keys are both rotated, which leaves their products as
//! they are; values are rotated, and what attention makes of them back. (The idea is QuaRot's, Ashkboos et
//! al. 2024.)

use super::{KvType, ranked};

/// Rotates a key, or a query as the keys of that type are: where the first dimensions have more bits than the
/// others, the two parts do not mix.
#[inline(always)]
pub(crate) fn rotate_key(kv_type: KvType, x: &mut [f32]) {
    let (first, rest) = x.split_at_mut(if kv_type.ranks_keys() { ranked::wide(x.len()) } else { 0 });
    rotate(first);
    rotate(rest);
}

/// x = H · x / √n in blocks of n, the largest power of two that divides the length: all of a head of 64,
/// 128 or 256 dimensions, blocks of 32 of one of 96. Only additions and multiplications, in one fixed
/// order: the bits do not depend on the instruction set.
#[inline(always)]
pub(crate) fn rotate(x: &mut [f32]) {
    if x.is_empty() {
        return;
    }
    let n = 1 << x.len().trailing_zeros();
    let scale = 1.0 / (n as f32).sqrt();
    for block in x.chunks_exact_mut(n) {
        let mut half = 1;
        while half < n {
            for pair in block.chunks_exact_mut(2 * half) {
                let (low, high) = pair.split_at_mut(half);
                for (a, b) in low.iter_mut().zip(high) {
                    (*a, *b) = (*a + *b, *a - *b);
                }
            }
            half *= 2;
        }
        block.iter_mut().for_each(|x| *x *= scale);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Entry of the unnormalized matrix: −1 to the number of common bits.
    fn naive(x: &[f32]) -> Vec<f64> {
        let n = 1usize << x.len().trailing_zeros();
        let entry = |row: usize, column: usize| 1.0 - 2.0 * f64::from((row & column).count_ones() & 1);
        x.chunks(n)
            .flat_map(|block| {
                (0..n).map(move |row| {
                    let sum: f64 =
                        block.iter().enumerate().map(|(column, &x)| entry(row, column) * f64::from(x)).sum();
                    sum / (n as f64).sqrt()
                })
            })
            .collect()
    }

    proptest! {
        #[test]
        fn it_is_the_matrix_and_its_own_inverse(
            length in prop::sample::select(vec![32usize, 64, 96, 128, 160, 256]),
            seed in prop::collection::vec(-100f32..100.0, 256),
        ) {
            let x = &seed[..length];
            let mut rotated = x.to_vec();
            rotate(&mut rotated);
            for (got, want) in rotated.iter().zip(naive(x)) {
                prop_assert!((f64::from(*got) - want).abs() < 1e-3, "{got} for {want}");
            }
            rotate(&mut rotated);
            for (got, want) in rotated.iter().zip(x) {
                prop_assert!((got - want).abs() < 1e-3, "{got} for {want}");
            }
        }
    }
}
