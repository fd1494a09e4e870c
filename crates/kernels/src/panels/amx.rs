//! The quantized products of many columns with AMX: one panel, unpacked once, times sixteen columns at a time.
//!
//! One tile instruction gives 16 rows' integer dot products with 16 columns over a group of 32 values, or half of one.
//! Such sums leave tile registers through memory only, from where AVX-512 takes them into the float sums, each by the
//! chain of operations of [`tile`](super::tile): the bits are the same. While the processor multiplies one group, the sums
//! of the one before go to memory, and those before them into the floats.

use std::arch::asm;
use std::mem::MaybeUninit;

use crate::activations::TileInput;
use crate::lines::LINE_BYTES;
use crate::simd::avx512::Avx512;
use crate::simd::{LANES, Simd};

use super::encoding::Constants;
use super::tile::{Scales, TileCall, add_weighted, store};
use super::unpacked::{self, ColumnsCall, unpack, zeros};

/// Columns of a block of activations, and of a tile.
pub(crate) const TILE_COLUMNS: usize = 16;
/// Fewest columns that are multiplied so, of any encoding.
pub(crate) const COLUMNS_MIN: usize = 13;
/// Tiles whose float sums wait in memory.
const STRETCH_TILES: usize = 16;
/// Groups unpacked together: few enough that they, what is asked for meanwhile and the columns passing by share a
/// first-level cache.
const PART_GROUPS: usize = 16;

/// From how many columns on unpacking to memory pays, measured: most for what is most work to unpack or has scales of
/// scales.
pub(crate) const fn least_columns<E: Constants>() -> usize {
    match (E::SUPER, E::BITS) {
        (true, _) => COLUMNS_MIN,
        (false, 5) => 24,
        (false, _) => 48,
    }
}

type F = <Avx512 as Simd>::F;
type B = <Avx512 as Simd>::B;
type I = <Avx512 as Simd>::I;
type Part = unpacked::Part<Avx512, PART_GROUPS>;

/// Integer sums on their way from tile registers: of two groups, of each half or of the whole.
#[repr(C, align(64))]
struct Dots([[[I; TILE_COLUMNS]; 2]; 2]);

/// The registers' shapes, as `ldtilecfg` reads them.
#[repr(C, align(64))]
struct Shapes {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

impl Shapes {
    /// 0 to 3 hold sums, 4 and 5 activations, 6 and 7 weights. `depth`: values that one instruction takes of each row,
    /// those that share a scale.
    const fn of(depth: u8) -> Self {
        let (line, x) = (LINE_BYTES as u16, depth as u16);
        let (c, w) = (TILE_COLUMNS as u8, depth / 4);
        Shapes {
            palette: 1,
            start_row: 0,
            reserved: [0; 14],
            row_bytes: [line, line, line, line, x, x, line, line, 0, 0, 0, 0, 0, 0, 0, 0],
            rows: [c, c, c, c, c, c, w, w, 0, 0, 0, 0, 0, 0, 0, 0],
        }
    }
}

static SHAPES: Shapes = Shapes::of(32);
static SHAPES_OF_HALVES: Shapes = Shapes::of(16);

/// Sets the registers' shapes. It takes as long as multiplying several groups.
///
/// # Safety
/// The process may use AMX.
unsafe fn configure<E: Constants>() {
    let shapes = if E::HALVES { &SHAPES_OF_HALVES } else { &SHAPES };
    // SAFETY: as the caller vouches; the shapes are valid ones.
    unsafe { asm!("ldtilecfg [{}]", in(reg) shapes, options(nostack, readonly)) };
}

/// Gives the registers' content up, so that nobody has to save it.
///
/// # Safety
/// The process may use AMX.
unsafe fn release() {
    // SAFETY: as the caller vouches.
    unsafe { asm!("tilerelease", options(nostack, nomem)) };
}

/// Begins a group's dot products in the registers of even or odd groups.
macro_rules! begin_dots {
    // sums, activations, weights
    ($group:expr, $sums:literal, $x:literal, $w:literal) => {
        asm!(
            concat!("tilezero tmm", $sums),
            concat!("tileloadd tmm", $x, ", [{x} + {line} * 1]"),
            concat!("tileloadd tmm", $w, ", [{w} + {line} * 1]"),
            concat!("tdpbssd tmm", $sums, ", tmm", $x, ", tmm", $w),
            x = in(reg) $group.0,
            w = in(reg) $group.1,
            // Neighbouring columns are a line apart, and so are vectors of weights.
            line = in(reg) LINE_BYTES,
            options(nostack, readonly, preserves_flags),
        )
    };
}

/// Stores a register of sums.
macro_rules! store_dots {
    ($sums:literal, $to:expr) => {
        asm!(
            concat!("tilestored [{to} + {line} * 1], tmm", $sums),
            to = in(reg) $to,
            line = in(reg) LINE_BYTES,
            options(nostack, preserves_flags),
        )
    };
}

/// Computes all columns.
///
/// # Safety
/// The process may use AMX; the CPU has AVX-512. The call's addresses are valid for a panel of encoding `E`, its columns
/// exist, and so do `rows` outputs of each; the first column begins a block of activations, of [`TILE_COLUMNS`] columns.
#[inline(always)]
pub(crate) unsafe fn columns<E: Constants>(call: &ColumnsCall) {
    // SAFETY: as the caller vouches.
    unsafe { configure::<E>() };
    let mut from = 0;
    while from < call.columns {
        let columns = (STRETCH_TILES * TILE_COLUMNS).min(call.columns - from);
        // SAFETY: part of what the caller vouches for.
        unsafe { stretch::<E>(call, from, columns) };
        from += columns;
    }
    // SAFETY: as the caller vouches.
    unsafe { release() };
}

/// Computes `columns` columns from column `from` of the call on, at most [`STRETCH_TILES`] tiles.
///
/// # Safety
/// As [`columns`].
#[inline(always)]
unsafe fn stretch<E: Constants>(call: &ColumnsCall, from: usize, columns: usize) {
    // SAFETY: as the caller vouches; of a part only groups that `unpack` wrote are read.
    unsafe {
        let mut places = [const { MaybeUninit::uninit() }; STRETCH_TILES];
        let sums = zeros::<Avx512, TILE_COLUMNS>(&mut places[..columns.div_ceil(TILE_COLUMNS)]);
        let mut part = MaybeUninit::<Part>::uninit();
        let part = part.as_mut_ptr();
        let mut panel = call.first;
        let mut done = 0;
        while done < call.first.groups {
            let groups = PART_GROUPS.min(call.first.groups - done);
            unpack::<Avx512, E, _, true>(&mut panel, groups, part);
            for (tile, sums) in sums.iter_mut().enumerate() {
                let first = tile * TILE_COLUMNS;
                let mut input = call.activations.tile(call.column + from + first);
                input.skip(done);
                // The first tile asks for what will be unpacked next: more would ask for it again.
                let ahead = if tile == 0 { panel.integers } else { std::ptr::null() };
                let group = Groups { part, groups, input, ahead };
                if columns - first <= 8 {
                    multiply::<E, 8>(group, sums.first_chunk_mut().expect("16 sums"));
                } else {
                    multiply::<E, TILE_COLUMNS>(group, sums);
                }
            }
            done += groups;
        }
        for (tile, sums) in sums.iter().enumerate() {
            let first = tile * TILE_COLUMNS;
            let output = call.first.output.add((from + first) * call.first.output_stride);
            let to = TileCall { output, ..call.first };
            if columns - first >= TILE_COLUMNS {
                store::<Avx512, TILE_COLUMNS>(&to, sums);
            } else {
                for (c, sum) in sums[..columns - first].iter().enumerate() {
                    let output = output.add(c * call.first.output_stride);
                    store::<Avx512, 1>(&TileCall { output, ..to }, &[*sum]);
                }
            }
        }
    }
}

/// What a tile multiplies: unpacked groups of a panel and the same groups of its columns.
struct Groups {
    part: *const Part,
    groups: usize,
    input: TileInput,
    /// Packed groups to ask memory for meanwhile; null: none.
    ahead: *const u8,
}

/// Adds groups' products with a tile's first `C` columns to their sums.
///
/// # Safety
/// As [`columns`]; registers are configured.
#[inline(always)]
unsafe fn multiply<E: Constants, const C: usize>(of: Groups, sums: &mut [F; C]) {
    // SAFETY: as the caller vouches; only groups that exist are begun, and only those begun are taken.
    unsafe {
        let mut dots = MaybeUninit::<Dots>::uninit();
        let dots = dots.as_mut_ptr();
        // A copy, which the compiler may keep in registers.
        let mut tile_sums = *sums;
        let (mut begun, mut taken) = (of.input, of.input);
        begin::<E, 0>(Part::vectors(of.part, 0), begun);
        for g in 0..=of.groups {
            if g + 1 < of.groups {
                begun.advance();
                let vectors = Part::vectors(of.part, g + 1);
                if g % 2 == 0 { begin::<E, 1>(vectors, begun) } else { begin::<E, 0>(vectors, begun) }
            }
            if !of.ahead.is_null() {
                for line in 0..E::BITS as usize {
                    let line = (g * E::BITS as usize + line) * LINE_BYTES;
                    Avx512::prefetch(of.ahead.wrapping_add(line));
                }
            }
            if g > 0 {
                let dots = &raw const (*dots).0[(g - 1) % 2];
                take::<E, C>(dots, &Part::scales::<E>(of.part, g - 1), &taken, &mut tile_sums);
                taken.advance();
            }
            if g < of.groups {
                let to = &raw mut (*dots).0[g % 2];
                if g % 2 == 0 { save::<E, 0>(to) } else { save::<E, 1>(to) }
            }
        }
        *sums = tile_sums;
    }
}

/// Begins the dot products of a group, whose number is odd or not.
///
/// # Safety
/// As [`multiply`].
#[inline(always)]
unsafe fn begin<E: Constants, const ODD: usize>(vectors: *const [B; 8], input: TileInput) {
    let first = (input.value(0, 0), vectors.cast::<B>());
    let second = (input.value(0, 16), first.1.wrapping_add(4));
    // SAFETY: as the caller vouches. Nothing but this file's instructions touches tile registers.
    unsafe {
        match (E::HALVES, ODD) {
            (false, 0) => begin_dots!(first, 0, 4, 6),
            (false, _) => begin_dots!(first, 2, 5, 7),
            (true, 0) => {
                begin_dots!(first, 0, 4, 6);
                begin_dots!(second, 1, 5, 7);
            }
            (true, _) => {
                begin_dots!(first, 2, 4, 6);
                begin_dots!(second, 3, 5, 7);
            }
        }
    }
}

/// Stores what [`begin`] began.
///
/// # Safety
/// As [`multiply`].
#[inline(always)]
unsafe fn save<E: Constants, const ODD: usize>(to: *mut [[I; TILE_COLUMNS]; 2]) {
    let first = to.cast::<[I; TILE_COLUMNS]>();
    let second = first.wrapping_add(1);
    // SAFETY: as the caller vouches.
    unsafe {
        if ODD == 0 {
            store_dots!(0, first);
            if E::HALVES {
                store_dots!(1, second);
            }
        } else {
            store_dots!(2, first);
            if E::HALVES {
                store_dots!(3, second);
            }
        }
    }
}

/// Takes a group's dot products into the sums of `C` columns.
///
/// # Safety
/// As [`multiply`], and the dot products are there.
#[inline(always)]
unsafe fn take<E: Constants, const C: usize>(
    dots: *const [[I; TILE_COLUMNS]; 2],
    scales: &Scales<Avx512>,
    input: &TileInput,
    sums: &mut [F; C],
) {
    const { assert!(C <= TILE_COLUMNS && LANES * size_of::<i32>() == LINE_BYTES) };
    // SAFETY: as the caller vouches.
    unsafe {
        #[allow(clippy::needless_range_loop)] // a register tile, indexed by constants
        for c in 0..C {
            let mut weighted = Avx512::mul(scales.scale[0], Avx512::i_to_f((*dots)[0][c]));
            if E::HALVES {
                weighted = Avx512::fma(scales.scale[1], Avx512::i_to_f((*dots)[1][c]), weighted);
            }
            sums[c] = add_weighted::<Avx512, E>((weighted, c), scales, input, sums[c]);
        }
    }
}
