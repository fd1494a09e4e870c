//! Ten thousand random clients against gateway and engine: crates/cli/tests/clients, in full.

use std::time::Duration;

use crate::real::Check;
use crate::real::process;
use crate::real::report::{Line, Report};
use crate::real::rig::{Rig, cargo};

pub const CHECK: Check =
    Check { name: "crowd", about: "10,000 clients that behave at random leave nothing behind", run };

/// Longest time to build and run it on a slow machine.
const LIMIT: Duration = Duration::from_secs(1800);

fn run(_: &Rig, report: &mut Report) -> Result<(), String> {
    let mut test = cargo();
    test.args(["test", "--locked", "--quiet", "-p", "tandem", "--features", "thorough", "--test", "clients"]);
    let ended = process::run_shown(&mut test, LIMIT);
    let line = Line::new("tests/clients").require(ended.is_ok(), "no complaint, nothing left, all recorded");
    report.line(line);
    Ok(())
}
