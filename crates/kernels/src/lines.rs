//! Large zeroed memory in 64-byte lines: [`Lines`].

use std::ops::{Deref, DerefMut};

use memmap2::MmapMut;

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
}
