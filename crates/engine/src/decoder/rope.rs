//! Rotary position embeddings (Su et al. 2021).

use crate::spec::{Rope, RopePairs};

/// Cosines and sines of a batch's positions for one [`Rope`].
#[derive(Debug, Default)]
pub(super) struct RopeTable {
    pairs: usize,
    values: Vec<f32>, // [token][cos of every pair, sin of every pair]
}

impl RopeTable {
    /// With room for so many values; it grows if there are more.
    pub fn with_room(values: usize) -> Self {
        RopeTable { pairs: 0, values: Vec::with_capacity(values) }
    }

    /// Computes the table for the positions of a batch's tokens.
    pub fn fill(&mut self, rope: &Rope, positions: impl Iterator<Item = usize>) {
        self.pairs = rope.frequencies.len();
        self.values.clear();
        for position in positions {
            // f64: at position 30,000 an f32 angle is off by a thousandth.
            let angles = rope.frequencies.iter().map(|f| (position as f64 * f).sin_cos());
            let from = self.values.len();
            self.values.resize(from + 2 * self.pairs, 0.0);
            for (i, (sin, cos)) in angles.enumerate() {
                self.values[from + i] = cos as f32 * rope.magnitude;
                self.values[from + self.pairs + i] = sin as f32 * rope.magnitude;
            }
        }
    }

    /// From now on turns back what it turned forth.
    pub fn reverse(&mut self) {
        for of_token in self.values.chunks_exact_mut((2 * self.pairs).max(1)) {
            of_token[self.pairs..].iter_mut().for_each(|sin| *sin = -*sin);
        }
    }

    /// Rotates one head of the batch's `token`th token.
    pub fn rotate(&self, pairing: RopePairs, token: usize, head: &mut [f32]) {
        let (cos, sin) = self.values[token * 2 * self.pairs..][..2 * self.pairs].split_at(self.pairs);
        match pairing {
            RopePairs::HalfSplit => {
                let (first, rest) = head.split_at_mut(self.pairs);
                for (((a, b), c), s) in first.iter_mut().zip(rest).zip(cos).zip(sin) {
                    (*a, *b) = (*a * c - *b * s, *b * c + *a * s);
                }
            }
            RopePairs::Interleaved => {
                for ((pair, c), s) in head.as_chunks_mut::<2>().0.iter_mut().zip(cos).zip(sin) {
                    *pair = [pair[0] * c - pair[1] * s, pair[1] * c + pair[0] * s];
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rotation_keeps_lengths_and_depends_on_distance_only() {
        let rope = Rope { frequencies: vec![1.0, 0.1, 0.01, 0.001], magnitude: 1.0 };
        let mut table = RopeTable::default();
        table.fill(&rope, [3, 10, 103, 110].into_iter());
        for pairing in [RopePairs::HalfSplit, RopePairs::Interleaved] {
            let dot = |p: usize, q: usize| {
                let mut a = [0.5f32, -1.0, 2.0, 0.25, 1.5, -0.5, 0.75, 1.0];
                let mut b = [1.0f32, 0.5, -0.25, 2.0, -1.0, 0.5, 1.25, 0.1];
                table.rotate(pairing, p, &mut a);
                table.rotate(pairing, q, &mut b);
                a.iter().zip(&b).map(|(x, y)| x * y).sum::<f32>()
            };
            assert!((dot(0, 1) - dot(2, 3)).abs() < 1e-4);
            assert!((dot(0, 1) - dot(0, 3)).abs() > 1e-2);
        }
    }
}
