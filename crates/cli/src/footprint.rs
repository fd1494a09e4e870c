//! What a model file is and what running it takes, told without loading its weights: [`Footprint`].

use std::path::Path;

use engine::gguf::Gguf;
use engine::model::{LoadOptions, Model};
use kernels::pool::Pool;
use planner::memory::{KvFormat, KvLayer, kv_bytes, kv_bytes_per_token};

use crate::context::in_file;
use crate::error::CliError;

/// A model's size and the shape of its key-value cache.
#[derive(Clone, Debug)]
pub struct Footprint {
    /// `general.architecture`.
    pub architecture: String,
    /// Bytes of the file, nearly all of them weights.
    pub file_bytes: u64,
    /// Longest sequence that the model was made for.
    pub context_tokens_max: u64,
    /// What each layer keeps.
    pub layers: Vec<KvLayer>,
}

impl Footprint {
    /// Reads a file.
    ///
    /// # Errors
    /// If it is no model that the engine runs.
    pub fn read(path: &Path) -> Result<Self, CliError> {
        let gguf = Gguf::open(path).map_err(|error| in_file(path, &error.into()))?;
        Footprint::of(gguf).map_err(|error| in_file(path, &error))
    }

    /// Of an opened file.
    ///
    /// # Errors
    /// If it is no model that the engine runs.
    pub fn of(gguf: Gguf) -> Result<Self, engine::model::LoadError> {
        let file_bytes = gguf.mapped().bytes().len() as u64;
        // The exact form leaves the matrices in the mapped file, so this costs milliseconds.
        let options = LoadOptions { exact: true, ..LoadOptions::default() };
        let model = Model::from_gguf(gguf, options, &Pool::new(1))?;
        let spec = model.spec();
        let layer = |window: Option<usize>| KvLayer {
            kv_heads: spec.kv_heads as u32,
            head_dim: spec.head_dim as u32,
            window_tokens: window.map(|tokens| tokens as u64),
        };
        Ok(Footprint {
            architecture: spec.architecture.clone(),
            file_bytes,
            context_tokens_max: spec.context_tokens as u64,
            layers: spec.layers.iter().map(|spec| layer(spec.window)).collect(),
        })
    }

    /// Bytes of f16 keys and values that one more token takes while no window is full.
    pub fn kv_bytes_per_token(&self) -> u64 {
        kv_bytes_per_token(&self.layers, KvFormat::F16)
    }

    /// Bytes of f16 keys and values of one sequence.
    pub fn kv_bytes(&self, context_tokens: u64) -> u64 {
        kv_bytes(&self.layers, context_tokens, KvFormat::F16)
    }
}
