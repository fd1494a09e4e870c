//! The cache of packed weights on disk: packing a model takes seconds, mapping what was packed before a
//! fraction of one.
//!
//! A model file's contents are the key ([`source`]), besides the version of the panels' layout, which is
//! the same for every instruction set. A file of the cache ([`format`]) is written once ([`write`]) under
//! another name, then renamed, and verified whenever it is mapped. Nothing that goes wrong here keeps a
//! model from being loaded: [`PackedOutcome`] says what became of it. What the folder holds and who may
//! remove it: [`folder`]. Matrices for drafting ([`Contents::Drafting`]) have a file, and a key, of their own.

mod error;
mod folder;
mod format;
mod source;
mod write;

use std::fs::{self, File};
use std::ops::Range;
use std::path::{Path, PathBuf};

use kernels::mapped::Mapped;
use kernels::panels::{PackError, Packing, Panels};
use kernels::pool::Pool;

use crate::decoder::{Weights, WeightsError};
use crate::gguf::{Gguf, Tensor};
pub use error::PackedError;
use folder::Folder;
use format::{HEADER_BYTES, matrix_bytes};
pub use format::{Matrix, PackedFile, parse_table};
pub use source::Digest;
use source::Stamp;
use write::Writer;

/// Where packed weights are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackedCache {
    /// A folder for nothing else; made when needed.
    pub folder: PathBuf,
    /// Bytes of packed weights in it, at most. The longest unused go first, never what is in use; a
    /// model for which there is no room is not kept.
    pub bytes_max: u64,
}

/// What became of the cache when a model was loaded.
#[derive(Debug)]
pub enum PackedOutcome {
    /// There was nothing to do: no cache given, the exact path, or no weights that can be packed.
    Unused,
    /// The weights are mapped from a file that was there.
    Hit,
    /// They were packed, and mapped from the file that they were written to.
    Written {
        /// Why the file that was there could not be used.
        damage: Option<PackedError>,
    },
    /// They were packed, and are in memory only.
    NotKept {
        /// Why.
        error: PackedError,
        /// Why the file that was there could not be used.
        damage: Option<PackedError>,
    },
}

/// What packed weights are made from and how.
pub(crate) struct Request<'a> {
    pub cache: &'a PackedCache,
    pub path: &'a Path,
    /// The file as opened: another may be at its path by now.
    pub file: &'a File,
    pub gguf: &'a Gguf,
    pub pool: &'a Pool,
    pub contents: Contents,
}

/// What a packed file holds of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Contents {
    /// All matrices as they are, of so many bytes.
    Own { bytes: u64 },
    /// Those that drafting has in fewer bits, of so many bytes; the head of so many tokens.
    Drafting { bytes: u64, vocabulary: usize },
}

impl Contents {
    fn bytes(self) -> u64 {
        match self {
            Contents::Own { bytes } | Contents::Drafting { bytes, .. } => bytes,
        }
    }

    /// The key under which they are kept, of a model file with these contents.
    fn key(self, file: Digest) -> Digest {
        match self {
            Contents::Own { .. } => file,
            Contents::Drafting { vocabulary, .. } => file.for_drafting(vocabulary),
        }
    }
}

/// A matrix that is wanted packed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted<'a> {
    pub tensor: &'a Tensor,
    /// Of its rows, the first so many.
    pub rows: usize,
    pub packing: Packing,
}

impl Wanted<'_> {
    fn shape(&self) -> (usize, usize) {
        (self.rows, self.tensor.columns())
    }

    /// The rows as the file has them.
    fn data<'a>(&self, gguf: &'a Gguf) -> &'a [u8] {
        let data = gguf.data(self.tensor);
        &data[..data.len() / self.tensor.rows() * self.rows]
    }
}

/// Weights, what became of the cache, and the file in use: it is not removed to make room while open.
pub(crate) type Loaded = (Weights, PackedOutcome, Option<File>);

/// Where a tensor's packed form comes from.
pub(crate) trait PanelSource {
    /// The packed form of a matrix that has one.
    fn panels(&self, wanted: &Wanted) -> Result<Panels, PanelsError>;
}

/// Why a tensor's packed form can't be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PanelsError {
    #[error(transparent)]
    Pack(#[from] PackError),
    #[error(transparent)]
    Packed(#[from] PackedError),
}

/// Packs into memory.
pub(crate) struct InMemory<'a> {
    pub gguf: &'a Gguf,
    pub pool: &'a Pool,
}

impl PanelSource for InMemory<'_> {
    fn panels(&self, wanted: &Wanted) -> Result<Panels, PanelsError> {
        let read = |bytes| release(self.gguf, wanted.tensor, bytes);
        let data = wanted.data(self.gguf);
        Ok(Panels::pack_releasing(wanted.packing, data, wanted.shape(), (self.pool, &read))?)
    }
}

/// Gives back the file's pages that some bytes of a tensor lie in.
fn release(gguf: &Gguf, tensor: &Tensor, bytes: Range<usize>) {
    let start = tensor.byte_range().start;
    gguf.mapped().release_range(start + bytes.start..start + bytes.end);
}

/// Makes weights of packed matrices.
pub(crate) type Load<'a> = dyn Fn(&dyn PanelSource) -> Result<Weights, WeightsError> + 'a;

/// Loads weights through the cache; `load` makes them from the panels it is given.
///
/// # Errors
/// As `load`'s, if it fails whatever the panels come from.
pub(crate) fn load(request: &Request, load: &Load) -> Result<Loaded, WeightsError> {
    let Request { cache, path, file, gguf, pool, contents } = *request;
    let bytes = contents.bytes();
    if bytes == 0 {
        return Ok((load(&InMemory { gguf, pool })?, PackedOutcome::Unused, None));
    }
    let folder = Folder::new(cache);
    let stamp = file.metadata().ok().and_then(|metadata| Stamp::of(path, &metadata));
    let digest = contents.key(folder.digest(stamp.as_ref(), gguf.mapped(), pool));
    if let Contents::Drafting { .. } = contents {
        folder.note_use(stamp.as_ref(), &digest);
    }
    let packed = folder.packed_path(&digest);
    let damage = match hit(&packed, &digest, (pool, load)) {
        Ok(Some((weights, file))) => {
            // Nothing is needed; but the limit may have been lowered.
            let _ = folder.make_room(0, &packed);
            return Ok((weights, PackedOutcome::Hit, Some(file)));
        }
        Ok(None) => None,
        Err(WeightsError::Packed(error)) => {
            let _ = fs::remove_file(&packed);
            Some(error)
        }
        Err(error) => return Err(error),
    };
    let written = folder.make_room(bytes, &packed).map_err(WeightsError::Packed).and_then(|()| {
        let writer = Writer::new(folder.temporary()?, gguf, pool)?;
        let weights = load(&writer)?;
        Ok((weights, writer.finish(&digest, &packed)?))
    });
    match written {
        Ok((weights, file)) => {
            // Others may have written at the same time.
            let _ = folder.make_room(0, &packed);
            Ok((weights, PackedOutcome::Written { damage }, Some(file)))
        }
        Err(WeightsError::Packed(error)) => {
            Ok((load(&InMemory { gguf, pool })?, PackedOutcome::NotKept { error, damage }, None))
        }
        Err(error) => Err(error),
    }
}

/// Weights from the file at `packed`, if there is one.
fn hit(
    packed: &Path,
    digest: &Digest,
    (pool, load): (&Pool, &Load),
) -> Result<Option<(Weights, File)>, WeightsError> {
    let Some(file) = folder::open(packed)? else { return Ok(None) };
    let map = Mapped::of_file(&file).map_err(error::io_error("map", packed))?;
    let weights = load(&PackedFile::new(map, digest, pool)?)?;
    Ok(Some((weights, file)))
}

/// Bytes of the file that a model's matrices are packed into, at most: not all of them need be used. 0 if
/// there is nothing to pack.
pub(crate) fn packed_bytes(gguf: &Gguf) -> u64 {
    let has_head = gguf.tensor("output.weight").is_some();
    let used = gguf.tensors().filter(|tensor| !(has_head && tensor.name() == "token_embd.weight"));
    let matrix = |tensor: &Tensor| {
        let bytes = Panels::packed_bytes(tensor.format(), (tensor.rows(), tensor.columns())).ok()?;
        Some(matrix_bytes(tensor.name(), bytes))
    };
    file_bytes(used.filter_map(matrix))
}

/// Bytes of a file of matrices with these names and packed bytes. 0 if there are none.
pub(crate) fn bytes_of<'a>(matrices: impl Iterator<Item = (&'a str, usize)>) -> u64 {
    file_bytes(matrices.map(|(name, bytes)| matrix_bytes(name, bytes)))
}

fn file_bytes(matrices: impl Iterator<Item = u64>) -> u64 {
    let all = matrices.reduce(u64::saturating_add);
    all.map_or(0, |bytes| bytes.saturating_add(HEADER_BYTES as u64))
}
