//! Gemma 3: five sliding-window layers to one global, each kind with its own rotary base, norms on
//! queries and keys and around both blocks.

use super::{Settings, SpecError};
use crate::gguf::Gguf;
use crate::spec::{Activation, DecoderSpec, Keys, linear_scaling};

/// The family's pattern where the file does not say: every sixth layer is global.
const PATTERN: u32 = 6;
/// Rotary base of sliding-window layers; files do not hold it.
const LOCAL_BASE: f32 = 10_000.0;
/// The 27B's depth: it scales scores by the width per head instead of the head's size.
const LAYERS_27B: usize = 62;

pub(super) fn read(gguf: &Gguf, settings: &Settings) -> Result<DecoderSpec, SpecError> {
    let keys = Keys::new(gguf, "gemma3");
    let mut spec = DecoderSpec::plain(&keys, settings)?;
    spec.activation = Activation::Gelu;
    spec.embedding_scale = (spec.hidden as f32).sqrt();
    spec.logit_soft_cap = keys.f32("final_logit_softcapping")?.filter(|&cap| cap > 0.0);
    if spec.layers.len() == LAYERS_27B {
        spec.attention_scale = 1.0 / ((spec.hidden / spec.heads) as f32).sqrt();
    }
    let global =
        spec.rope(&keys, keys.positive("rope.freq_base", 1_000_000.0)?, linear_scaling(&keys)?, None)?;
    let local = spec.rope(&keys, keys.positive("rope.freq_base_swa", LOCAL_BASE)?, 1.0, None)?;
    spec.ropes = vec![global, local];
    if let Some(window) = keys.u32("attention.sliding_window")?.filter(|&w| w > 0) {
        let pattern = keys.u32("attention.sliding_window_pattern")?.unwrap_or(PATTERN).max(1) as usize;
        spec.set_windows(window as usize, |layer| layer % pattern == pattern - 1);
    }
    Ok(spec)
}
