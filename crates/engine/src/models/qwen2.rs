//! Qwen 2 and 2.5: biases on queries, keys and values.

use super::{Settings, SpecError};
use crate::gguf::Gguf;
use crate::spec::{DecoderSpec, Keys};

pub(super) fn read(gguf: &Gguf, settings: &Settings) -> Result<DecoderSpec, SpecError> {
    DecoderSpec::plain(&Keys::new(gguf, "qwen2"), settings)
}
