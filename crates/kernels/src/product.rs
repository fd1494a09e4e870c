//! Matrix products over the pool: weights times a batch of columns.

use std::cell::RefCell;

use crate::activations::{Activations, BLOCK_COLUMNS, GROUP};
use crate::ahead::Ahead;
use crate::formats::Format;
use crate::isa::Isa;
use crate::lines::LINE_BYTES;
use crate::panels::tile::TileCall;
use crate::panels::unpacked::ColumnsCall;
use crate::panels::{PANEL_ROWS, Panels};
use crate::pool::{Pool, SharedSlice};
use crate::vector::FloatRow;

/// Columns of a pass at the least: fewer would re-read the weights too often.
const COLUMN_BLOCK_MIN: usize = 32;
/// Columns that one task fills where there are many: a block of the quantized layout.
const FILL_COLUMNS: usize = 8;
/// Tasks per thread at the most: enough that an interrupted thread's share is taken by others.
const TASKS_PER_THREAD: usize = 12;

/// See [`refine`].
const NEAR: f32 = 0.1875;
/// Values of the widest tile.
const TILE_VALUES: usize = PANEL_ROWS * BLOCK_COLUMNS;

/// Weights that are multiplied as floats: float formats, and every format on the exact path. Rows are
/// dequantized as they are used.
#[derive(Clone, Copy, Debug)]
pub struct FloatRows<'a> {
    /// How the rows are stored.
    pub format: &'static dyn Format,
    /// `rows` rows of whole blocks.
    pub data: &'a [u8],
    /// Output values.
    pub rows: usize,
    /// Input values.
    pub columns: usize,
}

/// Either kind of weights.
#[derive(Clone, Copy, Debug)]
pub enum Weights<'a> {
    /// Packed integers: so many rows of them, from the first.
    Panels(&'a Panels, usize),
    /// Floats.
    Float(FloatRows<'a>),
}

impl<'a> From<&'a Panels> for Weights<'a> {
    fn from(panels: &'a Panels) -> Self {
        Weights::Panels(panels, panels.rows())
    }
}

impl Weights<'_> {
    /// The first `rows` rows, or all if there are fewer.
    #[must_use]
    pub fn first_rows(self, rows: usize) -> Self {
        match self {
            Weights::Panels(panels, all) => Weights::Panels(panels, rows.min(all)),
            Weights::Float(float) => {
                let rows = rows.min(float.rows);
                let data = &float.data[..rows * (float.data.len() / float.rows.max(1))];
                Weights::Float(FloatRows { data, rows, ..float })
            }
        }
    }

    /// Output values.
    pub fn rows(&self) -> usize {
        match self {
            Weights::Panels(_, rows) => *rows,
            Weights::Float(float) => float.rows,
        }
    }

    /// Input values.
    pub fn columns(&self) -> usize {
        match self {
            Weights::Panels(panels, _) => panels.columns(),
            Weights::Float(float) => float.columns,
        }
    }

    /// Panels, or groups of as many rows.
    fn panels(&self) -> usize {
        self.rows().div_ceil(PANEL_ROWS)
    }
}

/// The right-hand side of a product: a batch of columns, as floats, quantized, or both.
#[derive(Debug, Default)]
pub struct Columns {
    inner: usize,
    count: usize,
    /// `[column][inner]`; where only quantized columns are read, a row per thread to write them in.
    float: Vec<f32>,
    quantized: Activations,
    /// What rounding took, of columns that are to be refined.
    rest: Activations,
    has_floats: bool,
    rounding: Rounding,
}

/// What integer products are given of their input.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rounding {
    /// Nothing: only float products read it.
    #[default]
    None,
    /// Eight bits a value, with a scale per 32 values.
    Int8,
    /// The same, and eight bits of what that takes from each value, for [`refine`].
    Int8WithRest,
}

/// Called with a column's number, its row of the state, and the column to write.
pub type FillColumn<'a> = dyn Fn(usize, &mut [f32], &mut [f32]) + Sync + 'a;

/// How [`Columns::fill`] lays columns out.
#[derive(Clone, Copy, Debug)]
pub struct ColumnsShape {
    /// Values of a column; whole groups of 32 if rounded.
    pub inner: usize,
    /// Columns.
    pub count: usize,
    /// What integer products will read.
    pub rounding: Rounding,
    /// Whether float products will read them. Writing floats that nobody reads costs memory traffic.
    pub floats: bool,
}

impl ColumnsShape {
    /// Values of floats, lines of integers and lines of what rounding takes that up to as many columns have.
    fn room(&self, threads: usize) -> (usize, usize, usize) {
        let kept = if self.floats { self.count } else { threads };
        let lines = Activations::lines_max(self.inner, self.count);
        let (lines, rest) = match self.rounding {
            Rounding::None => (0, 0),
            Rounding::Int8 => (lines, 0),
            Rounding::Int8WithRest => (lines, lines),
        };
        (self.inner * kept, lines, rest)
    }
}

impl Columns {
    /// Without columns; for those of `shapes` and a pool of `threads` it never grows. Its pages are
    /// committed as they are used.
    pub fn with_room(shapes: &[ColumnsShape], threads: usize) -> Self {
        let (floats, lines, rest) = Self::room(shapes, threads);
        Columns {
            float: Vec::with_capacity(floats),
            quantized: Activations::with_room(lines),
            rest: Activations::with_room(rest),
            ..Columns::default()
        }
    }

    /// Bytes that [`Columns::with_room`] takes.
    pub fn bytes(shapes: &[ColumnsShape], threads: usize) -> usize {
        let (floats, lines, rest) = Self::room(shapes, threads);
        floats * size_of::<f32>() + (lines + rest) * LINE_BYTES
    }

    fn room(shapes: &[ColumnsShape], threads: usize) -> (usize, usize, usize) {
        shapes.iter().fold((0, 0, 0), |most, shape| {
            let (floats, lines, rest) = shape.room(threads);
            (most.0.max(floats), most.1.max(lines), most.2.max(rest))
        })
    }

    /// Calls `body(column, row of state, column's values)` for every column, spread over the pool, and
    /// quantizes what it wrote. `state` is cut into as many equal rows as there are columns.
    /// Allocates only to grow.
    ///
    /// # Panics
    /// If `state` can't be cut so, or the shape is not quantizable.
    pub fn fill(
        &mut self,
        (isa, pool): (Isa, &Pool),
        shape: ColumnsShape,
        state: &mut [f32],
        body: &FillColumn,
    ) {
        let ColumnsShape { inner, count, rounding, floats } = shape;
        (self.inner, self.count) = (inner, count);
        (self.rounding, self.has_floats) = (rounding, floats);
        let kept = if floats { count } else { pool.threads() };
        if self.float.len() < inner * kept {
            self.float.resize(inner * kept, 0.0);
        }
        if count == 0 {
            return;
        }
        assert!(state.len().is_multiple_of(count), "state is not one row per column");
        if rounding != Rounding::None {
            self.quantized.resize(inner, count, isa.kernels().block_columns(count));
        }
        if rounding == Rounding::Int8WithRest {
            self.rest.resize(inner, count, isa.kernels().block_columns(count));
        }
        let stride = state.len() / count;
        let (rows, columns) = (SharedSlice::new(state), SharedSlice::new(&mut self.float));
        let (writer, rest) = (self.quantized.writer(), self.rest.writer());
        let share = if count >= 4 * FILL_COLUMNS { FILL_COLUMNS } else { 1 };
        pool.run(count.div_ceil(share), &|task, thread| {
            for column in task * share..count.min((task + 1) * share) {
                let to = if floats { column } else { thread };
                // SAFETY: every task takes its own rows and columns, every thread its own buffer.
                let (row, values) =
                    unsafe { (rows.part(column * stride, stride), columns.part(to * inner, inner)) };
                body(column, row, values);
                // SAFETY: the CPU has the set; this column of the activations, and of what rounding takes, is the
                // task's own.
                unsafe {
                    match rounding {
                        Rounding::None => {}
                        Rounding::Int8 => (isa.kernels().quantize)(&writer, column, values),
                        Rounding::Int8WithRest => {
                            (isa.kernels().quantize_with_rest)(&writer, &rest, column, values);
                        }
                    }
                }
            }
        });
    }

    /// Column `column` as floats.
    ///
    /// # Panics
    /// If floats were not asked for.
    pub fn float(&self, column: usize) -> &[f32] {
        assert!(self.has_floats, "float products need float columns");
        &self.float[column * self.inner..(column + 1) * self.inner]
    }
}

/// Calls `body(row, values)` for every row of `stride` values, spread over the pool.
///
/// # Panics
/// If `values` is not whole rows.
pub fn each_row(pool: &Pool, values: &mut [f32], stride: usize, body: &(dyn Fn(usize, &mut [f32]) + Sync)) {
    assert!(values.len().is_multiple_of(stride), "values are not whole rows");
    let count = values.len() / stride;
    let rows = SharedSlice::new(values);
    pool.run(count, &|row, _| {
        // SAFETY: every task takes its own row.
        body(row, unsafe { rows.part(row * stride, stride) });
    });
}

/// Says that a product of these weights will follow the next one, so that threads that have to wait in
/// between can ask memory for them.
pub fn announce(pool: &Pool, products: &[Weights]) {
    let panels = products.iter().map(Weights::panels).sum();
    pool.announce(panels, |first| {
        let mut start = 0;
        for weights in products {
            let end = start + weights.panels();
            if first < end {
                return match weights {
                    Weights::Panels(panels, _) => panels.ahead(first - start),
                    Weights::Float(_) => Ahead::default(),
                };
            }
            start = end;
        }
        Ahead::default()
    });
}

/// Computes several products of the same columns in one job of the pool. The products' rows stand
/// behind each other: `output[column · Σ rows + rows of the products before + row]`.
///
/// # Panics
/// If sizes do not fit each other: programming errors, since models are validated when loaded.
pub fn multiply((isa, pool): (Isa, &Pool), products: &[Weights], input: &Columns, output: &mut [f32]) {
    let columns = input.count;
    let stride: usize = products.iter().map(Weights::rows).sum();
    assert!(output.len() >= stride * columns, "no room for the products");
    products.iter().for_each(|weights| check(weights, input));
    if columns == 0 {
        return;
    }
    let output = SharedSlice::new(output);
    let block_columns = isa.kernels().block_columns(columns);
    let most = (isa.kernels().pass_bytes / input.inner).max(COLUMN_BLOCK_MIN) / block_columns * block_columns;
    // Of equal blocks, so that none has few columns left.
    let block = columns.div_ceil(columns.div_ceil(most)).next_multiple_of(block_columns);
    let blocks = columns.div_ceil(block);
    let panels: usize = products.iter().map(Weights::panels).sum();
    // Equal shares of panels, the same for every column block.
    let share = panels.div_ceil(pool.threads() * TASKS_PER_THREAD).max(1);
    let shares = panels.div_ceil(share);
    pool.run(blocks * shares, &|task, _| {
        let first_column = task / shares * block;
        let count = block.min(columns - first_column);
        let from = task % shares * share;
        let range = from..panels.min(from + share);
        let (mut start, mut offset) = (0, 0);
        for weights in products {
            let end = start + weights.panels();
            let part = Part { weights, input, first_column, count, output, offset, stride };
            for panel in range.start.max(start)..range.end.min(end) {
                part.multiply_panel(isa, panel - start);
            }
            (start, offset) = (end, offset + weights.rows());
        }
    });
}

/// Adds to each column's highest products what rounding the column to eight bits took from them: of 16 neighbouring
/// ones, if any of them is as near to the highest as a share of [`NEAR`] of the way to their mean. Rounding moves a
/// product by a hundredth of their spread, so these are the only ones that can be the highest; they become as exact as
/// with 16 bits, without their work for all. `output`: of [`multiply`] by one matrix.
///
/// # Panics
/// If sizes do not fit each other, or the columns were not filled for it.
pub fn refine((isa, pool): (Isa, &Pool), weights: Weights, input: &Columns, output: &mut [f32]) {
    let Weights::Panels(panels, rows) = weights else { return };
    assert!(input.rounding == Rounding::Int8WithRest, "columns were filled without what rounding takes");
    check(&weights, input);
    each_row(pool, &mut output[..rows * input.count], rows, &|column, products| {
        let threshold = near(products);
        for (panel, products) in products.chunks_mut(PANEL_ROWS).enumerate() {
            if !products.iter().any(|&product| product >= threshold) {
                continue;
            }
            let (integers, scales) = panels.panel(panel);
            let mut sums = [0f32; PANEL_ROWS];
            let call = TileCall {
                integers,
                scales,
                codebook: panels.codebook(),
                groups: panels.columns() / GROUP,
                input: input.rest.tile(column),
                output: sums.as_mut_ptr(),
                output_stride: PANEL_ROWS,
                rows: products.len(),
            };
            // SAFETY: the CPU has the set; the column exists, `sums` has room for its values.
            unsafe { isa.kernels().tile(panels.layout().index(), 0)(&call) };
            products.iter_mut().zip(sums).for_each(|(product, rest)| *product += rest);
        }
    });
}

/// How near to the highest of them products have to be: from there the share [`NEAR`] of the way to their mean. The
/// same on every machine.
fn near(products: &[f32]) -> f32 {
    let (mut tops, mut sums) = ([f32::NEG_INFINITY; PANEL_ROWS], [0f32; PANEL_ROWS]);
    for products in products.chunks(PANEL_ROWS) {
        for ((top, sum), &product) in tops.iter_mut().zip(&mut sums).zip(products) {
            *top = if product > *top { product } else { *top };
            *sum += product;
        }
    }
    let top = tops.into_iter().fold(f32::NEG_INFINITY, f32::max);
    let mean = sums.iter().sum::<f32>() / products.len() as f32;
    top - NEAR * (top - mean)
}

/// Panics unless every read of the product is in bounds.
fn check(weights: &Weights, input: &Columns) {
    assert!(weights.columns() == input.inner, "columns do not fit the weights");
    match weights {
        Weights::Panels(..) => {
            assert!(input.rounding != Rounding::None, "integer products need quantized columns")
        }
        Weights::Float(float) => {
            assert!(input.has_floats, "float products need float columns");
            let blocks = float.columns / float.format.block_values();
            assert!(float.data.len() == float.rows * blocks * float.format.block_bytes());
        }
    }
}

/// Some columns of one product.
struct Part<'a> {
    weights: &'a Weights<'a>,
    input: &'a Columns,
    first_column: usize,
    count: usize,
    output: SharedSlice<f32>,
    /// The product's first row among all rows of a column.
    offset: usize,
    stride: usize,
}

impl Part<'_> {
    /// One panel (or as many float rows) times the columns.
    fn multiply_panel(&self, isa: Isa, panel: usize) {
        let first = panel * PANEL_ROWS;
        let rows = PANEL_ROWS.min(self.weights.rows() - first);
        match self.weights {
            Weights::Panels(panels, _) => self.multiply_integers(isa, panels, (panel, rows)),
            Weights::Float(float) => self.multiply_floats(isa, float, first..first + rows),
        }
    }

    fn output(&self, column: usize, row: usize) -> *mut f32 {
        self.output.address(column * self.stride + self.offset + row)
    }

    fn multiply_integers(&self, isa: Isa, panels: &Panels, (panel, rows): (usize, usize)) {
        let tile = |width: u32| isa.kernels().tile(panels.layout().index(), width);
        let (integers, scales) = panels.panel(panel);
        let end = self.first_column + self.count;
        let mut column = self.first_column;
        let call = |column: usize| TileCall {
            integers,
            scales,
            codebook: panels.codebook(),
            groups: panels.columns() / GROUP,
            input: self.input.quantized.tile(column),
            output: self.output(column, panel * PANEL_ROWS),
            output_stride: self.stride,
            rows,
        };
        let activations = &self.input.quantized;
        if let Some((kernel, many)) = isa.kernels().many_columns(panels.layout().index(), self.count)
            && activations.tile_columns(column) >= many.tile
        {
            let columns = self.count / many.multiple * many.multiple;
            let all = ColumnsCall { first: call(column), activations, column, columns };
            // SAFETY: as below.
            unsafe { kernel(&all) };
            column += columns;
        }
        while column < end {
            let width = self.tile_width(isa, column, end);
            let count = (end - column).min(1 << width);
            if count == 1 << width {
                // SAFETY: the CPU has the set; `multiply` proved the bounds of all columns, and no two
                // tasks share a panel and a column.
                unsafe { tile(width)(&call(column)) };
            } else {
                let mut sums = [0f32; TILE_VALUES];
                let call = TileCall { output: sums.as_mut_ptr(), output_stride: PANEL_ROWS, ..call(column) };
                // SAFETY: the input has lines of that many columns, `sums` room for their values.
                unsafe { tile(width)(&call) };
                for (at, values) in sums.chunks_exact(PANEL_ROWS).take(count).enumerate() {
                    let to = self.output(column + at, panel * PANEL_ROWS);
                    // SAFETY: as above.
                    unsafe { std::ptr::copy_nonoverlapping(values.as_ptr(), to, rows) };
                }
            }
            column += count;
        }
    }

    /// Log2 of the columns that a tile from `column` takes: all up to `end`, if there is one so wide. One that is
    /// too wide takes less time than several that are not, since each unpacks the weights.
    fn tile_width(&self, isa: Isa, column: usize, end: usize) -> u32 {
        let widest = self.input.quantized.tile_columns(column).min(isa.kernels().columns_max);
        (end - column).next_power_of_two().min(widest).ilog2()
    }

    fn multiply_floats(&self, isa: Isa, float: &FloatRows, rows: std::ops::Range<usize>) {
        let row_bytes = float.data.len() / float.rows;
        FLOAT_ROW.with_borrow_mut(|values| {
            values.resize(float.columns, 0.0);
            for row in rows {
                float.format.dequantize(&float.data[row * row_bytes..(row + 1) * row_bytes], values);
                let call = FloatRow {
                    x: self.input.float(self.first_column).as_ptr(),
                    stride: float.columns,
                    columns: self.count,
                    output: self.output(self.first_column, row),
                    output_stride: self.stride,
                };
                // SAFETY: as above.
                unsafe { (isa.kernels().float_row)(values, &call) };
            }
        });
    }
}

thread_local! {
    /// The row of weights that a thread multiplies; kept, so that a product allocates nothing.
    static FLOAT_ROW: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::formats::{self, FORMATS};
    use crate::panels::PackError;

    /// Of a refined product, as a share of [`sizes_of_terms`]: a value is off by half of 1/127 of 1/254 of the largest of
    /// its group at most, and the sum by its own rounding. Eight bits may be 254 times further off.
    const REFINED_ERROR: f64 = 1.6e-5;

    /// A small generator, so that cases are reproducible from one seed.
    pub(crate) struct Random(pub u64);

    impl Random {
        pub(crate) fn next(&mut self) -> u64 {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            self.0 >> 33
        }
        /// In −1..1.
        pub(crate) fn float(&mut self) -> f32 {
            (self.next() % 20_001) as f32 / 10_000.0 - 1.0
        }
    }

    /// Random blocks whose f16 scales are of sane size.
    fn random_rows(format: &dyn Format, rows: usize, columns: usize, random: &mut Random) -> Vec<u8> {
        let bytes = rows * columns / format.block_values() * format.block_bytes();
        let data = (0..bytes).map(|_| random.next() as u8).collect();
        with_sane_scales(format, data, random)
    }

    fn with_sane_scales(format: &dyn Format, mut data: Vec<u8>, random: &mut Random) -> Vec<u8> {
        for block in data.chunks_exact_mut(format.block_bytes()) {
            let scale = |r: &mut Random| half::f16::from_f32(r.float() * 0.01).to_le_bytes();
            match format.name() {
                "F32" => block.copy_from_slice(&random.float().to_le_bytes()),
                "F16" => block.copy_from_slice(&scale(random)),
                "BF16" => block.copy_from_slice(&half::bf16::from_f32(random.float()).to_le_bytes()),
                "Q2_K" => {
                    block[80..82].copy_from_slice(&scale(random));
                    block[82..84].copy_from_slice(&scale(random));
                }
                "Q3_K" => block[108..110].copy_from_slice(&scale(random)),
                "Q6_K" => block[208..210].copy_from_slice(&scale(random)),
                name => {
                    block[..2].copy_from_slice(&scale(random));
                    if ["Q4_1", "Q5_1", "Q4_K", "Q5_K"].contains(&name) {
                        block[2..4].copy_from_slice(&scale(random));
                    }
                }
            }
        }
        data
    }

    fn columns((isa, pool): (Isa, &Pool), x: &[f32], inner: usize, rounding: Rounding) -> Columns {
        let mut columns = Columns::default();
        let floats = rounding == Rounding::None;
        let shape = ColumnsShape { inner, count: x.len() / inner, rounding, floats };
        columns.fill((isa, pool), shape, &mut x.to_vec(), &|_, row, values| values.copy_from_slice(row));
        columns
    }

    fn product(kernels: (Isa, &Pool), weights: Weights, x: &[f32]) -> Vec<f32> {
        product_of(kernels, weights, x, Rounding::Int8)
    }

    /// The product with `rounding`, where the weights are integers.
    fn product_of((isa, pool): (Isa, &Pool), weights: Weights, x: &[f32], rounding: Rounding) -> Vec<f32> {
        let rounding = if matches!(weights, Weights::Panels(..)) { rounding } else { Rounding::None };
        let input = columns((isa, pool), x, weights.columns(), rounding);
        let mut output = vec![f32::NAN; weights.rows() * input.count];
        multiply((isa, pool), &[weights], &input, &mut output);
        output
    }

    /// The oracle: dequantized weights times `x`, in f64.
    fn naive(format: &dyn Format, data: &[u8], x: &[f64], (rows, inner): (usize, usize)) -> Vec<f64> {
        let mut weights = vec![0f32; rows * inner];
        format.dequantize(data, &mut weights);
        x.chunks_exact(inner)
            .flat_map(|column| {
                weights
                    .chunks_exact(inner)
                    .map(move |row| row.iter().zip(column).map(|(&w, &x)| f64::from(w) * x).sum::<f64>())
            })
            .collect()
    }

    /// Σ |weight| · the largest |x| of the value's group.
    fn sizes_of_terms(
        format: &dyn Format,
        data: &[u8],
        x: &[f32],
        (rows, inner): (usize, usize),
    ) -> Vec<f64> {
        let mut weights = vec![0f32; rows * inner];
        format.dequantize(data, &mut weights);
        let largest = |group: &[f32]| group.iter().fold(0f64, |top, v| top.max(f64::from(v.abs())));
        let group = |(w, x): (&[f32], &[f32])| largest(x) * w.iter().map(|w| f64::from(w.abs())).sum::<f64>();
        let rows = |column: &[f32]| -> Vec<f64> {
            let row = |row: &[f32]| row.chunks(GROUP).zip(column.chunks(GROUP)).map(group).sum();
            weights.chunks_exact(inner).map(row).collect()
        };
        x.chunks_exact(inner).flat_map(rows).collect()
    }

    /// Activations rounded as [`Rounding::Int8`] rounds.
    fn round_to_int8(x: &[f32]) -> Vec<f64> {
        x.chunks_exact(32)
            .flat_map(|group| {
                let top = group.iter().fold(0f32, |m, v| m.max(v.abs()));
                let inverse = if top > 0.0 { 127.0 / top } else { 0.0 };
                group.iter().map(move |v| f64::from((v * inverse).round_ties_even()) * f64::from(top / 127.0))
            })
            .collect()
    }

    fn weights<'a>(
        format: &'static dyn Format,
        data: &'a [u8],
        (rows, columns): (usize, usize),
        panels: &'a mut Option<Panels>,
    ) -> Weights<'a> {
        if Panels::supports(format) {
            let pool = Pool::new(2);
            Weights::from(&*panels.insert(Panels::pack(format, data, (rows, columns), &pool).unwrap()))
        } else {
            Weights::Float(FloatRows { format, data, rows, columns })
        }
    }

    #[test]
    fn every_integer_format_can_be_packed() {
        for format in FORMATS {
            assert_eq!(format.integer().is_some(), Panels::supports(*format), "{}", format.name());
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        /// For every format and instruction set: near the oracle; the same bits for every set, batch
        /// size and thread count.
        #[test]
        fn products_are_right_and_independent_of_batch_threads_and_instruction_set(
            seed: u64, rows in 1usize..70, blocks in 1usize..5, columns in 1usize..20,
        ) {
            let mut random = Random(seed);
            for &format in FORMATS {
                let inner = (blocks * format.block_values()).next_multiple_of(32);
                let data = random_rows(format, rows, inner, &mut random);
                let x: Vec<f32> = (0..inner * columns).map(|_| random.float() * 3.0).collect();
                let mut panels = None;
                let weights = weights(format, &data, (rows, inner), &mut panels);
                let as_is = || x.iter().map(|&v| f64::from(v)).collect();
                let rounded = if format.integer().is_some() { round_to_int8(&x) } else { as_is() };
                let oracle = naive(format, &data, &rounded, (rows, inner));
                let reference = product((Isa::detect(), &Pool::new(1)), weights, &x);
                let size: f64 = oracle.iter().fold(1e-3, |m, v| m.max(v.abs()));
                for (got, want) in reference.iter().zip(&oracle) {
                    prop_assert!((f64::from(*got) - want).abs() < size * 2e-5, "{}: {got} for {want}", format.name());
                }
                for isa in Isa::available() {
                    let other = product((isa, &Pool::new(3)), weights, &x);
                    prop_assert_eq!(&other, &reference, "{} on {}", format.name(), isa.name());
                }
                let alone = product((Isa::detect(), &Pool::new(2)), weights, &x[..inner]);
                prop_assert_eq!(&alone[..], &reference[..rows], "{} alone", format.name());
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]
        /// Refined products: those near the highest are near the product of the values as they are, whatever the
        /// outliers, the others as they were; the same bits for every set, batch size and thread count.
        #[test]
        fn refined_products_are_near_exact_and_independent_of_batch_threads_and_instruction_set(
            seed: u64, rows in 1usize..90, blocks in 1usize..4, columns in 1usize..12,
        ) {
            let mut random = Random(seed);
            for &format in FORMATS.iter().filter(|format| format.integer().is_some()) {
                let inner = (blocks * format.block_values()).next_multiple_of(32);
                let data = random_rows(format, rows, inner, &mut random);
                let mut x: Vec<f32> = (0..inner * columns).map(|_| random.float()).collect();
                x.iter_mut().step_by(71).for_each(|outlier| *outlier *= 100.0);
                let mut panels = None;
                let weights = weights(format, &data, (rows, inner), &mut panels);
                let as_is: Vec<f64> = x.iter().map(|&v| f64::from(v)).collect();
                let oracle = naive(format, &data, &as_is, (rows, inner));
                let sizes = sizes_of_terms(format, &data, &x, (rows, inner));
                let refined = |isa, threads, x: &[f32]| {
                    let pool = Pool::new(threads);
                    let input = self::columns((isa, &pool), x, inner, Rounding::Int8WithRest);
                    let mut output = vec![f32::NAN; rows * input.count];
                    multiply((isa, &pool), &[weights], &input, &mut output);
                    refine((isa, &pool), weights, &input, &mut output);
                    output
                };
                let reference = refined(Isa::detect(), 1, &x);
                let coarse = product((Isa::detect(), &Pool::new(1)), weights, &x);
                let exact = oracle.chunks(rows).zip(sizes.chunks(rows));
                for ((got, coarse), (oracle, terms)) in reference.chunks(rows).zip(coarse.chunks(rows)).zip(exact) {
                    let threshold = near(coarse);
                    let exact = oracle.chunks(16).zip(terms.chunks(16));
                    let panels = got.chunks(16).zip(coarse.chunks(16)).zip(exact);
                    for ((got, coarse), (oracle, terms)) in panels {
                        if coarse.iter().all(|&product| product < threshold) {
                            prop_assert_eq!(got, coarse, "{}", format.name());
                            continue;
                        }
                        for ((got, want), terms) in got.iter().zip(oracle).zip(terms) {
                            let error = (f64::from(*got) - want).abs();
                            let most = terms * REFINED_ERROR;
                            prop_assert!(error <= most, "{}: {got} for {want}", format.name());
                        }
                    }
                }
                for isa in Isa::available() {
                    prop_assert_eq!(&refined(isa, 3, &x), &reference, "{} on {}", format.name(), isa.name());
                }
                let alone = refined(Isa::detect(), 2, &x[..inner]);
                prop_assert_eq!(&alone[..], &reference[..rows], "{} alone", format.name());
            }
        }
    }

    /// Columns of every set against the scalar one's.
    fn assert_equal_on_every_set(
        format: &'static dyn Format,
        data: &[u8],
        x: &[f32],
        shape: (usize, usize),
    ) -> Result<(), TestCaseError> {
        let mut panels = None;
        let weights = weights(format, data, shape, &mut panels);
        let reference = product((Isa::named("scalar").unwrap(), &Pool::new(2)), weights, x);
        for isa in Isa::available() {
            let other = product((isa, &Pool::new(2)), weights, x);
            prop_assert_eq!(&other, &reference, "{} on {}", format.name(), isa.name());
        }
        Ok(())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(6))]
        /// As many columns as are multiplied by unpacked weights, and more than one stretch has, of more groups than are
        /// unpacked together, which need not be whole parts.
        #[test]
        fn many_columns_are_the_same_on_every_instruction_set(
            seed: u64, rows in 1usize..20, groups in 9usize..40, columns in 44usize..150,
        ) {
            let mut random = Random(seed);
            for &format in FORMATS.iter().filter(|format| Panels::supports(**format)) {
                let inner = (groups * 32).next_multiple_of(format.block_values());
                let data = random_rows(format, rows, inner, &mut random);
                let x: Vec<f32> = (0..inner * columns).map(|_| random.float()).collect();
                assert_equal_on_every_set(format, &data, &x, (rows, inner))?;
            }
        }

        /// All bits of weights set or none, activations at their limits: sums in 16 bits must not overflow.
        #[test]
        fn the_largest_products_are_exact_on_every_instruction_set(seed: u64, columns in 1usize..9) {
            let mut random = Random(seed);
            for &format in FORMATS.iter().filter(|format| Panels::supports(**format)) {
                let inner = 2 * format.block_values();
                let bytes = 16 * 2 * format.block_bytes();
                for ones_in_16 in [0, 8, 15, 16] {
                    let mut byte = || if random.next() % 16 < ones_in_16 { 0xff } else { 0 };
                    let data = (0..bytes).map(|_| byte()).collect();
                    let data = with_sane_scales(format, data, &mut random);
                    let mut signed = || if random.next() % 16 < ones_in_16 { 1.0 } else { -1.0 };
                    let x: Vec<f32> = (0..inner * columns).map(|_| signed()).collect();
                    assert_equal_on_every_set(format, &data, &x, (16, inner))?;
                }
            }
        }
    }

    #[test]
    fn fused_products_equal_separate_ones() {
        let (pool, isa, mut random) = (Pool::new(2), Isa::detect(), Random(7));
        let format = formats::by_name("Q4_K").unwrap();
        let (inner, columns) = (512, 5);
        let x: Vec<f32> = (0..inner * columns).map(|_| random.float()).collect();
        let sizes = [40usize, 7, 64];
        let panels: Vec<Panels> = sizes
            .iter()
            .map(|&rows| {
                let data = random_rows(format, rows, inner, &mut random);
                Panels::pack(format, &data, (rows, inner), &pool).unwrap()
            })
            .collect();
        let stride: usize = sizes.iter().sum();
        let mut fused = vec![0f32; stride * columns];
        let products: Vec<Weights> = panels.iter().map(Weights::from).collect();
        multiply(
            (isa, &pool),
            &products,
            &self::columns((isa, &pool), &x, inner, Rounding::Int8),
            &mut fused,
        );
        let mut offset = 0;
        for (p, rows) in panels.iter().zip(sizes) {
            let alone = product((isa, &pool), Weights::from(p), &x);
            for column in 0..columns {
                let part = &fused[column * stride + offset..][..rows];
                assert_eq!(part, &alone[column * rows..][..rows]);
            }
            offset += rows;
        }
    }

    #[test]
    fn first_rows_are_those_of_the_whole() {
        let (mut random, isa, pool) = (Random(5), Isa::detect(), Pool::new(2));
        let (inner, rows) = (256, 72);
        let x: Vec<f32> = (0..3 * inner).map(|_| random.float()).collect();
        let (f32, q4) = (formats::by_name("F32").unwrap(), formats::by_name("Q4_K").unwrap());
        let float = random_rows(f32, rows, inner, &mut random);
        let packed = random_rows(q4, rows, inner, &mut random);
        let panels = Panels::pack(q4, &packed, (rows, inner), &pool).unwrap();
        let float = Weights::Float(FloatRows { format: f32, data: &float, rows, columns: inner });
        for weights in [float, Weights::from(&panels)] {
            let whole = product((isa, &pool), weights, &x);
            for first in [1, 16, 25, 72, 100] {
                let part = product((isa, &pool), weights.first_rows(first), &x);
                let first = first.min(rows);
                assert_eq!(part.len(), 3 * first);
                for (part, whole) in part.chunks(first).zip(whole.chunks(rows)) {
                    assert_eq!(part, &whole[..first]);
                }
            }
        }
    }

    #[test]
    fn any_weights_can_be_announced_and_change_no_result() {
        let mut random = Random(3);
        let (inner, rows) = (256, 40);
        let x: Vec<f32> = (0..inner).map(|_| random.float()).collect();
        let (f32, q4) = (formats::by_name("F32").unwrap(), formats::by_name("Q4_K").unwrap());
        let float = random_rows(f32, rows, inner, &mut random);
        let float = Weights::Float(FloatRows { format: f32, data: &float, rows, columns: inner });
        let packed = random_rows(q4, rows, inner, &mut random);
        for threads in [1, 2, 3, 7] {
            let (isa, pool) = (Isa::detect(), Pool::new(threads));
            let panels = Panels::pack(q4, &packed, (rows, inner), &pool).unwrap();
            let panels = Weights::from(&panels);
            let plain = product((isa, &pool), panels, &x);
            for next in [&[][..], &[float], &[panels], &[float, panels, float], &[panels, float]] {
                announce(&pool, next);
                assert_eq!(product((isa, &pool), panels, &x), plain);
            }
        }
    }

    #[test]
    fn sizes_that_do_not_fit_are_refused() {
        let pool = Pool::new(1);
        let format = formats::by_name("Q4_K").unwrap();
        assert!(matches!(Panels::pack(format, &[0; 144], (1, 100), &pool), Err(PackError::Columns { .. })));
        assert!(matches!(Panels::pack(format, &[0; 143], (1, 256), &pool), Err(PackError::Bytes { .. })));
        let f32 = formats::by_name("F32").unwrap();
        assert!(matches!(Panels::pack(f32, &[0; 4], (1, 1), &pool), Err(PackError::Format("F32"))));
    }
}
