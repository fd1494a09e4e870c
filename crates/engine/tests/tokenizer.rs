//! Tokenizers: exact on the golden data of the tiny models, an error for every wrong vocabulary,
//! and no panic on damaged ones.

#[allow(dead_code, reason = "shared by several test crates")]
mod gguf_writer;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use engine::gguf::{Gguf, GgufError};
use engine::tokenizer::{StreamDecoder, TOKEN_BYTES_MAX, Tokenizer, TokenizerError};
use gguf_writer::{ARRAY, BOOL, F32, I32, U32, Writer, array};
use proptest::prelude::*;
use serde_json::Value;

fn tiny(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/tiny").join(name)
}

fn load(model: &str) -> Tokenizer {
    Tokenizer::from_gguf(&Gguf::open(&tiny(&format!("{model}.gguf"))).unwrap()).unwrap()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn equals_the_golden_tokens() {
    let mut tokenizers = HashMap::new();
    let mut lines = 0;
    for line in std::fs::read_to_string(tiny("tokenize.jsonl")).unwrap().lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        let model = line["model"].as_str().unwrap().to_owned();
        let tokenizer = tokenizers.entry(model.clone()).or_insert_with(|| load(&model));
        let text = line["text"].as_str().unwrap();
        let flag = |key: &str| line[key].as_bool().unwrap();
        let ids = tokenizer.encode(text, flag("add_special"), flag("parse_special"));
        let expected: Vec<u32> = serde_json::from_value(line["ids"].clone()).unwrap();
        assert_eq!(ids, expected, "{model}: {text:?}");
        let pieces: Vec<String> = ids.iter().map(|&id| hex(tokenizer.piece(id))).collect();
        let expected: Vec<String> = serde_json::from_value(line["pieces_hex"].clone()).unwrap();
        assert_eq!(pieces, expected, "{model}: {text:?}");
        lines += 1;
    }
    assert_eq!((lines, tokenizers.len()), (130, 13));
}

#[test]
fn knows_the_roles_of_tokens() {
    let tokenizer = load("tiny-llama3-gqa4");
    let text = |id: Option<u32>| String::from_utf8(tokenizer.piece(id.unwrap()).to_vec()).unwrap();
    assert_eq!(text(tokenizer.bos()), "<|begin|>");
    assert_eq!(text(tokenizer.eos()), "<|end|>");
    assert_eq!(text(tokenizer.eot()), "<|im_end|>");
    let ends: Vec<_> = tokenizer.end_of_generation().iter().map(|&id| text(Some(id))).collect();
    assert_eq!(ends, ["<|end|>", "<|im_end|>"]);
    assert!(tokenizer.adds_bos() && !tokenizer.adds_eos());
    assert!(tokenizer.is_special(tokenizer.bos().unwrap()));
    assert!(!tokenizer.is_special(0) && !tokenizer.is_end_of_generation(0));
    let beyond = tokenizer.vocab_len() as u32;
    assert!(tokenizer.piece(beyond).is_empty() && !tokenizer.is_special(beyond));
    let ids = tokenizer.encode("a<|im_end|>b", false, true);
    assert_eq!(tokenizer.decode(&ids, true), b"a<|im_end|>b");
    assert_eq!(tokenizer.decode(&ids, false), b"ab");
    assert!(!tokenizer.encode("a<|im_end|>b", false, false).contains(&tokenizer.eot().unwrap()));
}

#[test]
fn long_repetitions_take_linear_time() {
    for model in ["tiny-llama-mha", "tiny-qwen2", "tiny-phi4-longrope"] {
        let tokenizer = load(model);
        for text in [" ", "a", "\n", "<", "é", "the ", "1"] {
            let long = text.repeat(200_000 / text.len());
            let ids = tokenizer.encode(&long, false, true);
            assert_eq!(tokenizer.decode(&ids, true), long.as_bytes(), "{model} {text:?}");
        }
    }
}

proptest! {
    /// Byte-level vocabularies hold every byte, and SentencePiece falls back to bytes.
    #[test]
    fn decoding_gives_the_text_back(
        text in r"(\PC{0,6}|[ \n\t]{0,4}|<\|im_end\|>|the |[0-9]{1,6}|\u{0}|[😀é你\u{301}]{1,3}){0,8}",
        parse_special in any::<bool>(),
    ) {
        for model in ["tiny-llama-mha", "tiny-gemma3-linear", "tiny-llama3-gqa4", "tiny-phi4-longrope"] {
            static LOADED: std::sync::OnceLock<HashMap<&str, Tokenizer>> = std::sync::OnceLock::new();
            let models = ["tiny-llama-mha", "tiny-gemma3-linear", "tiny-llama3-gqa4", "tiny-phi4-longrope"];
            let tokenizer = &LOADED.get_or_init(|| models.map(|m| (m, load(m))).into())[model];
            // U+2581 stands for a space in SentencePiece vocabularies.
            let text = text.replace('▁', "_");
            let ids = tokenizer.encode(&text, false, parse_special);
            prop_assert_eq!(tokenizer.decode(&ids, true), text.as_bytes(), "{}", model);
            let mut streamed = String::new();
            let mut decoder = StreamDecoder::default();
            let mut bytes = Vec::new();
            for &id in &tokenizer.encode(&text, true, parse_special) {
                decoder.push(tokenizer.visible_piece(id), &mut streamed);
                bytes.extend_from_slice(tokenizer.visible_piece(id));
            }
            decoder.finish(&mut streamed);
            let whole = String::from_utf8_lossy(&bytes);
            prop_assert_eq!(streamed, whole, "{}", model);
        }
    }
}

fn f32s(values: &[f32]) -> Vec<u8> {
    array(F32, &values.iter().map(|value| value.to_le_bytes().to_vec()).collect::<Vec<_>>())
}

fn types(values: &[i32]) -> Vec<u8> {
    array(I32, &values.iter().map(|value| value.to_le_bytes().to_vec()).collect::<Vec<_>>())
}

fn read(writer: &Writer) -> Result<Tokenizer, TokenizerError> {
    Tokenizer::from_gguf(&Gguf::from_bytes(writer.finish()).unwrap())
}

fn bpe(tokens: &[&str], merges: &[&str]) -> Writer {
    Writer::default()
        .text("tokenizer.ggml.model", "gpt2")
        .text("tokenizer.ggml.pre", "gpt-2")
        .texts("tokenizer.ggml.tokens", tokens)
        .texts("tokenizer.ggml.merges", merges)
}

fn spm(tokens: &[&str]) -> Writer {
    Writer::default().text("tokenizer.ggml.model", "llama").texts("tokenizer.ggml.tokens", tokens)
}

macro_rules! assert_error {
    ($writer:expr, $pattern:pat) => {{
        let error = read(&$writer).expect_err("the vocabulary is wrong");
        assert!(matches!(&error, $pattern), "{error:?}: {error}");
    }};
}

#[test]
fn each_error_has_its_variant() {
    use TokenizerError as E;
    let model = |model: &str| Writer::default().text("tokenizer.ggml.model", model);
    assert_error!(Writer::default(), E::Gguf(GgufError::MissingKey { .. }));
    assert_error!(model("bert"), E::UnknownModel { .. });
    assert_error!(model("gpt2").text("tokenizer.ggml.pre", "brand-new"), E::UnknownPre { .. });
    assert_error!(model("gpt2"), E::Gguf(GgufError::MissingKey { .. }));
    assert_error!(model("llama"), E::Gguf(GgufError::MissingKey { .. }));
    assert_error!(spm(&[]), E::Empty);
    assert_error!(spm(&["a", "b", "a"]), E::DuplicateToken { first: 0, second: 2, .. });
    assert_error!(spm(&[&"a".repeat(TOKEN_BYTES_MAX + 1)]), E::OverLimit { .. });
    let two = || bpe(&["a", "b"], &[]);
    let kinds = |kinds: &[i32]| two().entry("tokenizer.ggml.token_type", ARRAY, types(kinds));
    assert_error!(kinds(&[1]), E::LengthMismatch { found: 1, tokens: 2, .. });
    assert_error!(kinds(&[1, 7]), E::UnknownTokenType { id: 1, found: 7 });
    assert_error!(kinds(&[1, 6]), E::BadByteToken { id: 1, .. });
    assert_error!(two().text("tokenizer.ggml.token_type", "x"), E::Gguf(GgufError::WrongType { .. }));
    assert_error!(spm(&["<unk>", "a"]), E::MissingByteToken { byte: 0 });
    let whole = || spm(&["<unk>", "a"]).entry("tokenizer.ggml.unknown_token_id", U32, [0; 4]);
    assert_eq!(read(&whole()).unwrap().encode("xa", false, false), [0, 0, 0, 0, 1]);
    let scores = |scores: &[f32]| whole().entry("tokenizer.ggml.scores", ARRAY, f32s(scores));
    assert_error!(scores(&[0.0]), E::LengthMismatch { found: 1, .. });
    assert_error!(scores(&[0.0, f32::NAN]), E::BadScore { id: 1 });
    let add_eos = whole().entry("tokenizer.ggml.add_eos_token", BOOL, [1]);
    assert_error!(add_eos, E::MissingSpecial { key: "tokenizer.ggml.eos_token_id" });
    assert_error!(bpe(&["a"], &["ab"]), E::BadMerge { index: 0, .. });
    assert_error!(bpe(&["a"], &["a b", " "]), E::BadMerge { index: 1, .. });
    let id = |key: &str, id: u32| two().entry(key, U32, id.to_le_bytes());
    assert_error!(id("tokenizer.ggml.bos_token_id", 2), E::SpecialOutOfRange { id: 2, tokens: 2, .. });
    assert_error!(id("tokenizer.ggml.eot_token_id", 9), E::SpecialOutOfRange { .. });
    assert_error!(two().entry("tokenizer.ggml.add_bos_token", BOOL, [1]), E::MissingSpecial { .. });
}

#[test]
fn merges_whose_parts_are_no_tokens_still_work() {
    // "ab" is no token, but a step on the way to "abc"; "b" alone falls away like in llama.cpp.
    let tokenizer = read(&bpe(&["a", "c", "abc"], &["a b", "ab c"])).unwrap();
    assert_eq!(tokenizer.encode("abc", false, false), [2]);
    assert_eq!(tokenizer.encode("ab", false, false), [0]);
    assert_eq!(tokenizer.encode("bca", false, false), [1, 0]);
}

#[test]
fn no_damaged_vocabulary_panics() {
    let mut state = 7_u64;
    let mut next = move |bound: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % bound
    };
    let (mut accepted, mut refused) = (0, 0);
    for model in ["tiny-llama-mha", "tiny-qwen2", "tiny-llama3-gqa4"] {
        let whole = std::fs::read(tiny(&format!("{model}.gguf"))).unwrap();
        let gguf = Gguf::from_bytes(whole.clone()).unwrap();
        let head = gguf.tensors().map(|tensor| tensor.byte_range().start).min().unwrap();
        for _ in 0..1_000 {
            let mut bytes = whole.clone();
            for _ in 0..=next(3) {
                bytes[64 + next(head - 64)] = next(256) as u8;
            }
            let Ok(gguf) = Gguf::from_bytes(bytes) else { continue };
            match Tokenizer::from_gguf(&gguf) {
                Ok(tokenizer) => {
                    let ids = tokenizer.encode("Hello  wörld\n12345 <|im_end|></s> 😀", true, true);
                    assert!(ids.iter().all(|&id| (id as usize) < tokenizer.vocab_len()));
                    tokenizer.decode(&ids, true);
                    accepted += 1;
                }
                Err(error) => {
                    assert!(!error.to_string().is_empty());
                    refused += 1;
                }
            }
        }
    }
    assert!(accepted > 50 && refused > 50, "{accepted} accepted, {refused} refused");
}
