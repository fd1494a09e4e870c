//! `tandem pull`: has models here, fetched and verified.

use serde::Serialize;

use crate::context::Context;
use crate::error::CliError;
use crate::output;
use crate::progress::Style;

/// Fetch models and verify them (sha256); an interrupted fetch goes on where it stopped
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  tandem pull qwen2.5-coder-0.5b hf:Qwen/Qwen2.5-0.5B-Instruct-GGUF/qwen2.5-0.5b-instruct-q8_0.gguf"
)]
pub struct Args {
    /// Catalogue names (`tandem models` lists them) or hf:OWNER/REPO/FILE
    #[arg(required = true, value_name = "REF")]
    references: Vec<String>,
}

#[derive(Serialize)]
struct Pulled {
    reference: String,
    path: String,
    bytes: u64,
}

#[derive(Serialize)]
struct Output {
    models: Vec<Pulled>,
}

/// Runs the command.
///
/// # Errors
/// If a model can't be had.
pub fn run(args: Args, context: &Context) -> Result<(), CliError> {
    let references =
        args.references.iter().map(|text| context.reference(text)).collect::<Result<Vec<_>, _>>()?;
    let runtime = crate::context::runtime()?;
    let style = context.progress_style(Style::Silent);
    let mut models = Vec::with_capacity(references.len());
    for reference in &references {
        let path = runtime.block_on(context.fetch(reference, style))?;
        let bytes = std::fs::metadata(&path).map_err(|error| crate::error::unreadable(&path, &error))?.len();
        if !context.json {
            output::line(&format!("{reference}  {}  {}", output::size(bytes), path.display()))?;
        }
        models.push(Pulled { reference: reference.to_string(), path: path.display().to_string(), bytes });
    }
    if context.json { output::json(&Output { models }) } else { Ok(()) }
}
