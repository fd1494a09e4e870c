//! Clients that leave in mid-answer, and a server that is told to go.

use std::path::Path;
use std::time::Duration;

use crate::real::python::Script;
use crate::real::report::{Line, Report};
use crate::real::rig::{LARGE, Rig, SMALL};
use crate::real::{Check, golden};

pub const CHECK: Check = Check { name: "leaving", about: "disconnects stop generation; SIGTERM drains", run };

/// Longest time from the last answer's end until the server has ended too.
const END_LIMIT: Duration = Duration::from_secs(10);

fn run(rig: &Rig, report: &mut Report) -> Result<(), String> {
    let scratch = rig.scratch("leaving")?;
    let mut server = rig.serve(&scratch, &["--small", SMALL, "--large", LARGE])?;
    let (url, pid) = (server.url(), server.pid().to_string());
    let python = Path::new("python3");
    Script { python, file: "leaving.py", arguments: &[&url, &pid] }.report(report)?;
    let status = server.wait_for_end(END_LIMIT)?;
    let config = scratch.join("tandem.toml");
    let ledger = rig.json(&["report", "--config", &config.to_string_lossy(), "--json"])?;
    let gone = golden::number(&ledger, "clients_gone")?;
    let line = Line::new("afterwards").require(status.success(), format!("the server ended with {status}"));
    report.line(line.at_least("clients gone in the ledger", gone, 2.0));
    Ok(())
}
