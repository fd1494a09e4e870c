//! What every artefact's file says of itself: its format and its version.

use serde::Deserialize;

/// A file's format and version, read before its other fields: those of another version have another shape.
#[derive(Debug, Deserialize)]
pub(crate) struct Stated {
    pub(crate) format: String,
    pub(crate) version: u32,
}

impl Stated {
    /// Of a file's text; `None` if it is of this format and version, or says nothing of either.
    pub(crate) fn other(text: &str, (format, version): (&str, u32)) -> Option<Stated> {
        let stated: Stated = serde_json::from_str(text).ok()?;
        (stated.format != format || stated.version != version).then_some(stated)
    }
}
