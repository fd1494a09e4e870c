//! Guards of a served model: the heads that are shipped find what they should and cost next to nothing beyond the
//! reading, and the official client understands what guards do.

use std::path::Path;

use super::clients::CLIENTS;
use crate::real::Check;
use crate::real::python::Script;
use crate::real::report::Report;
use crate::real::rig::{NOBODY, Rig, SMALL};

pub const CHECK: Check =
    Check { name: "guards", about: "shipped heads, and guards as the openai client sees them", run };

const GUARDS: &str = r#"
[[guard]]
name = "pii"
kind = "pattern"
action = "redact"
restore = true
entities = ["email", "credit_card"]

[[guard]]
name = "words"
kind = "pattern"
action = "block"
deny = ["xyzzy"]

[[guard]]
name = "sevens"
kind = "pattern"
stage = "output"
action = "block"
patterns = ['\b7\b']

[[guard]]
name = "injection"
kind = "head"
head = "injection"
action = "flag"

[[guard]]
name = "harmful"
kind = "head"
head = "harmful"
action = "flag"
"#;

const NAMES: &str = r#"
[[guard]]
name = "names"
kind = "token-head"
head = "names"
action = "redact"
restore = true
"#;

fn run(rig: &Rig, report: &mut Report) -> Result<(), String> {
    let scratch = rig.scratch("guards")?;
    let small = rig.model_file(SMALL)?;
    let server = rig.serve_at_home(&scratch, GUARDS, &[&["--small", &small], NOBODY.as_slice()].concat())?;
    let url = server.url();
    Script { python: Path::new("python3"), file: "heads.py", arguments: &[&url] }.report(report)?;
    for (name, requirement) in CLIENTS {
        let python = rig.python().venv(name, &[requirement])?;
        Script { python: &python, file: "openai_guards.py", arguments: &[&format!("{url}/v1")] }
            .report(report)?;
    }
    drop(server);
    let server = rig.serve_at_home(&scratch, NAMES, &[&["--small", &small], NOBODY.as_slice()].concat())?;
    Script { python: Path::new("python3"), file: "names.py", arguments: &[&server.url()] }.report(report)?;
    Ok(())
}
