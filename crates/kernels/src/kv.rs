//! Memory of a key-value cache: blocks of 64 positions for a group of layers, and attention over it.

mod write;

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::attention::{
    AttentionShape, BLOCK_POSITIONS, HeadCache, KvType, Partial, QueryRows, ROWS_MAX, Task, ThreadScratch,
    first_visible, visible_chunks,
};
use crate::isa::Isa;
use crate::lines::{LINE_BYTES, Lines};
use crate::pool::{Pool, SharedSlice};
pub use write::{KvRows, LayerCacheMut, write};

/// Sizes of a [`KvMemory`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvShape {
    /// Layers that share the blocks.
    pub layers: usize,
    /// Key-value heads of a layer.
    pub kv_heads: usize,
    /// Dimensions of a head; a multiple of 16.
    pub head_dim: usize,
    /// Blocks of 64 positions.
    pub blocks: usize,
    /// How elements are stored.
    pub kv_type: KvType,
}

impl KvShape {
    /// Bytes of one block: those of `layers · 2 · kv_heads · 64 · head_dim` elements.
    pub fn block_bytes(&self) -> usize {
        self.layers * self.kv_heads * self.head_bytes()
    }

    /// Bytes of all blocks.
    pub fn bytes(&self) -> usize {
        self.block_bytes().saturating_mul(self.blocks)
    }

    /// Bytes of one head's keys in a block, and of its values, which follow.
    fn half_bytes(&self) -> (usize, usize) {
        self.kv_type.bytes_of(BLOCK_POSITIONS * self.head_dim)
    }

    /// Bytes of both.
    fn head_bytes(&self) -> usize {
        let (keys, values) = self.half_bytes();
        keys + values
    }
}

/// A job with fewer tasks per thread than this is split along the sequence as well.
const TASKS_PER_THREAD: usize = 4;

/// Zeroed memory of `blocks` blocks. The system commits it as it is touched.
#[derive(Debug)]
pub struct KvMemory {
    shape: KvShape,
    memory: Lines,
}

/// Query tokens of one sequence in a batch.
#[derive(Clone, Copy, Debug)]
pub struct SequenceRows<'a> {
    /// Block number of each 64 positions of the sequence.
    pub table: &'a [u32],
    /// The same of their rests, as far as the tokens see them; empty without such.
    pub rests_table: &'a [u32],
    /// Position of the first token.
    pub position: usize,
    /// Row of the first token in the batch; the others follow.
    pub row: usize,
    /// Tokens.
    pub tokens: usize,
}

/// One layer of a cache.
#[derive(Clone, Copy, Debug)]
pub struct LayerCache<'a> {
    /// The cache.
    pub memory: &'a KvMemory,
    /// The layer.
    pub layer: usize,
}

/// Queries and outputs of a batch.
#[derive(Debug)]
pub struct AttentionBatch<'a> {
    /// Rows of `query_stride` values that begin with the heads' queries.
    pub queries: &'a [f32],
    /// Values between rows of queries.
    pub query_stride: usize,
    /// Rows of heads × head_dim values.
    pub output: &'a mut [f32],
    /// The sequences.
    pub sequences: &'a [SequenceRows<'a>],
}

impl KvMemory {
    /// Memory for `shape`.
    ///
    /// # Panics
    /// If a head is not whole vectors of 16, or not what [`KvType::check`] takes.
    pub fn new(shape: KvShape) -> Self {
        assert!(shape.head_dim.is_multiple_of(16), "head_dim must be a multiple of 16");
        shape.kv_type.check(shape.head_dim).unwrap_or_else(|error| panic!("{error}"));
        let lines = (shape.block_bytes() * shape.blocks).div_ceil(LINE_BYTES);
        KvMemory { shape, memory: Lines::zeroed(lines) }
    }

    /// Its sizes.
    pub fn shape(&self) -> &KvShape {
        &self.shape
    }

    fn head_offset(&self, layer: usize, head: usize) -> usize {
        (layer * self.shape.kv_heads + head) * self.shape.head_bytes()
    }
}

/// Attention of a layer for a batch of rows; every row's own key must have been written. With `rests`, rows see
/// their own block with those. Tasks are tiles of query tokens × key-value heads; where these are few, × spans of the
/// sequence.
///
/// # Panics
/// If rows, tables or lengths do not fit, or `scratch` is for other heads or fewer threads.
pub fn attend(
    (isa, pool): (Isa, &Pool),
    (cache, rests): (LayerCache, Option<LayerCache>),
    shape: &AttentionShape,
    (batch, scratch): (AttentionBatch, &mut AttentionScratch),
) {
    let kv_heads = cache.memory.shape.kv_heads;
    let width = kv_heads * shape.group * shape.head_dim;
    cache.check(shape, kv_heads);
    if let Some(rests) = rests {
        rests.check(shape, kv_heads);
        assert_eq!(rests.memory.shape.kv_type, cache.memory.shape.kv_type);
    }
    assert!(scratch.threads.len() >= pool.threads() && scratch.head_dim == shape.head_dim);
    assert!((1..=ROWS_MAX).contains(&shape.group));
    for sequence in batch.sequences {
        sequence.check(shape, (cache, rests));
        let end = sequence.row + sequence.tokens;
        assert!(end * batch.query_stride <= batch.queries.len() && end * width <= batch.output.len());
        assert!(width <= batch.query_stride);
    }
    let job = Job {
        cache,
        rests,
        shape,
        queries: (batch.queries, batch.query_stride),
        output: (SharedSlice::new(batch.output), width),
        sequences: batch.sequences,
    };
    let units = job.tiles() * kv_heads;
    let chunks = job.chunks_max();
    let spans = (TASKS_PER_THREAD * pool.threads()).div_ceil(units.max(1)).min(chunks);
    if spans <= 1 || pool.threads() == 1 {
        let scratches = SharedSlice::new(&mut scratch.threads);
        return pool.run(units, &|unit, thread| {
            let (task, output) = job.task(unit);
            // SAFETY: every thread has its own scratch; the CPU has the set; rows and blocks were
            // checked; units write disjoint outputs.
            unsafe {
                let scratch = &mut scratches.part(thread, 1)[0];
                (isa.kernels().attend)(&task, task.chunks(), None, scratch);
                (isa.kernels().finish_attention)(&task, None, output, scratch);
            }
        });
    }
    scratch.split(units, spans, chunks * Partial::size(job.rows_max(), shape.head_dim));
    job.attend_spans((isa, pool), (units, spans), scratch);
}

impl<'a> LayerCache<'a> {
    /// Panics unless it holds such heads.
    fn check(&self, shape: &AttentionShape, kv_heads: usize) {
        let own = &self.memory.shape;
        assert!(self.layer < own.layers && own.head_dim == shape.head_dim && own.kv_heads == kv_heads);
    }

    /// One head's view of it.
    fn head(&self, head: usize, table: &'a [u32]) -> HeadCache<'a> {
        let shape = &self.memory.shape;
        let keys_offset = self.memory.head_offset(self.layer, head);
        HeadCache {
            memory: self.memory.memory.as_ptr().cast(),
            block_stride: shape.block_bytes(),
            keys_offset,
            values_offset: keys_offset + shape.half_bytes().0,
            table,
            kv_type: shape.kv_type,
        }
    }
}

impl SequenceRows<'_> {
    /// Panics unless every block that the rows see exists.
    fn check(&self, shape: &AttentionShape, (cache, rests): (LayerCache, Option<LayerCache>)) {
        assert!(self.tokens > 0, "a sequence without tokens");
        let exist = |memory: &KvMemory, visible: &[u32]| {
            assert!(
                visible.iter().all(|&b| (b as usize) < memory.shape.blocks),
                "a visible block is missing"
            );
        };
        let block_of = |position: usize| position / BLOCK_POSITIONS;
        let (first, last) = (block_of(self.position), block_of(self.position + self.tokens - 1));
        exist(cache.memory, &self.table[block_of(first_visible(self.position, shape.window))..=last]);
        if let Some(rests) = rests {
            exist(rests.memory, &self.rests_table[first..=last]);
        }
    }
}

/// Working memory of attention, for all threads of a pool.
#[derive(Debug)]
pub struct AttentionScratch {
    head_dim: usize,
    threads: Vec<ThreadScratch>,
    /// Partial results of a split job, `[unit][chunk]`; grows to the longest seen.
    results: Vec<f32>,
    /// Spans of each unit still to be done.
    pending: Vec<AtomicUsize>,
}

impl AttentionScratch {
    /// Working memory for heads of `head_dim` and a pool of `threads`. For sequences of up to `positions`
    /// it never grows; its pages are committed as they are used.
    pub fn new(head_dim: usize, threads: usize, positions: usize) -> Self {
        let (units, results) = Self::split_max(head_dim, threads, positions);
        AttentionScratch {
            head_dim,
            threads: (0..threads).map(|_| ThreadScratch::new(head_dim)).collect(),
            results: Vec::with_capacity(results),
            pending: Vec::with_capacity(units),
        }
    }

    /// Bytes that [`AttentionScratch::new`] takes.
    pub fn bytes(head_dim: usize, threads: usize, positions: usize) -> usize {
        let (units, results) = Self::split_max(head_dim, threads, positions);
        let thread = size_of::<ThreadScratch>() + ThreadScratch::values(head_dim) * size_of::<f32>();
        threads * thread + results * size_of::<f32>() + units * size_of::<AtomicUsize>()
    }

    /// Most units of a job that is split along the sequence, and values of their results.
    fn split_max(head_dim: usize, threads: usize, positions: usize) -> (usize, usize) {
        if threads == 1 {
            return (0, 0);
        }
        let units = TASKS_PER_THREAD * threads - 1;
        let chunks = visible_chunks(0, positions, None).len();
        (units, units * chunks * Partial::size(ROWS_MAX, head_dim))
    }

    /// Makes ready for `units` units of `spans` spans with `size` values of results each.
    fn split(&mut self, units: usize, spans: usize, size: usize) {
        if self.results.len() < units * size {
            self.results.resize(units * size, 0.0);
        }
        self.pending.clear();
        self.pending.extend((0..units).map(|_| AtomicUsize::new(spans)));
    }
}

/// What all tasks of one attention job share. A unit is one key-value head of one tile of query tokens.
struct Job<'a> {
    cache: LayerCache<'a>,
    rests: Option<LayerCache<'a>>,
    shape: &'a AttentionShape,
    /// Queries and the values between their rows.
    queries: (&'a [f32], usize),
    /// Outputs and the values between their rows.
    output: (SharedSlice<f32>, usize),
    sequences: &'a [SequenceRows<'a>],
}

impl<'a> Job<'a> {
    /// Most query tokens of a unit.
    fn tile_tokens(&self) -> usize {
        ROWS_MAX / self.shape.group
    }

    /// Tiles of all sequences.
    fn tiles(&self) -> usize {
        self.sequences.iter().map(|s| s.tokens.div_ceil(self.tile_tokens())).sum()
    }

    /// Most chunks that any sequence's tokens see.
    fn chunks_max(&self) -> usize {
        let chunks = |s: &SequenceRows| visible_chunks(s.position, s.tokens, self.shape.window).len();
        self.sequences.iter().map(chunks).max().unwrap_or(0)
    }

    /// Most rows of any unit.
    fn rows_max(&self) -> usize {
        let tokens = self.sequences.iter().map(|s| s.tokens).max().unwrap_or(0);
        tokens.min(self.tile_tokens()) * self.shape.group
    }

    /// A unit's rows, and where its output goes.
    fn task(&self, unit: usize) -> (Task<'a>, *mut f32) {
        let tile = self.tile_tokens();
        let kv_heads = self.cache.memory.shape.kv_heads;
        let (mut index, kv_head) = (unit / kv_heads, unit % kv_heads);
        let mut sequences = self.sequences.iter();
        let sequence = loop {
            let sequence = sequences.next().expect("a job has as many units as its sequences' tiles");
            let count = sequence.tokens.div_ceil(tile);
            if index < count {
                // The last tiles see most: start with them, so that no thread is left with one at the end.
                index = count - 1 - index;
                break sequence;
            }
            index -= count;
        };
        let first = index * tile;
        let cache = self.cache.head(kv_head, sequence.table);
        let rests = self.rests.map(|rests| rests.head(kv_head, sequence.rests_table));
        let (row, head) = (sequence.row + first, kv_head * self.shape.group * self.shape.head_dim);
        let ((queries, query_stride), (output, output_stride)) = (self.queries, self.output);
        let rows = QueryRows {
            queries: queries[row * query_stride + head..].as_ptr(),
            query_stride,
            output_stride,
            position: sequence.position + first,
            tokens: tile.min(sequence.tokens - first),
        };
        (Task { shape: self.shape, cache, rests, rows }, output.address(row * output_stride + head))
    }

    /// Every unit in `spans` tasks, each over a span of its chunks; whoever does a unit's last span merges.
    fn attend_spans(
        &self,
        (isa, pool): (Isa, &Pool),
        (units, spans): (usize, usize),
        scratch: &mut AttentionScratch,
    ) {
        let pending = &scratch.pending;
        let unit_size = self.chunks_max() * Partial::size(self.rows_max(), self.shape.head_dim);
        let scratches = SharedSlice::new(&mut scratch.threads);
        let results = SharedSlice::new(&mut scratch.results);
        pool.run(units * spans, &|index, thread| {
            let (unit, span) = (index / spans, index % spans);
            let (task, output) = self.task(unit);
            let chunks = task.chunks();
            let size = Partial::size(task.count(), self.shape.head_dim);
            let part = span_of(chunks.len(), span, spans);
            let first = unit * unit_size;
            // SAFETY: every thread has its own scratch, every span its own results; the CPU has the set;
            // rows and blocks were checked. The last span's thread alone still uses the unit's results.
            unsafe {
                let scratch = &mut scratches.part(thread, 1)[0];
                let own = results.part(first + part.start * size, part.len() * size);
                let absolute = chunks.start + part.start..chunks.start + part.end;
                (isa.kernels().attend)(&task, absolute, Some(own), scratch);
                if pending[unit].fetch_sub(1, Ordering::AcqRel) == 1 {
                    let whole = results.part(first, chunks.len() * size);
                    (isa.kernels().finish_attention)(&task, Some(whole), output, scratch);
                }
            }
        });
    }
}

/// Part `span` of `spans` nearly equal parts of `0..count`.
fn span_of(count: usize, span: usize, spans: usize) -> Range<usize> {
    count * span / spans..count * (span + 1) / spans
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LAYERS: usize = 2;

    /// A cache with noise in the blocks of two sequences of `positions`, its rests if it has such, and the block
    /// tables of both.
    fn filled(shape: KvShape, positions: usize) -> (KvMemory, Option<KvMemory>, [Vec<u32>; 2]) {
        let mut memory = KvMemory::new(shape);
        let mut rests = shape.kv_type.has_rests().then(|| KvMemory::new(shape));
        // Blocks of the two take turns, the first's backwards.
        let count = shape.blocks as u32 / 2;
        let tables: [Vec<u32>; 2] =
            [(0..count).rev().map(|b| 2 * b).collect(), (0..count).map(|b| 2 * b + 1).collect()];
        let width = shape.kv_heads * shape.head_dim;
        let noise = noise(positions + 2 * width, 7);
        let mut scratch = AttentionScratch::new(shape.head_dim, 1, 0);
        for (index, table) in tables.iter().enumerate() {
            let rows: Vec<f32> = (0..positions)
                .flat_map(|at| [&noise[at + 3..][..width], &noise[at + index * width..][..width]].concat())
                .collect();
            let sequence = SequenceRows { table, rests_table: table, position: 0, row: 0, tokens: positions };
            let rows = KvRows { values: &rows, stride: 2 * width, keys_at: 0 };
            let mut cache = LayerCacheMut { memory: &mut memory, layer: 1 };
            let mut rests = rests.as_mut().map(|memory| LayerCacheMut { memory, layer: 1 });
            let to = (&mut cache, rests.as_mut());
            write((Isa::detect(), &Pool::new(1)), to, (&[sequence], rows), &mut scratch);
        }
        (memory, rests, tables)
    }

    fn noise(length: usize, seed: u64) -> Vec<f32> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((state >> 33) % 20_001) as f32 / 5_000.0 - 2.0
        };
        (0..length).map(|_| next()).collect()
    }

    fn attended(
        (isa, threads): (Isa, usize),
        (memory, rests): (&KvMemory, Option<&KvMemory>),
        shape: &AttentionShape,
        (queries, sequences): (&[f32], &[SequenceRows]),
    ) -> Vec<f32> {
        let stride = memory.shape.kv_heads * shape.group * shape.head_dim;
        let layer = |memory| LayerCache { memory, layer: 1 };
        let caches = (layer(memory), rests.map(layer));
        let mut output = vec![f32::NAN; queries.len()];
        let mut scratch = AttentionScratch::new(shape.head_dim, threads, 0);
        let pool = Pool::new(threads);
        // Twice with the same scratch: nothing of the first time may show in the second.
        for _ in 0..2 {
            output.fill(f32::NAN);
            let batch = AttentionBatch { queries, query_stride: stride, output: &mut output, sequences };
            attend((isa, &pool), caches, shape, (batch, &mut scratch));
        }
        output
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]
        /// Batches of two sequences, on any number of threads and any instruction set, against each token
        /// alone on one thread.
        #[test]
        fn bits_do_not_depend_on_batch_threads_or_instruction_set(
            (kv_heads, group) in (1usize..4, 1usize..10),
            vectors in prop::sample::select(vec![1usize, 4, 5, 8]),
            threads in 1usize..6,
            positions in 1usize..2300,
            tokens in (1usize..40, 0usize..12),
            window in prop::option::of(1usize..1500),
            kv_type in prop::sample::select(vec![KvType::F32, KvType::F16, KvType::Q8, KvType::K8V4, KvType::Q4]),
        ) {
            let head_dim = if kv_type.check(16 * vectors).is_ok() { 16 * vectors } else { 32 * vectors };
            let blocks = 2 * positions.div_ceil(BLOCK_POSITIONS);
            let (memory, rests, tables) =
                filled(KvShape { layers: LAYERS, kv_heads, head_dim, blocks, kv_type }, positions);
            let memories = (&memory, rests.as_ref());
            let scale = 1.0 / (head_dim as f32).sqrt();
            let shape = AttentionShape { head_dim, group, scale, window, soft_cap: None };
            let counts = [tokens.0.min(positions), tokens.1.min(positions)];
            // The rests of earlier blocks are gone.
            let rests_tables = [0, 1].map(|at| -> Vec<u32> {
                let first = (positions - counts[at]) / BLOCK_POSITIONS;
                let left = |(block, &number)| if block < first { u32::MAX } else { number };
                if rests.is_some() { tables[at].iter().enumerate().map(left).collect() } else { Vec::new() }
            });
            let mut row = 0;
            let sequences: Vec<SequenceRows> = tables.iter().zip(&rests_tables).zip(counts)
                .filter(|(_, count)| *count > 0)
                .map(|((table, rests_table), tokens)| {
                    row += tokens;
                    SequenceRows {
                        table,
                        rests_table,
                        position: positions - tokens,
                        row: row - tokens,
                        tokens,
                    }
                })
                .collect();
            let width = kv_heads * group * head_dim;
            let queries = noise(row * width, 3);
            let mut alone = vec![f32::NAN; queries.len()];
            for sequence in &sequences {
                for token in 0..sequence.tokens {
                    let one = SequenceRows { position: sequence.position + token, row: 0, tokens: 1, ..*sequence };
                    let at = (sequence.row + token) * width..(sequence.row + token + 1) * width;
                    let got = attended((Isa::detect(), 1), memories, &shape, (&queries[at.clone()], &[one]));
                    alone[at].copy_from_slice(&got);
                }
            }
            for isa in Isa::available() {
                let got = attended((isa, threads), memories, &shape, (&queries, &sequences));
                prop_assert!(got == alone, "{} with {threads} threads", isa.name());
            }
        }
    }

    #[test]
    fn a_cache_weighs_its_elements_and_their_scales() {
        // Bytes of 32 elements of keys and as many of values.
        for (kv_type, bytes) in [(KvType::F16, 128), (KvType::Q8, 68), (KvType::K8V4, 51), (KvType::Q4, 36)] {
            let shape = KvShape { layers: 3, kv_heads: 2, head_dim: 96, blocks: 5, kv_type };
            assert_eq!(shape.block_bytes(), 3 * 2 * 96 * BLOCK_POSITIONS / 32 * bytes);
            // Whole lines, so that every head's keys and values begin with one.
            let (keys, values) = shape.half_bytes();
            assert!(keys.is_multiple_of(LINE_BYTES) && values.is_multiple_of(LINE_BYTES));
            let held = KvMemory::new(shape).memory.len() * LINE_BYTES;
            assert_eq!(held, 5 * shape.block_bytes());
        }
    }

    #[test]
    fn spans_cover_every_chunk_once() {
        for count in 0..40 {
            for spans in 1..=count.max(1) {
                let all: Vec<usize> = (0..spans).flat_map(|span| span_of(count, span, spans)).collect();
                assert_eq!(all, (0..count).collect::<Vec<_>>());
            }
        }
    }
}
