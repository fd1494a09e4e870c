//! Phi-3 and Phi-4-mini: fused projections, partial rotary embedding, and LongRoPE: short factors for
//! contexts up to the original length, long ones beyond (chosen by the context, not the text, so that
//! a sequence never changes its embedding while it grows).

use super::{Settings, SpecError};
use crate::gguf::Gguf;
use crate::spec::{DecoderSpec, Keys};

pub(super) fn read(gguf: &Gguf, settings: &Settings) -> Result<DecoderSpec, SpecError> {
    let keys = Keys::new(gguf, "phi3");
    let mut spec = DecoderSpec::plain(&keys, settings)?;
    let original = keys.u32("rope.scaling.original_context_length")?;
    let is_long = original.is_some_and(|original| spec.context_tokens > original as usize);
    let name = if is_long { "rope_factors_long.weight" } else { "rope_factors_short.weight" };
    if let Some(factors) = keys.tensor(name) {
        let base = keys.positive("rope.freq_base", 10_000.0)?;
        let mut rope = spec.rope(&keys, base, 1.0, Some(&factors))?;
        rope.magnitude = keys.positive("rope.scaling.attn_factor", 1.0)?;
        spec.ropes = vec![rope];
    }
    Ok(spec)
}
