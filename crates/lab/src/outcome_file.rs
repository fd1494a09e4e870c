//! The file that outcomes are appended to: [`OutcomeFile`]. A run that was stopped, even in the middle of a
//! line, can be taken up again: what is there is not asked for a second time.

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use contract::Role;

use crate::outcomes::Outcome;

/// Bytes of a file of outcomes.
pub const OUTCOMES_BYTES_MAX: u64 = 4 << 30;

/// Why a file of outcomes can't be used.
#[derive(Debug, thiserror::Error)]
pub enum OutcomeFileError {
    /// It can't be opened, read or written.
    #[error("{path}: {error}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// A line, not the last, is no outcome.
    #[error("{path}: line {line} is no outcome: {what}; mend it, or give another file")]
    Line {
        /// Which file.
        path: PathBuf,
        /// Which line, from 1.
        line: usize,
        /// What is wrong with it.
        what: String,
    },
    /// It is too large.
    #[error("{0} has more than {OUTCOMES_BYTES_MAX} bytes")]
    TooLarge(PathBuf),
}

/// An open file of outcomes.
#[derive(Debug)]
pub struct OutcomeFile {
    file: File,
    path: PathBuf,
}

/// The outcomes of a file's bytes, and how many of the bytes they are: a last line that was torn is left out.
///
/// # Errors
/// The number of another line that is no outcome, from 1, and what is wrong with it.
pub fn parse(bytes: &[u8]) -> Result<(Vec<Outcome>, usize), (usize, String)> {
    let (mut outcomes, mut sound) = (Vec::new(), 0);
    for (index, line) in bytes.split_inclusive(|&byte| byte == b'\n').enumerate() {
        if !line.trim_ascii().is_empty() {
            match serde_json::from_slice(line) {
                Ok(outcome) => outcomes.push(outcome),
                Err(_) if !line.ends_with(b"\n") => break,
                Err(error) => return Err((index + 1, error.to_string())),
            }
        }
        sound += line.len();
    }
    Ok((outcomes, sound))
}

impl OutcomeFile {
    /// Opens a file to append to, and reads what is in it. A torn last line is cut off.
    ///
    /// # Errors
    /// [`OutcomeFileError`].
    pub fn open(path: &Path) -> Result<(Self, Vec<Outcome>), OutcomeFileError> {
        let at = |error| OutcomeFileError::Io { path: path.to_owned(), error };
        let options = OpenOptions::new().read(true).append(true).create(true).clone();
        let mut file = options.open(path).map_err(at)?;
        let mut bytes = Vec::new();
        (&file).take(OUTCOMES_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(at)?;
        if bytes.len() as u64 > OUTCOMES_BYTES_MAX {
            return Err(OutcomeFileError::TooLarge(path.to_owned()));
        }
        let (outcomes, sound) = parse(&bytes).map_err(|(line, what)| OutcomeFileError::Line {
            path: path.to_owned(),
            line,
            what,
        })?;
        file.set_len(sound as u64).map_err(at)?;
        if bytes[..sound].last().is_some_and(|&byte| byte != b'\n') {
            file.write_all(b"\n").map_err(at)?;
        }
        Ok((OutcomeFile { file, path: path.to_owned() }, outcomes))
    }

    /// Puts these outcomes in a file's place, whole: if that fails the file is as it was.
    ///
    /// # Errors
    /// If it can't be written.
    pub fn replace(path: &Path, outcomes: &[Outcome]) -> Result<(), OutcomeFileError> {
        let at = |error| OutcomeFileError::Io { path: path.to_owned(), error };
        let mut beside = path.as_os_str().to_owned();
        beside.push(".new");
        let beside = PathBuf::from(beside);
        let mut file = std::io::BufWriter::new(File::create(&beside).map_err(at)?);
        for outcome in outcomes {
            serde_json::to_writer(&mut file, outcome).map_err(|error| at(error.into()))?;
            file.write_all(b"\n").map_err(at)?;
        }
        file.into_inner().map_err(|error| at(error.into_error()))?.sync_all().map_err(at)?;
        std::fs::rename(&beside, path).map_err(at)
    }

    /// Appends a line, whole and at once.
    ///
    /// # Errors
    /// If it can't be written.
    pub fn append(&mut self, outcome: &Outcome) -> Result<(), OutcomeFileError> {
        let at = |error| OutcomeFileError::Io { path: self.path.clone(), error };
        let mut line = serde_json::to_vec(outcome).map_err(|error| at(error.into()))?;
        line.push(b'\n');
        self.file.write_all(&line).and_then(|()| self.file.flush()).map_err(at)
    }
}

/// Whose answers to which rows are there.
pub fn done(outcomes: &[Outcome]) -> HashSet<(String, Role)> {
    outcomes.iter().map(|outcome| (outcome.id.clone(), outcome.backend)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(id: &str) -> Outcome {
        let text = format!(r#"{{"id":"{id}","backend":"small","correct":true}}"#);
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn a_torn_line_is_cut_and_a_whole_one_without_its_end_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("outcomes.jsonl");
        let (mut file, there) = OutcomeFile::open(&path).unwrap();
        assert!(there.is_empty());
        file.append(&outcome("a")).unwrap();
        let whole = std::fs::read(&path).unwrap();
        for cut in 1..=whole.len() {
            std::fs::write(&path, [&whole[..], &whole[..cut]].concat()).unwrap();
            let (mut file, there) = OutcomeFile::open(&path).unwrap();
            let expected = if cut + 1 >= whole.len() { 2 } else { 1 };
            assert_eq!(there.len(), expected, "{cut}");
            file.append(&outcome("b")).unwrap();
            let (_, there) = OutcomeFile::open(&path).unwrap();
            assert_eq!((there.len(), there[expected].id.as_str()), (expected + 1, "b"));
        }
    }

    #[test]
    fn a_damaged_line_in_the_middle_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("outcomes.jsonl");
        std::fs::write(&path, "\n{\"id\":1}\n").unwrap();
        let error = OutcomeFile::open(&path).unwrap_err().to_string();
        assert!(error.contains("line 2 is no outcome"), "{error}");
        assert!(OutcomeFile::open(&folder.path().join("no/such")).is_err());
    }
}
