//! Stage two of `[cache]`: whether and how much is kept that could be made again.

use engine::packed::PackedCache;
use serde::Serialize;
use toml::{Table, Value};

use super::bytes;
use crate::context::Context;
use crate::error::CliError;

/// The folder of packed weights in the home folder.
const PACKED_FOLDER: &str = "packed";
/// Bytes of packed weights unless set: a few models of ten billion parameters.
const PACKED_BYTES_MAX_DEFAULT: u64 = 20 << 30;

/// What is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CacheSettings {
    /// Whether packed weights are kept for the next start.
    pub packed: bool,
    /// Bytes of them, at most.
    pub packed_bytes_max: u64,
}

impl CacheSettings {
    /// Reads the section.
    ///
    /// # Errors
    /// [`CliError::Usage`] for values that make no sense.
    pub(super) fn read(mut table: Table) -> Result<Self, CliError> {
        let limit = table.remove("packed_bytes_max");
        let limit = limit.map(|value| bytes("cache.packed_bytes_max", value)).transpose()?;
        Ok(CacheSettings {
            packed: table.remove("packed").as_ref().and_then(Value::as_bool).unwrap_or(true),
            packed_bytes_max: limit.unwrap_or(PACKED_BYTES_MAX_DEFAULT),
        })
    }

    /// Where packed weights are kept, if they are: not without a home.
    pub fn packed(&self, context: &Context) -> Option<PackedCache> {
        let folder = context.home().ok().filter(|_| self.packed)?.join(PACKED_FOLDER);
        Some(PackedCache { folder, bytes_max: self.packed_bytes_max })
    }
}
