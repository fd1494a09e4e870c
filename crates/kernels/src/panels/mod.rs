//! The packed layout: weights repacked once into panels of 16 rows, and the products that read it.
//!
//! A panel's integers lie group after group (32 values of each row): for 4 bits, four 64-byte lines of
//! 16 rows × 8 values, low nibbles for the first four values and high ones for the rest; 5 bits add a
//! line of single bits, 6 bits two lines of bit pairs; 8 bits are eight lines of 16 rows × 4 values.
//! So one line, a broadcast of four activations and one dot-product instruction advance 16 rows by 4
//! values, without shuffles. The scales lie behind each other likewise, 16 rows contiguous. Bytes per
//! weight are those of the source format, give or take 3%.

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub(crate) mod amx;
pub(crate) mod encoding;
mod pack;
pub(crate) mod tile;
pub(crate) mod unpacked;

use std::sync::Arc;

use crate::ahead::Ahead;
use crate::formats::Format;
use crate::lines::{LINE_BYTES, SharedLines, as_bytes};
use crate::mapped::Mapped;

pub(crate) use encoding::Layout;
pub use pack::{PackError, Packing, Stripe};

/// Rows of a panel.
pub const PANEL_ROWS: usize = 16;
/// Bytes that a panel takes per column, at most: 16 of integers, fewer of scales, and room.
const PANEL_BYTES_MAX: usize = 64;

/// Raised whenever the same tensor packs into other bytes, so that no file with the old ones is used. The
/// layout is the same for every instruction set.
pub const LAYOUT_VERSION: u32 = 1;

/// A quantized matrix in the packed layout.
#[derive(Debug)]
pub struct Panels {
    shape: Shape,
    integers: SharedLines, // [panel][integers_stride]
    scales: SharedLines,   // [panel][scales_stride]
}

/// What the sizes and places of a packed matrix follow from.
#[derive(Clone, Copy, Debug)]
struct Shape {
    rows: usize,
    columns: usize,
    layout: Layout,
    codebook: Option<&'static [u8; 16]>,
    /// Lines per panel.
    integers_stride: usize,
    scales_stride: usize,
}

impl Shape {
    /// # Errors
    /// If the format has no packed layout, rows are not whole blocks, or the sizes are none.
    fn of(format: &'static dyn Format, rows: usize, columns: usize) -> Result<Self, PackError> {
        let layout = Layout::of(format).ok_or(PackError::Format(format.name()))?;
        let block = format.block_values();
        if columns == 0 || !columns.is_multiple_of(block) {
            return Err(PackError::Columns { columns, block });
        }
        // No layout takes more bytes than this, so nothing below overflows.
        let most =
            columns.checked_mul(PANEL_BYTES_MAX).and_then(|m| m.checked_mul(rows.div_ceil(PANEL_ROWS)));
        if rows == 0 || most.is_none() {
            return Err(PackError::Sizes { rows, columns });
        }
        Ok(Shape {
            rows,
            columns,
            layout,
            codebook: format.integer().and_then(|integer| integer.codebook),
            integers_stride: columns / 32 * layout.group_bytes() / LINE_BYTES,
            scales_stride: (columns / layout.block_values() * layout.scale_block_bytes())
                .div_ceil(LINE_BYTES),
        })
    }

    fn count(&self) -> usize {
        self.rows.div_ceil(PANEL_ROWS)
    }

    fn bytes(&self) -> usize {
        (self.integers_stride + self.scales_stride) * self.count() * LINE_BYTES
    }

    /// The matrix of this shape that those lines hold.
    fn with(self, integers: SharedLines, scales: SharedLines) -> Panels {
        debug_assert_eq!(integers.len(), self.integers_stride * self.count());
        debug_assert_eq!(scales.len(), self.scales_stride * self.count());
        Panels { shape: self, integers, scales }
    }
}

impl Panels {
    /// Output values: rows of the matrix.
    pub fn rows(&self) -> usize {
        self.shape.rows
    }

    /// Input values: the matrix's columns.
    pub fn columns(&self) -> usize {
        self.shape.columns
    }

    /// Number of panels.
    pub fn count(&self) -> usize {
        self.shape.count()
    }

    /// Bytes held, which are the bytes read per product.
    pub fn bytes(&self) -> usize {
        self.shape.bytes()
    }

    /// Whether `format` can be packed.
    pub fn supports(format: &dyn Format) -> bool {
        Layout::of(format).is_some()
    }

    /// Bytes that a matrix takes packed: [`Panels::bytes`], without packing it.
    ///
    /// # Errors
    /// As [`Panels::pack`].
    pub fn packed_bytes(
        format: &'static dyn Format,
        (rows, columns): (usize, usize),
    ) -> Result<usize, PackError> {
        Shape::of(format, rows, columns).map(|shape| shape.bytes())
    }

    /// The packed form as a file holds it, [`Panels::bytes`] in two parts: integers, then scales.
    pub fn parts(&self) -> [&[u8]; 2] {
        [as_bytes(&self.integers), as_bytes(&self.scales)]
    }

    /// The matrix whose [`Panels::parts`] lie behind each other in `file` from byte `start` on. It points
    /// into the file; what the bytes say is not looked at.
    ///
    /// # Errors
    /// If there can be no such matrix, or the file does not hold it at a multiple of 64 bytes.
    pub fn of_file(
        format: &'static dyn Format,
        (rows, columns): (usize, usize),
        file: &Arc<Mapped>,
        start: usize,
    ) -> Result<Panels, PackError> {
        let shape = Shape::of(format, rows, columns)?;
        let place = PackError::Place { start, needed: shape.bytes() };
        let lines = |start: usize, stride: usize| {
            SharedLines::of_file(file, start, stride * shape.count()).ok_or_else(|| place.clone())
        };
        let integers = lines(start, shape.integers_stride)?;
        let scales = lines(start + integers.len() * LINE_BYTES, shape.scales_stride)?;
        Ok(shape.with(integers, scales))
    }

    pub(crate) fn layout(&self) -> Layout {
        self.shape.layout
    }

    pub(crate) fn codebook(&self) -> Option<&'static [u8; 16]> {
        self.shape.codebook
    }

    /// Where the panels from `p` on lie.
    pub(crate) fn ahead(&self, p: usize) -> Ahead {
        let at = |lines: &SharedLines, stride: usize| {
            (lines.as_ptr().wrapping_add(p * stride) as usize, stride * LINE_BYTES)
        };
        Ahead {
            integers: at(&self.integers, self.shape.integers_stride),
            scales: at(&self.scales, self.shape.scales_stride),
            panels: self.count() - p,
        }
    }

    /// Addresses of panel `p`'s integers and scales.
    pub(crate) fn panel(&self, p: usize) -> (*const u8, *const u8) {
        let Shape { integers_stride, scales_stride, .. } = self.shape;
        let integers = &self.integers[p * integers_stride..(p + 1) * integers_stride];
        let scales = &self.scales[p * scales_stride..(p + 1) * scales_stride];
        (integers.as_ptr().cast(), scales.as_ptr().cast())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checksum::checksum;
    use crate::formats::{COARSE, COARSE_VALUES, FORMATS, Quants, quantize};
    use crate::pool::Pool;

    const ROWS: usize = 35;
    const COLUMNS: usize = 768;

    fn packable() -> impl Iterator<Item = (&'static dyn Format, Vec<u8>)> {
        FORMATS.iter().copied().filter(|format| Panels::supports(*format)).map(|format| {
            let bytes = ROWS * COLUMNS / format.block_values() * format.block_bytes();
            (format, (0..bytes as u64).map(|i| (i.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 53) as u8).collect())
        })
    }

    fn pack(format: &'static dyn Format, data: &[u8]) -> Panels {
        Panels::pack(format, data, (ROWS, COLUMNS), &Pool::new(2)).unwrap()
    }

    #[test]
    fn packed_bytes_change_only_with_the_layouts_version() {
        let sums: Vec<u8> = packable()
            .flat_map(|(format, data)| {
                checksum(&pack(format, &data).parts().concat(), &Pool::new(1)).to_le_bytes()
            })
            .collect();
        // Another sum: raise the version, so that files packed before are packed anew.
        let expected = (1, 6_140_544_661_020_114_573);
        assert_eq!((LAYOUT_VERSION, checksum(&sums, &Pool::new(1))), expected);
    }

    /// Rows of `columns` values between −1 and 1 of every format, with sane scales.
    fn stored(format: &'static dyn Format, columns: usize) -> Vec<u8> {
        let mut state = 5u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        };
        match format.name() {
            "F32" => (0..ROWS * columns).flat_map(|_| next().to_le_bytes()).collect(),
            "F16" => (0..ROWS * columns).flat_map(|_| half::f16::from_f32(next()).to_le_bytes()).collect(),
            "BF16" => (0..ROWS * columns).flat_map(|_| half::bf16::from_f32(next()).to_le_bytes()).collect(),
            _ => {
                let bytes = ROWS * columns / format.block_values() * format.block_bytes();
                // No exponent of a scale is above 15: values stay finite.
                (0..bytes).map(|_| (next() * 127.0) as i8 as u8 & 0xBF).collect()
            }
        }
    }

    /// Coarse panels hold the nearest blocks of the values that are stored, whatever the format.
    #[test]
    fn coarse_panels_are_those_of_coarse_blocks() {
        let pool = Pool::new(2);
        for &format in FORMATS {
            let data = stored(format, COLUMNS);
            let mut values = vec![0f32; ROWS * COLUMNS];
            format.dequantize(&data, &mut values);
            let mut blocks = Vec::new();
            for values in values.as_chunks().0 {
                let mut quants = Quants::default();
                quantize(values, &mut quants);
                blocks.extend(quants.d.to_le_bytes());
                let (low, high) = quants.q[..COARSE_VALUES].split_at(COARSE_VALUES / 2);
                blocks.extend(low.iter().zip(high).map(|(low, high)| low | high << 4));
            }
            let expected = Panels::pack(COARSE, &blocks, (ROWS, COLUMNS), &pool).unwrap();
            let coarse = Packing::coarse(format);
            let panels = Panels::pack(coarse, &data, (ROWS, COLUMNS), &pool).unwrap();
            assert_eq!(panels.parts(), expected.parts(), "{}", format.name());
            assert_eq!(Panels::packed_bytes(coarse.format(), (ROWS, COLUMNS)), Ok(panels.bytes()));
            let block = format.block_values().max(COARSE_VALUES);
            let columns = COLUMNS + block / 2;
            let refused = Panels::pack(coarse, &data, (ROWS, columns), &pool);
            assert!(matches!(refused, Err(PackError::Columns { .. })), "{}", format.name());
        }
    }

    #[test]
    fn stripes_packed_by_themselves_are_the_whole() {
        for (format, packing) in
            packable().flat_map(|(f, _)| [(f, Packing::from(f)), (f, Packing::coarse(f))])
        {
            // Long rows, so that a matrix of a few panels has several stripes.
            let (rows, columns) = (2 * PANEL_ROWS + 5, 1 << 16);
            let bytes = rows * columns / format.block_values() * format.block_bytes();
            let data: Vec<u8> =
                (0..bytes as u64).map(|i| (i.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 53) as u8).collect();
            let released = std::sync::Mutex::new(Vec::new());
            let read = |range| released.lock().unwrap().push(range);
            let pool = Pool::new(2);
            let whole = Panels::pack_releasing(packing, &data, (rows, columns), (&pool, &read)).unwrap();
            let whole = whole.parts().concat();
            let stripes: Vec<Stripe> = Panels::stripes(packing, (rows, columns)).unwrap().collect();
            assert!(stripes.len() > 1, "{}", format.name());
            let ranges: Vec<_> = stripes.iter().map(|stripe| stripe.bytes.clone()).collect();
            assert_eq!(ranges, released.into_inner().unwrap());
            assert_eq!((ranges[0].start, ranges[ranges.len() - 1].end), (0, data.len()));
            for stripe in stripes {
                let own = &data[stripe.bytes.clone()];
                let packed = Panels::pack(packing, own, (stripe.rows.len(), columns), &pool).unwrap();
                for (part, start) in packed.parts().into_iter().zip(stripe.starts) {
                    assert_eq!(part, &whole[start..start + part.len()], "{} {stripe:?}", format.name());
                }
            }
        }
    }

    #[test]
    fn a_matrix_written_to_a_file_is_the_same_matrix() {
        for (format, data) in packable() {
            let packed = pack(format, &data);
            assert_eq!(Panels::packed_bytes(format, (ROWS, COLUMNS)), Ok(packed.bytes()));
            let file =
                Arc::new(Mapped::from([&[7; LINE_BYTES], packed.parts().concat().as_slice()].concat()));
            let mapped = Panels::of_file(format, (ROWS, COLUMNS), &file, LINE_BYTES).unwrap();
            assert_eq!((mapped.bytes(), mapped.count()), (packed.bytes(), packed.count()));
            assert_eq!(mapped.parts(), packed.parts(), "{}", format.name());
            let place = |shape, start| Panels::of_file(format, shape, &file, start).unwrap_err();
            for start in [0, 1, LINE_BYTES - 1, 2 * LINE_BYTES, usize::MAX - 63, usize::MAX] {
                let too_long = (ROWS + PANEL_ROWS, COLUMNS);
                assert!(matches!(place(too_long, start), PackError::Place { .. }), "{start}");
            }
            assert!(matches!(place((ROWS, COLUMNS), 1), PackError::Place { .. }));
            assert!(matches!(place((0, COLUMNS), 0), PackError::Sizes { .. }));
            assert!(matches!(place((usize::MAX, COLUMNS), 0), PackError::Sizes { .. }));
            assert!(matches!(place((ROWS, COLUMNS + 1), 0), PackError::Columns { .. }));
        }
    }
}
