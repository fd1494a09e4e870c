//! Invariant 5: once warm, the decode loop allocates nothing, and a decoder allocates what
//! [`Sizes`] says. A test binary of its own, with one test: the counting allocator counts whatever runs.

use std::alloc::System;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use engine::decoder::{Decoder, DecoderOptions, Logits, Sizes, SizesFor, Work};
use engine::model::{LoadOptions, Model};
use engine::sampling::{Proposal, Sampler, SamplingParams};
use engine::scheduler::{Job, Output, Priority, Scheduler, SchedulerLimits, Sink, SubmitError};
use kernels::attention::KvType;
use kernels::isa::Isa;
use kernels::pool::Pool;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Steps before counting: every buffer has its size, every thread its own.
const WARM_STEPS: usize = 5;
/// Steps that are counted: enough that a sequence takes several blocks of the cache.
const STEPS: usize = 100;
/// Rounds of steps, of which the best counts: a thread that found no task while the others warmed up
/// makes its buffers later, once, and the test harness allocates when it likes; what a step allocates shows in every
/// round.
const ROUNDS: usize = 4;

/// Allocations and reallocations of all threads while `body` runs.
fn allocations(body: impl FnOnce()) -> usize {
    let region = Region::new(ALLOCATOR);
    body();
    let change = region.change();
    change.allocations + change.reallocations
}

fn decoder(name: &str, exact: bool) -> Decoder {
    let pool = Arc::new(Pool::new(2));
    let path: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/tiny").join(name);
    let options = LoadOptions { exact, ..LoadOptions::default() };
    let model = Arc::new(Model::load(&path, options, &pool).unwrap());
    Decoder::new(model, pool, Isa::detect(), DecoderOptions::new(2, 2048)).unwrap()
}

/// Steps of a decoder and a sampler.
fn write(decoder: &mut Decoder, params: SamplingParams) -> usize {
    let prompt: Vec<u32> = (0..70).collect();
    let sequence = decoder.begin().unwrap();
    let mut sampler = Sampler::new(params, Isa::detect(), &prompt);
    let logits = decoder.forward(&[Work { sequence, tokens: &prompt, logits: Logits::Last }]).unwrap();
    let mut last = sampler.draw(logits, 0).id;
    let mut steps = |count: usize| {
        for _ in 0..count {
            let work = Work { sequence, tokens: &[last], logits: Logits::Last };
            last = sampler.draw(decoder.forward(&[work]).unwrap(), 0).id;
        }
    };
    steps(WARM_STEPS);
    let least = (0..ROUNDS).map(|_| allocations(|| steps(STEPS))).min();
    decoder.end(sequence);
    least.unwrap()
}

/// Drafts by a trimmed head, and verifying them.
fn speculate(params: SamplingParams) -> usize {
    const VOCABULARY: usize = 500;
    const TRIMMED: usize = 300;
    let target: Vec<f32> = (0..VOCABULARY).map(|id| (id * 37 % 101) as f32 / 20.0).collect();
    let prompt: Vec<u32> = (0..70).collect();
    let mut sampler = Sampler::new(params, Isa::detect(), &prompt);
    let mut proposal = Proposal::default();
    let mut steps = |count: usize, sharpness: f32| {
        let drafter: Vec<f32> = target[..TRIMMED].iter().map(|logit| logit * sharpness).collect();
        allocations(|| {
            for _ in 0..count {
                sampler.propose(&drafter, &[1, 2], &mut proposal);
                sampler.verify(&target, &proposal, 0);
            }
        })
    };
    // Sharp drafts first: filters leave more of the later ones.
    steps(WARM_STEPS, 2.0);
    (0..ROUNDS).map(|_| steps(STEPS, 1.0)).min().unwrap()
}

/// Counts the texts that it lets go.
struct Counter(Arc<AtomicUsize>);

impl Sink for Counter {
    fn send(&mut self, output: Output) {
        if matches!(output, Output::Text { ref text, .. } if !text.is_empty()) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
    fn refuse(&mut self, error: &SubmitError) {
        panic!("{error}");
    }
    fn is_closed(&self) -> bool {
        false
    }
}

/// Steps of a scheduler with two jobs: allocations, and texts that left.
fn schedule(decoder: Decoder) -> (usize, usize) {
    let limits = SchedulerLimits { running_max: 2, waiting_max: 2, kv_tokens: 2048 };
    let mut scheduler = Scheduler::new(decoder, Isa::detect(), limits);
    let texts = Arc::new(AtomicUsize::new(0));
    for temperature in [0.0, 1.0] {
        // The end of a generation is no step like the others: forbid it.
        let ends = (0..357).filter(|&id| scheduler.model().tokenizer().is_end_of_generation(id));
        scheduler.submit(Job {
            prompt: vec![1, 2, 3],
            max_tokens: Some(400),
            stop: Vec::new(),
            sampling: SamplingParams {
                temperature,
                top_p: 0.9,
                logit_bias: ends.map(|id| (id, -1e9)).collect(),
                ..SamplingParams::default()
            },
            top_logprobs: 0,
            client: None,
            priority: Priority::Interactive,
            speculative: true,
            reading: None,
            deadline: None,
            sink: Box::new(Counter(texts.clone())),
        });
    }
    (0..WARM_STEPS).for_each(|_| assert!(scheduler.step()));
    texts.store(0, Ordering::Relaxed);
    let count = allocations(|| (0..STEPS).for_each(|_| assert!(scheduler.step())));
    let load = scheduler.load();
    assert_eq!((load.waiting, load.running), (0, 2), "a job ended early");
    (count, texts.load(Ordering::Relaxed))
}

/// Bytes that a decoder allocates beside its pools when it is made and reads and writes as much as it
/// can, and what [`Sizes`] says.
fn held(name: &str, exact: bool, options: DecoderOptions) -> (u64, Sizes) {
    let pool = Arc::new(Pool::new(2));
    let path: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/tiny").join(name);
    let load = LoadOptions { exact, ..LoadOptions::default() };
    let model = Arc::new(Model::load(&path, load, &pool).unwrap());
    let planned = Model::load(&path, LoadOptions { exact: true, ..LoadOptions::default() }, &pool).unwrap();
    let asked = SizesFor { threads: 2, exact, context_tokens: usize::MAX };
    let sizes = Sizes::of(&planned, &options, asked);
    assert_eq!(sizes, Sizes::of(&model, &options, asked), "whatever the model was loaded for");
    // Quantized caches have a text read, for which the tokenizer makes itself ready once.
    drop(Decoder::new(model.clone(), pool.clone(), Isa::detect(), options).unwrap());
    let region = Region::new(ALLOCATOR);
    let mut decoder = Decoder::new(model, pool, Isa::detect(), options).unwrap();
    let sequences: Vec<_> = (0..options.sequences).map(|_| decoder.begin().unwrap()).collect();
    let longest = options.kv_tokens.min(planned.spec().context_tokens);
    let tokens = options.batch_tokens.min(longest - 8) as u32;
    let prompt: Vec<u32> = (0..tokens).map(|id| id % 300).collect();
    decoder.forward(&[Work { sequence: sequences[0], tokens: &prompt, logits: Logits::Last }]).unwrap();
    let one = |&sequence| Work { sequence, tokens: &[1], logits: Logits::Last };
    for _ in 0..3 {
        decoder.forward(&sequences.iter().map(one).collect::<Vec<_>>()).unwrap();
    }
    let change = region.change();
    (change.bytes_allocated as u64 - change.bytes_deallocated as u64, sizes)
}

/// Lists of a pass and of the cache, and the structures themselves: what the arithmetic leaves out.
const LISTS_BYTES: u64 = 16 << 10;

fn decoders_hold_what_the_arithmetic_says() {
    for name in ["tiny-qwen2.gguf", "tiny-gemma3.gguf", "tiny-llama3-gqa4.gguf", "tiny-phi4-longrope.gguf"] {
        for (sequences, kv_tokens, batch_tokens) in [(1, 512, 64), (4, 4096, 512), (32, 2048, 100)] {
            for (exact, kv_type) in [(false, KvType::F16), (true, KvType::F16), (false, KvType::Q4)] {
                let options =
                    DecoderOptions { batch_tokens, kv_type, ..DecoderOptions::new(sequences, kv_tokens) };
                let (held, sizes) = held(name, exact, options);
                let told = sizes.working_bytes;
                let case = format!("{name}, {options:?}, exact {exact}: {held} bytes, told {told}");
                assert!(held <= told + LISTS_BYTES, "{case}");
                assert!(held >= told - told / 20, "{case}");
            }
        }
    }
}

#[test]
fn warm_decode_steps_allocate_nothing_and_decoders_hold_what_is_told() {
    warm_decode_steps_allocate_nothing();
    decoders_hold_what_the_arithmetic_says();
}

fn warm_decode_steps_allocate_nothing() {
    let greedy = SamplingParams::default();
    let top_p = SamplingParams { temperature: 0.8, top_p: 0.9, ..greedy.clone() };
    let penalized = SamplingParams { repetition_penalty: 1.1, frequency_penalty: 0.2, ..top_p.clone() };
    for params in [&greedy, &top_p, &penalized] {
        assert_eq!(speculate(params.clone()), 0, "{params:?}");
    }
    for (name, exact) in [("tiny-qwen2.gguf", false), ("tiny-gemma3.gguf", false), ("tiny-qwen2.gguf", true)]
    {
        for params in [&greedy, &top_p, &penalized] {
            let count = write(&mut decoder(name, exact), params.clone());
            assert_eq!(count, 0, "{name}, exact {exact}, {params:?}");
        }
    }
    // What leaves is the reader's: each text is one allocation, or two where it grew.
    let (count, texts) = schedule(decoder("tiny-qwen2.gguf", false));
    assert!(texts > STEPS, "only {texts} texts of two jobs");
    assert!(count <= 2 * texts, "{count} allocations for {texts} texts");
}
