//! Reading the header of a GGUF file: a cursor that cannot leave the file, and the checks.

use std::collections::HashMap;
use std::ops::Range;

use kernels::formats::by_ggml_type;

use super::value::{Type, Value};
use super::{
    ARRAY_DEPTH_MAX, DIMENSIONS_MAX, GgufError, KEY_BYTES_MAX, METADATA_COUNT_MAX, TENSOR_COUNT_MAX,
    TENSOR_NAME_BYTES_MAX, TEXT_BYTES_MAX, Tensor,
};

const MAGIC: [u8; 4] = *b"GGUF";
const VERSIONS: [u32; 2] = [2, 3];
const ALIGNMENT_KEY: &str = "general.alignment";
const ALIGNMENT_DEFAULT: u32 = 32;
/// Bytes of the smallest metadata entry: key length, one byte of key, type, one byte of value.
const ENTRY_BYTES_MIN: usize = 8 + 1 + 4 + 1;
/// Bytes of the smallest tensor entry: name length, one byte, dimension count, one dimension,
/// type, offset.
const TENSOR_ENTRY_BYTES_MIN: usize = 8 + 1 + 4 + 8 + 4 + 8;

/// A metadata value as kept: strings copied, arrays as ranges of the file.
#[derive(Debug)]
pub(super) enum Stored {
    Scalar(Value<'static>),
    Text(Box<str>),
    Array { element: Type, len: usize, at: Range<usize> },
}

/// What the header says.
#[derive(Debug)]
pub(super) struct Header {
    pub version: u32,
    pub metadata: Vec<(String, Stored)>,
    pub tensors: Vec<Tensor>,
    pub metadata_index: HashMap<String, usize>,
    pub tensor_index: HashMap<String, usize>,
}

impl Header {
    /// Reads and checks everything but the tensors' contents.
    pub(super) fn read(bytes: &[u8]) -> Result<Header, GgufError> {
        let mut cursor = Cursor { bytes, at: 0 };
        let version = cursor.version()?;
        let tensor_count = cursor.u64("the tensor count")?;
        let metadata_count = cursor.u64("the metadata count")?;
        cursor.check_count("tensors", tensor_count, (TENSOR_COUNT_MAX, TENSOR_ENTRY_BYTES_MIN))?;
        cursor.check_count("metadata entries", metadata_count, (METADATA_COUNT_MAX, ENTRY_BYTES_MIN))?;

        let mut metadata = Vec::new();
        let mut metadata_index = HashMap::new();
        for index in 0..metadata_count as usize {
            let (key, value) = cursor.entry()?;
            if metadata_index.insert(key.clone(), index).is_some() {
                return Err(GgufError::DuplicateKey { key });
            }
            metadata.push((key, value));
        }
        let alignment = alignment(&metadata, &metadata_index)?;

        let mut tensors = Vec::new();
        let mut tensor_index = HashMap::new();
        for index in 0..tensor_count as usize {
            let tensor = cursor.tensor(alignment)?;
            if tensor_index.insert(tensor.name.clone(), index).is_some() {
                return Err(GgufError::DuplicateTensor { name: tensor.name });
            }
            tensors.push(tensor);
        }
        let data_start = (cursor.at as u64).next_multiple_of(alignment);
        place(&mut tensors, data_start, bytes.len())?;
        Ok(Header { version, metadata, tensors, metadata_index, tensor_index })
    }
}

fn alignment(metadata: &[(String, Stored)], index: &HashMap<String, usize>) -> Result<u64, GgufError> {
    let Some((key, stored)) = index.get(ALIGNMENT_KEY).and_then(|&i| metadata.get(i)) else {
        return Ok(ALIGNMENT_DEFAULT.into());
    };
    match stored {
        Stored::Scalar(Value::U32(found)) if found.is_power_of_two() => Ok(u64::from(*found)),
        Stored::Scalar(Value::U32(found)) => Err(GgufError::BadAlignment { found: *found }),
        other => Err(GgufError::WrongType { key: key.clone(), expected: "a u32", found: other.kind() }),
    }
}

impl Stored {
    pub(super) fn kind(&self) -> Type {
        match self {
            Stored::Scalar(value) => value.kind(),
            Stored::Text(_) => Type::String,
            Stored::Array { .. } => Type::Array,
        }
    }
}

/// Turns offsets in the data section into ranges of the file; refuses those that leave it or
/// overlap.
fn place(tensors: &mut [Tensor], data_start: u64, file_bytes: usize) -> Result<(), GgufError> {
    for tensor in tensors.iter_mut() {
        let (offset, bytes) = (tensor.at.start as u64, tensor.at.end as u64 - tensor.at.start as u64);
        // All three fit in 63 bits (see `Cursor::tensor`), but their sum may not.
        let end = data_start.saturating_add(offset).saturating_add(bytes);
        if end > file_bytes as u64 {
            let name = tensor.name.clone();
            return Err(GgufError::TensorOutOfBounds { name, end, file_bytes: file_bytes as u64 });
        }
        tensor.at = (data_start + offset) as usize..end as usize;
    }
    let mut order: Vec<&Tensor> = tensors.iter().collect();
    order.sort_by_key(|tensor| tensor.at.start);
    for pair in order.windows(2) {
        if let [first, second] = pair
            && second.at.start < first.at.end
        {
            return Err(GgufError::OverlappingTensors {
                first: first.name.clone(),
                second: second.name.clone(),
            });
        }
    }
    Ok(())
}

/// A position in the file that only moves over bytes that exist.
struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    fn take(&mut self, what: &'static str, len: u64) -> Result<&'a [u8], GgufError> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let taken = usize::try_from(len).ok().and_then(|len| rest.get(..len));
        let Some(taken) = taken else {
            return Err(GgufError::Truncated { what, offset: self.at, needed: len, left: rest.len() });
        };
        self.at += taken.len();
        Ok(taken)
    }

    fn fixed<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], GgufError> {
        let mut fixed = [0; N];
        fixed.copy_from_slice(self.take(what, N as u64)?);
        Ok(fixed)
    }

    fn u32(&mut self, what: &'static str) -> Result<u32, GgufError> {
        self.fixed(what).map(u32::from_le_bytes)
    }

    fn u64(&mut self, what: &'static str) -> Result<u64, GgufError> {
        self.fixed(what).map(u64::from_le_bytes)
    }

    fn version(&mut self) -> Result<u32, GgufError> {
        if !self.bytes.starts_with(&MAGIC) {
            let found = self.bytes.iter().take(MAGIC.len()).copied().collect();
            return Err(GgufError::Magic { found });
        }
        self.at = MAGIC.len();
        let version = self.u32("the version")?;
        if VERSIONS.contains(&version.swap_bytes()) {
            return Err(GgufError::BigEndian);
        }
        if !VERSIONS.contains(&version) {
            return Err(GgufError::Version { found: version });
        }
        Ok(version)
    }

    /// Refuses a count just read that is over its limit, or that the rest of the file cannot hold
    /// at `each_bytes` or more.
    fn check_count(
        &self,
        what: &'static str,
        count: u64,
        (max, each_bytes): (u64, usize),
    ) -> Result<(), GgufError> {
        if count > max {
            return Err(GgufError::OverLimit { what, offset: self.at, value: count, max });
        }
        if count > (self.left() / each_bytes) as u64 {
            return Err(GgufError::CountBeyondFile { what, offset: self.at, count, left: self.left() });
        }
        Ok(())
    }

    /// A UTF-8 string of at most `bytes_max`.
    fn text(&mut self, what: &'static str, bytes_max: u64) -> Result<&'a str, GgufError> {
        let offset = self.at;
        let len = self.u64(what)?;
        if len > bytes_max {
            return Err(GgufError::OverLimit { what, offset, value: len, max: bytes_max });
        }
        let offset = self.at;
        std::str::from_utf8(self.take(what, len)?).map_err(|_| GgufError::NotUtf8 { what, offset })
    }

    /// A UTF-8 string that is not empty.
    fn name(&mut self, what: &'static str, bytes_max: u64) -> Result<String, GgufError> {
        let offset = self.at;
        let name = self.text(what, bytes_max)?;
        if name.is_empty() {
            return Err(GgufError::EmptyName { what, offset });
        }
        Ok(name.to_owned())
    }

    fn entry(&mut self) -> Result<(String, Stored), GgufError> {
        let key = self.name("a metadata key (bytes)", KEY_BYTES_MAX)?;
        let value = match self.kind(&key)? {
            Type::String => Stored::Text(self.text("a metadata string (bytes)", TEXT_BYTES_MAX)?.into()),
            Type::Array => self.array(&key, 1)?,
            scalar => {
                let bytes = self.take("a metadata value", scalar.bytes_min() as u64)?;
                Stored::Scalar(read_scalar(&key, scalar, bytes)?)
            }
        };
        Ok((key, value))
    }

    fn kind(&mut self, key: &str) -> Result<Type, GgufError> {
        let number = self.u32("a value type")?;
        Type::from_number(number)
            .ok_or_else(|| GgufError::UnknownValueType { key: key.to_owned(), found: number })
    }

    /// Walks over an array and checks it; nothing is copied.
    fn array(&mut self, key: &str, depth: usize) -> Result<Stored, GgufError> {
        if depth > ARRAY_DEPTH_MAX {
            return Err(GgufError::NestedTooDeep { key: key.to_owned(), max: ARRAY_DEPTH_MAX });
        }
        let element = self.kind(key)?;
        let count = self.u64("an array's length")?;
        self.check_count("array elements", count, (u64::MAX, element.bytes_min()))?;
        // What the check let through fits the file, and so a usize.
        let (len, start) = (count as usize, self.at);
        match element {
            Type::String => {
                for _ in 0..len {
                    let bytes = self.u64("a string's length")?;
                    self.take("a string of an array", bytes)?;
                }
            }
            Type::Array => {
                for _ in 0..len {
                    self.array(key, depth + 1)?;
                }
            }
            scalar => {
                let bytes = self.take("an array", count * scalar.bytes_min() as u64)?;
                if scalar == Type::Bool
                    && let Some(&found) = bytes.iter().find(|&&byte| byte > 1)
                {
                    return Err(GgufError::BadBool { key: key.to_owned(), found });
                }
            }
        }
        Ok(Stored::Array { element, len, at: start..self.at })
    }

    /// A tensor's entry, with `at` still relative to the data section.
    fn tensor(&mut self, alignment: u64) -> Result<Tensor, GgufError> {
        let name = self.name("a tensor name (bytes)", TENSOR_NAME_BYTES_MAX)?;
        let dimensions = self.u32("a dimension count")?;
        if dimensions == 0 || dimensions as usize > DIMENSIONS_MAX {
            return Err(GgufError::DimensionCount { name, found: dimensions, max: DIMENSIONS_MAX });
        }
        let mut dims = Vec::with_capacity(DIMENSIONS_MAX);
        for _ in 0..dimensions {
            dims.push(self.u64("a dimension")?);
        }
        let ggml_type = self.u32("a tensor type")?;
        let offset = self.u64("a tensor offset")?;
        if dims.contains(&0) {
            return Err(GgufError::ZeroDimension { name, dims });
        }
        let Some(format) = by_ggml_type(ggml_type) else {
            return Err(GgufError::UnknownTensorType { name, ggml_type });
        };
        let columns = dims.first().copied().unwrap_or(1);
        let block_values = format.block_values();
        if !columns.is_multiple_of(block_values as u64) {
            return Err(GgufError::PartialBlock { name, columns, format: format.name(), block_values });
        }
        if !offset.is_multiple_of(alignment) {
            return Err(GgufError::Misaligned { name, offset, alignment });
        }
        let values = dims.iter().try_fold(1_u64, |product, &dim| product.checked_mul(dim));
        let bytes = values.and_then(|n| (n / block_values as u64).checked_mul(format.block_bytes() as u64));
        let end = bytes.and_then(|bytes| offset.checked_add(bytes)).filter(|&end| end <= i64::MAX as u64);
        let (Some(end), Ok(start)) = (end.and_then(|end| usize::try_from(end).ok()), usize::try_from(offset))
        else {
            return Err(GgufError::SizeOverflow { name, dims });
        };
        Ok(Tensor { name, dims, format, at: start..end })
    }
}

fn read_scalar(key: &str, kind: Type, bytes: &[u8]) -> Result<Value<'static>, GgufError> {
    // Of the right length, only a boolean can be wrong.
    Value::scalar(kind, bytes).ok_or_else(|| GgufError::BadBool {
        key: key.to_owned(),
        found: bytes.first().copied().unwrap_or_default(),
    })
}
