//! How a command fails: [`CliError`], with the exit code that scripts see.

use std::fmt::Display;

/// A failed command.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// It was used rightly and still did not work (exit code 1).
    #[error("{0}")]
    Failed(String),
    /// A flag, a setting or an input that can't be right (exit code 2).
    #[error("{0}")]
    Usage(String),
    /// A named file, model or endpoint is not there (exit code 3).
    #[error("{0}")]
    Missing(String),
    /// Whoever read our output has had enough (`tandem … | head`): no failure, no message.
    #[error("the output was closed")]
    OutputClosed,
}

impl CliError {
    /// A failure at run time.
    pub fn failed(message: impl Display) -> Self {
        CliError::Failed(message.to_string())
    }

    /// Wrong usage or configuration.
    pub fn usage(message: impl Display) -> Self {
        CliError::Usage(message.to_string())
    }

    /// Something named that is missing.
    pub fn missing(message: impl Display) -> Self {
        CliError::Missing(message.to_string())
    }

    /// The same error, with the place where it happened in front.
    #[must_use]
    pub fn at(self, place: &str) -> Self {
        match self {
            CliError::Failed(message) => CliError::Failed(format!("{place}: {message}")),
            CliError::Usage(message) => CliError::Usage(format!("{place}: {message}")),
            CliError::Missing(message) => CliError::Missing(format!("{place}: {message}")),
            CliError::OutputClosed => CliError::OutputClosed,
        }
    }

    /// What the process ends with.
    pub fn exit_code(&self) -> u8 {
        match self {
            CliError::OutputClosed => 0,
            CliError::Failed(_) => 1,
            CliError::Usage(_) => 2,
            CliError::Missing(_) => 3,
        }
    }

    /// Tells the person at the terminal.
    pub fn print(&self) {
        if !matches!(self, CliError::OutputClosed) {
            eprintln!("tandem: {self}");
        }
    }
}

impl From<store::StoreError> for CliError {
    fn from(error: store::StoreError) -> Self {
        if error.is_missing() { CliError::missing(error) } else { CliError::failed(error) }
    }
}

impl From<store::ReferenceError> for CliError {
    fn from(error: store::ReferenceError) -> Self {
        if error.is_missing() { CliError::missing(error) } else { CliError::usage(error) }
    }
}

/// A file that a flag named and that could not be read.
pub fn unreadable(path: &std::path::Path, error: &std::io::Error) -> CliError {
    let message = format!("can't read {}: {error}", path.display());
    match error.kind() {
        std::io::ErrorKind::NotFound => CliError::Missing(message),
        _ => CliError::Failed(message),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_has_its_exit_code() {
        let codes =
            [CliError::OutputClosed, CliError::failed("x"), CliError::usage("x"), CliError::missing("x")]
                .map(|error| error.exit_code());
        assert_eq!(codes, [0, 1, 2, 3]);
    }

    #[test]
    fn a_missing_file_is_missing_and_a_locked_one_failed() {
        let of = |kind| unreadable("f".as_ref(), &std::io::Error::from(kind)).exit_code();
        assert_eq!(of(std::io::ErrorKind::NotFound), 3);
        assert_eq!(of(std::io::ErrorKind::PermissionDenied), 1);
    }
}
