//! The packed layout: weights repacked once into panels of 16 rows, and the products that read it.
//!
//! A panel's integers lie group after group (32 values of each row): for 4 bits, four 64-byte lines of
//! 16 rows × 8 values, low nibbles for the first four values and high ones for the rest; 5 bits add a
//! line of single bits, 6 bits two lines of bit pairs; 8 bits are eight lines of 16 rows × 4 values.
//! So one line, a broadcast of four activations and one dot-product instruction advance 16 rows by 4
//! values, without shuffles. The scales lie behind each other likewise, 16 rows contiguous. Bytes per
//! weight are those of the source format, give or take 3%.

pub(crate) mod encoding;
mod pack;
pub(crate) mod tile;
pub(crate) mod unpacked;

use crate::ahead::Ahead;
use crate::formats::Format;
use crate::lines::{LINE_BYTES, Lines};

pub(crate) use encoding::Layout;
pub use pack::PackError;

/// Rows of a panel.
pub const PANEL_ROWS: usize = 16;

/// A quantized matrix in the packed layout.
#[derive(Debug)]
pub struct Panels {
    rows: usize,
    columns: usize,
    layout: Layout,
    codebook: Option<&'static [u8; 16]>,
    integers: Lines,
    scales: Lines,
    /// Lines per panel.
    integers_stride: usize,
    scales_stride: usize,
}

impl Panels {
    /// Output values: rows of the matrix.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Input values: the matrix's columns.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Number of panels.
    pub fn count(&self) -> usize {
        self.rows.div_ceil(PANEL_ROWS)
    }

    /// Bytes held, which are the bytes read per product.
    pub fn bytes(&self) -> usize {
        (self.integers.len() + self.scales.len()) * LINE_BYTES
    }

    /// Whether `format` can be packed.
    pub fn supports(format: &dyn Format) -> bool {
        Layout::of(format).is_some()
    }

    pub(crate) fn layout(&self) -> Layout {
        self.layout
    }

    pub(crate) fn codebook(&self) -> Option<&'static [u8; 16]> {
        self.codebook
    }

    /// Where the panels from `p` on lie.
    pub(crate) fn ahead(&self, p: usize) -> Ahead {
        let at = |lines: &Lines, stride: usize| {
            (lines.as_ptr().wrapping_add(p * stride) as usize, stride * LINE_BYTES)
        };
        Ahead {
            integers: at(&self.integers, self.integers_stride),
            scales: at(&self.scales, self.scales_stride),
            panels: self.count() - p,
        }
    }

    /// Addresses of panel `p`'s integers and scales.
    pub(crate) fn panel(&self, p: usize) -> (*const u8, *const u8) {
        let integers = &self.integers[p * self.integers_stride..(p + 1) * self.integers_stride];
        let scales = &self.scales[p * self.scales_stride..(p + 1) * self.scales_stride];
        (integers.as_ptr().cast(), scales.as_ptr().cast())
    }
}
