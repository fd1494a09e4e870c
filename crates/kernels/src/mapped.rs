//! Read-only memory-mapped files: [`Mapped`].

use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::Path;

use memmap2::{Advice, Mmap, MmapOptions, UncheckedAdvice};

use crate::lines::{LINE_BYTES, Lines, as_bytes, as_bytes_mut};

/// A file's bytes, or bytes held in memory (tests, fuzzing), behind one type.
#[derive(Debug)]
pub struct Mapped {
    bytes: Bytes,
}

#[derive(Debug)]
enum Bytes {
    File(Mmap),
    Owned { lines: Lines, length: usize },
}

impl Mapped {
    /// Maps the file at `path` read-only. An empty file gives an empty slice.
    ///
    /// # Errors
    /// Whatever opening or mapping gives.
    pub fn open(path: &Path) -> io::Result<Self> {
        Self::of_file(&File::open(path)?)
    }

    /// Maps an opened file read-only. An empty file gives an empty slice.
    ///
    /// # Errors
    /// Whatever asking for its length or mapping gives.
    pub fn of_file(file: &File) -> io::Result<Self> {
        let bytes = file.metadata()?.len();
        Self::part_of_file(file, 0, usize::try_from(bytes).map_err(io::Error::other)?)
    }

    /// Maps `bytes` bytes of an opened file read-only, from byte `start` on, where the file has them;
    /// a `start` within a page is where the slice begins.
    ///
    /// # Errors
    /// Whatever mapping gives.
    pub fn part_of_file(file: &File, start: u64, bytes: usize) -> io::Result<Self> {
        if bytes == 0 {
            return Ok(Self::from(Vec::new()));
        }
        // SAFETY: the map is read-only. A file that another process truncates while mapped can fault
        // on access; model files and packed ones are written under another name and renamed, so Tandem
        // never does that to its own.
        let map = unsafe { MmapOptions::new().offset(start).len(bytes).map(file)? };
        Ok(Mapped { bytes: Bytes::File(map) })
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        match &self.bytes {
            Bytes::File(map) => map,
            Bytes::Owned { lines, length } => &as_bytes(lines)[..*length],
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
        self.release_range(0..self.bytes().len());
    }

    /// Gives back the pages of some bytes, and those that they share with their neighbours.
    pub fn release_range(&self, range: Range<usize>) {
        if let Bytes::File(map) = &self.bytes
            && range.start < range.end
            && range.end <= map.len()
        {
            // SAFETY: a shared read-only mapping of a file re-reads the same bytes after DontNeed.
            let _ =
                unsafe { map.unchecked_advise_range(UncheckedAdvice::DontNeed, range.start, range.len()) };
        }
    }
}

impl From<Vec<u8>> for Mapped {
    fn from(bytes: Vec<u8>) -> Self {
        let mut lines = Lines::zeroed(bytes.len().div_ceil(LINE_BYTES));
        as_bytes_mut(&mut lines)[..bytes.len()].copy_from_slice(&bytes);
        Mapped { bytes: Bytes::Owned { lines, length: bytes.len() } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn released_bytes_are_the_same_when_read_again() {
        let path = std::env::temp_dir().join(format!("tandem-mapped-{}", std::process::id()));
        let bytes: Vec<u8> = (0..100_000u32).map(|i| (i % 251) as u8).collect();
        std::fs::write(&path, &bytes).unwrap();
        let mapped = Mapped::open(&path).unwrap();
        for range in [0..100_000, 5000..5001, 4096..70_000, 7..7, 99_999..100_001, 3..usize::MAX] {
            mapped.release_range(range);
            assert_eq!(mapped.bytes(), bytes);
        }
        mapped.release_pages();
        assert_eq!(mapped.bytes(), bytes);
        std::fs::remove_file(&path).unwrap();
        Mapped::from(bytes).release_range(0..10);
    }
}
