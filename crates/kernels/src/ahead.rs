//! What an idle thread asks memory for: the beginning of its share of the next product's weights.
//!
//! Between products, while one thread norms or activates a single column, the others wait and memory
//! rests. Told what comes next, they use the time. Addresses are hints and never read through, so they
//! may be stale or torn.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::lines::LINE_BYTES;

/// Bytes that one thread asks for ahead of a product, at most: a part of its second-level cache.
const AHEAD_BYTES: usize = 192 << 10;

/// Weights that lie panel behind panel in two streams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ahead {
    /// Address of the first panel's integers, and bytes of a panel.
    pub integers: (usize, usize),
    /// The same of the scales.
    pub scales: (usize, usize),
    /// Panels.
    pub panels: usize,
}

/// An [`Ahead`] that one thread sets and another looks at.
#[derive(Debug, Default)]
pub(crate) struct AheadCell([AtomicUsize; 5]);

impl AheadCell {
    pub fn set(&self, ahead: Ahead) {
        let Ahead { integers, scales, panels } = ahead;
        for (word, value) in self.0.iter().zip([integers.0, integers.1, scales.0, scales.1, panels]) {
            word.store(value, Ordering::Relaxed);
        }
    }

    fn get(&self) -> Ahead {
        let [integers, integers_bytes, scales, scales_bytes, panels] =
            [0, 1, 2, 3, 4].map(|i: usize| self.0[i].load(Ordering::Relaxed));
        Ahead { integers: (integers, integers_bytes), scales: (scales, scales_bytes), panels }
    }
}

/// How far a thread has asked.
#[derive(Debug, Default)]
pub(crate) struct Asked {
    ahead: Ahead,
    panel: usize,
    /// Bytes of the present panel.
    bytes: usize,
}

impl Asked {
    /// Turns to what `cell` says now, from the beginning if it is something new.
    pub fn renew(&mut self, cell: &AheadCell) {
        let ahead = cell.get();
        if ahead != self.ahead {
            *self = Asked { ahead, panel: 0, bytes: 0 };
        }
    }

    /// Asks for one line more. False if there is none left.
    pub fn ask(&mut self) -> bool {
        let next = self.next();
        next.inspect(|&address| prefetch(address)).is_some()
    }

    /// Address of the next line: panel by panel, integers before scales.
    fn next(&mut self) -> Option<usize> {
        let Ahead { integers, scales, panels } = self.ahead;
        let bytes = integers.1 + scales.1;
        if self.panel >= panels || self.panel * bytes >= AHEAD_BYTES {
            return None;
        }
        let (stream, at) =
            if self.bytes < integers.1 { (integers, self.bytes) } else { (scales, self.bytes - integers.1) };
        let address = stream.0.wrapping_add(self.panel * stream.1).wrapping_add(at);
        self.bytes += LINE_BYTES;
        if self.bytes >= bytes {
            (self.panel, self.bytes) = (self.panel + 1, 0);
        }
        Some(address)
    }
}

/// Asks for the line of an address into the second-level cache.
fn prefetch(address: usize) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every x86-64 processor has the instruction; it reads nothing and never faults.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T1>(std::ptr::without_provenance(address));
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: a hint of every AArch64 processor; it reads nothing and never faults.
    unsafe {
        std::arch::asm!("prfm pldl2keep, [{}]", in(reg) address, options(nostack, preserves_flags, readonly));
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let _ = address;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_asked_for_once_panel_by_panel() {
        let cell = AheadCell::default();
        cell.set(Ahead { integers: (1 << 20, 128), scales: (1 << 24, 64), panels: 2 });
        let mut asked = Asked::default();
        assert_eq!(asked.next(), None);
        asked.renew(&cell);
        let first: Vec<usize> = (0..2).filter_map(|_| asked.next()).collect();
        // The same again: it goes on where it was.
        asked.renew(&cell);
        let rest: Vec<usize> = std::iter::from_fn(|| asked.next()).collect();
        let (a, b) = (1 << 20, 1 << 24);
        assert_eq!([first, rest].concat(), [a, a + 64, b, a + 128, a + 192, b + 64]);
    }

    #[test]
    fn no_more_is_asked_for_than_a_cache_holds() {
        let cell = AheadCell::default();
        cell.set(Ahead { integers: (0, 4096), scales: (0, 1024), panels: 1 << 20 });
        let mut asked = Asked::default();
        asked.renew(&cell);
        let lines = std::iter::from_fn(|| asked.next()).count();
        assert!((AHEAD_BYTES..AHEAD_BYTES + 5120).contains(&(lines * LINE_BYTES)));
    }
}
