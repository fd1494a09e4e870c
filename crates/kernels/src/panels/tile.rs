//! The inner loop of the quantized products: one panel of 16 rows times a few columns.
//!
//! Every output value is one chain: for each group of 32 values the exact integer dot product, times
//! the weights' scale, times the activations' scale, added by one fused multiply-add; then the
//! minimum's share by another. The chain does not depend on the number of columns, so neither do the
//! bits of the result.

use crate::activations::{NEGATED_SCALED_SUM, NEGATED_SUM, SCALE, TileInput};
use crate::simd::{LANES, Simd};

use super::PANEL_ROWS;
use super::encoding::Constants;

/// Where a tile reads and writes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TileCall<'a> {
    /// The panel's integers and scales.
    pub integers: *const u8,
    pub scales: *const u8,
    pub codebook: Option<&'a [u8; 16]>,
    /// Groups of 32 values.
    pub groups: usize,
    pub input: TileInput,
    /// The first output value of the first column; columns lie `output_stride` values apart.
    pub output: *mut f32,
    pub output_stride: usize,
    /// Rows of the panel that exist: 1 to 16.
    pub rows: usize,
}

/// Scales of one group: two halves, or twice the same.
struct Scales<S: Simd> {
    scale: [S::F; 2],
    min: [S::F; 2],
}

/// Computes the tile.
///
/// # Safety
/// The instruction set is there; `call`'s addresses are valid for a panel of encoding `E`, `C`
/// columns of input, and `rows × C` outputs.
#[inline(always)]
pub(crate) unsafe fn tile<S: Simd, E: Constants, const C: usize>(call: &TileCall) {
    // SAFETY: all addresses are derived from the call's, within what the caller vouches for.
    unsafe {
        let (mut integers, mut scales, mut input) = (call.integers, call.scales, call.input);
        let table = S::b_table(call.codebook.unwrap_or(&[0; 16]));
        let mut sums = [S::splat(0.0); C];
        if E::SUPER {
            let kinds = if E::MIN { 2 } else { 1 };
            for _ in 0..call.groups / 8 {
                let d = S::load_f16(scales.cast());
                let dmin = if E::MIN { S::load_f16(scales.add(32).cast()) } else { d };
                scales = scales.add(32 * kinds);
                for _ in 0..8 {
                    let first = super_scales::<S, E>(d, dmin, scales);
                    scales = scales.add(16 * kinds);
                    let second = if E::HALVES {
                        let second = super_scales::<S, E>(d, dmin, scales);
                        scales = scales.add(16 * kinds);
                        second
                    } else {
                        first
                    };
                    let both = Scales::<S> { scale: [first.0, second.0], min: [first.1, second.1] };
                    group::<S, E, C>(integers, table, &both, &input, &mut sums);
                    integers = integers.add(64 * E::BITS as usize);
                    input.advance();
                }
            }
        } else {
            for _ in 0..call.groups {
                let d = S::load_f16(scales.cast());
                let dmin = if E::MIN { S::load_f16(scales.add(32).cast()) } else { d };
                scales = scales.add(if E::MIN { 64 } else { 32 });
                let both = Scales::<S> { scale: [d, d], min: [dmin, dmin] };
                group::<S, E, C>(integers, table, &both, &input, &mut sums);
                integers = integers.add(64 * E::BITS as usize);
                input.advance();
            }
        }
        store::<S, C>(call, &sums);
    }
}

/// Scale and minimum of 16 rows' group under `d` and `dmin`.
///
/// # Safety
/// The instruction set is there, and `from` points to the group's bytes.
#[inline(always)]
unsafe fn super_scales<S: Simd, E: Constants>(d: S::F, dmin: S::F, from: *const u8) -> (S::F, S::F) {
    // SAFETY: as the caller vouches.
    unsafe {
        let scale = S::mul(d, S::load_i8(from.cast()));
        let min = if E::MIN { S::mul(dmin, S::load_u8(from.add(16))) } else { scale };
        (scale, min)
    }
}

/// Takes one group of 32 values into the sums.
///
/// # Safety
/// As [`tile`], for one group.
#[inline(always)]
unsafe fn group<S: Simd, E: Constants, const C: usize>(
    integers: *const u8,
    table: S::B,
    scales: &Scales<S>,
    input: &TileInput,
    sums: &mut [S::F; C],
) {
    // SAFETY: as the caller vouches.
    unsafe {
        let mut first = [S::i_splat(0); C];
        let mut second = [S::i_splat(0); C];
        if E::ZERO_LOG2 > 0 {
            for c in 0..C {
                // −zero · Σx, so that the sum below is over (code − zero) · x.
                let start = |part: usize| S::i_splat(input.word(NEGATED_SUM + part, c) as i32);
                first[c] = shift_zero::<S, E>(start(if E::HALVES { 0 } else { 2 }));
                if E::HALVES {
                    second[c] = shift_zero::<S, E>(start(1));
                }
            }
        }
        macro_rules! vector {
            ($v:literal) => {
                let w = weights::<S, E, $v>(integers, table);
                for c in 0..C {
                    let x = input.values.add(32 * c + 4 * $v);
                    if E::HALVES && $v >= 4 {
                        second[c] = dot::<S, E>(second[c], w, x);
                    } else {
                        first[c] = dot::<S, E>(first[c], w, x);
                    }
                }
            };
        }
        vector!(0);
        vector!(1);
        vector!(2);
        vector!(3);
        vector!(4);
        vector!(5);
        vector!(6);
        vector!(7);
        for c in 0..C {
            let mut weighted = S::mul(scales.scale[0], S::i_to_f(first[c]));
            if E::HALVES {
                weighted = S::fma(scales.scale[1], S::i_to_f(second[c]), weighted);
            }
            let float = |row: usize| S::splat(f32::from_bits(input.word(row, c)));
            sums[c] = S::fma(weighted, float(SCALE), sums[c]);
            if E::MIN && E::HALVES {
                sums[c] = S::fma(scales.min[0], float(NEGATED_SCALED_SUM), sums[c]);
                sums[c] = S::fma(scales.min[1], float(NEGATED_SCALED_SUM + 1), sums[c]);
            } else if E::MIN {
                sums[c] = S::fma(scales.min[0], float(NEGATED_SCALED_SUM + 2), sums[c]);
            }
        }
    }
}

/// `negated_sum · 2^ZERO_LOG2`.
///
/// # Safety
/// The instruction set is there.
#[inline(always)]
unsafe fn shift_zero<S: Simd, E: Constants>(negated_sum: S::I) -> S::I {
    // SAFETY: as the caller vouches.
    unsafe {
        match E::ZERO_LOG2 {
            2 => S::i_shift_left::<2>(negated_sum),
            3 => S::i_shift_left::<3>(negated_sum),
            4 => S::i_shift_left::<4>(negated_sum),
            5 => S::i_shift_left::<5>(negated_sum),
            _ => S::i_shift_left::<7>(negated_sum),
        }
    }
}

/// One dot-product step; codes above 127 need the wide form.
///
/// # Safety
/// The instruction set is there, and 4 values at `x`.
#[inline(always)]
unsafe fn dot<S: Simd, E: Constants>(acc: S::I, w: S::B, x: *const i8) -> S::I {
    // SAFETY: as the caller vouches.
    unsafe {
        if E::BITS == 8 || E::CODEBOOK { S::dot4::<true>(acc, w, x) } else { S::dot4::<false>(acc, w, x) }
    }
}

/// Vector `V` (values `4V..4V+4` of 16 rows) of a group as bytes.
///
/// # Safety
/// The instruction set is there, and a whole group at `integers`.
#[inline(always)]
unsafe fn weights<S: Simd, E: Constants, const V: usize>(integers: *const u8, table: S::B) -> S::B {
    // SAFETY: as the caller vouches.
    unsafe {
        if E::BITS == 8 {
            return S::b_load(integers.add(64 * V));
        }
        let line = S::b_load(integers.add(V / 2 * 64));
        let nibbles = if V.is_multiple_of(2) { S::b_low(line) } else { S::b_high(line) };
        let planes = integers.add(256);
        match E::BITS {
            5 => S::b_plane1(nibbles, planes.add(8 * V).cast::<u64>().read_unaligned()),
            6 => {
                let plane = S::b_load(planes.add(V / 4 * 64));
                match V % 4 {
                    0 => S::b_plane2::<0>(nibbles, plane),
                    1 => S::b_plane2::<1>(nibbles, plane),
                    2 => S::b_plane2::<2>(nibbles, plane),
                    _ => S::b_plane2::<3>(nibbles, plane),
                }
            }
            _ if E::CODEBOOK => S::b_lookup(nibbles, table),
            _ => nibbles,
        }
    }
}

/// Writes the sums of the rows that exist.
///
/// # Safety
/// As [`tile`].
#[inline(always)]
unsafe fn store<S: Simd, const C: usize>(call: &TileCall, sums: &[S::F; C]) {
    const { assert!(LANES == PANEL_ROWS) };
    for (c, &sum) in sums.iter().enumerate() {
        // SAFETY: the caller vouches for `rows` values of each column.
        unsafe {
            let to = call.output.add(c * call.output_stride);
            if call.rows == PANEL_ROWS {
                S::store(to, sum);
            } else {
                let mut lanes = [0f32; LANES];
                S::store(lanes.as_mut_ptr(), sum);
                std::ptr::copy_nonoverlapping(lanes.as_ptr(), to, call.rows);
            }
        }
    }
}
