//! `kill -9` in the middle of traffic: the ledger keeps what clients saw finished, and opens.

use std::fs;
use std::path::Path;

use serde_json::Value;

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
    let due_file = scratch.join("due.json");
    let due = due_file.to_string_lossy();
    let server = rig.serve(&scratch, &pair)?;
    let (url, pid) = (server.url(), server.pid().to_string());
    Script { python, file: "crash.py", arguments: &["load", &url, &pid, &due] }.report(report)?;
    drop(server);

    let config = scratch.join("tandem.toml");
    let ledger = rig.json(&["report", "--config", &config.to_string_lossy(), "--json"])?;
    let requests = golden::number(&ledger, "requests")?;
    let rows = fs::read_to_string(&due_file).map_err(|error| format!("{due}: {error}"))?;
    let rows: Vec<Value> = serde_json::from_str(&rows).map_err(|error| format!("{due}: {error}"))?;
    report.line(Line::new("tandem report").at_least("requests", requests, rows.len() as f64));

    let server = rig.serve(&scratch, &pair)?;
    Script { python, file: "crash.py", arguments: &["verify", &server.url(), &due] }.report(report)
}
