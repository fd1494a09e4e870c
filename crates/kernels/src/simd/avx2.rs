//! AVX2 with FMA and F16C, with and without AVX-VNNI: two 256-bit halves, eight rows of a panel each.

use std::arch::x86_64::*;

use super::Simd;

/// AVX2, FMA and F16C; `VNNI`: and AVX-VNNI, the 256-bit dot product.
#[derive(Clone, Copy, Debug)]
pub struct Avx2<const VNNI: bool>;

const EXACT: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;

type F = [__m256; 2];
type I = [__m256i; 2];

/// The same expression for both halves. A macro: a closure would not have the features that its intrinsics
/// need, and calls instead of instructions would remain.
macro_rules! halves {
    ($x:ident in $a:expr => $body:expr) => {{
        let a = $a;
        let low = {
            let $x = a[0];
            $body
        };
        let $x = a[1];
        [low, $body]
    }};
    ($x:ident in $a:expr, $y:ident in $b:expr => $body:expr) => {{
        let (a, b) = ($a, $b);
        let low = {
            let ($x, $y) = (a[0], b[0]);
            $body
        };
        let ($x, $y) = (a[1], b[1]);
        [low, $body]
    }};
}

/// Sum of sixteen lanes: 8 apart, then 4, 2, 1.
///
/// # Safety
/// The CPU has AVX.
#[inline(always)]
pub(super) unsafe fn sum_halves(low: __m256, high: __m256) -> f32 {
    // SAFETY: as the caller vouches.
    unsafe {
        let eight = _mm256_add_ps(low, high);
        let four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
        let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
        _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
    }
}

/// Largest of sixteen lanes, by the same tree.
///
/// # Safety
/// The CPU has AVX.
#[inline(always)]
pub(super) unsafe fn largest_halves(low: __m256, high: __m256) -> f32 {
    // SAFETY: as the caller vouches.
    unsafe {
        let eight = _mm256_max_ps(low, high);
        let four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
        let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
        _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)))
    }
}

// SAFETY: each method uses only the named instruction sets, and pointers as the trait says.
#[allow(clippy::undocumented_unsafe_blocks)] // one-line wrappers under the impl's argument
unsafe impl<const VNNI: bool> Simd for Avx2<VNNI> {
    type F = F;
    type I = I;
    type B = I;
    // Sixteen registers: 2 columns × (2 sums of i32 + 2 of f32), the weights, scales and constants.
    const COLUMNS_MAX: usize = 2;
    const UNPACKS: bool = true;
    // Of signed weights a product of magnitudes with signed activations fits 16 bits; of 0..=255 not.
    const CENTERED: bool = !VNNI;
    const HAS_REGISTERS: bool = true;
    const ROW_VECTORS: usize = 1;

    #[inline(always)]
    unsafe fn splat(x: f32) -> F {
        unsafe { [_mm256_set1_ps(x); 2] }
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> F {
        unsafe { [_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(8))] }
    }
    #[inline(always)]
    unsafe fn store(to: *mut f32, x: F) {
        unsafe {
            _mm256_storeu_ps(to, x[0]);
            _mm256_storeu_ps(to.add(8), x[1]);
        }
    }
    #[inline(always)]
    unsafe fn load_f16(from: *const u16) -> F {
        unsafe { halves!(p in [from, from.add(8)] => _mm256_cvtph_ps(_mm_loadu_si128(p.cast()))) }
    }
    #[inline(always)]
    unsafe fn store_f16(to: *mut u16, x: F) {
        unsafe {
            _mm_storeu_si128(to.cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(x[0]));
            _mm_storeu_si128(to.add(8).cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(x[1]));
        }
    }
    #[inline(always)]
    unsafe fn load_i8(from: *const i8) -> F {
        unsafe {
            halves!(p in [from, from.add(8)] => _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(p.cast()))))
        }
    }
    #[inline(always)]
    unsafe fn load_u8(from: *const u8) -> F {
        unsafe {
            halves!(p in [from, from.add(8)] => _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(p.cast()))))
        }
    }
    #[inline(always)]
    unsafe fn load_nibbles<const HIGH: bool>(from: *const u8, table: &[i8; 16]) -> F {
        // SAFETY: as the impl says.
        unsafe {
            let bytes = _mm_loadu_si128(from.cast());
            let moved = if HIGH { _mm_srli_epi16::<4>(bytes) } else { bytes };
            let codes = _mm_and_si128(moved, _mm_set1_epi8(15));
            let entries = _mm_shuffle_epi8(_mm_loadu_si128(table.as_ptr().cast()), codes);
            halves!(x in [entries, _mm_srli_si128::<8>(entries)] => _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(x)))
        }
    }
    #[inline(always)]
    unsafe fn add(a: F, b: F) -> F {
        unsafe { halves!(x in a, y in b => _mm256_add_ps(x, y)) }
    }
    #[inline(always)]
    unsafe fn sub(a: F, b: F) -> F {
        unsafe { halves!(x in a, y in b => _mm256_sub_ps(x, y)) }
    }
    #[inline(always)]
    unsafe fn mul(a: F, b: F) -> F {
        unsafe { halves!(x in a, y in b => _mm256_mul_ps(x, y)) }
    }
    #[inline(always)]
    unsafe fn div(a: F, b: F) -> F {
        unsafe { halves!(x in a, y in b => _mm256_div_ps(x, y)) }
    }
    #[inline(always)]
    unsafe fn fma(a: F, b: F, c: F) -> F {
        unsafe { [_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])] }
    }
    #[inline(always)]
    unsafe fn max(a: F, b: F) -> F {
        unsafe { halves!(x in a, y in b => _mm256_max_ps(x, y)) }
    }
    #[inline(always)]
    unsafe fn min(a: F, b: F) -> F {
        unsafe { halves!(x in a, y in b => _mm256_min_ps(x, y)) }
    }
    #[inline(always)]
    unsafe fn abs(a: F) -> F {
        unsafe { halves!(x in a => _mm256_andnot_ps(_mm256_set1_ps(-0.0), x)) }
    }
    #[inline(always)]
    unsafe fn round(a: F) -> F {
        unsafe { halves!(x in a => _mm256_round_ps::<EXACT>(x)) }
    }
    #[inline(always)]
    unsafe fn sum(a: F) -> f32 {
        unsafe { sum_halves(a[0], a[1]) }
    }
    #[inline(always)]
    unsafe fn largest(a: F) -> f32 {
        unsafe { largest_halves(a[0], a[1]) }
    }
    #[inline(always)]
    unsafe fn exp2_whole(n: F) -> F {
        // SAFETY: as the impl says.
        unsafe {
            halves!(x in n => {
            let biased = _mm256_add_epi32(_mm256_cvttps_epi32(x), _mm256_set1_epi32(127));
            _mm256_castsi256_ps(_mm256_slli_epi32::<23>(biased))
            })
        }
    }
    #[inline(always)]
    unsafe fn i_splat(x: i32) -> I {
        unsafe { [_mm256_set1_epi32(x); 2] }
    }
    #[inline(always)]
    unsafe fn i_shift_left<const SHIFT: u32>(a: I) -> I {
        unsafe { halves!(x in a => _mm256_sll_epi32(x, _mm_cvtsi32_si128(SHIFT as i32))) }
    }
    #[inline(always)]
    unsafe fn i_to_f(a: I) -> F {
        unsafe { halves!(x in a => _mm256_cvtepi32_ps(x)) }
    }
    #[inline(always)]
    unsafe fn f_to_i(a: F) -> I {
        unsafe { halves!(x in a => _mm256_cvttps_epi32(x)) }
    }
    #[inline(always)]
    unsafe fn i_store_i8(to: *mut i8, a: I) {
        // SAFETY: as the impl says.
        unsafe {
            // Packing works within 128-bit halves: put the quarters back in order afterwards.
            let words = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packs_epi32(a[0], a[1]));
            let bytes = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packs_epi16(words, words));
            _mm_storeu_si128(to.cast(), _mm256_castsi256_si128(bytes));
        }
    }
    #[inline(always)]
    unsafe fn prefetch(address: *const u8) {
        unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) }
    }
    #[inline(always)]
    unsafe fn b_load(from: *const u8) -> I {
        unsafe { halves!(p in [from, from.add(32)] => _mm256_loadu_si256(p.cast())) }
    }
    #[inline(always)]
    unsafe fn b_table(from: &[u8; 16]) -> I {
        unsafe { [_mm256_broadcastsi128_si256(_mm_loadu_si128(from.as_ptr().cast())); 2] }
    }
    #[inline(always)]
    unsafe fn b_splat(x: u8) -> I {
        unsafe { [_mm256_set1_epi8(x as i8); 2] }
    }
    #[inline(always)]
    unsafe fn b_sub(a: I, b: I) -> I {
        unsafe { halves!(a in a, b in b => _mm256_sub_epi8(a, b)) }
    }
    #[inline(always)]
    unsafe fn b_low(a: I) -> I {
        unsafe { halves!(x in a => _mm256_and_si256(x, _mm256_set1_epi8(15))) }
    }
    #[inline(always)]
    unsafe fn b_high(a: I) -> I {
        unsafe { halves!(x in a => _mm256_and_si256(_mm256_srli_epi16::<4>(x), _mm256_set1_epi8(15))) }
    }
    #[inline(always)]
    unsafe fn b_plane1(nibbles: I, mask: u64) -> I {
        // SAFETY: as the impl says.
        unsafe {
            halves!(x in nibbles, m in [mask as u32, (mask >> 32) as u32] => {
            // Byte i gets mask byte i/8, then its own bit of it.
            let spread = _mm256_shuffle_epi8(
                _mm256_set1_epi32(m as i32),
                _mm256_setr_epi64x(0, 0x0101_0101_0101_0101, 0x0202_0202_0202_0202, 0x0303_0303_0303_0303),
            );
            let bit = _mm256_set1_epi64x(0x8040_2010_0804_0201u64 as i64);
            let set = _mm256_cmpeq_epi8(_mm256_and_si256(spread, bit), bit);
            _mm256_or_si256(x, _mm256_and_si256(set, _mm256_set1_epi8(16)))
            })
        }
    }
    #[inline(always)]
    unsafe fn b_plane2<const PAIR: u32>(nibbles: I, plane: I) -> I {
        // SAFETY: as the impl says.
        unsafe {
            halves!(x in nibbles, p in plane => {
            let moved = match PAIR {
                0 => _mm256_slli_epi16::<4>(p),
                1 => _mm256_slli_epi16::<2>(p),
                2 => p,
                _ => _mm256_srli_epi16::<2>(p),
            };
            _mm256_or_si256(x, _mm256_and_si256(moved, _mm256_set1_epi8(0x30)))
            })
        }
    }
    #[inline(always)]
    unsafe fn b_lookup(nibbles: I, table: I) -> I {
        unsafe { halves!(x in nibbles, t in table => _mm256_shuffle_epi8(t, x)) }
    }
    #[inline(always)]
    unsafe fn dot16<const BITS: u32>(acc: I, w: [I; 4], x: *const i8) -> I {
        // SAFETY: as the impl says; the trait's bounds on weights and activations keep 16-bit sums whole.
        unsafe {
            let x: [__m256i; 4] = [
                _mm256_set1_epi32(x.cast::<i32>().read_unaligned()),
                _mm256_set1_epi32(x.cast::<i32>().add(1).read_unaligned()),
                _mm256_set1_epi32(x.cast::<i32>().add(2).read_unaligned()),
                _mm256_set1_epi32(x.cast::<i32>().add(3).read_unaligned()),
            ];
            let (low, high) = (w.map(|w| w[0]), w.map(|w| w[1]));
            if VNNI {
                return [dot16_vnni(acc[0], low, x), dot16_vnni(acc[1], high, x)];
            }
            let low = products16::<BITS>(low, x);
            let high = products16::<BITS>(high, x);
            [_mm256_add_epi32(acc[0], low), _mm256_add_epi32(acc[1], high)]
        }
    }
}

/// acc + the dot products of eight rows with 16 values, of which `x` has four each, repeated.
///
/// # Safety
/// The CPU has AVX-VNNI.
#[inline(always)]
unsafe fn dot16_vnni(acc: __m256i, w: [__m256i; 4], x: [__m256i; 4]) -> __m256i {
    // SAFETY: as the caller vouches.
    unsafe {
        let acc = _mm256_dpbusd_avx_epi32(_mm256_dpbusd_avx_epi32(acc, w[0], x[0]), w[1], x[1]);
        _mm256_dpbusd_avx_epi32(_mm256_dpbusd_avx_epi32(acc, w[2], x[2]), w[3], x[3])
    }
}

/// The dot products of eight rows with 16 values, of which `x` has four each, repeated.
///
/// `maddubs` adds two products into 16 bits. Sums stay there as long as they fit: |x| ≤ 127, so two of
/// 4 bits are at most 3810, of 5 bits 7874, of 6 bits 16002, and of signed bytes 32512.
///
/// # Safety
/// The CPU has AVX2.
#[inline(always)]
unsafe fn products16<const BITS: u32>(w: [__m256i; 4], x: [__m256i; 4]) -> __m256i {
    // SAFETY: as the caller vouches.
    unsafe {
        let ones = _mm256_set1_epi16(1);
        if BITS <= 6 {
            let first = _mm256_add_epi16(_mm256_maddubs_epi16(w[0], x[0]), _mm256_maddubs_epi16(w[1], x[1]));
            let second = _mm256_add_epi16(_mm256_maddubs_epi16(w[2], x[2]), _mm256_maddubs_epi16(w[3], x[3]));
            if BITS <= 5 {
                return _mm256_madd_epi16(_mm256_add_epi16(first, second), ones);
            }
            return _mm256_add_epi32(_mm256_madd_epi16(first, ones), _mm256_madd_epi16(second, ones));
        }
        macro_rules! signed {
            ($v:literal) => {{
                // w − 128 as a magnitude, its sign given to x.
                let signed = _mm256_xor_si256(w[$v], _mm256_set1_epi8(-128));
                let product = _mm256_maddubs_epi16(_mm256_abs_epi8(signed), _mm256_sign_epi8(x[$v], signed));
                _mm256_madd_epi16(product, ones)
            }};
        }
        let first = _mm256_add_epi32(signed!(0), signed!(1));
        _mm256_add_epi32(first, _mm256_add_epi32(signed!(2), signed!(3)))
    }
}
