//! Read-only memory-mapped files: [`Mapped`].

use std::fs::File;
use std::io;
use std::path::Path;

use memmap2::{Advice, Mmap, UncheckedAdvice};

/// A file's bytes, or bytes held in memory (tests, fuzzing), behind one type.
#[derive(Debug)]
pub struct Mapped {
    bytes: Bytes,
}

#[derive(Debug)]
enum Bytes {
    File(Mmap),
    Owned(Vec<u8>),
}

impl Mapped {
    /// Maps the file at `path` read-only. An empty file gives an empty slice.
    ///
    /// # Errors
    /// Whatever opening or mapping gives.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        if file.metadata()?.len() == 0 {
            return Ok(Self::from(Vec::new()));
        }
        // SAFETY: the map is private and read-only. A file that another process truncates while
        // mapped can fault on access; model files are written under another name and renamed, so
        // Tandem never does that to its own.
        #[allow(unsafe_code)]
        let map = unsafe { Mmap::map(&file)? };
        Ok(Mapped { bytes: Bytes::File(map) })
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        match &self.bytes {
            Bytes::File(map) => map,
            Bytes::Owned(bytes) => bytes,
        }
    }

    /// Tells the kernel that the file will be read from front to back soon.
    pub fn advise_sequential(&self) {
        if let Bytes::File(map) = &self.bytes {
            // Only a hint: nothing depends on its success.
            let _ = map.advise(Advice::Sequential);
        }
    }

    /// Gives the mapped pages back; they are read again from the file when touched.
    pub fn release_pages(&self) {
        if let Bytes::File(map) = &self.bytes {
            // SAFETY: a shared read-only mapping of a file re-reads the same bytes after DontNeed.
            #[allow(unsafe_code)]
            let _ = unsafe { map.unchecked_advise(UncheckedAdvice::DontNeed) };
        }
    }
}

impl From<Vec<u8>> for Mapped {
    fn from(bytes: Vec<u8>) -> Self {
        Mapped { bytes: Bytes::Owned(bytes) }
    }
}
