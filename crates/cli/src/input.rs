//! Files that commands read: whole, or a line of JSON at a time. `-` is stdin.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use serde::de::DeserializeOwned;

use crate::error::{CliError, unreadable};

/// Bytes of a file that is read whole, at most.
pub const FILE_BYTES_MAX: u64 = 256 << 20;
/// Bytes of one line of JSON, at most.
pub const LINE_BYTES_MAX: u64 = 64 << 20;

fn open(path: &Path) -> Result<Box<dyn BufRead>, CliError> {
    if path == Path::new("-") {
        return Ok(Box::new(BufReader::new(io::stdin())));
    }
    let file = File::open(path).map_err(|error| unreadable(path, &error))?;
    Ok(Box::new(BufReader::new(file)))
}

/// The text of a file.
///
/// # Errors
/// If it can't be read, is not UTF-8 or has more than [`FILE_BYTES_MAX`] bytes.
pub fn text(path: &Path) -> Result<String, CliError> {
    let mut bytes = Vec::new();
    open(path)?.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(|error| unreadable(path, &error))?;
    let shown = path.display();
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(CliError::usage(format!("{shown} has more than {FILE_BYTES_MAX} bytes")));
    }
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        CliError::usage(format!("{shown} is not UTF-8: byte {at} is wrong"))
    })
}

/// A file's JSON.
///
/// # Errors
/// As [`text`], and if it is not the JSON that is expected.
pub fn json<T: DeserializeOwned>(path: &Path) -> Result<T, CliError> {
    serde_json::from_str(&text(path)?).map_err(|error| {
        CliError::usage(format!("{}: not the JSON that is expected: {error}", path.display()))
    })
}

/// Calls `each` with the JSON of every line; empty lines are skipped.
///
/// # Errors
/// If the file can't be read, and with file and line number for a line that is wrong, also where
/// `each` says so.
pub fn json_lines<T: DeserializeOwned>(
    path: &Path,
    mut each: impl FnMut(T) -> Result<(), CliError>,
) -> Result<(), CliError> {
    let mut reader = open(path)?;
    let mut line = Vec::new();
    for number in 1_u64.. {
        line.clear();
        let read = reader.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line);
        if read.map_err(|error| unreadable(path, &error))? == 0 {
            break;
        }
        let place = || format!("{}:{number}", path.display());
        if line.len() as u64 == LINE_BYTES_MAX {
            return Err(CliError::usage(format!("{}: longer than {LINE_BYTES_MAX} bytes", place())));
        }
        if line.trim_ascii().is_empty() {
            continue;
        }
        let value = serde_json::from_slice(&line).map_err(|error| {
            CliError::usage(format!("{}: not the JSON that is expected: {error}", place()))
        })?;
        each(value).map_err(|error| error.at(&place()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn file(content: &[u8]) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(content).unwrap();
        file
    }

    fn sum(content: &[u8]) -> Result<u32, CliError> {
        let mut sum = 0;
        json_lines(file(content).path(), |value: u32| {
            sum += value;
            if value == 13 { Err(CliError::failed("unlucky")) } else { Ok(()) }
        })?;
        Ok(sum)
    }

    #[test]
    fn lines_are_read_one_by_one() {
        assert_eq!(sum(b"1\n2\n\n  \n3").unwrap(), 6);
        assert_eq!(sum(b"").unwrap(), 0);
    }

    #[test]
    fn a_wrong_line_is_named_by_file_and_number() {
        for (content, code, words) in
            [(&b"1\nx\n"[..], 2, ":2: not the JSON"), (b"1\n\n13\n", 1, ":3: unlucky"), (b"\xff", 2, ":1: ")]
        {
            let error = sum(content).unwrap_err();
            assert_eq!(error.exit_code(), code);
            assert!(error.to_string().contains(words), "{error}");
        }
    }

    #[test]
    fn files_that_are_not_text_are_refused() {
        assert_eq!(text(file("ä\n".as_bytes()).path()).unwrap(), "ä\n");
        assert!(text(file(b"ab\xff").path()).unwrap_err().to_string().contains("byte 2"));
        assert_eq!(text("no/such/file".as_ref()).unwrap_err().exit_code(), 3);
        assert_eq!(json::<Vec<u32>>(file(b"{}").path()).unwrap_err().exit_code(), 2);
    }
}
