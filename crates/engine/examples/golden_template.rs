//! Compares a model file's chat template with golden data, line by line:
//! `cargo run --release -p engine --example golden_template -- MODEL.gguf MODEL_NAME chat_template.jsonl`.
//! The rendered text is tokenized and compared too. Exits with 1 on any mismatch.

use std::error::Error;
use std::path::Path;
use std::process::ExitCode;

use engine::gguf::Gguf;
use engine::template::{ChatTemplate, RenderInput};
use engine::tokenizer::Tokenizer;
use serde_json::Value;

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, name, golden] = arguments.as_slice() else {
        return Err("usage: golden_template MODEL.gguf MODEL_NAME chat_template.jsonl".into());
    };
    let gguf = Gguf::open(Path::new(model))?;
    let tokenizer = Tokenizer::from_gguf(&gguf)?;
    let template = ChatTemplate::from_gguf(&gguf)?.ok_or("the file has no chat template")?;
    let token_text = |id: Option<u32>| id.map(|id| String::from_utf8_lossy(tokenizer.piece(id)).into_owned());
    let (bos_token, eos_token) =
        (token_text(tokenizer.bos()).unwrap_or_default(), token_text(tokenizer.eos()).unwrap_or_default());

    let (mut lines, mut wrong) = (0, 0);
    for line in std::fs::read_to_string(golden)?.lines() {
        let line: Value = serde_json::from_str(line)?;
        if line["model"] != name.as_str() {
            continue;
        }
        lines += 1;
        let rendered = template.render(&RenderInput {
            messages: &line["messages"],
            tools: Some(&line["tools"]).filter(|tools| !tools.is_null()),
            add_generation_prompt: line["add_generation_prompt"].as_bool().ok_or("no flag")?,
            bos_token: &bos_token,
            eos_token: &eos_token,
            now_unix_s: 0,
        })?;
        let ids = tokenizer.encode(&rendered, false, true);
        let expected: Vec<u32> = serde_json::from_value(line["ids"].clone())?;
        if line["rendered"] != rendered.as_str() || ids != expected {
            wrong += 1;
            println!(
                "case {}: {rendered:?} {ids:?}, expected {} {expected:?}",
                line["case"], line["rendered"]
            );
        }
    }
    println!("{name}: {lines} lines, {wrong} wrong");
    Ok(if wrong == 0 && lines > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
