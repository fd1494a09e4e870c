//! `tandem calibrate`: from outcomes to thresholds with a stated guarantee.

use std::path::{Path, PathBuf};

use clap::ValueEnum;
use lab::calibration::pairs::{Pairs, pairs};
use lab::calibration::{Settings, calibrate};
use lab::outcomes::Outcome;
use policy::Calibration;
use policy::calibration::PolicyKind;
use serde_json::json;

use crate::context::Context;
use crate::error::CliError;
use crate::reader::sha256;
use crate::{input, output, settings};

/// Calibrate routing on labelled outcomes of both models, with a bound on the quality that is lost
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  tandem calibrate --outcomes outcomes.jsonl --small qwen2.5-coder-0.5b \\\n    \
                  --max-quality-loss 0.02 --out calibration.json --report calibration.html"
)]
pub struct Args {
    /// What `tandem eval` wrote for both models
    #[arg(long, value_name = "FILE")]
    outcomes: PathBuf,
    /// The small model, whose file's hash its head is bound to [default: the outcomes' model, if it is here]
    #[arg(long, value_name = "REF")]
    small: Option<String>,
    /// Most quality that may be lost against large alone, in 0..=1
    #[arg(long, value_name = "SHARE", default_value_t = 0.02)]
    max_quality_loss: f64,
    /// With which confidence the loss stays within it, in 0.5..1
    #[arg(long, value_name = "SHARE", default_value_t = 0.95)]
    confidence: f64,
    /// The policy to calibrate
    #[arg(long, value_name = "KIND", default_value = "auto")]
    policy: PolicyArg,
    /// Decides the splits
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// The calibration to write [default: a file in TANDEM_HOME/calibrations, where `latest` finds it]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// A page to read, self-contained
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
}

/// Which policy.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum PolicyArg {
    /// The cheapest that keeps the target
    Auto,
    /// By the reading alone
    Route,
    /// By small's answer
    Cascade,
    /// By both in turn
    CascadeRoute,
}

impl PolicyArg {
    fn kind(self) -> Option<PolicyKind> {
        match self {
            PolicyArg::Auto => None,
            PolicyArg::Route => Some(PolicyKind::Route),
            PolicyArg::Cascade => Some(PolicyKind::Cascade),
            PolicyArg::CascadeRoute => Some(PolicyKind::CascadeRoute),
        }
    }
}

/// The pairs of a file of outcomes; what is left out is told on stderr.
///
/// # Errors
/// If the file can't be read or its outcomes make no pairs.
pub fn read_pairs(path: &Path) -> Result<Pairs, CliError> {
    let mut outcomes: Vec<Outcome> = Vec::new();
    input::json_lines(path, |outcome| {
        outcomes.push(outcome);
        Ok(())
    })?;
    let pairs = pairs(outcomes).map_err(|error| CliError::usage(format!("{}: {error}", path.display())))?;
    if pairs.unpaired.rows() > 0 {
        eprintln!("{}: {}", path.display(), pairs.unpaired);
    }
    Ok(pairs)
}

/// Runs the command.
///
/// # Errors
/// If the outcomes do not suffice, or a file can't be written.
pub fn run(args: Args, context: &Context) -> Result<(), CliError> {
    let pairs = read_pairs(&args.outcomes)?;
    let settings = Settings {
        max_quality_loss: args.max_quality_loss,
        confidence: args.confidence,
        policy: args.policy.kind(),
        small_sha256: small_sha256(&args, &pairs, context)?,
        outcomes_sha256: sha256(&args.outcomes)?.to_string(),
        seed: args.seed,
        threads: context.threads(),
    };
    let calibration = calibrate(&pairs, &settings).map_err(CliError::usage)?;
    let text = serde_json::to_string_pretty(&calibration).map_err(CliError::failed)?;
    let out = match &args.out {
        Some(out) => out.clone(),
        None => place(&calibration, context)?,
    };
    write(&out, &(text + "\n"))?;
    if let Some(report) = &args.report {
        write(report, &lab::calibration::page::page(&calibration, &pairs))?;
    }
    if context.json {
        return output::json(&json!({
            "policy": calibration.policy,
            "rows": pairs.pairs.len(),
            "unpaired": pairs.unpaired,
            "thresholds": calibration.thresholds,
            "quality": {
                "small": calibration.held_out.quality_small,
                "large": calibration.held_out.quality_large,
                "policy": calibration.held_out.quality_policy,
                "ci": calibration.held_out.quality_policy_ci,
            },
            "large_share": calibration.held_out.large_share,
            "cost_usd_per_1k": calibration.held_out.cost_usd_per_1k,
            "routes": calibration.routes,
            "why": calibration.why,
        }));
    }
    output::text(&told(&calibration))?;
    output::line(&format!("written to {}", out.display()))
}

/// The hash of the small model's file, which its head is bound to; `None` without readings, which no head is
/// trained on then.
fn small_sha256(args: &Args, pairs: &Pairs, context: &Context) -> Result<Option<String>, CliError> {
    if !pairs.pairs.iter().any(|pair| pair.reading.is_some()) {
        return Ok(None);
    }
    let reference = args.small.as_ref().unwrap_or(&pairs.small);
    let path = context.resolve(reference).map_err(|error| {
        error.at("the outcomes hold readings, and a head on them is bound to the model's file; name it with --small")
    })?;
    Ok(Some(sha256(&path)?.to_string()))
}

/// The calibration's file in the home folder, which is made.
fn place(calibration: &Calibration, context: &Context) -> Result<PathBuf, CliError> {
    let folder = context.home()?.join(settings::CALIBRATIONS_FOLDER);
    std::fs::create_dir_all(&folder)
        .map_err(|error| CliError::failed(format!("can't make {}: {error}", folder.display())))?;
    let plain = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '-' };
    let names = format!("{}+{}", calibration.small, calibration.large);
    let name: String =
        names.split('+').map(|name| name.chars().map(plain).collect()).collect::<Vec<String>>().join("+");
    Ok(folder.join(format!("{name}.json")))
}

fn write(path: &Path, text: &str) -> Result<(), CliError> {
    std::fs::write(path, text)
        .map_err(|error| CliError::failed(format!("can't write {}: {error}", path.display())))
}

fn told(calibration: &Calibration) -> String {
    let held = &calibration.held_out;
    let mut text = format!(
        "{}\n\n{:<8} quality {:.3}\n{:<8} quality {:.3}\n{:<8} quality {:.3} ({:.3} to {:.3}), {:.1}% calls of \
         large, {:.4} USD per 1,000 requests ({:.4} with large alone)\n\n",
        calibration.why,
        "small",
        held.quality_small,
        "large",
        held.quality_large,
        if calibration.routes { calibration.policy.as_str() } else { "constant" },
        held.quality_policy,
        held.quality_policy_ci[0],
        held.quality_policy_ci[1],
        100.0 * held.large_share,
        held.cost_usd_per_1k,
        held.cost_large_usd_per_1k,
    );
    text += "target  least score  calls of large\n";
    for row in &calibration.thresholds {
        let least = row.score_min.map_or_else(|| "none".to_owned(), |least| format!("{least:.3}"));
        text += &format!("{:>6}  {least:>11}  {:>13.1}%\n", row.max_quality_loss, 100.0 * row.large_share);
    }
    text
}
