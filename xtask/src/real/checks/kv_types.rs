//! What quantized key-value caches cost: perplexity over a long context, beside that with an f16 cache.

use crate::real::report::{Line, Report};
use crate::real::rig::Rig;
use crate::real::{Check, golden};

pub const CHECK: Check =
    Check { name: "kv_types", about: "perplexity at 4096 tokens with q8 and q4 caches against f16", run };

/// How far each type may move perplexity, as a share of f16's.
const TYPES: &[(&str, f64)] = &[("q8", 0.001), ("q4", 0.01)];
/// One without biases of its keys, and one whose keys have large ones.
const MODELS: &[&str] = &["smollm2-135m", "qwen2.5-coder-0.5b"];
/// Tokens of a chunk; the second half of them is scored.
const CONTEXT: &str = "4096";
/// The text, prose of somewhat more than two chunks.
const TEXT: &str = "text_a.txt";

fn run(rig: &Rig, report: &mut Report) -> Result<(), String> {
    let chunks = rig.scope.pick("1", "1", "2");
    let models: Vec<&str> = rig.models.iter().copied().filter(|model| MODELS.contains(model)).collect();
    if models.is_empty() {
        report.line(Line::new("no model of this check's is asked for"));
    }
    for model in models {
        let f16 = perplexity(rig, (model, chunks), "f16")?;
        for &(kv_type, limit) in TYPES {
            let found = perplexity(rig, (model, chunks), kv_type)?;
            let line = Line::new(format!("{model}, {kv_type}, {chunks} chunks"));
            let line = line.note(format!("{found:.4}, f16 {f16:.4}"));
            report.line(line.at_most("|off|", (found / f16 - 1.0).abs(), limit));
        }
    }
    Ok(())
}

fn perplexity(rig: &Rig, (model, chunks): (&str, &str), kv_type: &str) -> Result<f64, String> {
    let file = rig.golden_path(TEXT);
    let arguments = ["perplexity", model, &file.to_string_lossy(), "--context", CONTEXT, "--chunks", chunks];
    let found = rig.json(&[&arguments[..], &["--kv-type", kv_type, "--json"]].concat())?;
    golden::number(&found, "perplexity")
}
