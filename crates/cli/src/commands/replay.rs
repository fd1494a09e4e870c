//! `tandem replay`: what another policy would have done with the ledger's requests.

use std::path::PathBuf;

use lab::replay::{Comparison, Replay, table};
use ledger::{Ledger, LedgerError, LedgerSettings};

use super::report;
use crate::context::{Context, runtime};
use crate::error::CliError;
use crate::output;
use crate::settings::{self, Flags, RoleSettings, Settings};

/// Decide recorded requests again, with another policy: routes, cost and feedback side by side
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  tandem replay --policy other.toml --since 7d\n\n\
                  The file is a configuration: its [policy] decides, and [small] may say what small's tokens cost.")]
pub struct Args {
    /// The configuration whose policy decides
    #[arg(long, value_name = "FILE")]
    policy: PathBuf,
    /// The ledger [default: ledger.path of ./tandem.toml, else ledger.db in TANDEM_HOME]
    #[arg(long, value_name = "FILE")]
    ledger: Option<PathBuf>,
    /// Only requests that arrived in the last while: 90m, 24h, 7d
    #[arg(long, value_name = "DURATION", value_parser = report::duration_ms)]
    since: Option<i64>,
}

/// Runs the command.
///
/// # Errors
/// If there is no ledger, it can't be read, or the configuration is wrong.
pub fn run(args: Args, context: &Context) -> Result<(), CliError> {
    let settings = settings::load(Flags { config: Some(args.policy), ..Flags::default() }, context)?;
    let path = report::existing(args.ledger, None, context)?;
    let query = report::since(args.since);
    let policy = policy::build_calibrated(&settings.policy, settings.calibration.clone());
    let policy = policy.map_err(CliError::usage)?;
    let mut replay = Replay::new(policy.as_ref(), small_price(&settings));
    let walked: Result<(), LedgerError> = runtime()?.block_on(async {
        let ledger = Ledger::open(&path, LedgerSettings::default()).await?;
        let mut last = None;
        loop {
            let mut page = ledger.page(query, last.as_ref()).await?;
            page.iter().for_each(|stored| replay.add(stored));
            let Some(end) = page.pop() else { break };
            last = Some(end);
        }
        ledger.close().await
    });
    walked.map_err(CliError::failed)?;
    let comparison: Comparison = replay.finish(settings.calibration.as_deref());
    if context.json { output::json(&comparison) } else { output::text(&table(&comparison)) }
}

fn small_price(settings: &Settings) -> contract::Price {
    match &settings.small {
        RoleSettings::Local(local) => local.price,
        RoleSettings::Upstream(upstream) => upstream.openai.price,
    }
}
