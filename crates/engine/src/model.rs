//! A loaded model: file, numbers, weights, tokenizer and chat template.

use std::path::Path;

use kernels::pool::Pool;

use crate::decoder::{Weights, WeightsError};
use crate::gguf::{Gguf, GgufError};
use crate::models::{self, Settings, SpecError};
use crate::spec::DecoderSpec;
use crate::template::{ChatTemplate, TemplateError};
use crate::tokenizer::{Tokenizer, TokenizerError};

/// How a model is loaded.
#[derive(Clone, Copy, Debug, Default)]
pub struct LoadOptions {
    /// Longest sequence wanted; `None`: as long as the model can.
    pub context_tokens: Option<u32>,
    /// Unquantized activations and f32 key-value cache: slow, the oracle of the fast path.
    pub exact: bool,
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

/// A model, immutable and shared.
#[derive(Debug)]
pub struct Model {
    gguf: Gguf,
    spec: DecoderSpec,
    weights: Weights,
    tokenizer: Tokenizer,
    template: Option<ChatTemplate>,
    is_exact: bool,
}

impl Model {
    /// Loads a GGUF file; packing uses `pool`.
    ///
    /// # Errors
    /// See [`LoadError`]; the caller adds the path.
    pub fn load(path: &Path, options: LoadOptions, pool: &Pool) -> Result<Model, LoadError> {
        Self::from_gguf(Gguf::open(path)?, options, pool)
    }

    /// Loads an opened file.
    ///
    /// # Errors
    /// As [`Model::load`].
    pub fn from_gguf(gguf: Gguf, options: LoadOptions, pool: &Pool) -> Result<Model, LoadError> {
        let spec = models::read(&gguf, &Settings { context_tokens: options.context_tokens })?;
        let tokenizer = Tokenizer::from_gguf(&gguf)?;
        let template = ChatTemplate::from_gguf(&gguf)?;
        gguf.mapped().advise_sequential();
        let weights = Weights::load(&gguf, &spec, pool, options.exact)?;
        if !options.exact {
            // What was packed is not read again; embedding rows come back page by page.
            gguf.mapped().release_pages();
        }
        Ok(Model { gguf, spec, weights, tokenizer, template, is_exact: options.exact })
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

    /// Multiply-adds of the layers' products per token; a prompt's tokens need no more but the last.
    pub fn layer_macs_per_token(&self) -> usize {
        self.weights.layer_macs()
    }

    pub(crate) fn weights(&self) -> &Weights {
        &self.weights
    }

    pub(crate) fn file(&self) -> &[u8] {
        self.gguf.mapped().bytes()
    }

    /// Writes a token's embedding, unscaled. The token exists.
    pub(crate) fn embed(&self, token: u32, to: &mut [f32]) {
        if let Some(tensor) = self.gguf.tensor("token_embd.weight") {
            let data = self.gguf.data(tensor);
            let row_bytes = data.len() / tensor.rows();
            tensor.format().dequantize(&data[token as usize * row_bytes..][..row_bytes], to);
        }
    }
}
