//! Packing: from a GGUF tensor's blocks to [`Panels`].

use crate::formats::{Format, Quants};
use crate::lines::{Lines, SharedLines, as_bytes_mut};
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

impl Panels {
    /// Packs `rows` rows of `columns` values of `format`, spread over the pool's threads.
    ///
    /// # Errors
    /// If the format has no packed layout or the sizes do not fit each other.
    pub fn pack(
        format: &'static dyn Format,
        data: &[u8],
        (rows, columns): (usize, usize),
        pool: &Pool,
    ) -> Result<Panels, PackError> {
        let shape = Shape::of(format, rows, columns)?;
        let block = format.block_values();
        let needed = rows.saturating_mul(columns / block).saturating_mul(format.block_bytes());
        if needed != data.len() {
            return Err(PackError::Bytes { rows, columns, needed, given: data.len() });
        }
        let Shape { layout, integers_stride, scales_stride, .. } = shape;
        let mut integers = Lines::zeroed(integers_stride * shape.count());
        let mut scales = Lines::zeroed(scales_stride * shape.count());
        let (integer_parts, scale_parts) = (SharedSlice::new(&mut integers), SharedSlice::new(&mut scales));
        let row_bytes = columns / block * format.block_bytes();
        pool.run(shape.count(), &|panel, _| {
            // SAFETY: each task takes its own panel's lines.
            let (integers, scales) = unsafe {
                (
                    as_bytes_mut(integer_parts.part(panel * integers_stride, integers_stride)),
                    as_bytes_mut(scale_parts.part(panel * scales_stride, scales_stride)),
                )
            };
            let first = panel * PANEL_ROWS;
            let mut quants = Quants::default();
            for row in first..rows.min(first + PANEL_ROWS) {
                let bytes = &data[row * row_bytes..(row + 1) * row_bytes];
                for (index, source) in bytes.chunks_exact(format.block_bytes()).enumerate() {
                    format.quants(source, &mut quants);
                    let lane = row - first;
                    let from = index * block / 32 * layout.group_bytes();
                    put_integers(&layout, &quants.q[..block], lane, &mut integers[from..]);
                    let from = index * layout.scale_block_bytes();
                    put_scales(&layout, &quants, lane, &mut scales[from..]);
                }
            }
        });
        Ok(shape.with(SharedLines::Owned(integers), SharedLines::Owned(scales)))
    }
}

/// Writes one row's block of integers into its lane of the panel. Value `k` of a group belongs to
/// vector `k / 4` of the group, byte `4 · lane + k % 4`.
fn put_integers(layout: &Layout, q: &[u8], lane: usize, to: &mut [u8]) {
    for (group, q) in q.chunks_exact(32).enumerate() {
        let to = &mut to[group * layout.group_bytes()..][..layout.group_bytes()];
        for (k, &q) in q.iter().enumerate() {
            let (vector, byte) = (k / 4, 4 * lane + k % 4);
            if layout.bits == 8 {
                to[vector * 64 + byte] = q;
                continue;
            }
            to[vector / 2 * 64 + byte] |= (q & 15) << (4 * (vector % 2));
            let high = q >> 4;
            let planes = &mut to[256..];
            match layout.bits {
                5 => planes[vector * 8 + byte / 8] |= (high & 1) << (byte % 8),
                6 => planes[vector / 4 * 64 + byte] |= (high & 3) << (2 * (vector % 4)),
                _ => {}
            }
        }
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
