//! Quantization formats of GGUF tensors: one file each, one line each in [`FORMATS`].
//!
//! An integer format says how a block of bytes stands for unsigned integers with scales
//! ([`Format::integer`], [`Format::quants`]); the packed layout and the values are made from those. A
//! float format says what the values are. Either way [`Format::dequantize`] is bit-exact with ggml.

mod bf16;
mod block;
mod coarse;
mod f16;
mod f32;
mod iq4_nl;
mod iq4_xs;
mod k_scales;
mod q2_k;
mod q3_k;
mod q4_0;
mod q4_1;
mod q4_k;
mod q5_0;
mod q5_1;
mod q5_k;
mod q6_k;
mod q8_0;

use block::check_lengths;
pub(crate) use coarse::quantize;
pub use coarse::{COARSE, COARSE_VALUES};

/// Every format, one line each.
pub static FORMATS: &[&dyn Format] = &[
    &f32::F32,
    &f16::F16,
    &bf16::Bf16,
    &q4_0::Q4_0,
    &q4_1::Q4_1,
    &q5_0::Q5_0,
    &q5_1::Q5_1,
    &q8_0::Q8_0,
    &q2_k::Q2K,
    &q3_k::Q3K,
    &q4_k::Q4K,
    &q5_k::Q5K,
    &q6_k::Q6K,
    &iq4_nl::Iq4Nl,
    &iq4_xs::Iq4Xs,
];

/// The format that a number in a GGUF file stands for.
pub fn by_ggml_type(ggml_type: u32) -> Option<&'static dyn Format> {
    FORMATS.iter().copied().find(|format| format.ggml_type() == ggml_type)
}

/// The format of ggml's name, e.g. `Q4_K`; upper and lower case are the same.
pub fn by_name(name: &str) -> Option<&'static dyn Format> {
    FORMATS.iter().copied().find(|format| format.name().eq_ignore_ascii_case(name))
}

/// Values of the largest block.
pub const BLOCK_VALUES_MAX: usize = 256;
/// Scale groups of the largest block.
pub const GROUPS_MAX: usize = 16;

/// How a format's integers stand for values:
/// `value[k] = d · scale[g] · (code(q[k]) − zero) − dmin · min[g]`, with `g = k / group`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Integer {
    /// Bits that hold every `q`: 4, 5, 6 or 8 (2- and 3-bit formats say 4).
    pub bits: u32,
    /// Values that share a scale: 16 or 32.
    pub group: usize,
    /// Subtracted from `code(q)`.
    pub zero: i32,
    /// Whether `dmin` and `min` are used.
    pub has_min: bool,
    /// `code(q)`, unsigned: a table for non-linear formats; `None`: the identity.
    pub codebook: Option<&'static [u8; 16]>,
}

/// The integers of one block (see [`Integer`] for what they mean).
#[derive(Clone, Debug)]
pub struct Quants {
    /// Unsigned codes, the first `block_values` of them used.
    pub q: [u8; BLOCK_VALUES_MAX],
    /// Per group; 1 where the format has no sub-scales.
    pub scale: [i8; GROUPS_MAX],
    /// Per group; 1 where the format has a minimum but no sub-minima.
    pub min: [u8; GROUPS_MAX],
    /// The block's scale: exactly the f16 of the file.
    pub d: half::f16,
    /// The block's minimum's scale: exactly the f16 of the file, negated if the format adds it.
    pub dmin: half::f16,
}

impl Integer {
    /// The formula of [`Integer`] for every value of a block, evaluated from left to right as ggml does.
    #[inline(always)]
    fn dequantize(&self, quants: &Quants, values: &mut [f32]) {
        let d = quants.d.to_f32();
        let dmin = if self.has_min { quants.dmin.to_f32() } else { 0.0 };
        let groups = values.chunks_exact_mut(self.group).zip(quants.q.chunks_exact(self.group));
        for (g, (values, q)) in groups.enumerate() {
            let scale = d * f32::from(quants.scale[g]);
            let min = dmin * f32::from(quants.min[g]);
            for (value, &q) in values.iter_mut().zip(q) {
                let code = self.codebook.map_or(q, |codebook| codebook[usize::from(q & 15)]);
                let scaled = scale * (i32::from(code) - self.zero) as f32;
                *value = if self.has_min { scaled - min } else { scaled };
            }
        }
    }
}

impl Default for Quants {
    fn default() -> Self {
        Quants {
            q: [0; BLOCK_VALUES_MAX],
            scale: [1; GROUPS_MAX],
            min: [1; GROUPS_MAX],
            d: half::f16::ZERO,
            dmin: half::f16::ZERO,
        }
    }
}

/// What identifies a format, and the size of its blocks.
#[derive(Debug)]
pub struct Descriptor {
    /// ggml's name, e.g. `Q4_K`.
    pub name: &'static str,
    /// The number that stands for it in GGUF files.
    pub ggml_type: u32,
    /// Values in a block.
    pub block_values: usize,
    /// Bytes of a block.
    pub block_bytes: usize,
}

/// A tensor format of GGUF: an integer format has [`Format::integer`] and [`Format::quants`], a float
/// format its own [`Format::dequantize`].
pub trait Format: Sync + std::fmt::Debug {
    /// Its name, number and block sizes.
    fn descriptor(&self) -> &'static Descriptor;
    /// ggml's name, e.g. `Q4_K`.
    fn name(&self) -> &'static str {
        self.descriptor().name
    }
    /// The number that stands for it in GGUF files.
    fn ggml_type(&self) -> u32 {
        self.descriptor().ggml_type
    }
    /// Values in a block.
    fn block_values(&self) -> usize {
        self.descriptor().block_values
    }
    /// Bytes of a block.
    fn block_bytes(&self) -> usize {
        self.descriptor().block_bytes
    }
    /// How its integers stand for values; `None` for float formats.
    fn integer(&self) -> Option<Integer> {
        None
    }
    /// Takes one block apart, setting all of `out` that the format uses. Only called if
    /// [`Format::integer`] is `Some`.
    fn quants(&self, _block: &[u8], _out: &mut Quants) {
        unreachable!("{} has no integer form", self.name())
    }
    /// Writes the values of whole blocks, bit for bit what ggml gives.
    ///
    /// # Panics
    /// If `blocks` is not a whole number of blocks or `values` is not as long as they hold.
    fn dequantize(&self, blocks: &[u8], values: &mut [f32]) {
        let Some(integer) = self.integer() else { unreachable!("{} has no integer form", self.name()) };
        let (block_bytes, block_values) = (self.block_bytes(), self.block_values());
        check_lengths(blocks, block_bytes, values, block_values);
        let mut quants = Quants::default();
        for (block, values) in blocks.chunks_exact(block_bytes).zip(values.chunks_exact_mut(block_values)) {
            self.quants(block, &mut quants);
            integer.dequantize(&quants, values);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    /// What ggml's own code gives; see `tests/golden`.
    const GOLDEN: &str = include_str!("../../../../tests/golden/dequant.json");

    fn bytes(hex: &Value) -> Vec<u8> {
        let digit = |c: u8| (c as char).to_digit(16).expect("a hex digit") as u8;
        let hex = hex.as_str().expect("a string of hex").as_bytes();
        hex.chunks(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect()
    }

    fn dequantized(format: &dyn Format, blocks: &[u8]) -> Vec<f32> {
        // NaN, so that a value left out shows.
        let mut values = vec![f32::NAN; blocks.len() / format.block_bytes() * format.block_values()];
        format.dequantize(blocks, &mut values);
        values
    }

    #[test]
    fn every_format_dequantizes_as_ggml_does() {
        let golden: Vec<Value> = serde_json::from_str(GOLDEN).unwrap();
        for format in FORMATS {
            let name = format.name();
            let golden = golden.iter().find(|golden| golden["type"] == name);
            let golden = golden.unwrap_or_else(|| panic!("{name} has no golden cases"));
            assert_eq!(golden["ggml_type"], format.ggml_type(), "{name}");
            assert_eq!(golden["block_values"], format.block_values(), "{name}");
            assert_eq!(golden["block_bytes"], format.block_bytes(), "{name}");
            let cases = golden["cases"].as_array().expect("a list of cases");
            assert!(!cases.is_empty(), "{name} has no golden cases");
            for case in cases {
                let values = dequantized(*format, &bytes(&case["bytes"]));
                let values: Vec<u8> = values.into_iter().flat_map(f32::to_le_bytes).collect();
                assert_eq!(values, bytes(&case["values_f32le"]), "{name}, {}", case["kind"]);
            }
        }
        assert_eq!(golden.len(), FORMATS.len(), "a golden format is not in the registry");
    }

    #[test]
    fn look_ups_find_every_format_and_nothing_else() {
        for format in FORMATS {
            assert_eq!(by_ggml_type(format.ggml_type()).map(Format::name), Some(format.name()));
            assert_eq!(by_name(format.name()).map(Format::ggml_type), Some(format.ggml_type()));
            assert_eq!(by_name(&format.name().to_lowercase()).map(Format::name), Some(format.name()));
        }
        assert!(by_ggml_type(4).is_none(), "4 was Q4_2, gone from ggml");
        assert!(by_name("Q4").is_none());
    }

    #[test]
    fn limits_hold_and_integer_forms_are_possible() {
        for format in FORMATS {
            let name = format.name();
            assert!(format.block_values() <= BLOCK_VALUES_MAX, "{name}");
            let Some(integer) = format.integer() else { continue };
            assert!([4, 5, 6, 8].contains(&integer.bits), "{name}");
            assert!([16, 32].contains(&integer.group), "{name}");
            assert!(format.block_values().is_multiple_of(integer.group), "{name}");
            assert!(format.block_values() / integer.group <= GROUPS_MAX, "{name}");
            assert!(integer.codebook.is_none() || integer.bits == 4, "{name}: a codebook has 16 entries");
        }
    }

    #[test]
    fn many_blocks_give_what_each_gives() {
        // Past one batch of every loop, and not a multiple of it.
        const BLOCKS: usize = 131;
        for format in FORMATS {
            let blocks: Vec<u8> = (0..BLOCKS * format.block_bytes()).map(|i| (i * 89 % 251) as u8).collect();
            let each: Vec<f32> =
                blocks.chunks(format.block_bytes()).flat_map(|block| dequantized(*format, block)).collect();
            let same = assert_same(&dequantized(*format, &blocks), &each);
            assert!(same.is_ok(), "{}: {same:?}", format.name());
        }
    }

    #[test]
    fn lengths_that_do_not_fit_panic() {
        for format in FORMATS {
            let name = format.name();
            let (bytes, values) = (format.block_bytes(), format.block_values());
            for (bytes, values) in
                [(bytes - 1, 0), (bytes + 1, values), (bytes, values + 1), (bytes, values - 1)]
            {
                let (blocks, mut values) = (vec![0; bytes], vec![0.0; values]);
                let dequantize = AssertUnwindSafe(|| format.dequantize(&blocks, &mut values));
                assert!(catch_unwind(dequantize).is_err(), "{name}: {bytes} bytes");
            }
        }
    }

    /// Equal bits, or NaN on both sides.
    fn assert_same(got: &[f32], expected: &[f32]) -> Result<(), TestCaseError> {
        prop_assert_eq!(got.len(), expected.len());
        for (k, (got, expected)) in got.iter().zip(expected).enumerate() {
            let same = got.to_bits() == expected.to_bits() || got.is_nan() && expected.is_nan();
            prop_assert!(same, "value {}: {} instead of {}", k, got, expected);
        }
        Ok(())
    }

    /// The formula of [`Integer`] for one value, in the order in which ggml rounds.
    fn value(integer: &Integer, quants: &Quants, k: usize) -> f32 {
        let g = k / integer.group;
        let q = quants.q[k];
        let code = integer.codebook.map_or(q, |codebook| codebook[usize::from(q)]);
        let scaled = quants.d.to_f32() * f32::from(quants.scale[g]) * (i32::from(code) - integer.zero) as f32;
        match integer.has_min {
            true => scaled - quants.dmin.to_f32() * f32::from(quants.min[g]),
            false => scaled,
        }
    }

    /// Takes a block apart into [`Quants`] that `stale` fills.
    fn quants_over(format: &dyn Format, block: &[u8], stale: u8) -> Quants {
        let d = half::f16::from_bits(u16::from_le_bytes([stale; 2]));
        let mut quants = Quants {
            q: [stale; BLOCK_VALUES_MAX],
            scale: [stale as i8; GROUPS_MAX],
            min: [stale; GROUPS_MAX],
            d,
            dmin: d,
        };
        format.quants(block, &mut quants);
        quants
    }

    #[test]
    fn integers_stand_for_the_values_that_ggml_gives() {
        let golden: Vec<Value> = serde_json::from_str(GOLDEN).unwrap();
        for golden in &golden {
            let name = golden["type"].as_str().expect("a name");
            let format = by_name(name).unwrap_or_else(|| panic!("{name} is not in the registry"));
            let Some(integer) = format.integer() else { continue };
            for case in golden["cases"].as_array().expect("a list of cases") {
                let quants = quants_over(format, &bytes(&case["bytes"]), 0xff);
                let values = (0..format.block_values()).map(|k| value(&integer, &quants, k));
                let values: Vec<u8> = values.flat_map(f32::to_le_bytes).collect();
                assert_eq!(values, bytes(&case["values_f32le"]), "{name}, {}", case["kind"]);
            }
        }
    }

    proptest! {
        /// Whatever the bytes, scales that are not finite included.
        #[test]
        fn quants_are_in_range_and_replace_those_of_the_block_before(
            bytes in prop::collection::vec(any::<u8>(), 256),
            stale in any::<[u8; 2]>(),
        ) {
            for format in FORMATS {
                let Some(integer) = format.integer() else { continue };
                let block = &bytes[..format.block_bytes()];
                let [quants, other] = stale.map(|stale| quants_over(*format, block, stale));
                let values = format.block_values();
                let groups = values / integer.group;
                let name = format.name();
                prop_assert!(
                    quants.q[..values].iter().all(|&q| u32::from(q) < 1 << integer.bits),
                    "{}: a code has more than {} bits", name, integer.bits
                );
                prop_assert_eq!(&quants.q[..values], &other.q[..values], "{}", name);
                prop_assert_eq!(&quants.scale[..groups], &other.scale[..groups], "{}", name);
                prop_assert_eq!(quants.d.to_bits(), other.d.to_bits(), "{}", name);
                if integer.has_min {
                    prop_assert_eq!(&quants.min[..groups], &other.min[..groups], "{}", name);
                    prop_assert_eq!(quants.dmin.to_bits(), other.dmin.to_bits(), "{}", name);
                }
            }
        }
    }
}
