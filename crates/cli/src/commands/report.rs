//! `tandem report`: what the ledger adds up to.

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use ledger::{Ledger, LedgerSettings, ReportQuery};

use crate::context::{Context, runtime};
use crate::error::CliError;
use crate::output;
use crate::settings;

/// Show requests by route, tokens, cost, what was saved, and latencies
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  tandem report --since 24h")]
pub struct Args {
    /// Only requests that arrived in the last while: 90m, 24h, 7d
    #[arg(long, value_name = "DURATION", value_parser = duration_ms)]
    since: Option<i64>,
    /// The ledger [default: ledger.path of ./tandem.toml, else ledger.db in TANDEM_HOME]
    #[arg(long, value_name = "FILE")]
    ledger: Option<PathBuf>,
    /// The configuration that says where the ledger is
    #[arg(long, value_name = "FILE", conflicts_with = "ledger")]
    config: Option<PathBuf>,
}

/// Runs the command.
///
/// # Errors
/// If there is no ledger, or it can't be read.
pub fn run(args: Args, context: &Context) -> Result<(), CliError> {
    let path = existing(args.ledger, args.config.as_deref(), context)?;
    let query = since(args.since);
    let report = runtime()?.block_on(async {
        let ledger = Ledger::open(&path, LedgerSettings::default()).await?;
        let report = ledger.report(query).await;
        ledger.close().await?;
        report
    });
    let report = report.map_err(CliError::failed)?;
    if context.json {
        output::json(&lab::report::json(&report).map_err(CliError::failed)?)
    } else {
        output::text(&lab::report::table(&report))
    }
}

/// The ledger that is named, else that of the configuration; it must be there.
pub(super) fn existing(
    named: Option<PathBuf>,
    config: Option<&Path>,
    context: &Context,
) -> Result<PathBuf, CliError> {
    let path = match named {
        Some(path) => path,
        None => settings::ledger_path(config, context)?,
    };
    if !path.is_file() {
        return Err(CliError::missing(format!(
            "there is no ledger at {}; `tandem serve` begins one with its first request",
            path.display()
        )));
    }
    Ok(path)
}

/// What arrived in the last so many milliseconds.
pub(super) fn since(last_ms: Option<i64>) -> ReportQuery {
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    let now_ms = i64::try_from(now_ms).unwrap_or(i64::MAX);
    ReportQuery { since_unix_ms: last_ms.map(|ms| now_ms.saturating_sub(ms)), until_unix_ms: None }
}

/// Milliseconds of `90s`, `90m`, `24h` or `7d`.
pub(super) fn duration_ms(text: &str) -> Result<i64, String> {
    let wrong = || format!("{text:?} is no duration; write 90s, 90m, 24h or 7d");
    let (number, unit) = text.char_indices().last().map(|(at, _)| text.split_at(at)).ok_or_else(wrong)?;
    let unit_ms: i64 = match unit {
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(wrong()),
    };
    let number: i64 = number.parse().ok().filter(|number| *number >= 0).ok_or_else(wrong)?;
    number.checked_mul(unit_ms).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read() {
        for (text, expected) in [("90s", 90_000), ("0m", 0), ("24h", 86_400_000), ("7d", 604_800_000)] {
            assert_eq!(duration_ms(text), Ok(expected));
        }
        for text in ["", "h", "24", "-1h", "1.5h", "3 weeks", "9223372036854775807d", "1µ"] {
            assert!(duration_ms(text).unwrap_err().contains("is no duration"), "{text}");
        }
    }
}
