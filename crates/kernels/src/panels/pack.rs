//! Packing: from a GGUF tensor's blocks to [`Panels`].

use std::ops::Range;

use crate::formats::{self, BLOCK_VALUES_MAX, COARSE, COARSE_VALUES, Format, Quants};
use crate::lines::{LINE_BYTES, Lines, SharedLines, as_bytes_mut};
use crate::pool::{Pool, SharedSlice};

use super::{Layout, PANEL_ROWS, Panels, Shape};

/// Why a tensor can't be packed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PackError {
    /// There is no packed layout for the format.
    #[error("no packed layout for {0} weights")]
    Format(&'static str),
    /// Rows must be whole blocks.
    #[error("rows of {columns} values are not whole blocks of {block}")]
    Columns {
        /// Values of a row.
        columns: usize,
        /// Values of a block.
        block: usize,
    },
    /// Rows × columns do not give the tensor's bytes.
    #[error("{rows} rows of {columns} values need {needed} bytes, the tensor has {given}")]
    Bytes {
        /// Rows.
        rows: usize,
        /// Values of a row.
        columns: usize,
        /// Bytes they need.
        needed: usize,
        /// Bytes there are.
        given: usize,
    },
    /// No rows, or more than can be addressed.
    #[error("{rows} rows of {columns} values are no matrix that fits in memory")]
    Sizes {
        /// Rows.
        rows: usize,
        /// Values of a row.
        columns: usize,
    },
    /// The packed form is not where it should be in a file.
    #[error("the file has no {needed} bytes at {start}, or they do not begin at a line of 64 bytes")]
    Place {
        /// Offset in the file.
        start: usize,
        /// Bytes of the packed form.
        needed: usize,
    },
}

/// How a stored matrix is packed.
#[derive(Clone, Copy, Debug)]
pub struct Packing {
    stored: &'static dyn Format,
    is_coarse: bool,
}

impl From<&'static dyn Format> for Packing {
    /// As it is: the packed integers and scales are those of the file.
    fn from(stored: &'static dyn Format) -> Self {
        Packing { stored, is_coarse: false }
    }
}

impl Packing {
    /// In fewer bits: values of `stored` as the nearest of [`COARSE`].
    pub fn coarse(stored: &'static dyn Format) -> Self {
        Packing { stored, is_coarse: true }
    }

    /// The format that the packed matrix is of.
    pub fn format(&self) -> &'static dyn Format {
        if self.is_coarse { COARSE } else { self.stored }
    }

    /// Bytes of a stored row.
    fn row_bytes(&self, columns: usize) -> usize {
        columns / self.stored.block_values() * self.stored.block_bytes()
    }

    /// # Errors
    /// If the packed format has no layout, or rows are not whole blocks of either.
    fn shape(&self, (rows, columns): (usize, usize)) -> Result<Shape, PackError> {
        let block = self.stored.block_values();
        if !columns.is_multiple_of(block) {
            return Err(PackError::Columns { columns, block });
        }
        Shape::of(self.format(), rows, columns)
    }
}

/// Bytes of the packed form that are made at a time where memory is short.
const STRIPE_BYTES: usize = 1 << 20;

/// Some panels of a matrix: what can be packed by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stripe {
    /// Its rows.
    pub rows: Range<usize>,
    /// Its bytes of the tensor.
    pub bytes: Range<usize>,
    /// Where its integers and its scales begin in the packed form of the whole.
    pub starts: [usize; 2],
}

impl Panels {
    /// Packs `rows` rows of `columns` values, spread over the pool's threads.
    ///
    /// # Errors
    /// If the format has no packed layout or the sizes do not fit each other.
    pub fn pack(
        packing: impl Into<Packing>,
        data: &[u8],
        shape: (usize, usize),
        pool: &Pool,
    ) -> Result<Panels, PackError> {
        Self::pack_releasing(packing, data, shape, (pool, &|_| {}))
    }

    /// As [`Panels::pack`]; calls `read` with each range of `data` that will not be read again.
    ///
    /// # Errors
    /// As [`Panels::pack`].
    pub fn pack_releasing(
        packing: impl Into<Packing>,
        data: &[u8],
        (rows, columns): (usize, usize),
        (pool, read): (&Pool, &dyn Fn(Range<usize>)),
    ) -> Result<Panels, PackError> {
        let packing = packing.into();
        let shape = packing.shape((rows, columns))?;
        let row_bytes = packing.row_bytes(columns);
        let needed = rows.saturating_mul(row_bytes);
        if needed != data.len() {
            return Err(PackError::Bytes { rows, columns, needed, given: data.len() });
        }
        let Shape { integers_stride, scales_stride, .. } = shape;
        let mut integers = Lines::zeroed(integers_stride * shape.count());
        let mut scales = Lines::zeroed(scales_stride * shape.count());
        let (integer_parts, scale_parts) = (SharedSlice::new(&mut integers), SharedSlice::new(&mut scales));
        for stripe in shape.stripes(row_bytes) {
            let first = stripe.rows.start / PANEL_ROWS;
            pool.run(stripe.rows.len().div_ceil(PANEL_ROWS), &|panel, _| {
                let panel = first + panel;
                // SAFETY: each task takes its own panel's lines.
                let (integers, scales) = unsafe {
                    (
                        as_bytes_mut(integer_parts.part(panel * integers_stride, integers_stride)),
                        as_bytes_mut(scale_parts.part(panel * scales_stride, scales_stride)),
                    )
                };
                let from = panel * PANEL_ROWS * row_bytes;
                let data = &data[from..data.len().min(from + PANEL_ROWS * row_bytes)];
                let pack = if packing.is_coarse { pack_coarse_panel } else { pack_panel };
                pack(packing.stored, &shape.layout, (data, row_bytes), (integers, scales));
            });
            read(stripe.bytes);
        }
        Ok(shape.with(SharedLines::Owned(integers), SharedLines::Owned(scales)))
    }

    /// The stripes of a matrix in turn. Packed each by itself, they are its packed form.
    ///
    /// # Errors
    /// As [`Panels::pack`].
    pub fn stripes(
        packing: impl Into<Packing>,
        shape: (usize, usize),
    ) -> Result<impl Iterator<Item = Stripe>, PackError> {
        let packing = packing.into();
        Ok(packing.shape(shape)?.stripes(packing.row_bytes(shape.1)))
    }
}

impl Shape {
    fn stripes(self, row_bytes: usize) -> impl Iterator<Item = Stripe> {
        let panel_bytes = (self.integers_stride + self.scales_stride) * LINE_BYTES;
        let panels = (STRIPE_BYTES / panel_bytes).max(1);
        (0..self.count()).step_by(panels).map(move |panel| {
            let rows = panel * PANEL_ROWS..self.rows.min((panel + panels) * PANEL_ROWS);
            let scales = self.integers_stride * self.count() + self.scales_stride * panel;
            Stripe {
                bytes: rows.start * row_bytes..rows.end * row_bytes,
                rows,
                starts: [self.integers_stride * panel, scales].map(|lines| lines * LINE_BYTES),
            }
        })
    }
}

/// Packs one panel's rows, up to 16 of `row_bytes` bytes. Rows that do not exist stay zeros.
fn pack_panel(
    format: &'static dyn Format,
    layout: &Layout,
    (data, row_bytes): (&[u8], usize),
    (integers, scales): (&mut [u8], &mut [u8]),
) {
    let block = format.block_values();
    let mut quants = Quants::default();
    let mut codes: Codes = [[0; BLOCK_VALUES_MAX]; PANEL_ROWS];
    for index in 0..row_bytes / format.block_bytes() {
        let from = index * layout.scale_block_bytes();
        for (lane, (codes, row)) in codes.iter_mut().zip(data.chunks_exact(row_bytes)).enumerate() {
            let at = index * format.block_bytes();
            format.quants(&row[at..at + format.block_bytes()], &mut quants);
            codes.copy_from_slice(&quants.q);
            put_scales(layout, &quants, lane, &mut scales[from..]);
        }
        let from = index * block / 32 * layout.group_bytes();
        let groups = integers[from..].chunks_exact_mut(layout.group_bytes()).take(block / 32);
        groups.enumerate().for_each(|(group, to)| put_group(layout, &codes, group, to));
    }
}

/// As [`pack_panel`], for rows that are packed in fewer bits than they have.
fn pack_coarse_panel(
    stored: &'static dyn Format,
    layout: &Layout,
    (data, row_bytes): (&[u8], usize),
    (integers, scales): (&mut [u8], &mut [u8]),
) {
    let (block, block_bytes) = (stored.block_values(), stored.block_bytes());
    let columns = row_bytes / block_bytes * block;
    let mut quants = Quants::default();
    let mut codes: Codes = [[0; BLOCK_VALUES_MAX]; PANEL_ROWS];
    let mut values = vec![[0f32; COARSE_VALUES]; columns / COARSE_VALUES * PANEL_ROWS]; // [row][block]
    for (values, row) in values.as_flattened_mut().chunks_exact_mut(columns).zip(data.chunks_exact(row_bytes))
    {
        stored.dequantize(row, values);
    }
    let blocks = columns / COARSE_VALUES;
    let groups = integers.chunks_exact_mut(layout.group_bytes());
    let scales = scales.chunks_exact_mut(layout.scale_block_bytes());
    for (index, (integers, scales)) in groups.zip(scales).enumerate().take(blocks) {
        for (lane, codes) in codes.iter_mut().enumerate().take(data.len() / row_bytes) {
            formats::quantize(&values[lane * blocks + index], &mut quants);
            codes[..COARSE_VALUES].copy_from_slice(&quants.q[..COARSE_VALUES]);
            put_scales(layout, &quants, lane, scales);
        }
        put_group(layout, &codes, 0, integers);
    }
}

/// The codes of one block of every row of a panel.
type Codes = [[u8; BLOCK_VALUES_MAX]; PANEL_ROWS];

/// Writes 32 codes of every row. Value `k` of the group belongs to vector `k / 4`, byte `4 · row + k % 4`;
/// so a row's part of a vector is a word, and all below are operations on 16 words at once.
fn put_group(layout: &Layout, codes: &Codes, group: usize, to: &mut [u8]) {
    let mut vectors = [[0u32; PANEL_ROWS]; 8];
    for (row, codes) in codes.iter().enumerate() {
        let quads = codes[group * 32..][..32].as_chunks::<4>().0;
        for (vector, quad) in vectors.iter_mut().zip(quads) {
            vector[row] = u32::from_le_bytes(*quad);
        }
    }
    if layout.bits == 8 {
        to.chunks_exact_mut(LINE_BYTES).zip(&vectors).for_each(|(line, vector)| put_line(line, vector));
        return;
    }
    let (nibbles, planes) = to.split_at_mut(4 * LINE_BYTES);
    for (line, [even, odd]) in nibbles.chunks_exact_mut(LINE_BYTES).zip(vectors.as_chunks().0) {
        let nibbles = |row: usize| even[row] & 0x0F0F_0F0F | (odd[row] & 0x0F0F_0F0F) << 4;
        put_line(line, &std::array::from_fn(nibbles));
    }
    match layout.bits {
        5 => {
            for (plane, vector) in planes.chunks_exact_mut(8).zip(&vectors) {
                let bits = vector.iter().rev().fold(0u64, |bits, word| {
                    let spread = word >> 4 & 0x0101_0101;
                    bits << 4 | u64::from((spread | spread >> 7 | spread >> 14 | spread >> 21) & 15)
                });
                plane.copy_from_slice(&bits.to_le_bytes());
            }
        }
        6 => {
            for (plane, [a, b, c, d]) in planes.chunks_exact_mut(LINE_BYTES).zip(vectors.as_chunks().0) {
                let pairs = |word: u32| word >> 4 & 0x0303_0303;
                let all =
                    |row: usize| pairs(a[row]) | pairs(b[row]) << 2 | pairs(c[row]) << 4 | pairs(d[row]) << 6;
                put_line(plane, &std::array::from_fn(all));
            }
        }
        _ => {}
    }
}

fn put_line(line: &mut [u8], words: &[u32; PANEL_ROWS]) {
    for (bytes, word) in line.chunks_exact_mut(4).zip(words) {
        bytes.copy_from_slice(&word.to_le_bytes());
    }
}

/// Writes one row's block of scales into its lane: `d`, `dmin`, then per group scale and minimum.
fn put_scales(layout: &Layout, quants: &Quants, lane: usize, to: &mut [u8]) {
    let kinds = if layout.min { 2 } else { 1 };
    to[2 * lane..][..2].copy_from_slice(&quants.d.to_le_bytes());
    if layout.min {
        to[32 + 2 * lane..][..2].copy_from_slice(&quants.dmin.to_le_bytes());
    }
    if !layout.super_block {
        return;
    }
    let groups = layout.block_values() / if layout.halves { 16 } else { 32 };
    for group in 0..groups {
        let at = kinds * (32 + group * 16) + lane;
        to[at] = quants.scale[group] as u8;
        if layout.min {
            to[at + 16] = quants.min[group];
        }
    }
}
