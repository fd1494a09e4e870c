//! `tandem eval`: what a calibration does on outcomes ([`outcomes`]).

mod outcomes;

use std::path::PathBuf;

use crate::context::Context;
use crate::error::CliError;

/// Measure a calibration on outcomes of both models
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  tandem eval --outcomes outcomes.jsonl --calibration calibration.json --json"
)]
pub struct Args {
    /// Outcomes of both models
    #[arg(long, value_name = "FILE")]
    outcomes: PathBuf,
    /// The calibration
    #[arg(long, value_name = "FILE")]
    calibration: PathBuf,
    /// A stricter target than the calibration's own
    #[arg(long, value_name = "SHARE")]
    max_quality_loss: Option<f64>,
}

/// Runs the command.
///
/// # Errors
/// See [`outcomes::run`].
pub fn run(args: Args, context: &Context) -> Result<(), CliError> {
    outcomes::run((&args.outcomes, &args.calibration), args.max_quality_loss, context)
}
