//! The demonstration of the README, a few of its requests: that it runs, not what it says.

use std::process::Command as Process;
use std::time::Duration;

use super::clients::CLIENTS;
use crate::real::report::{Line, Report};
use crate::real::rig::{LARGE, Rig, SMALL};
use crate::real::{Check, process};

pub const CHECK: Check = Check { name: "demo", about: "the first requests of demo/run.py", run };

/// Requests sent.
const REQUESTS: &str = "3";
/// Longest time for them.
const LIMIT: Duration = Duration::from_secs(600);

fn run(rig: &Rig, report: &mut Report) -> Result<(), String> {
    let server = rig.serve(&rig.scratch("demo")?, &["--small", SMALL, "--large", LARGE])?;
    let (name, requirement) = CLIENTS[CLIENTS.len() - 1];
    let python = rig.python().venv(name, &[requirement])?;
    let mut demo = Process::new(python);
    demo.arg(crate::root().join("demo/run.py"));
    let url = format!("{}/v1", server.url());
    demo.args(["--url", &url, "--requests", REQUESTS, "--max-tokens", "32"]);
    let output = process::output(&mut demo, LIMIT)?;
    let rows = output.lines().filter(|line| line.starts_with("| ") && line.contains('`')).count();
    let total = output.lines().any(|line| line.starts_with("Cost "));
    let line = Line::new("demo/run.py").require(rows == 3, format!("{rows} rows for {REQUESTS} requests"));
    report.line(line.require(total, if total { "with totals" } else { "without totals" }));
    Ok(())
}
