//! Granite 3 (dense): Llama's graph with four scales.

use super::{Settings, SpecError};
use crate::gguf::Gguf;
use crate::spec::{DecoderSpec, Keys, RopePairs};

pub(super) fn read(gguf: &Gguf, settings: &Settings) -> Result<DecoderSpec, SpecError> {
    let keys = Keys::new(gguf, "granite");
    let mut spec = DecoderSpec::plain(&keys, settings)?;
    spec.rope_pairs = RopePairs::Interleaved;
    spec.embedding_scale = keys.positive("embedding_scale", 1.0)?;
    spec.residual_scale = keys.positive("residual_scale", 1.0)?;
    spec.attention_scale = keys.positive("attention.scale", spec.attention_scale)?;
    spec.logit_scale = 1.0 / keys.positive("logit_scale", 1.0)?;
    Ok(spec)
}
