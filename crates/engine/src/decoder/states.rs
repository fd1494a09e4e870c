//! Hidden states for heads: [`States`] keeps, of chosen layers, each pass's states and what a mean over a whole
//! prompt needs.
//!
//! A mean has to be the same whether its prompt was read at once, in parts, or is in the cache already. So sums
//! run strictly from token to token, and the sum through each block of 64 positions is kept beside that block:
//! who shares the block goes on from there.

use std::fmt;

use kernels::attention::BLOCK_POSITIONS;
use kernels::isa::Isa;

use super::DecoderOptions;
use super::forward::Rows;
use crate::spec::DecoderSpec;
use crate::speculation::DRAFT_TOKENS_MAX;

/// Positions whose sums each sequence keeps: as many as may be cut off again, and one before.
const HELD_POSITIONS: usize = (DRAFT_TOKENS_MAX + 2).next_power_of_two();

/// Marks a place that holds no position's sum.
const NOTHING: usize = usize::MAX;

/// Numbers of layers: 0 is the embedding, the model's number of layers its last state.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct LayerSet(u128);

impl LayerSet {
    /// Numbers below this can be in a set.
    pub const LAYERS_MAX: u32 = u128::BITS;

    /// A set of these; numbers that no model has are left out.
    pub fn of(layers: impl IntoIterator<Item = u32>) -> Self {
        layers
            .into_iter()
            .filter(|&layer| layer < Self::LAYERS_MAX)
            .fold(LayerSet(0), |set, layer| set.with(layer))
    }

    fn with(self, layer: u32) -> Self {
        LayerSet(self.0 | 1 << layer)
    }

    /// Whether it is in the set.
    pub fn contains(self, layer: u32) -> bool {
        layer < Self::LAYERS_MAX && self.0 >> layer & 1 == 1
    }

    /// What is in either.
    #[must_use]
    pub fn union(self, other: Self) -> Self {
        LayerSet(self.0 | other.0)
    }

    /// What is in this and not in `other`.
    #[must_use]
    pub fn without(self, other: Self) -> Self {
        LayerSet(self.0 & !other.0)
    }

    /// Whether nothing is in it.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The numbers, ascending.
    pub fn iter(self) -> impl Iterator<Item = u32> {
        (0..Self::LAYERS_MAX).filter(move |&layer| self.contains(layer))
    }

    /// Those that a model of `layers` layers has, its last state included.
    #[must_use]
    pub fn up_to(self, layers: usize) -> Self {
        LayerSet::of(self.iter().filter(|&layer| layer as usize <= layers))
    }
}

impl fmt::Debug for LayerSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

/// Hidden states of one layer over a sequence.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerState {
    /// After how many layers.
    pub layer: u32,
    /// At the last token, `[hidden]`.
    pub last: Vec<f32>,
    /// Mean over all tokens, `[hidden]`.
    pub mean: Vec<f32>,
}

/// Hidden states of one layer at every token of a sequence.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenStates {
    /// After how many layers.
    pub layer: u32,
    /// `[token][hidden]`.
    pub states: Vec<f32>,
}

/// States of the chosen layers.
#[derive(Debug)]
pub(super) struct States {
    layers: LayerSet,
    hidden: usize,
    isa: Isa,
    /// Values of one token.
    width: usize,
    rows: Vec<f32>,   // [row of the last pass][layer][hidden]
    sums: Vec<f32>,   // [sequence][position % HELD_POSITIONS][layer][hidden]: through that position
    held: Vec<usize>, // [sequence][position % HELD_POSITIONS]: the position
    blocks: Vec<f32>, // [block of the first group][layer][hidden]: through its last position
}

impl States {
    pub fn new(spec: &DecoderSpec, isa: Isa, (options, blocks): (&DecoderOptions, usize)) -> Self {
        let layers = options.reading_layers.up_to(spec.layers.len());
        let width = layers.iter().count() * spec.hidden;
        let held = options.sequences_in_all() * HELD_POSITIONS;
        States {
            layers,
            hidden: spec.hidden,
            isa,
            width,
            rows: vec![0.0; options.batch_tokens * width],
            sums: vec![0.0; held * width],
            held: vec![NOTHING; held],
            blocks: vec![0.0; blocks * width],
        }
    }

    /// Values that [`States::new`] keeps.
    pub fn values(spec: &DecoderSpec, options: &DecoderOptions, blocks: usize) -> usize {
        let width = options.reading_layers.up_to(spec.layers.len()).iter().count() * spec.hidden;
        width * (options.batch_tokens + options.sequences_in_all() * HELD_POSITIONS + blocks)
    }

    pub fn layers(&self) -> LayerSet {
        self.layers
    }

    /// Where a layer's values begin within a token's; `None`: it is not kept.
    fn offset(&self, layer: u32) -> Option<usize> {
        let before = || self.layers.iter().take_while(|&other| other < layer).count();
        self.layers.contains(layer).then(|| before() * self.hidden)
    }

    /// Takes the states of a pass after `layer` layers, `[row][hidden]`, if they are wanted.
    pub fn take(&mut self, layer: usize, states: &[f32]) {
        let Some(offset) = self.offset(layer as u32) else { return };
        for (row, state) in states.chunks_exact(self.hidden).enumerate() {
            self.rows[row * self.width + offset..][..self.hidden].copy_from_slice(state);
        }
    }

    /// Rows of the layer's states of the last pass.
    pub fn row_mut(&mut self, layer: usize, row: usize) -> Option<&mut [f32]> {
        let offset = self.offset(layer as u32)?;
        Some(&mut self.rows[row * self.width + offset..][..self.hidden])
    }

    /// A sequence begins anew.
    pub fn begin(&mut self, sequence: usize) {
        self.held[sequence * HELD_POSITIONS..][..HELD_POSITIONS].fill(NOTHING);
    }

    /// Sums a sequence's rows of a pass up. `table`: its blocks of the first group.
    pub fn add(&mut self, rows: &Rows, table: &[u32]) {
        let width = self.width;
        for (index, position) in (rows.position..rows.position + rows.tokens).enumerate() {
            let slot = rows.sequence * HELD_POSITIONS + position % HELD_POSITIONS;
            match position.checked_sub(1) {
                None => self.sums[slot * width..][..width].fill(0.0),
                Some(before) => {
                    let from = rows.sequence * HELD_POSITIONS + before % HELD_POSITIONS;
                    if self.held[from] == before {
                        self.sums.copy_within(from * width..(from + 1) * width, slot * width);
                    } else {
                        let block = table[before / BLOCK_POSITIONS] as usize;
                        self.sums[slot * width..][..width]
                            .copy_from_slice(&self.blocks[block * width..][..width]);
                    }
                }
            }
            let sum = &mut self.sums[slot * width..][..width];
            self.isa.add_scaled(sum, 1.0, &self.rows[(rows.row + index) * width..][..width]);
            self.held[slot] = position;
            if position % BLOCK_POSITIONS == BLOCK_POSITIONS - 1 {
                let block = table[position / BLOCK_POSITIONS] as usize;
                self.blocks[block * width..][..width].copy_from_slice(sum);
            }
        }
    }

    /// States of a sequence whose rows were the last pass's.
    pub fn of(&self, rows: &Rows, layers: LayerSet) -> Vec<LayerState> {
        let last = rows.position + rows.tokens - 1;
        let slot = rows.sequence * HELD_POSITIONS + last % HELD_POSITIONS;
        let tokens = (last + 1) as f32;
        let state = |layer: u32| {
            let offset = self.offset(layer)?;
            let row = (rows.row + rows.tokens - 1) * self.width + offset;
            let sum = &self.sums[slot * self.width + offset..][..self.hidden];
            Some(LayerState {
                layer,
                last: self.rows[row..][..self.hidden].to_vec(),
                mean: sum.iter().map(|sum| sum / tokens).collect(),
            })
        };
        layers.iter().filter_map(state).collect()
    }

    /// Adds the states of a sequence's rows of the last pass to those of the passes before, layer by layer.
    pub fn add_tokens(&self, rows: &Rows, all: &mut [TokenStates]) {
        for TokenStates { layer, states } in all {
            let Some(offset) = self.offset(*layer) else { continue };
            for row in rows.row..rows.row + rows.tokens {
                states.extend_from_slice(&self.rows[row * self.width + offset..][..self.hidden]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_hold_what_models_have() {
        let set = LayerSet::of([3, 0, 3, 24, 500]);
        assert_eq!(set.iter().collect::<Vec<_>>(), [0, 3, 24]);
        assert_eq!(set.up_to(23).iter().collect::<Vec<_>>(), [0, 3]);
        assert_eq!(set.without(LayerSet::of([3])).union(LayerSet::of([5])), LayerSet::of([0, 5, 24]));
        assert!(LayerSet::default().is_empty() && !set.contains(500) && !set.is_empty());
    }
}
