//! GGUF model files: metadata and tensors of a memory-mapped file, checked on opening.
//!
//! The format: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>. Nothing is trusted: a
//! file that lies gives a [`GgufError`], never a panic, an allocation by a claimed count, or a read
//! outside the file. Tensor contents and long arrays stay in the file and are only viewed.

mod error;
mod read;
mod value;

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;

use kernels::formats::Format;
use kernels::mapped::Mapped;

pub use error::GgufError;
use read::{Header, Stored};
pub use value::{Array, Strings, Type, Value};

/// Metadata entries in a file, at most (real files have under 100).
pub const METADATA_COUNT_MAX: u64 = 65_536;
/// Tensors in a file, at most (real files have under 5,000).
pub const TENSOR_COUNT_MAX: u64 = 262_144;
/// Bytes of a metadata key, at most (as in the specification).
pub const KEY_BYTES_MAX: u64 = 65_535;
/// Bytes of a tensor name, at most (the specification says 64).
pub const TENSOR_NAME_BYTES_MAX: u64 = 256;
/// Bytes of a metadata string outside arrays, at most.
pub const TEXT_BYTES_MAX: u64 = 16 << 20;
/// Dimensions of a tensor, at most (as in ggml).
pub const DIMENSIONS_MAX: usize = 4;
/// Levels of arrays within arrays, at most (real files have one).
pub const ARRAY_DEPTH_MAX: usize = 4;

/// A tensor of the file.
#[derive(Clone, Debug)]
pub struct Tensor {
    name: String,
    dims: Vec<u64>,
    format: &'static dyn Format,
    at: Range<usize>,
}

impl Tensor {
    /// Its name, e.g. `blk.0.attn_q.weight`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// One to four dimensions in GGUF's order, none of them 0: `dims[0]` is the length of a row.
    pub fn dims(&self) -> &[u64] {
        &self.dims
    }

    /// Values in a row, a whole number of the format's blocks.
    pub fn columns(&self) -> usize {
        // The tensor's bytes fit in memory, so its dimensions do.
        self.dims.first().map_or(0, |&columns| columns as usize)
    }

    /// Number of rows: the product of all dimensions but the first.
    pub fn rows(&self) -> usize {
        self.dims.iter().skip(1).product::<u64>() as usize
    }

    /// How its bytes stand for values.
    pub fn format(&self) -> &'static dyn Format {
        self.format
    }

    /// Where its bytes are in the file.
    pub fn byte_range(&self) -> Range<usize> {
        self.at.clone()
    }
}

/// An opened and checked GGUF file.
#[derive(Debug)]
pub struct Gguf {
    file: Mapped,
    version: u32,
    metadata: Vec<(String, Stored)>,
    tensors: Vec<Tensor>,
    metadata_index: HashMap<String, usize>,
    tensor_index: HashMap<String, usize>,
}

impl Gguf {
    /// Opens, maps and checks a file.
    ///
    /// # Errors
    /// See [`GgufError`].
    pub fn open(path: &Path) -> Result<Gguf, GgufError> {
        let file = Mapped::open(path).map_err(|source| GgufError::Io { path: path.to_owned(), source })?;
        Gguf::from_mapped(file)
    }

    /// Checks a file that is in memory.
    ///
    /// # Errors
    /// See [`GgufError`].
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Gguf, GgufError> {
        Gguf::from_mapped(Mapped::from(bytes))
    }

    /// Checks a file that is already mapped.
    ///
    /// # Errors
    /// See [`GgufError`].
    pub fn from_mapped(file: Mapped) -> Result<Gguf, GgufError> {
        let Header { version, metadata, tensors, metadata_index, tensor_index } = Header::read(file.bytes())?;
        Ok(Gguf { file, version, metadata, tensors, metadata_index, tensor_index })
    }

    /// The format's version: 2 or 3.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// The mapped file, for advice to the kernel about its pages.
    pub fn mapped(&self) -> &Mapped {
        &self.file
    }

    /// All tensors, in the file's order.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = &Tensor> {
        self.tensors.iter()
    }

    /// The tensor of that name.
    pub fn tensor(&self, name: &str) -> Option<&Tensor> {
        self.tensor_index.get(name).and_then(|&index| self.tensors.get(index))
    }

    /// The tensor of that name.
    ///
    /// # Errors
    /// [`GgufError::MissingTensor`].
    pub fn required_tensor(&self, name: &str) -> Result<&Tensor, GgufError> {
        self.tensor(name).ok_or_else(|| GgufError::MissingTensor { name: name.to_owned() })
    }

    /// The blocks of one of this file's tensors (empty for a larger file's tensor).
    pub fn data(&self, tensor: &Tensor) -> &[u8] {
        self.file.bytes().get(tensor.byte_range()).unwrap_or_default()
    }

    /// All metadata, in the file's order.
    pub fn metadata(&self) -> impl ExactSizeIterator<Item = (&str, Value<'_>)> {
        self.metadata.iter().map(|(key, stored)| (key.as_str(), self.view(stored)))
    }

    /// The value of a key, whatever its type.
    pub fn value(&self, key: &str) -> Option<Value<'_>> {
        let (_, stored) = self.metadata.get(*self.metadata_index.get(key)?)?;
        Some(self.view(stored))
    }

    fn view<'a>(&'a self, stored: &'a Stored) -> Value<'a> {
        match stored {
            Stored::Scalar(value) => *value,
            Stored::Text(text) => Value::String(text),
            Stored::Array { element, len, at } => Value::Array(Array {
                element: *element,
                len: *len,
                bytes: self.file.bytes().get(at.clone()).unwrap_or_default(),
            }),
        }
    }

    /// An integer of any width that fits.
    ///
    /// # Errors
    /// [`GgufError::WrongType`], [`GgufError::OutOfRange`].
    pub fn u32(&self, key: &str) -> Result<Option<u32>, GgufError> {
        self.value(key).map(|value| integer(key, value, "a u32")).transpose()
    }

    /// A float of either width.
    ///
    /// # Errors
    /// [`GgufError::WrongType`].
    pub fn f32(&self, key: &str) -> Result<Option<f32>, GgufError> {
        self.value(key).map(|value| float(key, value, "an f32")).transpose()
    }

    /// A boolean.
    ///
    /// # Errors
    /// [`GgufError::WrongType`].
    pub fn bool(&self, key: &str) -> Result<Option<bool>, GgufError> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::Bool(value)) => Ok(Some(value)),
            Some(other) => Err(wrong_type(key, "a bool", other.kind())),
        }
    }

    /// A string.
    ///
    /// # Errors
    /// [`GgufError::WrongType`].
    pub fn str(&self, key: &str) -> Result<Option<&str>, GgufError> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::String(value)) => Ok(Some(value)),
            Some(other) => Err(wrong_type(key, "a string", other.kind())),
        }
    }

    /// An array, whatever its elements.
    ///
    /// # Errors
    /// [`GgufError::WrongType`].
    pub fn array(&self, key: &str) -> Result<Option<Array<'_>>, GgufError> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::Array(array)) => Ok(Some(array)),
            Some(other) => Err(wrong_type(key, "an array", other.kind())),
        }
    }

    /// The strings of an array, as bytes.
    ///
    /// # Errors
    /// [`GgufError::WrongType`].
    pub fn strings(&self, key: &str) -> Result<Option<Strings<'_>>, GgufError> {
        match self.array(key)? {
            Some(array) if array.element() != Type::String => {
                Err(wrong_type(key, "an array of strings", array.element()))
            }
            array => Ok(array.map(|array| array.strings())),
        }
    }

    /// An array of integers of any width that fit.
    ///
    /// # Errors
    /// [`GgufError::WrongType`], [`GgufError::OutOfRange`].
    pub fn u32s(&self, key: &str) -> Result<Option<Vec<u32>>, GgufError> {
        self.numbers(key, |value| integer(key, value, "an array of u32"))
    }

    /// An array of integers of any width that fit.
    ///
    /// # Errors
    /// [`GgufError::WrongType`], [`GgufError::OutOfRange`].
    pub fn i32s(&self, key: &str) -> Result<Option<Vec<i32>>, GgufError> {
        self.numbers(key, |value| integer(key, value, "an array of i32"))
    }

    /// An array of floats of either width.
    ///
    /// # Errors
    /// [`GgufError::WrongType`].
    pub fn f32s(&self, key: &str) -> Result<Option<Vec<f32>>, GgufError> {
        self.numbers(key, |value| float(key, value, "an array of f32"))
    }

    fn numbers<T>(
        &self,
        key: &str,
        convert: impl Fn(Value<'static>) -> Result<T, GgufError>,
    ) -> Result<Option<Vec<T>>, GgufError> {
        let Some(array) = self.array(key)? else { return Ok(None) };
        if matches!(array.element(), Type::String | Type::Array) {
            return Err(wrong_type(key, "an array of numbers", array.element()));
        }
        array.scalars().map(convert).collect::<Result<_, _>>().map(Some)
    }

    /// [`Gguf::u32`] of a key that must be there.
    ///
    /// # Errors
    /// Those of [`Gguf::u32`] and [`GgufError::MissingKey`].
    pub fn required_u32(&self, key: &str) -> Result<u32, GgufError> {
        self.u32(key)?.ok_or_else(|| missing(key))
    }

    /// [`Gguf::f32`] of a key that must be there.
    ///
    /// # Errors
    /// Those of [`Gguf::f32`] and [`GgufError::MissingKey`].
    pub fn required_f32(&self, key: &str) -> Result<f32, GgufError> {
        self.f32(key)?.ok_or_else(|| missing(key))
    }

    /// [`Gguf::str`] of a key that must be there.
    ///
    /// # Errors
    /// Those of [`Gguf::str`] and [`GgufError::MissingKey`].
    pub fn required_str(&self, key: &str) -> Result<&str, GgufError> {
        self.str(key)?.ok_or_else(|| missing(key))
    }

    /// [`Gguf::strings`] of a key that must be there.
    ///
    /// # Errors
    /// Those of [`Gguf::strings`] and [`GgufError::MissingKey`].
    pub fn required_strings(&self, key: &str) -> Result<Strings<'_>, GgufError> {
        self.strings(key)?.ok_or_else(|| missing(key))
    }
}

fn missing(key: &str) -> GgufError {
    GgufError::MissingKey { key: key.to_owned() }
}

fn wrong_type(key: &str, expected: &'static str, found: Type) -> GgufError {
    GgufError::WrongType { key: key.to_owned(), expected, found }
}

fn integer<T: TryFrom<i128>>(key: &str, value: Value<'_>, expected: &'static str) -> Result<T, GgufError> {
    let found = value.integer().ok_or_else(|| wrong_type(key, expected, value.kind()))?;
    T::try_from(found).map_err(|_| GgufError::OutOfRange { key: key.to_owned(), expected, found })
}

fn float(key: &str, value: Value<'_>, expected: &'static str) -> Result<f32, GgufError> {
    value.float().map(|v| v as f32).ok_or_else(|| wrong_type(key, expected, value.kind()))
}
