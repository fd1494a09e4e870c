//! What a client may send wrong, against the default pair; and a base model, which can't chat.

use std::path::Path;

use crate::real::Check;
use crate::real::python::Script;
use crate::real::report::Report;
use crate::real::rig::{LARGE, Rig, SMALL};

pub const CHECK: Check =
    Check { name: "bad_input", about: "bad requests get their 4xx with a clear message", run };

/// A model without a chat template.
const BASE: &str = "gemma3-270m";

fn run(rig: &Rig, report: &mut Report) -> Result<(), String> {
    let python = Path::new("python3");
    let server = rig.serve(&rig.scratch("bad_input")?, &["--small", SMALL, "--large", LARGE])?;
    let pid = server.pid().to_string();
    Script { python, file: "bad_input.py", arguments: &[&server.url(), &pid] }.report(report)?;
    drop(server);
    let server = rig.serve(&rig.scratch("base_model")?, &["--small", BASE, "--large", BASE])?;
    Script { python, file: "base_model.py", arguments: &[&server.url()] }.report(report)
}
