//! `tandem eval --outcomes`: the figures of a calibration.

use std::path::{Path, PathBuf};

use lab::calibration::evaluate::{Evaluation, evaluate};
use policy::Calibration;

use crate::commands::calibrate::read_pairs;
use crate::context::Context;
use crate::error::CliError;
use crate::reader::sha256;
use crate::{input, output};

/// The form that measures a calibration.
#[derive(Debug, clap::Args)]
pub struct MeasureArgs {
    /// Outcomes of both models, for a calibration to be measured on
    #[arg(long, value_name = "FILE", requires = "calibration", conflicts_with_all = ["task", "out"])]
    outcomes: Option<PathBuf>,
    /// The calibration to measure
    #[arg(long, value_name = "FILE", requires = "outcomes")]
    calibration: Option<PathBuf>,
    /// Measure it at a stricter target than its own
    #[arg(long, value_name = "SHARE", requires = "outcomes")]
    pub max_quality_loss: Option<f64>,
}

impl MeasureArgs {
    /// Outcomes and calibration, if this form was used.
    pub fn files(&self) -> Option<(&Path, &Path)> {
        Some((self.outcomes.as_deref()?, self.calibration.as_deref()?))
    }
}

/// Measures a calibration on outcomes, at its own target or a stricter one.
///
/// # Errors
/// If a file can't be read, or is none of its kind.
pub fn run(
    (outcomes, calibration): (&Path, &Path),
    max_quality_loss: Option<f64>,
    context: &Context,
) -> Result<(), CliError> {
    if max_quality_loss.is_some_and(|loss| !(0.0..=1.0).contains(&loss)) {
        return Err(CliError::usage("--max-quality-loss must be in 0..=1"));
    }
    let text = input::text(calibration)?;
    let calibration = Calibration::load(&text)
        .map_err(|error| CliError::usage(format!("{}: {error}", calibration.display())))?;
    let pairs = read_pairs(outcomes)?;
    let hash = sha256(outcomes)?.to_string();
    let found = evaluate(&calibration, &pairs, (&hash, max_quality_loss));
    if context.json {
        return output::json(&found);
    }
    output::text(&told(&found))
}

fn told(found: &Evaluation) -> String {
    let or_dash = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.3}"));
    let part = if found.held_out_only { " (held out of the calibration)" } else { "" };
    format!(
        "{} rows{part}\nquality: small {:.3}, large {:.3}, policy {:.3} ({:.3} to {:.3})\nloss {:.4} ({:.4} to {:.4}), \
         allowed {}\ncalls of large {:.1}%, {:.4} USD per 1,000 ({:.4} with large alone)\nAPGR {}, CPT(50%) {}, \
         CPT(80%) {}, AIQ {}, AUROC {}, calibration error {:.3}\n",
        found.rows,
        found.quality_small,
        found.quality_large,
        found.quality_policy,
        found.quality_policy_ci[0],
        found.quality_policy_ci[1],
        found.realised_loss,
        found.realised_loss_ci[0],
        found.realised_loss_ci[1],
        found.max_quality_loss,
        100.0 * found.large_share,
        found.cost_usd_per_1k,
        found.cost_large_usd_per_1k,
        or_dash(found.apgr),
        or_dash(found.cpt50),
        or_dash(found.cpt80),
        or_dash(found.aiq),
        or_dash(found.auroc),
        found.ece,
    )
}
