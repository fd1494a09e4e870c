//! `tandem score-head`: what a head says of rows.

use std::path::PathBuf;

use contract::Input;
use policy::Heads;
use policy::heads::HeadModel;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::context::Context;
use crate::error::CliError;
use crate::reader::{Reader, RowInput};
use crate::{guards, input, output};

/// Tell a head's calibrated probability for every row
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  tandem score-head qwen2.5-coder-0.5b --head head.json --data rows.jsonl")]
pub struct Args {
    /// The model that reads; it must be the one that the head was trained on
    #[arg(value_name = "REF")]
    model: String,
    /// The head's file, or the name of one that is shipped for the model: injection, harmful
    #[arg(long, value_name = "FILE|NAME")]
    head: String,
    /// JSON lines with `id`, and `prompt` or `messages`
    #[arg(long, value_name = "FILE")]
    data: PathBuf,
    /// Take `prompt` for a user's message, with the model's chat template around it
    #[arg(long)]
    as_chat: bool,
}

#[derive(Deserialize)]
struct Row {
    #[serde(default)]
    id: Value,
    #[serde(flatten)]
    input: RowInput,
}

/// Runs the command.
///
/// # Errors
/// If the head or rows are wrong, or the model is not the head's.
pub fn run(args: Args, context: &Context) -> Result<(), CliError> {
    let (mut ids, mut inputs): (Vec<Value>, Vec<Input>) = (Vec::new(), Vec::new());
    input::json_lines(&args.data, |row: Row| {
        ids.push(row.id);
        inputs.push(row.input.input(args.as_chat)?);
        Ok(())
    })?;
    let mut heads = Heads::default();
    let layers = |model: &HeadModel, _| {
        heads = Heads::new(vec![guards::head(&args.head, &model.sha256)?]).map_err(CliError::usage)?;
        Ok(heads.layers())
    };
    let reader = Reader::load(&args.model, layers, context)?;
    reader.read(inputs, |index, reading| {
        heads.iter().try_for_each(|head| {
            let score = head.score(&reading).map_err(CliError::failed)?;
            output::json(&json!({ "id": ids[index], "score": score }))
        })
    })
}
