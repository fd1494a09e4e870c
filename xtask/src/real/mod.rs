//! `cargo xtask real`: everything that only real models, official clients and a real upstream can show.
//! Builds the release binary, fetches the catalogue's models, then runs the checks of [`checks::CHECKS`];
//! each prints a line per subject with its figures and their tolerances.

mod checks;
mod distance;
mod golden;
mod options;
mod process;
mod python;
mod report;
mod rig;

use std::time::Instant;

use options::Options;
use report::Report;
use rig::Rig;

use crate::Command;

/// `cargo xtask real`.
pub const COMMAND: Command =
    Command { name: "real", help: "check everything on real models and servers (--help)", run };

/// One check.
struct Check {
    /// What `--only` calls it; its file's name.
    name: &'static str,
    /// What it shows, in a line.
    about: &'static str,
    /// Does it. An error is what kept it from coming to an end.
    run: fn(&Rig, &mut Report) -> Result<(), String>,
}

fn run(arguments: &[String]) -> Result<(), String> {
    let options = match Options::parse(arguments) {
        Ok(options) => options,
        Err(problem) => return Err(format!("{problem}\n\n{}", usage())),
    };
    if options.help {
        println!("{}", usage());
        return Ok(());
    }
    let started = Instant::now();
    let rig = Rig::build(&options)?;
    rig.pull()?;
    let mut failures = Vec::new();
    for check in checks::CHECKS.iter().filter(|check| options.wants(check.name)) {
        let mut report = Report::new(check.name);
        println!("\n{}: {}", check.name, check.about);
        if let Err(problem) = (check.run)(&rig, &mut report) {
            report.broke_off(&problem);
        }
        failures.append(&mut report.finish());
    }
    let seconds = started.elapsed().as_secs();
    if failures.is_empty() {
        println!("\nreal: all within tolerance, {seconds} s");
        return Ok(());
    }
    let count = failures.len();
    Err(format!("\nreal: {count} out of tolerance, {seconds} s\n  {}", failures.join("\n  ")))
}

fn usage() -> String {
    let mut text = format!("{}\nchecks:", options::USAGE);
    for check in checks::CHECKS {
        text += &format!("\n  {:<14} {}", check.name, check.about);
    }
    text
}
