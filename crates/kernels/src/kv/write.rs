//! Writing a batch's keys and values of one layer, spread over a pool.

use super::{AttentionScratch, KvMemory, KvShape, LayerCache, SequenceRows};
use crate::attention::{BLOCK_POSITIONS, KvSlot, rotation};
use crate::isa::Isa;
use crate::lines::Line;
use crate::pool::{Pool, SharedSlice};

/// Batches of fewer tokens are written by one thread: waking the others would take longer.
const TOKENS_SPREAD: usize = 8;
/// Tasks for each thread.
const TASKS_PER_THREAD: usize = 2;

/// One layer of a cache, to be written.
#[derive(Debug)]
pub struct LayerCacheMut<'a> {
    /// The cache.
    pub memory: &'a mut KvMemory,
    /// The layer.
    pub layer: usize,
}

impl<'a> LayerCacheMut<'a> {
    /// The same, to be read.
    pub fn shared(self) -> LayerCache<'a> {
        LayerCache { memory: self.memory, layer: self.layer }
    }
}

/// Keys and values of a batch.
#[derive(Clone, Copy, Debug)]
pub struct KvRows<'a> {
    /// The batch's rows.
    pub values: &'a [f32],
    /// Values between rows.
    pub stride: usize,
    /// Where in a row the keys begin, `[kv_head][head_dim]`; the values follow.
    pub keys_at: usize,
}

/// Writes the keys and values of sequences' tokens to their places in `cache`, and what that lacks to those in
/// `rests`, a cache of the same type, if there is one.
///
/// # Panics
/// If layers, rows or tables don't fit, `rests` is of another type or heads, or `scratch` for other heads or fewer
/// threads.
pub fn write(
    (isa, pool): (Isa, &Pool),
    (cache, rests): (&mut LayerCacheMut, Option<&mut LayerCacheMut>),
    (sequences, rows): (&[SequenceRows], KvRows),
    scratch: &mut AttentionScratch,
) {
    let shape = cache.memory.shape;
    let (head_dim, width) = (shape.head_dim, shape.kv_heads * shape.head_dim);
    assert!(scratch.threads.len() >= pool.threads() && scratch.head_dim == head_dim);
    let (cache, rests) = (Target::new(cache), rests.map(Target::new));
    let same = |a: &KvShape| (a.kv_type, a.kv_heads, a.head_dim) == (shape.kv_type, shape.kv_heads, head_dim);
    assert!(rests.as_ref().is_none_or(|rests| same(&rests.shape)));
    let tokens: usize = sequences.iter().map(|sequence| sequence.tokens).sum();
    let tasks = if tokens < TOKENS_SPREAD { 1 } else { TASKS_PER_THREAD * pool.threads() };
    let scratches = SharedSlice::new(&mut scratch.threads);
    let store = isa.kernels().store_kv;
    pool.run(tasks, &|task, thread| {
        // SAFETY: every thread has its own scratch.
        let scratch = unsafe { &mut scratches.part(thread, 1)[0] };
        let (key, value) = scratch.token(head_dim);
        for (sequence, token) in sequences.iter().flat_map(|s| (0..s.tokens).map(move |token| (s, token))) {
            let position = sequence.position + token;
            let (block, slot) = (position / BLOCK_POSITIONS, position % BLOCK_POSITIONS);
            if slot % tasks != task {
                continue;
            }
            let (keys, values) = rows.values[(sequence.row + token) * rows.stride + rows.keys_at..]
                [..2 * width]
                .split_at(width);
            for head in 0..shape.kv_heads {
                let part = head * head_dim..(head + 1) * head_dim;
                key.copy_from_slice(&keys[part.clone()]);
                value.copy_from_slice(&values[part]);
                if shape.kv_type.is_quantized() {
                    rotation::rotate_key(shape.kv_type, key);
                    rotation::rotate(value);
                }
                let to = cache.slot((sequence.table[block], slot), head);
                // SAFETY: the CPU has the set; memory that is borrowed mutably has this slot, whose bytes are no
                // other slot's, and all of that number are this task's.
                unsafe { store(&to, key, value) };
                if let Some(rests) = &rests {
                    let to = rests.slot((sequence.rests_table[block], slot), head);
                    // SAFETY: as above.
                    unsafe { store(&to, key, value) };
                }
            }
        }
    });
}

/// A layer's memory, shared among tasks.
struct Target {
    shape: KvShape,
    layer_offset: usize,
    lines: SharedSlice<Line>,
}

impl Target {
    fn new(cache: &mut LayerCacheMut) -> Self {
        let LayerCacheMut { memory, layer } = cache;
        assert!(*layer < memory.shape.layers);
        let layer_offset = memory.head_offset(*layer, 0);
        Target { shape: memory.shape, layer_offset, lines: SharedSlice::new(&mut memory.memory) }
    }

    /// Where a head's elements of a position go.
    fn slot(&self, (block, slot): (u32, usize), head: usize) -> KvSlot {
        assert!((block as usize) < self.shape.blocks && slot < BLOCK_POSITIONS && head < self.shape.kv_heads);
        let offset =
            block as usize * self.shape.block_bytes() + self.layer_offset + head * self.shape.head_bytes();
        let keys = self.lines.address(0).cast::<u8>().wrapping_add(offset);
        let values = keys.wrapping_add(self.shape.half_bytes().0);
        KvSlot { keys, values, slot, kv_type: self.shape.kv_type }
    }
}
