//! Tiny devices: each small model serves many at once within its memory budget, from the first load on,
//! and what can't fit is refused with what would.

use std::path::Path;
use std::time::Duration;

use crate::real::Check;
use crate::real::process;
use crate::real::python::Script;
use crate::real::report::{Line, Report};
use crate::real::rig::Rig;

pub const CHECK: Check =
    Check { name: "memory", about: "memory budgets hold from the first load on, under load", run };

/// A model that must serve in so much memory.
struct Device {
    model: &'static str,
    budget_mib: u64,
    /// Lines of `[small]`.
    settings: &'static str,
    /// Tokens of its long prompts: quickly read, in the whole run as long as the context.
    prompt_tokens: [u32; 3],
}

const DEVICES: [Device; 3] = [
    Device { model: "smollm2-135m", budget_mib: 256, settings: "", prompt_tokens: [300, 1000, 1000] },
    Device {
        model: "qwen2.5-coder-0.5b",
        budget_mib: 700,
        settings: "context_tokens = 8192\nkv_type = \"q8\"\n",
        prompt_tokens: [300, 3000, 8000],
    },
    Device {
        model: "gemma3-270m",
        budget_mib: 400,
        settings: "context_tokens = 32768\nkv_type = \"q8\"\n",
        prompt_tokens: [300, 6000, 32_000],
    },
];

/// Nobody is there: the large role is never asked.
const NO_LARGE: [&str; 6] =
    ["--large", "http://127.0.0.1:9/v1", "--large-model", "none", "--policy", "small"];
/// Longest time for a refusal.
const REFUSAL_LIMIT: Duration = Duration::from_secs(60);
/// What wrong usage exits with.
const EXIT_USAGE: i32 = 2;

fn run(rig: &Rig, report: &mut Report) -> Result<(), String> {
    for device in DEVICES.iter().filter(|device| rig.models.contains(&device.model)) {
        serves(rig, device, report)?;
    }
    refuses(rig, report)
}

/// From an empty cache of packed weights on.
fn serves(rig: &Rig, device: &Device, report: &mut Report) -> Result<(), String> {
    let scratch = rig.scratch("memory")?;
    let [quick, normal, full] = device.prompt_tokens;
    let tokens = rig.scope.pick(quick, normal, full).to_string();
    let memory = format!("{}MiB", device.budget_mib);
    let bytes = (device.budget_mib << 20).to_string();
    let file = rig.model_file(device.model)?;
    // A home of its own has no packed weights yet: for this server it is the first load.
    let server = rig.serve_at_home(
        &scratch,
        &format!("[small]\n{}", device.settings),
        &[&["--small", &file, "--memory", &memory], NO_LARGE.as_slice()].concat(),
    )?;
    report.line(Line::new(device.model).note(format!("in {memory}, prompts of {tokens} tokens")));
    let (url, pid) = (server.url(), server.pid().to_string());
    let arguments = [url.as_str(), &pid, &bytes, &tokens];
    Script { python: Path::new("python3"), file: "memory.py", arguments: &arguments }.report(report)
}

/// A context for which there is no room.
fn refuses(rig: &Rig, report: &mut Report) -> Result<(), String> {
    let mut command = rig.tandem();
    command.args(["serve", "--check", "--small", "qwen2.5-coder-0.5b"]).args(NO_LARGE);
    command.args(["--context", "32768", "--memory", "700MiB"]);
    let ended = process::run(&mut command, REFUSAL_LIMIT)?;
    let words = ["context 32768 → ", "or KV q", "or --memory "];
    let missing: Vec<&&str> = words.iter().filter(|words| !ended.stderr.contains(**words)).collect();
    let told = format!("exit {:?}, without {missing:?}: {}", ended.status.code(), ended.stderr);
    let holds = ended.status.code() == Some(EXIT_USAGE) && missing.is_empty();
    report.line(Line::new("a context that does not fit").require(holds, told));
    Ok(())
}
