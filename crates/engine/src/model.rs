//! A loaded model: file, numbers, weights, tokenizer and chat template.

use std::fs::File;
use std::path::Path;

use kernels::mapped::Mapped;
use kernels::panels::Panels;
use kernels::pool::Pool;

use crate::decoder::{EMBEDDING_ROWS_HELD, Weights, WeightsError};
use crate::gguf::{Gguf, GgufError, Tensor};
use crate::models::{self, Settings, SpecError};
use crate::packed::{self, Contents, InMemory, PackedCache, PackedOutcome, PanelSource, Request};
use crate::spec::DecoderSpec;
use crate::template::{ChatTemplate, TemplateError};
use crate::tokenizer::{Tokenizer, TokenizerError};

/// How a model is loaded.
#[derive(Clone, Debug, Default)]
pub struct LoadOptions {
    /// Longest sequence wanted; `None`: as long as the model can.
    pub context_tokens: Option<u32>,
    /// Unquantized activations and f32 key-value cache: slow, the oracle of the fast path.
    pub exact: bool,
    /// Where packed weights are kept for the next time; `None`: nowhere.
    pub cache: Option<PackedCache>,
    /// Whether it gets weights for drafting besides, with a head of so many first tokens
    /// ([`Decoder::forward_draft`](crate::decoder::Decoder::forward_draft)). Not on the exact path.
    pub draft_vocabulary: Option<usize>,
}

/// Why a model can't be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file is no well-formed GGUF.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// Its numbers make no model.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// Its tensors do not fit its numbers.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// Its vocabulary can't be read.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// Its chat template can't be read.
    #[error(transparent)]
    Template(#[from] TemplateError),
}

/// Bytes of a file that the system maps around one that is touched, if it has them in memory: Linux's
/// default.
const MAPPED_AROUND_BYTES: usize = 64 << 10;

/// Memory that a loaded model takes, by kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ModelFootprint {
    /// Packed matrices: mapped from their file, or of the process's own.
    pub packed_bytes: u64,
    /// Pages of the model file: matrices that have no packed form, and embedding rows, at most.
    pub mapped_bytes: u64,
    /// Norms, biases and the tokenizer.
    pub heap_bytes: u64,
}

/// A model, immutable and shared.
#[derive(Debug)]
pub struct Model {
    gguf: Gguf,
    spec: DecoderSpec,
    weights: Weights,
    tokenizer: Tokenizer,
    template: Option<ChatTemplate>,
    is_exact: bool,
    /// Whether nothing but [`Model::embed`] reads the embeddings in the file.
    releases_embeddings: bool,
    packed: PackedOutcome,
    /// What has fewer bits for drafting, and what became of its cache.
    drafting: Option<(Weights, PackedOutcome)>,
    /// Open, so that nobody removes them to make room.
    _in_use: [Option<File>; 2],
}

impl Model {
    /// Loads a GGUF file; packing, or verifying what was packed before, uses `pool`.
    ///
    /// # Errors
    /// See [`LoadError`]; the caller adds the path. The cache is never one: see [`Model::packed`].
    pub fn load(path: &Path, options: LoadOptions, pool: &Pool) -> Result<Model, LoadError> {
        let io = |source| GgufError::Io { path: path.to_owned(), source };
        let file = File::open(path).map_err(io)?;
        let gguf = Gguf::from_mapped(Mapped::of_file(&file).map_err(io)?)?;
        Self::build(gguf, &options, (pool, Some((path, &file))))
    }

    /// Loads an opened file, without the cache.
    ///
    /// # Errors
    /// As [`Model::load`].
    pub fn from_gguf(gguf: Gguf, options: LoadOptions, pool: &Pool) -> Result<Model, LoadError> {
        Self::build(gguf, &options, (pool, None))
    }

    fn build(
        gguf: Gguf,
        options: &LoadOptions,
        (pool, place): (&Pool, Option<(&Path, &File)>),
    ) -> Result<Model, LoadError> {
        let spec = models::read(&gguf, &Settings { context_tokens: options.context_tokens })?;
        let tokenizer = Tokenizer::from_gguf(&gguf)?;
        let template = ChatTemplate::from_gguf(&gguf)?;
        gguf.mapped().advise_sequential();
        let cached = |contents, load: &packed::Load| match (&options.cache, place) {
            (Some(cache), Some((path, file))) => {
                packed::load(&Request { cache, path, file, gguf: &gguf, pool, contents }, load)
            }
            _ => Ok((load(&InMemory { gguf: &gguf, pool })?, PackedOutcome::Unused, None)),
        };
        let (weights, packed, in_use) = if options.exact {
            (Weights::load(&gguf, &spec, None)?, PackedOutcome::Unused, None)
        } else {
            let load = |panels: &dyn PanelSource| Weights::load(&gguf, &spec, Some(panels));
            cached(Contents::Own { bytes: packed::packed_bytes(&gguf) }, &load)?
        };
        let coarse = options.draft_vocabulary.filter(|_| !options.exact);
        let coarse = coarse.map(|tokens| (tokens, packed::bytes_of(weights.coarse_matrices(&gguf, tokens))));
        let (drafting, drafts_in_use) = match coarse {
            None | Some((_, 0)) => (None, None),
            Some((vocabulary, bytes)) => {
                let load = |panels: &dyn PanelSource| weights.for_drafting(&gguf, panels, vocabulary);
                let (weights, packed, in_use) = cached(Contents::Drafting { bytes, vocabulary }, &load)?;
                (Some((weights, packed)), in_use)
            }
        };
        if !options.exact {
            // What was packed is not read again; embedding rows come back page by page.
            gguf.mapped().release_pages();
        }
        let is_exact = options.exact;
        let releases_embeddings = !is_exact && weights.head.is_packed();
        Ok(Model {
            gguf,
            spec,
            weights,
            tokenizer,
            template,
            is_exact,
            releases_embeddings,
            packed,
            drafting,
            _in_use: [in_use, drafts_in_use],
        })
    }

    /// Its numbers.
    pub fn spec(&self) -> &DecoderSpec {
        &self.spec
    }

    /// Its file.
    pub fn gguf(&self) -> &Gguf {
        &self.gguf
    }

    /// Its tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// Its chat template, if it has one.
    pub fn template(&self) -> Option<&ChatTemplate> {
        self.template.as_ref()
    }

    /// What became of the cache of packed weights.
    pub fn packed(&self) -> &PackedOutcome {
        &self.packed
    }

    /// What became of the cache of weights for drafting, if it has such.
    pub fn packed_for_drafting(&self) -> Option<&PackedOutcome> {
        self.drafting.as_ref().map(|(_, packed)| packed)
    }

    /// Whether it was loaded for the exact path.
    pub fn is_exact(&self) -> bool {
        self.is_exact
    }

    /// Rows of the embedding matrix: ids below this exist.
    pub fn vocabulary(&self) -> usize {
        self.weights.vocabulary
    }

    /// Bytes of weights read per generated token.
    pub fn weight_bytes(&self) -> usize {
        self.weights.bytes()
    }

    /// Bytes of weights read per drafted token, with a head of `vocabulary` tokens.
    pub fn draft_bytes(&self, vocabulary: usize) -> usize {
        self.draft_weights().unwrap_or(&self.weights).draft_bytes(vocabulary)
    }

    /// Memory that weights for drafting will take besides, from the file alone: also of an exact model.
    pub fn drafting_bytes(&self, vocabulary: usize) -> u64 {
        packed::bytes_of(self.weights.coarse_matrices(&self.gguf, vocabulary))
    }

    /// Multiply-adds of the layers' products per token; a prompt's tokens need no more but the last.
    pub fn layer_macs_per_token(&self) -> usize {
        self.weights.layer_macs()
    }

    /// What its weights will take once they are packed, from its file alone: also of an exact model.
    pub fn footprint(&self) -> ModelFootprint {
        let weights = &self.weights;
        let row_bytes = self.embeddings().map_or(0, |tensor| tensor.byte_range().len() / tensor.rows());
        // A page at either end, and what the system maps around a page that it has anyway.
        let held = EMBEDDING_ROWS_HELD * (row_bytes + 2 * MAPPED_AROUND_BYTES);
        let mut unpacked = weights.rows_bytes(|format| !Panels::supports(format));
        if !weights.shares_embeddings(&self.gguf) {
            unpacked += held.min(self.embeddings().map_or(0, |tensor| tensor.byte_range().len()));
        }
        ModelFootprint {
            packed_bytes: packed::packed_bytes(&self.gguf),
            mapped_bytes: unpacked as u64,
            heap_bytes: (weights.vector_bytes() + self.tokenizer.heap_bytes()) as u64,
        }
    }

    fn embeddings(&self) -> Option<&Tensor> {
        self.gguf.tensor("token_embd.weight")
    }

    /// Gives back the file's pages under the embeddings, unless products read them too.
    pub(crate) fn release_embeddings(&self) {
        if let Some(tensor) = self.embeddings().filter(|_| self.releases_embeddings) {
            self.gguf.mapped().release_range(tensor.byte_range());
        }
    }

    pub(crate) fn weights(&self) -> &Weights {
        &self.weights
    }

    /// Weights for drafting, if it has such.
    pub(crate) fn draft_weights(&self) -> Option<&Weights> {
        self.drafting.as_ref().map(|(weights, _)| weights)
    }

    pub(crate) fn file(&self) -> &[u8] {
        self.gguf.mapped().bytes()
    }

    /// Writes a token's embedding, unscaled. The token exists.
    pub(crate) fn embed(&self, token: u32, to: &mut [f32]) {
        if let Some(tensor) = self.embeddings() {
            let data = self.gguf.data(tensor);
            let row_bytes = data.len() / tensor.rows();
            tensor.format().dequantize(&data[token as usize * row_bytes..][..row_bytes], to);
        }
    }
}
