//! The official `openai` client, both major versions that are in use, against the default pair.

use crate::real::Check;
use crate::real::python::Script;
use crate::real::report::Report;
use crate::real::rig::{LARGE, Rig, SMALL};

pub const CHECK: Check =
    Check { name: "clients", about: "the official openai client, unchanged, against `tandem serve`", run };

/// Virtual environments: name and requirement.
pub(super) const CLIENTS: &[(&str, &str)] = &[("openai-2", "openai>=2,<3"), ("openai-3", "openai>=3,<4")];

fn run(rig: &Rig, report: &mut Report) -> Result<(), String> {
    let server = rig.serve(&rig.scratch("clients")?, &["--small", SMALL, "--large", LARGE])?;
    for (name, requirement) in CLIENTS {
        let python = rig.python().venv(name, &[requirement])?;
        let url = format!("{}/v1", server.url());
        Script { python: &python, file: "openai_client.py", arguments: &[&url] }.report(report)?;
    }
    Ok(())
}
