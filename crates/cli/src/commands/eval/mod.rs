//! `tandem eval`: how good answers are. [`run`] asks backends the questions of a task; [`outcomes`] measures what a
//! calibration makes of their answers.

mod outcomes;
mod run;

use crate::context::Context;
use crate::error::CliError;

/// Ask the backends a task's questions, judge the answers, and write an outcome per row and backend; or measure a
/// calibration on such outcomes
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  tandem eval --task HumanEval.jsonl.gz --out outcomes.jsonl\n  \
                  tandem eval --task rows.jsonl --small smollm2-135m --large http://localhost:8000/v1 --out o.jsonl\n  \
                  tandem eval --task rows.jsonl --backend small --layers 8,16 --limit 100 --out o.jsonl\n  \
                  tandem eval --outcomes outcomes.jsonl --calibration calibration.json --json\n\n\
                  A run that was stopped goes on where it was with the same command. docs/lab.md says what rows, \
                  tasks, checks and outcomes are, docs/calibration.md what is measured of a calibration.")]
pub struct Args {
    #[command(flatten)]
    run: run::RunArgs,
    #[command(flatten)]
    measure: outcomes::MeasureArgs,
}

/// Runs the command.
///
/// # Errors
/// See [`CliError`].
pub fn run(args: Args, context: &Context) -> Result<(), CliError> {
    match args.measure.files() {
        Some(files) => outcomes::run(files, args.measure.max_quality_loss, context),
        None => run::run(args.run, context),
    }
}
