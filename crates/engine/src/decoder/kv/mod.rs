//! The key-value cache: sequences, their block tables, and the memory of each group of layers.
//!
//! Layers that see the same range of positions form a group and share block numbers. Blocks that a
//! window has passed go back to the pool, so a sliding-window layer holds its window and no more. So does the
//! group of rests ([`KvType::has_rests`](kernels::attention::KvType::has_rests)) the block that is being written. Full
//! blocks of settled tokens go into an index ([`prefix`]), where later sequences find them; they count as
//! free as soon as nobody uses them.

mod groups;
mod lru;
mod prefix;

use kernels::attention::BLOCK_POSITIONS;
use kernels::kv::{KvMemory, LayerCacheMut};

pub(super) use self::groups::group_sizes;
use self::groups::{GroupSize, Sight, rollback};
use self::prefix::{NONE, Prefixes};
use super::DecoderOptions;
use crate::spec::DecoderSpec;

/// Marks a block that a window has passed.
const PASSED: u32 = NONE;

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

/// Layers whose tokens see the same.
#[derive(Debug)]
pub(super) struct Group {
    sight: Sight,
    pub memory: KvMemory,
    free: Vec<u32>,
}

impl Group {
    /// Whether sequences share its blocks.
    fn is_shared(&self) -> bool {
        self.sight != Sight::Own
    }
}

/// One sequence's place in the cache.
#[derive(Debug, Default)]
struct Sequence {
    in_use: bool,
    /// Tokens whose keys and values are written.
    position: usize,
    /// Tokens that it will need room for.
    promised: usize,
    /// Block numbers, by group.
    tables: Vec<Vec<u32>>,
    /// Whose prefixes it may share.
    scope: u64,
    /// Whether what it settles is only for others that are kept apart.
    is_kept_apart: bool,
    /// Nodes of the index that hold its first blocks.
    chain: Vec<u32>,
    /// Settled tokens after those of the chain.
    tail: Vec<u32>,
    /// Whether its next block found no place in the index: then none does.
    is_apart: bool,
}

/// What a pass needs of a layer.
pub(super) struct LayerParts<'a> {
    pub cache: LayerCacheMut<'a>,
    /// Of types that have such. Their group is the last.
    pub rests: Option<LayerCacheMut<'a>>,
    pub tables: Tables<'a>,
}

/// Block tables for a layer.
pub(super) struct Tables<'a> {
    sequences: &'a [Sequence],
    group: usize,
    rests_group: Option<usize>,
}

impl<'a> Tables<'a> {
    /// Those of a sequence, for the cache and the rests.
    pub fn of(&self, sequence: usize) -> (&'a [u32], &'a [u32]) {
        let tables = &self.sequences[sequence].tables;
        (&tables[self.group], self.rests_group.map_or(&[], |group| &tables[group]))
    }
}

/// Blocks of a cache, over all groups.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KvBlocks {
    /// In use by sequences.
    pub used: usize,
    /// Kept for later sequences, given up when needed.
    pub cached: usize,
    /// Empty.
    pub free: usize,
    /// Bytes of those in use.
    pub used_bytes: usize,
    /// Bytes of all.
    pub bytes: usize,
}

/// The cache of one decoder.
#[derive(Debug)]
pub(super) struct KvCache {
    pub groups: Vec<Group>,
    /// Group and index within it, by layer.
    pub layers: Vec<(usize, usize)>,
    sequences: Vec<Sequence>,
    prefixes: Prefixes,
    context_tokens: usize,
    /// Blocks that one pass may write beyond the windows.
    in_flight: usize,
    /// Tokens that may be cut off again after several passes: what their windows have passed stays.
    rollback: usize,
}

impl KvCache {
    /// A cache for `options.sequences` sequences that share `options.kv_tokens` positions; none is longer
    /// than the spec's context.
    pub fn new(spec: &DecoderSpec, options: &DecoderOptions) -> Self {
        let (sizes, layers) = group_sizes(spec, options);
        let groups: Vec<Group> = sizes
            .into_iter()
            .map(|GroupSize { sight, shape }| {
                let free = (0..shape.blocks as u32).rev().collect();
                Group { sight, memory: KvMemory::new(shape), free }
            })
            .collect();
        // As long as they can get: writing must not allocate.
        let longest = spec.context_tokens.min(options.kv_tokens).div_ceil(BLOCK_POSITIONS) + 1;
        let sequence = || Sequence {
            tables: groups.iter().map(|_| Vec::with_capacity(longest)).collect(),
            chain: Vec::with_capacity(longest),
            tail: Vec::with_capacity(BLOCK_POSITIONS),
            ..Sequence::default()
        };
        let nodes = groups.iter().map(|g| g.memory.shape().blocks).max().unwrap_or(0);
        KvCache {
            sequences: (0..options.sequences_in_all()).map(|_| sequence()).collect(),
            prefixes: Prefixes::new(groups.len(), nodes),
            groups,
            layers,
            context_tokens: spec.context_tokens,
            in_flight: options.batch_tokens.div_ceil(BLOCK_POSITIONS),
            rollback: rollback(options),
        }
    }

    /// Bytes that [`KvCache::new`] takes besides the pools.
    pub fn lists_bytes(spec: &DecoderSpec, options: &DecoderOptions) -> usize {
        let (sizes, _) = group_sizes(spec, options);
        let blocks = || sizes.iter().map(|size| size.shape.blocks);
        let longest = spec.context_tokens.min(options.kv_tokens).div_ceil(BLOCK_POSITIONS) + 1;
        let sequence = (sizes.len() + 1) * longest + BLOCK_POSITIONS;
        let sequences = options.sequences_in_all();
        let numbers = sequences * sequence + blocks().sum::<usize>();
        let own = size_of::<Sequence>() + sizes.len() * size_of::<Vec<u32>>();
        let prefixes = Prefixes::bytes(sizes.len(), blocks().max().unwrap_or(0));
        numbers * size_of::<u32>() + sequences * own + prefixes
    }

    /// Takes a free sequence, empty.
    pub fn take(&mut self) -> Result<usize, KvError> {
        let free = self.sequences.iter().position(|s| !s.in_use);
        let index = free.ok_or(KvError::NoSequence { sequences: self.sequences.len() })?;
        self.sequences[index].in_use = true;
        Ok(index)
    }

    /// Fills an empty sequence with what is there already of `prompt`, whole blocks short of its last
    /// token. `scope`: sequences of different scopes share nothing. Returns the tokens.
    pub fn attach(&mut self, sequence: usize, scope: u64, prompt: &[u32]) -> usize {
        self.sequences[sequence].scope = scope;
        self.find(sequence, prompt);
        self.fill(sequence)
    }

    /// As [`KvCache::attach`], also with what sequences of the scope have settled that were kept apart: of the
    /// prompt, what comes after all that others have.
    pub fn attach_apart(&mut self, sequence: usize, scope: u64, prompt: &[u32]) -> usize {
        self.sequences[sequence].scope = scope;
        self.find(sequence, prompt);
        self.keep_apart(sequence);
        let shared = self.sequences[sequence].chain.len();
        self.find(sequence, prompt);
        let found = self.fill(sequence);
        // What it reads next of the prompt may still be for all.
        if found <= shared * BLOCK_POSITIONS {
            let sequence = &mut self.sequences[sequence];
            (sequence.scope, sequence.is_kept_apart) = (scope, false);
        }
        found
    }

    /// From now on, what is settled of the sequence is for those that are kept apart.
    pub fn keep_apart(&mut self, sequence: usize) {
        let sequence = &mut self.sequences[sequence];
        if !sequence.is_kept_apart {
            (sequence.scope, sequence.is_kept_apart) = (!sequence.scope, true);
        }
    }

    /// Goes on with the chain of an empty sequence as far as its scope has of the prompt.
    fn find(&mut self, sequence: usize, prompt: &[u32]) {
        let Sequence { position, scope, chain, .. } = &mut self.sequences[sequence];
        debug_assert!(*position == 0, "only an empty sequence can be filled");
        let whole = prompt.len().saturating_sub(1) / BLOCK_POSITIONS;
        for tokens in prompt.chunks_exact(BLOCK_POSITIONS).take(whole).skip(chain.len()) {
            let parent = chain.last().copied().unwrap_or(NONE);
            let Some(node) = self.prefixes.find(parent, *scope, tokens) else { break };
            chain.push(node);
        }
    }

    /// Gives an empty sequence the blocks of its chain, as far as they are there. Returns the tokens.
    fn fill(&mut self, sequence: usize) -> usize {
        let sequence = &mut self.sequences[sequence];
        let (groups, prefixes) = (&self.groups, &mut self.prefixes);
        let first_seen = |group: &Group, blocks: usize| group.sight.first_block(blocks * BLOCK_POSITIONS);
        // Where a window is not complete, the next token could not be computed.
        let is_complete = |blocks: usize| {
            groups.iter().enumerate().all(|(index, group)| {
                let seen = &sequence.chain[first_seen(group, blocks)..blocks];
                seen.iter().all(|&node| prefixes.block(node, index) != NONE)
            })
        };
        let blocks = (0..=sequence.chain.len()).rev().find(|&blocks| is_complete(blocks)).unwrap_or(0);
        sequence.chain.truncate(blocks);
        sequence.chain.iter().for_each(|&node| prefixes.take(node));
        for (index, (group, table)) in groups.iter().zip(&mut sequence.tables).enumerate() {
            let first = first_seen(group, blocks);
            table.extend(sequence.chain.iter().enumerate().map(|(at, &node)| {
                if at < first {
                    return PASSED;
                }
                prefixes.pin(node, index);
                prefixes.block(node, index)
            }));
        }
        sequence.position = blocks * BLOCK_POSITIONS;
        sequence.position
    }

    /// Gives a sequence and its blocks back.
    pub fn give_back(&mut self, sequence: usize) {
        self.truncate(sequence, 0);
        let sequence = &mut self.sequences[sequence];
        // From the end: children before their parents.
        for (at, node) in sequence.chain.drain(..).enumerate().rev() {
            for (index, (group, table)) in self.groups.iter_mut().zip(&sequence.tables).enumerate() {
                match table[at] {
                    PASSED => {}
                    _ if group.is_shared() => self.prefixes.unpin(node, index),
                    block => group.free.push(block),
                }
            }
            self.prefixes.let_go(node);
        }
        sequence.tables.iter_mut().for_each(Vec::clear);
        sequence.tail.clear();
        (sequence.in_use, sequence.is_apart, sequence.is_kept_apart) = (false, false, false);
        (sequence.position, sequence.promised) = (0, 0);
    }

    /// Tokens written.
    pub fn position(&self, sequence: usize) -> usize {
        self.sequences[sequence].position
    }

    /// A layer's memory, and where in it sequences lie.
    pub fn layer(&mut self, layer: usize) -> LayerParts<'_> {
        let (group, at) = self.layers[layer];
        let rests_group = self.groups.iter().position(|group| !group.is_shared());
        let shared_groups = rests_group.unwrap_or(self.groups.len());
        let (shared, rests) = self.groups.split_at_mut(shared_groups);
        LayerParts {
            cache: LayerCacheMut { memory: &mut shared[group].memory, layer: at },
            rests: rests.first_mut().map(|rests| LayerCacheMut { memory: &mut rests.memory, layer }),
            tables: Tables { sequences: &self.sequences, group, rests_group },
        }
    }

    /// Block numbers of a sequence for a group.
    pub fn table(&self, sequence: usize, group: usize) -> &[u32] {
        &self.sequences[sequence].tables[group]
    }

    /// How many blocks are in use.
    pub fn blocks(&self) -> KvBlocks {
        let mut sum = KvBlocks::default();
        for (index, group) in self.groups.iter().enumerate() {
            let shape = group.memory.shape();
            let cached = self.prefixes.unpinned(index);
            let used = shape.blocks - group.free.len() - cached;
            sum.used += used;
            sum.cached += cached;
            sum.free += group.free.len();
            sum.used_bytes += used * shape.block_bytes();
            sum.bytes += shape.blocks * shape.block_bytes();
        }
        sum
    }

    /// Announces that a sequence will hold `tokens` tokens. False, and nothing is announced, if they have
    /// no room beside those of all other sequences.
    pub fn promise(&mut self, sequence: usize, tokens: usize) -> bool {
        let before = std::mem::replace(&mut self.sequences[sequence].promised, tokens);
        let fits = (0..self.groups.len()).all(|group| self.keeps_promises(group));
        if !fits {
            self.sequences[sequence].promised = before;
        }
        fits
    }

    fn keeps_promises(&self, index: usize) -> bool {
        let group = &self.groups[index];
        let in_use = || self.sequences.iter().filter(|s| s.in_use);
        let whole = |s: &Sequence| s.promised.div_ceil(BLOCK_POSITIONS);
        match group.sight.blocks_at_once(self.rollback) {
            None => {
                let wanted = in_use().map(|s| whole(s).saturating_sub(s.tables[index].len()));
                wanted.sum::<usize>() <= self.available(index)
            }
            Some(held) => {
                // Shared blocks count more than once: windows overlap seldom.
                let at_once = |s: &Sequence| whole(s).min(held);
                let beyond: usize = in_use().map(|s| whole(s) - at_once(s)).sum();
                let at_once: usize = in_use().map(at_once).sum();
                at_once + beyond.min(self.in_flight) <= group.memory.shape().blocks
            }
        }
    }

    /// Blocks that can be had of a group.
    fn available(&self, group: usize) -> usize {
        self.groups[group].free.len() + self.prefixes.unpinned(group)
    }

    /// Makes room for `tokens` more tokens. On failure nothing is taken.
    pub fn reserve(&mut self, sequence: usize, tokens: usize) -> Result<(), KvError> {
        let end = self.sequences[sequence].position + tokens;
        if end > self.context_tokens {
            return Err(KvError::ContextFull { wanted: end, limit: self.context_tokens });
        }
        self.release_passed(sequence);
        let wanted = end.div_ceil(BLOCK_POSITIONS);
        for group in 0..self.groups.len() {
            let held = self.sequences[sequence].tables[group].len();
            if wanted.saturating_sub(held) > self.available(group) {
                return Err(KvError::NoBlock { blocks: self.groups[group].memory.shape().blocks });
            }
        }
        for group in 0..self.groups.len() {
            while self.sequences[sequence].tables[group].len() < wanted {
                let Some(block) = self.take_block(group) else { break };
                self.sequences[sequence].tables[group].push(block);
            }
        }
        Ok(())
    }

    /// An empty block, if need be one that was kept for later.
    fn take_block(&mut self, group: usize) -> Option<u32> {
        if self.groups[group].free.is_empty() {
            match self.groups[group].sight {
                Sight::Window(_) | Sight::Own => return self.prefixes.take_block(group),
                // Without these blocks, a node is of no use.
                Sight::All => forget_oldest(&mut self.prefixes, &mut self.groups),
            };
        }
        self.groups[group].free.pop()
    }

    /// Counts `tokens` written tokens in.
    pub fn advance(&mut self, sequence: usize, tokens: usize) {
        self.sequences[sequence].position += tokens;
    }

    /// Tells which tokens were written after those that were told before. From now on they stay, and
    /// other sequences may share them.
    pub fn settle(&mut self, sequence: usize, tokens: &[u32]) {
        for &token in tokens {
            self.sequences[sequence].tail.push(token);
            if self.sequences[sequence].tail.len() == BLOCK_POSITIONS {
                self.share_block(sequence);
                self.sequences[sequence].tail.clear();
            }
        }
        let Sequence { position, chain, tail, is_apart, .. } = &self.sequences[sequence];
        debug_assert!(*is_apart || chain.len() * BLOCK_POSITIONS + tail.len() <= *position);
        self.release_passed(sequence);
    }

    /// Puts a sequence's next full block into the index. If the same tokens are there already, it goes on
    /// with their blocks, which hold the same values (or, among those kept apart, as good ones), and gives its own
    /// back.
    fn share_block(&mut self, sequence: usize) {
        let Sequence { scope, tables, chain, tail, is_apart, .. } = &mut self.sequences[sequence];
        if *is_apart {
            return;
        }
        let (at, parent) = (chain.len(), chain.last().copied().unwrap_or(NONE));
        let node = match self.prefixes.find(parent, *scope, tail) {
            Some(node) => {
                self.prefixes.take(node);
                node
            }
            None => {
                if self.prefixes.is_full() {
                    forget_oldest(&mut self.prefixes, &mut self.groups);
                }
                let Some(node) = self.prefixes.insert(parent, *scope, tail) else {
                    *is_apart = true;
                    return;
                };
                node
            }
        };
        for (index, (group, table)) in self.groups.iter_mut().zip(tables).enumerate() {
            let own = table[at];
            if own == PASSED || !group.is_shared() {
                continue;
            }
            match self.prefixes.block(node, index) {
                NONE => self.prefixes.set_block(node, index, own),
                shared => {
                    group.free.push(own);
                    table[at] = shared;
                }
            }
            self.prefixes.pin(node, index);
        }
        chain.push(node);
    }

    /// Forgets all but the first `tokens` tokens, as far as they are not settled. Positions that a window has
    /// passed stay lost: the caller may cut back only what the last pass added, and, where there are guests, one
    /// draft of up to [`DRAFT_TOKENS_MAX`] tokens.
    pub fn truncate(&mut self, sequence: usize, tokens: usize) {
        let Sequence { position, tables, chain, .. } = &mut self.sequences[sequence];
        *position = (*position).min(tokens.max(chain.len() * BLOCK_POSITIONS));
        let keep = position.div_ceil(BLOCK_POSITIONS);
        for (group, table) in self.groups.iter_mut().zip(tables) {
            let cut = keep.min(table.len());
            group.free.extend(table.drain(cut..).filter(|&block| block != PASSED));
        }
    }

    /// Frees blocks that no later token sees.
    fn release_passed(&mut self, sequence: usize) {
        let Sequence { position, tables, chain, .. } = &mut self.sequences[sequence];
        let certain = position.saturating_sub(self.rollback);
        for (index, (group, table)) in self.groups.iter_mut().zip(tables).enumerate() {
            let passed = group.sight.first_block(certain).min(table.len());
            for at in (0..passed).rev() {
                let block = std::mem::replace(&mut table[at], PASSED);
                if block == PASSED {
                    // Behind it all are: the walk stays short.
                    break;
                }
                match chain.get(at) {
                    Some(&node) if group.is_shared() => self.prefixes.unpin(node, index),
                    _ => group.free.push(block),
                }
            }
        }
    }
}

/// Gives the blocks of the node back that was not used for longest. False if all are in use.
fn forget_oldest(prefixes: &mut Prefixes, groups: &mut [Group]) -> bool {
    prefixes.forget_oldest(|group, block| groups[group].free.push(block))
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};
    use std::hash::{DefaultHasher, Hash, Hasher};

    use kernels::attention::{KvType, first_visible};

    use super::*;
    use crate::spec::{Activation, LayerSpec, RopePairs};

    const CONTEXT: usize = 1500;

    fn spec(windows: &[Option<usize>]) -> DecoderSpec {
        DecoderSpec {
            architecture: "test".into(),
            hidden: 16,
            heads: 1,
            kv_heads: 1,
            head_dim: 32,
            feed_forward: 16,
            context_tokens: CONTEXT,
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
            layers: windows.iter().map(|&window| LayerSpec { window, rope: None }).collect(),
        }
    }

    /// SplitMix64.
    struct Random(u64);

    impl Random {
        fn below(&mut self, limit: usize) -> usize {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = self.0;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            ((z ^ (z >> 31)) % limit as u64) as usize
        }
    }

    /// A sequence as a naive cache has it: its tokens, all of them, and those still to be read.
    struct Twin {
        sequence: usize,
        scope: u64,
        prompt: Vec<u32>,
        tokens: Vec<u32>,
    }

    /// The cache beside its twins, and what was written where: a value that stands for the keys and
    /// values of a token after all those before it.
    struct Rig {
        cache: KvCache,
        live: Vec<Twin>,
        written: HashMap<(usize, u32, usize), u64>,
        random: Random,
        hits: usize,
        full: usize,
    }

    fn value(scope: u64, tokens: &[u32]) -> u64 {
        let mut hasher = DefaultHasher::new();
        (scope, tokens).hash(&mut hasher);
        hasher.finish()
    }

    impl Rig {
        fn new((windows, kv_type): (&[Option<usize>], KvType), seed: u64) -> Self {
            let options =
                DecoderOptions { batch_tokens: 160, guests: 2, kv_type, ..DecoderOptions::new(3, 2000) };
            let cache = KvCache::new(&spec(windows), &options);
            let (live, written) = (Vec::new(), HashMap::new());
            Rig { cache, live, written, random: Random(seed), hits: 0, full: 0 }
        }

        /// A sequence on one of a few texts, for a while: what a conversation's turns look like.
        fn begin(&mut self) {
            let Ok(sequence) = self.cache.take() else {
                assert_eq!(self.live.len(), 5);
                return;
            };
            let (scope, text) = (self.random.below(2) as u64, self.random.below(3) as u32);
            let common = self.random.below(700);
            let own = self.random.below(200) + 1;
            let mut prompt: Vec<u32> = (0..common as u32).map(|at| 1000 * text + at).collect();
            prompt.extend((0..own).map(|_| self.random.below(4) as u32));
            let cached = self.cache.attach(sequence, scope, &prompt);
            assert!(cached < prompt.len() && cached.is_multiple_of(BLOCK_POSITIONS));
            self.hits += usize::from(cached > 0);
            if !self.cache.promise(sequence, prompt.len()) {
                self.cache.give_back(sequence);
                return;
            }
            self.live.push(Twin { sequence, scope, tokens: prompt[..cached].to_vec(), prompt });
            self.check(self.live.len() - 1);
        }

        /// Reads on, or writes; sometimes, in one pass or several, more than stays.
        fn write(&mut self, which: usize) {
            let (before, left) = {
                let Twin { prompt, tokens, .. } = &self.live[which];
                (tokens.len(), prompt.len().saturating_sub(tokens.len()))
            };
            let counts: Vec<usize> = match left {
                0 => (0..=self.random.below(3)).map(|_| self.random.below(5) + 1).collect(),
                left => vec![left.min(self.random.below(160) + 1)],
            };
            let all: usize = counts.iter().sum();
            let sequence = self.live[which].sequence;
            let fits = left > 0 || self.cache.promise(sequence, before + all);
            for count in counts {
                match self.cache.reserve(sequence, count) {
                    Ok(()) if fits => {}
                    Err(KvError::ContextFull { .. }) => {
                        assert!(before + all > CONTEXT);
                        return self.end(which);
                    }
                    // What was promised is there; what was not may be.
                    Err(KvError::NoBlock { .. }) | Ok(()) => {
                        assert!(!fits);
                        self.full += 1;
                        return self.end(which);
                    }
                    Err(error) => panic!("{error}"),
                }
                self.pass(which, count);
            }
            let stay = if left > 0 { all } else { self.random.below(all + 1) };
            let Twin { tokens, .. } = &mut self.live[which];
            self.cache.truncate(sequence, before + stay);
            tokens.truncate(before + stay);
            self.cache.settle(sequence, &tokens[before..]);
            self.check(which);
        }

        /// One pass over `count` tokens that have their place.
        fn pass(&mut self, which: usize, count: usize) {
            let Rig { cache, live, written, random, .. } = self;
            let Twin { sequence, scope, prompt, tokens } = &mut live[which];
            let before = tokens.len();
            tokens.extend((before..before + count).map(|at| match prompt.get(at) {
                Some(&token) => token,
                None => random.below(4) as u32,
            }));
            for (group, _) in cache.groups.iter().enumerate() {
                for at in before..tokens.len() {
                    let block = cache.table(*sequence, group)[at / BLOCK_POSITIONS];
                    written.insert((group, block, at % BLOCK_POSITIONS), value(*scope, &tokens[..=at]));
                }
            }
            cache.advance(*sequence, count);
        }

        fn end(&mut self, which: usize) {
            let twin = self.live.swap_remove(which);
            self.cache.give_back(twin.sequence);
        }

        /// What the sequence sees is what the naive cache holds.
        fn check(&self, which: usize) {
            let Twin { sequence, scope, tokens, .. } = &self.live[which];
            assert_eq!(self.cache.position(*sequence), tokens.len());
            for (index, group) in self.cache.groups.iter().enumerate() {
                let table = self.cache.table(*sequence, index);
                let first = match group.sight {
                    Sight::Window(window) => first_visible(tokens.len(), Some(window)),
                    sight => sight.first_block(tokens.len()) * BLOCK_POSITIONS,
                };
                for at in (first..tokens.len()).step_by(13) {
                    let place = (index, table[at / BLOCK_POSITIONS], at % BLOCK_POSITIONS);
                    assert_eq!(self.written.get(&place), Some(&value(*scope, &tokens[..=at])), "{at}");
                }
            }
        }

        /// Each block is in use, kept or free, and the counts say so.
        fn check_counts(&self) {
            let mut used = 0;
            for (index, group) in self.cache.groups.iter().enumerate() {
                let tables = self.live.iter().map(|twin| self.cache.table(twin.sequence, index));
                let seen: HashSet<u32> = tables.flatten().copied().filter(|&b| b != PASSED).collect();
                let free: HashSet<u32> = group.free.iter().copied().collect();
                assert_eq!(free.len(), group.free.len(), "a block is free twice");
                assert!(seen.is_disjoint(&free), "a block is free and in use");
                used += seen.len();
            }
            let blocks = self.cache.blocks();
            let all: usize = self.cache.groups.iter().map(|g| g.memory.shape().blocks).sum();
            assert_eq!((blocks.used, blocks.used + blocks.cached + blocks.free), (used, all));
        }
    }

    #[test]
    fn a_hundred_thousand_operations_beside_a_naive_cache() {
        let mixtures: [(&[Option<usize>], KvType); 6] = [
            (&[None], KvType::F16),
            (&[Some(100), None, Some(100)], KvType::F16),
            (&[Some(64), Some(300)], KvType::F16),
            (&[Some(500), None], KvType::F16),
            (&[None], KvType::Q4),
            (&[Some(500), None], KvType::Q4),
        ];
        for (seed, mixture) in mixtures.into_iter().enumerate() {
            let mut rig = Rig::new(mixture, seed as u64);
            for operation in 0..25_000 {
                match (rig.random.below(40), rig.live.len()) {
                    (0..4, _) | (_, 0) => rig.begin(),
                    (4, live) => {
                        let which = rig.random.below(live);
                        rig.end(which);
                    }
                    (_, live) => {
                        let which = rig.random.below(live);
                        rig.write(which);
                    }
                }
                if operation % 50 == 0 {
                    (0..rig.live.len()).for_each(|which| rig.check(which));
                    rig.check_counts();
                }
            }
            assert!(rig.hits > 100 && rig.full > 10, "{} hits, {} times full", rig.hits, rig.full);
            while !rig.live.is_empty() {
                rig.end(0);
            }
            assert_eq!(rig.cache.blocks().used, 0);
        }
    }

    /// Reads a prompt to its end; returns what was there and the sequence.
    fn read(cache: &mut KvCache, scope: u64, prompt: &[u32]) -> (usize, usize) {
        let sequence = cache.take().unwrap();
        let cached = cache.attach(sequence, scope, prompt);
        for tokens in prompt[cached..].chunks(100) {
            cache.reserve(sequence, tokens.len()).unwrap();
            cache.advance(sequence, tokens.len());
            cache.settle(sequence, tokens);
        }
        (cached, sequence)
    }

    #[test]
    fn a_prefix_is_found_again_in_whole_blocks_and_only_within_its_scope() {
        for windows in [&[None][..], &[Some(100), None]] {
            let mut cache = KvCache::new(&spec(windows), &DecoderOptions::new(3, 3000));
            let prompt: Vec<u32> = (0..640).collect();
            let (cached, sequence) = read(&mut cache, 1, &prompt);
            assert_eq!(cached, 0);
            cache.give_back(sequence);
            // The last token must be computed: its logits are wanted.
            for (length, wanted) in [(640, 576), (639, 576)] {
                let (cached, sequence) = read(&mut cache, 1, &prompt[..length]);
                assert_eq!(cached, wanted, "{length} tokens, {windows:?}");
                cache.give_back(sequence);
            }
            let longer: Vec<u32> = (0..1000).collect();
            let (cached, sequence) = read(&mut cache, 1, &longer);
            assert_eq!(cached, 640);
            cache.give_back(sequence);
            let (cached, sequence) = read(&mut cache, 2, &prompt);
            assert_eq!(cached, 0, "another scope's");
            cache.give_back(sequence);
        }
    }

    #[test]
    fn what_is_kept_apart_is_found_by_those_that_are_apart_behind_what_all_share() {
        for windows in [&[None][..], &[Some(100), None]] {
            let mut cache = KvCache::new(&spec(windows), &DecoderOptions::new(3, 3000));
            let text: Vec<u32> = (0..640).collect();
            let write = |cache: &mut KvCache, sequence: usize, tokens: &[u32]| {
                cache.reserve(sequence, tokens.len()).unwrap();
                cache.advance(sequence, tokens.len());
                cache.settle(sequence, tokens);
            };
            let begin = |cache: &mut KvCache, is_apart: bool, scope: u64| {
                let sequence = cache.take().unwrap();
                let found = match is_apart {
                    true => cache.attach_apart(sequence, scope, &text),
                    false => cache.attach(sequence, scope, &text),
                };
                (sequence, found)
            };
            // Three blocks and a half as everybody writes them, the rest apart.
            let (sequence, found) = begin(&mut cache, true, 1);
            assert_eq!(found, 0);
            write(&mut cache, sequence, &text[..224]);
            cache.keep_apart(sequence);
            write(&mut cache, sequence, &text[224..500]);
            cache.give_back(sequence);
            let finds = |cache: &mut KvCache| {
                [(false, 1), (true, 1), (true, 2)].map(|(is_apart, scope)| {
                    let (sequence, found) = begin(cache, is_apart, scope);
                    cache.give_back(sequence);
                    found
                })
            };
            assert_eq!(finds(&mut cache), [192, 448, 0], "{windows:?}");
            // What others read meanwhile comes first; behind it nothing was left that is apart.
            let (sequence, found) = begin(&mut cache, false, 1);
            write(&mut cache, sequence, &text[found..320]);
            cache.give_back(sequence);
            assert_eq!(finds(&mut cache), [320, 320, 0], "{windows:?}");
            // Having found what is everybody's, it goes on for everybody until it is told.
            let (sequence, found) = begin(&mut cache, true, 1);
            write(&mut cache, sequence, &text[found..400]);
            cache.keep_apart(sequence);
            write(&mut cache, sequence, &text[400..600]);
            cache.give_back(sequence);
            assert_eq!(finds(&mut cache), [384, 576, 0], "{windows:?}");
            // Having found what is apart, it does not.
            let (sequence, found) = begin(&mut cache, true, 1);
            assert_eq!(found, 576);
            write(&mut cache, sequence, &text[found..]);
            cache.give_back(sequence);
            assert_eq!(finds(&mut cache), [384, 576, 0], "{windows:?}: the last token is always computed");
            assert_eq!(cache.blocks().used, 0);
        }
    }

    #[test]
    fn sequences_that_read_the_same_at_once_end_up_with_one_copy() {
        let mut cache = KvCache::new(&spec(&[None]), &DecoderOptions::new(2, 3000));
        let prompt: Vec<u32> = (0..640).collect();
        let both = [cache.take().unwrap(), cache.take().unwrap()];
        for tokens in prompt.chunks(100) {
            for sequence in both {
                cache.reserve(sequence, tokens.len()).unwrap();
                cache.advance(sequence, tokens.len());
                cache.settle(sequence, tokens);
            }
        }
        assert_eq!(cache.blocks().used, 10);
        both.into_iter().for_each(|sequence| cache.give_back(sequence));
        assert_eq!((cache.blocks().used, cache.blocks().cached), (0, 10));
    }

    /// REFERENCES: bytes = Σ_layers min(T, window_l) · 2 · n_kv · head_dim · b, for Gemma 3 1B.
    #[test]
    fn the_pools_of_gemma_3_weigh_what_the_formula_says() {
        let layers: Vec<_> = (0..26).map(|layer| (layer % 6 != 5).then_some(512)).collect();
        let gemma = DecoderSpec { head_dim: 256, context_tokens: 40_000, ..spec(&layers) };
        let types = [(KvType::F16, 64), (KvType::Q8, 34), (KvType::Q4, 18)];
        let sizes = [(8192, 43), (32_768, 139)];
        for ((tokens, mib), (kv_type, bytes_of_32)) in
            sizes.into_iter().flat_map(|size| types.map(|of| (size, of)))
        {
            let options = DecoderOptions { kv_type, ..DecoderOptions::new(1, tokens) };
            let mut cache = KvCache::new(&gemma, &options);
            let prompt: Vec<u32> = (0..tokens as u32).collect();
            let sequence = cache.take().unwrap();
            for tokens in prompt.chunks(128) {
                cache.reserve(sequence, tokens.len()).unwrap();
                cache.advance(sequence, tokens.len());
                cache.settle(sequence, tokens);
            }
            // A sequence that ends with a block has no rests.
            let elements = (22 * 512 + 4 * tokens) * 2 * 256;
            assert_eq!(cache.blocks().used_bytes, elements / 32 * bytes_of_32);
            assert!(kv_type != KvType::F16 || cache.blocks().used_bytes >> 20 == mib);
            cache.give_back(sequence);
        }
    }
}
