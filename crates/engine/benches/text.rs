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
use engine::sampling::{Proposal, Sampler, SamplingParams};
use engine::speculation::suffix::SuffixIndex;
use engine::template::{ChatTemplate, RenderInput};
use engine::tokenizer::Tokenizer;
use kernels::isa::Isa;
use serde_json::{Value, json};

/// Logits of a large vocabulary.
const VOCABULARY: usize = 150_000;
/// Of these, the drafter's.
const DRAFTER_VOCABULARY: usize = 32_000;
/// Tokens of a text that drafts are copied from.
const TEXT: usize = 8_192;
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
    speculating(&mut criterion);
    looking_up(&mut criterion);
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

/// Falls as the likeliest tokens of a language model do, in scattered order.
fn logits() -> Vec<f32> {
    (0..VOCABULARY).map(|id| -2.0 * ((id * 7_919 % VOCABULARY + 1) as f32).ln()).collect()
}

fn ways_of_drawing() -> [(&'static str, SamplingParams); 5] {
    let greedy = SamplingParams::default;
    [
        ("greedy", greedy()),
        ("temperature", SamplingParams { temperature: 0.8, ..greedy() }),
        ("top-k and top-p", SamplingParams { temperature: 0.8, top_k: 40, top_p: 0.95, ..greedy() }),
        ("top-p", SamplingParams { temperature: 0.8, top_p: 0.95, ..greedy() }),
        ("repetition penalty", SamplingParams { repetition_penalty: 1.1, ..greedy() }),
    ]
}

fn drawing(criterion: &mut Criterion) {
    let logits = logits();
    let mut group = criterion.benchmark_group(format!("draw of {VOCABULARY}"));
    for (name, params) in ways_of_drawing() {
        let mut sampler = Sampler::new(params, Isa::detect(), &[1, 2, 3]);
        group.bench_function(name, |bencher| bencher.iter(|| sampler.draw(black_box(&logits), 0)));
    }
    group.finish();
}

fn speculating(criterion: &mut Criterion) {
    let target = logits();
    let drafter = &target[..DRAFTER_VOCABULARY];
    // Likes what the target hardly gives a chance, so that its drafts are rejected.
    let contrary: Vec<f32> = drafter.iter().map(|logit| -24.0 - logit).collect();
    let mut group = criterion.benchmark_group(format!("propose of {DRAFTER_VOCABULARY}"));
    for (name, params) in ways_of_drawing() {
        let mut sampler = Sampler::new(params, Isa::detect(), &[1, 2, 3]);
        let mut proposal = Proposal::default();
        group.bench_function(name, |bencher| {
            bencher.iter(|| sampler.propose(black_box(drafter), &[4, 5], &mut proposal));
        });
    }
    group.finish();
    let mut group = criterion.benchmark_group(format!("verify of {VOCABULARY}"));
    for (name, params) in ways_of_drawing() {
        for (whose, logits) in [("shared", drafter), ("rejected", &contrary)] {
            let mut sampler = Sampler::new(params.clone(), Isa::detect(), &[1, 2, 3]);
            let mut proposal = Proposal::default();
            sampler.propose(logits, &[], &mut proposal);
            group.bench_function(BenchmarkId::new(name, whose), |bencher| {
                bencher.iter(|| sampler.verify(black_box(&target), &proposal, 0));
            });
        }
    }
    group.finish();
}

fn looking_up(criterion: &mut Criterion) {
    // Repeats itself now and then, mostly in few tokens.
    let text: Vec<u32> = (0..TEXT as u32).map(|at| at.wrapping_mul(at) / 3 % 977 % (at % 61 + 2)).collect();
    let mut group = criterion.benchmark_group("look up");
    group.throughput(Throughput::Elements(TEXT as u64));
    group.bench_function("take a text in", |bencher| {
        bencher.iter(|| {
            let mut index = SuffixIndex::with_room(TEXT);
            index.extend(black_box(&text));
            index
        });
    });
    group.bench_function("take it in token by token and draft 8", |bencher| {
        let mut draft = Vec::new();
        bencher.iter(|| {
            let mut index = SuffixIndex::with_room(TEXT);
            for token in black_box(&text) {
                index.extend(&[*token]);
                draft.clear();
                if let Some(found) = index.find() {
                    index.continuation(found, &[], 8, &mut draft);
                }
            }
            index
        });
    });
    group.finish();
}
