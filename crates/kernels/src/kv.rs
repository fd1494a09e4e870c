//! Memory of a key-value cache: blocks of 64 positions for a group of layers, and attention over it.

use crate::attention::{
    AttentionScratch, AttentionShape, BLOCK_POSITIONS, HeadCache, KvSlot, KvType, QueryRows, ROWS_MAX,
    first_visible,
};
use crate::isa::Isa;
use crate::lines::{LINE_BYTES, Lines};
use crate::pool::{Pool, SharedSlice};

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
    /// Bytes of one block: `layers · 2 · kv_heads · 64 · head_dim · element`.
    pub fn block_bytes(&self) -> usize {
        self.layers * self.kv_heads * 2 * self.half_bytes()
    }

    /// Bytes of one head's keys (or values) in a block.
    fn half_bytes(&self) -> usize {
        BLOCK_POSITIONS * self.head_dim * self.kv_type.bytes()
    }
}

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
    /// Position of the first token.
    pub position: usize,
    /// Row of the first token in the batch; the others follow.
    pub row: usize,
    /// Tokens.
    pub tokens: usize,
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
    /// If a head is not whole vectors of 16.
    pub fn new(shape: KvShape) -> Self {
        assert!(shape.head_dim.is_multiple_of(16), "head_dim must be a multiple of 16");
        let lines = (shape.block_bytes() * shape.blocks).div_ceil(LINE_BYTES);
        KvMemory { shape, memory: Lines::zeroed(lines) }
    }

    /// Its sizes.
    pub fn shape(&self) -> &KvShape {
        &self.shape
    }

    fn head_offset(&self, layer: usize, head: usize) -> usize {
        (layer * self.shape.kv_heads + head) * 2 * self.shape.half_bytes()
    }

    /// Writes one token's keys and values (`[kv_head][head_dim]` each) of `layer` at `slot` of `block`.
    ///
    /// # Panics
    /// If layer, block, slot or lengths are out of range.
    pub fn write(
        &mut self,
        isa: Isa,
        layer: usize,
        (block, slot): (u32, usize),
        (keys, values): (&[f32], &[f32]),
    ) {
        let KvShape { layers, kv_heads, head_dim, blocks, kv_type } = self.shape;
        assert!(layer < layers && (block as usize) < blocks && slot < BLOCK_POSITIONS);
        assert!(keys.len() == kv_heads * head_dim && values.len() == keys.len());
        let base = self.memory.as_mut_ptr().cast::<u8>();
        for head in 0..kv_heads {
            let offset = block as usize * self.shape.block_bytes() + self.head_offset(layer, head);
            let keys_at = base.wrapping_add(offset);
            let to = KvSlot {
                keys: keys_at,
                values: keys_at.wrapping_add(self.shape.half_bytes()),
                slot,
                kv_type,
            };
            let part = head * head_dim..(head + 1) * head_dim;
            // SAFETY: the CPU has the set; the slot lies in memory borrowed mutably here.
            unsafe { (isa.kernels().store_kv)(&to, &keys[part.clone()], &values[part]) };
        }
    }

    /// Attention of `layer` for a batch of rows; every row's own key must have been written.
    ///
    /// # Panics
    /// If rows, tables or lengths do not fit.
    pub fn attend(
        &self,
        (isa, pool): (Isa, &Pool),
        layer: usize,
        shape: &AttentionShape,
        (batch, scratch): (AttentionBatch, &mut [AttentionScratch]),
    ) {
        let kv_heads = self.shape.kv_heads;
        let width = kv_heads * shape.group * shape.head_dim;
        assert!(layer < self.shape.layers && shape.head_dim == self.shape.head_dim);
        assert!(scratch.len() >= pool.threads() && (1..=ROWS_MAX).contains(&shape.group));
        for sequence in batch.sequences {
            self.check(shape, sequence);
            let end = sequence.row + sequence.tokens;
            assert!(end * batch.query_stride <= batch.queries.len() && end * width <= batch.output.len());
            assert!(width <= batch.query_stride);
        }
        let tile = ROWS_MAX / shape.group;
        let tiles: usize = batch.sequences.iter().map(|s| s.tokens.div_ceil(tile)).sum();
        let (output, scratches) = (SharedSlice::new(batch.output), SharedSlice::new(scratch));
        let job = Job { memory: self, layer, shape, queries: (batch.queries, batch.query_stride), width };
        pool.run(tiles * kv_heads, &|task, thread| {
            // SAFETY: every thread has its own scratch.
            let scratch = unsafe { &mut scratches.part(thread, 1)[0] };
            let mut index = task / kv_heads;
            for sequence in batch.sequences {
                let count = sequence.tokens.div_ceil(tile);
                if index >= count {
                    index -= count;
                    continue;
                }
                // The last tiles see most: start with them, so that no thread is left with one at the end.
                let first = (count - 1 - index) * tile;
                let rows = SequenceRows {
                    position: sequence.position + first,
                    row: sequence.row + first,
                    tokens: tile.min(sequence.tokens - first),
                    ..*sequence
                };
                return job.attend_tile(isa, task % kv_heads, &rows, (output, scratch));
            }
        });
    }

    /// Panics unless every block that the rows see exists.
    fn check(&self, shape: &AttentionShape, rows: &SequenceRows) {
        assert!(rows.tokens > 0, "a sequence without tokens");
        let first = first_visible(rows.position, shape.window) / BLOCK_POSITIONS;
        let last = (rows.position + rows.tokens - 1) / BLOCK_POSITIONS;
        let visible = &rows.table[first..=last];
        assert!(visible.iter().all(|&b| (b as usize) < self.shape.blocks), "a visible block is missing");
    }
}

/// What all tasks of one attention job share.
struct Job<'a> {
    memory: &'a KvMemory,
    layer: usize,
    shape: &'a AttentionShape,
    queries: (&'a [f32], usize),
    width: usize,
}

impl Job<'_> {
    fn attend_tile(
        &self,
        isa: Isa,
        kv_head: usize,
        rows: &SequenceRows,
        (output, scratch): (SharedSlice<f32>, &mut AttentionScratch),
    ) {
        let kv = &self.memory.shape;
        let keys_offset = self.memory.head_offset(self.layer, kv_head);
        let cache = HeadCache {
            memory: self.memory.memory.as_ptr().cast(),
            block_stride: kv.block_bytes(),
            keys_offset,
            values_offset: keys_offset + kv.half_bytes(),
            table: rows.table,
            kv_type: kv.kv_type,
        };
        let head = kv_head * self.shape.group * self.shape.head_dim;
        let (queries, query_stride) = self.queries;
        let query_rows = QueryRows {
            queries: queries[rows.row * query_stride + head..].as_ptr(),
            query_stride,
            output_stride: self.width,
            position: rows.position,
            tokens: rows.tokens,
        };
        let to = output.address(rows.row * self.width + head);
        // SAFETY: the CPU has the set; `attend` proved rows and blocks; tasks write disjoint outputs.
        unsafe { (isa.kernels().attend)(self.shape, &cache, &query_rows, (to, scratch)) };
    }
}
