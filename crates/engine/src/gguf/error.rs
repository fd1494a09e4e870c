//! Every way a GGUF file can be wrong: [`GgufError`].

use std::path::PathBuf;

use super::value::Type;

/// Why a file is not a usable GGUF file, or lacks what was asked of it.
///
/// Offsets are bytes from the start of the file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GgufError {
    /// The file could not be opened or mapped.
    #[error("cannot open {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The first four bytes are not `GGUF`.
    #[error("not a GGUF file: it starts with bytes {found:02x?} instead of \"GGUF\"")]
    Magic {
        /// The first bytes, at most four.
        found: Vec<u8>,
    },
    /// A version this reader does not know.
    #[error(
        "GGUF version {found} is not supported (2 and 3 are); convert the model again with a current tool"
    )]
    Version {
        /// The version the file states.
        found: u32,
    },
    /// A big-endian file.
    #[error("the GGUF file is big-endian; only little-endian files are supported")]
    BigEndian,
    /// The file ends inside something.
    #[error(
        "the file is truncated: {what} at offset {offset} needs {needed} bytes, {left} are left; fetch it again"
    )]
    Truncated {
        /// What was being read.
        what: &'static str,
        /// Where it starts.
        offset: usize,
        /// Its size in bytes.
        needed: u64,
        /// Bytes from there to the end of the file.
        left: usize,
    },
    /// A count that the rest of the file cannot hold.
    #[error(
        "the file claims {count} {what} at offset {offset}, more than its remaining {left} bytes can hold"
    )]
    CountBeyondFile {
        /// What is counted.
        what: &'static str,
        /// Where the count stands.
        offset: usize,
        /// The count.
        count: u64,
        /// Bytes after the count.
        left: usize,
    },
    /// A count or length over one of this reader's limits.
    #[error("the file states {value} {what} at offset {offset}; the limit is {max}")]
    OverLimit {
        /// What is counted or measured.
        what: &'static str,
        /// Where it stands.
        offset: usize,
        /// The count or length.
        value: u64,
        /// The limit.
        max: u64,
    },
    /// A string that has to be UTF-8 and is not.
    #[error("{what} at offset {offset} is not UTF-8")]
    NotUtf8 {
        /// Which string.
        what: &'static str,
        /// Where its bytes start.
        offset: usize,
    },
    /// An empty metadata key or tensor name.
    #[error("empty {what} at offset {offset}")]
    EmptyName {
        /// Key or tensor name.
        what: &'static str,
        /// Where its length stands.
        offset: usize,
    },
    /// A value type that GGUF does not define.
    #[error("metadata key `{key}` has the unknown value type {found}")]
    UnknownValueType {
        /// The key.
        key: String,
        /// The type's number.
        found: u32,
    },
    /// A boolean that is neither 0 nor 1.
    #[error("metadata key `{key}` holds a boolean that is {found}, neither 0 nor 1")]
    BadBool {
        /// The key.
        key: String,
        /// The byte.
        found: u8,
    },
    /// Arrays of arrays of arrays …
    #[error("metadata key `{key}` nests arrays more than {max} deep")]
    NestedTooDeep {
        /// The key.
        key: String,
        /// The limit.
        max: usize,
    },
    /// The same key twice.
    #[error("metadata key `{key}` occurs twice")]
    DuplicateKey {
        /// The key.
        key: String,
    },
    /// The same tensor name twice.
    #[error("tensor `{name}` occurs twice")]
    DuplicateTensor {
        /// The tensor.
        name: String,
    },
    /// `general.alignment` is not a power of two.
    #[error("general.alignment is {found}, not a power of two")]
    BadAlignment {
        /// What the file says.
        found: u32,
    },
    /// A tensor without dimensions, or with too many.
    #[error("tensor `{name}` has {found} dimensions; 1 to {max} are possible")]
    DimensionCount {
        /// The tensor.
        name: String,
        /// Its number of dimensions.
        found: u32,
        /// The limit.
        max: usize,
    },
    /// A dimension of 0.
    #[error("tensor `{name}` has an empty dimension: {dims:?}")]
    ZeroDimension {
        /// The tensor.
        name: String,
        /// Its dimensions.
        dims: Vec<u64>,
    },
    /// Dimensions whose product does not fit.
    #[error("tensor `{name}` is too large to address: {dims:?}")]
    SizeOverflow {
        /// The tensor.
        name: String,
        /// Its dimensions.
        dims: Vec<u64>,
    },
    /// A tensor type that has no format.
    #[error("tensor `{name}` has type {ggml_type}, which is not supported; convert the model to e.g. Q4_K_M")]
    UnknownTensorType {
        /// The tensor.
        name: String,
        /// ggml's number of the type.
        ggml_type: u32,
    },
    /// Rows that are not a whole number of blocks.
    #[error(
        "tensor `{name}` has rows of {columns} values, not a multiple of {format}'s blocks of {block_values}"
    )]
    PartialBlock {
        /// The tensor.
        name: String,
        /// Values in a row.
        columns: u64,
        /// The format's name.
        format: &'static str,
        /// Values in a block.
        block_values: usize,
    },
    /// A tensor that does not start on the file's alignment.
    #[error("tensor `{name}` starts at {offset} of the data, not a multiple of the alignment {alignment}")]
    Misaligned {
        /// The tensor.
        name: String,
        /// Its offset in the data section.
        offset: u64,
        /// `general.alignment`.
        alignment: u64,
    },
    /// A tensor that reaches past the end of the file.
    #[error(
        "tensor `{name}` ends at byte {end}, but the file has {file_bytes} bytes; it is truncated, fetch it again"
    )]
    TensorOutOfBounds {
        /// The tensor.
        name: String,
        /// Where it would end.
        end: u64,
        /// The file's size.
        file_bytes: u64,
    },
    /// Two tensors that share bytes.
    #[error("tensors `{first}` and `{second}` overlap")]
    OverlappingTensors {
        /// The one that starts first.
        first: String,
        /// The one that starts before the first ends.
        second: String,
    },
    /// A key that is needed and absent.
    #[error("metadata key `{key}` is missing")]
    MissingKey {
        /// The key.
        key: String,
    },
    /// A key whose value has another type.
    #[error("metadata key `{key}` is {found}, expected {expected}")]
    WrongType {
        /// The key.
        key: String,
        /// What was asked for.
        expected: &'static str,
        /// What the file has.
        found: Type,
    },
    /// An integer that does not fit what was asked for.
    #[error("metadata key `{key}` is {found}, which is out of range for {expected}")]
    OutOfRange {
        /// The key.
        key: String,
        /// What was asked for.
        expected: &'static str,
        /// The number.
        found: i128,
    },
    /// A tensor that is needed and absent.
    #[error("tensor `{name}` is missing")]
    MissingTensor {
        /// The tensor.
        name: String,
    },
}
