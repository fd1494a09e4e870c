//! Attention over a cache of key and value blocks.
//!
//! Query rows (tokens × the heads that share a key-value head) are taken together against blocks of
//! 64 positions with the online softmax of FlashAttention (Dao et al. 2022). Keys lie transposed in
//! strips of 16 positions, so that one vector is one dimension of 16 positions and no sum crosses
//! lanes. Each row's chain of operations depends only on the absolute positions it sees: sums run over
//! blocks within chunks of 512 positions, and chunks are merged in order. So the bits do not depend on
//! what else is in the batch, nor on who computed which chunk.

// Register tiles are indexed by constants; iterators would hide the tiling.
#![allow(clippy::needless_range_loop)]

use crate::simd::{LANES, Simd, exp};
use crate::vector::soft_cap_lanes;

/// Positions of a cache block.
pub const BLOCK_POSITIONS: usize = 64;
/// Blocks whose sums are one partial result.
pub const CHUNK_BLOCKS: usize = 8;
/// Most query rows of one task.
pub const ROWS_MAX: usize = 32;
/// Strips of 16 positions in a block.
const STRIPS: usize = BLOCK_POSITIONS / LANES;
/// Largest magnitude of an f16: larger keys and values are clamped, since infinity times a masked
/// zero would be NaN.
const F16_MAX: f32 = 65504.0;

/// How elements of the cache are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KvType {
    /// 16-bit floats.
    F16,
    /// 32-bit floats, for the exact path.
    F32,
}

impl KvType {
    /// Bytes of an element.
    pub fn bytes(self) -> usize {
        match self {
            KvType::F16 => 2,
            KvType::F32 => 4,
        }
    }
}

/// One layer's and one key-value head's view of the cache.
#[derive(Clone, Copy, Debug)]
pub struct HeadCache<'a> {
    /// The cache's memory.
    pub memory: *const u8,
    /// Bytes between blocks.
    pub block_stride: usize,
    /// Where in a block this head's keys (`[4 strips][head_dim][16]`) begin, bytes.
    pub keys_offset: usize,
    /// Where its values (`[64][head_dim]`) begin, bytes.
    pub values_offset: usize,
    /// Block number of each 64 positions of the sequence.
    pub table: &'a [u32],
    /// How elements are stored.
    pub kv_type: KvType,
}

/// Constants of a layer's attention.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionShape {
    /// Dimensions of a head; a multiple of 16.
    pub head_dim: usize,
    /// Query heads per key-value head.
    pub group: usize,
    /// Multiplies the scores.
    pub scale: f32,
    /// A token sees itself and the `window − 1` before it.
    pub window: Option<usize>,
    /// Soft cap of the scores (Gemma 2).
    pub soft_cap: Option<f32>,
}

/// Rows of one task: `tokens` consecutive query tokens of one sequence, all heads of one group.
#[derive(Clone, Copy, Debug)]
pub struct QueryRows {
    /// Queries of the first token's first head of the group; heads lie `head_dim` apart.
    pub queries: *const f32,
    /// Values between tokens' queries.
    pub query_stride: usize,
    /// Values between tokens' outputs.
    pub output_stride: usize,
    /// Position of the first token; the others follow.
    pub position: usize,
    /// Tokens, so that tokens × group ≤ [`ROWS_MAX`].
    pub tokens: usize,
}

/// Running softmax of up to [`ROWS_MAX`] rows.
#[derive(Debug)]
pub struct Partial {
    highest: [f32; ROWS_MAX],
    total: [f32; ROWS_MAX],
    weighted: Vec<f32>, // [row][head_dim]
}

impl Partial {
    /// Room for rows of `head_dim` values.
    pub fn new(head_dim: usize) -> Self {
        Partial {
            highest: [f32::NEG_INFINITY; ROWS_MAX],
            total: [0.0; ROWS_MAX],
            weighted: vec![0.0; ROWS_MAX * head_dim],
        }
    }

    fn reset(&mut self) {
        self.highest = [f32::NEG_INFINITY; ROWS_MAX];
        self.total = [0.0; ROWS_MAX];
        self.weighted.fill(0.0);
    }
}

/// Buffers of one thread.
#[derive(Debug)]
pub struct AttentionScratch {
    queries: Vec<f32>, // [row][head_dim], scaled
    scores: Vec<f32>,  // [row][64]
    chunk: Partial,
    all: Partial,
}

impl AttentionScratch {
    /// Buffers for heads of `head_dim`.
    pub fn new(head_dim: usize) -> Self {
        AttentionScratch {
            queries: vec![0.0; ROWS_MAX * head_dim],
            scores: vec![0.0; ROWS_MAX * BLOCK_POSITIONS],
            chunk: Partial::new(head_dim),
            all: Partial::new(head_dim),
        }
    }
}

/// First position that the token at `position` sees.
pub fn first_visible(position: usize, window: Option<usize>) -> usize {
    window.map_or(0, |w| (position + 1).saturating_sub(w))
}

/// Computes the rows' attention and writes it to `output`, laid out as the queries are.
///
/// # Safety
/// The instruction set is there; `cache` holds every block of the positions that the rows see, written;
/// queries and output are valid and do not overlap.
#[inline(always)]
pub(crate) unsafe fn attend<S: Simd>(
    shape: &AttentionShape,
    cache: &HeadCache,
    rows: &QueryRows,
    (output, scratch): (*mut f32, &mut AttentionScratch),
) {
    let count = rows.tokens * shape.group;
    assert!(count <= ROWS_MAX && shape.head_dim.is_multiple_of(LANES));
    // SAFETY: row addresses are those the caller vouches for; the scratch holds ROWS_MAX rows.
    unsafe {
        for row in 0..count {
            let from = rows.queries.add(row_offset(shape, rows.query_stride, row));
            let to = scratch.queries.as_mut_ptr().add(row * shape.head_dim);
            for d in (0..shape.head_dim).step_by(LANES) {
                S::store(to.add(d), S::mul(S::load(from.add(d)), S::splat(shape.scale)));
            }
        }
        let last = rows.position + rows.tokens - 1;
        let first_block = first_visible(rows.position, shape.window) / BLOCK_POSITIONS;
        let end_block = last / BLOCK_POSITIONS + 1;
        scratch.all.reset();
        let mut block = first_block;
        while block < end_block {
            let chunk_end = ((block / CHUNK_BLOCKS + 1) * CHUNK_BLOCKS).min(end_block);
            scratch.chunk.reset();
            for b in block..chunk_end {
                match cache.kv_type {
                    KvType::F16 => attend_block::<S, false>(shape, cache, rows, (b, scratch)),
                    KvType::F32 => attend_block::<S, true>(shape, cache, rows, (b, scratch)),
                }
            }
            merge::<S>(&mut scratch.all, &scratch.chunk, count, shape.head_dim);
            block = chunk_end;
        }
        for row in 0..count {
            let to = output.add(row_offset(shape, rows.output_stride, row));
            let from = scratch.all.weighted.as_ptr().add(row * shape.head_dim);
            let inverse = S::splat(1.0 / scratch.all.total[row]);
            for d in (0..shape.head_dim).step_by(LANES) {
                S::store(to.add(d), S::mul(S::load(from.add(d)), inverse));
            }
        }
    }
}

/// Values from the first token's first head to row `row`.
fn row_offset(shape: &AttentionShape, token_stride: usize, row: usize) -> usize {
    row / shape.group * token_stride + row % shape.group * shape.head_dim
}

/// all = all ⊕ chunk: the softmax of both ranges.
///
/// # Safety
/// The instruction set is there, and both hold `count` rows of `head_dim`.
#[inline(always)]
unsafe fn merge<S: Simd>(all: &mut Partial, chunk: &Partial, count: usize, head_dim: usize) {
    for row in 0..count {
        if chunk.total[row] == 0.0 {
            continue;
        }
        let highest = all.highest[row].max(chunk.highest[row]);
        // SAFETY: rows are within both buffers.
        unsafe {
            let old = exp_one::<S>(all.highest[row] - highest);
            let new = exp_one::<S>(chunk.highest[row] - highest);
            let base = row * head_dim;
            for d in (0..head_dim).step_by(LANES) {
                let to = all.weighted.as_mut_ptr().add(base + d);
                let from = S::load(chunk.weighted.as_ptr().add(base + d));
                S::store(to, S::fma(from, S::splat(new), S::mul(S::load(to), S::splat(old))));
            }
            all.total[row] = all.total[row] * old + chunk.total[row] * new;
        }
        all.highest[row] = highest;
    }
}

/// e^x of one value, by the same instructions as the vectors.
///
/// # Safety
/// The instruction set is there.
#[inline(always)]
unsafe fn exp_one<S: Simd>(x: f32) -> f32 {
    let mut lanes = [0f32; LANES];
    // SAFETY: the array holds 16 values.
    unsafe { S::store(lanes.as_mut_ptr(), exp::<S>(S::splat(x))) };
    lanes[0]
}

/// Takes one block of positions into `scratch.chunk`.
///
/// # Safety
/// As [`attend`].
#[inline(always)]
unsafe fn attend_block<S: Simd, const WIDE: bool>(
    shape: &AttentionShape,
    cache: &HeadCache,
    rows: &QueryRows,
    (block, scratch): (usize, &mut AttentionScratch),
) {
    let count = rows.tokens * shape.group;
    let first_position = block * BLOCK_POSITIONS;
    // SAFETY: the block exists, as the caller vouches; scratch rows are below ROWS_MAX.
    unsafe {
        let base = cache.memory.add(cache.table[block] as usize * cache.block_stride);
        let (keys, values) = (base.add(cache.keys_offset), base.add(cache.values_offset));
        let queries = scratch.queries.as_ptr();
        let scores = scratch.scores.as_mut_ptr();
        let mut row = 0;
        while row < count {
            row += match count - row {
                1 => score_rows::<S, WIDE, 1>(shape, keys, queries, (scores, row)),
                2 => score_rows::<S, WIDE, 2>(shape, keys, queries, (scores, row)),
                3 => score_rows::<S, WIDE, 3>(shape, keys, queries, (scores, row)),
                _ => score_rows::<S, WIDE, 4>(shape, keys, queries, (scores, row)),
            };
        }
        let mut decay = [1f32; ROWS_MAX];
        let (mut from, mut to) = (BLOCK_POSITIONS, 0);
        for (row, decay) in decay.iter_mut().enumerate().take(count) {
            let position = rows.position + row / shape.group;
            let low =
                first_visible(position, shape.window).saturating_sub(first_position).min(BLOCK_POSITIONS);
            let high = (position + 1).saturating_sub(first_position).min(BLOCK_POSITIONS);
            from = from.min(low);
            to = to.max(high);
            *decay = soften_row::<S>(shape, (low, high), row, scratch);
        }
        let mut row = 0;
        while row < count {
            let call = Weigh { values, head_dim: shape.head_dim, from, to, row };
            let scores = scratch.scores.as_ptr();
            let weighted = scratch.chunk.weighted.as_mut_ptr();
            row += match count - row {
                1 => weigh_rows::<S, WIDE, 1>(&call, scores, &decay, weighted),
                2 => weigh_rows::<S, WIDE, 2>(&call, scores, &decay, weighted),
                3 => weigh_rows::<S, WIDE, 3>(&call, scores, &decay, weighted),
                _ => weigh_rows::<S, WIDE, 4>(&call, scores, &decay, weighted),
            };
        }
    }
}

/// Loads 16 elements of the cache; `WIDE` says f32.
///
/// # Safety
/// The instruction set and the elements are there.
#[inline(always)]
unsafe fn load_element<S: Simd, const WIDE: bool>(base: *const u8, element: usize) -> S::F {
    // SAFETY: as the caller vouches.
    unsafe {
        if WIDE {
            S::load(base.cast::<f32>().add(element))
        } else {
            S::load_f16(base.cast::<u16>().add(element))
        }
    }
}

/// scores[row..row + R][0..64] = queries · keys. Returns R.
///
/// # Safety
/// As [`attend`].
#[inline(always)]
unsafe fn score_rows<S: Simd, const WIDE: bool, const R: usize>(
    shape: &AttentionShape,
    keys: *const u8,
    queries: *const f32,
    (scores, row): (*mut f32, usize),
) -> usize {
    // SAFETY: R rows from `row` on exist.
    unsafe {
        let queries = queries.add(row * shape.head_dim);
        let mut sums = [[S::splat(0.0); STRIPS]; R];
        for d in 0..shape.head_dim {
            let strip = |s: usize| load_element::<S, WIDE>(keys, (s * shape.head_dim + d) * LANES);
            let key = [strip(0), strip(1), strip(2), strip(3)];
            for r in 0..R {
                let q = S::splat(*queries.add(r * shape.head_dim + d));
                for s in 0..STRIPS {
                    sums[r][s] = S::fma(key[s], q, sums[r][s]);
                }
            }
        }
        for (r, sums) in sums.iter().enumerate() {
            for (s, &sum) in sums.iter().enumerate() {
                S::store(scores.add((row + r) * BLOCK_POSITIONS + s * LANES), sum);
            }
        }
        R
    }
}

/// Turns a row's scores of one block into weights under the running maximum, positions outside
/// `low..high` into 0. Returns what earlier weights are to be multiplied by.
///
/// # Safety
/// As [`attend`].
#[inline(always)]
unsafe fn soften_row<S: Simd>(
    shape: &AttentionShape,
    (low, high): (usize, usize),
    row: usize,
    scratch: &mut AttentionScratch,
) -> f32 {
    let scores = &mut scratch.scores[row * BLOCK_POSITIONS..(row + 1) * BLOCK_POSITIONS];
    if low >= high {
        scores.fill(0.0);
        return 1.0;
    }
    // SAFETY: the row's 64 scores are in the slice.
    unsafe {
        if let Some(cap) = shape.soft_cap {
            for s in scores.chunks_exact_mut(LANES) {
                S::store(s.as_mut_ptr(), soft_cap_lanes::<S>(S::load(s.as_ptr()), cap));
            }
        }
        scores[..low].fill(f32::NEG_INFINITY);
        scores[high..].fill(f32::NEG_INFINITY);
        let lanes = |s: usize| S::load(scores.as_ptr().add(s * LANES));
        let tops = S::max(S::max(lanes(0), lanes(1)), S::max(lanes(2), lanes(3)));
        let old = scratch.chunk.highest[row];
        let highest = old.max(S::largest(tops));
        let mut total = S::splat(0.0);
        for s in scores.chunks_exact_mut(LANES) {
            let weight = exp::<S>(S::sub(S::load(s.as_ptr()), S::splat(highest)));
            S::store(s.as_mut_ptr(), weight);
            total = S::add(total, weight);
        }
        let decay = exp_one::<S>(old - highest);
        scratch.chunk.highest[row] = highest;
        scratch.chunk.total[row] = scratch.chunk.total[row] * decay + S::sum(total);
        decay
    }
}

/// What [`weigh_rows`] reads.
struct Weigh {
    values: *const u8,
    head_dim: usize,
    /// Positions of the block that any row sees.
    from: usize,
    to: usize,
    row: usize,
}

/// weighted[row..row + R] = weighted · decay + weights · values. Returns R.
///
/// # Safety
/// As [`attend`].
#[inline(always)]
unsafe fn weigh_rows<S: Simd, const WIDE: bool, const R: usize>(
    call: &Weigh,
    weights: *const f32,
    decay: &[f32; ROWS_MAX],
    weighted: *mut f32,
) -> usize {
    // SAFETY: R rows from `row` on exist, and dimensions are whole vectors.
    unsafe {
        let mut d = 0;
        while d < call.head_dim {
            if d + 4 * LANES <= call.head_dim {
                weigh_dimensions::<S, WIDE, R, 4>(call, weights, decay, (weighted, d));
                d += 4 * LANES;
            } else {
                weigh_dimensions::<S, WIDE, R, 1>(call, weights, decay, (weighted, d));
                d += LANES;
            }
        }
        R
    }
}

/// [`weigh_rows`] for `V` vectors of dimensions from `d` on.
///
/// # Safety
/// As [`attend`].
#[inline(always)]
unsafe fn weigh_dimensions<S: Simd, const WIDE: bool, const R: usize, const V: usize>(
    call: &Weigh,
    weights: *const f32,
    decay: &[f32; ROWS_MAX],
    (weighted, d): (*mut f32, usize),
) {
    // SAFETY: as the caller vouches.
    unsafe {
        let at = |r: usize, v: usize| weighted.add((call.row + r) * call.head_dim + d + v * LANES);
        let mut sums = [[S::splat(0.0); V]; R];
        for r in 0..R {
            for v in 0..V {
                sums[r][v] = S::mul(S::load(at(r, v)), S::splat(decay[call.row + r]));
            }
        }
        for p in call.from..call.to {
            let mut value = [S::splat(0.0); V];
            for (v, value) in value.iter_mut().enumerate() {
                *value = load_element::<S, WIDE>(call.values, p * call.head_dim + d + v * LANES);
            }
            for r in 0..R {
                let weight = S::splat(*weights.add((call.row + r) * BLOCK_POSITIONS + p));
                for v in 0..V {
                    sums[r][v] = S::fma(value[v], weight, sums[r][v]);
                }
            }
        }
        for (r, sums) in sums.iter().enumerate() {
            for (v, &sum) in sums.iter().enumerate() {
                S::store(at(r, v), sum);
            }
        }
    }
}

/// Where one token's key and value go.
#[derive(Clone, Copy, Debug)]
pub struct KvSlot {
    /// This head's keys in the token's block.
    pub keys: *mut u8,
    /// This head's values in the token's block.
    pub values: *mut u8,
    /// Position within the block, below 64.
    pub slot: usize,
    /// How elements are stored.
    pub kv_type: KvType,
}

/// Writes one token's key and value of one head.
///
/// # Safety
/// The instruction set is there, and the slot's memory is exclusively the caller's.
#[inline(always)]
pub(crate) unsafe fn store_kv<S: Simd>(to: &KvSlot, key: &[f32], value: &[f32]) {
    let head_dim = key.len();
    assert!(value.len() == head_dim && head_dim.is_multiple_of(LANES) && to.slot < BLOCK_POSITIONS);
    let (strip, lane) = (to.slot / LANES, to.slot % LANES);
    // SAFETY: all elements are of the slot's position, within the block.
    unsafe {
        for d in (0..head_dim).step_by(LANES) {
            let key_at = |i: usize| (strip * head_dim + d + i) * LANES + lane;
            let value_at = to.slot * head_dim + d;
            match to.kv_type {
                KvType::F32 => {
                    for (i, &k) in key[d..d + LANES].iter().enumerate() {
                        *to.keys.cast::<f32>().add(key_at(i)) = k;
                    }
                    S::store(to.values.cast::<f32>().add(value_at), S::load(value.as_ptr().add(d)));
                }
                KvType::F16 => {
                    let clamp = |x| S::max(S::min(x, S::splat(F16_MAX)), S::splat(-F16_MAX));
                    let mut halves = [0u16; LANES];
                    S::store_f16(halves.as_mut_ptr(), clamp(S::load(key.as_ptr().add(d))));
                    for (i, &k) in halves.iter().enumerate() {
                        *to.keys.cast::<u16>().add(key_at(i)) = k;
                    }
                    let v = clamp(S::load(value.as_ptr().add(d)));
                    S::store_f16(to.values.cast::<u16>().add(value_at), v);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isa::Isa;

    struct Case {
        shape: AttentionShape,
        positions: usize,
        memory: Vec<u8>,
        table: Vec<u32>,
        keys: Vec<f32>,
        values: Vec<f32>,
        queries: Vec<f32>, // [position][group][head_dim]
        kv_type: KvType,
    }

    fn noise(seed: &mut u64) -> f32 {
        *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((*seed >> 33) % 20_001) as f32 / 10_000.0 - 1.0
    }

    fn case(shape: AttentionShape, positions: usize, kv_type: KvType) -> Case {
        let mut seed = 11 + positions as u64;
        let d = shape.head_dim;
        let mut make = |n: usize| (0..n).map(|_| noise(&mut seed)).collect::<Vec<f32>>();
        let (keys, values) = (make(positions * d), make(positions * d));
        let queries = make(positions * shape.group * d).into_iter().map(|x| x * 4.0).collect();
        let blocks = positions.div_ceil(BLOCK_POSITIONS);
        let stride = 2 * BLOCK_POSITIONS * d * kv_type.bytes();
        // Blocks in reverse order: the table must be followed.
        let table: Vec<u32> = (0..blocks as u32).rev().collect();
        let mut memory = vec![0u8; blocks * stride];
        for p in 0..positions {
            let base = memory.as_mut_ptr().wrapping_add(table[p / BLOCK_POSITIONS] as usize * stride);
            let slot = KvSlot {
                keys: base,
                values: base.wrapping_add(stride / 2),
                slot: p % BLOCK_POSITIONS,
                kv_type,
            };
            // SAFETY: the detected set is there; the slot lies in `memory`.
            unsafe { (Isa::detect().kernels().store_kv)(&slot, &keys[p * d..][..d], &values[p * d..][..d]) };
        }
        Case { shape, positions, memory, table, keys, values, queries, kv_type }
    }

    fn run(case: &Case, isa: Isa, from: usize, tokens: usize) -> Vec<f32> {
        let (d, group) = (case.shape.head_dim, case.shape.group);
        let cache = HeadCache {
            memory: case.memory.as_ptr(),
            block_stride: 2 * BLOCK_POSITIONS * d * case.kv_type.bytes(),
            keys_offset: 0,
            values_offset: BLOCK_POSITIONS * d * case.kv_type.bytes(),
            table: &case.table,
            kv_type: case.kv_type,
        };
        let rows = QueryRows {
            queries: case.queries[from * group * d..].as_ptr(),
            query_stride: group * d,
            output_stride: group * d,
            position: from,
            tokens,
        };
        let mut output = vec![0f32; tokens * group * d];
        let mut scratch = AttentionScratch::new(d);
        // SAFETY: the set is available; all buffers have the stated sizes.
        unsafe { (isa.kernels().attend)(&case.shape, &cache, &rows, (output.as_mut_ptr(), &mut scratch)) };
        output
    }

    fn naive(case: &Case) -> Vec<f64> {
        let (d, group) = (case.shape.head_dim, case.shape.group);
        let mut output = Vec::new();
        for p in 0..case.positions {
            for g in 0..group {
                let q = &case.queries[(p * group + g) * d..][..d];
                let visible = first_visible(p, case.shape.window)..=p;
                let scores: Vec<f64> = visible
                    .clone()
                    .map(|k| {
                        let s: f64 =
                            q.iter().zip(&case.keys[k * d..][..d]).map(|(a, b)| f64::from(a * b)).sum();
                        let s = s * f64::from(case.shape.scale);
                        case.shape.soft_cap.map_or(s, |c| f64::from(c) * (s / f64::from(c)).tanh())
                    })
                    .collect();
                let top = scores.iter().cloned().fold(f64::MIN, f64::max);
                let weights: Vec<f64> = scores.iter().map(|s| (s - top).exp()).collect();
                let total: f64 = weights.iter().sum();
                for i in 0..d {
                    let sum: f64 = visible
                        .clone()
                        .zip(&weights)
                        .map(|(k, w)| w * f64::from(case.values[k * d + i]))
                        .sum();
                    output.push(sum / total);
                }
            }
        }
        output
    }

    #[test]
    fn attention_is_right_and_independent_of_tiling_and_instruction_set() {
        for (head_dim, group, window, soft_cap, kv_type) in [
            (64, 7, None, None, KvType::F16),
            (128, 6, None, None, KvType::F32),
            (16, 1, Some(16), None, KvType::F16),
            (80, 4, Some(100), Some(5.0), KvType::F32),
        ] {
            let scale = 1.0 / (head_dim as f32).sqrt();
            let shape = AttentionShape { head_dim, group, scale, window, soft_cap };
            let case = case(shape, 1100, kv_type);
            let per_token = group * head_dim;
            let tile = ROWS_MAX / group;
            let mut whole = Vec::new();
            for from in (0..case.positions).step_by(tile) {
                whole.extend(run(&case, Isa::detect(), from, tile.min(case.positions - from)));
            }
            let tolerance = if kv_type == KvType::F16 { 2e-3 } else { 2e-5 };
            for (i, (got, want)) in whole.iter().zip(naive(&case)).enumerate() {
                assert!((f64::from(*got) - want).abs() < tolerance, "value {i}: {got} for {want}");
            }
            for from in [0, 1, 63, 64, 511, 512, 700, 1099] {
                for isa in Isa::available() {
                    let alone = run(&case, isa, from, 1);
                    assert_eq!(alone, whole[from * per_token..][..per_token], "token {from} on {isa:?}");
                }
            }
        }
    }
}
