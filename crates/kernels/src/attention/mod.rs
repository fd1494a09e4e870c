//! Attention over a cache of key and value blocks.
//!
//! Query rows (tokens × the heads that share a key-value head) are taken together against blocks of
//! 64 positions with the online softmax of FlashAttention (Dao et al. 2022). Keys lie transposed in
//! strips of 16 positions, so that one vector is one dimension of 16 positions and no sum crosses
//! lanes. Each row's chain of operations depends only on the absolute positions it sees: sums run over
//! blocks within chunks of 512 positions, and chunks are merged in order. So the bits do not depend on
//! what else is in the batch, nor on who computed which chunk.

mod block;
mod elements;
mod kv_type;
mod ranked;
pub(crate) mod rotation;
mod scale;
mod store;

use std::ops::Range;

use crate::simd::{LANES, Simd, exp};
use block::{BlockCall, attend_block};
use elements::{Half, Single};
pub use kv_type::{KvType, KvTypeError, SCALE_GROUP};
pub use store::KvSlot;
pub(crate) use store::store_kv;

/// Positions of a cache block.
pub const BLOCK_POSITIONS: usize = 64;
/// Blocks whose sums are one partial result.
pub const CHUNK_BLOCKS: usize = 8;
/// Most query rows of one task.
pub const ROWS_MAX: usize = 32;
/// One layer's and one key-value head's view of the cache.
#[derive(Clone, Copy, Debug)]
pub struct HeadCache<'a> {
    /// The cache's memory.
    pub memory: *const u8,
    /// Bytes between blocks.
    pub block_stride: usize,
    /// Where in a block this head's keys begin, bytes; `elements` says how they lie.
    pub keys_offset: usize,
    /// Where its values begin, bytes.
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

/// Running softmax of the rows of one task over some positions.
#[derive(Debug)]
pub(crate) struct Partial<'a> {
    /// Highest score of each row.
    highest: &'a mut [f32],
    /// Sum of each row's weights e^(score − highest).
    total: &'a mut [f32],
    /// Weighted sum of the values, `[row][head_dim]`.
    weighted: &'a mut [f32],
}

impl<'a> Partial<'a> {
    /// Values of memory for `rows` rows of `head_dim`.
    pub fn size(rows: usize, head_dim: usize) -> usize {
        2 * rows.next_multiple_of(LANES) + rows * head_dim
    }

    /// Takes the first [`Partial::size`] values of `memory`, as they are.
    pub fn within(memory: &'a mut [f32], rows: usize, head_dim: usize) -> Self {
        let whole = rows.next_multiple_of(LANES);
        let (highest, rest) = memory.split_at_mut(whole);
        let (total, rest) = rest.split_at_mut(whole);
        Partial { highest, total, weighted: &mut rest[..rows * head_dim] }
    }

    fn reset(&mut self) {
        self.highest.fill(f32::NEG_INFINITY);
        self.total.fill(0.0);
        self.weighted.fill(0.0);
    }
}

/// Buffers of one thread.
#[derive(Debug)]
pub(crate) struct ThreadScratch {
    query: Vec<f32>,    // [head_dim], one that is being rotated
    queries: Vec<f32>,  // [row tile][head_dim][row], scaled
    scores: Vec<f32>,   // [row][64]
    unpacked: Vec<f32>, // a half of a block, and of its rest
    chunk: Vec<f32>,    // a partial
    all: Vec<f32>,      // a partial
}

impl ThreadScratch {
    /// Buffers for heads of `head_dim`.
    pub fn new(head_dim: usize) -> Self {
        let partial = Partial::size(ROWS_MAX, head_dim);
        ThreadScratch {
            query: vec![0.0; head_dim],
            queries: vec![0.0; ROWS_MAX * head_dim],
            scores: vec![0.0; ROWS_MAX * BLOCK_POSITIONS],
            unpacked: vec![0.0; 2 * BLOCK_POSITIONS * head_dim],
            chunk: vec![0.0; partial],
            all: vec![0.0; partial],
        }
    }

    /// Room for one token's key and value.
    pub fn token(&mut self, head_dim: usize) -> (&mut [f32], &mut [f32]) {
        self.unpacked[..2 * head_dim].split_at_mut(head_dim)
    }

    /// Values of all buffers.
    pub fn values(head_dim: usize) -> usize {
        let queries = head_dim + ROWS_MAX * (head_dim + BLOCK_POSITIONS);
        queries + 2 * BLOCK_POSITIONS * head_dim + 2 * Partial::size(ROWS_MAX, head_dim)
    }
}

/// First position that the token at `position` sees.
pub fn first_visible(position: usize, window: Option<usize>) -> usize {
    window.map_or(0, |w| (position + 1).saturating_sub(w))
}

/// Chunks that hold what `tokens` tokens from `position` on see.
pub(crate) fn visible_chunks(position: usize, tokens: usize, window: Option<usize>) -> Range<usize> {
    const CHUNK: usize = CHUNK_BLOCKS * BLOCK_POSITIONS;
    first_visible(position, window) / CHUNK..(position + tokens).div_ceil(CHUNK)
}

/// One task: which rows attend to which cache.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Task<'a> {
    pub shape: &'a AttentionShape,
    pub cache: HeadCache<'a>,
    /// The rests of what is stored there, where rows read those of their own block; if its type
    /// [has such](KvType::has_rests).
    pub rests: Option<HeadCache<'a>>,
    pub rows: QueryRows,
}

/// How precisely a block is seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Detail {
    /// As the cache has it. So rows of later blocks see it; where there are no rests, all do.
    Stored,
    /// With its rests. So rows of the same block see it.
    WithRests,
}

impl Task<'_> {
    /// Rows: tokens × heads of the group.
    pub fn count(&self) -> usize {
        self.rows.tokens * self.shape.group
    }

    /// Chunks that any of the rows sees.
    pub fn chunks(&self) -> Range<usize> {
        visible_chunks(self.rows.position, self.rows.tokens, self.shape.window)
    }

    /// Blocks of `chunk` that any of the rows sees.
    fn blocks(&self, chunk: usize) -> Range<usize> {
        let first = first_visible(self.rows.position, self.shape.window) / BLOCK_POSITIONS;
        let end = (self.rows.position + self.rows.tokens).div_ceil(BLOCK_POSITIONS);
        first.max(chunk * CHUNK_BLOCKS)..end.min((chunk + 1) * CHUNK_BLOCKS)
    }

    /// Blocks of `chunk` in order, each in the details that any of the rows sees.
    fn sights(&self, chunk: usize) -> impl Iterator<Item = (usize, Detail)> {
        let block_of = |position: usize| position / BLOCK_POSITIONS;
        let (first, last) =
            (block_of(self.rows.position), block_of(self.rows.position + self.rows.tokens - 1));
        let has_rests = self.rests.is_some();
        self.blocks(chunk).flat_map(move |block| {
            let stored = (!has_rests || block < last).then_some((block, Detail::Stored));
            let with_rests = (has_rests && block >= first).then_some((block, Detail::WithRests));
            stored.into_iter().chain(with_rests)
        })
    }

    /// Positions that the token at `position` sees in such detail.
    fn seen(&self, detail: Detail, position: usize) -> Range<usize> {
        let first = first_visible(position, self.shape.window);
        let own =
            if self.rests.is_some() { position / BLOCK_POSITIONS * BLOCK_POSITIONS } else { position + 1 };
        match detail {
            Detail::Stored => first..own,
            Detail::WithRests => first.max(own)..position + 1,
        }
    }

    /// Values from the first token's first head to row `row`.
    fn row_offset(&self, token_stride: usize, row: usize) -> usize {
        row / self.shape.group * token_stride + row % self.shape.group * self.shape.head_dim
    }
}

/// Computes the rows' softmax over `chunks`. Each chunk's result goes to its part of `results`, one
/// [`Partial::size`] each; without them, all are merged in `scratch`. [`finish`] makes the output of either.
///
/// # Safety
/// The instruction set is there; the cache holds every block of the positions that the rows see, written;
/// the queries are valid.
#[inline(always)]
pub(crate) unsafe fn attend<S: Simd>(
    task: &Task,
    chunks: Range<usize>,
    results: Option<&mut [f32]>,
    scratch: &mut ThreadScratch,
) {
    let (count, head_dim) = (task.count(), task.shape.head_dim);
    let size = Partial::size(count, head_dim);
    let ThreadScratch { query, queries, scores, unpacked, chunk, all } = scratch;
    let merging = results.is_none();
    let results = results.unwrap_or(&mut chunk[..]);
    let mut all = Partial::within(all, count, head_dim);
    all.reset();
    // SAFETY: as the caller vouches.
    unsafe { scale_queries::<S>(task, query, queries) };
    for (at, index) in chunks.enumerate() {
        let at = if merging { 0 } else { at * size };
        let mut chunk = Partial::within(&mut results[at..at + size], count, head_dim);
        // SAFETY: as above; partials and scratch hold the task's rows.
        unsafe {
            attend_chunk::<S>((task, queries), index, &mut chunk, (scores, unpacked));
            if merging {
                merge::<S>(&mut all, &chunk, count, head_dim);
            }
        }
    }
}

/// Writes the rows' attention to `output`, laid out as the queries are: from the `results` of all chunks,
/// merged in order, or from what [`attend`] merged by the same operations.
///
/// # Safety
/// The instruction set is there; the rows of output are valid and exclusively the caller's.
#[inline(always)]
pub(crate) unsafe fn finish<S: Simd>(
    task: &Task,
    results: Option<&mut [f32]>,
    output: *mut f32,
    scratch: &mut ThreadScratch,
) {
    let (count, head_dim) = (task.count(), task.shape.head_dim);
    let mut all = Partial::within(&mut scratch.all, count, head_dim);
    if let Some(results) = results {
        all.reset();
        for result in results.chunks_exact_mut(Partial::size(count, head_dim)) {
            let chunk = Partial::within(result, count, head_dim);
            // SAFETY: as the caller vouches; both hold the task's rows.
            unsafe { merge::<S>(&mut all, &chunk, count, head_dim) };
        }
    }
    for row in 0..count {
        if task.cache.kv_type.is_quantized() {
            rotation::rotate(&mut all.weighted[row * head_dim..][..head_dim]);
        }
        // SAFETY: row addresses are those the caller vouches for.
        unsafe {
            let to = output.add(task.row_offset(task.rows.output_stride, row));
            let from = all.weighted.as_ptr().add(row * head_dim);
            let inverse = S::splat(1.0 / all.total[row]);
            for d in (0..head_dim).step_by(LANES) {
                S::store(to.add(d), S::mul(S::load(from.add(d)), inverse));
            }
        }
    }
}

/// Copies the scaled queries, rotated as the keys are, the rows of a tile next to each other.
///
/// # Safety
/// The queries are valid.
#[inline(always)]
unsafe fn scale_queries<S: Simd>(task: &Task, query: &mut [f32], to: &mut [f32]) {
    let (count, head_dim) = (task.count(), task.shape.head_dim);
    assert!(count <= ROWS_MAX && head_dim.is_multiple_of(LANES) && to.len() >= count * head_dim);
    for (row, rows) in block::row_tiles::<S>(count) {
        for r in 0..rows {
            let offset = task.row_offset(task.rows.query_stride, row + r);
            // SAFETY: a row of queries that the caller vouches for.
            let mut from = unsafe { std::slice::from_raw_parts(task.rows.queries.add(offset), head_dim) };
            if task.cache.kv_type.is_quantized() {
                query.copy_from_slice(from);
                rotation::rotate_key(task.cache.kv_type, query);
                from = query;
            }
            let tile = &mut to[row * head_dim..][..rows * head_dim];
            for (&x, to) in from.iter().zip(tile[r..].iter_mut().step_by(rows)) {
                *to = x * task.shape.scale;
            }
        }
    }
}

/// chunk = softmax of the rows over the positions of chunk `index`.
///
/// # Safety
/// As [`attend`]; `chunk` and `scores` hold the task's rows, `queries` is as [`scale_queries`] left it.
#[inline(always)]
unsafe fn attend_chunk<S: Simd>(
    (task, queries): (&Task, &[f32]),
    index: usize,
    chunk: &mut Partial,
    (scores, unpacked): (&mut [f32], &mut [f32]),
) {
    chunk.reset();
    let mut sights = task.sights(index).peekable();
    while let Some((block, detail)) = sights.next() {
        let next = sights.peek().map(|(block, _)| *block);
        let call = BlockCall { task, block, detail, next, queries };
        // SAFETY: as the caller vouches.
        unsafe {
            match task.cache.kv_type {
                KvType::F16 => attend_block::<S, Half>(&call, (scores, unpacked), chunk),
                KvType::F32 | KvType::Q8 | KvType::K8V4 | KvType::Q4 => {
                    attend_block::<S, Single>(&call, (scores, unpacked), chunk);
                }
            }
        }
    }
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

#[cfg(test)]
mod tests {
    use super::elements::oracle::Stored;
    use super::*;
    use crate::isa::Isa;

    /// Keys and values as they are stored, and what they stand for, turned back.
    struct Stock {
        memory: Vec<u8>,
        keys: Vec<f32>,
        values: Vec<f32>,
    }

    struct Case {
        shape: AttentionShape,
        positions: usize,
        kv_type: KvType,
        table: Vec<u32>,
        stored: Stock,
        /// What is stored of the rests; keys and values are those of both together.
        rests: Option<Stock>,
        queries: Vec<f32>, // [position][group][head_dim]
    }

    fn noise(seed: &mut u64) -> f32 {
        *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((*seed >> 33) % 20_001) as f32 / 10_000.0 - 1.0
    }

    /// Stores keys and values, of which it leaves the rests.
    fn stock(kv_type: KvType, d: usize, table: &[u32], (keys, values): (&mut [f32], &mut [f32])) -> Stock {
        let (keys_bytes, values_bytes) = kv_type.bytes_of(BLOCK_POSITIONS * d);
        let stride = keys_bytes + values_bytes;
        let mut memory = vec![0u8; table.len() * stride];
        let (mut known_keys, mut known_values) = (Vec::new(), Vec::new());
        for (p, (key, value)) in keys.chunks_exact_mut(d).zip(values.chunks_exact_mut(d)).enumerate() {
            let at = table[p / BLOCK_POSITIONS] as usize * stride;
            let base = memory.as_mut_ptr().wrapping_add(at);
            let slot = KvSlot {
                keys: base,
                values: base.wrapping_add(keys_bytes),
                slot: p % BLOCK_POSITIONS,
                kv_type,
            };
            // SAFETY: the detected set is there; the slot lies in `memory`.
            unsafe { (Isa::detect().kernels().store_kv)(&slot, key, value) };
            let block = &memory[at..][..stride];
            let stored = Stored { kv_type, head_dim: d, slot: slot.slot };
            known_keys.extend((0..d).map(|i| stored.key(&block[..keys_bytes], i)));
            known_values.extend((0..d).map(|i| stored.value(&block[keys_bytes..], i)));
        }
        Stock { memory, keys: known_keys, values: known_values }
    }

    fn case(shape: AttentionShape, positions: usize, kv_type: KvType) -> Case {
        let mut seed = 11 + positions as u64;
        let d = shape.head_dim;
        let mut make = |n: usize| (0..n).map(|_| noise(&mut seed)).collect::<Vec<f32>>();
        let (mut keys, mut values) = (make(positions * d), make(positions * d));
        let queries = make(positions * shape.group * d).into_iter().map(|x| x * 4.0).collect();
        // Blocks in reverse order: the table must be followed.
        let table: Vec<u32> = (0..positions.div_ceil(BLOCK_POSITIONS) as u32).rev().collect();
        let turn = |keys: &mut [f32], values: &mut [f32]| {
            if kv_type.is_quantized() {
                keys.chunks_exact_mut(d).for_each(|key| rotation::rotate_key(kv_type, key));
                values.chunks_exact_mut(d).for_each(rotation::rotate);
            }
        };
        turn(&mut keys, &mut values);
        let mut store = || stock(kv_type, d, &table, (&mut keys, &mut values));
        let mut stored = store();
        let mut rests = kv_type.has_rests().then(store);
        if let Some(rests) = &mut rests {
            rests.keys.iter_mut().zip(&stored.keys).for_each(|(rest, stored)| *rest += stored);
            rests.values.iter_mut().zip(&stored.values).for_each(|(rest, stored)| *rest += stored);
            turn(&mut rests.keys, &mut rests.values);
        }
        turn(&mut stored.keys, &mut stored.values);
        Case { shape, positions, kv_type, table, stored, rests, queries }
    }

    fn run(case: &Case, isa: Isa, from: usize, tokens: usize) -> Vec<f32> {
        let (d, group) = (case.shape.head_dim, case.shape.group);
        let (keys_bytes, values_bytes) = case.kv_type.bytes_of(BLOCK_POSITIONS * d);
        let cache = |stock: &Stock| HeadCache {
            memory: stock.memory.as_ptr(),
            block_stride: keys_bytes + values_bytes,
            keys_offset: 0,
            values_offset: keys_bytes,
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
        let (cache, rests) = (cache(&case.stored), case.rests.as_ref().map(cache));
        let (task, mut scratch) = (Task { shape: &case.shape, cache, rests, rows }, ThreadScratch::new(d));
        let kernels = isa.kernels();
        // SAFETY: the set is available; all buffers have the stated sizes.
        unsafe {
            (kernels.attend)(&task, task.chunks(), None, &mut scratch);
            (kernels.finish_attention)(&task, None, output.as_mut_ptr(), &mut scratch);
        }
        output
    }

    fn naive(case: &Case) -> Vec<f64> {
        let (d, group) = (case.shape.head_dim, case.shape.group);
        let mut output = Vec::new();
        for p in 0..case.positions {
            let seen = |k: usize| match &case.rests {
                Some(with_rests) if k / BLOCK_POSITIONS == p / BLOCK_POSITIONS => with_rests,
                _ => &case.stored,
            };
            for g in 0..group {
                let q = &case.queries[(p * group + g) * d..][..d];
                let visible = first_visible(p, case.shape.window)..=p;
                let scores: Vec<f64> = visible
                    .clone()
                    .map(|k| {
                        let key = &seen(k).keys[k * d..][..d];
                        let s: f64 = q.iter().zip(key).map(|(a, b)| f64::from(a * b)).sum();
                        let s = s * f64::from(case.shape.scale);
                        case.shape.soft_cap.map_or(s, |c| f64::from(c) * (s / f64::from(c)).tanh())
                    })
                    .collect();
                let top = scores.iter().cloned().fold(f64::MIN, f64::max);
                let weights: Vec<f64> = scores.iter().map(|s| (s - top).exp()).collect();
                let total: f64 = weights.iter().sum();
                for i in 0..d {
                    let weighted = |(k, w): (usize, &f64)| w * f64::from(seen(k).values[k * d + i]);
                    let sum: f64 = visible.clone().zip(&weights).map(weighted).sum();
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
            (64, 3, None, None, KvType::Q8),
            (96, 5, Some(100), Some(5.0), KvType::Q8),
            (64, 3, Some(200), None, KvType::K8V4),
            (64, 1, Some(40), None, KvType::Q4),
            (128, 2, None, Some(5.0), KvType::K8V4),
            (64, 7, None, None, KvType::Q4),
            (96, 2, Some(70), Some(5.0), KvType::Q4),
            (256, 4, None, None, KvType::Q4),
            (32, 5, Some(300), None, KvType::Q4),
            (224, 1, None, None, KvType::Q4),
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
            for (i, (got, want)) in whole.iter().zip(naive(&case)).enumerate() {
                assert!((f64::from(*got) - want).abs() < 2e-5, "{kv_type:?} value {i}: {got} for {want}");
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
