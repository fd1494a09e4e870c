//! `tandem generate`: raw completion, without a chat template.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use engine::decoder::Decoder;
use engine::model::LoadOptions;
use engine::sampling::SamplingParams;
use engine::scheduler::{
    Finished, Job, Output, Priority, Scheduler, SchedulerLimits, Sink, StopReason, SubmitError,
};
use serde_json::json;

use crate::context::Context;
use crate::error::{CliError, unreadable};
use crate::kv_type::KvTypeArg;
use crate::output;

/// Positions kept where neither the model nor the request sets a lower limit.
const CONTEXT_TOKENS: usize = 8192;

/// Continues a text
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  tandem generate smollm2-135m --prompt 'The capital of France is' --max-tokens 8"
)]
pub struct Args {
    /// The model: a .gguf file, a catalogue name, or hf:OWNER/REPO/FILE
    #[arg(value_name = "REF")]
    model: String,
    /// Text to continue
    #[arg(long, value_name = "TEXT", group = "input", required = true)]
    prompt: Option<String>,
    /// File with the text to continue
    #[arg(long, value_name = "FILE", group = "input")]
    prompt_file: Option<PathBuf>,
    /// Tokens to continue, separated by commas
    #[arg(long, value_name = "IDS", group = "input", value_delimiter = ',')]
    ids: Option<Vec<u32>>,
    /// Most tokens to write
    #[arg(long, value_name = "N", default_value_t = 128)]
    max_tokens: usize,
    /// 0 takes the likeliest token each time
    #[arg(long, value_name = "T", default_value_t = 0.0)]
    temperature: f32,
    /// Keep the likeliest tokens up to this mass
    #[arg(long, value_name = "P", default_value_t = 1.0)]
    top_p: f32,
    /// Keep the K likeliest tokens; 0 keeps all
    #[arg(long, value_name = "K", default_value_t = 0)]
    top_k: u32,
    /// Same seed, same text
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Text that ends the answer; may be given several times
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
    /// Unquantized activations and, unless --kv-type says otherwise, f32 key-value cache: slow and exact
    #[arg(long)]
    exact: bool,
    #[command(flatten)]
    kv_type: KvTypeArg,
}

impl Args {
    fn check(&self) -> Result<(), CliError> {
        if !(0.0..=100.0).contains(&self.temperature) {
            return Err(CliError::usage(format!("--temperature {} is not in 0..=100", self.temperature)));
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return Err(CliError::usage(format!("--top-p {} is not above 0 and at most 1", self.top_p)));
        }
        if self.max_tokens == 0 {
            return Err(CliError::usage("--max-tokens must be at least 1"));
        }
        Ok(())
    }
}

/// What the scheduler told.
#[derive(Default)]
struct Told {
    ids: Vec<u32>,
    text: String,
    end: Option<Result<Finished, String>>,
}

/// Collects the output, and prints it as it comes unless it is for machines.
#[derive(Clone)]
struct Printer {
    told: Arc<Mutex<Told>>,
    is_silent: bool,
}

impl Printer {
    fn told(&self) -> std::sync::MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sink for Printer {
    fn send(&mut self, output: Output) {
        let mut told = self.told();
        match output {
            Output::Started { .. } | Output::Read { .. } | Output::Expired => {}
            Output::Text { text, token, .. } => {
                told.ids.extend(token.map(|t| t.id));
                told.text += &text;
                if !self.is_silent && output::text(&text).is_err() {
                    told.end = Some(Err("the output was closed".to_owned()));
                }
            }
            Output::Finished(finished) => told.end = Some(Ok(finished)),
            Output::Failed(error) => told.end = Some(Err(error.to_string())),
        }
    }

    fn refuse(&mut self, error: &SubmitError) {
        self.told().end = Some(Err(error.to_string()));
    }

    fn is_closed(&self) -> bool {
        matches!(self.told().end, Some(Err(_)))
    }
}

pub fn run(args: Args, context: &Context) -> Result<(), CliError> {
    args.check()?;
    let text = match (&args.prompt, &args.prompt_file) {
        (Some(text), _) => Some(text.clone()),
        (None, Some(path)) => Some(std::fs::read_to_string(path).map_err(|e| unreadable(path, &e))?),
        (None, None) => None,
    };
    let model =
        context.load_model(&args.model, LoadOptions { exact: args.exact, ..LoadOptions::default() })?;
    let prompt = match (text, args.ids) {
        (Some(text), _) => model.tokenizer().encode(&text, true, false),
        (None, ids) => ids.unwrap_or_default(),
    };
    let limit = model.spec().context_tokens.min(CONTEXT_TOKENS.max(prompt.len() + args.max_tokens));
    let decoder_options = args.kv_type.decoder_options(limit);
    let decoder =
        Decoder::new(model, context.pool(), context.isa(), decoder_options).map_err(CliError::failed)?;
    let limits = SchedulerLimits { running_max: 1, waiting_max: 1, kv_tokens: limit };
    let mut scheduler = Scheduler::new(decoder, context.isa(), limits);
    let printer = Printer { told: Arc::default(), is_silent: context.json };
    scheduler.submit(Job {
        prompt: prompt.clone(),
        max_tokens: Some(args.max_tokens),
        stop: args.stop,
        sampling: SamplingParams {
            temperature: args.temperature,
            top_p: args.top_p,
            top_k: args.top_k,
            seed: args.seed,
            reproducible: true,
            ..SamplingParams::default()
        },
        top_logprobs: 0,
        client: None,
        priority: Priority::Interactive,
        speculative: false,
        reading: None,
        deadline: None,
        sink: Box::new(printer.clone()),
    });
    while scheduler.step() {}
    let told = std::mem::take(&mut *printer.told());
    let finished = match told.end {
        Some(Ok(finished)) => finished,
        Some(Err(why)) => return Err(CliError::failed(why)),
        None => return Err(CliError::failed("generation ended without a result")),
    };
    if !context.json {
        return output::text("\n");
    }
    output::json(&json!({
        "prompt_ids": prompt,
        "ids": told.ids,
        "text": told.text,
        "finish_reason": match finished.reason {
            StopReason::EndOfGeneration | StopReason::StopString => "stop",
            StopReason::Length => "length",
        },
        "timings": {
            "prompt_ms": finished.prompt_ms,
            "decode_ms": finished.decode_ms,
            "prompt_tokens": finished.prompt_tokens,
            "completion_tokens": finished.completion_tokens,
        },
    }))
}
