//! The merging loop that byte-level BPE and SentencePiece share: again and again the best adjacent
//! pair becomes one symbol. A linked list and a heap keep it at O(n log n) for any text.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

const NONE: u32 = u32::MAX;

/// A piece of the text that has an id.
#[derive(Clone, Copy, Debug)]
pub(super) struct Symbol {
    /// Offset in the text in bytes.
    pub start: u32,
    /// Length in bytes; 0 once merged into the symbol before it.
    pub len: u32,
    /// What the caller calls it.
    pub id: u32,
    previous: u32,
    next: u32,
}

/// A merge that is possible. The best has the lowest rank, among equals the leftmost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    rank: u32,
    left: u32,
    right: u32,
    /// Length of both together, by which an outdated candidate is known.
    len: u32,
    merged: u32,
}

/// The loop's memory, reused from word to word.
#[derive(Debug, Default)]
pub(super) struct Merger {
    symbols: Vec<Symbol>,
    heap: BinaryHeap<Reverse<Candidate>>,
}

impl Merger {
    /// Starts a new word.
    pub(super) fn clear(&mut self) {
        self.symbols.clear();
        self.heap.clear();
    }

    /// Appends a symbol to the word.
    pub(super) fn push(&mut self, len: u32, id: u32) {
        let index = self.symbols.len() as u32;
        let start = match self.symbols.last_mut() {
            Some(last) => {
                last.next = index;
                last.start + last.len
            }
            None => 0,
        };
        self.symbols.push(Symbol { start, len, id, previous: index.wrapping_sub(1), next: NONE });
    }

    /// Merges until `pair` (rank and id of two adjacent symbols together) allows no more; gives the
    /// symbols that remain, in order.
    pub(super) fn run(
        &mut self,
        pair: impl Fn(&Symbol, &Symbol) -> Option<(u32, u32)>,
    ) -> impl Iterator<Item = &Symbol> {
        for right in 1..self.symbols.len() as u32 {
            self.propose(right - 1, right, &pair);
        }
        while let Some(Reverse(best)) = self.heap.pop() {
            let (left, right) = (best.left as usize, best.right as usize);
            let (Some(&before), Some(&absorbed)) = (self.symbols.get(left), self.symbols.get(right)) else {
                continue;
            };
            if before.len == 0 || absorbed.len == 0 || before.len + absorbed.len != best.len {
                continue;
            }
            if let Some(symbol) = self.symbols.get_mut(right) {
                symbol.len = 0;
            }
            if let Some(symbol) = self.symbols.get_mut(left) {
                (symbol.len, symbol.id, symbol.next) = (best.len, best.merged, absorbed.next);
            }
            if let Some(symbol) = self.symbols.get_mut(absorbed.next as usize) {
                symbol.previous = best.left;
            }
            self.propose(before.previous, best.left, &pair);
            self.propose(best.left, absorbed.next, &pair);
        }
        self.symbols.iter().filter(|symbol| symbol.len > 0)
    }

    fn propose(&mut self, left: u32, right: u32, pair: impl Fn(&Symbol, &Symbol) -> Option<(u32, u32)>) {
        let (Some(a), Some(b)) = (self.symbols.get(left as usize), self.symbols.get(right as usize)) else {
            return;
        };
        if let Some((rank, merged)) = pair(a, b) {
            self.heap.push(Reverse(Candidate { rank, left, right, len: a.len + b.len, merged }));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    /// The definition: look at all pairs, merge the best, start again.
    fn naive(word: &[u32], ranks: &HashMap<(u32, u32), (u32, u32)>) -> Vec<u32> {
        let mut word = word.to_vec();
        loop {
            let best = (1..word.len())
                .filter_map(|i| ranks.get(&(word[i - 1], word[i])).map(|&(rank, id)| (rank, i, id)))
                .min();
            let Some((_, i, id)) = best else { return word };
            word[i - 1] = id;
            word.remove(i);
        }
    }

    proptest! {
        #[test]
        fn equals_the_definition(
            word in proptest::collection::vec(0_u32..6, 0..60),
            pairs in proptest::collection::vec((0_u32..12, 0_u32..12, 0_u32..8), 0..40),
        ) {
            let ranks: HashMap<_, _> = pairs
                .iter()
                .enumerate()
                .map(|(i, &(a, b, rank))| ((a, b), (rank, 6 + i as u32 % 6)))
                .collect();
            let mut merger = Merger::default();
            merger.push(1, 99);
            merger.clear();
            for &id in &word {
                merger.push(1, id);
            }
            let merged: Vec<_> =
                merger.run(|a, b| ranks.get(&(a.id, b.id)).copied()).map(|symbol| symbol.id).collect();
            prop_assert_eq!(merged, naive(&word, &ranks));
        }
    }
}
