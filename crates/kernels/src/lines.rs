//! Large memory in 64-byte lines: [`Lines`] of one's own, [`SharedLines`] that may lie in a file.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use memmap2::MmapMut;

use crate::mapped::Mapped;

/// Bytes of a line: one vector of the widest instruction set, one line of the caches.
pub(crate) const LINE_BYTES: usize = 64;

/// Memory of at least this size asks for huge pages.
#[cfg(target_os = "linux")]
const HUGE_PAGE_BYTES: usize = 2 << 20;

/// A 64-byte line, aligned.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(crate) struct Line(pub [u8; LINE_BYTES]);

/// Zeroed lines straight from the system, which commits their pages only as they are touched (what the
/// general allocator gives with this alignment is written to, and so resident, from the start).
#[derive(Debug)]
pub(crate) struct Lines {
    /// `None`: no lines. Mapped memory begins at a page, so lines are aligned.
    memory: Option<MmapMut>,
    count: usize,
}

impl Lines {
    /// `count` lines of zeros.
    ///
    /// # Panics
    /// If the system has no room for them, like any allocation.
    pub fn zeroed(count: usize) -> Self {
        if count == 0 {
            return Lines { memory: None, count };
        }
        let bytes = count.saturating_mul(LINE_BYTES);
        match MmapMut::map_anon(bytes) {
            Ok(memory) => {
                // Streams through this memory would miss the address cache at every small page. Where the
                // system has no huge pages, it goes without.
                #[cfg(target_os = "linux")]
                if bytes >= HUGE_PAGE_BYTES {
                    let _ = memory.advise(memmap2::Advice::HugePage);
                }
                Lines { memory: Some(memory), count }
            }
            Err(error) => panic!("no memory for {bytes} bytes: {error}"),
        }
    }
}

impl Deref for Lines {
    type Target = [Line];

    fn deref(&self) -> &[Line] {
        match &self.memory {
            // SAFETY: the map holds `count` lines, aligned to a page; any bytes are lines.
            Some(memory) => unsafe { std::slice::from_raw_parts(memory.as_ptr().cast(), self.count) },
            None => &[],
        }
    }
}

impl DerefMut for Lines {
    fn deref_mut(&mut self) -> &mut [Line] {
        match &mut self.memory {
            // SAFETY: as above, and borrowed exclusively.
            Some(memory) => unsafe { std::slice::from_raw_parts_mut(memory.as_mut_ptr().cast(), self.count) },
            None => &mut [],
        }
    }
}

/// Lines as bytes.
pub(crate) fn as_bytes(lines: &[Line]) -> &[u8] {
    // SAFETY: a `Line` is 64 bytes without padding.
    unsafe { std::slice::from_raw_parts(lines.as_ptr().cast(), size_of_val(lines)) }
}

/// Lines as bytes to write.
pub(crate) fn as_bytes_mut(lines: &mut [Line]) -> &mut [u8] {
    // SAFETY: a `Line` is 64 bytes without padding, and any bytes are a `Line`.
    unsafe { std::slice::from_raw_parts_mut(lines.as_mut_ptr().cast(), size_of_val(lines)) }
}

/// Lines that are only read: memory of their own, or part of a mapped file.
#[derive(Debug)]
pub(crate) enum SharedLines {
    Owned(Lines),
    /// Made by [`SharedLines::of_file`] alone, so the lines are there and aligned.
    Mapped {
        file: Arc<Mapped>,
        start: usize,
        count: usize,
    },
}

impl SharedLines {
    /// `count` lines at byte `start` of the file; `None` if they are not all there or not aligned.
    pub fn of_file(file: &Arc<Mapped>, start: usize, count: usize) -> Option<Self> {
        let end = start.checked_add(count.checked_mul(LINE_BYTES)?)?;
        let bytes = file.bytes().get(start..end)?;
        let is_aligned = bytes.as_ptr().cast::<Line>().is_aligned();
        is_aligned.then(|| SharedLines::Mapped { file: Arc::clone(file), start, count })
    }
}

impl Deref for SharedLines {
    type Target = [Line];

    fn deref(&self) -> &[Line] {
        match self {
            SharedLines::Owned(lines) => lines,
            SharedLines::Mapped { file, start, count } => {
                let bytes = &file.bytes()[*start..*start + *count * LINE_BYTES];
                // SAFETY: `count` lines by the slicing, aligned by `of_file`; any bytes are lines, and a
                // mapped file's bytes are never written through here.
                unsafe { std::slice::from_raw_parts(bytes.as_ptr().cast(), *count) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_zero_aligned_and_writable() {
        assert!(Lines::zeroed(0).is_empty());
        let mut lines = Lines::zeroed(1000);
        assert_eq!(lines.len(), 1000);
        assert_eq!(lines.as_ptr() as usize % LINE_BYTES, 0);
        assert!(lines.iter().all(|line| line.0 == [0; 64]));
        lines[999].0[63] = 7;
        assert_eq!(lines[999].0[63], 7);
    }

    #[test]
    fn lines_of_a_file_are_its_bytes_or_none() {
        let file = Arc::new(Mapped::from((0..=255).collect::<Vec<u8>>()));
        let lines = SharedLines::of_file(&file, 64, 3).unwrap();
        assert_eq!(as_bytes(&lines), &file.bytes()[64..]);
        assert!(SharedLines::of_file(&file, 256, 0).unwrap().is_empty());
        for (start, count) in [(64, 4), (320, 0), (32, 1), (1, 1), (usize::MAX, 1), (64, usize::MAX / 64)] {
            assert!(SharedLines::of_file(&file, start, count).is_none(), "{start} {count}");
        }
    }
}
