//! The kinds of packed panels: constants of a type for the inner loop, and the list of those that exist.

use crate::formats::{Format, GROUPS_MAX};

/// What the products must know of a panel, at compile time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Encoding<
    // Bits of an integer: 4, 5, 6 or 8.
    const BITS: u32,
    // Two scales per group of 32 values instead of one.
    const HALVES: bool,
    // Scales are 8-bit numbers under one f16 per 256 values; otherwise an f16 each.
    const SUPER: bool,
    // There is a minimum besides the scale.
    const MIN: bool,
    // Integers go through a table of 16 bytes.
    const CODEBOOK: bool,
    // The zero point is 2^this; 0: there is none.
    const ZERO_LOG2: u32,
>;

/// The constants of an [`Encoding`], as the products' loops read them.
pub(crate) trait Constants: Copy + 'static {
    const BITS: u32;
    const HALVES: bool;
    const SUPER: bool;
    const MIN: bool;
    const CODEBOOK: bool;
    const ZERO_LOG2: u32;
}

impl<
    const BITS: u32,
    const HALVES: bool,
    const SUPER: bool,
    const MIN: bool,
    const CODEBOOK: bool,
    const ZERO_LOG2: u32,
> Constants for Encoding<BITS, HALVES, SUPER, MIN, CODEBOOK, ZERO_LOG2>
{
    const BITS: u32 = BITS;
    const HALVES: bool = HALVES;
    const SUPER: bool = SUPER;
    const MIN: bool = MIN;
    const CODEBOOK: bool = CODEBOOK;
    const ZERO_LOG2: u32 = ZERO_LOG2;
}

/// The same as values: the layout of a packed matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    pub bits: u32,
    pub halves: bool,
    pub super_block: bool,
    pub min: bool,
    pub codebook: bool,
    pub zero_log2: u32,
}

/// Hands the list of encodings, the only one, to another macro.
macro_rules! with_encodings {
    ($then:ident $argument:tt) => {
        $then! { $argument
            [4 false false false false 3] // Q4_0
            [4 false false true  false 0] // Q4_1
            [5 false false false false 4] // Q5_0
            [5 false false true  false 0] // Q5_1
            [8 false false false false 7] // Q8_0
            [4 false false false true  7] // IQ4_NL
            [4 false true  false true  7] // IQ4_XS
            [4 true  true  true  false 0] // Q2_K
            [4 true  true  false false 2] // Q3_K
            [4 false true  true  false 0] // Q4_K
            [5 false true  true  false 0] // Q5_K
            [6 true  true  false false 5] // Q6_K
        }
    };
}
pub(crate) use with_encodings;

macro_rules! layouts {
    (() $([$bits:literal $halves:literal $super:literal $min:literal $codebook:literal $zero:literal])*) => {
        &[$(Layout {
            bits: $bits, halves: $halves, super_block: $super, min: $min, codebook: $codebook, zero_log2: $zero,
        }),*]
    };
}

/// Every layout there are products for.
pub(crate) const LAYOUTS: &[Layout] = with_encodings!(layouts());

impl Layout {
    /// The layout that holds `format`, if there is one.
    pub fn of(format: &dyn Format) -> Option<Layout> {
        let integer = format.integer()?;
        let wanted = Layout {
            bits: integer.bits,
            halves: integer.group == 16,
            super_block: format.block_values() > 32,
            min: integer.has_min,
            codebook: integer.codebook.is_some(),
            zero_log2: if integer.zero > 0 { integer.zero.ilog2() } else { 0 },
        };
        debug_assert!(integer.zero == 0 || integer.zero == 1 << wanted.zero_log2);
        LAYOUTS.contains(&wanted).then_some(wanted)
    }

    /// Position in [`LAYOUTS`].
    pub fn index(&self) -> usize {
        LAYOUTS.iter().position(|l| l == self).unwrap_or(0)
    }

    /// Values that share the f16 scale: 32 or 256.
    pub fn block_values(&self) -> usize {
        if self.super_block { 256 } else { 32 }
    }

    /// Bytes of a panel's integers per 32 values.
    pub fn group_bytes(&self) -> usize {
        self.bits as usize * 64
    }

    /// Bytes of a panel's scales per block.
    pub fn scale_block_bytes(&self) -> usize {
        let kinds = if self.min { 2 } else { 1 };
        let halves = if self.halves { 16 } else { 32 };
        let groups = if self.super_block { self.block_values() / halves } else { 0 };
        debug_assert!(groups <= GROUPS_MAX);
        kinds * (32 + groups * 16)
    }
}
