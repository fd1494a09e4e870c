//! Activations quantized for the integer products: [`Activations`].
//!
//! Each column (token) is cut into groups of 32 values with a scale of their own, so that one huge
//! value (the first token's, in many models) costs only its 31 neighbours their precision.

use crate::simd::{LANES, Simd};

/// Values that share a scale.
pub const GROUP: usize = 32;
/// 32-bit words per group and column besides the values: see [`Activations`].
const WORDS: usize = 7;
/// Rows of the words: the scale …
pub(crate) const SCALE: usize = 0;
/// … minus the sum of the quantized values (i32): first half, second half, all …
pub(crate) const NEGATED_SUM: usize = 1;
/// … and the same times the scale (f32).
pub(crate) const NEGATED_SCALED_SUM: usize = 4;

/// Quantized columns. Values lie as `[group][column][32]` and words as `[group][7][column]`, so
/// that a tile of neighbouring columns is contiguous whatever the number of columns.
#[derive(Debug, Default)]
pub struct Activations {
    /// Rows of the products' right-hand side; a multiple of 32.
    inner: usize,
    columns: usize,
    values: Vec<i8>,
    words: Vec<u32>,
}

impl Activations {
    /// Makes room for `columns` columns of `inner` values; allocates only when it grows.
    ///
    /// # Panics
    /// If `inner` is not a multiple of 32.
    pub fn resize(&mut self, inner: usize, columns: usize) {
        assert!(inner.is_multiple_of(GROUP), "{inner} values are not whole groups of {GROUP}");
        self.inner = inner;
        self.columns = columns;
        let values = inner * columns;
        if self.values.len() < values {
            self.values.resize(values, 0);
        }
        let words = inner / GROUP * WORDS * columns;
        if self.words.len() < words {
            self.words.resize(words, 0);
        }
    }

    /// Values of a column.
    pub fn inner(&self) -> usize {
        self.inner
    }

    /// Number of columns.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// A handle through which tasks fill different columns at once.
    pub(crate) fn writer(&mut self) -> ActivationsWriter {
        ActivationsWriter {
            columns: self.columns,
            inner: self.inner,
            values: self.values.as_mut_ptr(),
            words: self.words.as_mut_ptr(),
        }
    }

    /// Addresses for a tile that starts at `column`.
    pub(crate) fn tile(&self, column: usize) -> TileInput {
        assert!(column < self.columns);
        TileInput {
            values: self.values.as_ptr().wrapping_add(column * GROUP),
            words: self.words.as_ptr().wrapping_add(column),
            columns: self.columns,
        }
    }
}

/// Where a tile of columns begins in [`Activations`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct TileInput {
    /// Group 0 of the tile's first column.
    pub values: *const i8,
    /// Word row 0 of group 0 of the tile's first column.
    pub words: *const u32,
    /// Columns of the whole, the stride of both.
    pub columns: usize,
}

impl TileInput {
    /// Steps to the next group.
    #[inline(always)]
    pub fn advance(&mut self) {
        self.values = self.values.wrapping_add(GROUP * self.columns);
        self.words = self.words.wrapping_add(WORDS * self.columns);
    }

    /// Word `row` of the tile's column `c`.
    ///
    /// # Safety
    /// The group, row and column exist.
    #[inline(always)]
    pub unsafe fn word(&self, row: usize, c: usize) -> u32 {
        // SAFETY: in bounds as the caller promises.
        unsafe { *self.words.add(row * self.columns + c) }
    }
}

/// See [`Activations::writer`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct ActivationsWriter {
    columns: usize,
    inner: usize,
    values: *mut i8,
    words: *mut u32,
}

// SAFETY: tasks write different columns; the owner is mutably borrowed while they do.
unsafe impl Send for ActivationsWriter {}
// SAFETY: as above.
unsafe impl Sync for ActivationsWriter {}

impl ActivationsWriter {
    /// Quantizes one column. A group's scale is its largest magnitude / 127.
    ///
    /// # Safety
    /// The instruction set is there, `column` exists, `from` has the column's values, the
    /// [`Activations`] are alive and nobody else touches this column.
    #[inline(always)]
    pub unsafe fn quantize<S: Simd>(&self, column: usize, from: &[f32]) {
        debug_assert!(column < self.columns && from.len() == self.inner);
        for group in 0..self.inner / GROUP {
            // SAFETY: group and column are in range, so are 32 values and 7 words there.
            unsafe {
                let a = S::load(from.as_ptr().add(group * GROUP));
                let b = S::load(from.as_ptr().add(group * GROUP + LANES));
                let magnitude = S::largest(S::max(S::abs(a), S::abs(b)));
                let inverse = if magnitude > 0.0 { 127.0 / magnitude } else { 0.0 };
                // A tiny magnitude overflows the inverse; such a group is as good as zero.
                let inverse = if inverse.is_finite() { inverse } else { 0.0 };
                let scale = magnitude / 127.0;
                let (qa, qb) =
                    (S::round(S::mul(a, S::splat(inverse))), S::round(S::mul(b, S::splat(inverse))));
                let to = self.values.add((group * self.columns + column) * GROUP);
                S::i_store_i8(to, S::f_to_i(qa));
                S::i_store_i8(to.add(LANES), S::f_to_i(qb));
                let (first, second) = (S::sum(qa), S::sum(qb));
                let word = |row: usize| self.words.add((group * WORDS + row) * self.columns + column);
                *word(SCALE) = scale.to_bits();
                for (i, part) in [first, second, first + second].into_iter().enumerate() {
                    *word(NEGATED_SUM + i) = (-(part as i32)) as u32;
                    *word(NEGATED_SCALED_SUM + i) = (-(part * scale)).to_bits();
                }
            }
        }
    }
}
