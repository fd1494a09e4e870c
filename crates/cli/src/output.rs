//! What commands write on stdout. A reader that closes it early is no failure.

use std::io::{self, Write};

use serde::Serialize;

use crate::error::CliError;

/// Writes a line.
///
/// # Errors
/// [`CliError::OutputClosed`] if nobody reads any more; [`CliError::Failed`] if writing fails.
pub fn line(text: &str) -> Result<(), CliError> {
    write(format_args!("{text}\n"))
}

/// Writes a value as one line of JSON.
///
/// # Errors
/// As [`line`].
pub fn json(value: &impl Serialize) -> Result<(), CliError> {
    let text = serde_json::to_string(value)
        .map_err(|error| CliError::failed(format!("the result can't be written as JSON: {error}")))?;
    line(&text)
}

/// Writes text as it is and sends it off at once.
///
/// # Errors
/// As [`line`].
pub fn text(text: &str) -> Result<(), CliError> {
    write(format_args!("{text}"))
}

fn write(text: std::fmt::Arguments<'_>) -> Result<(), CliError> {
    let mut stdout = io::stdout().lock();
    stdout.write_fmt(text).and_then(|()| stdout.flush()).map_err(|error| match error.kind() {
        io::ErrorKind::BrokenPipe => CliError::OutputClosed,
        _ => CliError::failed(format!("can't write the output: {error}")),
    })
}

/// Bytes for people: `1.5 GiB`.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_well() {
        let table = [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (3 << 30, "3.0 GiB")];
        for (bytes, expected) in table {
            assert_eq!(size(bytes), expected);
        }
        assert_eq!(size(u64::MAX), "16777216.0 TiB");
    }
}
