//! Other programs: run to their end within a limit ([`run`]), or kept running as a [`Server`]. None
//! outlives the value that stands for it.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command as Process, ExitStatus, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Pause between two looks at a running program.
const POLL: Duration = Duration::from_millis(20);

/// Longest time for one look at a server's state.
const PROBE_LIMIT: Duration = Duration::from_secs(2);

/// Most bytes of a log shown in an error.
const TAIL_BYTES: usize = 2000;

/// A program that is killed when this goes.
#[derive(Debug)]
struct Guard(Child);

impl Guard {
    fn start(command: &mut Process) -> Result<Self, String> {
        let child = command.stdin(Stdio::null()).spawn();
        child.map(Guard).map_err(|error| format!("cannot run {command:?}: {error}"))
    }

    /// How it ended; an error once `limit` has passed.
    fn wait(&mut self, limit: Duration) -> Result<ExitStatus, String> {
        let until = Instant::now() + limit;
        loop {
            match self.0.try_wait() {
                Ok(Some(status)) => return Ok(status),
                Ok(None) if Instant::now() >= until => {
                    return Err(format!("did not end within {} s", limit.as_secs()));
                }
                Ok(None) => thread::sleep(POLL),
                Err(error) => return Err(format!("cannot be waited for: {error}")),
            }
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // It may have ended by itself; then neither has anything to do.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// How a program ended and what it wrote.
#[derive(Debug)]
pub struct Ended {
    /// Its exit status.
    pub status: ExitStatus,
    /// All of its standard output.
    pub stdout: String,
    /// All of its standard error.
    pub stderr: String,
}

/// Runs a program to its end.
///
/// # Errors
/// If it can't be run or takes longer than `limit`. A bad exit status is for the caller to judge.
pub fn run(command: &mut Process, limit: Duration) -> Result<Ended, String> {
    let mut guard = Guard::start(command.stdout(Stdio::piped()).stderr(Stdio::piped()))?;
    let stdout = guard.0.stdout.take().map(read_all);
    let stderr = guard.0.stderr.take().map(read_all);
    let status = guard.wait(limit).map_err(|problem| format!("{command:?}: {problem}"))?;
    let text = |reader: Option<JoinHandle<Vec<u8>>>| {
        let bytes = reader.and_then(|reader| reader.join().ok()).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    Ok(Ended { status, stdout: text(stdout), stderr: text(stderr) })
}

/// Runs a program that must succeed; gives its standard output.
///
/// # Errors
/// As [`run`], and a bad exit status with the end of what the program wrote.
pub fn output(command: &mut Process, limit: Duration) -> Result<String, String> {
    let Ended { status, stdout, stderr } = run(command, limit)?;
    if status.success() {
        return Ok(stdout);
    }
    Err(format!("{command:?} ended with {status}:\n{}\n{}", tail(&stdout), tail(&stderr)))
}

/// Runs a program that must succeed and whose output is for the person at the terminal.
///
/// # Errors
/// As [`output`].
pub fn run_shown(command: &mut Process, limit: Duration) -> Result<(), String> {
    let status = Guard::start(command)?.wait(limit).map_err(|problem| format!("{command:?}: {problem}"))?;
    if status.success() { Ok(()) } else { Err(format!("{command:?} ended with {status}")) }
}

fn read_all(mut from: impl Read + Send + 'static) -> JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        // What came before an error is still worth showing.
        let _ = from.read_to_end(&mut bytes);
        bytes
    })
}

/// The end of a text, from a line's beginning.
fn tail(text: &str) -> &str {
    let text = text.trim_end();
    let Some(cut) = text.len().checked_sub(TAIL_BYTES) else { return text };
    let line = text.char_indices().find(|&(at, sign)| at >= cut && sign == '\n');
    line.map_or("", |(at, _)| &text[at + 1..])
}

/// A port of the loopback address that nobody listens on now.
///
/// # Errors
/// If the system gives none.
pub fn free_port() -> Result<u16, String> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
    let address = listener.and_then(|listener| listener.local_addr());
    address.map(|address| address.port()).map_err(|error| format!("no free port: {error}"))
}

/// A server on the loopback address; killed when this goes.
#[derive(Debug)]
pub struct Server {
    guard: Guard,
    port: u16,
    log: PathBuf,
}

impl Server {
    /// Starts a program that will listen on `port`; what it writes goes to the file `log`.
    ///
    /// # Errors
    /// If the program can't be run or the log not be written.
    pub fn start(command: &mut Process, port: u16, log: &Path) -> Result<Self, String> {
        let unwritable = |error: std::io::Error| format!("cannot write {}: {error}", log.display());
        let stdout = File::create(log).map_err(unwritable)?;
        let stderr = stdout.try_clone().map_err(unwritable)?;
        let guard = Guard::start(command.stdout(stdout).stderr(stderr))?;
        Ok(Server { guard, port, log: log.to_owned() })
    }

    /// Waits until `GET path` answers 200.
    ///
    /// # Errors
    /// If the program ends or `limit` passes first, with the end of its log.
    pub fn wait_until_ok(&mut self, path: &str, limit: Duration) -> Result<(), String> {
        let until = Instant::now() + limit;
        loop {
            if self.status(path) == Some(200) {
                return Ok(());
            }
            if let Ok(Some(status)) = self.guard.0.try_wait() {
                return Err(format!("the server ended with {status}:\n{}", self.log_tail()));
            }
            if Instant::now() >= until {
                let seconds = limit.as_secs();
                return Err(format!("{path} was not 200 within {seconds} s:\n{}", self.log_tail()));
            }
            thread::sleep(POLL * 5);
        }
    }

    /// The address without a path.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.guard.0.id()
    }

    /// How it ended, if it ends within `limit`.
    ///
    /// # Errors
    /// If it does not, with the end of its log.
    pub fn wait_for_end(&mut self, limit: Duration) -> Result<ExitStatus, String> {
        self.guard.wait(limit).map_err(|problem| format!("the server {problem}:\n{}", self.log_tail()))
    }

    /// The end of what it has written so far.
    pub fn log_tail(&self) -> String {
        let bytes = std::fs::read(&self.log).unwrap_or_default();
        tail(&String::from_utf8_lossy(&bytes)).to_owned()
    }

    /// The status of `GET path`; `None` while nobody answers.
    fn status(&self, path: &str) -> Option<u16> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.port));
        let mut stream = TcpStream::connect_timeout(&address, PROBE_LIMIT).ok()?;
        stream.set_read_timeout(Some(PROBE_LIMIT)).ok()?;
        stream.set_write_timeout(Some(PROBE_LIMIT)).ok()?;
        let head = format!("GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).ok()?;
        let mut begin = [0; "HTTP/1.1 200".len()];
        stream.read_exact(&mut begin).ok()?;
        str::from_utf8(&begin).ok()?.split(' ').nth(1)?.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Process {
        let mut command = Process::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn both_outputs_and_the_status_come_back() {
        let ended = run(&mut shell("echo out; echo err >&2; exit 3"), Duration::from_secs(60)).unwrap();
        assert_eq!((ended.stdout.as_str(), ended.stderr.as_str()), ("out\n", "err\n"));
        assert_eq!(ended.status.code(), Some(3));
        let problem = output(&mut shell("echo why >&2; exit 3"), Duration::from_secs(60)).unwrap_err();
        assert!(problem.contains("why"), "{problem}");
    }

    #[test]
    fn what_takes_too_long_is_ended() {
        let started = Instant::now();
        // `exec`, so that the one process that is killed is the one that holds the pipes.
        let problem = run(&mut shell("exec sleep 600"), Duration::from_millis(100)).unwrap_err();
        assert!(problem.contains("did not end"), "{problem}");
        assert!(started.elapsed() < Duration::from_secs(60));
    }

    #[test]
    fn a_server_that_ends_is_reported_with_its_log() {
        let log = std::env::temp_dir().join(format!("xtask-server-{}.log", std::process::id()));
        let port = free_port().unwrap();
        let mut server = Server::start(&mut shell("echo broken; exit 2"), port, &log).unwrap();
        let problem = server.wait_until_ok("/", Duration::from_secs(60)).unwrap_err();
        std::fs::remove_file(log).unwrap();
        assert!(problem.contains("broken"), "{problem}");
    }

    #[test]
    fn a_tail_begins_with_a_line() {
        assert_eq!(tail("a\nb\n"), "a\nb");
        let long = format!("{}\nend", "é".repeat(TAIL_BYTES));
        assert_eq!(tail(&long), "end");
    }
}
