//! Blocks of tokens that sequences have in common: [`Prefixes`], an index by content.
//!
//! A node is 64 tokens after those of its parent, and the blocks that hold their keys and values: one
//! per group of layers, as long as it is there. Sequences refer to the nodes of their prefix; nodes without
//! references stay until their blocks are needed, least recently used first. Whoever refers to a node
//! refers to its parent too and lets go of it first, so the oldest node never has children.
//!
//! A window's blocks leave one by one: a node may outlive them, and is of use again only where the
//! window before a position is complete.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher, RandomState};

use kernels::attention::BLOCK_POSITIONS;

use super::lru::Lru;

/// Stands for no node, and for a block that is not there.
pub(super) const NONE: u32 = u32::MAX;

#[derive(Clone, Debug)]
struct Node {
    parent: u32,
    key: u64,
    scope: u64,
    /// Sequences whose prefix it is part of.
    refs: u32,
    tokens: [u32; BLOCK_POSITIONS],
}

/// The index. Never allocates after its creation.
#[derive(Debug)]
pub(super) struct Prefixes {
    groups: usize,
    hasher: RandomState,
    by_key: HashMap<u64, u32>,
    nodes: Vec<Node>,
    blocks: Vec<u32>,   // [node][group]
    pins: Vec<u32>,     // [node][group]: sequences that still see the block
    free: Vec<u32>,     // nodes that stand for nothing
    unused: Lru,        // nodes without references
    unpinned: Vec<Lru>, // [group]: nodes whose block nobody sees
}

impl Prefixes {
    /// An empty index of at most `nodes` nodes.
    pub fn new(groups: usize, nodes: usize) -> Self {
        let empty = Node { parent: NONE, key: 0, scope: 0, refs: 0, tokens: [0; BLOCK_POSITIONS] };
        Prefixes {
            groups,
            hasher: RandomState::new(),
            // Twice the nodes: so it is tidied in place rather than grown.
            by_key: HashMap::with_capacity(2 * nodes),
            nodes: vec![empty; nodes],
            blocks: vec![NONE; nodes * groups],
            pins: vec![0; nodes * groups],
            free: (0..nodes as u32).rev().collect(),
            unused: Lru::new(nodes),
            unpinned: (0..groups).map(|_| Lru::new(nodes)).collect(),
        }
    }

    /// Bytes that [`Prefixes::new`] takes.
    pub fn bytes(groups: usize, nodes: usize) -> usize {
        // A table is at most 7/8 full, a power of two long, with a byte of control for each place.
        let places = (2 * nodes * 8).div_ceil(7).next_power_of_two();
        let node = size_of::<Node>() + size_of::<u32>() + 2 * groups * size_of::<u32>();
        places * (size_of::<(u64, u32)>() + 1) + nodes * node + (1 + groups) * Lru::bytes(nodes)
    }

    /// The node of `tokens` after `parent`, among those of one scope.
    pub fn find(&self, parent: u32, scope: u64, tokens: &[u32]) -> Option<u32> {
        let node = *self.by_key.get(&self.key(parent, scope, tokens))?;
        let Node { parent: before, scope: of, tokens: held, .. } = &self.nodes[node as usize];
        (*before == parent && *of == scope && held == tokens).then_some(node)
    }

    /// Whether a node must be forgotten before another one is added.
    pub fn is_full(&self) -> bool {
        self.free.is_empty()
    }

    /// Adds a node with one reference and no blocks. `None` if there is no place, or (one time in 2⁶⁴) another
    /// one has its key.
    pub fn insert(&mut self, parent: u32, scope: u64, tokens: &[u32]) -> Option<u32> {
        let key = self.key(parent, scope, tokens);
        if self.by_key.contains_key(&key) {
            return None;
        }
        let index = self.free.pop()?;
        let node = &mut self.nodes[index as usize];
        (node.parent, node.key, node.scope, node.refs) = (parent, key, scope, 1);
        node.tokens.copy_from_slice(tokens);
        self.by_key.insert(key, index);
        Some(index)
    }

    /// Refers to a node once more.
    pub fn take(&mut self, node: u32) {
        self.nodes[node as usize].refs += 1;
        self.unused.remove(node);
    }

    /// Lets go of a node; of its children first.
    pub fn let_go(&mut self, node: u32) {
        let refs = &mut self.nodes[node as usize].refs;
        *refs -= 1;
        if *refs == 0 {
            self.unused.push(node);
        }
    }

    /// The node's block for a group, or [`NONE`].
    pub fn block(&self, node: u32, group: usize) -> u32 {
        self.blocks[self.at(node, group)]
    }

    /// Gives a node a block that it lacks; nobody has pinned it yet.
    pub fn set_block(&mut self, node: u32, group: usize, block: u32) {
        let at = self.at(node, group);
        debug_assert!(self.blocks[at] == NONE && self.pins[at] == 0);
        self.blocks[at] = block;
        self.unpinned[group].push(node);
    }

    /// Keeps the node's block of a group until it is unpinned as often.
    pub fn pin(&mut self, node: u32, group: usize) {
        let at = self.at(node, group);
        self.pins[at] += 1;
        self.unpinned[group].remove(node);
    }

    /// See [`Prefixes::pin`].
    pub fn unpin(&mut self, node: u32, group: usize) {
        let at = self.at(node, group);
        self.pins[at] -= 1;
        if self.pins[at] == 0 {
            self.unpinned[group].push(node);
        }
    }

    /// Blocks of a group that may be taken away.
    pub fn unpinned(&self, group: usize) -> usize {
        self.unpinned[group].len()
    }

    /// Takes the block of a group away that was not seen for longest; its node stays.
    pub fn take_block(&mut self, group: usize) -> Option<u32> {
        let node = self.unpinned[group].oldest()?;
        self.unpinned[group].remove(node);
        let at = self.at(node, group);
        Some(std::mem::replace(&mut self.blocks[at], NONE))
    }

    /// Forgets the node that was not referred to for longest, and hands `freed` its blocks by group. False if
    /// all are in use.
    pub fn forget_oldest(&mut self, mut freed: impl FnMut(usize, u32)) -> bool {
        let Some(node) = self.unused.oldest() else { return false };
        self.unused.remove(node);
        self.by_key.remove(&self.nodes[node as usize].key);
        for group in 0..self.groups {
            self.unpinned[group].remove(node);
            let at = self.at(node, group);
            let block = std::mem::replace(&mut self.blocks[at], NONE);
            if block != NONE {
                freed(group, block);
            }
        }
        self.free.push(node);
        true
    }

    fn at(&self, node: u32, group: usize) -> usize {
        node as usize * self.groups + group
    }

    fn key(&self, parent: u32, scope: u64, tokens: &[u32]) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        hasher.write_u64(scope);
        hasher.write_u64(self.nodes.get(parent as usize).map_or(0, |node| node.key));
        tokens.iter().for_each(|&token| hasher.write_u32(token));
        hasher.finish()
    }
}
