//! Many short byte strings in one allocation, and a hash index over them.

use std::hash::BuildHasher;

use foldhash::fast::RandomState;
use hashbrown::HashTable;

/// Byte strings numbered from 0, stored end to end.
#[derive(Debug, Default)]
pub(super) struct Packed {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Packed {
    pub(super) fn with_capacity(strings: usize) -> Self {
        // Tokens have about seven bytes.
        Packed { bytes: Vec::with_capacity(strings * 8), ends: Vec::with_capacity(strings) }
    }

    pub(super) fn push(&mut self, parts: impl IntoIterator<Item = u8>) {
        self.bytes.extend(parts);
        self.ends.push(self.bytes.len());
    }

    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    /// Bytes allocated.
    pub(super) fn heap_bytes(&self) -> usize {
        self.bytes.capacity() + self.ends.capacity() * size_of::<usize>()
    }

    /// The string of that number; empty if there is none.
    pub(super) fn get(&self, index: u32) -> &[u8] {
        let index = index as usize;
        let start = index.checked_sub(1).and_then(|before| self.ends.get(before)).copied().unwrap_or(0);
        self.ends.get(index).and_then(|&end| self.bytes.get(start..end)).unwrap_or_default()
    }
}

/// Finds a [`Packed`] string's number.
#[derive(Debug, Default)]
pub(super) struct Index {
    table: HashTable<u32>,
    hasher: RandomState,
}

impl Index {
    pub(super) fn with_capacity(strings: usize) -> Self {
        Index { table: HashTable::with_capacity(strings), hasher: RandomState::default() }
    }

    /// Bytes allocated.
    pub(super) fn heap_bytes(&self) -> usize {
        self.table.allocation_size()
    }

    /// Adds the string of that number, unless an equal one is there: then gives that one's number.
    pub(super) fn insert(&mut self, strings: &Packed, number: u32) -> Result<(), u32> {
        let text = strings.get(number);
        let hash = self.hasher.hash_one(text);
        if let Some(&first) = self.table.find(hash, |&other| strings.get(other) == text) {
            return Err(first);
        }
        self.table.insert_unique(hash, number, |&other| self.hasher.hash_one(strings.get(other)));
        Ok(())
    }

    pub(super) fn find(&self, strings: &Packed, text: &[u8]) -> Option<u32> {
        let hash = self.hasher.hash_one(text);
        self.table.find(hash, |&number| strings.get(number) == text).copied()
    }
}
