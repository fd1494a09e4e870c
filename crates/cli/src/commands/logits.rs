//! `tandem logits`: teacher-forced log-probabilities of every position.

use std::path::PathBuf;

use engine::decoder::Decoder;
use engine::model::LoadOptions;
use engine::score::{Position, score};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::context::Context;
use crate::error::{CliError, unreadable};
use crate::kv_type::KvTypeArg;
use crate::output;

/// Log-probabilities after every token of a sequence
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  tandem logits smollm2-135m --ids 504,3575,282 --top 5 --json")]
pub struct Args {
    /// The model: a .gguf file, a catalogue name, or hf:OWNER/REPO/FILE
    #[arg(value_name = "REF")]
    model: String,
    /// Tokens, separated by commas
    #[arg(long, value_name = "IDS", value_delimiter = ',', group = "input", required = true)]
    ids: Option<Vec<u32>>,
    /// File of JSON lines {"ids":[…]}; each gives one line
    #[arg(long, value_name = "FILE", group = "input")]
    ids_file: Option<PathBuf>,
    /// How many of the likeliest tokens to tell
    #[arg(long, value_name = "N", default_value_t = 10)]
    top: usize,
    /// Unquantized activations and, unless --kv-type says otherwise, f32 key-value cache: slow and exact
    #[arg(long)]
    exact: bool,
    /// Longest sequence [default: the longest of the given ones; it chooses LongRoPE's factors]
    #[arg(long, value_name = "N")]
    context: Option<u32>,
    #[command(flatten)]
    kv_type: KvTypeArg,
}

#[derive(Deserialize)]
struct Line {
    ids: Vec<u32>,
}

pub fn run(args: Args, context: &Context) -> Result<(), CliError> {
    let sequences = match (args.ids, &args.ids_file) {
        (Some(ids), _) => vec![ids],
        (None, Some(path)) => read_lines(path)?,
        (None, None) => Vec::new(),
    };
    if sequences.iter().any(Vec::is_empty) {
        return Err(CliError::usage("a sequence needs at least one token"));
    }
    let options =
        LoadOptions { context_tokens: args.context, exact: args.exact, cache: None, draft_vocabulary: None };
    let model = context.load_model(&args.model, options)?;
    let longest = sequences.iter().map(Vec::len).max().unwrap_or(1);
    let decoder_options = args.kv_type.decoder_options(longest);
    let mut decoder =
        Decoder::new(model, context.pool(), context.isa(), decoder_options).map_err(CliError::failed)?;
    let is_one_object = args.ids_file.is_none();
    for (index, ids) in sequences.iter().enumerate() {
        let positions = score(&mut decoder, ids, args.top)
            .map_err(|error| CliError::failed(format!("sequence {}: {error}", index + 1)))?;
        if context.json || !is_one_object {
            let positions: Vec<Value> = positions.iter().map(to_json).collect();
            output::json(&json!({ "positions": positions }))?;
        } else {
            for position in &positions {
                output::line(&to_text(position))?;
            }
        }
    }
    Ok(())
}

fn read_lines(path: &std::path::Path) -> Result<Vec<Vec<u32>>, CliError> {
    let text = std::fs::read_to_string(path).map_err(|error| unreadable(path, &error))?;
    let parse = |(index, line): (usize, &str)| {
        serde_json::from_str::<Line>(line)
            .map(|line| line.ids)
            .map_err(|error| CliError::usage(format!("{}, line {}: {error}", path.display(), index + 1)))
    };
    text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()).map(parse).collect()
}

fn to_json(position: &Position) -> Value {
    json!({
        "position": position.position,
        "top": position.top,
        "next_logprob": position.next_logprob,
    })
}

fn to_text(position: &Position) -> String {
    let top: Vec<String> = position.top.iter().map(|(id, logprob)| format!("{id}:{logprob:.4}")).collect();
    let next = position.next_logprob.map_or_else(|| "-".to_owned(), |x| format!("{x:.4}"));
    format!("{:>5}  next {next:>9}  {}", position.position, top.join(" "))
}
