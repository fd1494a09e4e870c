//! Activations quantized for the integer products: [`Activations`].
//!
//! Each column (token) is cut into groups of 32 values with a scale of their own, so that one huge
//! value (the first token's, in many models) costs only its 31 neighbours their precision.

use crate::lines::{LINE_BYTES, Line};
use crate::simd::{LANES, Simd};

/// Values that share a scale.
pub const GROUP: usize = 32;
/// Columns whose lines are interleaved: those of the widest tile.
pub(crate) const BLOCK_COLUMNS: usize = 8;
/// The same, at most, where many columns are multiplied otherwise.
const BLOCK_COLUMNS_MAX: usize = 16;
/// A group's line: 32 values; the scale; minus the sum of the values (i32) of the first half, the second
/// and both; the same times the scale (f32). Offsets in 32-bit words behind the values:
pub(crate) const SCALE: usize = 0;
/// See [`SCALE`].
pub(crate) const NEGATED_SUM: usize = 1;
/// See [`SCALE`].
pub(crate) const NEGATED_SCALED_SUM: usize = 4;

/// Quantized columns: one line per group and column, `[block of columns][group][column of the block]`.
/// So a tile reads one stream, a column is written without touching its neighbours' lines, and no stride
/// is a large power of two, which would crowd a few sets of the caches.
#[derive(Debug, Default)]
pub(crate) struct Activations {
    groups: usize,
    columns: usize,
    /// Columns of a block, a power of two: fewer than those of the widest tile only if there are no more. The last block
    /// may have lines of no column, which tiles read and whose results nobody does.
    width: usize,
    lines: Vec<Line>,
}

impl Activations {
    /// Lines of `columns` columns of `inner` values, or of fewer columns, at most.
    pub fn lines_max(inner: usize, columns: usize) -> usize {
        inner.div_ceil(GROUP) * columns.next_multiple_of(block_width(columns, BLOCK_COLUMNS_MAX))
    }

    /// Without columns, and with room for so many lines.
    pub fn with_room(lines: usize) -> Self {
        Activations { lines: Vec::with_capacity(lines), ..Activations::default() }
    }

    /// Makes room for `columns` columns of `inner` values, in blocks of `block_columns` at most; allocates only when it
    /// grows.
    ///
    /// # Panics
    /// If `inner` is not a multiple of 32.
    pub fn resize(&mut self, inner: usize, columns: usize, block_columns: usize) {
        debug_assert!(block_columns <= BLOCK_COLUMNS_MAX);
        assert!(inner.is_multiple_of(GROUP), "{inner} values are not whole groups of {GROUP}");
        self.groups = inner / GROUP;
        self.columns = columns;
        self.width = block_width(columns, block_columns);
        let lines = self.groups * columns.next_multiple_of(self.width);
        if self.lines.len() < lines {
            self.lines.resize(lines, Line([0; LINE_BYTES]));
        }
    }

    /// A handle through which tasks fill different columns at once.
    pub fn writer(&mut self) -> ActivationsWriter {
        let Activations { groups, columns, width, ref mut lines } = *self;
        ActivationsWriter { groups, columns, width, lines: lines.as_mut_ptr().cast() }
    }

    /// Most columns that a tile starting at `column` can take, those that are none included.
    pub fn tile_columns(&self, column: usize) -> usize {
        self.width - column % self.width
    }

    /// Where a tile that starts at `column` reads.
    pub fn tile(&self, column: usize) -> TileInput {
        assert!(column < self.columns);
        let first = &self.lines[first_line(column, self.groups, self.width)];
        TileInput { line: first.0.as_ptr(), stride: self.width * LINE_BYTES }
    }
}

/// Columns of a block of `most` at most, where there are so many columns.
fn block_width(columns: usize, most: usize) -> usize {
    columns.clamp(1, most).next_power_of_two()
}

/// Index of a column's line of group 0.
fn first_line(column: usize, groups: usize, width: usize) -> usize {
    column / width * groups * width + column % width
}

/// Where a tile of columns begins in [`Activations`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct TileInput {
    line: *const u8,
    /// Bytes to the next group.
    stride: usize,
}

impl TileInput {
    /// Steps to the next group.
    #[inline(always)]
    pub fn advance(&mut self) {
        self.line = self.line.wrapping_add(self.stride);
    }

    /// Steps over `groups` groups.
    #[inline(always)]
    pub fn skip(&mut self, groups: usize) {
        self.line = self.line.wrapping_add(groups * self.stride);
    }

    /// Value `k` of the tile's column `c`.
    #[inline(always)]
    pub fn value(&self, c: usize, k: usize) -> *const i8 {
        self.line.wrapping_add(c * LINE_BYTES + k).cast()
    }

    /// Word `word` of the tile's column `c`.
    ///
    /// # Safety
    /// The group, word and column exist.
    #[inline(always)]
    pub unsafe fn word(&self, word: usize, c: usize) -> u32 {
        // SAFETY: in bounds as the caller promises; words are aligned within their line.
        unsafe { *self.line.add(c * LINE_BYTES + GROUP).cast::<u32>().add(word) }
    }
}

/// See [`Activations::writer`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct ActivationsWriter {
    groups: usize,
    columns: usize,
    width: usize,
    lines: *mut u8,
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
        debug_assert!(column < self.columns && from.len() == self.groups * GROUP);
        let mut line = self.line(column);
        for group in from.as_chunks::<GROUP>().0 {
            // SAFETY: the group has 32 values, its line 64 bytes.
            unsafe {
                let values = [S::load(group.as_ptr()), S::load(group.as_ptr().add(LANES))];
                quantize_group::<S>(values, line);
            }
            line = line.wrapping_add(self.width * LINE_BYTES);
        }
    }

    /// The same, and into `rest`'s column what that rounded away, so that both columns' sum holds 16 bits of each
    /// value.
    ///
    /// # Safety
    /// As [`ActivationsWriter::quantize`], for both columns.
    #[inline(always)]
    pub unsafe fn quantize_with_rest<S: Simd>(&self, rest: &ActivationsWriter, column: usize, from: &[f32]) {
        debug_assert!(column < self.columns && column < rest.columns && from.len() == self.groups * GROUP);
        let (mut line, mut rest_line) = (self.line(column), rest.line(column));
        for group in from.as_chunks::<GROUP>().0 {
            // SAFETY: as above, with two lines.
            unsafe {
                let values = [S::load(group.as_ptr()), S::load(group.as_ptr().add(LANES))];
                let rest = quantize_group::<S>(values, line);
                quantize_group::<S>(rest, rest_line);
            }
            line = line.wrapping_add(self.width * LINE_BYTES);
            rest_line = rest_line.wrapping_add(rest.width * LINE_BYTES);
        }
    }

    /// The line of a column's group 0.
    fn line(&self, column: usize) -> *mut u8 {
        self.lines.wrapping_add(first_line(column, self.groups, self.width) * LINE_BYTES)
    }
}

/// Writes a group's line; gives what rounding took from its values.
///
/// # Safety
/// The instruction set is there, and a line at `line`.
#[inline(always)]
unsafe fn quantize_group<S: Simd>([a, b]: [S::F; 2], line: *mut u8) -> [S::F; 2] {
    // SAFETY: as the caller vouches.
    unsafe {
        let magnitude = S::largest(S::max(S::abs(a), S::abs(b)));
        let inverse = if magnitude > 0.0 { 127.0 / magnitude } else { 0.0 };
        // A tiny magnitude overflows the inverse; such a group is as good as zero.
        let inverse = if inverse.is_finite() { inverse } else { 0.0 };
        let scale = magnitude / 127.0;
        let (qa, qb) = (S::round(S::mul(a, S::splat(inverse))), S::round(S::mul(b, S::splat(inverse))));
        S::i_store_i8(line.cast(), S::f_to_i(qa));
        S::i_store_i8(line.add(LANES).cast(), S::f_to_i(qb));
        let (first, second) = (S::sum(qa), S::sum(qb));
        let words = line.add(GROUP).cast::<u32>();
        *words.add(SCALE) = scale.to_bits();
        for (i, part) in [first, second, first + second].into_iter().enumerate() {
            *words.add(NEGATED_SUM + i) = (-(part as i32)) as u32;
            *words.add(NEGATED_SCALED_SUM + i) = (-(part * scale)).to_bits();
        }
        [S::fma(qa, S::splat(-scale), a), S::fma(qb, S::splat(-scale), b)]
    }
}
