//! Writing a packed file while the model is being loaded: [`Writer`].

use std::cell::RefCell;
use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::Arc;

use kernels::checksum::checksum;
use kernels::mapped::Mapped;
use kernels::panels::Panels;
use kernels::pool::Pool;

use super::error::{PackedError, io_error};
use super::folder::Temporary;
use super::format::{HEADER_BYTES, Matrix, encode_table, header};
use super::source::Digest;
use super::{PanelSource, PanelsError, Wanted, release};
use crate::gguf::Gguf;

/// Packs matrices stripe by stripe into a temporary file and gives them back as parts of it, mapped: no
/// more than a stripe is ever in memory besides.
pub(super) struct Writer<'a> {
    temporary: Temporary,
    gguf: &'a Gguf,
    pool: &'a Pool,
    matrices: RefCell<Vec<Matrix>>,
}

impl<'a> Writer<'a> {
    /// Begins a file.
    pub(super) fn new(temporary: Temporary, gguf: &'a Gguf, pool: &'a Pool) -> Result<Self, PackedError> {
        let writer = Writer { temporary, gguf, pool, matrices: RefCell::default() };
        writer.write_at(0, &[0; HEADER_BYTES])?;
        Ok(writer)
    }

    /// Ends the file and gives it its place: from now on others find it.
    pub(super) fn finish(self, source: &Digest, path: &Path) -> Result<File, PackedError> {
        let table = encode_table(&self.matrices.borrow());
        self.append(&table)?;
        self.write_at(0, &header(source, &table, self.end()))?;
        self.temporary.publish(path)
    }

    fn append(&self, bytes: &[u8]) -> Result<(), PackedError> {
        self.write_at(self.end(), bytes)
    }

    fn write_at(&self, start: u64, bytes: &[u8]) -> Result<(), PackedError> {
        let mut file: &File = &self.temporary.file;
        let written = file.seek(SeekFrom::Start(start)).and_then(|_| file.write_all(bytes));
        written.map_err(io_error("write", &self.temporary.path))
    }

    /// Where the next matrix goes.
    fn end(&self) -> u64 {
        self.matrices.borrow().last().map_or(HEADER_BYTES as u64, |last| last.start + last.bytes)
    }
}

impl PanelSource for Writer<'_> {
    fn panels(&self, wanted: &Wanted) -> Result<Panels, PanelsError> {
        let Wanted { tensor, packing, .. } = *wanted;
        let (shape, data) = (wanted.shape(), wanted.data(self.gguf));
        let start = self.end();
        for stripe in Panels::stripes(packing, shape)? {
            let rows = (stripe.rows.len(), shape.1);
            let packed = Panels::pack(packing, &data[stripe.bytes.clone()], rows, self.pool)?;
            release(self.gguf, tensor, stripe.bytes);
            for (part, at) in packed.parts().into_iter().zip(stripe.starts) {
                self.write_at(start + at as u64, part)?;
            }
        }
        let format = packing.format();
        let bytes = Panels::packed_bytes(format, shape)?;
        let map = Mapped::part_of_file(&self.temporary.file, start, bytes);
        let map = map.map_err(io_error("map", &self.temporary.path))?;
        self.matrices.borrow_mut().push(Matrix {
            name: tensor.name().to_owned(),
            ggml_type: format.ggml_type(),
            rows: shape.0 as u64,
            columns: shape.1 as u64,
            start,
            bytes: bytes as u64,
            checksum: checksum(map.bytes(), self.pool),
        });
        Panels::of_file(format, shape, &Arc::new(map), 0)
            .map_err(|error| PackedError::Panels { name: tensor.name().to_owned(), error }.into())
    }
}
