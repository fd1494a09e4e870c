//! Where code that a model wrote is run: [`Sandbox`], a Python process of its own with little of everything.
//! What it contains and what not is in docs/lab.md: it is made against accidents, not against an attacker.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// Limits of a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SandboxSettings {
    /// The Python interpreter.
    pub python: PathBuf,
    /// Wall time of a program, milliseconds.
    pub time_ms_max: u64,
    /// Address space of a program, bytes.
    pub memory_bytes_max: u64,
    /// Programs that run at once.
    pub programs_max: usize,
}

impl Default for SandboxSettings {
    fn default() -> Self {
        SandboxSettings {
            python: "python3".into(),
            time_ms_max: 10_000,
            memory_bytes_max: 1 << 30,
            programs_max: 2,
        }
    }
}

/// Bytes of a file that a program may write.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// Bytes of output that are read; a program that writes more has failed.
const OUTPUT_BYTES_MAX: u64 = 1 << 20;
/// Processes and threads that a program may have, where the system counts them for it.
const PROCESSES_MAX: u64 = 32;
/// Runs in the new process before the program: it takes away what the program shall not have.
const PRELUDE: &str = include_str!("sandbox_prelude.py");
/// Puts a process into name spaces of its own: no network, and its children end with it.
const UNSHARE: [&str; 6] = ["--user", "--map-root-user", "--net", "--pid", "--fork", "--kill-child"];

/// Why a program could not be run.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// There is no interpreter.
    #[error("can't run {python}: {error}; install Python 3, or name it by TANDEM_PYTHON")]
    NoPython {
        /// As it was looked for.
        python: String,
        /// What the system says.
        error: io::Error,
    },
    /// The prelude can't do its work.
    #[error("{python} can't set a program's limits: {what}")]
    Prelude {
        /// The interpreter.
        python: String,
        /// What it said.
        what: String,
    },
    /// Files or pipes are not to be had.
    #[error("can't run a program: {0}")]
    Io(#[from] io::Error),
}

/// Runs programs, each in a process and a folder of its own.
#[derive(Debug)]
pub struct Sandbox {
    settings: SandboxSettings,
    /// The program that makes name spaces, where the system lets us.
    unshare: Option<PathBuf>,
    places: Semaphore,
}

/// How a program ended.
enum Ended {
    /// By itself, with this output.
    Output(Vec<u8>),
    /// It took too long, or wrote too much.
    Stopped,
}

impl Sandbox {
    /// Looks for the interpreter and for what the system offers.
    ///
    /// # Errors
    /// [`SandboxError`] if there is no interpreter that can be held to limits.
    pub async fn new(settings: SandboxSettings) -> Result<Self, SandboxError> {
        let places = Semaphore::new(settings.programs_max.max(1));
        let mut sandbox = Sandbox { settings, unshare: None, places };
        for unshare in ["/usr/bin/unshare", "/bin/unshare"].map(Path::new) {
            if !unshare.is_file() {
                continue;
            }
            sandbox.unshare = Some(unshare.to_owned());
            if sandbox.passes("").await.unwrap_or(false) {
                return Ok(sandbox);
            }
        }
        sandbox.unshare = None;
        let ended = sandbox.run("", "works").await?;
        match ended {
            (Ended::Output(output), _) if output.ends_with(b"works\n") => Ok(sandbox),
            (_, errors) => {
                let python = sandbox.settings.python.display().to_string();
                Err(SandboxError::Prelude {
                    python,
                    what: String::from_utf8_lossy(&errors).trim().to_owned(),
                })
            }
        }
    }

    /// Whether programs are cut off from the network by the system, not by their interpreter only.
    pub fn has_name_spaces(&self) -> bool {
        self.unshare.is_some()
    }

    /// Whether a program runs to its end without an error, within its limits.
    ///
    /// # Errors
    /// [`SandboxError`] if it can't be run at all.
    pub async fn passes(&self, program: &str) -> Result<bool, SandboxError> {
        // A program that ends itself early does not know what it would have to say.
        let word = format!("{:016x}", RandomState::new().build_hasher().finish());
        let place = self.places.acquire().await;
        let (ended, _) = self.run(program, &word).await?;
        drop(place);
        Ok(matches!(ended, Ended::Output(output) if output.ends_with(format!("{word}\n").as_bytes())))
    }

    /// Runs a program; after it the prelude says `word`. Gives the output and what went to stderr.
    async fn run(&self, program: &str, word: &str) -> Result<(Ended, Vec<u8>), SandboxError> {
        let folder = TempDir::new()?;
        std::fs::write(folder.path().join("program.py"), program)?;
        let mut command = self.command(folder.path(), word);
        let mut child = command.spawn().map_err(|error| SandboxError::NoPython {
            python: self.settings.python.display().to_string(),
            error,
        })?;
        let group = Group::of(child.id());
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let all = async {
            let (output, errors) = tokio::join!(limited(stdout), limited(stderr));
            let status = child.wait().await?;
            Ok::<_, io::Error>((output?, errors?, status))
        };
        let ended = timeout(Duration::from_millis(self.settings.time_ms_max), all).await;
        // Also what it left running.
        drop(group);
        match ended {
            Ok(ended) => {
                let (output, errors, status) = ended?;
                let is_whole = status.success() && output.len() as u64 <= OUTPUT_BYTES_MAX;
                Ok((if is_whole { Ended::Output(output) } else { Ended::Stopped }, errors))
            }
            Err(_) => {
                child.wait().await?;
                Ok((Ended::Stopped, b"it takes too long".to_vec()))
            }
        }
    }

    fn command(&self, folder: &Path, word: &str) -> Command {
        let settings = &self.settings;
        let mut command = match &self.unshare {
            Some(unshare) => {
                let mut command = Command::new(unshare);
                command.args(UNSHARE).arg("--").arg(&settings.python);
                command
            }
            None => Command::new(&settings.python),
        };
        // -I: neither the environment nor the user's packages; -S: nor anybody's.
        command.args(["-I", "-S", "-B", "-c", PRELUDE, word]);
        let seconds = settings.time_ms_max.div_ceil(1000);
        let limits = [settings.memory_bytes_max, seconds, FILE_BYTES_MAX, PROCESSES_MAX];
        command.args(limits.map(|limit| limit.to_string()));
        command.current_dir(folder).env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.kill_on_drop(true).process_group(0);
        command
    }
}

/// A group of processes that ends when this is dropped, also where the future around it is.
struct Group(Option<Pid>);

impl Group {
    fn of(leader: Option<u32>) -> Self {
        Group(leader.and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(leader) = self.0 {
            // Nobody may be left of it.
            let _ = kill_process_group(leader, Signal::KILL);
        }
    }
}

/// Output up to its limit and one byte; what follows is not read.
async fn limited(pipe: Option<impl AsyncRead + Unpin>) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if let Some(pipe) = pipe {
        pipe.take(OUTPUT_BYTES_MAX + 1).read_to_end(&mut bytes).await?;
    }
    Ok(bytes)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A sandbox of short time and memory, without name spaces so that all systems run the same.
    pub fn sandbox() -> Sandbox {
        let settings =
            SandboxSettings { time_ms_max: 5_000, memory_bytes_max: 256 << 20, ..SandboxSettings::default() };
        Sandbox { settings, unshare: None, places: Semaphore::new(2) }
    }

    #[tokio::test]
    async fn programs_pass_by_reaching_their_end() {
        let sandbox = sandbox();
        for (program, passes) in [
            ("", true),
            ("import math, re, collections, heapq, hashlib, typing\nassert math.gcd(4, 6) == 2", true),
            ("assert False", false),
            ("syntax error", false),
            ("import sys\nsys.exit(0)", false),
            ("import os\nos._exit(0)", false),
            ("if __name__ == '__main__':\n    raise ValueError", true),
            ("print('x' * 1000)", true),
            ("import sys; print('x' * 2_000_000)", false),
        ] {
            assert_eq!(sandbox.passes(program).await.unwrap(), passes, "{program}");
        }
    }

    #[tokio::test]
    async fn programs_get_little() {
        let sandbox = sandbox();
        for program in [
            // Memory, files, network.
            "x = bytearray(1 << 30)",
            "with open('big', 'wb') as file:\n    for _ in range(64): file.write(bytes(1 << 16))",
            "import socket\nsocket.socket()",
            "import urllib.request\nurllib.request.urlopen('http://127.0.0.1:9')",
            // Environment and input.
            "import os\nassert 'CARGO' in os.environ or 'HOME' in os.environ",
            "input()",
        ] {
            assert!(!sandbox.passes(program).await.unwrap(), "{program}");
        }
    }

    #[tokio::test]
    async fn time_ends_a_program_and_what_it_started() {
        let mut sandbox = sandbox();
        sandbox.settings.time_ms_max = 1_000;
        let folder = TempDir::new().unwrap();
        let mark = folder.path().join("mark");
        let child = format!("import time; time.sleep(3); open({:?}, 'w')", mark.display().to_string());
        let program = format!(
            "import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', {child:?}])\nwhile True: pass"
        );
        assert!(!sandbox.passes(&program).await.unwrap());
        // Long enough for the child to have left its mark.
        tokio::time::sleep(Duration::from_secs(4)).await;
        assert!(!mark.exists());
    }

    #[tokio::test]
    async fn the_systems_name_spaces_are_used_where_there_are_some() {
        let sandbox = Sandbox::new(SandboxSettings::default()).await.unwrap();
        assert!(sandbox.passes("assert 1 + 1 == 2").await.unwrap());
        // The system's own calls get past the interpreter's socket module, but find no network.
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port().to_be_bytes();
        let program = format!(
            "import ctypes, sys\nlibc = ctypes.CDLL(None)\nfd = libc.socket(2, 1, 0)\n\
             family = (2).to_bytes(2, sys.byteorder)\n\
             address = family + bytes([{}, {}, 127, 0, 0, 1]) + bytes(8)\n\
             assert libc.connect(fd, address, 16) == 0",
            port[0], port[1]
        );
        if cfg!(target_os = "linux") {
            assert_eq!(sandbox.passes(&program).await.unwrap(), !sandbox.has_name_spaces());
        }
    }

    #[tokio::test]
    async fn no_interpreter_is_an_error_that_says_what_to_do() {
        let settings = SandboxSettings { python: "no-such-python".into(), ..SandboxSettings::default() };
        let error = Sandbox::new(settings).await.unwrap_err().to_string();
        assert!(error.contains("no-such-python") && error.contains("TANDEM_PYTHON"), "{error}");
    }
}
