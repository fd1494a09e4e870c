//! Speculative decoding on tiny models: nothing that is written depends on it, and what it costs is counted.

mod jobs;

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use engine::decoder::{Decoder, DecoderOptions, SharedDecoder};
use engine::model::{LoadOptions, Model};
use engine::sampling::SamplingParams;
use engine::scheduler::{
    Finished, Job, Output, Scheduler, SchedulerLimits, Sink, Speculation, StopReason, SubmitError, Turns,
};
use engine::speculation::chain::Chain;
use engine::speculation::costs::{StepCosts, Terms};
use engine::speculation::model::DraftModel;
use engine::speculation::prompt_lookup::PromptLookup;
use engine::speculation::{Draft, DraftJob, Drafter, STEP_DRAFT_TOKENS};
use kernels::attention::KvType;
use kernels::isa::Isa;
use kernels::pool::Pool;

/// Sequences of the schedulers under test.
const SEQUENCES: usize = 3;
const KV_TOKENS: usize = 1024;
/// Sequences where many short answers are wanted.
const CROWD: usize = 12;
/// Tokens of the tiny models' vocabularies.
const VOCABULARY: usize = 357;

/// Tokens of the heads of weights for drafting.
const TRIMMED: usize = 300;

fn decoder(name: &str, pool: &Arc<Pool>, sequences: usize) -> Decoder {
    decoder_of(name, pool, (sequences, None))
}

/// A decoder that has weights for drafting besides, if a size of their head is given.
fn decoder_of(
    name: &str,
    pool: &Arc<Pool>,
    (sequences, draft_vocabulary): (usize, Option<usize>),
) -> Decoder {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/tiny").join(name);
    let options = LoadOptions { draft_vocabulary, ..LoadOptions::default() };
    let model = Arc::new(Model::load(&path, options, pool).unwrap());
    // A type with rests, which drafts begin and cut off, and one without.
    let kv_type = if name == "tiny-gemma3.gguf" { KvType::Q4 } else { KvType::F16 };
    let options = DecoderOptions {
        guests: sequences,
        kv_type,
        draft_tokens: STEP_DRAFT_TOKENS,
        ..DecoderOptions::new(sequences, KV_TOKENS)
    };
    Decoder::new(model, pool.clone(), Isa::detect(), options).unwrap()
}

/// A scheduler whose jobs are drafted for by `drafters`, if any; steps of all widths seem to take as long.
fn scheduler(name: &str, pool: &Arc<Pool>, drafters: Vec<Box<dyn Drafter>>) -> Scheduler {
    scheduler_of(name, pool, drafters, SEQUENCES)
}

fn scheduler_of(
    name: &str,
    pool: &Arc<Pool>,
    drafters: Vec<Box<dyn Drafter>>,
    sequences: usize,
) -> Scheduler {
    let scheduler = scheduler_on(decoder(name, pool, sequences), sequences);
    if drafters.is_empty() {
        return scheduler;
    }
    let flat = StepCosts::measured(&[(1, 1.0), (24, 1.0)]);
    scheduler.with_speculation(Speculation::new(Chain::new(drafters)).with_costs(flat))
}

fn scheduler_on(decoder: Decoder, sequences: usize) -> Scheduler {
    let limits = SchedulerLimits { running_max: sequences, waiting_max: 64, kv_tokens: KV_TOKENS };
    Scheduler::new(decoder, Isa::detect(), limits)
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
    jobs::job(prompt, max_tokens, Box::new(sink.clone()))
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
    fn draft(&mut self, jobs: &mut [DraftJob], terms: &mut Terms, others: &mut [Box<dyn Drafter>]) {
        jobs.iter_mut().for_each(|job| job.limit = job.limit.min(self.length));
        self.inner.draft(jobs, terms, others);
    }
    fn learn(&mut self, job: u64, draft: &Draft, accepted: usize) {
        self.inner.learn(job, draft, accepted);
    }
    fn end(&mut self, job: u64, client: Option<&Arc<str>>, answer: &[u32]) {
        self.inner.end(job, client, answer);
    }
}

/// Never drafts, but guesses for who does; counts right guesses.
struct Guessing {
    inner: PromptLookup,
    right: Arc<AtomicUsize>,
}

impl Drafter for Guessing {
    fn name(&self) -> &'static str {
        self.inner.name()
    }
    fn offer(&mut self, job: &DraftJob, terms: &Terms) -> f64 {
        self.inner.offer(job, terms);
        0.0
    }
    fn draft(&mut self, _: &mut [DraftJob], _: &mut Terms, _: &mut [Box<dyn Drafter>]) {
        unreachable!("it offers nothing");
    }
    fn guess(&mut self, job: u64, drafted: &[u32], limit: usize, guesses: &mut Vec<(u32, f64)>) {
        self.inner.guess(job, drafted, limit, guesses);
        // However seldom they are right.
        guesses.iter_mut().for_each(|(_, chance)| *chance = 1.0);
    }
    fn learn_guess(&mut self, job: u64, right: usize, is_wrong: bool) {
        self.right.fetch_add(right, Ordering::Relaxed);
        self.inner.learn_guess(job, right, is_wrong);
    }
    fn learn(&mut self, _: u64, _: &Draft, _: usize) {}
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
    fn draft(&mut self, jobs: &mut [DraftJob], terms: &mut Terms, _: &mut [Box<dyn Drafter>]) {
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
    let shared = Arc::new(SharedDecoder::new(decoder(name, pool, CROWD)));
    (drafter_on(&shared, turns), shared)
}

/// The same with weights for drafting.
fn coarse_draft_model(name: &str, pool: &Arc<Pool>, turns: &Arc<Turns>) -> Box<dyn Drafter> {
    let decoder = decoder_of(name, pool, (CROWD, Some(TRIMMED)));
    assert!(decoder.drafts_apart(), "{name} has nothing to take bits from");
    drafter_on(&Arc::new(SharedDecoder::new(decoder)), turns)
}

/// A draft model that is a guest.
fn drafter_on(host: &Arc<SharedDecoder>, turns: &Arc<Turns>) -> Box<dyn Drafter> {
    let found = host.clone();
    let find = Box::new(move || Some(found.clone()));
    Box::new(DraftModel::new(find, turns.seat(), VOCABULARY))
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

/// What is to be answered, and how.
type Case = (Vec<u32>, SamplingParams, Vec<String>);

fn case_job((prompt, sampling, stop): Case, sink: &Recorder) -> Job {
    Job { sampling, stop, top_logprobs: 2, ..job(&prompt, 60, sink) }
}

/// What is written without speculation, one job after the other.
fn plain(name: &str, pool: &Arc<Pool>, cases: impl Iterator<Item = Case>) -> Vec<Seen> {
    let mut scheduler = scheduler(name, pool, Vec::new());
    cases
        .map(|case| {
            let sink = Recorder::default();
            scheduler.submit(case_job(case, &sink));
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
        let stops = [vec![], vec!["hellohello".to_owned(), "th".to_owned()], vec![]];
        let cases = || {
            let ways = samplings.iter().cycle().cloned().zip(stops.iter().cycle().cloned());
            prompts.iter().cloned().zip(ways).map(|(prompt, (sampling, stop))| (prompt, sampling, stop))
        };
        let wanted = plain(name, &pool, cases());
        let answers = || {
            wanted.iter().zip(&prompts).map(|(seen, prompt)| {
                let ids = seen.texts.iter().filter_map(|(_, token)| token.as_ref().map(|token| token.id));
                prompt.iter().copied().chain(ids).collect::<Vec<u32>>()
            })
        };
        let turns = Arc::<Turns>::default();
        let right_guesses = Arc::<AtomicUsize>::default();
        for length in 1..=8 {
            let always = |inner| Box::new(Always { inner, length }) as Box<dyn Drafter>;
            let guessing =
                || Box::new(Guessing { inner: PromptLookup::default(), right: right_guesses.clone() });
            let knowing = Knowing { answers: answers().collect(), random: Random(length as u64) };
            let drafters: Vec<(&str, Vec<Box<dyn Drafter>>)> = vec![
                ("look-up", vec![always(Box::<PromptLookup>::default())]),
                ("itself", vec![always(draft_model(name, &pool, &turns).0)]),
                ("another", vec![always(draft_model("tiny-llama3-gqa4.gguf", &pool, &turns).0)]),
                ("itself, coarse", vec![always(coarse_draft_model(name, &pool, &turns))]),
                ("another, coarse", vec![always(coarse_draft_model("tiny-llama3-gqa4.gguf", &pool, &turns))]),
                ("itself, with guesses", vec![guessing(), always(draft_model(name, &pool, &turns).0)]),
                (
                    "another, with guesses",
                    vec![guessing(), always(draft_model("tiny-llama3-gqa4.gguf", &pool, &turns).0)],
                ),
                ("knowing", vec![always(Box::new(knowing))]),
                ("chain", vec![Box::new(PromptLookup::default()), draft_model(name, &pool, &turns).0]),
            ];
            for (label, drafters) in drafters {
                let mut scheduler = scheduler(name, &pool, drafters);
                // All at once, so that batching and prefixes of earlier rounds take part.
                for round in 0..2 {
                    let sinks: Vec<Recorder> = cases()
                        .map(|case| {
                            let sink = Recorder::default();
                            scheduler.submit(case_job(case, &sink));
                            sink
                        })
                        .collect();
                    finish(&mut scheduler);
                    for (case, (sink, wanted)) in sinks.iter().zip(&wanted).enumerate() {
                        let (seen, finished) = sink.seen();
                        assert_eq!(&seen, wanted, "{name}, {label}, length {length}, round {round}, {case}");
                        // An end of the turn may be drafted, and is not told of.
                        let ends = usize::from(finished.reason == StopReason::EndOfGeneration);
                        let untold = finished.accepted_tokens - sink.drafted();
                        assert!(untold <= ends, "{untold}");
                    }
                    assert_eq!(scheduler.load().blocks.used, 0, "blocks leak");
                }
                let drafts = scheduler.load().drafts;
                assert!(drafts.accepted + drafts.rejected > 0, "{name}, {label}: nothing was drafted");
                let knows = ["itself", "itself, coarse", "itself, with guesses", "knowing"].contains(&label);
                assert!(!knows || drafts.accepted > drafts.rejected / 4, "{name}, {label}: {drafts:?}");
            }
        }
        assert!(right_guesses.load(Ordering::Relaxed) > 0, "{name}: no guess was drafted");
    }
}

#[test]
fn what_the_small_model_has_read_the_drafter_does_not_read_again() {
    let pool = Arc::new(Pool::new(2));
    let prompt: Vec<u32> = (0..450).map(|i| (i * 37) % 300 + 3).collect();
    let mut small = scheduler("tiny-qwen2.gguf", &pool, Vec::new());
    let host = small.decoder().clone();
    let found = host.clone();
    let model =
        DraftModel::new(Box::new(move || Some(found.clone())), Arc::<Turns>::default().seat(), VOCABULARY);
    let always = Always { inner: Box::new(model), length: 3 };
    let mut large = scheduler("tiny-qwen2.gguf", &pool, vec![Box::new(always)]);

    let sink = Recorder::default();
    small.submit(job(&prompt, 1, &sink));
    finish(&mut small);
    let read = host.tokens_read();
    assert_eq!(read, 450);

    let sink = Recorder::default();
    large.submit(job(&prompt, 40, &sink));
    finish(&mut large);
    let (_, finished) = sink.seen();
    let drafted = finished.accepted_tokens + finished.rejected_tokens;
    assert!(drafted > 20, "{drafted}");
    let again = (host.tokens_read() - read) as usize;
    // The last, unfinished block of 64, and what was drafted and written since; the measured steps besides.
    let measured = StepCosts::ROUNDS * (1 + 2 + 4 + 8 + 16 + 64);
    assert!(again < 64 + drafted + finished.completion_tokens + measured, "{again} tokens were read again");
    assert_eq!(small.load().blocks.used, 0, "the guest has not left");
}

/// Drafts by weights of fewer bits leave keys and values that are not the model's own: guests find them again,
/// its jobs do not.
#[test]
fn what_coarse_drafts_leave_is_found_by_drafts_alone() {
    let pool = Arc::new(Pool::new(2));
    // One with a window, too.
    for name in ["tiny-qwen2.gguf", "tiny-gemma3.gguf"] {
        let mut small = scheduler_on(decoder_of(name, &pool, (SEQUENCES, Some(TRIMMED))), SEQUENCES);
        let host = small.decoder().clone();
        let turns = Arc::<Turns>::default();
        let always = Always { inner: drafter_on(&host, &turns), length: 3 };
        let mut large = scheduler(name, &pool, vec![Box::new(always)]);
        let answer = |scheduler: &mut Scheduler, text: &[u32], tokens: usize| {
            let sink = Recorder::default();
            let mut job = Job { top_logprobs: 2, ..job(text, tokens, &sink) };
            let ends = (0..scheduler.model().vocabulary() as u32)
                .filter(|&id| scheduler.model().tokenizer().is_end_of_generation(id));
            job.sampling.logit_bias = ends.map(|id| (id, -100.0)).collect();
            scheduler.submit(job);
            finish(scheduler);
            sink.seen()
        };
        let mut text: Vec<u32> = (0..200).map(|i| (i * 37) % 300 + 3).collect();
        let (seen, finished) = answer(&mut large, &text, 200);
        assert!(finished.accepted_tokens + finished.rejected_tokens > 100, "{name}: {finished:?}");
        text.extend(seen.texts.iter().filter_map(|(_, token)| token.as_ref().map(|token| token.id)));
        text.extend((0..10).map(|i| (i * 53) % 300 + 3));
        let before = host.tokens_read();
        let (_, finished) = answer(&mut large, &text, 20);
        let read = (host.tokens_read() - before) as usize;
        let drafted = finished.accepted_tokens + finished.rejected_tokens;
        assert!(read < 80 + drafted + finished.completion_tokens, "{name}: {read} tokens were read again");
        let (seen, finished) = answer(&mut small, &text, 20);
        // The prompt was read as the model's jobs read, and is there for them.
        assert!((128..200).contains(&finished.cached_tokens), "{name}: {finished:?}");
        let mut alone = scheduler_on(decoder(name, &pool, SEQUENCES), SEQUENCES);
        assert_eq!(seen, answer(&mut alone, &text, 20).0, "{name}: a job found what a draft had left");
        assert_eq!((small.load().blocks.used, large.load().blocks.used), (0, 0));
    }
}

#[test]
fn a_guest_makes_way_for_jobs() {
    let pool = Arc::new(Pool::new(2));
    let name = "tiny-gemma3.gguf";
    let prompt: Vec<u32> = (0..300).map(|i| (i * 37) % 300 + 3).collect();
    let mut small = scheduler(name, &pool, Vec::new());
    let found = small.decoder().clone();
    let model =
        DraftModel::new(Box::new(move || Some(found.clone())), Arc::<Turns>::default().seat(), VOCABULARY);
    let always = Always { inner: Box::new(model), length: 4 };
    let mut large = scheduler(name, &pool, vec![Box::new(always)]);
    let greedy = || (prompt.clone(), SamplingParams::default(), Vec::new());
    let wanted = plain(name, &pool, std::iter::once(greedy()));

    let drafted = Recorder::default();
    large.submit(case_job(greedy(), &drafted));
    while drafted.drafted() == 0 {
        assert!(large.step());
    }
    assert!(small.load().blocks.used > 0, "the drafter is a guest");
    // Prompts that take all the cache there is.
    let others: Vec<Recorder> = (0..3)
        .map(|which| {
            let sink = Recorder::default();
            let other: Vec<u32> = (0..320).map(|i| (i * 7 + which * 101) % 300 + 3).collect();
            small.submit(job(&other, 20, &sink));
            sink
        })
        .collect();
    // In turn, as two threads would.
    while small.step() | large.step() {}
    assert_eq!(drafted.seen().0, wanted[0]);
    others.iter().for_each(|sink| assert!(sink.seen().1.completion_tokens > 0));
    assert_eq!((small.load().blocks.used, large.load().blocks.used), (0, 0));
}

/// Counts of tokens by their place in 50,000 sampled answers.
fn sampled(drafters: Vec<Box<dyn Drafter>>, pool: &Arc<Pool>, first_seed: u64) -> Vec<Vec<f64>> {
    const SAMPLES: u64 = 50_000;
    const PLACES: usize = 3;
    let mut scheduler = scheduler_of("tiny-qwen2.gguf", pool, drafters, CROWD);
    let mut counts = vec![vec![0.0; VOCABULARY]; PLACES];
    let mut seeds = first_seed..first_seed + SAMPLES;
    while let Some(seed) = seeds.next() {
        let sinks: Vec<Recorder> = std::iter::once(seed)
            .chain(seeds.by_ref().take(47))
            .map(|seed| {
                let sink = Recorder::default();
                let sampling = SamplingParams {
                    temperature: 0.9,
                    top_k: 40,
                    repetition_penalty: 1.1,
                    seed,
                    ..SamplingParams::default()
                };
                // The first token is drawn from the prompt's logits, the others may be drafted.
                scheduler.submit(Job { sampling, ..job(&[5, 6, 7], PLACES + 1, &sink) });
                sink
            })
            .collect();
        finish(&mut scheduler);
        for sink in sinks {
            let (seen, _) = sink.seen();
            let ids = seen.texts.iter().filter_map(|(_, token)| token.as_ref().map(|token| token.id));
            for (place, id) in ids.skip(1).take(PLACES).enumerate() {
                counts[place][id as usize] += 1.0;
            }
        }
    }
    let drafts = scheduler.load().drafts;
    if scheduler.speculation().is_some() {
        assert!(drafts.accepted > 5_000 && drafts.rejected > 5_000, "{drafts:?}");
    }
    counts
}

/// The G statistic of two samples, as a normal deviation (Wilson and Hilferty 1931); rare tokens together.
fn deviation(one: &[f64], other: &[f64]) -> f64 {
    let (all_one, all_other): (f64, f64) = (one.iter().sum(), other.iter().sum());
    let mut cells: Vec<(f64, f64)> = Vec::new();
    let mut rare = (0.0, 0.0);
    for (&a, &b) in one.iter().zip(other) {
        if a + b < 20.0 { rare = (rare.0 + a, rare.1 + b) } else { cells.push((a, b)) }
    }
    cells.push(rare);
    let term = |count: f64, expected: f64| if count > 0.0 { count * (count / expected).ln() } else { 0.0 };
    let g: f64 = cells
        .iter()
        .map(|&(a, b)| {
            let share = (a + b) / (all_one + all_other);
            2.0 * (term(a, share * all_one) + term(b, share * all_other))
        })
        .sum();
    let freedom = (cells.len() - 1).max(1) as f64;
    let spread = 2.0 / (9.0 * freedom);
    ((g / freedom).cbrt() - (1.0 - spread)) / spread.sqrt()
}

#[test]
fn sampled_drafts_leave_the_distribution_as_it_is() {
    let pool = Arc::new(Pool::new(2));
    let turns = Arc::<Turns>::default();
    let direct = sampled(Vec::new(), &pool, 0);
    let inner = draft_model("tiny-llama3-gqa4.gguf", &pool, &turns).0;
    let drafted = sampled(vec![Box::new(Always { inner, length: 2 })], &pool, 1 << 40);
    for (place, (direct, drafted)) in direct.iter().zip(&drafted).enumerate() {
        let deviation = deviation(direct, drafted);
        // Passed once in a million.
        assert!(deviation < 4.75, "place {place}: {deviation} standard deviations");
    }
    // The test sees one token that comes too often.
    let mut off = drafted[1].clone();
    let likeliest = (0..VOCABULARY).max_by(|&a, &b| off[a].total_cmp(&off[b])).unwrap();
    off[likeliest] *= 1.3;
    assert!(deviation(&direct[1], &off) > 4.75);
}
