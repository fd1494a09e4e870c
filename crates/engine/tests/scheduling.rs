//! The scheduler on tiny models: batching changes no token, limits hold, cancelled jobs leave nothing.

mod jobs;

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use engine::decoder::{Decoder, DecoderOptions, Logits, Work};
use engine::model::{LoadOptions, Model};
use engine::sampling::SamplingParams;
use engine::scheduler::{
    Finished, Job, Output, Priority, Scheduler, SchedulerLimits, Sink, StopReason, SubmitError, Turns,
};
use kernels::attention::KvType;
use kernels::isa::Isa;
use kernels::pool::Pool;

fn model(name: &str, pool: &Pool) -> Arc<Model> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/tiny").join(name);
    Arc::new(Model::load(&path, LoadOptions::default(), pool).unwrap())
}

fn decoder(name: &str, options: DecoderOptions) -> Decoder {
    let pool = Arc::new(Pool::new(2));
    Decoder::new(model(name, &pool), pool, Isa::detect(), options).unwrap()
}

fn scheduler(name: &str) -> Scheduler {
    scheduler_of(name, 3, 1024)
}

fn scheduler_of(name: &str, running_max: usize, kv_tokens: usize) -> Scheduler {
    typed_scheduler((name, KvType::F16), running_max, kv_tokens)
}

fn typed_scheduler((name, kv_type): (&str, KvType), running_max: usize, kv_tokens: usize) -> Scheduler {
    let limits = SchedulerLimits { running_max, waiting_max: 4, kv_tokens };
    let options = DecoderOptions { kv_type, ..DecoderOptions::new(running_max, kv_tokens) };
    Scheduler::new(decoder(name, options), Isa::detect(), limits)
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
    jobs::job(prompt, max_tokens, Box::new(sink.clone()))
}

/// Jobs waiting and running.
fn counts(scheduler: &Scheduler) -> (usize, usize) {
    let load = scheduler.load();
    (load.waiting, load.running)
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
    let mut decoder = decoder(name, DecoderOptions::new(1, 1024));
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
        assert_eq!(scheduler.load().blocks.used, 0);
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
    assert_eq!(counts(&scheduler), (1, 3));
    recorders[0].closed.store(true, Ordering::Relaxed);
    recorders[3].closed.store(true, Ordering::Relaxed);
    let written = recorders[0].ids().len();
    scheduler.step();
    assert_eq!(recorders[0].ids().len(), written);
    assert_eq!(counts(&scheduler), (0, 2));
    for recorder in &recorders {
        recorder.closed.store(true, Ordering::Relaxed);
    }
    assert!(!scheduler.step());
    assert_eq!((counts(&scheduler), scheduler.load().blocks.used), ((0, 0), 0));
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

/// Models, and a type of cache for each; with rests, if it has 4 bits.
const TINY: [(&str, KvType); 5] = [
    ("tiny-qwen2.gguf", KvType::F16),
    ("tiny-qwen2.gguf", KvType::Q4),
    ("tiny-gemma3.gguf", KvType::F16),
    ("tiny-gemma3.gguf", KvType::Q4),
    ("tiny-llama3-gqa4.gguf", KvType::Q8),
];

#[test]
fn a_conversation_reads_only_what_is_new_and_answers_the_same() {
    for (name, kv_type) in TINY {
        let scheduler = || typed_scheduler((name, kv_type), 3, 1024);
        let (mut kept, mut told) = (scheduler(), Vec::new());
        for turn in 0..4u32 {
            told.extend((0..100).map(|i| (i * 7 + turn * 13 + 5) % 330));
            let (with, without) = (Recorder::default(), Recorder::default());
            kept.submit(job(&told, 20, &with));
            finish(&mut kept);
            let mut fresh = scheduler();
            fresh.submit(job(&told, 20, &without));
            finish(&mut fresh);
            assert_eq!(with.outputs.lock().unwrap().len(), without.outputs.lock().unwrap().len());
            assert_eq!(with.ids(), without.ids(), "{name}, {kv_type:?}, turn {turn}");
            // The turn before is there but for what did not fill a block, and this turn's text.
            let cached = with.finished().unwrap().cached_tokens;
            let before = told.len() - 100;
            assert_eq!(cached, before.saturating_sub(1) / 64 * 64, "{name}, {kv_type:?}, turn {turn}");
            assert_eq!(without.finished().unwrap().cached_tokens, 0);
            told.extend(with.ids());
        }
        assert!(kept.load().hit_tokens > 0);
        assert_eq!(kept.load().blocks.used, 0);
    }
}

#[test]
fn clients_share_no_prefix() {
    let mut scheduler = scheduler("tiny-qwen2.gguf");
    let prompt: Vec<u32> = (0..200).collect();
    for (client, cached) in [("a", 0), ("a", 192), ("b", 0), ("b", 192)] {
        let recorder = Recorder::default();
        scheduler.submit(Job { client: Some(client.into()), ..job(&prompt, 2, &recorder) });
        finish(&mut scheduler);
        assert_eq!(recorder.finished().unwrap().cached_tokens, cached, "{client}");
    }
}

#[test]
fn answers_that_outgrow_the_cache_step_back_and_end_the_same() {
    for (name, kv_type) in TINY {
        // Each could be alone; together they need three times what there is.
        let mut scheduler = typed_scheduler((name, kv_type), 4, 320);
        let prompts: Vec<Vec<u32>> =
            (0..4u32).map(|p| (0..40 + p).map(|i| (i * 31 + p * 17 + 3) % 330).collect()).collect();
        let recorders: Vec<Recorder> = prompts.iter().map(|_| Recorder::default()).collect();
        for (prompt, recorder) in prompts.iter().zip(&recorders) {
            let mut job = job(prompt, 200, recorder);
            job.sampling.logit_bias = ends_of(&scheduler).map(|id| (id, -100.0)).collect();
            scheduler.submit(job);
        }
        scheduler.step();
        assert_eq!(counts(&scheduler), (0, 4));
        let mut most_waiting = 0;
        while scheduler.step() {
            most_waiting = most_waiting.max(scheduler.load().waiting);
            let groups = 2 + usize::from(kv_type.has_rests());
            assert!(scheduler.load().blocks.used <= (320usize.div_ceil(64) + 4) * groups);
        }
        assert!(most_waiting > 0, "{name}: nobody had to step back");
        for (prompt, recorder) in prompts.iter().zip(&recorders) {
            assert_eq!(recorder.ids().len(), 200, "{name}");
            let mut alone = typed_scheduler((name, kv_type), 1, 1024);
            let wanted = Recorder::default();
            let mut job = job(prompt, 200, &wanted);
            job.sampling.logit_bias = ends_of(&alone).map(|id| (id, -100.0)).collect();
            alone.submit(job);
            finish(&mut alone);
            assert_eq!(recorder.text(), wanted.text(), "{name}");
        }
    }
}

/// Tokens that end an answer.
fn ends_of(scheduler: &Scheduler) -> impl Iterator<Item = u32> {
    let vocabulary = scheduler.model().vocabulary() as u32;
    let tokenizer = scheduler.model().tokenizer();
    (0..vocabulary).filter(|&id| tokenizer.is_end_of_generation(id)).collect::<Vec<_>>().into_iter()
}

/// Names in the order in which their jobs ended.
fn order_of(scheduler: &mut Scheduler, jobs: &[(&'static str, Recorder)]) -> Vec<&'static str> {
    let mut order = Vec::new();
    while scheduler.step() {
        for (name, recorder) in jobs {
            if recorder.finished().is_some() && !order.contains(name) {
                order.push(*name);
            }
        }
    }
    order
}

#[test]
fn what_runs_in_the_background_makes_way_and_is_not_lost() {
    let mut scheduler = scheduler_of("tiny-gemma3.gguf", 1, 1024);
    let jobs = [("background", Recorder::default()), ("interactive", Recorder::default())];
    let prompt = [4, 8, 15, 16, 23, 42];
    scheduler.submit(Job { priority: Priority::Background, ..job(&prompt, 60, &jobs[0].1) });
    for _ in 0..10 {
        scheduler.step();
    }
    assert!(!jobs[0].1.ids().is_empty());
    scheduler.submit(job(&[1, 2, 3], 5, &jobs[1].1));
    assert_eq!(order_of(&mut scheduler, &jobs), ["interactive", "background"]);
    assert_eq!(jobs[0].1.ids(), greedy("tiny-gemma3.gguf", &prompt, 60));
}

#[test]
fn clients_take_turns() {
    let mut scheduler = scheduler_of("tiny-qwen2.gguf", 2, 1024);
    let jobs = ["a1", "a2", "a3", "b1"].map(|name| (name, Recorder::default()));
    for (name, recorder) in &jobs {
        let client = Some(name[..1].into());
        let mut job = Job { client, ..job(&[7, 8, 9], 8, recorder) };
        job.sampling.logit_bias = ends_of(&scheduler).map(|id| (id, -100.0)).collect();
        scheduler.submit(job);
    }
    scheduler.step();
    let started = jobs.iter().filter(|(_, recorder)| !recorder.outputs.lock().unwrap().is_empty());
    assert_eq!(started.map(|(name, _)| *name).collect::<Vec<_>>(), ["a1", "b1"]);
    finish(&mut scheduler);
}

#[test]
fn a_long_prompt_does_not_hold_up_who_writes() {
    let mut scheduler = scheduler("tiny-qwen2.gguf");
    let (writer, reader) = (Recorder::default(), Recorder::default());
    let mut writing = job(&[7, 8, 9], 200, &writer);
    writing.sampling.logit_bias = ends_of(&scheduler).map(|id| (id, -100.0)).collect();
    scheduler.submit(writing);
    scheduler.step();
    let prompt: Vec<u32> = (0..300).map(|i| (i * 31) % 330).collect();
    scheduler.submit(job(&prompt, 4, &reader));
    while reader.ids().is_empty() {
        let before = writer.ids().len();
        scheduler.step();
        assert_eq!(writer.ids().len(), before + 1, "each step writes a token");
    }
    assert!(writer.ids().len() > 2, "the prompt was read in one piece");
    assert_eq!(reader.ids()[0], greedy("tiny-qwen2.gguf", &prompt, 1)[0]);
}

#[test]
fn a_deadline_ends_jobs_waiting_or_running() {
    let mut scheduler = scheduler_of("tiny-qwen2.gguf", 1, 1024);
    let soon = Instant::now() + Duration::from_millis(30);
    let recorders = [Recorder::default(), Recorder::default()];
    for recorder in &recorders {
        let mut job = Job { deadline: Some(soon), ..job(&[7, 8, 9], 400, recorder) };
        job.sampling.logit_bias = ends_of(&scheduler).map(|id| (id, -100.0)).collect();
        scheduler.submit(job);
    }
    while scheduler.step() {
        assert!(Instant::now() < soon + Duration::from_secs(20));
    }
    for recorder in &recorders {
        let outputs = recorder.outputs.lock().unwrap();
        // On a fast machine the first may have come to its end.
        assert!(matches!(outputs.last(), Some(Output::Expired | Output::Finished(_))));
    }
    assert_eq!(scheduler.load().blocks.used, 0);
}

#[test]
fn two_models_take_turns_and_write_what_they_would_alone() {
    let turns = Arc::<Turns>::default();
    let pool = Arc::new(Pool::new(2));
    let names = ["tiny-qwen2.gguf", "tiny-gemma3.gguf"];
    let outputs: Vec<Vec<u32>> = std::thread::scope(|scope| {
        let running: Vec<_> = names
            .iter()
            .map(|name| {
                let (seat, pool) = (turns.seat(), Arc::clone(&pool));
                scope.spawn(move || {
                    let model = model(name, &pool);
                    let decoder = Decoder::new(model, pool, Isa::detect(), DecoderOptions::new(2, 1024));
                    let limits = SchedulerLimits { running_max: 2, waiting_max: 4, kv_tokens: 1024 };
                    let mut scheduler = Scheduler::with_seat(decoder.unwrap(), Isa::detect(), limits, seat);
                    let recorder = Recorder::default();
                    scheduler.submit(job(&[3, 1, 4, 1, 5], 40, &recorder));
                    finish(&mut scheduler);
                    recorder.ids()
                })
            })
            .collect();
        running.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    for (name, ids) in names.iter().zip(outputs) {
        assert_eq!(ids, greedy(name, &[3, 1, 4, 1, 5], 40), "{name}");
    }
}
