//! Hidden states: the same however a prompt is read, and really the model's; and jobs that wait after reading.

mod jobs;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use engine::decoder::{Decoder, DecoderOptions, LayerSet, LayerState, Logits, SequenceId, Work};
use engine::gguf::Gguf;
use engine::model::{LoadOptions, Model};
use engine::scheduler::{Hold, Output, ReadingJob, Scheduler, SchedulerLimits, Sink, SubmitError};
use kernels::attention::KvType;
use kernels::isa::Isa;
use kernels::pool::Pool;

const ALL: u32 = LayerSet::LAYERS_MAX;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/tiny")
}

fn names() -> Vec<String> {
    let files = std::fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().file_name());
    files.map(|name| name.into_string().unwrap()).filter(|name| name.ends_with(".gguf")).collect()
}

fn decoder(name: &str, exact: bool, threads: usize) -> Decoder {
    let pool = Arc::new(Pool::new(threads));
    let options = LoadOptions { exact, ..LoadOptions::default() };
    let model = Model::load(&folder().join(name), options, &pool).unwrap();
    let reading_layers = LayerSet::of(0..ALL);
    let options = DecoderOptions { reading_layers, batch_tokens: 150, ..DecoderOptions::new(3, 1024) };
    Decoder::new(Arc::new(model), pool, Isa::detect(), options).unwrap()
}

fn prompt(decoder: &Decoder, tokens: u32) -> Vec<u32> {
    (0..tokens).map(|n| (n * n + 7 * n + 3) % decoder.model().vocabulary() as u32).collect()
}

/// Reads `parts` of a prompt, each beside as many tokens of another sequence as `beside` says.
fn read(decoder: &mut Decoder, sequence: SequenceId, (prompt, parts): (&[u32], &[usize]), beside: &[usize]) {
    let other = decoder.begin().unwrap();
    let mut rest = prompt;
    for (index, &part) in parts.iter().enumerate() {
        let (tokens, after) = rest.split_at(part);
        rest = after;
        let more = vec![5; beside.get(index).copied().unwrap_or(0)];
        let mut works = vec![Work { sequence, tokens, logits: Logits::Last }];
        if !more.is_empty() {
            works.insert(0, Work { sequence: other, tokens: &more, logits: Logits::None });
        }
        decoder.forward(&works).unwrap();
        decoder.settle(sequence, tokens);
    }
    assert!(rest.is_empty());
    decoder.end(other);
}

#[test]
fn states_are_the_same_however_a_prompt_is_read() {
    for name in names() {
        let mut decoder = decoder(&name, false, 2);
        let layers = decoder.reading_layers();
        assert_eq!(layers.iter().count(), decoder.model().spec().layers.len() + 1);
        let prompt = prompt(&decoder, 200);
        // Token by token, and every token's own state summed up here.
        let mut sums: Vec<Vec<f32>> = Vec::new();
        let sequence = decoder.begin().unwrap();
        let mut naive = Vec::new();
        for token in &prompt {
            let tokens = std::slice::from_ref(token);
            decoder.forward(&[Work { sequence, tokens, logits: Logits::Last }]).unwrap();
            naive = decoder.states(sequence, layers);
            sums.resize(naive.len(), vec![0.0; naive[0].last.len()]);
            for (sum, state) in sums.iter_mut().zip(&naive) {
                sum.iter_mut().zip(&state.last).for_each(|(sum, value)| *sum += value);
            }
        }
        decoder.end(sequence);
        for (sum, state) in sums.iter().zip(&mut naive) {
            let mean: Vec<f32> = sum.iter().map(|sum| sum / prompt.len() as f32).collect();
            assert_eq!(state.mean, mean, "{name}, layer {}", state.layer);
        }
        let split: [(&[usize], &[usize]); 3] =
            [(&[150, 50], &[0, 9]), (&[64, 64, 64, 8], &[1, 30]), (&[1, 3, 140, 56], &[])];
        for (parts, beside) in split {
            let sequence = decoder.begin().unwrap();
            read(&mut decoder, sequence, (&prompt, parts), beside);
            assert_eq!(decoder.states(sequence, layers), naive, "{name} in parts of {parts:?}");
            decoder.end(sequence);
        }
        // What is in the cache by now is not read again.
        let (sequence, _) = decoder.begin_with(1, &prompt).unwrap();
        read(&mut decoder, sequence, (&prompt, &[150, 50]), &[]);
        decoder.end(sequence);
        let (sequence, cached) = decoder.begin_with(1, &prompt).unwrap();
        assert_eq!(cached, 192, "{name}");
        decoder.forward(&[Work { sequence, tokens: &prompt[cached..], logits: Logits::Last }]).unwrap();
        assert_eq!(decoder.states(sequence, layers), naive, "{name} from the cache");
    }
}

#[test]
fn what_is_cut_off_again_leaves_no_trace() {
    for name in names() {
        let mut decoder = decoder(&name, false, 1);
        let layers = decoder.reading_layers();
        let prompt = prompt(&decoder, 140);
        let fresh = decoder.begin().unwrap();
        read(&mut decoder, fresh, (&prompt, &[140]), &[]);
        let expected = decoder.states(fresh, layers);
        decoder.end(fresh);
        // Drafts of seven, of which three are right, over the borders of blocks.
        let sequence = decoder.begin().unwrap();
        decoder.forward(&[Work { sequence, tokens: &prompt[..62], logits: Logits::None }]).unwrap();
        let mut read = 62;
        while read < prompt.len() {
            let right = &prompt[read..prompt.len().min(read + 3)];
            let tokens: Vec<u32> = right.iter().copied().chain([9, 8, 7, 6]).collect();
            decoder.forward(&[Work { sequence, tokens: &tokens, logits: Logits::All }]).unwrap();
            read += right.len();
            decoder.truncate(sequence, read);
        }
        decoder.truncate(sequence, read - 1);
        decoder.forward(&[Work { sequence, tokens: &prompt[read - 1..], logits: Logits::Last }]).unwrap();
        assert_eq!(decoder.states(sequence, layers), expected, "{name}");
        decoder.end(sequence);
    }
}

/// Without anybody who asks for states of the last layer, only tokens whose logits are wanted go through it.
#[test]
fn logits_do_not_depend_on_who_else_goes_through_the_last_layer() {
    for (name, kv_type) in
        names().into_iter().flat_map(|name| [(name.clone(), KvType::F16), (name, KvType::Q8)])
    {
        let all = decoder(&name, false, 2);
        let model = all.model().clone();
        if kv_type.check(model.spec().head_dim).is_err() {
            continue;
        }
        let prompt = prompt(&all, 120);
        let logits = |reading_layers: LayerSet| {
            let options =
                DecoderOptions { reading_layers, batch_tokens: 150, kv_type, ..DecoderOptions::new(4, 1024) };
            let mut decoder =
                Decoder::new(model.clone(), Arc::new(Pool::new(2)), Isa::detect(), options).unwrap();
            let s: Vec<SequenceId> = (0..4).map(|_| decoder.begin().unwrap()).collect();
            let work = |index: usize, tokens, logits| Work { sequence: s[index], tokens, logits };
            let passes = [
                vec![work(0, &prompt[..70], Logits::None), work(1, &prompt[..5], Logits::None)],
                vec![
                    work(2, &prompt[..9], Logits::All),
                    work(0, &prompt[70..80], Logits::None),
                    work(1, &prompt[5..77], Logits::Last),
                    work(3, &prompt[..40], Logits::Tail(3)),
                ],
                vec![work(0, &prompt[80..], Logits::Tail(2)), work(3, &prompt[40..41], Logits::Last)],
                vec![work(1, &prompt[77..78], Logits::Tail(9)), work(2, &prompt[9..20], Logits::None)],
            ];
            passes.map(|works| decoder.forward(&works).unwrap().to_vec())
        };
        let whole = logits(LayerSet::of(0..ALL));
        assert_eq!(whole.each_ref().map(|logits| logits.len() / model.vocabulary()), [0, 13, 3, 1], "{name}");
        for layers in [LayerSet::default(), LayerSet::of([1])] {
            assert_eq!(logits(layers), whole, "{name}, {kv_type:?}, {layers:?}");
        }
    }
}

/// The last layer's state, through the final norm and the output matrix, are the logits; the first is the
/// embedding.
#[test]
fn states_are_the_models_own() {
    let name = "tiny-llama3-gqa4.gguf";
    let file = Gguf::open(&folder().join(name)).unwrap();
    let floats = |name: &str| {
        let tensor = file.required_tensor(name).unwrap();
        let mut values = vec![0.0; tensor.columns() * tensor.rows()];
        tensor.format().dequantize(file.data(tensor), &mut values);
        (values, tensor.columns())
    };
    let (norm, hidden) = floats("output_norm.weight");
    let (embedding, _) = floats("token_embd.weight");
    let output =
        file.tensor("output.weight").map_or_else(|| embedding.clone(), |_| floats("output.weight").0);
    let mut decoder = decoder(name, true, 2);
    let prompt = prompt(&decoder, 70);
    let sequence = decoder.begin().unwrap();
    let logits =
        decoder.forward(&[Work { sequence, tokens: &prompt, logits: Logits::Last }]).unwrap().to_vec();
    let states = decoder.states(sequence, decoder.reading_layers());
    let last = &states.last().unwrap().last;
    let square = last.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / hidden as f64;
    let scale = (square + f64::from(decoder.model().spec().norm_epsilon)).sqrt().recip();
    let normed: Vec<f64> =
        last.iter().zip(&norm).map(|(x, w)| f64::from(*x) * scale * f64::from(*w)).collect();
    for (logit, row) in logits.iter().zip(output.chunks_exact(hidden)) {
        let expected: f64 = row.iter().zip(&normed).map(|(w, x)| f64::from(*w) * x).sum();
        assert!((f64::from(*logit) - expected).abs() < 1e-3, "{logit} for {expected}");
    }
    let token = *prompt.last().unwrap() as usize;
    assert_eq!(states[0].last, embedding[token * hidden..][..hidden]);
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

impl Recorder {
    /// Ids written, and the reading if it was told.
    fn told(&self) -> (Vec<u32>, Option<Vec<LayerState>>) {
        let outputs = self.0.lock().unwrap();
        let ids = outputs.iter().filter_map(|output| match output {
            Output::Text { token, .. } => token.as_ref().map(|token| token.id),
            _ => None,
        });
        let reading = outputs.iter().find_map(|output| match output {
            Output::Read { states, .. } => Some(states.clone()),
            _ => None,
        });
        (ids.collect(), reading)
    }
}

/// However a prompt is read, also one that is in the cache, every token's own state is told.
#[test]
fn the_states_at_all_tokens_are_told_of_prompts_that_are_in_the_cache_too() {
    let mut decoder = decoder("tiny-qwen2.gguf", false, 2);
    let prompt = prompt(&decoder, 200);
    let token_layers = LayerSet::of([0, 2]);
    let mut naive: Vec<Vec<f32>> = vec![Vec::new(); 2];
    let sequence = decoder.begin().unwrap();
    for token in &prompt {
        decoder
            .forward(&[Work { sequence, tokens: std::slice::from_ref(token), logits: Logits::None }])
            .unwrap();
        for (all, state) in naive.iter_mut().zip(decoder.states(sequence, token_layers)) {
            all.extend(state.last);
        }
    }
    decoder.end(sequence);
    let limits = SchedulerLimits { running_max: 3, waiting_max: 4, kv_tokens: 1024 };
    let mut scheduler = Scheduler::new(decoder, Isa::detect(), limits);
    for round in 0..3 {
        let (told, beside) = (Recorder::default(), Recorder::default());
        let mut job = jobs::job(&prompt, 0, Box::new(told.clone()));
        job.reading = Some(ReadingJob { token_layers, ..ReadingJob::default() });
        scheduler.submit(jobs::job(&prompt[..190 - round], 2, Box::new(beside.clone())));
        scheduler.submit(job);
        while scheduler.step() {}
        let outputs = told.0.lock().unwrap();
        let read = outputs.iter().find_map(|output| match output {
            Output::Read { tokens, .. } => Some(tokens),
            _ => None,
        });
        let found: Vec<(u32, &[f32])> =
            read.unwrap().iter().map(|tokens| (tokens.layer, &tokens.states[..])).collect();
        assert!(found == [(0, &naive[0][..]), (2, &naive[1][..])], "round {round}");
        assert!(outputs.iter().any(|output| matches!(output, Output::Started { cached_tokens: 0 })));
    }
}

#[test]
fn a_held_job_has_read_waits_lets_others_pass_and_goes_on_without_reading_again() {
    let decoder = decoder("tiny-qwen2.gguf", false, 2);
    let prompt = prompt(&decoder, 200);
    let limits = SchedulerLimits { running_max: 3, waiting_max: 4, kv_tokens: 1024 };
    let mut scheduler = Scheduler::new(decoder, Isa::detect(), limits);
    let plain = Recorder::default();
    scheduler.submit(jobs::job(&prompt, 12, Box::new(plain.clone())));
    while scheduler.step() {}
    let layers = LayerSet::of([1]);
    let (held, hold) = (Recorder::default(), Hold::default());
    let mut job = jobs::job(&prompt[..199], 12, Box::new(held.clone()));
    job.reading = Some(ReadingJob { layers, hold: Some(hold.clone()), ..ReadingJob::default() });
    scheduler.submit(job);
    while scheduler.step() {}
    let read = scheduler.decoder().tokens_read();
    let (written, reading) = held.told();
    assert!(written.len() <= 1, "it went on by itself");
    assert_eq!(reading.unwrap().iter().map(|state| state.layer).collect::<Vec<_>>(), [1]);
    assert_eq!(scheduler.load().running, 1);
    let other = Recorder::default();
    scheduler.submit(jobs::job(&prompt, 12, Box::new(other.clone())));
    while scheduler.step() {}
    assert_eq!(other.told().0, plain.told().0);
    let read_by_other = scheduler.decoder().tokens_read() - read;
    hold.release();
    while scheduler.step() {}
    let after = scheduler.decoder().tokens_read() - read - read_by_other;
    let (written, _) = held.told();
    // The last token drawn is not read.
    assert_eq!((written.len(), after), (12, 11));
    assert_eq!(scheduler.load().running, 0);
    // Reading alone, nothing written.
    let only = Recorder::default();
    let mut job = jobs::job(&prompt, 0, Box::new(only.clone()));
    job.reading = Some(ReadingJob { layers, ..ReadingJob::default() });
    scheduler.submit(job);
    while scheduler.step() {}
    let (written, reading) = only.told();
    assert!(written.is_empty() && reading.is_some_and(|states| states.len() == 1));
    assert!(
        matches!(only.0.lock().unwrap().last(), Some(Output::Finished(end)) if end.completion_tokens == 0)
    );
}
