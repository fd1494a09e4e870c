//! OLMo 2 and 3: norms after the blocks only, and over the whole width of queries and keys. With a
//! window (OLMo 3) every fourth layer is global.

use super::{Settings, SpecError};
use crate::gguf::Gguf;
use crate::spec::{DecoderSpec, Keys};

/// Every fourth layer is global.
const PATTERN: usize = 4;

pub(super) fn read(gguf: &Gguf, settings: &Settings) -> Result<DecoderSpec, SpecError> {
    let keys = Keys::new(gguf, "olmo2");
    let mut spec = DecoderSpec::plain(&keys, settings)?;
    if let Some(window) = keys.u32("attention.sliding_window")?.filter(|&w| w > 0) {
        spec.set_windows(window as usize, |layer| layer % PATTERN == PATTERN - 1);
    }
    Ok(spec)
}
