//! AVX-512 with VNNI: one instruction per operation.

use std::arch::x86_64::*;

use super::Simd;
use super::avx2::{largest_halves, sum_halves};

/// AVX-512 F, BW, VL and VNNI.
#[derive(Clone, Copy, Debug)]
pub struct Avx512;

const EXACT: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;

// SAFETY: each method uses only the named instruction set, and pointers as the trait says.
#[allow(clippy::undocumented_unsafe_blocks)] // one-line wrappers under the impl's argument
unsafe impl Simd for Avx512 {
    type F = __m512;
    type I = __m512i;
    type B = __m512i;
    const COLUMNS_MAX: usize = 8;
    const UNPACKS: bool = false;
    const CENTERED: bool = false;
    const HAS_REGISTERS: bool = true;
    const ROW_VECTORS: usize = 4;

    #[inline(always)]
    unsafe fn splat(x: f32) -> __m512 {
        unsafe { _mm512_set1_ps(x) }
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> __m512 {
        unsafe { _mm512_loadu_ps(from) }
    }
    #[inline(always)]
    unsafe fn store(to: *mut f32, x: __m512) {
        unsafe { _mm512_storeu_ps(to, x) }
    }
    #[inline(always)]
    unsafe fn load_f16(from: *const u16) -> __m512 {
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(from.cast())) }
    }
    #[inline(always)]
    unsafe fn store_f16(to: *mut u16, x: __m512) {
        unsafe { _mm256_storeu_si256(to.cast(), _mm512_cvtps_ph::<EXACT>(x)) }
    }
    #[inline(always)]
    unsafe fn load_i8(from: *const i8) -> __m512 {
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(from.cast()))) }
    }
    #[inline(always)]
    unsafe fn load_u8(from: *const u8) -> __m512 {
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(from.cast()))) }
    }
    #[inline(always)]
    unsafe fn load_nibbles<const HIGH: bool>(from: *const u8, table: &[i8; 16]) -> __m512 {
        // SAFETY: as the impl says.
        unsafe {
            // The permutation looks at the low four bits of its indices only.
            let codes = _mm512_cvtepu8_epi32(_mm_loadu_si128(from.cast()));
            let codes = if HIGH { _mm512_srli_epi32::<4>(codes) } else { codes };
            _mm512_permutexvar_ps(codes, Self::load_i8(table.as_ptr()))
        }
    }
    #[inline(always)]
    unsafe fn add(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_add_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn sub(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_sub_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn mul(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_mul_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn div(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_div_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn fma(a: __m512, b: __m512, c: __m512) -> __m512 {
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    unsafe fn max(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_max_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn min(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_min_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn abs(a: __m512) -> __m512 {
        unsafe { _mm512_abs_ps(a) }
    }
    #[inline(always)]
    unsafe fn round(a: __m512) -> __m512 {
        unsafe { _mm512_roundscale_ps::<EXACT>(a) }
    }
    #[inline(always)]
    unsafe fn sum(a: __m512) -> f32 {
        unsafe {
            let high = _mm512_extractf32x8_ps::<1>(a);
            sum_halves(_mm512_castps512_ps256(a), high)
        }
    }
    #[inline(always)]
    unsafe fn largest(a: __m512) -> f32 {
        unsafe {
            let high = _mm512_extractf32x8_ps::<1>(a);
            largest_halves(_mm512_castps512_ps256(a), high)
        }
    }
    #[inline(always)]
    unsafe fn exp2_whole(n: __m512) -> __m512 {
        // SAFETY: as the impl says.
        unsafe {
            let biased = _mm512_add_epi32(_mm512_cvttps_epi32(n), _mm512_set1_epi32(127));
            _mm512_castsi512_ps(_mm512_slli_epi32::<23>(biased))
        }
    }
    #[inline(always)]
    unsafe fn i_splat(x: i32) -> __m512i {
        unsafe { _mm512_set1_epi32(x) }
    }
    #[inline(always)]
    unsafe fn i_shift_left<const SHIFT: u32>(a: __m512i) -> __m512i {
        unsafe { _mm512_slli_epi32::<SHIFT>(a) }
    }
    #[inline(always)]
    unsafe fn i_to_f(a: __m512i) -> __m512 {
        unsafe { _mm512_cvtepi32_ps(a) }
    }
    #[inline(always)]
    unsafe fn f_to_i(a: __m512) -> __m512i {
        unsafe { _mm512_cvttps_epi32(a) }
    }
    #[inline(always)]
    unsafe fn i_store_i8(to: *mut i8, a: __m512i) {
        // SAFETY: as the impl says.
        unsafe { _mm_storeu_si128(to.cast(), _mm512_cvtepi32_epi8(a)) }
    }
    #[inline(always)]
    unsafe fn prefetch(address: *const u8) {
        unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) }
    }
    #[inline(always)]
    unsafe fn b_load(from: *const u8) -> __m512i {
        unsafe { _mm512_loadu_si512(from.cast()) }
    }
    #[inline(always)]
    unsafe fn b_table(from: &[u8; 16]) -> __m512i {
        unsafe { _mm512_broadcast_i32x4(_mm_loadu_si128(from.as_ptr().cast())) }
    }
    #[inline(always)]
    unsafe fn b_splat(x: u8) -> __m512i {
        unsafe { _mm512_set1_epi8(x as i8) }
    }
    #[inline(always)]
    unsafe fn b_sub(a: __m512i, b: __m512i) -> __m512i {
        unsafe { _mm512_sub_epi8(a, b) }
    }
    #[inline(always)]
    unsafe fn b_low(a: __m512i) -> __m512i {
        unsafe { _mm512_and_si512(a, _mm512_set1_epi8(15)) }
    }
    #[inline(always)]
    unsafe fn b_high(a: __m512i) -> __m512i {
        unsafe { _mm512_and_si512(_mm512_srli_epi16::<4>(a), _mm512_set1_epi8(15)) }
    }
    #[inline(always)]
    unsafe fn b_plane1(nibbles: __m512i, mask: u64) -> __m512i {
        // SAFETY: as the impl says.
        unsafe { _mm512_mask_add_epi8(nibbles, mask, nibbles, _mm512_set1_epi8(16)) }
    }
    #[inline(always)]
    unsafe fn b_plane2<const PAIR: u32>(nibbles: __m512i, plane: __m512i) -> __m512i {
        // SAFETY: as the impl says.
        unsafe {
            let moved = match PAIR {
                0 => _mm512_slli_epi16::<4>(plane),
                1 => _mm512_slli_epi16::<2>(plane),
                2 => plane,
                _ => _mm512_srli_epi16::<2>(plane),
            };
            // nibbles | (moved & 0x30)
            _mm512_ternarylogic_epi32::<0xF8>(nibbles, moved, _mm512_set1_epi8(0x30))
        }
    }
    #[inline(always)]
    unsafe fn b_lookup(nibbles: __m512i, table: __m512i) -> __m512i {
        unsafe { _mm512_shuffle_epi8(table, nibbles) }
    }
    #[inline(always)]
    unsafe fn dot16<const BITS: u32>(mut acc: __m512i, w: [__m512i; 4], x: *const i8) -> __m512i {
        // SAFETY: as the impl says.
        unsafe {
            for (v, w) in w.into_iter().enumerate() {
                acc = _mm512_dpbusd_epi32(acc, w, _mm512_set1_epi32(x.cast::<i32>().add(v).read_unaligned()));
            }
            acc
        }
    }
}
