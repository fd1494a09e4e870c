//! The scales and minima that Q4_K and Q5_K share: eight of each, 6 bits wide, in 12 bytes.

/// Bytes that hold them.
pub(super) const BYTES: usize = 12;

/// Unpacks `(scale, min)` of each group, all below 64.
///
/// The first four scales lie in the low six bits of bytes 0–3 and the first four minima in those of
/// bytes 4–7; the last four have their low nibbles in bytes 8–11 (scale low, minimum high) and their
/// two high bits where bytes 0–7 have room.
#[inline]
pub(super) fn unpack(packed: &[u8; BYTES]) -> [(u8, u8); 8] {
    std::array::from_fn(|g| match g {
        0..4 => (packed[g] & 63, packed[g + 4] & 63),
        _ => (packed[g + 4] & 15 | packed[g - 4] >> 6 << 4, packed[g + 4] >> 4 | packed[g] >> 6 << 4),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Packs as the description above says, field by field.
    fn pack(pairs: &[(u8, u8)]) -> [u8; BYTES] {
        let mut packed = [0; BYTES];
        for g in 0..4 {
            let (first, last) = (pairs[g], pairs[g + 4]);
            packed[g] = first.0 + (last.0 / 16) * 64;
            packed[g + 4] = first.1 + (last.1 / 16) * 64;
            packed[g + 8] = last.0 % 16 + (last.1 % 16) * 16;
        }
        packed
    }

    proptest! {
        #[test]
        fn unpacking_undoes_packing(pairs in prop::collection::vec((0u8..64, 0u8..64), 8)) {
            prop_assert_eq!(&unpack(&pack(&pairs))[..], &pairs[..]);
        }
    }
}
