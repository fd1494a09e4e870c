//! Project chores, run as `cargo xtask COMMAND`: each is one module and one line in [`COMMANDS`].

mod arm;
mod licences;
mod real;
mod tidy;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// One chore.
struct Command {
    /// What one types after `cargo xtask`.
    name: &'static str,
    /// What it does, in a line.
    help: &'static str,
    /// Does it, given the arguments after the name.
    run: fn(&[String]) -> Result<(), String>,
}

/// Every chore.
const COMMANDS: &[Command] = &[tidy::COMMAND, licences::COMMAND, arm::COMMAND, real::COMMAND];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let named = arguments.first().and_then(|name| COMMANDS.iter().find(|command| command.name == name));
    let Some(command) = named else {
        eprintln!("usage: cargo xtask COMMAND");
        for command in COMMANDS {
            eprintln!("  {:<10} {}", command.name, command.help);
        }
        return ExitCode::from(2);
    };
    match (command.run)(&arguments[1..]) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

/// The repository's root.
fn root() -> PathBuf {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().unwrap_or(xtask).to_path_buf()
}
