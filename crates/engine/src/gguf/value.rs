//! Metadata values of a GGUF file: [`Value`], and [`Array`] as a view into the file.

use std::fmt;

/// The type of a metadata value, with GGUF's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Type {
    /// Unsigned 8-bit integer.
    U8 = 0,
    /// Signed 8-bit integer.
    I8 = 1,
    /// Unsigned 16-bit integer.
    U16 = 2,
    /// Signed 16-bit integer.
    I16 = 3,
    /// Unsigned 32-bit integer.
    U32 = 4,
    /// Signed 32-bit integer.
    I32 = 5,
    /// 32-bit float.
    F32 = 6,
    /// Boolean, one byte.
    Bool = 7,
    /// Length-prefixed string.
    String = 8,
    /// Array of one element type.
    Array = 9,
    /// Unsigned 64-bit integer.
    U64 = 10,
    /// Signed 64-bit integer.
    I64 = 11,
    /// 64-bit float.
    F64 = 12,
}

impl Type {
    const ALL: [Type; 13] = [
        Type::U8,
        Type::I8,
        Type::U16,
        Type::I16,
        Type::U32,
        Type::I32,
        Type::F32,
        Type::Bool,
        Type::String,
        Type::Array,
        Type::U64,
        Type::I64,
        Type::F64,
    ];

    /// The type GGUF numbers so.
    pub(super) fn from_number(number: u32) -> Option<Type> {
        Type::ALL.get(number as usize).copied()
    }

    /// The least number of bytes a value takes in the file (exact for all but strings and arrays).
    pub(super) fn bytes_min(self) -> usize {
        match self {
            Type::U8 | Type::I8 | Type::Bool => 1,
            Type::U16 | Type::I16 => 2,
            Type::U32 | Type::I32 | Type::F32 => 4,
            Type::U64 | Type::I64 | Type::F64 | Type::String => 8,
            Type::Array => 12,
        }
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Type::U8 => "a u8",
            Type::I8 => "an i8",
            Type::U16 => "a u16",
            Type::I16 => "an i16",
            Type::U32 => "a u32",
            Type::I32 => "an i32",
            Type::F32 => "an f32",
            Type::Bool => "a bool",
            Type::String => "a string",
            Type::Array => "an array",
            Type::U64 => "a u64",
            Type::I64 => "an i64",
            Type::F64 => "an f64",
        })
    }
}

/// One metadata value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value<'a> {
    /// Unsigned 8-bit integer.
    U8(u8),
    /// Signed 8-bit integer.
    I8(i8),
    /// Unsigned 16-bit integer.
    U16(u16),
    /// Signed 16-bit integer.
    I16(i16),
    /// Unsigned 32-bit integer.
    U32(u32),
    /// Signed 32-bit integer.
    I32(i32),
    /// 32-bit float.
    F32(f32),
    /// Boolean.
    Bool(bool),
    /// String.
    String(&'a str),
    /// Array.
    Array(Array<'a>),
    /// Unsigned 64-bit integer.
    U64(u64),
    /// Signed 64-bit integer.
    I64(i64),
    /// 64-bit float.
    F64(f64),
}

impl Value<'_> {
    /// Its type.
    pub fn kind(&self) -> Type {
        match self {
            Value::U8(_) => Type::U8,
            Value::I8(_) => Type::I8,
            Value::U16(_) => Type::U16,
            Value::I16(_) => Type::I16,
            Value::U32(_) => Type::U32,
            Value::I32(_) => Type::I32,
            Value::F32(_) => Type::F32,
            Value::Bool(_) => Type::Bool,
            Value::String(_) => Type::String,
            Value::Array(_) => Type::Array,
            Value::U64(_) => Type::U64,
            Value::I64(_) => Type::I64,
            Value::F64(_) => Type::F64,
        }
    }

    /// Any integer, widened; `None` for the rest.
    pub fn integer(&self) -> Option<i128> {
        Some(match *self {
            Value::U8(v) => v.into(),
            Value::I8(v) => v.into(),
            Value::U16(v) => v.into(),
            Value::I16(v) => v.into(),
            Value::U32(v) => v.into(),
            Value::I32(v) => v.into(),
            Value::U64(v) => v.into(),
            Value::I64(v) => v.into(),
            _ => return None,
        })
    }

    /// Either float; `None` for the rest.
    pub fn float(&self) -> Option<f64> {
        match *self {
            Value::F32(v) => Some(v.into()),
            Value::F64(v) => Some(v),
            _ => None,
        }
    }

    /// Reads a number from the first bytes; `None` for strings, arrays, bad booleans and short
    /// slices.
    pub(super) fn scalar(kind: Type, bytes: &[u8]) -> Option<Value<'static>> {
        Some(match kind {
            Type::U8 => Value::U8(u8::from_le_bytes(*bytes.first_chunk()?)),
            Type::I8 => Value::I8(i8::from_le_bytes(*bytes.first_chunk()?)),
            Type::U16 => Value::U16(u16::from_le_bytes(*bytes.first_chunk()?)),
            Type::I16 => Value::I16(i16::from_le_bytes(*bytes.first_chunk()?)),
            Type::U32 => Value::U32(u32::from_le_bytes(*bytes.first_chunk()?)),
            Type::I32 => Value::I32(i32::from_le_bytes(*bytes.first_chunk()?)),
            Type::F32 => Value::F32(f32::from_le_bytes(*bytes.first_chunk()?)),
            Type::U64 => Value::U64(u64::from_le_bytes(*bytes.first_chunk()?)),
            Type::I64 => Value::I64(i64::from_le_bytes(*bytes.first_chunk()?)),
            Type::F64 => Value::F64(f64::from_le_bytes(*bytes.first_chunk()?)),
            Type::Bool => match bytes.first()? {
                0 => Value::Bool(false),
                1 => Value::Bool(true),
                _ => return None,
            },
            Type::String | Type::Array => return None,
        })
    }
}

/// An array of a metadata value: a view into the file, checked when the file was opened.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Array<'a> {
    pub(super) element: Type,
    pub(super) len: usize,
    pub(super) bytes: &'a [u8],
}

impl<'a> Array<'a> {
    /// The type of its elements.
    pub fn element(&self) -> Type {
        self.element
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has no elements.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Its elements if they are numbers or booleans, otherwise nothing.
    pub fn scalars(&self) -> impl ExactSizeIterator<Item = Value<'static>> + use<'a> {
        let (element, bytes) = match self.element {
            Type::String | Type::Array => (Type::U8, [].as_slice()),
            element => (element, self.bytes),
        };
        // Booleans are checked on opening, so the fallback is never taken.
        bytes
            .chunks_exact(element.bytes_min())
            .map(move |chunk| Value::scalar(element, chunk).unwrap_or(Value::Bool(false)))
    }

    /// Its elements if they are strings, otherwise nothing.
    pub fn strings(&self) -> Strings<'a> {
        match self.element {
            Type::String => Strings { bytes: self.bytes, left: self.len },
            _ => Strings { bytes: &[], left: 0 },
        }
    }
}

/// The strings of an array, in order. They are bytes: GGUF says UTF-8, vocabularies say otherwise.
#[derive(Clone, Debug)]
pub struct Strings<'a> {
    bytes: &'a [u8],
    left: usize,
}

impl<'a> Iterator for Strings<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let (len, rest) = self.bytes.split_first_chunk::<8>()?;
        let (string, rest) = rest.split_at_checked(usize::try_from(u64::from_le_bytes(*len)).ok()?)?;
        self.bytes = rest;
        self.left -= 1;
        Some(string)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for Strings<'_> {}
