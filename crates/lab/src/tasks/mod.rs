//! Files of tasks: each format is one file here and one line in [`FORMATS`]. A file holds JSON lines, gzipped or
//! not; its format is told by name or seen in the fields of its first line.

mod choices;
mod gsm8k;
mod humaneval;
mod plain;
mod reasoning_gym;
mod routellm;

use std::collections::HashMap;
use std::io::Read;

use flate2::read::MultiGzDecoder;
use serde_json::{Map, Value};

use crate::rows::{FieldError, Fields, Row};

/// Bytes of a file of rows, unpacked.
pub const TASK_BYTES_MAX: u64 = 512 << 20;
/// Rows of a file.
pub const ROWS_MAX: usize = 1 << 20;
/// With these a gzip file begins.
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// A format of rows.
#[derive(Clone, Copy, Debug)]
pub struct Format {
    /// Its name for `--format`.
    pub name: &'static str,
    /// What it is, in a few words.
    pub what: &'static str,
    /// Whether an object looks like a row of it.
    detect: fn(Fields) -> bool,
    /// Reads a row; the name is what it is called if it has no id of its own.
    read: fn(Fields, String) -> Result<Row, FieldError>,
}

/// Every format, in the order in which they are tried.
pub const FORMATS: &[Format] = &[
    plain::FORMAT,
    humaneval::FORMAT,
    routellm::FORMAT,
    choices::FORMAT,
    reasoning_gym::FORMAT,
    gsm8k::FORMAT,
];

/// Why a file of rows can't be read.
#[derive(Debug, thiserror::Error)]
pub enum TaskError {
    /// It is damaged as a gzip file, or too large.
    #[error("{0}")]
    File(String),
    /// Nobody knows the format.
    #[error("there is no format {name:?}; known are {known}")]
    UnknownFormat {
        /// As asked for.
        name: String,
        /// Those that there are.
        known: String,
    },
    /// Its first row looks like no known one.
    #[error("line {line}: these fields are of no known format; name one with --format ({known})")]
    UnseenFormat {
        /// The row's line, from 1.
        line: usize,
        /// Those that there are.
        known: String,
    },
    /// A line that is no JSON object.
    #[error("line {line}: not a JSON object: {what}")]
    Json {
        /// Which, from 1.
        line: usize,
        /// What the parser says.
        what: String,
    },
    /// A field that can't be right.
    #[error("line {line}: {error}")]
    Field {
        /// Which line, from 1.
        line: usize,
        /// What is wrong.
        error: FieldError,
    },
    /// Two rows with one id.
    #[error("line {line}: the id {id:?} is that of line {first} already")]
    Duplicate {
        /// The second's line, from 1.
        line: usize,
        /// The first's.
        first: usize,
        /// Of both.
        id: String,
    },
    /// Nothing in it.
    #[error("there is no row")]
    Empty,
}

/// The names of all formats.
fn known() -> String {
    FORMATS.iter().map(|format| format.name).collect::<Vec<_>>().join(", ")
}

/// The rows of a file's content, in its order.
///
/// # Errors
/// [`TaskError`], naming line and field.
pub fn read(content: &[u8], format: Option<&str>) -> Result<Vec<Row>, TaskError> {
    let mut format = match format {
        None => None,
        Some(name) => Some(
            FORMATS
                .iter()
                .find(|format| format.name == name)
                .ok_or_else(|| TaskError::UnknownFormat { name: name.to_owned(), known: known() })?,
        ),
    };
    let text = unpacked(content)?;
    let (mut rows, mut lines) = (Vec::new(), HashMap::new());
    for (index, line) in text.split(|&byte| byte == b'\n').enumerate() {
        if line.trim_ascii().is_empty() {
            continue;
        }
        let number = index + 1;
        if rows.len() == ROWS_MAX {
            return Err(TaskError::File(format!("there are more than {ROWS_MAX} rows")));
        }
        let map: Map<String, Value> = serde_json::from_slice(line)
            .map_err(|error| TaskError::Json { line: number, what: error.to_string() })?;
        let fields = Fields::new(&map, "");
        let format = match format {
            Some(format) => format,
            None => {
                let seen = FORMATS.iter().find(|format| (format.detect)(fields));
                *format.insert(seen.ok_or_else(|| TaskError::UnseenFormat { line: number, known: known() })?)
            }
        };
        let row = (format.read)(fields, format!("{}/{number}", format.name))
            .map_err(|error| TaskError::Field { line: number, error })?;
        if let Some(first) = lines.insert(row.id.clone(), number) {
            return Err(TaskError::Duplicate { line: number, first, id: row.id });
        }
        rows.push(row);
    }
    if rows.is_empty() { Err(TaskError::Empty) } else { Ok(rows) }
}

/// The bytes of a file that may be gzipped.
fn unpacked(content: &[u8]) -> Result<Vec<u8>, TaskError> {
    let mut bytes = Vec::new();
    if content.starts_with(&GZIP_MAGIC) {
        let mut decoder = MultiGzDecoder::new(content).take(TASK_BYTES_MAX + 1);
        decoder
            .read_to_end(&mut bytes)
            .map_err(|error| TaskError::File(format!("the gzip file is damaged: {error}")))?;
    } else {
        bytes.extend_from_slice(content);
    }
    if bytes.len() as u64 > TASK_BYTES_MAX {
        return Err(TaskError::File(format!("it has more than {TASK_BYTES_MAX} bytes")));
    }
    Ok(bytes)
}
