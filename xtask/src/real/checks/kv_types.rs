//! What quantized key-value caches cost: perplexity over a long context, beside that with a cache of floats.
//! Activations are exact, since the noise of int8 ones is larger than what an 8-bit cache does.

use crate::real::report::{Line, Report};
use crate::real::rig::Rig;
use crate::real::{Check, golden};

pub const CHECK: Check =
    Check { name: "kv_types", about: "perplexity at 4096 tokens with quantized caches against f32", run };

/// How far each type may move a model's perplexity, as a share; docs/memory.md tells what was measured. Qwen2.5 is there for its keys' large biases.
const COSTS: &[(&str, &[(&str, f64)])] = &[
    ("smollm2-135m", &[("q8", 0.001), ("k8v4", 0.005), ("q4", 0.01)]),
    ("gemma3-270m", &[("q8", 0.001), ("k8v4", 0.005), ("q4", 0.01)]),
    ("qwen2.5-coder-0.5b", &[("q8", 0.001), ("k8v4", 0.005), ("q4", 0.01)]),
];
/// Gone through unless everything is, as the quickest.
const QUICKEST: &[&str] = &["smollm2-135m"];
/// Tokens of the chunk; the second half of them is scored.
const CONTEXT: &str = "4096";
/// The text, prose.
const TEXT: &str = "text_a.txt";

fn run(rig: &Rig, report: &mut Report) -> Result<(), String> {
    let all: Vec<&str> = COSTS.iter().map(|(model, _)| *model).collect();
    let wanted = rig.scope.pick(QUICKEST, QUICKEST, &all);
    let asked_for = |model: &str| wanted.contains(&model) && rig.models.contains(&model);
    if !wanted.iter().any(|model| asked_for(model)) {
        report.line(Line::new("no model of this check's is asked for"));
    }
    for &(model, types) in COSTS.iter().filter(|(model, _)| asked_for(model)) {
        // f16 stands for f32 where activations are exact.
        let floats = perplexity(rig, model, "f16")?;
        for &(kv_type, limit) in types {
            let found = perplexity(rig, model, kv_type)?;
            let line = Line::new(format!("{model}, {kv_type}"));
            let line = line.note(format!("{found:.4}, f32 {floats:.4}"));
            report.line(line.at_most("|off|", (found / floats - 1.0).abs(), limit));
        }
    }
    Ok(())
}

fn perplexity(rig: &Rig, model: &str, kv_type: &str) -> Result<f64, String> {
    let file = rig.golden_path(TEXT);
    let file = file.to_string_lossy();
    let chunk = ["--context", CONTEXT, "--chunks", "1", "--exact", "--kv-type", kv_type, "--json"];
    let found = rig.json(&[&["perplexity", model, &file][..], &chunk].concat())?;
    golden::number(&found, "perplexity")
}
