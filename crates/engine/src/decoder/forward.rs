//! The forward pass: [`Decoder`].

mod batch;
mod head;
mod rows;

use std::slice;
use std::sync::Arc;

use kernels::attention::{AttentionShape, KvType, KvTypeError};
use kernels::isa::Isa;
use kernels::kv::{AttentionBatch, AttentionScratch, KvRows, LayerCacheMut, SequenceRows, attend, write};
use kernels::pool::Pool;
use kernels::product::{Columns, ColumnsShape, Rounding, Weights, announce, each_row, multiply};

pub(super) use self::batch::Rows;
use self::batch::{Batch, Ends, gather, list_ends};
pub use self::batch::{Logits, Work};
use self::head::Head;
use self::rows::{FinishQkv, Join};
use super::kv::{KvBlocks, KvCache, KvError, LayerParts};
use super::rope::RopeTable;
use super::sizes::{Room, column_shapes, positions_max};
use super::smoothing::{self, Smoothing, Watch};
use super::states::{LayerSet, LayerState, States, TokenStates};
use super::weights::{Layer, Linear};
use super::{BATCH_TOKENS_DEFAULT, BATCH_TOKENS_MAX, EMBEDDING_ROWS_HELD};
use crate::model::Model;
use crate::recycle::emptied;
use crate::spec::{Activation, DecoderSpec};

/// How a [`Decoder`] is set up.
#[derive(Clone, Copy, Debug)]
pub struct DecoderOptions {
    /// Sequences at once.
    pub sequences: usize,
    /// Further sequences, of those who draft with this model for another.
    pub guests: usize,
    /// Drafted tokens of a pass at most: each has a row of logits, as each sequence has.
    pub draft_tokens: usize,
    /// Positions of the key-value cache, shared by all sequences.
    pub kv_tokens: usize,
    /// How keys and values are stored; where this says f16, an exact model's are f32.
    pub kv_type: KvType,
    /// Most tokens of a pass, at most [`BATCH_TOKENS_MAX`]: working memory is proportional to it.
    pub batch_tokens: usize,
    /// Layers whose hidden states can be asked for.
    pub reading_layers: LayerSet,
}

impl DecoderOptions {
    /// f16 keys and values, and passes of [`BATCH_TOKENS_DEFAULT`].
    pub fn new(sequences: usize, kv_tokens: usize) -> Self {
        DecoderOptions {
            sequences,
            guests: 0,
            draft_tokens: 0,
            kv_tokens,
            kv_type: KvType::F16,
            batch_tokens: BATCH_TOKENS_DEFAULT,
            reading_layers: LayerSet::default(),
        }
    }

    /// Sequences that the cache can hold.
    pub(super) fn sequences_in_all(&self) -> usize {
        self.sequences + self.guests
    }
}

/// A sequence of a [`Decoder`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SequenceId(usize);

/// Why a forward pass did not take place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ForwardError {
    /// A token is not in the vocabulary.
    #[error("token {token} is not in the vocabulary of {vocabulary}")]
    Token {
        /// The token.
        token: u32,
        /// Tokens there are.
        vocabulary: usize,
    },
    /// The batch is empty, too large, or names a sequence twice.
    #[error("a batch holds 1 to {tokens_max} tokens and each sequence once, this one does not")]
    Batch {
        /// Most tokens.
        tokens_max: usize,
    },
    /// There is no room in the cache.
    #[error(transparent)]
    Kv(#[from] KvError),
}

/// A model with its cache and working memory: what turns tokens into logits.
#[derive(Debug)]
pub struct Decoder {
    model: Arc<Model>,
    pool: Arc<Pool>,
    isa: Isa,
    /// What is done to queries and keys, by layer; empty where keys are stored as floats.
    smoothings: Vec<Smoothing>,
    /// Who looks at queries and keys.
    pub(super) watch: Option<Watch>,
    kv: KvCache,
    /// `None`: nobody asks for hidden states.
    states: Option<States>,
    batch_tokens: usize,
    /// Embedding rows read since their pages were given back.
    embedded: usize,
    tokens_read: u64,
    ropes: Vec<RopeTable>,
    columns: Columns,
    scratch: AttentionScratch,
    residual: Vec<f32>,  // [token][hidden]
    projected: Vec<f32>, // [token][hidden]: what a block adds
    wide: Vec<f32>,      // [token][qkv or gate·up]
    attended: Vec<f32>,  // [token][heads · head_dim]
    logits: Vec<f32>,    // [wanted][vocabulary]
    // Lists of the running pass; kept, so that a step allocates nothing.
    rows: Vec<Rows>,
    wanted: Vec<usize>, // rows whose logits are wanted
    ends: Vec<Rows>,    // the same rows, by sequence
    sequences: Vec<SequenceRows<'static>>,
}

/// Most matrices that are multiplied as one: queries, keys and values.
const FUSED_MAX: usize = 3;

/// What comes after a layer.
#[derive(Clone, Copy)]
enum Next<'a> {
    Layer(&'a Layer),
    Head(&'a Linear),
}

impl Decoder {
    /// A decoder of `model` that computes with `pool`.
    ///
    /// # Errors
    /// If the cache's type can't hold heads like this model's.
    pub fn new(
        model: Arc<Model>,
        pool: Arc<Pool>,
        isa: Isa,
        options: DecoderOptions,
    ) -> Result<Self, KvTypeError> {
        let spec = model.spec();
        let kv_type = match options.kv_type {
            KvType::F16 if model.is_exact() => KvType::F32,
            kv_type => kv_type,
        };
        kv_type.check(spec.head_dim)?;
        let batch_tokens = options.batch_tokens.clamp(1, BATCH_TOKENS_MAX);
        let options = DecoderOptions { kv_type, batch_tokens, ..options };
        let shapes = column_shapes(&model, &options, model.is_exact());
        // All at once, so that nothing is copied when it grows; pages are committed as they are used.
        let room = Room::of(spec, &options, model.vocabulary());
        let threads = pool.threads();
        let kv = KvCache::new(spec, &options);
        let states = (!options.reading_layers.is_empty())
            .then(|| States::new(spec, isa, (&options, kv.groups[0].memory.shape().blocks)));
        Ok(Decoder {
            kv,
            states,
            smoothings: match kv_type.is_quantized() {
                true => smoothing::learn(&model, &pool, isa, kv_type)?,
                false => Vec::new(),
            },
            watch: None,
            batch_tokens,
            embedded: 0,
            tokens_read: 0,
            ropes: room.ropes.iter().map(|&values| RopeTable::with_room(values)).collect(),
            columns: Columns::with_room(&shapes, threads),
            scratch: AttentionScratch::new(spec.head_dim, threads, positions_max(spec, &options)),
            residual: Vec::with_capacity(room.residual),
            projected: Vec::with_capacity(room.projected),
            wide: Vec::with_capacity(room.wide),
            attended: Vec::with_capacity(room.attended),
            logits: Vec::with_capacity(room.logits),
            rows: Vec::new(),
            wanted: Vec::new(),
            ends: Vec::new(),
            sequences: Vec::new(),
            model,
            pool,
            isa,
        })
    }

    /// The model.
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// Takes a free sequence, empty.
    ///
    /// # Errors
    /// If all are in use.
    pub fn begin(&mut self) -> Result<SequenceId, KvError> {
        let sequence = self.kv.take()?;
        if let Some(states) = &mut self.states {
            states.begin(sequence);
        }
        Ok(SequenceId(sequence))
    }

    /// Takes a free sequence that holds as much of `prompt` as is still there from settled sequences of the
    /// same `scope`, and says how many tokens these are: whole blocks, never the last token.
    ///
    /// # Errors
    /// If all are in use.
    pub fn begin_with(&mut self, scope: u64, prompt: &[u32]) -> Result<(SequenceId, usize), KvError> {
        let sequence = self.begin()?;
        Ok((sequence, self.kv.attach(sequence.0, scope, prompt)))
    }

    /// As [`Decoder::begin_with`], for a sequence that will be kept apart: also with what such sequences of the
    /// same scope have settled.
    ///
    /// # Errors
    /// If all are in use.
    pub fn begin_apart(&mut self, scope: u64, prompt: &[u32]) -> Result<(SequenceId, usize), KvError> {
        let sequence = self.begin()?;
        Ok((sequence, self.kv.attach_apart(sequence.0, scope, prompt)))
    }

    /// From now on, what is settled of the sequence is shared only with those that [`Decoder::begin_apart`].
    pub fn keep_apart(&mut self, sequence: SequenceId) {
        self.kv.keep_apart(sequence.0);
    }

    /// Announces that a sequence will hold `tokens` tokens in all; false if they have no room beside what was
    /// announced for the others.
    pub fn promise(&mut self, sequence: SequenceId, tokens: usize) -> bool {
        self.kv.promise(sequence.0, tokens)
    }

    /// Tells which tokens a sequence holds after those told before: they stay from now on, and sequences to
    /// come may share them.
    pub fn settle(&mut self, sequence: SequenceId, tokens: &[u32]) {
        self.kv.settle(sequence.0, tokens);
    }

    /// Forgets a sequence's tokens from the `tokens`th on, as far as they are not settled and were added by
    /// the last pass.
    pub fn truncate(&mut self, sequence: SequenceId, tokens: usize) {
        self.kv.truncate(sequence.0, tokens);
    }

    /// Gives a sequence and its part of the cache back.
    pub fn end(&mut self, sequence: SequenceId) {
        self.kv.give_back(sequence.0);
    }

    /// Most tokens of a pass.
    pub fn batch_tokens(&self) -> usize {
        self.batch_tokens
    }

    /// Tokens a sequence holds.
    pub fn position(&self, sequence: SequenceId) -> usize {
        self.kv.position(sequence.0)
    }

    /// Makes sure that `tokens` more tokens have a place.
    ///
    /// # Errors
    /// If they have none; then nothing changes.
    pub fn reserve(&mut self, sequence: SequenceId, tokens: usize) -> Result<(), KvError> {
        self.kv.reserve(sequence.0, tokens)
    }

    /// The wanted logits of the last pass, as that returned them.
    pub fn logits(&self) -> &[f32] {
        &self.logits
    }

    /// Layers whose hidden states are kept.
    pub fn reading_layers(&self) -> LayerSet {
        self.states.as_ref().map_or_else(LayerSet::default, States::layers)
    }

    /// Hidden states of a sequence that had a part in the last pass: after its last token, and means over all
    /// its tokens. Layers that are not kept are left out.
    pub fn states(&self, sequence: SequenceId, layers: LayerSet) -> Vec<LayerState> {
        let rows = self.rows.iter().find(|rows| rows.sequence == sequence.0);
        let states = self.states.as_ref().zip(rows);
        states.map_or_else(Vec::new, |(states, rows)| states.of(rows, layers))
    }

    /// Adds the states at each token of a sequence that had a part in the last pass to `all`, which holds those of
    /// its passes before: layer by layer, and nothing for layers that are not kept.
    pub fn add_token_states(&self, sequence: SequenceId, all: &mut [TokenStates]) {
        let rows = self.rows.iter().find(|rows| rows.sequence == sequence.0);
        if let Some((states, rows)) = self.states.as_ref().zip(rows) {
            states.add_tokens(rows, all);
        }
    }

    /// Tokens that all passes so far have read.
    pub fn tokens_read(&self) -> u64 {
        self.tokens_read
    }

    /// Blocks of 64 positions, over all groups of layers.
    pub fn blocks(&self) -> KvBlocks {
        self.kv.blocks()
    }

    /// Appends each work's tokens to its sequence. Returns the wanted logits, `[wanted][vocabulary]` in
    /// the order of the works.
    ///
    /// # Errors
    /// If the batch is not well-formed or there is no room; then no sequence has advanced.
    pub fn forward(&mut self, works: &[Work]) -> Result<&[f32], ForwardError> {
        let vocabulary = self.model.weights().vocabulary;
        self.run(works, &Head { vocabulary, rounding: Rounding::Int8WithRest, is_draft: false })
    }

    /// As [`Decoder::forward`], with logits for drafting: of the first `vocabulary` tokens only,
    /// `[wanted][`[`Decoder::draft_vocabulary`]`]`, and with less precision. What is kept of the sequences is the same,
    /// unless it [`Decoder::drafts_apart`].
    ///
    /// # Errors
    /// As [`Decoder::forward`].
    pub fn forward_draft(&mut self, works: &[Work], vocabulary: usize) -> Result<&[f32], ForwardError> {
        let vocabulary = self.draft_vocabulary(vocabulary);
        self.run(works, &Head { vocabulary, rounding: Rounding::Int8, is_draft: true })
    }

    /// Of the first `vocabulary` tokens, as many as it has logits of for drafting.
    pub fn draft_vocabulary(&self, vocabulary: usize) -> usize {
        vocabulary.min(self.model.draft_weights().unwrap_or(self.model.weights()).vocabulary)
    }

    /// Whether drafts have weights of their own. What they leave in a sequence is then near to what the model
    /// would, but not the same: such sequences must be [`Decoder::keep_apart`].
    pub fn drafts_apart(&self) -> bool {
        self.model.draft_weights().is_some()
    }

    fn run(&mut self, works: &[Work], head: &Head) -> Result<&[f32], ForwardError> {
        let mut rows = std::mem::take(&mut self.rows);
        let admitted = self.admit(works, &mut rows);
        if let Ok(tokens) = admitted {
            let mut lists = (std::mem::take(&mut self.ends), std::mem::take(&mut self.wanted));
            list_ends(works, &rows, (&mut lists.0, &mut lists.1));
            let ends = Ends { rows: &lists.0, wanted: &lists.1 };
            self.pass((works, head), (&Batch { rows: &rows, tokens, ends: None }, ends));
            (self.ends, self.wanted) = lists;
        }
        self.rows = rows;
        admitted.map(|_| self.logits.as_slice())
    }

    /// The pass itself; the batch has its place in the cache.
    fn pass(&mut self, (works, head): (&[Work], &Head), (batch, ends): (&Batch, Ends)) {
        let model = self.model.clone();
        let spec = model.spec();
        self.resize(spec, batch.tokens);
        self.tokens_read += batch.tokens as u64;
        for (row, &token) in works.iter().flat_map(|w| w.tokens).enumerate() {
            let to = &mut self.residual[row * spec.hidden..][..spec.hidden];
            model.embed(token, to);
            to.iter_mut().for_each(|x| *x *= spec.embedding_scale);
            self.embedded += 1;
            if self.embedded == EMBEDDING_ROWS_HELD {
                model.release_embeddings();
                self.embedded = 0;
            }
        }
        for (table, rope) in self.ropes.iter_mut().zip(&spec.ropes) {
            table.fill(rope, batch.rows.iter().flat_map(|r| r.position..r.position + r.tokens));
        }
        let weights = head.weights(&model);
        let mut pending = None;
        let layers = weights.layers.len();
        let keeps_last = self.states.as_ref().is_some_and(|states| states.layers().contains(layers as u32));
        let last = Batch { ends: (!keeps_last).then_some(ends), ..*batch };
        for (index, layer) in weights.layers.iter().enumerate() {
            let next = weights.layers.get(index + 1).map_or(Next::Head(&weights.head), Next::Layer);
            let batch = if index + 1 == layers { &last } else { batch };
            self.attention_block(&model, index, (layer, pending), batch);
            self.feed_forward_block(&model, (layer, next), batch.onward());
            pending = Some(layer);
        }
        if keeps_last {
            self.take_last_states(spec, batch.tokens, pending);
            gather(&mut self.residual, ends.wanted, spec.hidden);
            gather(&mut self.projected, ends.wanted, spec.hidden);
        }
        self.head(&model, head, (ends.wanted.len(), pending));
        for rows in batch.rows {
            if let Some(states) = &mut self.states {
                states.add(rows, self.kv.table(rows.sequence, 0));
            }
            self.kv.advance(rows.sequence, rows.tokens);
        }
    }

    /// Checks a batch, makes room for it and lists its rows. Returns its tokens.
    fn admit(&mut self, works: &[Work], rows: &mut Vec<Rows>) -> Result<usize, ForwardError> {
        let vocabulary = self.model.vocabulary();
        rows.clear();
        let mut row = 0;
        for work in works {
            let sequence = work.sequence.0;
            if work.tokens.is_empty() || rows.iter().any(|r| r.sequence == sequence) {
                return Err(ForwardError::Batch { tokens_max: self.batch_tokens });
            }
            if let Some(&token) = work.tokens.iter().find(|&&t| t as usize >= vocabulary) {
                return Err(ForwardError::Token { token, vocabulary });
            }
            let (position, tokens) = (self.kv.position(sequence), work.tokens.len());
            rows.push(Rows { sequence, position, row, tokens });
            row += tokens;
        }
        if row == 0 || row > self.batch_tokens {
            return Err(ForwardError::Batch { tokens_max: self.batch_tokens });
        }
        for rows in rows.iter() {
            self.kv.reserve(rows.sequence, rows.tokens)?;
        }
        Ok(row)
    }

    /// Sizes the buffers for `count` tokens; allocates only to grow.
    fn resize(&mut self, spec: &DecoderSpec, count: usize) {
        let qkv = (spec.heads + 2 * spec.kv_heads) * spec.head_dim;
        let wide = qkv.max(2 * spec.feed_forward);
        let grow = |buffer: &mut Vec<f32>, width: usize| {
            if buffer.len() < count * width {
                buffer.resize(count * width, 0.0);
            }
        };
        grow(&mut self.residual, spec.hidden);
        grow(&mut self.projected, spec.hidden);
        grow(&mut self.wide, wide);
        grow(&mut self.attended, spec.heads * spec.head_dim);
    }

    /// Norm, queries · keys · values, attention and its projection. `before` is the layer whose
    /// feed-forward result still waits in `projected`.
    fn attention_block(
        &mut self,
        model: &Model,
        index: usize,
        (layer, before): (&Layer, Option<&Layer>),
        batch: &Batch,
    ) {
        let (spec, count) = (model.spec(), batch.tokens);
        let (hidden, isa) = (spec.hidden, self.isa);
        let kernels = (isa, &*self.pool);
        let residual = &mut self.residual[..count * hidden];
        let join = Join { isa, spec, added: &self.projected, norm: layer.attention_norm.as_deref() };
        let shape = shape_for(&layer.qkv, count);
        let post = before.map(|b| b.post_feed_forward_norm.as_deref());
        self.columns.fill(kernels, shape, residual, &|row, state, out| join.apply(row, post, state, out));
        if let Some(states) = &mut self.states {
            states.take(index, residual);
        }
        let width = (spec.heads + 2 * spec.kv_heads) * spec.head_dim;
        let file = model.file();
        let products = &operands(&layer.qkv, file)[..layer.qkv.len()];
        announce(&self.pool, &[layer.output.weights(file)]);
        multiply(kernels, products, &self.columns, &mut self.wide[..count * width]);

        let rope = spec.layers[index].rope.map(|r| &self.ropes[r]);
        let finish = FinishQkv { isa, spec, layer, rope, smoothing: self.smoothings.get(index) };
        each_row(&self.pool, &mut self.wide[..count * width], width, &|row, qkv| finish.apply(row, qkv));
        if let Some(watch) = &mut self.watch {
            for rows in batch.rows {
                let of_sequence = &self.wide[rows.row * width..(rows.row + rows.tokens) * width];
                watch.take(spec, index, (of_sequence, width), rows.position);
            }
        }
        self.attend(spec, index, batch, width);
        let inner = spec.heads * spec.head_dim;
        if let Some(Ends { wanted, .. }) = batch.ends {
            gather(&mut self.attended, wanted, inner);
            gather(&mut self.residual, wanted, hidden);
        }
        let count = batch.onward();
        if count == 0 {
            return;
        }
        let kernels = (isa, &*self.pool);
        let attended = &mut self.attended[..count * inner];
        let shape = shape_for(slice::from_ref(&layer.output), count);
        self.columns.fill(kernels, shape, attended, &|_, state, out| out.copy_from_slice(state));
        let projected = &mut self.projected[..count * hidden];
        announce(&self.pool, &operands(&layer.gate_up, file)[..layer.gate_up.len()]);
        multiply(kernels, &[layer.output.weights(file)], &self.columns, projected);
        if let Some(bias) = &layer.output_bias {
            each_row(&self.pool, projected, hidden, &|_, row| isa.add_scaled(row, 1.0, bias));
        }
    }

    /// Writes the batch's keys and values; those of its tokens that go on attend to all that is visible.
    fn attend(&mut self, spec: &DecoderSpec, index: usize, batch: &Batch, width: usize) {
        let kernels = (self.isa, &*self.pool);
        let LayerParts { mut cache, mut rests, tables } = self.kv.layer(index);
        let mut sequences: Vec<SequenceRows> = emptied(std::mem::take(&mut self.sequences));
        let of_sequence = |r: &Rows| {
            let (table, rests_table) = tables.of(r.sequence);
            SequenceRows { table, rests_table, position: r.position, row: r.row, tokens: r.tokens }
        };
        sequences.extend(batch.rows.iter().map(of_sequence));
        let kv = KvRows { values: &self.wide, stride: width, keys_at: spec.heads * spec.head_dim };
        write(kernels, (&mut cache, rests.as_mut()), (&sequences, kv), &mut self.scratch);
        if let Some(ends) = batch.ends {
            sequences.clear();
            sequences.extend(ends.rows.iter().map(of_sequence));
        }
        let shape = AttentionShape {
            head_dim: spec.head_dim,
            group: spec.heads / spec.kv_heads,
            scale: spec.attention_scale,
            window: spec.layers[index].window,
            soft_cap: spec.attention_soft_cap,
        };
        let batch = AttentionBatch {
            queries: &self.wide,
            query_stride: width,
            output: &mut self.attended,
            sequences: &sequences,
        };
        let caches = (cache.shared(), rests.map(LayerCacheMut::shared));
        attend(kernels, caches, &shape, (batch, &mut self.scratch));
        self.sequences = emptied(sequences);
    }

    /// Norm, gate · up, activation and the projection down, which stays in `projected`.
    fn feed_forward_block(&mut self, model: &Model, (layer, next): (&Layer, Next), count: usize) {
        if count == 0 {
            return;
        }
        let spec = model.spec();
        let (hidden, isa, file) = (spec.hidden, self.isa, model.file());
        let kernels = (isa, &*self.pool);
        let residual = &mut self.residual[..count * hidden];
        let join = Join { isa, spec, added: &self.projected, norm: layer.feed_forward_norm.as_deref() };
        let shape = shape_for(&layer.gate_up, count);
        let post = Some(layer.post_attention_norm.as_deref());
        self.columns.fill(kernels, shape, residual, &|row, state, out| join.apply(row, post, state, out));
        let wide = &mut self.wide[..count * 2 * spec.feed_forward];
        let products = &operands(&layer.gate_up, file)[..layer.gate_up.len()];
        announce(&self.pool, &[layer.down.weights(file)]);
        multiply(kernels, products, &self.columns, wide);
        let shape = shape_for(slice::from_ref(&layer.down), count);
        self.columns.fill(kernels, shape, wide, &|_, state, out| {
            let (gate, up) = state.split_at(spec.feed_forward);
            match spec.activation {
                Activation::Silu => isa.silu_mul(gate, up, out),
                Activation::Gelu => isa.gelu_mul(gate, up, out),
            }
        });
        let projected = &mut self.projected[..count * hidden];
        match next {
            Next::Layer(next) => announce(&self.pool, &operands(&next.qkv, file)[..next.qkv.len()]),
            Next::Head(head) => announce(&self.pool, &[head.weights(file)]),
        }
        multiply(kernels, &[layer.down.weights(file)], &self.columns, projected);
    }
}

/// The columns that matrices of one width (at least one matrix) are multiplied with.
fn shape_for(linears: &[Linear], count: usize) -> ColumnsShape {
    ColumnsShape {
        inner: linears[0].columns(),
        count,
        rounding: if linears.iter().any(Linear::is_packed) { Rounding::Int8 } else { Rounding::None },
        floats: !linears.iter().all(Linear::is_packed),
    }
}

/// The operands of a fused product of 1 to [`FUSED_MAX`] matrices; the last repeats to fill the array.
fn operands<'a>(linears: &'a [Linear], file: &'a [u8]) -> [Weights<'a>; FUSED_MAX] {
    std::array::from_fn(|i| linears[i.min(linears.len() - 1)].weights(file))
}
