//! One block of 64 positions: scores, softmax weights and weighted values of a task's rows.
//!
//! Rows go in tiles of up to six. A tile's sums stay in registers; each vector of keys or values is
//! converted once and used by all rows of the tile.

// Register tiles are indexed by constants; iterators would hide the tiling.
#![allow(clippy::needless_range_loop)]

use super::elements::Elements;
use super::{BLOCK_POSITIONS, Detail, HeadCache, Partial, ROWS_MAX, Task};
use crate::lines::LINE_BYTES;
use crate::simd::{LANES, Simd, exp};
use crate::vector::soft_cap_lanes;

/// Strips of 16 positions in a block.
const STRIPS: usize = BLOCK_POSITIONS / LANES;
/// Most rows of a register tile.
const TILE_ROWS: usize = 6;

/// First row and rows of each register tile of `count` rows: as few tiles as possible, of nearly
/// equal size.
pub(super) fn row_tiles<S: Simd>(count: usize) -> impl Iterator<Item = (usize, usize)> {
    let rows_max = if S::HAS_REGISTERS { TILE_ROWS } else { 1 };
    let mut row = 0;
    std::iter::from_fn(move || {
        let left = count - row;
        let rows = left.div_ceil(left.div_ceil(rows_max).max(1));
        let tile = (row, rows);
        row += rows;
        (rows > 0).then_some(tile)
    })
}

/// What [`attend_block`] reads.
#[derive(Clone, Copy)]
pub(super) struct BlockCall<'a> {
    pub task: &'a Task<'a>,
    /// Which 64 positions of the sequence.
    pub block: usize,
    /// How much of it is seen.
    pub detail: Detail,
    /// The block after it, if this thread will go on with one.
    pub next: Option<usize>,
    /// Scaled queries, `[row tile][head_dim][row]`.
    pub queries: &'a [f32],
}

impl BlockCall<'_> {
    /// This head's keys and values in `block`.
    fn addresses(&self, block: usize) -> (*const u8, *const u8) {
        addresses(&self.task.cache, block)
    }

    /// The rests of its keys and values in the block, if they are seen.
    pub fn rests(&self) -> Option<(*const u8, *const u8)> {
        let rests = self.task.rests.as_ref().filter(|_| self.detail == Detail::WithRests);
        rests.map(|rests| addresses(rests, self.block))
    }
}

/// A head's keys and values in `block`.
fn addresses(cache: &HeadCache, block: usize) -> (*const u8, *const u8) {
    let base = cache.memory.wrapping_add(cache.table[block] as usize * cache.block_stride);
    (base.wrapping_add(cache.keys_offset), base.wrapping_add(cache.values_offset))
}

/// Calls a function for tiles of 1 to 6 rows.
macro_rules! with_rows {
    ($rows:expr, $function:ident::<$simd:ty, $elements:ty>($($argument:expr),*)) => {
        // What is not called is not compiled: it would be most of the crate.
        if <$simd>::HAS_REGISTERS {
            match $rows {
                1 => $function::<$simd, $elements, 1>($($argument),*),
                2 => $function::<$simd, $elements, 2>($($argument),*),
                3 => $function::<$simd, $elements, 3>($($argument),*),
                4 => $function::<$simd, $elements, 4>($($argument),*),
                5 => $function::<$simd, $elements, 5>($($argument),*),
                _ => $function::<$simd, $elements, TILE_ROWS>($($argument),*),
            }
        } else {
            $function::<$simd, $elements, 1>($($argument),*)
        }
    };
}

/// Takes one block of positions into `chunk`. `scores` and `unpacked` are working memory: `[row][64]`, and
/// twice a half of a block in floats.
///
/// # Safety
/// The instruction set is there; the block exists; `queries`, `scores` and `chunk` hold the task's rows.
#[inline(always)]
pub(super) unsafe fn attend_block<S: Simd, E: Elements>(
    call: &BlockCall,
    (scores, unpacked): (&mut [f32], &mut [f32]),
    chunk: &mut Partial,
) {
    let (count, head_dim) = (call.task.count(), call.task.shape.head_dim);
    assert!(count <= ROWS_MAX && scores.len() >= count * BLOCK_POSITIONS);
    assert!(call.queries.len() >= count * head_dim && chunk.weighted.len() == count * head_dim);
    assert!(unpacked.len() >= 2 * BLOCK_POSITIONS * head_dim);
    let (keys, values) = call.addresses(call.block);
    // Who reads the keys first asks for the values meanwhile, who reads those first for the next keys.
    let mut ahead = Ahead { from: values, step: 1 };
    // SAFETY: as the caller vouches.
    let keys = unsafe { E::floats::<S, false>(call, keys, unpacked, &mut ahead) };
    for (row, rows) in row_tiles::<S>(count) {
        // SAFETY: rows below `count` exist in all buffers.
        unsafe {
            let queries = call.queries.as_ptr().add(row * head_dim);
            let to = scores.as_mut_ptr().add(row * BLOCK_POSITIONS);
            with_rows!(rows, score_tile::<S, E>((keys, head_dim), queries, to, ahead));
        }
        ahead.step = 0;
    }
    let mut decay = [1f32; ROWS_MAX];
    // SAFETY: the buffers hold the task's rows.
    let positions = unsafe { soften::<S>(call, scores, chunk, &mut decay) };
    let next = call.next.map(|next| call.addresses(next).0);
    ahead = Ahead { from: next.unwrap_or(values), step: usize::from(next.is_some()) };
    // SAFETY: as above.
    let values = unsafe { E::floats::<S, true>(call, values, unpacked, &mut ahead) };
    for (row, rows) in row_tiles::<S>(count) {
        // SAFETY: as above.
        unsafe {
            let tile = WeighTile {
                values,
                head_dim,
                positions,
                weights: scores.as_ptr().add(row * BLOCK_POSITIONS),
                decay: decay.as_ptr().add(row),
                weighted: chunk.weighted.as_mut_ptr().add(row * head_dim),
                ahead,
            };
            with_rows!(rows, weigh_tile::<S, E>(&tile));
        }
        ahead.step = 0;
    }
}

/// Memory to ask for while something else is read: as much as is read.
#[derive(Clone, Copy)]
pub(super) struct Ahead {
    from: *const u8,
    /// 1, or 0 to ask for nothing new.
    pub step: usize,
}

impl Ahead {
    /// Asks for nothing new.
    pub fn nothing() -> Self {
        Ahead { from: std::ptr::null(), step: 0 }
    }

    /// Asks for what corresponds to the `bytes` that begin `at` bytes into what is read.
    ///
    /// # Safety
    /// The instruction set is there.
    #[inline(always)]
    pub unsafe fn ask<S: Simd>(self, at: usize, bytes: usize) {
        let from = self.from.wrapping_add(at * self.step);
        for line in 0..bytes.div_ceil(LINE_BYTES) {
            // SAFETY: as the caller vouches; any address may be asked for.
            unsafe { S::prefetch(from.wrapping_add(line * LINE_BYTES)) };
        }
    }
}

/// scores[R][64] = queries · keys.
///
/// # Safety
/// The instruction set is there; `queries` holds `[head_dim][R]`, `scores` has room for R rows.
#[inline(always)]
unsafe fn score_tile<S: Simd, E: Elements, const R: usize>(
    keys: (*const u8, usize),
    queries: *const f32,
    scores: *mut f32,
    ahead: Ahead,
) {
    // SAFETY: as the caller vouches.
    unsafe {
        if S::ROW_VECTORS == STRIPS {
            score_strips::<S, E, R, STRIPS>(keys, queries, scores, ahead);
        } else {
            score_strips::<S, E, R, 1>(keys, queries, scores, ahead);
        }
    }
}

/// [`score_tile`] with `V` strips at a time.
///
/// # Safety
/// As [`score_tile`].
#[inline(always)]
unsafe fn score_strips<S: Simd, E: Elements, const R: usize, const V: usize>(
    (keys, head_dim): (*const u8, usize),
    queries: *const f32,
    scores: *mut f32,
    ahead: Ahead,
) {
    // SAFETY: as the caller vouches.
    unsafe {
        for strip in (0..STRIPS).step_by(V) {
            let mut sums = [[S::splat(0.0); V]; R];
            for d in 0..head_dim {
                let bytes = V * E::VECTOR_BYTES;
                ahead.ask::<S>((strip / V * head_dim + d) * bytes, bytes);
                let mut key = [S::splat(0.0); V];
                for v in 0..V {
                    key[v] = E::load::<S>(keys.add(((strip + v) * head_dim + d) * E::VECTOR_BYTES));
                }
                for r in 0..R {
                    let query = S::splat(*queries.add(d * R + r));
                    for v in 0..V {
                        sums[r][v] = S::fma(key[v], query, sums[r][v]);
                    }
                }
            }
            for r in 0..R {
                for v in 0..V {
                    S::store(scores.add(r * BLOCK_POSITIONS + (strip + v) * LANES), sums[r][v]);
                }
            }
        }
    }
}

/// Turns the rows' scores into weights under their running maxima, those of positions that a row does
/// not see into 0, and brings `chunk`'s maxima and totals up to date. `decay` becomes what earlier weights
/// are to be multiplied by. Returns the range of positions that any row sees.
///
/// # Safety
/// The instruction set is there; the buffers hold the task's rows.
#[inline(always)]
unsafe fn soften<S: Simd>(
    call: &BlockCall,
    scores: &mut [f32],
    chunk: &mut Partial,
    decay: &mut [f32; ROWS_MAX],
) -> (usize, usize) {
    let Task { shape, rows, .. } = call.task;
    let first = call.block * BLOCK_POSITIONS;
    let mut tops = [f32::NEG_INFINITY; ROWS_MAX];
    let (mut from, mut to) = (BLOCK_POSITIONS, 0);
    // In three passes over all rows, so that one row's chain of operations overlaps the next one's.
    for token in 0..rows.tokens {
        let position = rows.position + token;
        let seen = call.task.seen(call.detail, position);
        let low = seen.start.saturating_sub(first).min(BLOCK_POSITIONS);
        let high = seen.end.saturating_sub(first).min(BLOCK_POSITIONS);
        if low >= high {
            continue;
        }
        (from, to) = (from.min(low), to.max(high));
        for row in token * shape.group..(token + 1) * shape.group {
            let scores = &mut scores[row * BLOCK_POSITIONS..][..BLOCK_POSITIONS];
            // SAFETY: the slice holds the row's 64 scores.
            tops[row] = unsafe { mask_row::<S>(scores, (low, high), shape.soft_cap) };
        }
    }
    for row in (0..call.task.count()).step_by(LANES) {
        // SAFETY: a partial holds whole vectors of maxima, the arrays as many.
        unsafe {
            let highest = chunk.highest[row..][..LANES].as_mut_ptr();
            let old = S::load(highest);
            let new = S::max(old, S::load(tops[row..][..LANES].as_ptr()));
            S::store(highest, new);
            S::store(decay[row..][..LANES].as_mut_ptr(), exp::<S>(S::sub(old, new)));
        }
    }
    for row in 0..call.task.count() {
        let scores = &mut scores[row * BLOCK_POSITIONS..][..BLOCK_POSITIONS];
        if tops[row] == f32::NEG_INFINITY {
            scores.fill(0.0);
            decay[row] = 1.0;
            continue;
        }
        // SAFETY: the slice holds the row's 64 scores.
        let total = unsafe { weigh_row::<S>(scores, chunk.highest[row]) };
        chunk.total[row] = chunk.total[row] * decay[row] + total;
    }
    (from, to)
}

/// Caps a row's 64 scores, sets those outside `low..high` to −∞ and returns the highest.
///
/// # Safety
/// The instruction set and 64 scores are there.
#[inline(always)]
unsafe fn mask_row<S: Simd>(scores: &mut [f32], (low, high): (usize, usize), cap: Option<f32>) -> f32 {
    // SAFETY: as the caller vouches.
    unsafe {
        if let Some(cap) = cap {
            for s in scores.chunks_exact_mut(LANES) {
                S::store(s.as_mut_ptr(), soft_cap_lanes::<S>(S::load(s.as_ptr()), cap));
            }
        }
        if high - low < BLOCK_POSITIONS {
            scores[..low].fill(f32::NEG_INFINITY);
            scores[high..].fill(f32::NEG_INFINITY);
        }
        let strip = |s: usize| S::load(scores.as_ptr().add(s * LANES));
        let (a, b, c, d) = (strip(0), strip(1), strip(2), strip(3));
        S::largest(S::max(S::max(a, b), S::max(c, d)))
    }
}

/// scores = e^(scores − highest). Returns their sum.
///
/// # Safety
/// The instruction set and 64 scores are there.
#[inline(always)]
unsafe fn weigh_row<S: Simd>(scores: &mut [f32], highest: f32) -> f32 {
    // SAFETY: as the caller vouches.
    unsafe {
        let mut total = S::splat(0.0);
        for s in scores.chunks_exact_mut(LANES) {
            let weight = exp::<S>(S::sub(S::load(s.as_ptr()), S::splat(highest)));
            S::store(s.as_mut_ptr(), weight);
            total = S::add(total, weight);
        }
        S::sum(total)
    }
}

/// What [`weigh_tile`] works on.
#[derive(Clone, Copy)]
struct WeighTile {
    values: *const u8,
    head_dim: usize,
    /// Positions of the block that any row sees: from, to.
    positions: (usize, usize),
    /// `[row][64]`.
    weights: *const f32,
    /// What each row is multiplied by before.
    decay: *const f32,
    /// `[row][head_dim]`.
    weighted: *mut f32,
    ahead: Ahead,
}

/// weighted[R] = weighted · decay + weights · values.
///
/// # Safety
/// The instruction set is there; the tile has R rows; dimensions are whole vectors.
#[inline(always)]
unsafe fn weigh_tile<S: Simd, E: Elements, const R: usize>(tile: &WeighTile) {
    let mut d = 0;
    // SAFETY: dimensions below `head_dim`.
    unsafe {
        while S::ROW_VECTORS == STRIPS && d + STRIPS * LANES <= tile.head_dim {
            weigh_dimensions::<S, E, R, STRIPS>(tile, d);
            d += STRIPS * LANES;
        }
        while d < tile.head_dim {
            weigh_dimensions::<S, E, R, 1>(tile, d);
            d += LANES;
        }
    }
}

/// [`weigh_tile`] for `V` vectors of dimensions from `d` on.
///
/// # Safety
/// As [`weigh_tile`].
#[inline(always)]
unsafe fn weigh_dimensions<S: Simd, E: Elements, const R: usize, const V: usize>(tile: &WeighTile, d: usize) {
    let WeighTile { head_dim, positions, .. } = *tile;
    // SAFETY: as the caller vouches.
    unsafe {
        let at = |r: usize, v: usize| tile.weighted.add(r * head_dim + d + v * LANES);
        let mut sums = [[S::splat(0.0); V]; R];
        for r in 0..R {
            for v in 0..V {
                sums[r][v] = S::mul(S::load(at(r, v)), S::splat(*tile.decay.add(r)));
            }
        }
        for p in positions.0..positions.1 {
            let bytes = V * E::VECTOR_BYTES;
            let before = d / LANES * BLOCK_POSITIONS * E::VECTOR_BYTES;
            tile.ahead.ask::<S>(before + p * bytes, bytes);
            let mut value = [S::splat(0.0); V];
            for v in 0..V {
                value[v] = E::load::<S>(tile.values.add(((p * head_dim + d) / LANES + v) * E::VECTOR_BYTES));
            }
            for r in 0..R {
                let weight = S::splat(*tile.weights.add(r * BLOCK_POSITIONS + p));
                for v in 0..V {
                    sums[r][v] = S::fma(value[v], weight, sums[r][v]);
                }
            }
        }
        for r in 0..R {
            for v in 0..V {
                S::store(at(r, v), sums[r][v]);
            }
        }
    }
}
