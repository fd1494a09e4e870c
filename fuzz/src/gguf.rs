//! A GGUF file: opened, and if it opens, every value and every tensor looked at.

use engine::gguf::Gguf;

use crate::{Seed, Target};

/// Blocks dequantized of each tensor: its first.
const BLOCKS: usize = 1;

/// The target.
pub const TARGET: Target = Target {
    name: "gguf",
    run,
    seeds: &[
        Seed::Files { folder: "tests/golden/tiny", ending: ".gguf" },
        // Version 3, no tensors, no metadata.
        Seed::Bytes(b"GGUF\x03\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"),
    ],
    words: &[b"GGUF", b"general.alignment", b"general.architecture", b"tokenizer.ggml.tokens"],
};

fn run(data: &[u8]) {
    let Ok(file) = Gguf::from_bytes(data.to_vec()) else { return };
    for (key, value) in file.metadata() {
        let _ = (value.kind(), value.integer(), value.float());
        // Most have another type: an error, never a panic.
        let _ = (file.u32(key), file.f32(key), file.bool(key), file.str(key));
        let _ = (file.u32s(key), file.i32s(key), file.f32s(key));
        if let Ok(Some(array)) = file.array(key) {
            let strings = array.strings().map(<[u8]>::len).sum::<usize>();
            assert!(array.scalars().count().max(array.strings().count()) <= array.len());
            assert!(strings <= data.len(), "strings longer than the file");
        }
    }
    for tensor in file.tensors() {
        let range = tensor.byte_range();
        assert_eq!(file.data(tensor), &data[range], "a tensor's bytes are not the file's");
        let format = tensor.format();
        if let Some(blocks) = file.data(tensor).get(..BLOCKS * format.block_bytes()) {
            let mut values = vec![0.0; BLOCKS * format.block_values()];
            format.dequantize(blocks, &mut values);
        }
        assert!(file.tensor(tensor.name()).is_some(), "a tensor is not found by its name");
    }
}
