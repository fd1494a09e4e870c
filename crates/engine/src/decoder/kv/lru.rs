//! An order of use over numbered items, without allocation: [`Lru`].

/// Marks the end of a list, and items that are not in it.
const NONE: u32 = u32::MAX;

/// Items `0..capacity`, some of them in a list from the least to the most recently added.
#[derive(Debug)]
pub(super) struct Lru {
    /// Neighbours of each item: towards the oldest, towards the newest.
    links: Vec<(u32, u32)>,
    is_in: Vec<bool>,
    oldest: u32,
    newest: u32,
    length: usize,
}

impl Lru {
    /// An empty list over `capacity` items.
    pub fn new(capacity: usize) -> Self {
        let (links, is_in) = (vec![(NONE, NONE); capacity], vec![false; capacity]);
        Lru { links, is_in, oldest: NONE, newest: NONE, length: 0 }
    }

    /// Bytes that [`Lru::new`] takes.
    pub fn bytes(capacity: usize) -> usize {
        capacity * (size_of::<(u32, u32)>() + size_of::<bool>())
    }

    /// Items in the list.
    pub fn len(&self) -> usize {
        self.length
    }

    /// The item that was added first.
    pub fn oldest(&self) -> Option<u32> {
        (self.oldest != NONE).then_some(self.oldest)
    }

    /// Adds an item that is not in the list, as the newest.
    pub fn push(&mut self, item: u32) {
        debug_assert!(!self.is_in[item as usize], "item {item} is in the list");
        self.links[item as usize] = (self.newest, NONE);
        match self.newest {
            NONE => self.oldest = item,
            newest => self.links[newest as usize].1 = item,
        }
        self.newest = item;
        self.is_in[item as usize] = true;
        self.length += 1;
    }

    /// Takes an item out, if it is in the list.
    pub fn remove(&mut self, item: u32) {
        if !std::mem::replace(&mut self.is_in[item as usize], false) {
            return;
        }
        let (older, newer) = self.links[item as usize];
        match older {
            NONE => self.oldest = newer,
            older => self.links[older as usize].1 = newer,
        }
        match newer {
            NONE => self.newest = older,
            newer => self.links[newer as usize].0 = older,
        }
        self.length -= 1;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_a_queue_with_holes(operations in prop::collection::vec((any::<bool>(), 0u32..20), 0..200)) {
            let (mut lru, mut naive) = (Lru::new(20), VecDeque::new());
            for (adds, item) in operations {
                if adds && !naive.contains(&item) {
                    lru.push(item);
                    naive.push_back(item);
                } else if !adds {
                    lru.remove(item);
                    naive.retain(|other| *other != item);
                }
                prop_assert_eq!(lru.oldest(), naive.front().copied());
                prop_assert_eq!(lru.len(), naive.len());
            }
            let mut order = Vec::new();
            while let Some(item) = lru.oldest() {
                lru.remove(item);
                order.push(item);
            }
            prop_assert_eq!(order, Vec::from(naive));
        }
    }
}
