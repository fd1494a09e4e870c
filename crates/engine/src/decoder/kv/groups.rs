//! Which layers share block numbers, and how many blocks they get: [`group_sizes`].

use kernels::attention::{BLOCK_POSITIONS, first_visible};
use kernels::kv::KvShape;

use crate::decoder::DecoderOptions;
use crate::spec::DecoderSpec;
use crate::speculation::DRAFT_TOKENS_MAX;

/// What a token sees of a group's blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::decoder) enum Sight {
    /// All of them.
    All,
    /// Those that hold so many positions, its own the last.
    Window(usize),
    /// Its own: of rests.
    Own,
}

impl Sight {
    fn of_layer(window: Option<usize>) -> Self {
        window.map_or(Sight::All, Sight::Window)
    }

    /// The first block that the token at `position` sees.
    pub fn first_block(self, position: usize) -> usize {
        match self {
            Sight::All => 0,
            Sight::Window(window) => first_visible(position, Some(window)) / BLOCK_POSITIONS,
            Sight::Own => position / BLOCK_POSITIONS,
        }
    }

    /// Blocks that a sequence holds at once, but for those that a long pass adds; `None`: all. `rollback`: see
    /// [`KvCache::rollback`](super::KvCache).
    pub fn blocks_at_once(self, rollback: usize) -> Option<usize> {
        match self {
            Sight::All => None,
            // A window begins and ends within a block.
            Sight::Window(window) => Some(window.div_ceil(BLOCK_POSITIONS) + 2),
            // A pass may end in the next block, and what may be cut off have begun in the one before.
            Sight::Own => Some(2 + rollback.div_ceil(BLOCK_POSITIONS)),
        }
    }
}

/// See [`KvCache::rollback`](super::KvCache).
pub(super) fn rollback(options: &DecoderOptions) -> usize {
    if options.guests > 0 { DRAFT_TOKENS_MAX + 1 } else { 0 }
}

/// What a group of layers whose tokens see the same gets.
#[derive(Clone, Copy, Debug)]
pub(in crate::decoder) struct GroupSize {
    pub sight: Sight,
    pub shape: KvShape,
}

/// The groups of a cache, and group and index within it by layer. If the type has rests, their group comes last
/// and holds all layers.
pub(in crate::decoder) fn group_sizes(
    spec: &DecoderSpec,
    options: &DecoderOptions,
) -> (Vec<GroupSize>, Vec<(usize, usize)>) {
    let &DecoderOptions { kv_tokens, kv_type, batch_tokens, .. } = options;
    let sequences = options.sequences_in_all();
    // A sequence's last block is seldom full.
    let all = kv_tokens.div_ceil(BLOCK_POSITIONS) + sequences;
    let size = |sight: Sight, layers| {
        // While a batch is written, what its first tokens see must still be there.
        let held = |at_once: usize| at_once * sequences + batch_tokens.div_ceil(BLOCK_POSITIONS);
        let blocks = sight.blocks_at_once(rollback(options)).map_or(all, |at_once| all.min(held(at_once)));
        let (kv_heads, head_dim) = (spec.kv_heads, spec.head_dim);
        GroupSize { sight, shape: KvShape { layers, kv_heads, head_dim, blocks, kv_type } }
    };
    let mut groups: Vec<GroupSize> = Vec::new();
    let mut layers = Vec::with_capacity(spec.layers.len());
    for layer in &spec.layers {
        let sight = Sight::of_layer(layer.window);
        let group = groups.iter().position(|g| g.sight == sight).unwrap_or_else(|| {
            groups.push(size(sight, 0));
            groups.len() - 1
        });
        layers.push((group, groups[group].shape.layers));
        groups[group].shape.layers += 1;
    }
    groups.extend(kv_type.has_rests().then(|| size(Sight::Own, spec.layers.len())));
    (groups, layers)
}
