//! Sixteen lanes of arithmetic behind one trait: every kernel is written once over [`Simd`] and
//! instantiated per instruction set. All sets compute the same bits: operations are lane-wise,
//! multiply-adds are fused, and reductions follow one fixed tree.

#[cfg(target_arch = "x86_64")]
pub mod avx2;
#[cfg(target_arch = "x86_64")]
pub mod avx512;
#[cfg(target_arch = "aarch64")]
pub mod neon;
pub mod scalar;

/// Lanes of a vector of 32-bit values.
pub const LANES: usize = 16;

/// The operations of one instruction set.
///
/// # Safety
/// Every method may use instructions of the set: callers make sure that the CPU has them (see
/// `Isa`). Pointers must be valid for the stated number of elements; no alignment is needed.
#[allow(clippy::missing_safety_doc)] // the trait's section speaks for all methods
pub unsafe trait Simd: Copy + 'static {
    /// 16 × f32.
    type F: Copy;
    /// 16 × i32.
    type I: Copy;
    /// 64 × u8.
    type B: Copy;
    /// Most columns a product tile can keep in registers.
    const COLUMNS_MAX: usize;
    /// Whether many columns are multiplied by `panels::unpacked` instead of tile after tile: for sets
    /// whose tiles are so narrow that unpacking the weights for each would cost much.
    const UNPACKS: bool;
    /// Whether [`Simd::dot16`] takes 8-bit weights as w − 128, for sets whose instructions want signed ones.
    const CENTERED: bool;
    /// Whether its vectors are registers, so that tiles of several attention rows save loads.
    const HAS_REGISTERS: bool;
    /// Vectors of each of six rows whose sums an attention tile keeps in registers: 4 or 1.
    const ROW_VECTORS: usize;

    /// All lanes `x`.
    unsafe fn splat(x: f32) -> Self::F;
    /// Loads 16 f32.
    unsafe fn load(from: *const f32) -> Self::F;
    /// Stores 16 f32.
    unsafe fn store(to: *mut f32, x: Self::F);
    /// Loads 16 f16 (as bits).
    unsafe fn load_f16(from: *const u16) -> Self::F;
    /// Stores 16 values as f16, rounded to nearest even.
    unsafe fn store_f16(to: *mut u16, x: Self::F);
    /// Loads 16 i8.
    unsafe fn load_i8(from: *const i8) -> Self::F;
    /// Loads 16 u8.
    unsafe fn load_u8(from: *const u8) -> Self::F;
    /// The table's entries for 16 codes: the low four bits of 16 bytes, or the high ones.
    unsafe fn load_nibbles<const HIGH: bool>(from: *const u8, table: &[i8; 16]) -> Self::F;
    /// a + b.
    unsafe fn add(a: Self::F, b: Self::F) -> Self::F;
    /// a − b.
    unsafe fn sub(a: Self::F, b: Self::F) -> Self::F;
    /// a · b.
    unsafe fn mul(a: Self::F, b: Self::F) -> Self::F;
    /// a / b.
    unsafe fn div(a: Self::F, b: Self::F) -> Self::F;
    /// a · b + c, rounded once.
    unsafe fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// The larger; `b` where either is NaN.
    unsafe fn max(a: Self::F, b: Self::F) -> Self::F;
    /// The smaller; `b` where either is NaN.
    unsafe fn min(a: Self::F, b: Self::F) -> Self::F;
    /// |a|.
    unsafe fn abs(a: Self::F) -> Self::F;
    /// Rounded to the nearest whole number, ties to even.
    unsafe fn round(a: Self::F) -> Self::F;
    /// Sum of the lanes by one tree: lanes 8 apart, then 4, 2, 1.
    unsafe fn sum(a: Self::F) -> f32;
    /// The largest lane, by the same tree of [`Simd::max`].
    unsafe fn largest(a: Self::F) -> f32;
    /// 2^n for whole n in −126..=127.
    unsafe fn exp2_whole(n: Self::F) -> Self::F;

    /// All lanes `x`.
    unsafe fn i_splat(x: i32) -> Self::I;
    /// a · 2^SHIFT.
    unsafe fn i_shift_left<const SHIFT: u32>(a: Self::I) -> Self::I;
    /// As floats (exact below 2^24).
    unsafe fn i_to_f(a: Self::I) -> Self::F;
    /// Truncates whole floats in i32's range.
    unsafe fn f_to_i(a: Self::F) -> Self::I;
    /// Stores 16 lanes as i8; every lane is in −127..=127.
    unsafe fn i_store_i8(to: *mut i8, a: Self::I);

    /// Asks for the line of an address, which need not be valid, ahead of its use.
    unsafe fn prefetch(address: *const u8);
    /// Loads 64 bytes.
    unsafe fn b_load(from: *const u8) -> Self::B;
    /// Loads 16 bytes and repeats them four times: a table for [`Simd::b_lookup`].
    unsafe fn b_table(from: &[u8; 16]) -> Self::B;
    /// All bytes `x`.
    unsafe fn b_splat(x: u8) -> Self::B;
    /// a − b of each byte, modulo 256.
    unsafe fn b_sub(a: Self::B, b: Self::B) -> Self::B;
    /// The low four bits of each byte.
    unsafe fn b_low(a: Self::B) -> Self::B;
    /// The high four bits of each byte.
    unsafe fn b_high(a: Self::B) -> Self::B;
    /// Adds 16 to the bytes whose bit in `mask` is set.
    unsafe fn b_plane1(nibbles: Self::B, mask: u64) -> Self::B;
    /// Adds 16 × bits `2·PAIR` and `2·PAIR+1` of each byte of `plane`.
    unsafe fn b_plane2<const PAIR: u32>(nibbles: Self::B, plane: Self::B) -> Self::B;
    /// Replaces each byte (below 16) by the table's entry.
    unsafe fn b_lookup(nibbles: Self::B, table: Self::B) -> Self::B;
    /// Lane i: acc + Σ_vt (w[v][4i+t] − bias) · x[4v+t] for v, t < 4. Weights are below 2^BITS for BITS 4,
    /// 5, 6 and 8; the bias is 128 if BITS is 8 and the set is [`Simd::CENTERED`], else 0. The 16 values
    /// at `x` are in −127..=127, so that small weights' partial sums fit 16 bits.
    unsafe fn dot16<const BITS: u32>(acc: Self::I, w: [Self::B; 4], x: *const i8) -> Self::I;
}

/// e^x to about 2 units in the last place; exactly 0 below −87.7, large but finite above 88.
/// Cody–Waite reduction and a degree-6 polynomial (the classic Cephes `expf`).
///
/// # Safety
/// As [`Simd`].
#[inline(always)]
pub unsafe fn exp<S: Simd>(x: S::F) -> S::F {
    // SAFETY: the caller vouches for the instruction set.
    unsafe {
        let x = S::max(S::min(x, S::splat(88.0)), S::splat(-88.1));
        let n = S::round(S::mul(x, S::splat(std::f32::consts::LOG2_E)));
        let r = S::fma(n, S::splat(-0.693_359_4), x);
        let r = S::fma(n, S::splat(2.121_944_4e-4), r);
        let mut p = S::splat(1.987_569_1e-4);
        for coefficient in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
            p = S::fma(p, r, S::splat(coefficient));
        }
        let p = S::fma(p, S::mul(r, r), S::add(r, S::splat(1.0)));
        S::mul(p, S::exp2_whole(n))
    }
}
