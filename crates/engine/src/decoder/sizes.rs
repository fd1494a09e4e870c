//! What a [`Decoder`](super::Decoder) will hold, before there is one: [`Sizes`]. Arithmetic over the
//! model's numbers; `tests/allocations.rs` compares it with what is allocated.

use kernels::attention::{BLOCK_POSITIONS, KvType};
use kernels::formats::COARSE_VALUES;
use kernels::kv::AttentionScratch;
use kernels::product::{Columns, ColumnsShape, Rounding};

use super::DecoderOptions;
use super::kv::{KvCache, group_sizes};
use super::states::States;
use super::weights::Linear;
use crate::model::Model;
use crate::sampling;
use crate::spec::DecoderSpec;

/// What sizes are asked for, besides the options.
#[derive(Clone, Copy, Debug)]
pub struct SizesFor {
    /// Threads that compute.
    pub threads: usize,
    /// Whether the model runs on the exact path; if not, its weights will be packed, which for this they
    /// need not be.
    pub exact: bool,
    /// Longest sequence that is wanted; the model may have less.
    pub context_tokens: usize,
}

/// Bytes, by what they are for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    /// The pools of keys and values, whole: their pages are committed as they are used.
    pub kv_bytes: u64,
    /// Block tables, activations, attention's scratch, and a row of logits for every sequence.
    pub working_bytes: u64,
    /// What drawing the sequences' tokens takes, if all of them use every option of sampling.
    pub sampling_bytes: u64,
}

impl Sizes {
    /// Of a decoder of `model`, whatever path that was loaded for.
    pub fn of(model: &Model, options: &DecoderOptions, asked: SizesFor) -> Sizes {
        let SizesFor { threads, exact, context_tokens } = asked;
        let context_tokens = context_tokens.min(model.spec().context_tokens);
        let spec = &DecoderSpec { context_tokens, ..model.spec().clone() };
        let kv_type = if exact { KvType::F32 } else { options.kv_type };
        let options = DecoderOptions { kv_type, ..*options };
        let (groups, _) = group_sizes(spec, &options);
        let kv_bytes = groups.iter().fold(0u64, |sum, group| sum.saturating_add(group.shape.bytes() as u64));
        let room = Room::of(spec, &options, model.vocabulary());
        let shapes = column_shapes(model, &options, exact);
        let working_bytes = room.values() * size_of::<f32>()
            + Columns::bytes(&shapes, threads)
            + AttentionScratch::bytes(spec.head_dim, threads, positions_max(spec, &options))
            + KvCache::lists_bytes(spec, &options)
            + States::values(spec, &options, groups[0].shape.blocks) * size_of::<f32>();
        Sizes {
            kv_bytes,
            working_bytes: working_bytes as u64,
            sampling_bytes: sampling::bytes_max(model.vocabulary(), options.sequences) as u64,
        }
    }
}

/// Values of the buffers that grow with a batch.
pub(super) struct Room {
    pub residual: usize,
    pub projected: usize,
    pub wide: usize,
    pub attended: usize,
    pub logits: usize,
    /// Of each rotary embedding.
    pub ropes: Vec<usize>,
}

impl Room {
    pub fn of(spec: &DecoderSpec, options: &DecoderOptions, vocabulary: usize) -> Room {
        let tokens = options.batch_tokens;
        let qkv = (spec.heads + 2 * spec.kv_heads) * spec.head_dim;
        Room {
            residual: tokens * spec.hidden,
            projected: tokens * spec.hidden,
            wide: tokens * qkv.max(2 * spec.feed_forward),
            attended: tokens * spec.heads * spec.head_dim,
            logits: logit_rows(options) * vocabulary,
            ropes: spec.ropes.iter().map(|rope| tokens * 2 * rope.frequencies.len()).collect(),
        }
    }

    fn values(&self) -> usize {
        let Room { residual, projected, wide, attended, logits, ropes } = self;
        residual + projected + wide + attended + logits + ropes.iter().sum::<usize>()
    }
}

/// Rows of logits there is room for: one a sequence, as writing needs, and those of drafted tokens. Asking for
/// more grows.
fn logit_rows(options: &DecoderOptions) -> usize {
    (options.sequences + options.draft_tokens).min(options.batch_tokens)
}

/// Most positions of a sequence: whole blocks.
pub(super) fn positions_max(spec: &DecoderSpec, options: &DecoderOptions) -> usize {
    let all =
        options.kv_tokens.next_multiple_of(BLOCK_POSITIONS) + options.sequences_in_all() * BLOCK_POSITIONS;
    spec.context_tokens.next_multiple_of(BLOCK_POSITIONS).min(all)
}

/// The columns of a full batch's products.
pub(super) fn column_shapes(model: &Model, options: &DecoderOptions, exact: bool) -> Vec<ColumnsShape> {
    let is_packed = |linear: &Linear| if exact { linear.is_packed() } else { linear.can_be_packed() };
    let shape = |linears: &[Linear], (count, rounding): (usize, Rounding)| {
        let packed = linears.iter().any(is_packed);
        ColumnsShape {
            inner: linears.first().map_or(0, Linear::columns),
            count,
            rounding: if packed { rounding } else { Rounding::None },
            floats: !linears.iter().all(is_packed),
        }
    };
    let (one, batch) = (std::slice::from_ref::<Linear>, (options.batch_tokens, Rounding::Int8));
    let weights = model.weights();
    let of_layer = weights.layers.iter().flat_map(|layer| {
        [&layer.qkv[..], one(&layer.output), &layer.gate_up, one(&layer.down)].map(|l| shape(l, batch))
    });
    let head = shape(one(&weights.head), (logit_rows(options), Rounding::Int8WithRest));
    // Weights for drafting are packed where the model's own need not be.
    let drafts = |shape: ColumnsShape| ColumnsShape { rounding: Rounding::Int8, floats: false, ..shape };
    let is_drafting = |shape: &ColumnsShape| options.guests > 0 && shape.inner.is_multiple_of(COARSE_VALUES);
    let own: Vec<ColumnsShape> = of_layer.chain([head]).collect();
    let drafting: Vec<ColumnsShape> = own.iter().copied().filter(is_drafting).map(drafts).collect();
    own.into_iter().chain(drafting).collect()
}
