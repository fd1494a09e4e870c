//! Qwen 3 (dense): norms on queries and keys, heads of their own size.

use super::{Settings, SpecError};
use crate::gguf::Gguf;
use crate::spec::{DecoderSpec, Keys};

pub(super) fn read(gguf: &Gguf, settings: &Settings) -> Result<DecoderSpec, SpecError> {
    DecoderSpec::plain(&Keys::new(gguf, "qwen3"), settings)
}
