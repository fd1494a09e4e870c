//! Vectors of borrows that outlive what they borrow: [`emptied`].

/// An empty vector in the memory of `used`. Between two steps the decode loop keeps lists of borrows
/// this way: the borrows end, the allocation does not. `T` and `U` are one type but for a lifetime.
pub(crate) fn emptied<T, U>(mut used: Vec<T>) -> Vec<U> {
    used.clear();
    // Collecting a mapped `vec::IntoIter` reuses its buffer; tests/allocations.rs notices if not.
    used.into_iter().filter_map(|_| None).collect()
}
