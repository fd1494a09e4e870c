//! Every way the cache of packed weights can fail: [`PackedError`].

use std::path::{Path, PathBuf};

use kernels::panels::PackError;

/// Why a packed file can't be used or kept. None of these keeps a model from being loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PackedError {
    /// The system refused something.
    #[error("can't {doing} {}: {source}", path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// With what.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Not so long as it says, or too short for a header.
    #[error("it has {found} bytes instead of {expected}")]
    Length {
        /// Bytes it should have.
        expected: u64,
        /// Bytes it has.
        found: u64,
    },
    /// Another kind of file.
    #[error("it does not begin like a file of packed weights")]
    Magic,
    /// Written by another version of Tandem.
    #[error("it has version {found}, this Tandem writes {expected}")]
    Version {
        /// The file's version and its layout's.
        found: String,
        /// Those of this Tandem.
        expected: String,
    },
    /// Header, table or a matrix is not what was written.
    #[error("{part} is damaged")]
    Damaged {
        /// Which part.
        part: String,
    },
    /// Packed from another file.
    #[error("it was packed from another model file")]
    OtherSource,
    /// The table of matrices makes no sense.
    #[error("entry {entry} of its table has no sound {what}")]
    Table {
        /// Which entry.
        entry: usize,
        /// Which part of it.
        what: &'static str,
    },
    /// A matrix is not there, or is another one.
    #[error("it does not hold the tensor `{name}` as the model has it")]
    Missing {
        /// The tensor.
        name: String,
    },
    /// A matrix's place or size can't be.
    #[error("tensor `{name}`: {error}")]
    Panels {
        /// The tensor.
        name: String,
        /// Why.
        error: PackError,
    },
    /// The limit leaves no room.
    #[error(
        "{bytes} bytes of packed weights do not fit beside what is in use under the limit of {bytes_max} bytes"
    )]
    NoRoom {
        /// Bytes wanted.
        bytes: u64,
        /// The limit.
        bytes_max: u64,
    },
}

/// Says what was tried with which file.
pub(super) fn io_error(doing: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> PackedError {
    let path = path.to_owned();
    move |source| PackedError::Io { doing, path, source }
}
