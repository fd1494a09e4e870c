//! Writes GGUF files for the tests, wrong ones included.

/// A file under construction: what is wrong with it is the caller's wish.
#[derive(Clone, Default)]
pub struct Writer {
    metadata: Vec<u8>,
    metadata_count: u64,
    tensors: Vec<u8>,
    tensor_count: u64,
    data: Vec<u8>,
}

/// GGUF's number of a value type.
pub const U32: u32 = 4;
pub const I32: u32 = 5;
pub const F32: u32 = 6;
pub const BOOL: u32 = 7;
pub const STRING: u32 = 8;
pub const ARRAY: u32 = 9;

/// A length-prefixed string.
pub fn string(text: impl AsRef<[u8]>) -> Vec<u8> {
    let text = text.as_ref();
    [&(text.len() as u64).to_le_bytes(), text].concat()
}

/// The value bytes of an array.
pub fn array(element: u32, elements: &[Vec<u8>]) -> Vec<u8> {
    [&element.to_le_bytes()[..], &(elements.len() as u64).to_le_bytes(), &elements.concat()].concat()
}

impl Writer {
    /// Adds a metadata entry from a type's number and the value's bytes.
    pub fn entry(mut self, key: impl AsRef<[u8]>, kind: u32, value: impl AsRef<[u8]>) -> Self {
        self.metadata.extend(string(key));
        self.metadata.extend(kind.to_le_bytes());
        self.metadata.extend(value.as_ref());
        self.metadata_count += 1;
        self
    }

    /// Adds a string entry.
    pub fn text(self, key: &str, value: &str) -> Self {
        self.entry(key, STRING, string(value))
    }

    /// Adds an array-of-strings entry.
    pub fn texts<S: AsRef<[u8]>>(self, key: &str, values: &[S]) -> Self {
        let values: Vec<_> = values.iter().map(string).collect();
        self.entry(key, ARRAY, array(STRING, &values))
    }

    /// Adds a tensor of a type's number at an offset of the data section.
    pub fn tensor(mut self, name: &str, dims: &[u64], (ggml_type, offset): (u32, u64)) -> Self {
        self.tensors.extend(string(name));
        self.tensors.extend((dims.len() as u32).to_le_bytes());
        self.tensors.extend(dims.iter().flat_map(|dim| dim.to_le_bytes()));
        self.tensors.extend(ggml_type.to_le_bytes());
        self.tensors.extend(offset.to_le_bytes());
        self.tensor_count += 1;
        self
    }

    /// Appends zeros to the data section.
    pub fn data(mut self, bytes: usize) -> Self {
        self.data.resize(self.data.len() + bytes, 0);
        self
    }

    /// The file, aligned to 32.
    pub fn finish(&self) -> Vec<u8> {
        let mut file = b"GGUF\x03\0\0\0".to_vec();
        file.extend(self.tensor_count.to_le_bytes());
        file.extend(self.metadata_count.to_le_bytes());
        file.extend(&self.metadata);
        file.extend(&self.tensors);
        file.resize(file.len().next_multiple_of(32), 0);
        file.extend(&self.data);
        file
    }
}
