//! SmolLM3: Llama's graph with every fourth layer without rotary embedding.

use super::{Settings, SpecError};
use crate::gguf::Gguf;
use crate::spec::{DecoderSpec, Keys, RopePairs};

/// Every fourth layer has no rotary embedding.
const PATTERN: usize = 4;

pub(super) fn read(gguf: &Gguf, settings: &Settings) -> Result<DecoderSpec, SpecError> {
    let keys = Keys::new(gguf, "smollm3");
    let mut spec = DecoderSpec::plain(&keys, settings)?;
    spec.rope_pairs = RopePairs::Interleaved;
    for layer in spec.layers.iter_mut().skip(PATTERN - 1).step_by(PATTERN) {
        layer.rope = None;
    }
    Ok(spec)
}
