//! Llama 1–3 and what shares its graph (SmolLM2, Mistral, TinyLlama): interleaved rotary pairs, with
//! Llama 3's frequency factors if the file has them.

use super::{Settings, SpecError};
use crate::gguf::Gguf;
use crate::spec::{DecoderSpec, Keys, RopePairs};

pub(super) fn read(gguf: &Gguf, settings: &Settings) -> Result<DecoderSpec, SpecError> {
    let keys = Keys::new(gguf, "llama");
    let mut spec = DecoderSpec::plain(&keys, settings)?;
    spec.rope_pairs = RopePairs::Interleaved;
    Ok(spec)
}
