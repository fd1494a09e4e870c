//! `kill -9` in the middle of traffic: the ledger keeps what clients saw finished, and opens.

use std::path::Path;

use crate::real::python::Script;
use crate::real::report::{Line, Report};
use crate::real::rig::{LARGE, Rig, SMALL};
use crate::real::{Check, golden};

pub const CHECK: Check =
    Check { name: "crash", about: "kill -9 in the middle of traffic loses nothing that is due", run };

fn run(rig: &Rig, report: &mut Report) -> Result<(), String> {
    let scratch = rig.scratch("crash")?;
    let pair = ["--small", SMALL, "--large", LARGE];
    let python = Path::new("python3");
    let due = scratch.join("due.json");
    let due = due.to_string_lossy();
    let server = rig.serve(&scratch, &pair)?;
    let (url, pid) = (server.url(), server.pid().to_string());
    Script { python, file: "crash.py", arguments: &["load", &url, &pid, &due] }.report(report)?;
    drop(server);

    let config = scratch.join("tandem.toml");
    let ledger = rig.json(&["report", "--config", &config.to_string_lossy(), "--json"])?;
    let requests = golden::number(&ledger, "requests")?;
    report.line(Line::new("tandem report").at_least("requests", requests, 1.0));

    let server = rig.serve(&scratch, &pair)?;
    Script { python, file: "crash.py", arguments: &["verify", &server.url(), &due] }.report(report)
}
