//! `tandem inspect`: what is in a model file and what running it takes.

use engine::gguf::{Gguf, Value};
use serde::Serialize;
use serde_json::{Map, json};

use crate::context::{Context, in_file};
use crate::error::CliError;
use crate::footprint::Footprint;
use crate::output;

/// Arrays of more elements (vocabularies) are shown by their length only.
const ARRAY_SHOWN_MAX: usize = 64;
/// Characters of a text in the listing for people.
const TEXT_SHOWN_CHARS: usize = 80;
/// Context that memory is told for unless `--context` is given, tokens.
const CONTEXT_TOKENS_DEFAULT: u64 = 8192;

/// Show a model file's metadata, tensors and layers, and the memory it needs
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  tandem inspect qwen2.5-coder-1.5b --context 32768")]
pub struct Args {
    /// A .gguf file, a catalogue name, or hf:OWNER/REPO/FILE
    #[arg(value_name = "REF")]
    reference: String,
    /// Tokens of one sequence that memory is told for [default: 8192, or the model's limit]
    #[arg(long, value_name = "TOKENS", value_parser = clap::value_parser!(u64).range(1..))]
    context: Option<u64>,
}

/// Tensors of one type.
#[derive(Debug, Serialize)]
struct TensorType {
    #[serde(rename = "type")]
    name: &'static str,
    count: u64,
    values: u64,
    bytes: u64,
}

#[derive(Serialize)]
struct Layer {
    layer: usize,
    kv_heads: u32,
    head_dim: u32,
    /// Tokens of the sliding window; null: all of the context.
    sliding_window_tokens: Option<u64>,
}

#[derive(Serialize)]
struct Memory {
    context_tokens: u64,
    weights_bytes: u64,
    kv_bytes: u64,
    total_bytes: u64,
}

#[derive(Serialize)]
struct Inspected {
    path: String,
    bytes: u64,
    gguf_version: u32,
    architecture: String,
    context_tokens_max: u64,
    parameters: u64,
    has_chat_template: bool,
    kv_bytes_per_token: u64,
    memory: Memory,
    tensors: Vec<TensorType>,
    layers: Vec<Layer>,
    metadata: Map<String, serde_json::Value>,
}

/// Runs the command.
///
/// # Errors
/// If the file is no model that the engine runs.
pub fn run(args: Args, context: &Context) -> Result<(), CliError> {
    let path = context.resolve(&args.reference)?;
    let gguf = context.open_gguf(&args.reference)?;
    let tensors = tensor_types(&gguf);
    let metadata = gguf.metadata().map(|(key, value)| (key.to_owned(), shown(value))).collect();
    let gguf_version = gguf.version();
    let has_chat_template = gguf.value("tokenizer.chat_template").is_some();
    let footprint = Footprint::of(gguf).map_err(|error| in_file(&path, &error))?;

    let limit = footprint.context_tokens_max;
    let context_tokens = args.context.unwrap_or(CONTEXT_TOKENS_DEFAULT.min(limit));
    if context_tokens > limit {
        return Err(CliError::usage(format!(
            "--context {context_tokens} is more than the {limit} tokens this model was made for"
        )));
    }
    let kv_bytes = footprint.kv_bytes(context_tokens);
    let weights_bytes = tensors.iter().map(|tensor| tensor.bytes).sum();
    let inspected = Inspected {
        path: path.display().to_string(),
        bytes: footprint.file_bytes,
        gguf_version,
        context_tokens_max: limit,
        parameters: tensors.iter().map(|tensor| tensor.values).sum(),
        has_chat_template,
        kv_bytes_per_token: footprint.kv_bytes_per_token(),
        memory: Memory { context_tokens, weights_bytes, kv_bytes, total_bytes: weights_bytes + kv_bytes },
        tensors,
        layers: layers(&footprint),
        architecture: footprint.architecture,
        metadata,
    };
    if context.json { output::json(&inspected) } else { inspected.print() }
}

/// By type, in the order in which types first appear.
fn tensor_types(gguf: &Gguf) -> Vec<TensorType> {
    let mut types: Vec<TensorType> = Vec::new();
    for tensor in gguf.tensors() {
        let name = tensor.format().name();
        let index = types.iter().position(|known| known.name == name).unwrap_or_else(|| {
            types.push(TensorType { name, count: 0, values: 0, bytes: 0 });
            types.len() - 1
        });
        types[index].count += 1;
        types[index].values += tensor.dims().iter().product::<u64>();
        types[index].bytes += tensor.byte_range().len() as u64;
    }
    types
}

fn layers(footprint: &Footprint) -> Vec<Layer> {
    let layer = |(layer, kept): (usize, &planner::memory::KvLayer)| Layer {
        layer,
        kv_heads: kept.kv_heads,
        head_dim: kept.head_dim,
        sliding_window_tokens: kept.window_tokens,
    };
    footprint.layers.iter().enumerate().map(layer).collect()
}

fn shown(value: Value<'_>) -> serde_json::Value {
    match value {
        Value::Bool(value) => json!(value),
        Value::String(value) => json!(value),
        // By its decimals: widened to f64 it would show digits that the file does not have.
        Value::F32(value) => json!(value.to_string().parse::<f64>().unwrap_or(value.into())),
        Value::F64(value) => json!(value),
        Value::U64(value) => json!(value),
        Value::Array(array) if array.len() > ARRAY_SHOWN_MAX => {
            json!({"array_of": array.element().to_string(), "length": array.len()})
        }
        Value::Array(array) => {
            let texts = array.strings().map(|text| json!(String::from_utf8_lossy(text)));
            array.scalars().map(shown).chain(texts).collect()
        }
        // What is left are integers, and all but u64 fit.
        other => json!(other.integer().and_then(|value| i64::try_from(value).ok())),
    }
}

impl Inspected {
    fn print(&self) -> Result<(), CliError> {
        let size = output::size;
        output::line(&format!(
            "{}\n{} ({}), GGUF {}",
            self.path,
            self.architecture,
            size(self.bytes),
            self.gguf_version
        ))?;
        output::line(&format!(
            "parameters    {:.1} million\ncontext       {} tokens\nchat template {}\nKV per token  {}",
            self.parameters as f64 / 1e6,
            self.context_tokens_max,
            if self.has_chat_template { "yes" } else { "no" },
            size(self.kv_bytes_per_token),
        ))?;
        let memory = &self.memory;
        output::line(&format!(
            "memory        {} for one sequence of {} tokens: weights {}, KV {}",
            size(memory.total_bytes),
            memory.context_tokens,
            size(memory.weights_bytes),
            size(memory.kv_bytes)
        ))?;
        let windows: Vec<String> = self
            .layers
            .iter()
            .filter_map(|layer| Some(format!("{} ({} tokens)", layer.layer, layer.sliding_window_tokens?)))
            .collect();
        let sliding = if windows.is_empty() { "none".to_owned() } else { windows.join(", ") };
        output::line(&format!("layers        {}; sliding-window: {sliding}", self.layers.len()))?;
        output::line("\ntensors")?;
        for tensor in &self.tensors {
            let bytes = size(tensor.bytes);
            output::line(&format!(
                "  {:8} {:>5}  {:>14} values  {bytes:>10}",
                tensor.name, tensor.count, tensor.values
            ))?;
        }
        output::line("\nmetadata")?;
        for (key, value) in &self.metadata {
            let text = value.to_string();
            let cut: String = text.chars().take(TEXT_SHOWN_CHARS).collect();
            let dots = if cut.len() < text.len() { "…" } else { "" };
            output::line(&format!("  {key} = {cut}{dots}"))?;
        }
        Ok(())
    }
}
