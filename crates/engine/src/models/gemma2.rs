//! Gemma 2: every other layer a sliding window, soft caps on scores and logits.

use super::{Settings, SpecError};
use crate::gguf::Gguf;
use crate::spec::{Activation, DecoderSpec, Keys};

/// The 27B's depth: it scales scores by the width per head instead of the head's size.
const LAYERS_27B: usize = 46;
/// The family's window where the file does not say.
const WINDOW: u32 = 4096;

pub(super) fn read(gguf: &Gguf, settings: &Settings) -> Result<DecoderSpec, SpecError> {
    let keys = Keys::new(gguf, "gemma2");
    let mut spec = DecoderSpec::plain(&keys, settings)?;
    spec.activation = Activation::Gelu;
    spec.embedding_scale = (spec.hidden as f32).sqrt();
    if spec.layers.len() == LAYERS_27B {
        spec.attention_scale = 1.0 / ((spec.hidden / spec.heads) as f32).sqrt();
    }
    spec.attention_soft_cap = Some(keys.positive("attn_logit_softcapping", 50.0)?);
    spec.logit_soft_cap = Some(keys.positive("final_logit_softcapping", 30.0)?);
    let window = keys.u32("attention.sliding_window")?.unwrap_or(WINDOW).max(1) as usize;
    spec.set_windows(window, |layer| layer % 2 == 1);
    Ok(spec)
}
