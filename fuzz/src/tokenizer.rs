//! Any text to tokens and back, with byte-level BPE and SentencePiece.

use std::path::Path;
use std::sync::LazyLock;

use engine::gguf::Gguf;
use engine::tokenizer::{StreamDecoder, Tokenizer};

use crate::{Seed, Target};

/// Two of each algorithm, with different pre-tokenizers and special tokens.
const MODELS: [&str; 4] = ["tiny-llama-mha", "tiny-gemma3", "tiny-llama3-gqa4", "tiny-phi4-longrope"];

static TOKENIZERS: LazyLock<Vec<Tokenizer>> = LazyLock::new(|| {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/tiny");
    let load = |model: &&str| {
        let file = Gguf::open(&folder.join(format!("{model}.gguf"))).expect("the golden files open");
        Tokenizer::from_gguf(&file).expect("the golden files hold vocabularies")
    };
    MODELS.iter().map(load).collect()
});

/// The target.
pub const TARGET: Target = Target {
    name: "tokenizer",
    run,
    seeds: &[
        Seed::Bytes(b"the cat sat on the mat, 1234567 times.\n\n\tfn main() { x += 1; }"),
        Seed::Bytes("naïve Größe, 你好世界 — 😀👩‍👩‍👧 e\u{301}\u{200b}▁".as_bytes()),
        Seed::Bytes(b"<|im_start|>user\nhi<|im_end|><s></s><|begin|><unk> <0x0A>"),
    ],
    words: &[
        b"<|im_end|>",
        b"<s>",
        b"<|begin|>",
        b"<0x41>",
        b" the",
        b"  ",
        b"\r\n",
        b"'ll",
        b"\xe2\x96\x81",
        b"\xcc\x81",
        b"\xf0\x9f\x98\x80",
        b"\0",
    ],
};

fn run(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    for tokenizer in TOKENIZERS.iter() {
        for (add_special, parse_special) in [(false, false), (false, true), (true, false), (true, true)] {
            let ids = tokenizer.encode(&text, add_special, parse_special);
            assert!(ids.iter().all(|&id| (id as usize) < tokenizer.vocab_len()));
            // SentencePiece puts a space after a special token, and U+2581 stands for a space.
            let is_plain = !ids.iter().any(|&id| tokenizer.is_special(id)) && !text.contains('\u{2581}');
            if is_plain {
                assert_eq!(tokenizer.decode(&ids, true), text.as_bytes(), "decoding gives another text");
            }
            assert_streams(tokenizer, &ids);
        }
    }
    // Pieces that are cut anywhere, too: tokens of a model need not make code points.
    let (rest, pieces) = crate::cut(data);
    assert_eq!(streamed(pieces), String::from_utf8_lossy(rest));
}

/// Token by token gives the text of the whole.
fn assert_streams(tokenizer: &Tokenizer, ids: &[u32]) {
    let pieces = || ids.iter().map(|&id| tokenizer.visible_piece(id));
    let whole: Vec<u8> = pieces().flatten().copied().collect();
    assert_eq!(streamed(pieces()), String::from_utf8_lossy(&whole));
}

fn streamed<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> String {
    let mut decoder = StreamDecoder::default();
    let mut text = String::new();
    for piece in pieces {
        decoder.push(piece, &mut text);
    }
    decoder.finish(&mut text);
    text
}
