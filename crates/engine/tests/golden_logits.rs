//! The tiny models' log-probabilities against llama.cpp's: the exact path against its F32 run, the
//! fast path against the same within what quantized activations cost, and both independent of batching.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use engine::decoder::{Decoder, DecoderOptions, Logits, Work};
use engine::model::{LoadOptions, Model};
use engine::score::score;
use kernels::attention::{KvType, KvTypeError};
use kernels::isa::Isa;
use kernels::pool::Pool;
use serde_json::Value;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden").join(name)
}

fn lines(name: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(golden(name)).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn ids(line: &Value) -> Vec<u32> {
    line["ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

fn decoder(model: &str, context: Option<u32>, exact: bool, isa: Isa) -> Decoder {
    let options = LoadOptions { context_tokens: context, exact, cache: None, draft_vocabulary: None };
    typed_decoder((model, options), KvType::F16, isa).unwrap()
}

fn typed_decoder(
    (model, options): (&str, LoadOptions),
    kv_type: KvType,
    isa: Isa,
) -> Result<Decoder, KvTypeError> {
    let pool = Arc::new(Pool::new(2));
    let path = golden("tiny").join(format!("{}.gguf", model.trim_end_matches(".gguf")));
    let model = Model::load(&path, options, &pool).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let options = DecoderOptions { kv_type, batch_tokens: 256, ..DecoderOptions::new(4, 4096) };
    Decoder::new(Arc::new(model), pool, isa, options)
}

/// Differences of log-probabilities of one golden line, positions from `first` on.
fn differences(decoder: &mut Decoder, line: &Value, first: usize) -> Vec<f64> {
    let ids = ids(line);
    let vocabulary = decoder.model().vocabulary();
    let scored = score(decoder, &ids, vocabulary).unwrap();
    let mut found = Vec::new();
    let positions = line["positions"].as_array().unwrap();
    for (index, position) in positions.iter().enumerate() {
        let position = position.as_u64().unwrap() as usize;
        if position < first {
            continue;
        }
        let got: BTreeMap<u32, f64> = scored[position].top.iter().copied().collect();
        let top = line["top_ids"][index].as_array().unwrap().iter();
        for (id, logprob) in top.zip(line["top_logprobs"][index].as_array().unwrap()) {
            found.push((got[&(id.as_u64().unwrap() as u32)] - logprob.as_f64().unwrap()).abs());
        }
    }
    found
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

fn highest(values: &[f64]) -> f64 {
    values.iter().copied().fold(0.0, f64::max)
}

#[test]
fn the_exact_path_gives_the_exact_answer() {
    for line in lines("tiny/logits_f32.jsonl") {
        let model = line["model"].as_str().unwrap();
        let context = line["n_ctx"].as_u64().unwrap() as u32;
        let mut decoder = decoder(model, Some(context), true, Isa::detect());
        let found = differences(&mut decoder, &line, 0);
        // llama.cpp takes Gemma's GELU from an f16 table.
        let (mean_max, max) = if model.contains("gemma") { (0.005, 0.05) } else { (0.0001, 0.001) };
        assert!(mean(&found) <= mean_max, "{model} {}: mean {}", line["seq"], mean(&found));
        assert!(highest(&found) <= max, "{model} {}: max {}", line["seq"], highest(&found));
    }
}

#[test]
fn the_fast_path_is_as_near_as_quantized_activations_allow() {
    let variation: Value =
        serde_json::from_str(&std::fs::read_to_string(golden("self_variation.json")).unwrap()).unwrap();
    let mut by_model: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for line in lines("tiny/logits_f32.jsonl") {
        let model = line["model"].as_str().unwrap();
        let context = line["n_ctx"].as_u64().unwrap() as u32;
        let mut decoder = decoder(model, Some(context), false, Isa::detect());
        by_model.entry(model.to_owned()).or_default().extend(differences(&mut decoder, &line, 1));
    }
    for (model, found) in by_model {
        let bound = llama_cpp_distance(&variation, &model) * 1.5;
        assert!(mean(&found) <= bound, "{model}: mean {} exceeds {bound}", mean(&found));
    }
}

/// llama.cpp's own mean distance from the exact answer, for a tiny file.
fn llama_cpp_distance(variation: &Value, model: &str) -> f64 {
    let entry = &variation["tiny"][model]["cpu_vs_f32"];
    let mean = entry["mean_abs_dlogprob"].as_f64().or_else(|| entry["mean"].as_f64());
    // F32 models differ by rounding only; the key-value cache's f16 allows tolerance 1's 0.008.
    mean.unwrap_or_else(|| panic!("{model}: no cpu_vs_f32 in {entry}")).max(0.008)
}

#[test]
fn logits_do_not_depend_on_batching_chunking_threads_or_instruction_set() {
    for model in ["tiny-qwen2", "tiny-gemma3", "tiny-llama3-gqa4", "tiny-phi4-longrope"] {
        for kv_type in KvType::choices() {
            logits_depend_on_the_tokens_only(model, kv_type);
        }
    }
}

fn logits_depend_on_the_tokens_only(model: &str, kv_type: KvType) {
    let new = |isa| typed_decoder((model, LoadOptions::default()), kv_type, isa).unwrap();
    let tokens: Vec<u32> = (0..150u32).map(|i| (i * 7919 + 13) % 330).collect();
    let mut reference = new(Isa::detect());
    let sequence = reference.begin().unwrap();
    let work = Work { sequence, tokens: &tokens, logits: Logits::All };
    let whole = reference.forward(&[work]).unwrap().to_vec();
    let vocabulary = reference.model().vocabulary();
    for isa in Isa::available() {
        let mut decoder = new(isa);
        let (main, other) = (decoder.begin().unwrap(), decoder.begin().unwrap());
        let mut position = 0;
        for chunk in [1usize, 2, 1, 5, 64, 3, 70, 4] {
            let tokens = &tokens[position..position + chunk];
            let works = [
                Work { sequence: other, tokens: &[5, 9, 11][..1 + chunk % 3], logits: Logits::None },
                Work { sequence: main, tokens, logits: Logits::All },
            ];
            let logits = decoder.forward(&works).unwrap();
            let expected = &whole[position * vocabulary..(position + chunk) * vocabulary];
            assert!(logits == expected, "{model} {kv_type:?} on {isa:?}: differs at {position}+{chunk}");
            position += chunk;
        }
    }
}

/// What the quantized caches alone move the log-probabilities by: activations are exact. (Random weights feel
/// it much; the bounds are what is measured, and a fifth.)
#[test]
fn quantized_caches_stay_near_the_exact_answer() {
    for (kv_type, mean_max) in [(KvType::Q8, 0.04), (KvType::K8V4, 0.09), (KvType::Q4, 0.13)] {
        let mut found = Vec::new();
        for line in lines("tiny/logits_f32.jsonl") {
            let model = line["model"].as_str().unwrap();
            let context_tokens = Some(line["n_ctx"].as_u64().unwrap() as u32);
            let options = LoadOptions { context_tokens, exact: true, cache: None, draft_vocabulary: None };
            if let Ok(mut decoder) = typed_decoder((model, options), kv_type, Isa::detect()) {
                found.extend(differences(&mut decoder, &line, 1));
            }
        }
        assert!(mean(&found) <= mean_max, "{kv_type:?}: mean {}", mean(&found));
    }
}

#[test]
fn a_cache_that_does_not_suit_the_heads_is_refused() {
    for kv_type in [KvType::Q8, KvType::K8V4, KvType::Q4] {
        let model = ("tiny-llama-mha", LoadOptions::default());
        let error = typed_decoder(model, kv_type, Isa::detect()).unwrap_err();
        assert_eq!(Err(error), kv_type.check(16));
    }
}
