//! How elements of the key-value cache are stored: [`KvType`], one line of [`TYPES`] each.

/// Elements of the quantized types that share one scale.
pub const SCALE_GROUP: usize = 32;

/// How elements of the cache are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KvType {
    /// 32-bit floats, for the exact path.
    F32,
    /// 16-bit floats.
    F16,
    /// 8-bit integers and an f16 scale per 32 dimensions of a position, after the head's rotation (see
    /// `rotation`).
    Q8,
    /// Keys as [`KvType::Q8`], values as [`KvType::Q4`]: what a model loses by 4 bits, it loses by its keys.
    K8V4,
    /// Values: 4-bit codes of unequal steps and an 8-bit scale per 32 dimensions of a position, after the same. Keys:
    /// about a quarter of the dimensions, the first, have 6 bits instead, and both parts are rotated by themselves
    /// (see `ranked`).
    Q4,
}

struct Entry {
    kv_type: KvType,
    name: &'static str,
    /// What elements come in: a head's dimensions must be whole groups.
    group: usize,
    /// Bytes of a group of keys, its scale included.
    key_bytes: usize,
    /// The same of values.
    value_bytes: usize,
}

impl Entry {
    /// Of a type whose keys and values are stored alike.
    const fn alike(kv_type: KvType, name: &'static str, (group, bytes): (usize, usize)) -> Self {
        Entry { kv_type, name, group, key_bytes: bytes, value_bytes: bytes }
    }
}

/// A group of 8-bit elements, its bytes.
const BYTES: (usize, usize) = (SCALE_GROUP, SCALE_GROUP + 2);
/// Bytes of a group of 4-bit elements.
const NIBBLES: usize = SCALE_GROUP / 2 + 1;
/// Bytes of a group of 4-bit keys, some of which have 6: with as many values, 36 bytes.
const RANKED: usize = 2 * (SCALE_GROUP / 2 + 2) - NIBBLES;

/// Every type, most precise first.
static TYPES: [Entry; 5] = [
    Entry::alike(KvType::F32, "f32", (1, 4)),
    Entry::alike(KvType::F16, "f16", (1, 2)),
    Entry::alike(KvType::Q8, "q8", BYTES),
    Entry {
        kv_type: KvType::K8V4,
        name: "k8v4",
        group: SCALE_GROUP,
        key_bytes: BYTES.1,
        value_bytes: NIBBLES,
    },
    Entry { kv_type: KvType::Q4, name: "q4", group: SCALE_GROUP, key_bytes: RANKED, value_bytes: NIBBLES },
];

/// A cache of this type can't hold these heads.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a key-value cache of type {name} needs heads of a multiple of {group} dimensions, this model's have {head_dim}: use f16"
)]
pub struct KvTypeError {
    name: &'static str,
    group: usize,
    head_dim: usize,
}

impl KvType {
    /// Those to choose from, most precise first. [`KvType::F32`] is not: it goes with exact models.
    pub fn choices() -> impl Iterator<Item = KvType> {
        TYPES.iter().map(|entry| entry.kv_type).filter(|&kv_type| kv_type != KvType::F32)
    }

    /// The one of [`KvType::choices`] called `name`.
    pub fn named(name: &str) -> Option<KvType> {
        Self::choices().find(|kv_type| kv_type.name() == name)
    }

    /// Its name, as settings and arguments say it.
    pub fn name(self) -> &'static str {
        self.entry().name
    }

    /// Bytes of `elements` elements of keys, and of as many of values, scales included.
    ///
    /// # Panics
    /// If they are not whole groups.
    pub fn bytes_of(self, elements: usize) -> (usize, usize) {
        let Entry { group, key_bytes, value_bytes, .. } = self.entry();
        assert!(elements.is_multiple_of(*group), "{elements} elements are not whole groups of {group}");
        (elements / group * key_bytes, elements / group * value_bytes)
    }

    /// Whether a block that is still being written has a second one, of the same type, for the rests: what the
    /// stored elements lack of what was written. Tokens see the positions of their own block with them, those of
    /// earlier blocks without. Most of attention's weight lies on what is near, and so would most of the elements' error.
    /// A full block needs no rests, so sequences share blocks as they do with the other types.
    pub fn has_rests(self) -> bool {
        matches!(self, KvType::K8V4 | KvType::Q4)
    }

    /// Whether heads of `head_dim` dimensions can be stored so.
    ///
    /// # Errors
    /// If they are not whole groups.
    pub fn check(self, head_dim: usize) -> Result<(), KvTypeError> {
        let &Entry { name, group, .. } = self.entry();
        if head_dim.is_multiple_of(group) { Ok(()) } else { Err(KvTypeError { name, group, head_dim }) }
    }

    /// Whether elements are integers with scales. Then heads are rotated before they are stored, and queries and
    /// outputs with them.
    pub fn is_quantized(self) -> bool {
        matches!(self, KvType::Q8 | KvType::K8V4 | KvType::Q4)
    }

    /// Whether a key's first dimensions are stored with more bits than the others: those that scores depend on most
    /// should be the first.
    pub fn ranks_keys(self) -> bool {
        self == KvType::Q4
    }

    fn entry(self) -> &'static Entry {
        let found = TYPES.iter().find(|entry| entry.kv_type == self);
        found.expect("every type has its line")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_back_and_bytes_are_those_of_the_formula() {
        let names: Vec<&str> = KvType::choices().map(KvType::name).collect();
        assert_eq!(names, ["f16", "q8", "k8v4", "q4"]);
        for kv_type in KvType::choices() {
            assert_eq!(KvType::named(kv_type.name()), Some(kv_type));
        }
        assert_eq!((KvType::named("f32"), KvType::named("Q8")), (None, None));
        let bytes = [KvType::F32, KvType::F16, KvType::Q8].map(|t| t.bytes_of(64 * 96));
        let alike = [64 * 96 * 4, 64 * 96 * 2, 64 * 96 * 34 / 32];
        assert_eq!(bytes, alike.map(|half| (half, half)));
        assert_eq!(KvType::K8V4.bytes_of(64 * 96), (64 * 96 * 34 / 32, 64 * 96 * 17 / 32));
        let (keys, values) = KvType::Q4.bytes_of(64 * 96);
        assert_eq!((keys + values, values), (2 * 64 * 96 * 18 / 32, 64 * 96 * 17 / 32));
    }

    #[test]
    fn heads_that_are_not_whole_groups_are_refused_with_a_way_out() {
        for head_dim in [32, 64, 96, 128, 256] {
            assert!(KvType::choices().all(|kv_type| kv_type.check(head_dim).is_ok()));
        }
        assert!(KvType::F16.check(80).is_ok());
        for kv_type in KvType::choices().filter(|kv_type| kv_type.is_quantized()) {
            let text = kv_type.check(80).unwrap_err().to_string();
            assert!(
                text.contains(kv_type.name()) && text.contains("80") && text.contains("use f16"),
                "{text}"
            );
        }
    }
}
