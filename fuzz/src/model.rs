//! A tiny model with edited numbers: loaded, and if it loads, run for a few tokens.
//!
//! An input is not a file but edits of one, so that nearly all inputs are well-formed files whose
//! numbers contradict each other; `gguf` takes files of any bytes.

use std::ops::Range;
use std::sync::{Arc, LazyLock};

use engine::decoder::{Decoder, DecoderOptions, Logits, Work};
use engine::gguf::Gguf;
use engine::model::{LoadOptions, Model};
use engine::sampling::{Sampler, SamplingParams};
use kernels::isa::Isa;
use kernels::pool::Pool;

use crate::{Seed, Target};

/// Positions a model is loaded for.
const CONTEXT_TOKENS: u32 = 64;
/// Bytes of an edit: which value or tensor, where in it, and the four bytes to write.
const EDIT_BYTES: usize = 6;
/// Edits of one file.
const EDITS_MAX: usize = 16;
/// Bytes that describe a tensor of two dimensions behind its name.
const TENSOR_INFO_BYTES: usize = 4 + 2 * 8 + 4 + 8;
/// Bytes at a metadata value's start that are edited, its type in front.
const VALUE_BYTES: usize = 4 + 12;

static POOL: LazyLock<Arc<Pool>> = LazyLock::new(|| Arc::new(Pool::new(1)));
static FILES: LazyLock<Vec<Editable>> = LazyLock::new(|| {
    let files = crate::read_files("tests/golden/tiny", ".gguf").expect("the golden files are there");
    files.into_iter().map(Editable::new).collect()
});

/// The target. An input is a byte that chooses the file and the path, and edits.
pub const TARGET: Target = Target {
    name: "model",
    run,
    seeds: &[
        Seed::Bytes(b"\x01\x05\x04\0\0\0\0\x10\x04\x01\0\0\0"),
        Seed::Bytes(b"\x04\x07\x04\x40\0\0\0\x20\x04\x20\0\0\0\x80\x14\x08\0\0\0"),
        Seed::Bytes(b"\x12\x09\x04\0\0\x80\x3f\x50\x14\x02\0\0\0\xa0\x04\0\x02\0\0"),
        Seed::Bytes(b"\x1b\x0c\x04\0\0\xc0\x7f\x30\x40\0\0\x80\x7f"),
    ],
    words: &[
        // As f32: infinity, a number that is none, the smallest one, a large one.
        b"\0\0\x80\x7f",
        b"\0\0\xc0\x7f",
        b"\x01\0\0\0",
        b"\x99\x76\x96\x7e",
        b"\x03\0\0\0",
        b"\x10\0\0\0",
        b"\x40\0\0\0",
        b"\0\x10\0\0",
    ],
};

/// A file and where its numbers are.
struct Editable {
    bytes: Vec<u8>,
    /// Values, tensors' descriptions, and tensors' data.
    places: Vec<Range<usize>>,
}

impl Editable {
    fn new(bytes: Vec<u8>) -> Self {
        let file = Gguf::from_bytes(bytes.clone()).expect("the golden files open");
        let mut places = Vec::new();
        for (key, _) in file.metadata() {
            places.extend(behind(&bytes, key).map(|start| start..start + VALUE_BYTES));
        }
        for tensor in file.tensors() {
            places.extend(behind(&bytes, tensor.name()).map(|start| start..start + TENSOR_INFO_BYTES));
            places.push(tensor.byte_range());
        }
        Editable { bytes, places }
    }

    fn edited(&self, edits: &[u8]) -> Vec<u8> {
        let mut bytes = self.bytes.clone();
        for edit in edits.chunks_exact(EDIT_BYTES).take(EDITS_MAX) {
            let place = &self.places[usize::from(edit[0]) % self.places.len()];
            let at = place.start + usize::from(edit[1]) % place.len();
            for (byte, new) in bytes[at..place.end].iter_mut().zip(&edit[2..]) {
                *byte = *new;
            }
        }
        bytes
    }
}

/// Where the string `name`, its length in front, ends in `bytes`.
fn behind(bytes: &[u8], name: &str) -> Option<usize> {
    let wanted = [&(name.len() as u64).to_le_bytes(), name.as_bytes()].concat();
    Some(bytes.windows(wanted.len()).position(|part| part == wanted)? + wanted.len())
}

fn run(data: &[u8]) {
    let (choice, edits) = data.split_first().unwrap_or((&0, &[]));
    let choice = usize::from(*choice);
    let (file, exact) = (&FILES[choice / 2 % FILES.len()], choice % 2 == 1);
    let Ok(gguf) = Gguf::from_bytes(file.edited(edits)) else { return };
    let options =
        LoadOptions { context_tokens: Some(CONTEXT_TOKENS), exact, cache: None, draft_vocabulary: None };
    let Ok(model) = Model::from_gguf(gguf, options, &POOL) else { return };
    assert!(model.spec().context_tokens <= CONTEXT_TOKENS as usize);
    let _ = model.tokenizer().encode("a b", true, true);
    let vocabulary = model.vocabulary();
    let isa = Isa::detect();
    let room = DecoderOptions::new(1, CONTEXT_TOKENS as usize);
    let Ok(mut decoder) = Decoder::new(Arc::new(model), POOL.clone(), isa, room) else { return };
    let Ok(sequence) = decoder.begin() else { return };
    let work = Work { sequence, tokens: &[0, 1, 2], logits: Logits::Last };
    // A vocabulary of two and a context of one are errors.
    let Ok(logits) = decoder.forward(&[work]) else { return };
    assert_eq!(logits.len(), vocabulary);
    for temperature in [0.0, 0.8] {
        let params = SamplingParams { temperature, top_k: 4, top_p: 0.9, ..SamplingParams::default() };
        // Weights may be anything, so logits may be no numbers.
        let drawn = Sampler::new(params, isa, &[0, 1, 2]).draw(logits, 2);
        assert!((drawn.id as usize) < vocabulary);
    }
    decoder.end(sequence);
}
