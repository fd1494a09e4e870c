//! Model architectures: one file each, one line each in [`REGISTRY`]. An architecture turns a file's
//! metadata into a [`DecoderSpec`]; what differs beyond numbers (biases, norms, fused tensors) shows in
//! which tensors the file has, and the decoder reads it there.

mod gemma2;
mod gemma3;
mod granite;
mod llama;
mod olmo2;
mod phi3;
mod qwen2;
mod qwen3;
mod smollm3;

use crate::gguf::{Gguf, GgufError};
use crate::spec::DecoderSpec;

/// One architecture.
pub(crate) struct Architecture {
    /// `general.architecture` of its files.
    pub name: &'static str,
    /// Reads its numbers.
    pub read: fn(&Gguf, &Settings) -> Result<DecoderSpec, SpecError>,
}

/// Every architecture the engine runs.
pub(crate) static REGISTRY: &[Architecture] = &[
    Architecture { name: "gemma2", read: gemma2::read },
    Architecture { name: "gemma3", read: gemma3::read },
    Architecture { name: "granite", read: granite::read },
    Architecture { name: "llama", read: llama::read },
    Architecture { name: "olmo2", read: olmo2::read },
    Architecture { name: "phi3", read: phi3::read },
    Architecture { name: "qwen2", read: qwen2::read },
    Architecture { name: "qwen3", read: qwen3::read },
    Architecture { name: "smollm3", read: smollm3::read },
];

/// What the caller chose that an architecture depends on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    /// Longest sequence wanted; `None`: as long as the model can.
    pub context_tokens: Option<u32>,
}

/// Why a file's numbers make no model.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    /// The metadata is missing or of the wrong type.
    #[error(transparent)]
    Metadata(#[from] GgufError),
    /// There is no such architecture here.
    #[error("architecture `{found}` is not supported; supported are: {known}")]
    UnknownArchitecture {
        /// What the file says.
        found: String,
        /// What there is.
        known: String,
    },
    /// A number is out of range or contradicts another.
    #[error("`{key}` is {value}: {why}")]
    Value {
        /// The metadata key.
        key: String,
        /// What the file says.
        value: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A feature of the model that the engine lacks.
    #[error("`{key}` is `{value}`, which is not supported")]
    Unsupported {
        /// The metadata key.
        key: String,
        /// What the file says.
        value: String,
    },
}

/// Reads the numbers of whatever architecture the file names.
pub(crate) fn read(gguf: &Gguf, settings: &Settings) -> Result<DecoderSpec, SpecError> {
    let found = gguf.required_str("general.architecture")?;
    let architecture = REGISTRY.iter().find(|a| a.name == found).ok_or_else(|| {
        let known: Vec<&str> = REGISTRY.iter().map(|a| a.name).collect();
        SpecError::UnknownArchitecture { found: found.to_owned(), known: known.join(", ") }
    })?;
    let spec = (architecture.read)(gguf, settings)?;
    spec.validate()?;
    Ok(spec)
}
