//! Speculative decoding on tiny models: nothing that is written depends on it, and what it costs is counted.

use std::path::Path;
use std::sync::{Arc, Mutex};

use engine::decoder::{Decoder, DecoderOptions, SharedDecoder};
use engine::model::{LoadOptions, Model};
use engine::sampling::SamplingParams;
use engine::scheduler::{
    Finished, Job, Output, Priority, Scheduler, SchedulerLimits, Sink, Speculation, SubmitError, Turns,
};
use engine::speculation::chain::Chain;
use engine::speculation::costs::{StepCosts, Terms};
use engine::speculation::model::DraftModel;
use engine::speculation::prompt_lookup::PromptLookup;
use engine::speculation::{Draft, DraftJob, Drafter, STEP_DRAFT_TOKENS};
use kernels::isa::Isa;
use kernels::pool::Pool;

/// Sequences of the schedulers under test.
const SEQUENCES: usize = 3;
const KV_TOKENS: usize = 1024;
/// Tokens of the tiny models' vocabularies.
const VOCABULARY: usize = 357;

fn decoder(name: &str, pool: &Arc<Pool>) -> Decoder {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/tiny").join(name);
    let model = Arc::new(Model::load(&path, LoadOptions::default(), pool).unwrap());
    let options = DecoderOptions {
        guests: SEQUENCES,
        draft_tokens: STEP_DRAFT_TOKENS,
        ..DecoderOptions::new(SEQUENCES, KV_TOKENS)
    };
    Decoder::new(model, pool.clone(), Isa::detect(), options).unwrap()
}

/// A scheduler whose jobs are drafted for by `drafters`, if any; steps of all widths seem to take as long.
fn scheduler(name: &str, pool: &Arc<Pool>, drafters: Vec<Box<dyn Drafter>>) -> Scheduler {
    let limits = SchedulerLimits { running_max: SEQUENCES, waiting_max: 64, kv_tokens: KV_TOKENS };
    let scheduler = Scheduler::new(decoder(name, pool), Isa::detect(), limits);
    if drafters.is_empty() {
        return scheduler;
    }
    let flat = StepCosts::measured(&[(1, 1.0), (24, 1.0)]);
    scheduler.with_speculation(Speculation::new(Chain::new(drafters)).with_costs(flat))
}

#[derive(Clone, Default)]
struct Recorder(Arc<Mutex<Vec<Output>>>);

impl Sink for Recorder {
    fn send(&mut self, output: Output) {
        self.0.lock().unwrap().push(output);
    }
    fn refuse(&mut self, error: &SubmitError) {
        panic!("{error}");
    }
    fn is_closed(&self) -> bool {
        false
    }
}

/// All that a client sees of an answer: texts with their tokens, and the end.
#[derive(Debug, PartialEq)]
struct Seen {
    texts: Vec<(String, Option<engine::sampling::Sampled>)>,
    reason: engine::scheduler::StopReason,
    tokens: usize,
}

impl Recorder {
    fn seen(&self) -> (Seen, Finished) {
        let outputs = self.0.lock().unwrap();
        let Some(Output::Finished(finished)) = outputs.last() else { panic!("{:?}", outputs.last()) };
        let texts = outputs.iter().filter_map(|output| match output {
            Output::Text { text, token, .. } => Some((text.clone(), token.clone())),
            _ => None,
        });
        let seen =
            Seen { texts: texts.collect(), reason: finished.reason, tokens: finished.completion_tokens };
        (seen, finished.clone())
    }

    fn drafted(&self) -> usize {
        let outputs = self.0.lock().unwrap();
        outputs.iter().filter(|output| matches!(output, Output::Text { is_drafted: true, .. })).count()
    }
}

fn job(prompt: &[u32], max_tokens: usize, sink: &Recorder) -> Job {
    Job {
        prompt: prompt.to_vec(),
        max_tokens: Some(max_tokens),
        stop: Vec::new(),
        sampling: SamplingParams::default(),
        top_logprobs: 0,
        client: None,
        priority: Priority::Interactive,
        speculative: true,
        deadline: None,
        sink: Box::new(sink.clone()),
    }
}

fn finish(scheduler: &mut Scheduler) {
    for _ in 0..100_000 {
        if !scheduler.step() {
            return;
        }
    }
    panic!("the scheduler does not come to an end");
}

struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) % limit as u64) as usize
    }
}

/// Drafts of one length, whatever they gain, by another drafter.
struct Always {
    inner: Box<dyn Drafter>,
    length: usize,
}

impl Drafter for Always {
    fn name(&self) -> &'static str {
        self.inner.name()
    }
    fn offer(&mut self, job: &DraftJob, terms: &Terms) -> f64 {
        // It must see the text.
        self.inner.offer(job, terms).max(1.0)
    }
    fn draft(&mut self, jobs: &mut [DraftJob], terms: &mut Terms) {
        jobs.iter_mut().for_each(|job| job.limit = job.limit.min(self.length));
        self.inner.draft(jobs, terms);
    }
    fn learn(&mut self, job: u64, draft: &Draft, accepted: usize) {
        self.inner.learn(job, draft, accepted);
    }
    fn end(&mut self, job: u64, client: Option<&Arc<str>>, answer: &[u32]) {
        self.inner.end(job, client, answer);
    }
}

/// Knows what will be written, and errs at random.
struct Knowing {
    answers: Vec<Vec<u32>>, // prompt and answer
    random: Random,
}

impl Drafter for Knowing {
    fn name(&self) -> &'static str {
        "knowing"
    }
    fn offer(&mut self, _: &DraftJob, _: &Terms) -> f64 {
        1.0
    }
    fn draft(&mut self, jobs: &mut [DraftJob], terms: &mut Terms) {
        for job in jobs {
            let known = self.answers.iter().find(|answer| answer.starts_with(job.text));
            let Some(known) = known else { continue };
            let length = self.random.below(job.limit.min(terms.room()) + 1);
            for &id in known[job.text.len()..].iter().take(length) {
                let id = if self.random.below(4) == 0 { self.random.below(300) as u32 } else { id };
                job.draft.push(id, 0.7);
            }
            terms.take(job.draft.ids().iter().map(|_| 0.7));
        }
    }
    fn learn(&mut self, _: u64, _: &Draft, _: usize) {}
    fn end(&mut self, _: u64, _: Option<&Arc<str>>, _: &[u32]) {}
}

/// A draft model with a decoder of its own.
fn draft_model(name: &str, pool: &Arc<Pool>, turns: &Arc<Turns>) -> (Box<dyn Drafter>, Arc<SharedDecoder>) {
    let shared = Arc::new(SharedDecoder::new(decoder(name, pool)));
    let found = shared.clone();
    let find = Box::new(move || Some(found.clone()));
    (Box::new(DraftModel::new(find, turns.seat(), VOCABULARY)), shared)
}

/// Prompts that repeat themselves, so that look-up finds something, and some that do not.
fn prompts(random: &mut Random) -> Vec<Vec<u32>> {
    (0..8)
        .map(|which| {
            let period = 3 + random.below(20);
            let some: Vec<u32> = (0..period).map(|_| random.below(250) as u32 + 3).collect();
            let length = 20 + random.below(150);
            if which % 3 == 2 {
                return (0..length).map(|_| random.below(250) as u32 + 3).collect();
            }
            some.iter().copied().cycle().take(length).collect()
        })
        .collect()
}

/// What is written without speculation, one job after the other.
fn plain(name: &str, pool: &Arc<Pool>, jobs: impl Iterator<Item = (Vec<u32>, SamplingParams)>) -> Vec<Seen> {
    let mut scheduler = scheduler(name, pool, Vec::new());
    jobs.map(|(prompt, sampling)| {
        let sink = Recorder::default();
        scheduler.submit(Job { sampling, top_logprobs: 2, ..job(&prompt, 60, &sink) });
        finish(&mut scheduler);
        sink.seen().0
    })
    .collect()
}

/// Ways to sample whose tokens must not depend on drafts.
fn samplings() -> Vec<SamplingParams> {
    let greedy = SamplingParams::default();
    vec![
        greedy.clone(),
        SamplingParams { repetition_penalty: 1.3, presence_penalty: 0.4, ..greedy.clone() },
        SamplingParams {
            frequency_penalty: 0.7,
            logit_bias: vec![(17, 3.0), (40, -100.0)],
            ..greedy.clone()
        },
        SamplingParams { temperature: 0.8, top_k: 30, seed: 7, reproducible: true, ..greedy.clone() },
        SamplingParams { temperature: 0.3, top_p: 0.9, seed: 8, reproducible: true, ..greedy },
    ]
}

#[test]
fn drafts_change_nothing_that_is_written() {
    let pool = Arc::new(Pool::new(2));
    let mut random = Random(11);
    for name in ["tiny-qwen2.gguf", "tiny-gemma3.gguf"] {
        let prompts = prompts(&mut random);
        let samplings = samplings();
        let cases = || prompts.iter().cloned().zip(samplings.iter().cycle().cloned());
        let wanted = plain(name, &pool, cases());
        let answers = || {
            wanted.iter().zip(&prompts).map(|(seen, prompt)| {
                let ids = seen.texts.iter().filter_map(|(_, token)| token.as_ref().map(|token| token.id));
                prompt.iter().copied().chain(ids).collect::<Vec<u32>>()
            })
        };
        let turns = Arc::<Turns>::default();
        for length in 1..=8 {
            let always = |inner| Box::new(Always { inner, length }) as Box<dyn Drafter>;
            let knowing = Knowing { answers: answers().collect(), random: Random(length as u64) };
            let drafters: Vec<(&str, Vec<Box<dyn Drafter>>)> = vec![
                ("look-up", vec![always(Box::<PromptLookup>::default())]),
                ("itself", vec![always(draft_model(name, &pool, &turns).0)]),
                ("another", vec![always(draft_model("tiny-llama3-gqa4.gguf", &pool, &turns).0)]),
                ("knowing", vec![always(Box::new(knowing))]),
                ("chain", vec![Box::new(PromptLookup::default()), draft_model(name, &pool, &turns).0]),
            ];
            for (label, drafters) in drafters {
                let mut scheduler = scheduler(name, &pool, drafters);
                // All at once, so that batching and prefixes of earlier rounds take part.
                for round in 0..2 {
                    let sinks: Vec<Recorder> = cases()
                        .map(|(prompt, sampling)| {
                            let sink = Recorder::default();
                            scheduler.submit(Job { sampling, top_logprobs: 2, ..job(&prompt, 60, &sink) });
                            sink
                        })
                        .collect();
                    finish(&mut scheduler);
                    for (case, (sink, wanted)) in sinks.iter().zip(&wanted).enumerate() {
                        let (seen, finished) = sink.seen();
                        assert_eq!(&seen, wanted, "{name}, {label}, length {length}, round {round}, {case}");
                        assert_eq!(finished.accepted_tokens, sink.drafted());
                    }
                    assert_eq!(scheduler.load().blocks.used, 0, "blocks leak");
                }
                let drafts = scheduler.load().drafts;
                assert!(drafts.accepted + drafts.rejected > 0, "{name}, {label}: nothing was drafted");
                let knows = ["itself", "knowing"].contains(&label);
                assert!(!knows || drafts.accepted > drafts.rejected / 4, "{name}, {label}: {drafts:?}");
            }
        }
    }
}
