//! The quantized products of many columns: one panel, unpacked once, times a stretch of columns.
//!
//! A set with few registers can only tile few columns, and unpacking weights anew for each tile would
//! cost as much as multiplying them. Here eight groups are unpacked to where the first-level cache
//! keeps them, then all columns of a stretch pass by, their sums waiting in memory meanwhile. Each sum
//! is the same chain of operations as in [`tile`](super::tile), whose functions it calls.

use std::mem::MaybeUninit;

use crate::activations::Activations;
use crate::simd::Simd;

use super::encoding::Constants;
use super::tile::{Group, Scales, TileCall, group, store, super_scales, weights};

/// Columns multiplied together: what one load of weights serves.
pub(crate) const TILE_COLUMNS: usize = 4;
/// From how many columns on unpacking to memory pays.
pub(crate) const fn least_columns<E: Constants>() -> usize {
    TILE_COLUMNS
}

/// Tiles whose sums wait in memory: with the unpacked weights they leave half of a first-level cache to
/// the activations passing by.
const STRETCH_TILES: usize = 32;
/// Groups of a block with scales of scales.
const BLOCK_GROUPS: usize = 8;
/// Groups unpacked together.
const PART_GROUPS: usize = BLOCK_GROUPS;

/// Several columns of one panel.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ColumnsCall<'a> {
    /// The first column's call.
    pub first: TileCall<'a>,
    /// Where the columns are.
    pub activations: &'a Activations,
    /// Number of the first column, which begins a tile.
    pub column: usize,
    /// Columns; here, whole tiles of them.
    pub columns: usize,
}

/// Up to `GROUPS` groups, unpacked: whole blocks of them.
pub(super) struct Part<S: Simd, const GROUPS: usize> {
    vectors: [[S::B; 8]; GROUPS],
    /// Scales, then minima, of both halves; what an encoding lacks is not written.
    scales: [[S::F; 4]; GROUPS],
}

impl<S: Simd, const GROUPS: usize> Part<S, GROUPS> {
    /// The vectors of group `g`.
    ///
    /// # Safety
    /// There is a part, and [`unpack`] wrote the group.
    #[inline(always)]
    pub unsafe fn vectors(part: *const Self, g: usize) -> *const [S::B; 8] {
        // SAFETY: as the caller vouches.
        unsafe { &raw const (*part).vectors[g] }
    }

    /// The scales of group `g`.
    ///
    /// # Safety
    /// As [`Part::vectors`].
    #[inline(always)]
    pub unsafe fn scales<E: Constants>(part: *const Self, g: usize) -> Scales<S> {
        // SAFETY: as the caller vouches; only what the encoding has is read.
        unsafe {
            let from = (&raw const (*part).scales[g]).cast::<S::F>();
            let scale = *from;
            let min = if E::MIN { *from.add(2) } else { scale };
            let (second, second_min) = match (E::HALVES, E::MIN) {
                (false, _) => (scale, min),
                (true, false) => (*from.add(1), min),
                (true, true) => (*from.add(1), *from.add(3)),
            };
            Scales { scale: [scale, second], min: [min, second_min] }
        }
    }
}

/// One group of a [`Part`].
struct Unpacked<S: Simd>(*const [S::B; 8]);

impl<S: Simd> Copy for Unpacked<S> {}
impl<S: Simd> Clone for Unpacked<S> {
    fn clone(&self) -> Self {
        *self
    }
}

// SAFETY: the methods' callers vouch for the group.
unsafe impl<S: Simd> Group<S> for Unpacked<S> {
    #[inline(always)]
    unsafe fn vector<const V: usize>(self) -> S::B {
        // SAFETY: as the caller vouches.
        unsafe { (*self.0)[V] }
    }

    #[inline(always)]
    unsafe fn prefetch(self) {}
}

/// Computes all columns.
///
/// # Safety
/// The instruction set is there; the call's addresses are valid for a panel of encoding `E`, its columns
/// exist, and so do `rows` outputs of each.
#[inline(always)]
pub(crate) unsafe fn columns<S: Simd, E: Constants>(call: &ColumnsCall) {
    let mut from = 0;
    let all = call.columns / TILE_COLUMNS;
    while from < all {
        let tiles = STRETCH_TILES.min(all - from);
        // SAFETY: part of what the caller vouches for.
        unsafe { stretch::<S, E>(call, from, tiles) };
        from += tiles;
    }
}

/// Computes `tiles` tiles of columns from tile `from` on, at most [`STRETCH_TILES`].
///
/// # Safety
/// As [`columns`].
#[inline(always)]
unsafe fn stretch<S: Simd, E: Constants>(call: &ColumnsCall, from: usize, tiles: usize) {
    // SAFETY: as the caller vouches; of a part only groups that `unpack` wrote are read.
    unsafe {
        let mut places = [const { MaybeUninit::uninit() }; STRETCH_TILES];
        let sums = zeros::<S, TILE_COLUMNS>(&mut places[..tiles]);
        let mut part = MaybeUninit::<Part<S, PART_GROUPS>>::uninit();
        let part = part.as_mut_ptr();
        let mut panel = call.first;
        let mut done = 0;
        while done < call.first.groups {
            let groups = PART_GROUPS.min(call.first.groups - done);
            unpack::<S, E, _, false>(&mut panel, groups, part);
            for (tile, sums) in sums.iter_mut().enumerate() {
                let mut input = call.activations.tile(call.column + (from + tile) * TILE_COLUMNS);
                input.skip(done);
                // A copy, which the compiler may keep in registers.
                let mut tile_sums = *sums;
                for g in 0..groups {
                    let vectors = Unpacked::<S>(Part::vectors(part, g));
                    group::<S, E, _, TILE_COLUMNS>(
                        vectors,
                        &Part::scales::<E>(part, g),
                        &input,
                        &mut tile_sums,
                    );
                    input.advance();
                }
                *sums = tile_sums;
            }
            done += groups;
        }
        for (tile, sums) in sums.iter().enumerate() {
            let column = (from + tile) * TILE_COLUMNS;
            let output = call.first.output.add(column * call.first.output_stride);
            store::<S, TILE_COLUMNS>(&TileCall { output, ..call.first }, sums);
        }
    }
}

/// Tiles' sums before anything is added: places that no tile needs are left alone, since they are many.
///
/// # Safety
/// The instruction set is there.
#[inline(always)]
pub(super) unsafe fn zeros<S: Simd, const C: usize>(
    places: &mut [MaybeUninit<[S::F; C]>],
) -> &mut [[S::F; C]] {
    // SAFETY: the caller vouches for the set; every place is written.
    unsafe {
        for place in &mut *places {
            place.write([S::splat(0.0); C]);
        }
        &mut *(std::ptr::from_mut(places) as *mut [[S::F; C]])
    }
}

/// Unpacks `groups` groups, at most the part's, and steps over them; `SIGNED`: less their zero point.
///
/// # Safety
/// As [`columns`]; blocks with scales of scales are whole.
#[inline(always)]
pub(super) unsafe fn unpack<S: Simd, E: Constants, const GROUPS: usize, const SIGNED: bool>(
    panel: &mut TileCall,
    groups: usize,
    to: *mut Part<S, GROUPS>,
) {
    // SAFETY: as the caller vouches; writes within the part.
    unsafe {
        let table = S::b_table(panel.codebook.unwrap_or(&[0; 16]));
        let zero = S::b_splat(if E::ZERO_LOG2 > 0 { 1 << E::ZERO_LOG2 } else { 0 });
        let kinds = if E::MIN { 2 } else { 1 };
        let mut block = None;
        for g in 0..groups {
            let (d, dmin) = match block {
                Some(block) if E::SUPER && g % BLOCK_GROUPS > 0 => block,
                _ => {
                    let d = S::load_f16(panel.scales.cast());
                    let dmin = if E::MIN { S::load_f16(panel.scales.add(32).cast()) } else { d };
                    panel.scales = panel.scales.add(32 * kinds);
                    *block.insert((d, dmin))
                }
            };
            let (mut first, mut second) = ((d, dmin), (d, dmin));
            if E::SUPER {
                first = super_scales::<S, E>(d, dmin, panel.scales);
                panel.scales = panel.scales.add(16 * kinds);
                second = first;
                if E::HALVES {
                    second = super_scales::<S, E>(d, dmin, panel.scales);
                    panel.scales = panel.scales.add(16 * kinds);
                }
            }
            let scales = (&raw mut (*to).scales[g]).cast::<S::F>();
            scales.write(first.0);
            if E::HALVES {
                scales.add(1).write(second.0);
            }
            if E::MIN {
                scales.add(2).write(first.1);
            }
            if E::HALVES && E::MIN {
                scales.add(3).write(second.1);
            }
            let vectors = (&raw mut (*to).vectors[g]).cast::<S::B>();
            macro_rules! vectors {
                ($($v:literal)*) => { $(
                    let vector = weights::<S, E, $v>(panel.integers, table);
                    let signed = SIGNED && E::ZERO_LOG2 > 0;
                    vectors.add($v).write(if signed { S::b_sub(vector, zero) } else { vector });
                )* };
            }
            vectors!(0 1 2 3 4 5 6 7);
            panel.integers = panel.integers.add(64 * E::BITS as usize);
        }
    }
}
