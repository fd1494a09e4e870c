//! The key-value cache: sequences, their block tables, and the memory of each group of layers.
//!
//! Layers that see the same range of positions form a group and share block numbers. Blocks that a
//! window has passed go back to the pool, so a sliding-window layer holds its window and no more.

use kernels::attention::{BLOCK_POSITIONS, first_visible};
use kernels::kv::{KvMemory, KvShape};

use super::DecoderOptions;
use crate::spec::DecoderSpec;

/// Marks a block that a window has passed.
const PASSED: u32 = u32::MAX;

/// Why tokens can't be placed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KvError {
    /// The sequence would be longer than the context.
    #[error("{wanted} tokens exceed the context of {limit}")]
    ContextFull {
        /// Tokens the sequence would have.
        wanted: usize,
        /// The limit.
        limit: usize,
    },
    /// No free block is left.
    #[error("the key-value cache is full: all {blocks} blocks of {BLOCK_POSITIONS} positions are taken")]
    NoBlock {
        /// Blocks there are.
        blocks: usize,
    },
    /// No free sequence is left.
    #[error("all {sequences} sequences are in use")]
    NoSequence {
        /// Sequences there are.
        sequences: usize,
    },
}

/// What a group of layers with one visible range gets.
#[derive(Clone, Copy, Debug)]
pub(super) struct GroupSize {
    /// Positions that a token sees; `None`: all.
    pub window: Option<usize>,
    pub shape: KvShape,
}

/// The groups of a cache, and group and index within it by layer.
pub(super) fn group_sizes(
    spec: &DecoderSpec,
    options: &DecoderOptions,
) -> (Vec<GroupSize>, Vec<(usize, usize)>) {
    let &DecoderOptions { sequences, kv_tokens, kv_type, batch_tokens } = options;
    // A sequence's last block is seldom full.
    let all = kv_tokens.div_ceil(BLOCK_POSITIONS) + sequences;
    let mut groups: Vec<GroupSize> = Vec::new();
    let mut layers = Vec::with_capacity(spec.layers.len());
    for layer in &spec.layers {
        let group = groups.iter().position(|g| g.window == layer.window).unwrap_or_else(|| {
            // While a batch is written, its first token's window must still be there.
            let of_window = |w: usize| (w + batch_tokens).div_ceil(BLOCK_POSITIONS) + 2;
            let blocks = layer.window.map_or(all, |w| all.min(of_window(w) * sequences));
            let (kv_heads, head_dim) = (spec.kv_heads, spec.head_dim);
            let shape = KvShape { layers: 0, kv_heads, head_dim, blocks, kv_type };
            groups.push(GroupSize { window: layer.window, shape });
            groups.len() - 1
        });
        layers.push((group, groups[group].shape.layers));
        groups[group].shape.layers += 1;
    }
    (groups, layers)
}

/// Layers with one visible range.
#[derive(Debug)]
pub(super) struct Group {
    pub window: Option<usize>,
    pub memory: KvMemory,
    free: Vec<u32>,
}

/// One sequence's place in the cache.
#[derive(Debug, Default)]
struct Sequence {
    in_use: bool,
    /// Tokens whose keys and values are written.
    position: usize,
    /// Block numbers, by group.
    tables: Vec<Vec<u32>>,
}

/// The cache of one decoder.
#[derive(Debug)]
pub(super) struct KvCache {
    pub groups: Vec<Group>,
    /// Group and index within it, by layer.
    pub layers: Vec<(usize, usize)>,
    sequences: Vec<Sequence>,
    context_tokens: usize,
}

impl KvCache {
    /// A cache for `options.sequences` sequences that share `options.kv_tokens` positions; none is longer
    /// than the spec's context.
    pub fn new(spec: &DecoderSpec, options: &DecoderOptions) -> Self {
        let (sizes, layers) = group_sizes(spec, options);
        let groups: Vec<Group> = sizes
            .into_iter()
            .map(|GroupSize { window, shape }| {
                let free = (0..shape.blocks as u32).rev().collect();
                Group { window, memory: KvMemory::new(shape), free }
            })
            .collect();
        // As long as they can get: writing must not allocate.
        let longest = spec.context_tokens.min(options.kv_tokens).div_ceil(BLOCK_POSITIONS) + 1;
        let tables = || groups.iter().map(|_| Vec::with_capacity(longest)).collect();
        let sequences =
            (0..options.sequences).map(|_| Sequence { tables: tables(), ..Sequence::default() }).collect();
        KvCache { groups, layers, sequences, context_tokens: spec.context_tokens }
    }

    /// Takes a free sequence, empty.
    pub fn take(&mut self) -> Result<usize, KvError> {
        let free = self.sequences.iter().position(|s| !s.in_use);
        let index = free.ok_or(KvError::NoSequence { sequences: self.sequences.len() })?;
        self.sequences[index].in_use = true;
        Ok(index)
    }

    /// Gives a sequence and its blocks back.
    pub fn give_back(&mut self, sequence: usize) {
        self.truncate(sequence, 0);
        self.sequences[sequence].in_use = false;
    }

    /// Tokens written.
    pub fn position(&self, sequence: usize) -> usize {
        self.sequences[sequence].position
    }

    /// Block numbers of a sequence for a group.
    pub fn table(&self, sequence: usize, group: usize) -> &[u32] {
        &self.sequences[sequence].tables[group]
    }

    /// Blocks in use, over all groups.
    pub fn blocks_used(&self) -> usize {
        self.groups.iter().map(|g| g.memory.shape().blocks - g.free.len()).sum()
    }

    /// Makes room for `tokens` more tokens. On failure nothing is taken.
    pub fn reserve(&mut self, sequence: usize, tokens: usize) -> Result<(), KvError> {
        let end = self.sequences[sequence].position + tokens;
        if end > self.context_tokens {
            return Err(KvError::ContextFull { wanted: end, limit: self.context_tokens });
        }
        self.release_passed(sequence);
        let wanted = end.div_ceil(BLOCK_POSITIONS);
        let tables = &mut self.sequences[sequence].tables;
        for (group, table) in self.groups.iter().zip(tables.iter()) {
            if wanted.saturating_sub(table.len()) > group.free.len() {
                return Err(KvError::NoBlock { blocks: group.memory.shape().blocks });
            }
        }
        for (group, table) in self.groups.iter_mut().zip(tables.iter_mut()) {
            while table.len() < wanted {
                table.extend(group.free.pop());
            }
        }
        Ok(())
    }

    /// Counts `tokens` written tokens in.
    pub fn advance(&mut self, sequence: usize, tokens: usize) {
        self.sequences[sequence].position += tokens;
    }

    /// Forgets all but the first `tokens` tokens. Positions that a window has passed stay lost: the
    /// caller may cut back only what it added since.
    pub fn truncate(&mut self, sequence: usize, tokens: usize) {
        let sequence = &mut self.sequences[sequence];
        sequence.position = sequence.position.min(tokens);
        let keep = sequence.position.div_ceil(BLOCK_POSITIONS);
        for (group, table) in self.groups.iter_mut().zip(&mut sequence.tables) {
            let cut = keep.min(table.len());
            group.free.extend(table.drain(cut..).filter(|&block| block != PASSED));
        }
    }

    /// Frees blocks that no later token sees.
    fn release_passed(&mut self, sequence: usize) {
        let Sequence { position, tables, .. } = &mut self.sequences[sequence];
        for (group, table) in self.groups.iter_mut().zip(tables) {
            let passed = first_visible(*position, group.window) / BLOCK_POSITIONS;
            // Behind the first passed block all are: stop there, so that the walk stays short.
            for block in table.iter_mut().take(passed).rev().take_while(|block| **block != PASSED) {
                group.free.push(std::mem::replace(block, PASSED));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;
    use crate::spec::{Activation, LayerSpec, RopePairs};

    fn spec() -> DecoderSpec {
        let layer = |window| LayerSpec { window, rope: None };
        DecoderSpec {
            architecture: "test".into(),
            hidden: 16,
            heads: 1,
            kv_heads: 1,
            head_dim: 16,
            feed_forward: 16,
            context_tokens: 2000,
            norm_epsilon: 1e-6,
            embedding_scale: 1.0,
            residual_scale: 1.0,
            logit_scale: 1.0,
            attention_scale: 1.0,
            attention_soft_cap: None,
            logit_soft_cap: None,
            activation: Activation::Silu,
            rope_pairs: RopePairs::HalfSplit,
            ropes: Vec::new(),
            layers: vec![layer(Some(100)), layer(None), layer(Some(100))],
        }
    }

    proptest! {
        /// Random takes, growths, cuts and give-backs: no block belongs to two sequences, visible ones
        /// are all there, and none is lost.
        #[test]
        fn blocks_are_never_shared_nor_lost(operations in prop::collection::vec((0u8..4, 0usize..4, 1usize..400), 1..200)) {
            let mut cache = KvCache::new(&spec(), &DecoderOptions::new(3, 3000));
            // The naive twin: (sequence, tokens, tokens before the last growth).
            let mut live: Vec<(usize, usize, usize)> = Vec::new();
            for (operation, which, amount) in operations {
                match operation {
                    0 => match cache.take() {
                        Ok(sequence) => live.push((sequence, 0, 0)),
                        Err(error) => {
                            prop_assert_eq!(error, KvError::NoSequence { sequences: 3 });
                            prop_assert_eq!(live.len(), 3);
                        }
                    },
                    1 if !live.is_empty() => {
                        let entry = which % live.len();
                        let (sequence, tokens, _) = live[entry];
                        match cache.reserve(sequence, amount) {
                            Ok(()) => {
                                cache.advance(sequence, amount);
                                live[entry] = (sequence, tokens + amount, tokens);
                            }
                            Err(KvError::ContextFull { .. }) => prop_assert!(tokens + amount > 2000),
                            Err(error) => {
                                let total: usize = live.iter().map(|l| l.1).sum();
                                prop_assert!(total + amount > 3000, "{error} at {total} tokens");
                            }
                        }
                    }
                    2 if !live.is_empty() => {
                        // Speculation cuts back some of what it added.
                        let entry = which % live.len();
                        let keep = live[entry].1.saturating_sub(amount % 8).max(live[entry].2);
                        cache.truncate(live[entry].0, keep);
                        live[entry].1 = keep;
                    }
                    3 if !live.is_empty() => {
                        let (sequence, ..) = live.remove(which % live.len());
                        cache.give_back(sequence);
                    }
                    _ => {}
                }
                for (index, group) in cache.groups.iter().enumerate() {
                    let mut seen: HashSet<u32> = group.free.iter().copied().collect();
                    prop_assert_eq!(seen.len(), group.free.len());
                    for &(sequence, tokens, _) in &live {
                        prop_assert_eq!(cache.position(sequence), tokens);
                        let table = cache.table(sequence, index);
                        let first = first_visible(tokens, group.window) / BLOCK_POSITIONS;
                        let blocks = tokens.div_ceil(BLOCK_POSITIONS);
                        prop_assert!(table[first.min(blocks)..blocks].iter().all(|&b| b != PASSED));
                        for &block in table.iter().filter(|&&b| b != PASSED) {
                            prop_assert!(seen.insert(block), "block {block} is in two places");
                        }
                    }
                    prop_assert_eq!(seen.len(), group.memory.shape().blocks);
                }
            }
        }
    }
}
