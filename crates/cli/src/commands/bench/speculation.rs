//! `tandem bench --speculative`: how much faster a model writes when its tokens are drafted.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use clap::ValueEnum;
use engine::decoder::{Decoder, DecoderOptions, SharedDecoder};
use engine::model::{LoadOptions, Model};
use engine::sampling::SamplingParams;
use engine::scheduler::{
    Finished, Job, Output, Priority, Scheduler, SchedulerLimits, Sink, Speculation, SubmitError, Turns,
};
use engine::speculation::chain::Chain;
use engine::speculation::costs::StepCosts;
use engine::speculation::model::{DRAFT_VOCABULARY, DraftModel};
use engine::speculation::prompt_lookup::PromptLookup;
use engine::speculation::{DRAFT_TOKENS_MAX, Drafter, STEP_DRAFT_TOKENS, vocabulary};
use serde::Deserialize;
use serde_json::{Value, json};

use super::median;
use crate::commands::render::Renderer;
use crate::context::Context;
use crate::error::CliError;
use crate::output;

/// Tokens of the longest prompt with its answer.
const CONTEXT_TOKENS: usize = 4096;

/// Who drafts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum DrafterKind {
    /// What followed the same words before
    PromptLookup,
    /// The model of --draft
    Model,
    /// Each time the one that promises more
    Chain,
}

/// How `--speculative` drafts.
#[derive(Debug, clap::Args)]
pub struct Drafting {
    /// The model that drafts, with the same vocabulary
    #[arg(long, value_name = "REF", requires = "speculative", default_value = "qwen2.5-coder-0.5b")]
    draft: String,
    /// Who drafts
    #[arg(long, value_enum, requires = "speculative", default_value = "chain")]
    drafter: DrafterKind,
    /// Prompts, JSON lines of {"prompt": …}, {"messages": […]} or {"ids": […]} [default: a few of several kinds]
    #[arg(long, value_name = "FILE", requires = "speculative")]
    prompts: Option<PathBuf>,
    /// Tokens of the longest draft
    #[arg(long, value_name = "N", requires = "speculative", default_value_t = DRAFT_TOKENS_MAX)]
    draft_tokens: usize,
    /// First tokens of the vocabulary that the model may draft
    #[arg(long, value_name = "N", requires = "speculative", default_value_t = DRAFT_VOCABULARY)]
    draft_vocabulary: usize,
    /// Draft with weights of 4 bits that are made for it, not with the draft model's own
    #[arg(long, requires = "speculative")]
    coarse_weights: bool,
    /// Draft as much as may be, whatever it costs: to compare answers, not speed
    #[arg(long, requires = "speculative")]
    free_drafts: bool,
    /// Sampling temperature; 0 is greedy
    #[arg(long, value_name = "T", requires = "speculative", default_value_t = 0.0)]
    temperature: f32,
    /// Requests at once
    #[arg(long, value_name = "N", requires = "speculative", default_value_t = 1)]
    clients: usize,
}

/// A line of a prompt file.
#[derive(Debug, Deserialize)]
struct Line {
    prompt: Option<String>,
    messages: Option<Value>,
    ids: Option<Vec<u32>>,
    #[serde(default)]
    stop: Vec<String>,
}

/// A prompt, ready.
struct Prompt {
    tokens: Vec<u32>,
    stop: Vec<String>,
}

/// What became of one job.
#[derive(Default)]
struct Outcome {
    ids: Vec<u32>,
    end: Option<Result<Finished, String>>,
}

/// Where it is told.
#[derive(Clone, Default)]
struct Told(Arc<Mutex<Outcome>>);

impl Told {
    fn lock(&self) -> MutexGuard<'_, Outcome> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sink for Told {
    fn send(&mut self, output: Output) {
        let mut told = self.lock();
        match output {
            Output::Text { token, .. } => told.ids.extend(token.map(|token| token.id)),
            Output::Finished(finished) => told.end = Some(Ok(finished)),
            Output::Failed(error) => told.end = Some(Err(error.to_string())),
            Output::Started { .. } | Output::Read { .. } | Output::Expired => {}
        }
    }

    fn refuse(&mut self, error: &SubmitError) {
        self.lock().end = Some(Err(error.to_string()));
    }

    fn is_closed(&self) -> bool {
        false
    }
}

/// One prompt's answer, or several at once.
struct Answered {
    ids: Vec<Vec<u32>>,
    tokens: usize,
    /// From the first token to the last, milliseconds; the mean over jobs.
    decode_ms: f64,
    /// Tokens of the answers but the first of each, which the prompt gives.
    decoded: usize,
    total_ms: f64,
}

pub fn run(target: &str, tokens: usize, drafting: &Drafting, context: &Context) -> Result<(), CliError> {
    if drafting.clients == 0 {
        return Err(CliError::usage("--clients must be at least 1"));
    }
    let model = context.load_model(target, LoadOptions::default())?;
    let prompts = prompts(target, drafting, (&model, tokens), context)?;
    let draft = draft_model(&model, drafting, context)?;
    let mut scheduler = scheduler(&model, draft.clone(), (drafting, context))?;
    // The costs of steps, and everything once.
    while scheduler.step() {}
    answer(&mut scheduler, &prompts[..1], (16, drafting, true, "warm"))?;
    let mut pairs = Vec::new();
    for (index, group) in prompts.chunks(drafting.clients).enumerate() {
        // Who is first changes, so that what one leaves in caches helps both as often.
        let mut order = [false, true];
        if index % 2 == 1 {
            order.reverse();
        }
        let mut both = Vec::new();
        for drafts in order {
            let name = format!("{index} {drafts}");
            both.push((drafts, answer(&mut scheduler, group, (tokens, drafting, drafts, &name))?));
        }
        both.sort_by_key(|(drafts, _)| *drafts);
        let [(_, plain), (_, drafted)] = <[_; 2]>::try_from(both).map_err(|_| CliError::failed("no pair"))?;
        pairs.push((plain, drafted));
    }
    let report = report((target, drafting, draft.as_deref()), &scheduler, &pairs);
    if context.json { output::json(&report) } else { print(&report) }
}

/// The model that drafts, if one does.
fn draft_model(
    model: &Model,
    drafting: &Drafting,
    context: &Context,
) -> Result<Option<Arc<Model>>, CliError> {
    if drafting.drafter == DrafterKind::PromptLookup {
        return Ok(None);
    }
    let coarse = drafting.coarse_weights.then_some(drafting.draft_vocabulary);
    let options = LoadOptions { draft_vocabulary: coarse, ..LoadOptions::default() };
    let draft = context.load_model(&drafting.draft, options)?;
    vocabulary::compare(draft.tokenizer(), model.tokenizer())
        .map_err(|error| CliError::usage(format!("{} can't draft: {error}", drafting.draft)))?;
    Ok(Some(draft))
}

/// A scheduler that drafts as asked.
fn scheduler(
    model: &Arc<Model>,
    draft: Option<Arc<Model>>,
    (drafting, context): (&Drafting, &Context),
) -> Result<Scheduler, CliError> {
    let turns = Arc::<Turns>::default();
    let (sequences, kv_tokens) = (drafting.clients, CONTEXT_TOKENS * drafting.clients);
    let decoder = |model: Arc<Model>, options: DecoderOptions| {
        Decoder::new(model, context.pool(), context.isa(), options).map_err(CliError::failed)
    };
    let mut drafters: Vec<Box<dyn Drafter>> = Vec::new();
    if drafting.drafter != DrafterKind::Model {
        drafters.push(Box::new(PromptLookup::default()));
    }
    if let Some(draft) = draft {
        let options = DecoderOptions { guests: sequences, ..DecoderOptions::new(sequences, kv_tokens) };
        let shared = Arc::new(SharedDecoder::new(decoder(draft, options)?));
        let tokens = drafting.draft_vocabulary.clamp(1, model.vocabulary());
        let find = Box::new(move || Some(shared.clone()));
        drafters.push(Box::new(DraftModel::new(find, turns.seat(), tokens)));
    }
    let options =
        DecoderOptions { draft_tokens: STEP_DRAFT_TOKENS, ..DecoderOptions::new(sequences, kv_tokens) };
    let limits = SchedulerLimits { running_max: sequences, waiting_max: sequences, kv_tokens };
    let decoder = decoder(model.clone(), options)?;
    let speculation = Speculation::new(Chain::new(drafters).limited_to(drafting.draft_tokens));
    Ok(Scheduler::with_seat(decoder, context.isa(), limits, turns.seat()).with_speculation(
        match drafting.free_drafts {
            true => speculation.with_costs(StepCosts::free()),
            false => speculation,
        },
    ))
}

/// The prompts' tokens.
fn prompts(
    target: &str,
    drafting: &Drafting,
    (model, answer_tokens): (&Model, usize),
    context: &Context,
) -> Result<Vec<Prompt>, CliError> {
    let text = match &drafting.prompts {
        Some(path) => std::fs::read_to_string(path)
            .map_err(|error| CliError::missing(format!("can't read {}: {error}", path.display())))?,
        None => include_str!("prompts.jsonl").to_owned(),
    };
    let mut prompts = Vec::new();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let wrong = |what: String| CliError::usage(format!("line {} of the prompts: {what}", number + 1));
        let line: Line = serde_json::from_str(line).map_err(|error| wrong(error.to_string()))?;
        let tokens = match (line.prompt, line.messages, line.ids) {
            (Some(prompt), None, None) => model.tokenizer().encode(&prompt, true, false),
            (None, Some(messages), None) => {
                let text = Renderer::new(target, context)?.prompt(messages)?;
                model.tokenizer().encode(&text, false, true)
            }
            (None, None, Some(ids)) => ids,
            _ => return Err(wrong("give one of \"prompt\", \"messages\" and \"ids\"".to_owned())),
        };
        if tokens.is_empty() || tokens.len() + answer_tokens > CONTEXT_TOKENS {
            return Err(wrong(format!("{} tokens are none or too many", tokens.len())));
        }
        prompts.push(Prompt { tokens, stop: line.stop });
    }
    if prompts.is_empty() {
        return Err(CliError::usage("there are no prompts"));
    }
    Ok(prompts)
}

/// Answers prompts at once. `name` keeps the cache of one run from helping another.
fn answer(
    scheduler: &mut Scheduler,
    prompts: &[Prompt],
    (tokens, drafting, drafts, name): (usize, &Drafting, bool, &str),
) -> Result<Answered, CliError> {
    let started = std::time::Instant::now();
    let sinks: Vec<Told> = prompts
        .iter()
        .enumerate()
        .map(|(index, prompt)| {
            let told = Told::default();
            scheduler.submit(Job {
                prompt: prompt.tokens.clone(),
                max_tokens: Some(tokens),
                stop: prompt.stop.clone(),
                sampling: SamplingParams {
                    temperature: drafting.temperature,
                    seed: index as u64,
                    ..SamplingParams::default()
                },
                top_logprobs: 0,
                client: Some(name.into()),
                priority: Priority::Interactive,
                speculative: drafts,
                reading: None,
                deadline: None,
                sink: Box::new(told.clone()),
            });
            told
        })
        .collect();
    while scheduler.load().running + scheduler.load().waiting > 0 {
        scheduler.step();
    }
    let total_ms = started.elapsed().as_secs_f64() * 1e3;
    let mut answered = Answered { ids: Vec::new(), tokens: 0, decode_ms: 0.0, decoded: 0, total_ms };
    for sink in &sinks {
        let Outcome { ids, end } = std::mem::take(&mut *sink.lock());
        let finished = end.unwrap_or(Err("no end".to_owned())).map_err(CliError::failed)?;
        answered.tokens += finished.completion_tokens;
        answered.decode_ms += finished.decode_ms / sinks.len() as f64;
        answered.decoded += finished.completion_tokens.saturating_sub(1);
        answered.ids.push(ids);
    }
    Ok(answered)
}

fn report(
    (target, drafting, draft): (&str, &Drafting, Option<&Model>),
    scheduler: &Scheduler,
    pairs: &[(Answered, Answered)],
) -> Value {
    let rate = |answered: &Answered| answered.decoded as f64 / (answered.decode_ms.max(1e-9) / 1e3);
    // The first token alone says nothing of writing.
    let written = || pairs.iter().filter(|(plain, drafted)| plain.decoded > 0 && drafted.decoded > 0);
    let of = |figure: &dyn Fn(&(Answered, Answered)) -> f64| {
        let figures: Vec<f64> = written().map(figure).collect();
        if figures.is_empty() { 0.0 } else { median(figures) }
    };
    let speculation = scheduler.speculation();
    let counts = scheduler.load().drafts;
    let measured = speculation.map(Speculation::measured).unwrap_or_default();
    let places = speculation.map(Speculation::places).unwrap_or_default();
    let reached = places.iter().take_while(|(reached, _)| *reached > 0);
    let acceptance: Vec<f64> = reached.map(|&(reached, right)| right as f64 / reached as f64).collect();
    let at = |columns: &usize| speculation.map_or(0.0, |speculation| speculation.costs().at(*columns));
    let steps = StepCosts::MEASURED.iter().map(|c| json!({"tokens": c, "milliseconds": at(c)}));
    json!({
        "model": target,
        "draft": drafting.draft,
        "drafter": drafting.drafter.to_possible_value().map(|value| value.get_name().to_owned()),
        "prompts": pairs.len() * drafting.clients,
        "clients": drafting.clients,
        "temperature": drafting.temperature,
        "tokens": pairs.iter().map(|pair| pair.1.tokens).sum::<usize>(),
        "plain_tokens_per_second": of(&|pair| rate(&pair.0)),
        "tokens_per_second": of(&|pair| rate(&pair.1)),
        "speedup": of(&|pair| rate(&pair.1) / rate(&pair.0)),
        "speedup_quartiles": quartiles(written().map(|pair| rate(&pair.1) / rate(&pair.0)).collect()),
        "end_to_end_speedup": of(&|(plain, drafted)| {
            plain.total_ms / plain.tokens as f64 / (drafted.total_ms / drafted.tokens as f64)
        }),
        "expected_speedup": measured.expected_speedup(),
        "measured_speedup": measured.speedup(),
        "accepted": counts.accepted,
        "rejected": counts.rejected,
        "acceptance_by_position": acceptance,
        "draft_weights": draft.map(|draft| match draft.packed_for_drafting() {
            Some(_) => "coarse",
            None => "own",
        }),
        "draft_bytes": draft.map(|draft| draft.draft_bytes(drafting.draft_vocabulary)),
        "draft_milliseconds": speculation.map_or(0.0, Speculation::draft_ms),
        "steps": steps.collect::<Vec<_>>(),
        "differing_answers": pairs.iter().filter(|(plain, drafted)| plain.ids != drafted.ids).count(),
    })
}

fn quartiles(mut values: Vec<f64>) -> [f64; 2] {
    values.sort_by(f64::total_cmp);
    let at = |share: usize| values.get(values.len() * share / 4).copied().unwrap_or_default();
    [at(1), at(3)]
}

fn print(report: &Value) -> Result<(), CliError> {
    let number = |name: &str| report[name].as_f64().unwrap_or_default();
    output::line(&format!(
        "{}, drafts by {} ({}), {} prompts",
        report["model"].as_str().unwrap_or_default(),
        report["drafter"].as_str().unwrap_or_default(),
        report["draft"].as_str().unwrap_or_default(),
        report["prompts"]
    ))?;
    output::line(&format!(
        "without {:>7.1} tokens/s\nwith    {:>7.1} tokens/s   {:.2} × (quartiles {:.2} and {:.2}), {:.2} × with the prompt",
        number("plain_tokens_per_second"),
        number("tokens_per_second"),
        number("speedup"),
        report["speedup_quartiles"][0].as_f64().unwrap_or_default(),
        report["speedup_quartiles"][1].as_f64().unwrap_or_default(),
        number("end_to_end_speedup"),
    ))?;
    output::line(&format!(
        "drafted {} tokens right, {} wrong; steps were {:.2} × as fast as without drafts, {:.2} × expected",
        report["accepted"],
        report["rejected"],
        number("measured_speedup"),
        number("expected_speedup")
    ))?;
    let shares = report["acceptance_by_position"].as_array().into_iter().flatten();
    let shares: Vec<String> = shares.map(|s| format!("{:.2}", s.as_f64().unwrap_or_default())).collect();
    output::line(&format!("right by position: {}", shares.join(" ")))?;
    let one = report["steps"][0]["milliseconds"].as_f64().unwrap_or_default();
    let steps = report["steps"].as_array().into_iter().flatten().map(|step| {
        let ms = step["milliseconds"].as_f64().unwrap_or_default();
        format!("{} {:.2}", step["tokens"], if one > 0.0 { ms / one } else { 0.0 })
    });
    let weights = report["draft_weights"]
        .as_str()
        .map(|weights| format!(" with {weights} weights, {:.0} MB of them", number("draft_bytes") / 1e6));
    output::line(&format!(
        "a step takes {one:.1} ms, one of n tokens: {} × that; drafting one {:.1} ms{}",
        steps.collect::<Vec<_>>().join(", "),
        number("draft_milliseconds"),
        weights.unwrap_or_default()
    ))
}
