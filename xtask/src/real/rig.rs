//! What every check stands on: the release binary, the folder of models, the golden data ([`Rig`]).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command as Process;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::golden;
use super::options::{MODELS, Options, Scope};
use super::process::{self, Server};
use super::python::Python;

/// The pair that `tandem serve` takes by itself.
pub const SMALL: &str = "qwen2.5-coder-0.5b";
/// A large model that nobody serves, for what small does alone.
pub const NOBODY: [&str; 4] = ["--large", "http://127.0.0.1:9/v1", "--large-model", "none"];
/// The large one of it.
pub const LARGE: &str = "qwen2.5-coder-1.5b";

/// Longest time for a release build on a slow machine.
const BUILD_LIMIT: Duration = Duration::from_secs(3600);
/// Longest time for fetching two gigabytes.
const PULL_LIMIT: Duration = Duration::from_secs(3600);
/// Longest time for one command on a model.
const COMMAND_LIMIT: Duration = Duration::from_secs(3600);
/// Longest time from a server's start until its models are loaded.
const READY_LIMIT: Duration = Duration::from_secs(180);

/// Settings of the servers under test. Prices are such that every cost is seen; the drain is short.
const CONFIG: &str = r#"
[server]
drain_timeout_ms = 60000
[large]
price = { input_usd_per_mtok = 0.5, output_usd_per_mtok = 1.5 }
"#;

/// Cargo, in the workspace.
pub fn cargo() -> Process {
    let mut cargo = Process::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(crate::root());
    // What cargo tells the program it runs would make build scripts run again.
    let told = |name: &str| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_");
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_str().is_some_and(told)) {
        cargo.env_remove(name);
    }
    cargo
}

/// The binary under test and where things lie.
#[derive(Debug)]
pub struct Rig {
    binary: PathBuf,
    home: PathBuf,
    /// Python packages and what single checks write.
    folder: PathBuf,
    /// The models to go through.
    pub models: Vec<&'static str>,
    /// How much of the golden data to go through.
    pub scope: Scope,
}

impl Rig {
    /// Builds the binary, unless there is one to take.
    ///
    /// # Errors
    /// If it does not build.
    pub fn build(options: &Options) -> Result<Self, String> {
        let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| "target".into(), PathBuf::from);
        let target = crate::root().join(target);
        let folder = target.join("real-home");
        let home = std::env::var_os("TANDEM_HOME").map_or_else(|| folder.clone(), PathBuf::from);
        let binary = match &options.tandem {
            Some(binary) => binary.clone(),
            None => {
                let mut build = cargo();
                build.args(["build", "--release", "--locked", "-p", "tandem"]);
                process::run_shown(&mut build, BUILD_LIMIT)?;
                target.join("release").join(format!("tandem{}", std::env::consts::EXE_SUFFIX))
            }
        };
        Ok(Rig { binary, home, folder, models: options.models.clone(), scope: options.scope })
    }

    /// Fetches the catalogue's models; what is there already is only verified.
    ///
    /// # Errors
    /// If one can't be fetched.
    pub fn pull(&self) -> Result<(), String> {
        let started = Instant::now();
        process::run_shown(self.tandem().arg("pull").args(MODELS), PULL_LIMIT)?;
        println!("pull: {} models in {:.1} s", MODELS.len(), started.elapsed().as_secs_f64());
        Ok(())
    }

    /// The binary, with the folder of models and no other setting from outside.
    pub fn tandem(&self) -> Process {
        let mut command = Process::new(&self.binary);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("TANDEM_") {
                command.env_remove(name);
            }
        }
        command.env("TANDEM_HOME", &self.home);
        command
    }

    /// Runs `tandem …` and reads every line of its output as JSON.
    ///
    /// # Errors
    /// If the command fails or writes something else.
    pub fn lines(&self, arguments: &[&str]) -> Result<Vec<Value>, String> {
        let mut command = self.tandem();
        let text = process::output(command.args(arguments), COMMAND_LIMIT)?;
        let read = |line: &str| {
            let shown: String = line.chars().take(200).collect();
            serde_json::from_str(line).map_err(|error| format!("{command:?}: {error} in the line {shown}"))
        };
        text.lines().map(read).collect()
    }

    /// Runs `tandem …` and reads its output as one JSON object.
    ///
    /// # Errors
    /// As [`Rig::lines`].
    pub fn json(&self, arguments: &[&str]) -> Result<Value, String> {
        let mut lines = self.lines(arguments)?;
        match (lines.pop(), lines.len()) {
            (Some(only), 0) => Ok(only),
            (_, more) => {
                Err(format!("tandem {}: {more} lines of output too many, or none", arguments.join(" ")))
            }
        }
    }

    /// Feeds `inputs`, a JSON line each, to `tandem …` through a file whose path takes the place of
    /// `{}` among the arguments; gives a line of output for each.
    ///
    /// # Errors
    /// As [`Rig::lines`]; if there is another number of lines.
    pub fn each(&self, inputs: &[Value], arguments: &[&str]) -> Result<Vec<Value>, String> {
        let file = self.scratch("lines")?.join("lines.jsonl");
        let text: String = inputs.iter().map(|input| format!("{input}\n")).collect();
        fs::write(&file, text).map_err(|error| format!("cannot write {}: {error}", file.display()))?;
        let path = file.to_string_lossy();
        let arguments: Vec<&str> =
            arguments.iter().map(|&argument| if argument == "{}" { &path } else { argument }).collect();
        let outputs = self.lines(&arguments)?;
        if outputs.len() == inputs.len() {
            return Ok(outputs);
        }
        let (inputs, outputs, called) = (inputs.len(), outputs.len(), arguments.join(" "));
        Err(format!("tandem {called}: {outputs} lines of output for {inputs} of input"))
    }

    /// The lines of a golden file that are about `model`.
    ///
    /// # Errors
    /// If the file can't be read, or has none.
    pub fn golden(&self, file: &str, model: &str) -> Result<Vec<Value>, String> {
        golden::lines(&self.golden_path(file), model)
    }

    /// Where a golden file lies.
    pub fn golden_path(&self, file: &str) -> PathBuf {
        crate::root().join("tests/golden").join(file)
    }

    /// An empty folder for one check.
    ///
    /// # Errors
    /// If it can't be made.
    pub fn scratch(&self, name: &str) -> Result<PathBuf, String> {
        let folder = self.folder.join("scratch").join(name);
        if folder.exists() {
            fs::remove_dir_all(&folder)
                .map_err(|error| format!("cannot empty {}: {error}", folder.display()))?;
        }
        fs::create_dir_all(&folder).map_err(|error| format!("cannot make {}: {error}", folder.display()))?;
        Ok(folder)
    }

    /// Python with packages of its own.
    pub fn python(&self) -> Python {
        Python::new(self.folder.join("python"))
    }

    /// The file of an installed model.
    ///
    /// # Errors
    /// If it is not installed.
    pub fn model_file(&self, model: &str) -> Result<String, String> {
        let listed = self.json(&["models", "--json"])?;
        let found = golden::list(&listed, "models")?.iter().find(|line| line["name"] == model);
        let found = found.ok_or_else(|| format!("`tandem models` does not list {model}"))?;
        golden::text(found, "path").map(str::to_owned)
    }

    /// A server whose settings and ledger lie in `scratch`. `arguments` say who is small and large.
    ///
    /// # Errors
    /// If it can't be started or does not become ready.
    pub fn serve(&self, scratch: &Path, arguments: &[&str]) -> Result<Server, String> {
        Self::start(self.tandem(), &self.config(scratch)?, arguments)
    }

    /// A server to which `scratch` is home too, with more settings: nothing is there but models named by
    /// their files.
    ///
    /// # Errors
    /// As [`Rig::serve`].
    pub fn serve_at_home(
        &self,
        scratch: &Path,
        settings: &str,
        arguments: &[&str],
    ) -> Result<Server, String> {
        let config = self.config(scratch)?;
        let unwritable = |error| format!("cannot write {}: {error}", config.display());
        let text = fs::read_to_string(&config).map_err(unwritable)? + settings;
        fs::write(&config, text).map_err(unwritable)?;
        let mut command = self.tandem();
        command.env("TANDEM_HOME", scratch);
        Self::start(command, &config, arguments)
    }

    fn start(mut command: Process, config: &Path, arguments: &[&str]) -> Result<Server, String> {
        let port = process::free_port()?;
        command.arg("serve").arg("--config").arg(config);
        command.args(["--listen", &format!("127.0.0.1:{port}")]).args(arguments);
        let mut server = Server::start(&mut command, port, &config.with_file_name("serve.log"))?;
        server.wait_until_ok("/ready", READY_LIMIT)?;
        Ok(server)
    }

    /// Writes the settings that [`Rig::serve`] and `tandem report` take.
    ///
    /// # Errors
    /// If the file can't be written.
    pub fn config(&self, scratch: &Path) -> Result<PathBuf, String> {
        let file = scratch.join("tandem.toml");
        let ledger = Value::from(scratch.join("ledger.db").to_string_lossy());
        let text = format!("{CONFIG}[ledger]\npath = {ledger}\n");
        fs::write(&file, text).map_err(|error| format!("cannot write {}: {error}", file.display()))?;
        Ok(file)
    }
}
