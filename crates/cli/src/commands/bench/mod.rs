//! `tandem bench`: how fast a model runs, beside what the machine could do at most.

mod speculation;

use std::sync::Arc;
use std::time::Instant;

use engine::decoder::{
    BATCH_TOKENS_DEFAULT, BATCH_TOKENS_MAX, Decoder, DecoderOptions, ForwardError, Logits, SequenceId, Work,
};
use engine::model::{LoadOptions, Model};
use engine::packed::{PackedCache, PackedOutcome};
use kernels::probe;
use serde_json::{Value, json};

use crate::budget::resident_bytes;
use crate::context::{self, Context};
use crate::error::CliError;
use crate::kv_type::KvTypeArg;
use crate::{output, settings};

/// Repeats of the machine's own measurements.
const PROBE_REPEATS: usize = 3;
/// The folder of this command's own packed weights, in that of the cache.
const PRIVATE_FOLDER: &str = "bench";
/// Steps per measurement of a verify width.
const VERIFY_STEPS: usize = 8;
/// Longest prompt read once before anything is timed, in tokens: enough to touch every weight.
const WARM_UP_TOKENS_MAX: usize = BATCH_TOKENS_MAX;

/// Measures reading a prompt, writing, and verifying drafts
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  tandem bench qwen2.5-coder-1.5b --threads 2 --json\n  \
                       tandem bench qwen2.5-coder-1.5b --speculative --draft qwen2.5-coder-0.5b")]
pub struct Args {
    /// The model: a .gguf file, a catalogue name, or hf:OWNER/REPO/FILE
    #[arg(value_name = "REF")]
    model: String,
    /// Tokens of the prompt
    #[arg(long, value_name = "N", default_value_t = 512)]
    prompt_tokens: usize,
    /// Tokens to write
    #[arg(long, value_name = "N", default_value_t = 64)]
    generate_tokens: usize,
    /// Tokens in the cache when writing begins; what the prompt lacks is read untimed [default: the prompt's]
    #[arg(long, value_name = "N")]
    context_tokens: Option<usize>,
    /// Widths of verify steps, in tokens
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_values_t = [1, 2, 4, 8])]
    verify: Vec<usize>,
    /// Repeats; medians are told
    #[arg(long, value_name = "N", default_value_t = 3)]
    repeat: usize,
    /// Measure speculative decoding instead: every prompt is answered with drafts and without, in turn
    #[arg(long)]
    speculative: bool,
    #[command(flatten)]
    drafting: speculation::Drafting,
    #[command(flatten)]
    kv_type: KvTypeArg,
}

/// A sequence with a prompt read.
struct Run<'a> {
    decoder: &'a mut Decoder,
    sequence: SequenceId,
}

impl<'a> Run<'a> {
    fn begin(decoder: &'a mut Decoder, prompt: &[u32]) -> Result<Self, ForwardError> {
        let sequence = decoder.begin()?;
        let mut run = Run { decoder, sequence };
        run.read(prompt)?;
        Ok(run)
    }

    /// Reads tokens in full batches, as a prompt is read.
    fn read(&mut self, tokens: &[u32]) -> Result<(), ForwardError> {
        let last = tokens.len().saturating_sub(1) / BATCH_TOKENS_DEFAULT;
        for (index, tokens) in tokens.chunks(BATCH_TOKENS_DEFAULT).enumerate() {
            let logits = if index == last { Logits::Last } else { Logits::None };
            self.decoder.forward(&[Work { sequence: self.sequence, tokens, logits }])?;
        }
        Ok(())
    }

    fn step(&mut self, tokens: &[u32]) -> Result<(), ForwardError> {
        let work = Work { sequence: self.sequence, tokens, logits: Logits::All };
        self.decoder.forward(&[work]).map(|_| ())
    }
}

impl Args {
    /// Tokens in the cache when writing begins.
    fn depth(&self) -> usize {
        self.context_tokens.unwrap_or(self.prompt_tokens)
    }

    /// Tokens in the cache at the end of a repeat: writing and verifying go on in one sequence.
    fn longest(&self) -> usize {
        self.depth() + self.generate_tokens + VERIFY_STEPS * self.verify.iter().sum::<usize>()
    }

    fn check(&self) -> Result<(), CliError> {
        if self.prompt_tokens == 0
            || self.generate_tokens == 0
            || self.repeat == 0
            || self.verify.contains(&0)
        {
            return Err(CliError::usage("tokens, widths and repeats must be at least 1"));
        }
        if let Some(widest) = self.verify.iter().find(|&&width| width > BATCH_TOKENS_MAX) {
            let limit = BATCH_TOKENS_MAX;
            return Err(CliError::usage(format!("--verify {widest} is wider than a batch of {limit}")));
        }
        if self.depth() < self.prompt_tokens {
            let (depth, prompt) = (self.depth(), self.prompt_tokens);
            return Err(CliError::usage(format!(
                "--context-tokens {depth} is less than the prompt's {prompt} tokens; raise it or lower --prompt-tokens"
            )));
        }
        Ok(())
    }
}

impl Drop for Run<'_> {
    fn drop(&mut self) {
        self.decoder.end(self.sequence);
    }
}

pub fn run(args: Args, context: &Context) -> Result<(), CliError> {
    args.check()?;
    if args.speculative {
        return speculation::run(&args.model, args.generate_tokens, &args.drafting, context);
    }
    let (model, load) = load_twice(&args.model, context)?;
    let longest = args.longest();
    if longest > model.spec().context_tokens {
        let limit = model.spec().context_tokens;
        return Err(CliError::usage(format!("{longest} tokens exceed the model's context of {limit}")));
    }
    let widest = args.verify.iter().copied().max().unwrap_or(0);
    let options = args.kv_type.decoder_options(longest);
    let options = DecoderOptions { batch_tokens: options.batch_tokens.max(widest), ..options };
    let mut decoder =
        Decoder::new(model.clone(), context.pool(), context.isa(), options).map_err(CliError::failed)?;
    let measured = measure(&args, &mut decoder).map_err(CliError::failed)?;
    let report = report(&args, context, (&model, load), measured);
    if context.json { output::json(&report) } else { print(&report) }
}

/// How long loading took, seconds.
#[derive(Clone, Copy)]
struct Load {
    /// Packing the weights, and writing them to the cache.
    first: f64,
    /// With what the first wrote.
    later: f64,
}

/// A cache of this run alone, on the disk where packed weights are kept; removed at the end.
struct PrivateCache(PackedCache);

impl PrivateCache {
    fn new(settings: PackedCache) -> Self {
        let cache = PrivateCache(PackedCache { folder: settings.folder.join(PRIVATE_FOLDER), ..settings });
        cache.remove();
        cache
    }

    fn remove(&self) {
        // What a run that was killed left behind, or nothing.
        let _ = std::fs::remove_dir_all(&self.0.folder);
    }
}

impl Drop for PrivateCache {
    fn drop(&mut self) {
        self.remove();
    }
}

/// Loads the model into an empty cache, then again through it; once if packed weights are not kept.
fn load_twice(model: &str, context: &Context) -> Result<(Arc<Model>, Load), CliError> {
    let path = context.resolve(model)?;
    let cache = settings::cache(context)?.packed(context).map(PrivateCache::new);
    let load = || {
        let options =
            LoadOptions { cache: cache.as_ref().map(|private| private.0.clone()), ..LoadOptions::default() };
        let started = Instant::now();
        let model = context::load(&path, options, &context.pool())?;
        Ok::<_, CliError>((Arc::new(model), started.elapsed().as_secs_f64()))
    };
    let (model, first) = load()?;
    if !matches!(model.packed(), PackedOutcome::Written { .. }) {
        return Ok((model, Load { first, later: first }));
    }
    drop(model);
    let (model, later) = load()?;
    if !matches!(model.packed(), PackedOutcome::Hit) {
        return Err(CliError::failed("another bench removed the packed weights; run one at a time"));
    }
    Ok((model, Load { first, later }))
}

/// Medians, seconds.
struct Measured {
    prompt: f64,
    decode: f64,
    verify: Vec<(usize, f64)>,
}

fn measure(args: &Args, decoder: &mut Decoder) -> Result<Measured, ForwardError> {
    let vocabulary = decoder.model().vocabulary() as u32;
    let context: Vec<u32> = (0..args.depth() as u32).map(|i| (i * 7919 + 11) % vocabulary).collect();
    let (prompt, rest) = context.split_at(args.prompt_tokens);
    Run::begin(decoder, &prompt[..prompt.len().min(WARM_UP_TOKENS_MAX)])?;
    let (mut prompts, mut decodes) = (Vec::new(), Vec::new());
    let mut widths: Vec<(usize, Vec<f64>)> = args.verify.iter().map(|&w| (w, Vec::new())).collect();
    for _ in 0..args.repeat {
        let start = Instant::now();
        let mut run = Run::begin(decoder, prompt)?;
        prompts.push(start.elapsed().as_secs_f64());
        run.read(rest)?;
        let start = Instant::now();
        for i in 0..args.generate_tokens {
            run.step(&prompt[i % prompt.len()..][..1])?;
        }
        decodes.push(start.elapsed().as_secs_f64());
        // Widths alternate, so that a slow moment hits all of them.
        for _ in 0..VERIFY_STEPS {
            for (width, seconds) in &mut widths {
                let tokens: Vec<u32> = prompt.iter().cycle().take(*width).copied().collect();
                let start = Instant::now();
                run.step(&tokens)?;
                seconds.push(start.elapsed().as_secs_f64());
            }
        }
    }
    let verify = widths.into_iter().map(|(width, seconds)| (width, median(seconds))).collect();
    Ok(Measured { prompt: median(prompts), decode: median(decodes), verify })
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn report(args: &Args, context: &Context, (model, load): (&Arc<Model>, Load), measured: Measured) -> Value {
    let pool = context.pool();
    let bandwidth = probe::read_bandwidth(context.isa(), &pool, PROBE_REPEATS);
    let peak = probe::int8_peak(context.isa(), &pool, PROBE_REPEATS);
    let prompt_rate = args.prompt_tokens as f64 / measured.prompt;
    let decode_rate = args.generate_tokens as f64 / measured.decode;
    let bytes = model.weight_bytes() as f64;
    let one = measured.verify.iter().find(|(width, _)| *width == 1).map(|v| v.1);
    let one = one.unwrap_or(measured.decode / args.generate_tokens as f64);
    let verify: Vec<Value> = measured
        .verify
        .iter()
        .map(|&(tokens, s)| json!({"tokens": tokens, "milliseconds": s * 1e3, "ratio": s / one}))
        .collect();
    json!({
        "model": args.model,
        "threads": pool.threads(),
        "isa": context.isa().label(),
        "load_seconds": load.later,
        "first_load_seconds": load.first,
        "rss_bytes": resident_bytes().unwrap_or(0),
        "prompt": {
            "tokens": args.prompt_tokens,
            "tokens_per_second": prompt_rate,
            "int8_peak_fraction": prompt_rate * model.layer_macs_per_token() as f64 / peak,
        },
        "decode": {
            "tokens": args.generate_tokens,
            "context_tokens": args.depth(),
            "tokens_per_second": decode_rate,
            "bytes_per_token": bytes,
            "bandwidth_fraction": decode_rate * bytes / bandwidth,
        },
        "verify": verify,
        "machine": {
            "read_bandwidth_gb_s": bandwidth / 1e9,
            "int8_gmac_s": peak / 1e9,
        },
    })
}

fn print(report: &Value) -> Result<(), CliError> {
    let number = |pointer: &str| report.pointer(pointer).and_then(Value::as_f64).unwrap_or_default();
    output::line(&format!(
        "{}, {} threads, {}: first loaded in {:.2} s, later in {:.2} s, {:.2} GB resident",
        report["model"].as_str().unwrap_or_default(),
        report["threads"],
        report["isa"].as_str().unwrap_or_default(),
        number("/first_load_seconds"),
        number("/load_seconds"),
        number("/rss_bytes") / 1e9
    ))?;
    output::line(&format!(
        "prompt  {:>8.1} tokens/s   {:>3.0}% of int8 peak ({:.0} GMAC/s)",
        number("/prompt/tokens_per_second"),
        number("/prompt/int8_peak_fraction") * 100.0,
        number("/machine/int8_gmac_s")
    ))?;
    output::line(&format!(
        "decode  {:>8.1} tokens/s   {:>3.0}% of read bandwidth ({:.1} GB/s)",
        number("/decode/tokens_per_second"),
        number("/decode/bandwidth_fraction") * 100.0,
        number("/machine/read_bandwidth_gb_s")
    ))?;
    for step in report["verify"].as_array().into_iter().flatten() {
        output::line(&format!(
            "step of {:>3} tokens {:>8.2} ms   {:.2} × one",
            step["tokens"],
            step["milliseconds"].as_f64().unwrap_or_default(),
            step["ratio"].as_f64().unwrap_or_default()
        ))?;
    }
    Ok(())
}
