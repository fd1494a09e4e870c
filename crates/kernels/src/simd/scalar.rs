//! The portable twin of every instruction set: plain loops, the oracle of the others.

use super::{LANES, Simd};

/// Plain Rust.
#[derive(Clone, Copy, Debug)]
pub struct Scalar;

#[inline(always)]
fn zip(a: [f32; LANES], b: [f32; LANES], f: impl Fn(f32, f32) -> f32) -> [f32; LANES] {
    std::array::from_fn(|i| f(a[i], b[i]))
}

/// Folds lanes 8 apart, then 4, 2, 1.
#[inline(always)]
fn fold(mut lanes: [f32; LANES], f: impl Fn(f32, f32) -> f32) -> f32 {
    for width in [8, 4, 2, 1] {
        for lane in 0..width {
            lanes[lane] = f(lanes[lane], lanes[lane + width]);
        }
    }
    lanes[0]
}

// SAFETY: needs no special instructions; pointers are used as the trait says.
unsafe impl Simd for Scalar {
    type F = [f32; LANES];
    type I = [i32; LANES];
    type B = [u8; 64];
    const COLUMNS_MAX: usize = 2;
    const UNPACKS: bool = false;
    const CENTERED: bool = false;
    const HAS_REGISTERS: bool = false;
    const ROW_VECTORS: usize = 1;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self::F {
        [x; LANES]
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self::F {
        // SAFETY: the caller gives 16 values; an array of f32 may be read unaligned.
        unsafe { from.cast::<Self::F>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(to: *mut f32, x: Self::F) {
        // SAFETY: the caller gives room for 16 values.
        unsafe { to.cast::<Self::F>().write_unaligned(x) }
    }
    #[inline(always)]
    unsafe fn load_f16(from: *const u16) -> Self::F {
        // SAFETY: the caller gives 16 values.
        let bits = unsafe { from.cast::<[u16; LANES]>().read_unaligned() };
        bits.map(|b| half::f16::from_bits(b).to_f32())
    }
    #[inline(always)]
    unsafe fn store_f16(to: *mut u16, x: Self::F) {
        let bits = x.map(|v| half::f16::from_f32(v).to_bits());
        // SAFETY: the caller gives room for 16 values.
        unsafe { to.cast::<[u16; LANES]>().write_unaligned(bits) }
    }
    #[inline(always)]
    unsafe fn load_i8(from: *const i8) -> Self::F {
        // SAFETY: the caller gives 16 values.
        unsafe { from.cast::<[i8; LANES]>().read_unaligned() }.map(f32::from)
    }
    #[inline(always)]
    unsafe fn load_u8(from: *const u8) -> Self::F {
        // SAFETY: the caller gives 16 values.
        unsafe { from.cast::<[u8; LANES]>().read_unaligned() }.map(f32::from)
    }
    #[inline(always)]
    unsafe fn load_nibbles<const HIGH: bool>(from: *const u8, table: &[i8; 16]) -> Self::F {
        // SAFETY: the caller gives 16 bytes.
        let bytes = unsafe { from.cast::<[u8; LANES]>().read_unaligned() };
        bytes.map(|b| f32::from(table[usize::from(if HIGH { b >> 4 } else { b & 15 })]))
    }
    #[inline(always)]
    unsafe fn add(a: Self::F, b: Self::F) -> Self::F {
        zip(a, b, |x, y| x + y)
    }
    #[inline(always)]
    unsafe fn sub(a: Self::F, b: Self::F) -> Self::F {
        zip(a, b, |x, y| x - y)
    }
    #[inline(always)]
    unsafe fn mul(a: Self::F, b: Self::F) -> Self::F {
        zip(a, b, |x, y| x * y)
    }
    #[inline(always)]
    unsafe fn div(a: Self::F, b: Self::F) -> Self::F {
        zip(a, b, |x, y| x / y)
    }
    #[inline(always)]
    unsafe fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        std::array::from_fn(|i| a[i].mul_add(b[i], c[i]))
    }
    #[inline(always)]
    unsafe fn max(a: Self::F, b: Self::F) -> Self::F {
        zip(a, b, |x, y| if x > y { x } else { y })
    }
    #[inline(always)]
    unsafe fn min(a: Self::F, b: Self::F) -> Self::F {
        zip(a, b, |x, y| if x < y { x } else { y })
    }
    #[inline(always)]
    unsafe fn abs(a: Self::F) -> Self::F {
        a.map(f32::abs)
    }
    #[inline(always)]
    unsafe fn round(a: Self::F) -> Self::F {
        a.map(f32::round_ties_even)
    }
    #[inline(always)]
    unsafe fn sum(a: Self::F) -> f32 {
        fold(a, |x, y| x + y)
    }
    #[inline(always)]
    unsafe fn largest(a: Self::F) -> f32 {
        fold(a, |x, y| if x > y { x } else { y })
    }
    #[inline(always)]
    unsafe fn exp2_whole(n: Self::F) -> Self::F {
        n.map(|x| f32::from_bits(((x as i32 + 127) as u32) << 23))
    }
    #[inline(always)]
    unsafe fn i_splat(x: i32) -> Self::I {
        [x; LANES]
    }
    #[inline(always)]
    unsafe fn i_shift_left<const SHIFT: u32>(a: Self::I) -> Self::I {
        a.map(|x| x << SHIFT)
    }
    #[inline(always)]
    unsafe fn i_to_f(a: Self::I) -> Self::F {
        a.map(|x| x as f32)
    }
    #[inline(always)]
    unsafe fn f_to_i(a: Self::F) -> Self::I {
        a.map(|x| x as i32)
    }
    #[inline(always)]
    unsafe fn i_store_i8(to: *mut i8, a: Self::I) {
        // SAFETY: the caller gives room for 16 values.
        unsafe { to.cast::<[i8; LANES]>().write_unaligned(a.map(|x| x as i8)) }
    }
    #[inline(always)]
    unsafe fn prefetch(_: *const u8) {}
    #[inline(always)]
    unsafe fn b_load(from: *const u8) -> Self::B {
        // SAFETY: the caller gives 64 bytes.
        unsafe { from.cast::<Self::B>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn b_table(from: &[u8; 16]) -> Self::B {
        std::array::from_fn(|i| from[i % 16])
    }
    #[inline(always)]
    unsafe fn b_splat(x: u8) -> Self::B {
        [x; 64]
    }
    #[inline(always)]
    unsafe fn b_sub(a: Self::B, b: Self::B) -> Self::B {
        std::array::from_fn(|i| a[i].wrapping_sub(b[i]))
    }
    #[inline(always)]
    unsafe fn b_low(a: Self::B) -> Self::B {
        a.map(|x| x & 15)
    }
    #[inline(always)]
    unsafe fn b_high(a: Self::B) -> Self::B {
        a.map(|x| x >> 4)
    }
    #[inline(always)]
    unsafe fn b_plane1(nibbles: Self::B, mask: u64) -> Self::B {
        std::array::from_fn(|i| nibbles[i] | (((mask >> i) & 1) as u8) << 4)
    }
    #[inline(always)]
    unsafe fn b_plane2<const PAIR: u32>(nibbles: Self::B, plane: Self::B) -> Self::B {
        std::array::from_fn(|i| nibbles[i] | ((plane[i] >> (2 * PAIR)) & 3) << 4)
    }
    #[inline(always)]
    unsafe fn b_lookup(nibbles: Self::B, table: Self::B) -> Self::B {
        nibbles.map(|x| table[usize::from(x & 15)])
    }
    #[inline(always)]
    unsafe fn dot16<const BITS: u32>(acc: Self::I, w: [Self::B; 4], x: *const i8) -> Self::I {
        // SAFETY: the caller gives 16 values.
        let x = unsafe { x.cast::<[[i8; 4]; 4]>().read_unaligned() };
        let product = |i: usize, v: usize, t: usize| i32::from(w[v][4 * i + t]) * i32::from(x[v][t]);
        std::array::from_fn(|i| {
            (0..4).fold(acc[i], |sum, v| sum + (0..4).map(|t| product(i, v, t)).sum::<i32>())
        })
    }
}
