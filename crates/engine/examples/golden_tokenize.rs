//! Compares a model's tokenizer with golden data, line by line:
//! `cargo run --release -p engine --example golden_tokenize -- MODEL.gguf MODEL_NAME tokenize.jsonl`.
//! Prints what differs and the speed; exits with 1 on any mismatch.

use std::error::Error;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use engine::gguf::Gguf;
use engine::tokenizer::{StreamDecoder, Tokenizer};
use serde_json::Value;

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, name, golden] = arguments.as_slice() else {
        return Err("usage: golden_tokenize MODEL.gguf MODEL_NAME tokenize.jsonl".into());
    };
    let start = Instant::now();
    let gguf = Gguf::open(Path::new(model))?;
    let opened = start.elapsed();
    let tokenizer = Tokenizer::from_gguf(&gguf)?;
    let loaded = start.elapsed() - opened;
    println!("{name}: file {opened:.1?}, {} tokens in {loaded:.1?}", tokenizer.vocab_len());

    let (mut lines, mut wrong, mut texts) = (0, 0, String::new());
    for line in std::fs::read_to_string(golden)?.lines() {
        let line: Value = serde_json::from_str(line)?;
        if line["model"] != name.as_str() {
            continue;
        }
        lines += 1;
        texts += line["text"].as_str().ok_or("no text")?;
        if let Err(difference) = compare(&tokenizer, &line) {
            wrong += 1;
            println!("{}: {difference}", line["text"]);
        }
    }
    println!("{name}: {lines} lines, {wrong} wrong");
    let megabyte = texts.repeat(1_000_000 / texts.len().max(1) + 1);
    let speed = |what: &str, text: &str| {
        let start = Instant::now();
        let tokens = tokenizer.encode(text, true, true).len();
        let seconds = start.elapsed().as_secs_f64();
        let megabytes = text.len() as f64 / 1e6;
        println!("  {what}: {tokens} tokens, {:.1} MB/s", megabytes / seconds);
    };
    speed("golden texts", &megabyte);
    for letter in ["a", " ", "\n", "<", "é"] {
        speed(&format!("{letter:?} repeated"), &letter.repeat(1_000_000));
    }
    Ok(if wrong == 0 && lines > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn compare(tokenizer: &Tokenizer, line: &Value) -> Result<(), Box<dyn Error>> {
    let text = line["text"].as_str().ok_or("no text")?;
    let flag = |key: &str| line[key].as_bool().ok_or("no flag");
    let expected: Vec<u32> = serde_json::from_value(line["ids"].clone())?;
    let ids = tokenizer.encode(text, flag("add_special")?, flag("parse_special")?);
    if ids != expected {
        return Err(format!("ids {ids:?}, expected {expected:?}").into());
    }
    let pieces: Vec<String> = serde_json::from_value(line["pieces_hex"].clone())?;
    for (&id, expected) in ids.iter().zip(&pieces) {
        if hex(tokenizer.piece(id)) != *expected {
            return Err(format!("piece {id} is {:02x?}, expected {expected}", tokenizer.piece(id)).into());
        }
    }
    for (key, show_special) in [("detok", true), ("detok_plain", false)] {
        let bytes = tokenizer.decode(&ids, show_special);
        let equal = match (&line[format!("{key}_hex")], &line[key]) {
            (Value::String(expected), _) => hex(&bytes) == *expected,
            (_, Value::String(expected)) => bytes == expected.as_bytes(),
            _ => true,
        };
        let mut streamed = String::new();
        let mut decoder = StreamDecoder::default();
        decoder.push(&bytes, &mut streamed);
        decoder.finish(&mut streamed);
        if !equal || streamed != String::from_utf8_lossy(&bytes) {
            return Err(format!("{key} is {streamed:?}, expected {}", line[key]).into());
        }
    }
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
