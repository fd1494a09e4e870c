//! What can go wrong: [`StoreError`] for a model, [`SourceError`] for one of its sources.

use std::io;
use std::path::{Path, PathBuf};

use crate::Sha256;

/// Why a model cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// What was named is not there.
    #[error("{what} is missing; {advice}")]
    Missing {
        /// The file, folder or model.
        what: String,
        /// What to do.
        advice: String,
    },
    /// A file is there, but it is not the right one.
    #[error("{}: {damage}; {advice}", .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// In what way it is wrong.
        damage: Damage,
        /// What to do.
        advice: String,
    },
    /// No source gave the model.
    #[error("{model} could not be fetched from any source:{}",
        .failures.iter().map(|failure| format!("\n  {}: {}", failure.source, failure.error)).collect::<String>())]
    Fetch {
        /// The model.
        model: String,
        /// Every source that was tried, in order.
        failures: Vec<Failure>,
    },
    /// Another process is fetching the model and did not finish in time.
    #[error(
        "{model} is being fetched by another process, which did not finish within {waited_s} s; \
        wait for it, or end it and try again"
    )]
    Busy {
        /// The model.
        model: String,
        /// How long this process waited.
        waited_s: u64,
    },
    /// The disk refused.
    #[error(transparent)]
    Disk(#[from] DiskError),
}

impl StoreError {
    /// Whether something named is missing (exit code 3), as opposed to a failure.
    pub fn is_missing(&self) -> bool {
        match self {
            StoreError::Missing { .. } => true,
            StoreError::Fetch { failures, .. } => {
                !failures.is_empty() && failures.iter().all(|failure| failure.error.is_missing())
            }
            _ => false,
        }
    }
}

/// One source that failed.
#[derive(Debug)]
pub struct Failure {
    /// The source, for people.
    pub source: String,
    /// Why.
    pub error: SourceError,
}

/// In what way a file is not the one it should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// Too short or too long.
    #[error("it has {found} bytes, not {expected}")]
    Size {
        /// Bytes there.
        found: u64,
        /// Bytes there should be.
        expected: u64,
    },
    /// The right length, but other bytes.
    #[error("its sha256 is {found}, not {expected}")]
    Digest {
        /// Of the bytes there.
        found: Sha256,
        /// Of the bytes there should be.
        expected: Sha256,
    },
}

/// A file operation that failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}: {source}", .path.display())]
pub struct DiskError {
    action: &'static str,
    path: PathBuf,
    source: io::Error,
}

impl DiskError {
    /// For `map_err`: what was tried, and on which path.
    pub(crate) fn of(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> DiskError {
        let path = path.to_owned();
        move |source| DiskError { action, path, source }
    }
}

/// Why one source did not give the model.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// There is no Python interpreter.
    #[error("there is no program {:?}; install Python 3 with pip", .python)]
    PythonMissing {
        /// The program looked for.
        python: PathBuf,
    },
    /// There is a Python, but it has no pip.
    #[error("{python:?} has no pip; install it (python3 -m ensurepip, or your system's python3-pip)")]
    PipMissing {
        /// The interpreter.
        python: PathBuf,
    },
    /// The package index does not know the package.
    #[error("pip finds no package {package}")]
    PackageMissing {
        /// What pip was asked for.
        package: String,
    },
    /// pip failed.
    #[error("pip could not download {package}: {reason}")]
    Pip {
        /// What pip was asked for.
        package: String,
        /// The end of what it wrote on stderr.
        reason: String,
    },
    /// pip went on for too long.
    #[error("pip did not download {package} within {limit_s} s")]
    PipSlow {
        /// What pip was asked for.
        package: String,
        /// The limit.
        limit_s: u64,
    },
    /// pip fetched more than the package can rightly have.
    #[error("{package} has more than {bytes_max} bytes, more than the model has left")]
    PackageTooLarge {
        /// What pip was asked for.
        package: String,
        /// The limit.
        bytes_max: u64,
    },
    /// A wheel that does not hold what it should.
    #[error("the wheel of {package}: {reason}")]
    Wheel {
        /// What pip was asked for.
        package: String,
        /// What is wrong with it.
        reason: String,
    },
    /// No connection to the hub.
    #[error("{url}: no connection: {reason}")]
    Unreachable {
        /// The URL.
        url: String,
        /// The transport's reason.
        reason: String,
    },
    /// The connection to the hub broke, or fell silent.
    #[error("{url}: {reason}")]
    Network {
        /// The URL.
        url: String,
        /// The transport's reason.
        reason: String,
    },
    /// The hub answered, but not with the file.
    #[error("{url}: status {status}{}", status_advice(*.status))]
    Status {
        /// The URL.
        url: String,
        /// The HTTP status.
        status: u16,
    },
    /// The hub's answer is not what its protocol says.
    #[error("{url}: {reason}")]
    Protocol {
        /// The URL.
        url: String,
        /// What is wrong with the answer.
        reason: String,
    },
    /// The source gave other bytes; they were dropped.
    #[error("what it gives for {model} is not the right file: {damage}; the bytes were dropped")]
    WrongFile {
        /// The model.
        model: String,
        /// In what way it is wrong.
        damage: Damage,
    },
    /// The disk refused.
    #[error(transparent)]
    Disk(#[from] DiskError),
}

impl SourceError {
    /// Whether the source does not have what was named.
    fn is_missing(&self) -> bool {
        matches!(self, SourceError::PackageMissing { .. } | SourceError::Status { status: 404, .. })
    }

    /// Whether trying again soon may help.
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            SourceError::Pip { .. } | SourceError::Network { .. } => true,
            SourceError::Status { status, .. } => matches!(status, 408 | 425 | 429 | 500..=599),
            _ => false,
        }
    }
}

fn status_advice(status: u16) -> &'static str {
    match status {
        401 | 403 => " (a gated or private repository: accept its terms and give a token)",
        404 => " (no such repository, file or revision)",
        429 => " (too many requests: wait a little)",
        _ => "",
    }
}
