//! What a request costs besides the model: tokens of a text, a chat template, drawing a token.
//! `cargo bench -p engine` runs all.
//!
//! The vocabularies are the tiny ones of `tests/golden`: real ones merge more and look up slower, so
//! read these figures as changes, not as speeds.

use std::fs;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput};
use engine::gguf::Gguf;
use engine::sampling::{Sampler, SamplingParams};
use engine::template::{ChatTemplate, RenderInput};
use engine::tokenizer::Tokenizer;
use kernels::isa::Isa;
use serde_json::{Value, json};

/// Logits of a large vocabulary.
const VOCABULARY: usize = 150_000;
/// Messages of a chat.
const MESSAGES: [usize; 2] = [2, 40];

const CHATML: &str = "{%- for message in messages %}\
    {{- '<|im_start|>' + message['role'] + '\\n' + message['content'] | trim + '<|im_end|>\\n' }}\
    {%- endfor %}{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{%- endif %}";

fn main() {
    let mut criterion = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .configure_from_args();
    encoding(&mut criterion);
    rendering(&mut criterion);
    drawing(&mut criterion);
    criterion.final_summary();
}

fn golden(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden").join(path)
}

fn encoding(criterion: &mut Criterion) {
    let text = fs::read_to_string(golden("text_a.txt")).expect("the golden text is there");
    let mut group = criterion.benchmark_group("encode");
    group.throughput(Throughput::Bytes(text.len() as u64));
    for (algorithm, model) in [("SentencePiece", "tiny-llama-mha"), ("byte-level BPE", "tiny-llama3-gqa4")] {
        let file = Gguf::open(&golden(&format!("tiny/{model}.gguf"))).expect("the golden file opens");
        let tokenizer = Tokenizer::from_gguf(&file).expect("the golden file holds a vocabulary");
        group.bench_function(algorithm, |bencher| {
            bencher.iter(|| tokenizer.encode(black_box(&text), true, false));
        });
    }
    group.finish();
}

fn rendering(criterion: &mut Criterion) {
    let template = ChatTemplate::parse(CHATML).expect("the template parses");
    let mut group = criterion.benchmark_group("render a chat");
    for count in MESSAGES {
        let role = |index: usize| if index.is_multiple_of(2) { "user" } else { "assistant" };
        let messages: Vec<Value> = (0..count)
            .map(|index| json!({"role": role(index), "content": "What is the capital of France? ".repeat(8)}))
            .collect();
        let messages = Value::from(messages);
        let input = RenderInput {
            messages: &messages,
            tools: None,
            add_generation_prompt: true,
            bos_token: "<s>",
            eos_token: "</s>",
            now_unix_s: 0,
        };
        group.throughput(Throughput::Elements(count as u64));
        group.bench_function(BenchmarkId::new("messages", count), |bencher| {
            bencher.iter(|| template.render(black_box(&input)));
        });
    }
    group.finish();
}

fn drawing(criterion: &mut Criterion) {
    // Falls as the likeliest tokens of a language model do, in scattered order.
    let logits: Vec<f32> =
        (0..VOCABULARY).map(|id| -2.0 * ((id * 7_919 % VOCABULARY + 1) as f32).ln()).collect();
    let greedy = SamplingParams::default;
    let mut group = criterion.benchmark_group(format!("draw of {VOCABULARY}"));
    for (name, params) in [
        ("greedy", greedy()),
        ("temperature", SamplingParams { temperature: 0.8, ..greedy() }),
        ("top-k and top-p", SamplingParams { temperature: 0.8, top_k: 40, top_p: 0.95, ..greedy() }),
        ("top-p", SamplingParams { temperature: 0.8, top_p: 0.95, ..greedy() }),
        ("repetition penalty", SamplingParams { repetition_penalty: 1.1, ..greedy() }),
    ] {
        let mut sampler = Sampler::new(params, Isa::detect(), &[1, 2, 3]);
        group.bench_function(name, |bencher| bencher.iter(|| sampler.draw(black_box(&logits), 0)));
    }
    group.finish();
}
