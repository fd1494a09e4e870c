//! The `tandem` binary: commands and configuration; it wires everything and decides nothing.
//!
//! [`commands`] has one file per command. [`context`] is what they share (model store, instruction
//! set, thread pool, output), [`environment`] the only place that reads the process's environment.

mod budget;
mod commands;
mod context;
mod drafting;
mod environment;
mod error;
mod footprint;
mod guards;
mod heads;
mod input;
mod kv_type;
mod logging;
mod output;
mod pair;
mod progress;
mod reader;
mod settings;

use std::process::ExitCode;

use clap::Parser;

use commands::Command;
use context::{Context, GlobalArgs};
use environment::Environment;
use error::CliError;

/// Pairs a small language model, in this process, with a large one.
#[derive(Debug, Parser)]
#[command(
    name = "tandem",
    version,
    disable_help_subcommand = true,
    after_help = "Examples:\n  tandem serve                    fetch the default pair and serve it\n  \
                  tandem chat                     talk to it in the terminal\n  \
                  tandem serve --large http://localhost:8000/v1\n\n\
                  Exit codes: 0 done, 1 failed, 2 wrong usage or configuration, \
                  3 a named file, model or endpoint is missing."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    global: GlobalArgs,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error.print();
            ExitCode::from(error.exit_code())
        }
    }
}

fn run(cli: Cli) -> Result<(), CliError> {
    let environment = Environment::of_process();
    logging::start(&environment, cli.command.log_level())?;
    let context = Context::new(&cli.global, environment)?;
    cli.command.run(&context)
}
