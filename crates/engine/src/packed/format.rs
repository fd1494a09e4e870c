//! The packed file: a header of 128 bytes, the matrices' packed forms behind each other, and the table
//! that says where each is. All numbers are little-endian.
//!
//! ```text
//!   0  magic          8 bytes
//!   8  version        u32, of this format; then u32, of the panels' layout
//!  16  source         32 bytes, digest of the model file
//!  48  table          u64 offset, u64 bytes, u64 checksum
//!  72  file           u64 bytes
//!  80  zeros
//! 120  checksum       u64, of the 120 bytes before
//! 128  matrices       integers, then scales of each, in lines of 64 bytes
//!   …  table          per matrix: u16 + name, u32 ggml type, u64 rows, columns, offset, bytes, checksum
//! ```

use std::collections::HashMap;
use std::sync::Arc;

use kernels::checksum::checksum;
use kernels::mapped::Mapped;
use kernels::panels::{LAYOUT_VERSION, Panels};
use kernels::pool::Pool;

use super::error::PackedError;
use super::source::Digest;
use super::{PanelSource, PanelsError, Wanted};
use crate::gguf::{TENSOR_COUNT_MAX, TENSOR_NAME_BYTES_MAX};

/// Bytes in front of the first matrix.
pub(super) const HEADER_BYTES: usize = 128;
const MAGIC: [u8; 8] = *b"TNDMPACK";
/// Raised whenever header or table mean something else.
const VERSION: u32 = 1;
const CHECKSUM_AT: usize = 120;
/// Bytes of an entry of the table besides the name.
const ENTRY_BYTES: u64 = 2 + 4 + 5 * 8;
/// Bytes of a table, at most: as many entries as a model file may have tensors.
const TABLE_BYTES_MAX: u64 = TENSOR_COUNT_MAX * (TENSOR_NAME_BYTES_MAX + ENTRY_BYTES);

/// One matrix in the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Matrix {
    /// The tensor's name.
    pub name: String,
    /// The type that it is packed as: the tensor's in the model file, unless it is for drafting.
    pub ggml_type: u32,
    /// Rows.
    pub rows: u64,
    /// Values of a row.
    pub columns: u64,
    /// Where its packed form begins in the file.
    pub start: u64,
    /// Bytes of its packed form.
    pub bytes: u64,
    /// [`checksum`] of its packed form.
    pub checksum: u64,
}

/// Bytes that a matrix of `bytes` packed bytes takes in a file, and in its table.
pub(super) fn matrix_bytes(name: &str, bytes: usize) -> u64 {
    (bytes as u64).saturating_add(name.len() as u64 + ENTRY_BYTES)
}

/// Header of a file with this table at `table_start`, its end.
pub(super) fn header(source: &Digest, table: &[u8], table_start: u64) -> [u8; HEADER_BYTES] {
    let mut bytes = Vec::with_capacity(HEADER_BYTES);
    bytes.extend(MAGIC);
    bytes.extend(VERSION.to_le_bytes());
    bytes.extend(LAYOUT_VERSION.to_le_bytes());
    bytes.extend(source.0);
    let table_bytes = table.len() as u64;
    let numbers = [table_start, table_bytes, serial_checksum(table), table_start + table_bytes];
    numbers.iter().for_each(|number| bytes.extend(number.to_le_bytes()));
    bytes.resize(CHECKSUM_AT, 0);
    bytes.extend(serial_checksum(&bytes).to_le_bytes());
    let mut header = [0; HEADER_BYTES];
    header.copy_from_slice(&bytes);
    header
}

/// The table as the file holds it.
pub(super) fn encode_table(matrices: &[Matrix]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for matrix in matrices {
        // Names come from a model file, whose limit is far below.
        bytes.extend((matrix.name.len() as u16).to_le_bytes());
        bytes.extend(matrix.name.as_bytes());
        bytes.extend(matrix.ggml_type.to_le_bytes());
        let numbers = [matrix.rows, matrix.columns, matrix.start, matrix.bytes, matrix.checksum];
        numbers.iter().for_each(|number| bytes.extend(number.to_le_bytes()));
    }
    bytes
}

/// Reads a table of any bytes.
///
/// # Errors
/// [`PackedError::Table`].
pub fn parse_table(table: &[u8]) -> Result<Vec<Matrix>, PackedError> {
    let mut matrices = Vec::new();
    let mut rest = table;
    while !rest.is_empty() {
        let entry = matrices.len();
        let wrong = |what| PackedError::Table { entry, what };
        let name_bytes = u16::from_le_bytes(take(&mut rest).ok_or_else(|| wrong("name"))?);
        let name = rest.split_off(..usize::from(name_bytes)).and_then(|name| str::from_utf8(name).ok());
        let name = name.filter(|name| !name.is_empty()).ok_or_else(|| wrong("name"))?.to_owned();
        let ggml_type = u32::from_le_bytes(take(&mut rest).ok_or_else(|| wrong("type"))?);
        let mut number = |what| take(&mut rest).map(u64::from_le_bytes).ok_or_else(|| wrong(what));
        matrices.push(Matrix {
            name,
            ggml_type,
            rows: number("rows")?,
            columns: number("columns")?,
            start: number("offset")?,
            bytes: number("length")?,
            checksum: number("checksum")?,
        });
    }
    Ok(matrices)
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    rest.split_off(..N).and_then(|bytes| bytes.try_into().ok())
}

/// Headers and tables are too small for a pool.
fn serial_checksum(bytes: &[u8]) -> u64 {
    checksum(bytes, &Pool::new(1))
}

/// A whole, undamaged file of packed weights.
#[derive(Debug)]
pub struct PackedFile {
    file: Arc<Mapped>,
    matrices: HashMap<String, Matrix>,
}

impl PackedFile {
    /// Reads header and table and verifies every checksum, with the pool.
    ///
    /// # Errors
    /// If anything is not as it was written, or `source` is not what it was packed from.
    pub fn new(file: Mapped, source: &Digest, pool: &Pool) -> Result<Self, PackedError> {
        let bytes = file.bytes();
        let table = table_of(bytes, source)?;
        let matrices = parse_table(table)?;
        for matrix in &matrices {
            let data = range(bytes, matrix.start, matrix.bytes);
            if data.is_none_or(|data| checksum(data, pool) != matrix.checksum) {
                return Err(PackedError::Damaged { part: format!("tensor `{}`", matrix.name) });
            }
        }
        let matrices = matrices.into_iter().map(|matrix| (matrix.name.clone(), matrix)).collect();
        Ok(PackedFile { file: Arc::new(file), matrices })
    }
}

impl PanelSource for PackedFile {
    fn panels(&self, wanted: &Wanted) -> Result<Panels, PanelsError> {
        let tensor = wanted.tensor;
        let missing = || PackedError::Missing { name: tensor.name().to_owned() };
        let (format, (rows, columns)) = (wanted.packing.format(), wanted.shape());
        let matrix = self.matrices.get(tensor.name()).ok_or_else(missing)?;
        if (matrix.ggml_type, matrix.rows, matrix.columns)
            != (format.ggml_type(), rows as u64, columns as u64)
        {
            return Err(missing().into());
        }
        let start = usize::try_from(matrix.start).map_err(|_| missing())?;
        let panels = Panels::of_file(format, (rows, columns), &self.file, start)
            .map_err(|error| PackedError::Panels { name: tensor.name().to_owned(), error })?;
        // The checksum was of that many.
        if panels.bytes() as u64 != matrix.bytes {
            return Err(missing().into());
        }
        Ok(panels)
    }
}

/// Checks the header; gives the table, whose checksum is right.
fn table_of<'a>(bytes: &'a [u8], source: &Digest) -> Result<&'a [u8], PackedError> {
    let length = |expected: u64| PackedError::Length { expected, found: bytes.len() as u64 };
    let header = bytes.first_chunk::<HEADER_BYTES>().ok_or_else(|| length(HEADER_BYTES as u64))?;
    if !header.starts_with(&MAGIC) {
        return Err(PackedError::Magic);
    }
    let number = |at: usize| u64::from_le_bytes(std::array::from_fn(|byte| header[at + byte]));
    let (version, layout) = (number(8) as u32, (number(8) >> 32) as u32);
    if (version, layout) != (VERSION, LAYOUT_VERSION) {
        return Err(PackedError::Version {
            found: format!("{version}.{layout}"),
            expected: format!("{VERSION}.{LAYOUT_VERSION}"),
        });
    }
    if number(CHECKSUM_AT) != serial_checksum(&header[..CHECKSUM_AT]) {
        return Err(PackedError::Damaged { part: "its header".to_owned() });
    }
    if header[16..48] != source.0 {
        return Err(PackedError::OtherSource);
    }
    let (start, table_bytes, sum, file_bytes) = (number(48), number(56), number(64), number(72));
    if file_bytes != bytes.len() as u64 {
        return Err(length(file_bytes));
    }
    let table = range(bytes, start, table_bytes).filter(|_| table_bytes <= TABLE_BYTES_MAX);
    table
        .filter(|table| serial_checksum(table) == sum)
        .ok_or_else(|| PackedError::Damaged { part: "its table".to_owned() })
}

/// `length` bytes from `start` on, if they are there.
fn range(bytes: &[u8], start: u64, length: u64) -> Option<&[u8]> {
    let (start, length) = (usize::try_from(start).ok()?, usize::try_from(length).ok()?);
    bytes.get(start..start.checked_add(length)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: Digest = Digest([5; 32]);

    fn matrix(name: &str, start: u64, data: &[u8]) -> Matrix {
        let checksum = serial_checksum(data);
        Matrix {
            name: name.to_owned(),
            ggml_type: 8,
            rows: 2,
            columns: 32,
            start,
            bytes: data.len() as u64,
            checksum,
        }
    }

    fn file(data: &[u8], matrices: &[Matrix]) -> Vec<u8> {
        let table = encode_table(matrices);
        let header = header(&SOURCE, &table, (HEADER_BYTES + data.len()) as u64);
        [header.as_slice(), data, &table].concat()
    }

    fn sound() -> Vec<u8> {
        let (one, two) = ([1; 64], [2; 128]);
        let all = [one.as_slice(), &two].concat();
        file(&all, &[matrix("one", 128, &one), matrix("two", 192, &two)])
    }

    fn open(bytes: Vec<u8>) -> Result<PackedFile, PackedError> {
        PackedFile::new(Mapped::from(bytes), &SOURCE, &Pool::new(1))
    }

    /// With a header whose checksum is right again.
    fn edited(at: usize, value: u64) -> Vec<u8> {
        let mut bytes = sound();
        bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
        let sum = serial_checksum(&bytes[..CHECKSUM_AT]);
        bytes[CHECKSUM_AT..HEADER_BYTES].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    #[test]
    fn a_table_is_read_as_it_was_written() {
        let matrices = [matrix("blk.0.ä", u64::MAX, b"x"), matrix("b", 0, b"")];
        let table = encode_table(&matrices);
        assert_eq!(parse_table(&table).unwrap(), matrices);
        assert_eq!(matrix_bytes("blk.0.ä", 1) + matrix_bytes("b", 0), 1 + table.len() as u64);
        assert!(parse_table(&[]).unwrap().is_empty());
        let whole = encode_table(&matrices[..1]).len();
        for end in (1..table.len()).filter(|end| *end != whole) {
            let entry = usize::from(end > whole);
            let error = parse_table(&table[..end]).unwrap_err();
            assert!(
                matches!(error, PackedError::Table { entry: found, .. } if found == entry),
                "{end}: {error}"
            );
        }
        assert!(parse_table(&encode_table(&[matrix("", 0, b"")])).is_err());
    }

    #[test]
    fn every_changed_or_missing_byte_is_noticed() {
        let bytes = sound();
        assert_eq!(open(bytes.clone()).unwrap().matrices.len(), 2);
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x10;
            assert!(open(damaged).is_err(), "{at}");
            assert!(open(bytes[..at].to_vec()).is_err(), "{at}");
        }
        assert!(open([bytes.as_slice(), &[0]].concat()).is_err());
        assert!(matches!(
            PackedFile::new(Mapped::from(bytes), &Digest([6; 32]), &Pool::new(1)),
            Err(PackedError::OtherSource)
        ));
    }

    #[test]
    fn a_header_that_lies_is_refused() {
        let numbers = [0, 1, 127, 128, 1 << 20, u64::MAX - 1, u64::MAX];
        for value in numbers {
            assert!(matches!(open(edited(8, value)), Err(PackedError::Version { .. })), "{value}");
            assert!(matches!(open(edited(48, value)), Err(PackedError::Damaged { .. })), "{value}");
            assert!(matches!(open(edited(56, value)), Err(PackedError::Damaged { .. })), "{value}");
            assert!(matches!(open(edited(64, value)), Err(PackedError::Damaged { .. })), "{value}");
            assert!(matches!(open(edited(72, value)), Err(PackedError::Length { .. })), "{value}");
        }
        assert!(matches!(open(edited(0, 7)), Err(PackedError::Magic)));
        assert!(matches!(open(Vec::new()), Err(PackedError::Length { .. })));
    }

    #[test]
    fn a_matrix_outside_the_file_is_refused() {
        let data = [3; 64];
        for (start, bytes) in [(129, 1 << 30), (u64::MAX, 64), (64, u64::MAX), (1 << 40, 0)] {
            let lying = Matrix { start, bytes, ..matrix("m", 0, &data) };
            assert!(
                matches!(open(file(&data, &[lying])), Err(PackedError::Damaged { .. })),
                "{start} {bytes}"
            );
        }
    }
}
