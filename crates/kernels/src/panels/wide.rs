//! The product for many columns: two panels at a time are unpacked into a buffer that the second-level
//! cache holds, as bytes and float scales, and then multiplied by all columns, six at a time.
//!
//! Twelve independent integer sums are what it takes to keep two dot-product units of four cycles'
//! latency busy, and with as many float sums they are what 32 registers hold besides the operands;
//! unpacking once leaves none of its instructions to the inner loop. (Three panels times four columns
//! stream more weights from the second-level cache, and measured slower.) Every output value goes
//! through the same chain of operations as in [`super::tile`], so the bits are the same.

// Register tiles are indexed by constants; iterators would hide the tiling.
#![allow(clippy::needless_range_loop)]

use std::mem::MaybeUninit;

use crate::activations::{NEGATED_SCALED_SUM, NEGATED_SUM, SCALE, TileInput};
use crate::lines::{LINE_BYTES, Line};
use crate::simd::Simd;

use super::PANEL_ROWS;
use super::encoding::Constants;
use super::tile::{float, group_scales, shift_zero, weights};

/// Panels of a tile.
pub(crate) const WIDE_PANELS: usize = 2;
/// Columns of a tile.
pub(crate) const WIDE_COLUMNS: usize = 6;
/// Groups of 32 values that are unpacked at a time: whole blocks of 256 values.
pub(crate) const WIDE_GROUPS: usize = 64;
/// Lines of a group at the most: eight of integers, two of scales, two of minima.
const GROUP_LINES_MAX: usize = 12;

/// Some panels' [`WIDE_GROUPS`] groups, unpacked: `[group][panel]` of lines.
pub(crate) type WideBuffer = [MaybeUninit<Line>; WIDE_PANELS * WIDE_GROUPS * GROUP_LINES_MAX];

/// What to multiply.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WideCall<'a> {
    /// Where the panels' integers and scales of the first group are.
    pub integers: [*const u8; WIDE_PANELS],
    pub scales: [*const u8; WIDE_PANELS],
    pub codebook: Option<&'a [u8; 16]>,
    /// Groups of 32 values: at most [`WIDE_GROUPS`], whole blocks.
    pub groups: usize,
    /// Whether these are a row's first groups; the others add to what the output holds.
    pub is_first: bool,
    /// The first output value of the first column; columns lie `output_stride` values apart.
    pub output: *mut f32,
    pub output_stride: usize,
    /// Rows of the last panel that exist: 1 to 16.
    pub rows: usize,
}

/// Lines of a group of one panel.
const fn group_lines<E: Constants>() -> usize {
    8 + scale_lines::<E>() * if E::MIN { 2 } else { 1 }
}

/// Scales of a group.
const fn scale_lines<E: Constants>() -> usize {
    if E::HALVES { 2 } else { 1 }
}

/// Unpacks the call's groups.
///
/// # Safety
/// The instruction set is there, and the call's panels hold `groups` groups of encoding `E`.
#[inline(always)]
pub(crate) unsafe fn unpack<S: Simd, E: Constants>(call: &WideCall, buffer: &mut WideBuffer) {
    // SAFETY: `groups` groups fit the buffer (asserted); the rest as the caller vouches.
    unsafe {
        assert!(call.groups <= WIDE_GROUPS);
        let table = S::b_table(call.codebook.unwrap_or(&[0; 16]));
        let group_bytes = group_lines::<E>() * LINE_BYTES;
        let kinds = if E::MIN { 2 } else { 1 };
        for p in 0..WIDE_PANELS {
            let (mut integers, mut scales) = (call.integers[p], call.scales[p]);
            let mut to = buffer.as_mut_ptr().cast::<u8>().add(p * group_bytes);
            let (mut d, mut dmin) = (S::splat(0.0), S::splat(0.0));
            for group in 0..call.groups {
                if !E::SUPER || group % 8 == 0 {
                    d = S::load_f16(scales.cast());
                    dmin = if E::MIN { S::load_f16(scales.add(32).cast()) } else { d };
                    scales = scales.add(32 * kinds);
                }
                let all = group_scales::<S, E>(d, dmin, &mut scales);
                macro_rules! vectors {
                    ($($v:literal)*) => {
                        $(S::b_store(to.add($v * LINE_BYTES), weights::<S, E, $v>(integers, table));)*
                    };
                }
                vectors!(0 1 2 3 4 5 6 7);
                for i in 0..scale_lines::<E>() {
                    S::store(to.add((8 + i) * LINE_BYTES).cast(), all.scale[i]);
                    if E::MIN {
                        S::store(to.add((8 + scale_lines::<E>() + i) * LINE_BYTES).cast(), all.min[i]);
                    }
                }
                integers = integers.add(64 * E::BITS as usize);
                to = to.add(WIDE_PANELS * group_bytes);
            }
        }
    }
}

/// Multiplies what was unpacked by six columns of `input`.
///
/// # Safety
/// The instruction set is there; the buffer holds the call's groups of encoding `E`; `input` has six
/// columns of them; the output's rows and columns exist.
#[inline(always)]
pub(crate) unsafe fn multiply<S: Simd, E: Constants>(
    call: &WideCall,
    buffer: &WideBuffer,
    mut input: TileInput,
) {
    // SAFETY: as the caller vouches.
    unsafe {
        let mut sums = [[S::splat(0.0); WIDE_COLUMNS]; WIDE_PANELS];
        if !call.is_first {
            load::<S>(call, &mut sums);
        }
        let group_bytes = group_lines::<E>() * LINE_BYTES;
        let mut from = buffer.as_ptr().cast::<u8>();
        for _ in 0..call.groups {
            let panels = [from, from.add(group_bytes)];
            group::<S, E>(&panels, &input, &mut sums);
            from = from.add(WIDE_PANELS * group_bytes);
            input.advance();
        }
        for p in 0..WIDE_PANELS {
            let to = call.output.add(p * PANEL_ROWS);
            let rows = if p + 1 == WIDE_PANELS { call.rows } else { PANEL_ROWS };
            super::tile::store::<S, WIDE_COLUMNS>((to, call.output_stride), rows, &sums[p]);
        }
    }
}

/// The sums so far, from the output.
///
/// # Safety
/// As [`multiply`].
#[inline(always)]
unsafe fn load<S: Simd>(call: &WideCall, sums: &mut [[S::F; WIDE_COLUMNS]; WIDE_PANELS]) {
    // SAFETY: the caller vouches for the rows and columns.
    unsafe {
        for p in 0..WIDE_PANELS {
            let rows = if p + 1 == WIDE_PANELS { call.rows } else { PANEL_ROWS };
            for c in 0..WIDE_COLUMNS {
                let from = call.output.add(p * PANEL_ROWS + c * call.output_stride);
                sums[p][c] = if rows == PANEL_ROWS {
                    S::load(from)
                } else {
                    let mut lanes = [0f32; PANEL_ROWS];
                    std::ptr::copy_nonoverlapping(from, lanes.as_mut_ptr(), rows);
                    S::load(lanes.as_ptr())
                };
            }
        }
    }
}

/// Line `index` of a group's scales.
///
/// # Safety
/// As [`multiply`], for one group.
#[inline(always)]
unsafe fn scale_line<S: Simd>(group: *const u8, index: usize) -> S::F {
    // SAFETY: as the caller vouches.
    unsafe { S::load(group.add((8 + index) * LINE_BYTES).cast()) }
}

/// Takes one group of 32 values into the sums; `panels` are its lines.
///
/// # Safety
/// As [`multiply`], for one group.
#[inline(always)]
unsafe fn group<S: Simd, E: Constants>(
    panels: &[*const u8; WIDE_PANELS],
    input: &TileInput,
    sums: &mut [[S::F; WIDE_COLUMNS]; WIDE_PANELS],
) {
    // SAFETY: as the caller vouches.
    unsafe {
        if E::HALVES {
            let mut weighted = [[S::splat(0.0); WIDE_COLUMNS]; WIDE_PANELS];
            let first = half::<S, E, 0>(panels, input);
            for p in 0..WIDE_PANELS {
                for c in 0..WIDE_COLUMNS {
                    weighted[p][c] = S::mul(scale_line::<S>(panels[p], 0), S::i_to_f(first[p][c]));
                }
            }
            let second = half::<S, E, 1>(panels, input);
            for p in 0..WIDE_PANELS {
                for c in 0..WIDE_COLUMNS {
                    let both = S::fma(scale_line::<S>(panels[p], 1), S::i_to_f(second[p][c]), weighted[p][c]);
                    sums[p][c] = S::fma(both, S::splat(float(input, SCALE, c)), sums[p][c]);
                    if E::MIN {
                        let (low, high) = (NEGATED_SCALED_SUM, NEGATED_SCALED_SUM + 1);
                        sums[p][c] =
                            S::fma(scale_line::<S>(panels[p], 2), S::splat(float(input, low, c)), sums[p][c]);
                        sums[p][c] = S::fma(
                            scale_line::<S>(panels[p], 3),
                            S::splat(float(input, high, c)),
                            sums[p][c],
                        );
                    }
                }
            }
        } else {
            let mut dots = start::<S, E>(input, 2);
            add_half::<S, 0>(panels, input, &mut dots);
            add_half::<S, 1>(panels, input, &mut dots);
            for p in 0..WIDE_PANELS {
                for c in 0..WIDE_COLUMNS {
                    let weighted = S::mul(scale_line::<S>(panels[p], 0), S::i_to_f(dots[p][c]));
                    sums[p][c] = S::fma(weighted, S::splat(float(input, SCALE, c)), sums[p][c]);
                    if E::MIN {
                        let all = S::splat(float(input, NEGATED_SCALED_SUM + 2, c));
                        sums[p][c] = S::fma(scale_line::<S>(panels[p], 1), all, sums[p][c]);
                    }
                }
            }
        }
    }
}

/// The integer sums' start for all panels: see [`super::tile`].
///
/// # Safety
/// As [`multiply`], for one group.
#[inline(always)]
unsafe fn start<S: Simd, E: Constants>(
    input: &TileInput,
    part: usize,
) -> [[S::I; WIDE_COLUMNS]; WIDE_PANELS] {
    // SAFETY: as the caller vouches.
    unsafe {
        let mut dots = [S::i_splat(0); WIDE_COLUMNS];
        if E::ZERO_LOG2 > 0 {
            for c in 0..WIDE_COLUMNS {
                dots[c] = shift_zero::<S, E>(S::i_splat(input.word(NEGATED_SUM + part, c) as i32));
            }
        }
        [dots; WIDE_PANELS]
    }
}

/// The integer dot products of one half of a group.
///
/// # Safety
/// As [`multiply`], for one group.
#[inline(always)]
unsafe fn half<S: Simd, E: Constants, const HALF: usize>(
    panels: &[*const u8; WIDE_PANELS],
    input: &TileInput,
) -> [[S::I; WIDE_COLUMNS]; WIDE_PANELS] {
    // SAFETY: as the caller vouches.
    unsafe {
        let mut dots = start::<S, E>(input, HALF);
        add_half::<S, HALF>(panels, input, &mut dots);
        dots
    }
}

/// Adds one half of a group to integer dot products.
///
/// # Safety
/// As [`multiply`], for one group.
#[inline(always)]
unsafe fn add_half<S: Simd, const HALF: usize>(
    panels: &[*const u8; WIDE_PANELS],
    input: &TileInput,
    dots: &mut [[S::I; WIDE_COLUMNS]; WIDE_PANELS],
) {
    // SAFETY: as the caller vouches.
    unsafe {
        for v in 4 * HALF..4 * HALF + 4 {
            let mut w = [S::b_load(panels[0].add(v * LINE_BYTES)); WIDE_PANELS];
            for p in 1..WIDE_PANELS {
                w[p] = S::b_load(panels[p].add(v * LINE_BYTES));
            }
            for c in 0..WIDE_COLUMNS {
                for p in 0..WIDE_PANELS {
                    dots[p][c] = S::dot4::<true>(dots[p][c], w[p], input.value(c, 4 * v));
                }
            }
        }
    }
}
