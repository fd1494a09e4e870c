//! The inner loop of the quantized products: one panel of 16 rows times a few columns.
//!
//! Every output value is one chain: for each group of 32 values the exact integer dot product, times
//! the weights' scale, times the activations' scale, added by one fused multiply-add; then the
//! minimum's share by another. The chain does not depend on the number of columns, so neither do the
//! bits of the result.

// Register tiles are indexed by constants; iterators would hide the tiling.
#![allow(clippy::needless_range_loop)]

use std::marker::PhantomData;

use crate::activations::{NEGATED_SCALED_SUM, NEGATED_SUM, SCALE, TileInput};
use crate::simd::{LANES, Simd};

use super::PANEL_ROWS;
use super::encoding::Constants;

/// How far ahead of their use weights are asked for: what a tile of eight columns computes hides the
/// way from memory only if more is under way than the processor's own window covers.
const PREFETCH_BYTES: usize = 4096;

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
pub(super) struct Scales<S: Simd> {
    pub scale: [S::F; 2],
    pub min: [S::F; 2],
}

/// The integers of one group, wherever they come from.
///
/// # Safety
/// Both methods need the instruction set and the group.
pub(super) unsafe trait Group<S: Simd>: Copy {
    /// Vector `V` (values `4V..4V+4` of 16 rows) as bytes.
    unsafe fn vector<const V: usize>(self) -> S::B;
    /// Asks for what comes later.
    unsafe fn prefetch(self);
}

/// A group as it is packed, and its encoding's table.
struct Packed<S: Simd, E> {
    integers: *const u8,
    table: S::B,
    encoding: PhantomData<E>,
}

impl<S: Simd, E: Copy> Copy for Packed<S, E> {}
impl<S: Simd, E: Copy> Clone for Packed<S, E> {
    fn clone(&self) -> Self {
        *self
    }
}

// SAFETY: the methods' callers vouch for set and group; prefetches read nothing.
unsafe impl<S: Simd, E: Constants> Group<S> for Packed<S, E> {
    #[inline(always)]
    unsafe fn vector<const V: usize>(self) -> S::B {
        // SAFETY: as the caller vouches.
        unsafe { weights::<S, E, V>(self.integers, self.table) }
    }

    #[inline(always)]
    unsafe fn prefetch(self) {
        for line in 0..E::BITS as usize {
            // SAFETY: as the caller vouches.
            unsafe { S::prefetch(self.integers.wrapping_add(PREFETCH_BYTES + line * 64)) };
        }
    }
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
                    let packed = Packed { integers, table, encoding: PhantomData::<E> };
                    group::<S, E, _, C>(packed, &both, &input, &mut sums);
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
                let packed = Packed { integers, table, encoding: PhantomData::<E> };
                group::<S, E, _, C>(packed, &both, &input, &mut sums);
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
pub(super) unsafe fn super_scales<S: Simd, E: Constants>(
    d: S::F,
    dmin: S::F,
    from: *const u8,
) -> (S::F, S::F) {
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
pub(super) unsafe fn group<S: Simd, E: Constants, G: Group<S>, const C: usize>(
    integers: G,
    scales: &Scales<S>,
    input: &TileInput,
    sums: &mut [S::F; C],
) {
    // SAFETY: as the caller vouches.
    unsafe {
        integers.prefetch();
        if E::HALVES {
            let first = half::<S, E, G, C, 0>(integers, input);
            let mut weighted = [S::splat(0.0); C];
            for c in 0..C {
                weighted[c] = S::mul(scales.scale[0], S::i_to_f(first[c]));
            }
            let second = half::<S, E, G, C, 1>(integers, input);
            for c in 0..C {
                weighted[c] = S::fma(scales.scale[1], S::i_to_f(second[c]), weighted[c]);
                sums[c] = add_weighted::<S, E>((weighted[c], c), scales, input, sums[c]);
            }
        } else {
            let mut dots = start::<S, E, C>(input, 2);
            add_half::<S, E, G, C, 0>(integers, input, &mut dots);
            add_half::<S, E, G, C, 1>(integers, input, &mut dots);
            for c in 0..C {
                let weighted = S::mul(scales.scale[0], S::i_to_f(dots[c]));
                sums[c] = add_weighted::<S, E>((weighted, c), scales, input, sums[c]);
            }
        }
    }
}

/// `sum` and a group's share of it: of column `c`, its dot products times the weights' scales (`weighted`), times the
/// activations' scale; and the minimum's.
///
/// # Safety
/// The instruction set is there, and the group and column.
#[inline(always)]
pub(super) unsafe fn add_weighted<S: Simd, E: Constants>(
    (weighted, c): (S::F, usize),
    scales: &Scales<S>,
    input: &TileInput,
    sum: S::F,
) -> S::F {
    // SAFETY: as the caller vouches.
    unsafe {
        let sum = S::fma(weighted, S::splat(float(input, SCALE, c)), sum);
        match (E::MIN, E::HALVES) {
            (false, _) => sum,
            (true, false) => S::fma(scales.min[0], S::splat(float(input, NEGATED_SCALED_SUM + 2, c)), sum),
            (true, true) => {
                let sum = S::fma(scales.min[0], S::splat(float(input, NEGATED_SCALED_SUM, c)), sum);
                S::fma(scales.min[1], S::splat(float(input, NEGATED_SCALED_SUM + 1, c)), sum)
            }
        }
    }
}

/// Word `row` of column `c` as a float.
///
/// # Safety
/// The group, row and column exist.
#[inline(always)]
unsafe fn float(input: &TileInput, row: usize, c: usize) -> f32 {
    // SAFETY: as the caller vouches.
    f32::from_bits(unsafe { input.word(row, c) })
}

/// The integer sums' start: −zero · Σx over `part` (0, 1: a half; 2: all), so that the sum is over
/// (code − zero) · x.
///
/// # Safety
/// As [`tile`], for one group.
#[inline(always)]
unsafe fn start<S: Simd, E: Constants, const C: usize>(input: &TileInput, part: usize) -> [S::I; C] {
    // SAFETY: as the caller vouches.
    unsafe {
        let mut dots = [S::i_splat(0); C];
        // Bytes are those with a zero of 128, which centred sets take off the weights.
        let bytes = E::BITS == 8 || E::CODEBOOK;
        const { assert!(!(E::BITS == 8 || E::CODEBOOK) || E::ZERO_LOG2 == 7) };
        if E::ZERO_LOG2 > 0 && !(bytes && S::CENTERED) {
            for c in 0..C {
                dots[c] = shift_zero::<S, E>(S::i_splat(input.word(NEGATED_SUM + part, c) as i32));
            }
        }
        dots
    }
}

/// The integer dot products of one half of a group.
///
/// # Safety
/// As [`tile`], for one group.
#[inline(always)]
unsafe fn half<S: Simd, E: Constants, G: Group<S>, const C: usize, const HALF: usize>(
    integers: G,
    input: &TileInput,
) -> [S::I; C] {
    // SAFETY: as the caller vouches.
    unsafe {
        let mut dots = start::<S, E, C>(input, HALF);
        add_half::<S, E, G, C, HALF>(integers, input, &mut dots);
        dots
    }
}

/// Adds one half of a group to integer dot products.
///
/// # Safety
/// As [`tile`], for one group.
#[inline(always)]
unsafe fn add_half<S: Simd, E: Constants, G: Group<S>, const C: usize, const HALF: usize>(
    integers: G,
    input: &TileInput,
    dots: &mut [S::I; C],
) {
    // SAFETY: as the caller vouches.
    unsafe {
        let w = if HALF == 0 {
            [integers.vector::<0>(), integers.vector::<1>(), integers.vector::<2>(), integers.vector::<3>()]
        } else {
            [integers.vector::<4>(), integers.vector::<5>(), integers.vector::<6>(), integers.vector::<7>()]
        };
        for c in 0..C {
            dots[c] = dot::<S, E>(dots[c], w, input.value(c, 16 * HALF));
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

/// The dot products of 16 rows with 16 values; a table's entries are bytes whatever their index's bits.
///
/// # Safety
/// The instruction set is there, and 16 values at `x`.
#[inline(always)]
unsafe fn dot<S: Simd, E: Constants>(acc: S::I, w: [S::B; 4], x: *const i8) -> S::I {
    // SAFETY: as the caller vouches.
    unsafe {
        match E::BITS {
            _ if E::CODEBOOK => S::dot16::<8>(acc, w, x),
            4 => S::dot16::<4>(acc, w, x),
            5 => S::dot16::<5>(acc, w, x),
            6 => S::dot16::<6>(acc, w, x),
            _ => S::dot16::<8>(acc, w, x),
        }
    }
}

/// Vector `V` (values `4V..4V+4` of 16 rows) of a group as bytes.
///
/// # Safety
/// The instruction set is there, and a whole group at `integers`.
#[inline(always)]
pub(super) unsafe fn weights<S: Simd, E: Constants, const V: usize>(
    integers: *const u8,
    table: S::B,
) -> S::B {
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
pub(super) unsafe fn store<S: Simd, const C: usize>(call: &TileCall, sums: &[S::F; C]) {
    const { assert!(LANES == PANEL_ROWS) };
    // SAFETY: the caller vouches for `rows` values of each column.
    unsafe {
        if call.rows == PANEL_ROWS {
            for c in 0..C {
                S::store(call.output.add(c * call.output_stride), sums[c]);
            }
            return;
        }
        // Simple loops over registers, then one over memory: indexing `sums` by anything but a constant
        // would keep it in memory throughout.
        let mut lanes = [[0f32; LANES]; C];
        for c in 0..C {
            S::store(lanes[c].as_mut_ptr(), sums[c]);
        }
        for (c, lanes) in lanes.iter().enumerate() {
            std::ptr::copy_nonoverlapping(lanes.as_ptr(), call.output.add(c * call.output_stride), call.rows);
        }
    }
}
