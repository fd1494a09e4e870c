//! Python packages that stand beside Tandem in the checks: the official clients, a real upstream; and
//! running the scripts of `tests/clients`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command as Process;
use std::time::Duration;

use super::process;
use super::report::{Line, Report};

/// Longest time for installing a package.
const INSTALL_LIMIT: Duration = Duration::from_secs(900);
/// Longest time for one script.
const SCRIPT_LIMIT: Duration = Duration::from_secs(900);

/// The system's Python, and a folder for packages that stays between runs.
#[derive(Debug)]
pub struct Python {
    folder: PathBuf,
}

impl Python {
    /// Packages go into `folder`.
    pub fn new(folder: PathBuf) -> Self {
        Python { folder }
    }

    /// The interpreter of a virtual environment called `name` that has these requirements.
    ///
    /// # Errors
    /// If it can't be made.
    pub fn venv(&self, name: &str, requirements: &[&str]) -> Result<PathBuf, String> {
        let folder = self.folder.join(name);
        let interpreter = folder.join("bin").join("python");
        self.once(&folder, requirements, || {
            process::output(Process::new("python3").args(["-m", "venv"]).arg(&folder), INSTALL_LIMIT)?;
            let mut install = Process::new(&interpreter);
            install.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]);
            process::output(install.args(requirements), INSTALL_LIMIT)
        })?;
        Ok(interpreter)
    }

    /// A folder that holds a package's files, without what it depends on.
    ///
    /// # Errors
    /// If it can't be fetched.
    pub fn package(&self, name: &str, requirement: &str) -> Result<PathBuf, String> {
        let folder = self.folder.join(name);
        self.once(&folder, &[requirement], || {
            let mut install = Process::new("python3");
            install.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]);
            process::output(install.arg("--target").arg(&folder).arg(requirement), INSTALL_LIMIT)
        })?;
        Ok(folder)
    }

    /// Fills `folder` unless an earlier run came to its end with the same requirements.
    fn once(
        &self,
        folder: &Path,
        requirements: &[&str],
        fill: impl FnOnce() -> Result<String, String>,
    ) -> Result<(), String> {
        let marker = folder.join("installed.txt");
        let wanted = requirements.join("\n");
        if fs::read_to_string(&marker).is_ok_and(|installed| installed == wanted) {
            return Ok(());
        }
        let failed = |error: std::io::Error| format!("{}: {error}", folder.display());
        if folder.exists() {
            fs::remove_dir_all(folder).map_err(failed)?;
        }
        fs::create_dir_all(&self.folder).map_err(failed)?;
        fill()?;
        fs::write(marker, wanted).map_err(failed)
    }
}

/// A script of `tests/clients` with its arguments. Its output is a line per check that begins with
/// `ok` or `FAILED` and may be followed by lines that belong to it; it exits with 1 if one failed.
#[derive(Debug)]
pub struct Script<'a> {
    /// The interpreter.
    pub python: &'a Path,
    /// The file's name.
    pub file: &'a str,
    /// Its arguments.
    pub arguments: &'a [&'a str],
}

impl Script<'_> {
    /// Runs it and adds a line to the report.
    ///
    /// # Errors
    /// If it can't be run.
    pub fn report(&self, report: &mut Report) -> Result<(), String> {
        let file = crate::root().join("tests/clients").join(self.file);
        let mut command = Process::new(self.python);
        command.arg(file).args(self.arguments);
        // No folder of compiled scripts beside the sources.
        let ended = process::run(command.env("PYTHONDONTWRITEBYTECODE", "1"), SCRIPT_LIMIT)?;
        let outcome = Outcome::read(&ended.stdout);
        let mut line = Line::new(self.file).all("checks", outcome.counted, None);
        line = outcome.notes.into_iter().fold(line, Line::note);
        for failed in outcome.failed {
            line = line.require(false, failed);
        }
        if !ended.status.success() && outcome.counted.0 == outcome.counted.1 {
            line = line.require(false, format!("{}: {}", ended.status, ended.stderr.trim_end()));
        }
        report.line(line);
        Ok(())
    }
}

/// What a script wrote.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    /// Checks that passed, of all.
    counted: (usize, usize),
    /// Lines that are neither: figures, versions.
    notes: Vec<String>,
    /// The checks that failed, with what belongs to them.
    failed: Vec<String>,
}

impl Outcome {
    fn read(stdout: &str) -> Self {
        let mut outcome = Outcome { counted: (0, 0), notes: Vec::new(), failed: Vec::new() };
        let mut in_failure = false;
        for line in stdout.lines() {
            let word = line.split_whitespace().next().unwrap_or_default();
            let passed = word == "ok";
            if passed || word == "FAILED" {
                outcome.counted.0 += usize::from(passed);
                outcome.counted.1 += 1;
                in_failure = !passed;
            }
            match outcome.failed.last_mut() {
                _ if word == "FAILED" => outcome.failed.push(line.to_owned()),
                _ if word == "note" => {
                    in_failure = false;
                    outcome.notes.push(line["note".len()..].trim().to_owned());
                }
                Some(failed) if in_failure => *failed += &format!("\n    {line}"),
                _ => {}
            }
        }
        outcome
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_keep_the_lines_that_belong_to_them() {
        let outcome = Outcome::read("ok  a\nFAILED  b\ntrace\nnote  3 tokens\nok  c\nopenai 3.0: 2 of 3\n");
        assert_eq!(outcome.counted, (2, 3));
        assert_eq!(outcome.failed, ["FAILED  b\n    trace"]);
        assert_eq!(outcome.notes, ["3 tokens"]);
        assert_eq!(Outcome::read("").counted, (0, 0));
    }
}
