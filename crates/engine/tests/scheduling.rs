//! The scheduler on tiny models: batching changes no token, limits hold, cancelled jobs leave nothing.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use engine::decoder::{Decoder, DecoderOptions, Logits, Work};
use engine::model::{LoadOptions, Model};
use engine::sampling::SamplingParams;
use engine::scheduler::{Finished, Job, Output, Scheduler, SchedulerLimits, Sink, StopReason, SubmitError};
use kernels::isa::Isa;
use kernels::pool::Pool;

fn model(name: &str, pool: &Pool) -> Arc<Model> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/tiny").join(name);
    Arc::new(Model::load(&path, LoadOptions::default(), pool).unwrap())
}

fn decoder(name: &str) -> Decoder {
    let pool = Arc::new(Pool::new(2));
    let options = DecoderOptions::new(3, 1024);
    Decoder::new(model(name, &pool), pool, Isa::detect(), options).unwrap()
}

fn scheduler(name: &str) -> Scheduler {
    let limits = SchedulerLimits { running_max: 3, waiting_max: 4, kv_tokens: 1024 };
    Scheduler::new(decoder(name), Isa::detect(), limits)
}

/// Keeps everything; closes when told to.
#[derive(Clone, Default)]
struct Recorder {
    outputs: Arc<Mutex<Vec<Output>>>,
    refusals: Arc<Mutex<Vec<SubmitError>>>,
    closed: Arc<AtomicBool>,
}

impl Sink for Recorder {
    fn send(&mut self, output: Output) {
        self.outputs.lock().unwrap().push(output);
    }
    fn refuse(&mut self, error: &SubmitError) {
        self.refusals.lock().unwrap().push(error.clone());
    }
    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }
}

impl Recorder {
    fn ids(&self) -> Vec<u32> {
        let outputs = self.outputs.lock().unwrap();
        outputs
            .iter()
            .filter_map(|o| match o {
                Output::Text { token: Some(token), .. } => Some(token.id),
                _ => None,
            })
            .collect()
    }
    fn text(&self) -> String {
        let outputs = self.outputs.lock().unwrap();
        outputs
            .iter()
            .filter_map(|o| match o {
                Output::Text { text, .. } => Some(text.as_str()),
                _ => None,
            })
            .collect()
    }
    fn finished(&self) -> Option<Finished> {
        match self.outputs.lock().unwrap().last() {
            Some(Output::Finished(finished)) => Some(finished.clone()),
            _ => None,
        }
    }
}

fn job(prompt: &[u32], max_tokens: usize, sink: &Recorder) -> Job {
    Job {
        prompt: prompt.to_vec(),
        max_tokens: Some(max_tokens),
        stop: Vec::new(),
        sampling: SamplingParams::default(),
        top_logprobs: 0,
        sink: Box::new(sink.clone()),
    }
}

fn finish(scheduler: &mut Scheduler) {
    for _ in 0..10_000 {
        if !scheduler.step() {
            return;
        }
    }
    panic!("the scheduler does not come to an end");
}

/// The oracle: one token at a time, alone.
fn greedy(name: &str, prompt: &[u32], max_tokens: usize) -> Vec<u32> {
    let mut decoder = decoder(name);
    let sequence = decoder.begin().unwrap();
    let mut ids = Vec::new();
    let mut next = prompt.to_vec();
    let mut logits = Vec::new();
    while ids.len() < max_tokens {
        for token in &next {
            let work = Work { sequence, tokens: std::slice::from_ref(token), logits: Logits::Last };
            logits = decoder.forward(&[work]).unwrap().to_vec();
        }
        let best = logits.iter().copied().fold(f32::MIN, f32::max);
        let id = logits.iter().position(|&x| x == best).unwrap() as u32;
        if decoder.model().tokenizer().is_end_of_generation(id) {
            break;
        }
        ids.push(id);
        next = vec![id];
    }
    ids
}

#[test]
fn batching_changes_no_token() {
    for name in ["tiny-qwen2.gguf", "tiny-gemma3.gguf", "tiny-llama3-gqa4.gguf"] {
        let prompts: Vec<Vec<u32>> =
            (0..4u32).map(|p| (0..40 + 60 * p).map(|i| (i * 31 + p * 17 + 3) % 330).collect()).collect();
        let mut scheduler = scheduler(name);
        let recorders: Vec<Recorder> = prompts.iter().map(|_| Recorder::default()).collect();
        for (prompt, recorder) in prompts.iter().zip(&recorders) {
            scheduler.submit(job(prompt, 30, recorder));
            scheduler.step();
        }
        finish(&mut scheduler);
        assert_eq!(scheduler.blocks_used(), 0);
        for (prompt, recorder) in prompts.iter().zip(&recorders) {
            assert_eq!(recorder.ids(), greedy(name, prompt, 30), "{name}, prompt of {}", prompt.len());
            let finished = recorder.finished().unwrap();
            assert_eq!(finished.prompt_tokens, prompt.len());
            let is_length = finished.reason == StopReason::Length;
            assert_eq!(finished.completion_tokens, recorder.ids().len() + usize::from(!is_length));
        }
    }
}

#[test]
fn same_seed_same_text_and_another_seed_another() {
    let run = |seed: u64| {
        let mut scheduler = scheduler("tiny-qwen2.gguf");
        let recorder = Recorder::default();
        let mut job = job(&[5, 6, 7], 40, &recorder);
        job.sampling = SamplingParams { temperature: 1.0, top_p: 0.95, seed, ..SamplingParams::default() };
        scheduler.submit(job);
        finish(&mut scheduler);
        recorder.ids()
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
}

#[test]
fn a_stop_string_over_several_tokens_ends_the_text_before_it() {
    let mut free = scheduler("tiny-qwen2.gguf");
    let recorder = Recorder::default();
    free.submit(job(&[10, 20, 30], 40, &recorder));
    finish(&mut free);
    let text = recorder.text();
    let middle: Vec<char> = text.chars().skip(6).take(5).collect();
    let stop: String = middle.iter().collect();
    assert_eq!(stop.chars().count(), 5, "the model wrote too little: {text:?}");

    let mut scheduler = scheduler("tiny-qwen2.gguf");
    let stopped = Recorder::default();
    let mut job = job(&[10, 20, 30], 40, &stopped);
    job.stop = vec!["never written \u{1F600}".into(), stop.clone()];
    scheduler.submit(job);
    finish(&mut scheduler);
    assert_eq!(stopped.text(), text[..text.find(&stop).unwrap()]);
    assert_eq!(stopped.finished().unwrap().reason, StopReason::StopString);
}

#[test]
fn cancelled_jobs_free_their_place_within_a_step() {
    let mut scheduler = scheduler("tiny-gemma3.gguf");
    let recorders: Vec<Recorder> = (0..5).map(|_| Recorder::default()).collect();
    for recorder in &recorders[..4] {
        scheduler.submit(job(&[1, 2, 3, 4], 200, recorder));
    }
    for _ in 0..5 {
        scheduler.step();
    }
    assert_eq!(scheduler.load(), (1, 3));
    recorders[0].closed.store(true, Ordering::Relaxed);
    recorders[3].closed.store(true, Ordering::Relaxed);
    let written = recorders[0].ids().len();
    scheduler.step();
    assert_eq!(recorders[0].ids().len(), written);
    assert_eq!(scheduler.load(), (0, 2));
    for recorder in &recorders {
        recorder.closed.store(true, Ordering::Relaxed);
    }
    assert!(!scheduler.step());
    assert_eq!((scheduler.load(), scheduler.blocks_used()), ((0, 0), 0));
}

#[test]
fn limits_are_named() {
    let mut scheduler = scheduler("tiny-qwen2.gguf");
    let recorder = Recorder::default();
    let context = scheduler.model().spec().context_tokens;
    scheduler.submit(job(&[], 5, &recorder));
    scheduler.submit(job(&[1_000_000], 5, &recorder));
    scheduler.submit(job(&vec![1; context], 1, &recorder));
    for _ in 0..5 {
        scheduler.submit(job(&[1], 5, &recorder));
    }
    let refusals = recorder.refusals.lock().unwrap().clone();
    let too_long = SubmitError::TooLong { prompt: context, answer: 1, context };
    let token = SubmitError::Token { token: 1_000_000, vocabulary: 357 };
    let full = SubmitError::QueueFull { waiting: 4 };
    assert_eq!(refusals, [SubmitError::EmptyPrompt, token, too_long, full]);
}
