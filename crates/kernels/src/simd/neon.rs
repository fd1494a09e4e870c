//! NEON of AArch64, with and without its dot products: four 128-bit quarters, four rows of a panel each.
//!
//! Rust's intrinsics for dot products, prefetching and (before 1.94) f16 are not stable, so these are one line of
//! assembly each.

use std::arch::aarch64::*;
use std::arch::asm;

use super::Simd;

/// Which dot products there are: [`BASELINE`], [`DOTPROD`] or [`I8MM`].
#[derive(Clone, Copy, Debug)]
pub struct Neon<const DOTS: u32>;

/// None: products of bytes into 16 bits.
pub const BASELINE: u32 = 0;
/// Armv8.2 `dotprod`: signed bytes with signed bytes.
pub const DOTPROD: u32 = 1;
/// Armv8.6 `i8mm`: unsigned bytes with signed bytes too.
pub const I8MM: u32 = 2;

type F = [float32x4_t; 4];
type I = [int32x4_t; 4];
type B = [uint8x16_t; 4];

/// The same expression for all quarters. A macro: a closure would not have the features that its intrinsics
/// need, and calls instead of instructions would remain.
macro_rules! quarters {
    ($i:ident => $body:expr) => {
        [
            {
                let $i = 0;
                $body
            },
            {
                let $i = 1;
                $body
            },
            {
                let $i = 2;
                $body
            },
            {
                let $i = 3;
                $body
            },
        ]
    };
}

// SAFETY: each method uses only the named instruction sets, and pointers as the trait says.
#[allow(clippy::undocumented_unsafe_blocks)] // one-line wrappers under the impl's argument
unsafe impl<const DOTS: u32> Simd for Neon<DOTS> {
    type F = F;
    type I = I;
    type B = B;
    // Thirty-two registers: 2 columns × (4 sums of i32 + 4 of f32), four vectors of weights on their way.
    const COLUMNS_MAX: usize = 2;
    const HAS_REGISTERS: bool = true;
    const ROW_VECTORS: usize = 1;
    const UNPACKS: bool = true;
    // Only i8mm multiplies unsigned bytes.
    const CENTERED: bool = DOTS != I8MM;

    #[inline(always)]
    unsafe fn splat(x: f32) -> F {
        unsafe { [vdupq_n_f32(x); 4] }
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> F {
        unsafe { quarters!(i => vld1q_f32(from.add(4 * i))) }
    }
    #[inline(always)]
    unsafe fn store(to: *mut f32, x: F) {
        unsafe {
            quarters!(i => vst1q_f32(to.add(4 * i), x[i]));
        }
    }
    #[inline(always)]
    unsafe fn load_f16(from: *const u16) -> F {
        unsafe { quarters!(i => from_f16(vld1_u16(from.add(4 * i)))) }
    }
    #[inline(always)]
    unsafe fn store_f16(to: *mut u16, x: F) {
        unsafe {
            quarters!(i => vst1_u16(to.add(4 * i), to_f16(x[i])));
        }
    }
    #[inline(always)]
    unsafe fn load_i8(from: *const i8) -> F {
        unsafe { from_i8(vld1q_s8(from)) }
    }
    #[inline(always)]
    unsafe fn load_u8(from: *const u8) -> F {
        // SAFETY: as the impl says.
        unsafe {
            let bytes = vld1q_u8(from);
            let (low, high) = (vmovl_u8(vget_low_u8(bytes)), vmovl_high_u8(bytes));
            [
                vcvtq_f32_u32(vmovl_u16(vget_low_u16(low))),
                vcvtq_f32_u32(vmovl_high_u16(low)),
                vcvtq_f32_u32(vmovl_u16(vget_low_u16(high))),
                vcvtq_f32_u32(vmovl_high_u16(high)),
            ]
        }
    }
    #[inline(always)]
    unsafe fn load_nibbles<const HIGH: bool>(from: *const u8, table: &[i8; 16]) -> F {
        // SAFETY: as the impl says.
        unsafe {
            let bytes = vld1q_u8(from);
            let codes = if HIGH { vshrq_n_u8::<4>(bytes) } else { vandq_u8(bytes, vdupq_n_u8(15)) };
            from_i8(vqtbl1q_s8(vld1q_s8(table.as_ptr()), codes))
        }
    }
    #[inline(always)]
    unsafe fn add(a: F, b: F) -> F {
        unsafe { quarters!(i => vaddq_f32(a[i], b[i])) }
    }
    #[inline(always)]
    unsafe fn sub(a: F, b: F) -> F {
        unsafe { quarters!(i => vsubq_f32(a[i], b[i])) }
    }
    #[inline(always)]
    unsafe fn mul(a: F, b: F) -> F {
        unsafe { quarters!(i => vmulq_f32(a[i], b[i])) }
    }
    #[inline(always)]
    unsafe fn div(a: F, b: F) -> F {
        unsafe { quarters!(i => vdivq_f32(a[i], b[i])) }
    }
    #[inline(always)]
    unsafe fn fma(a: F, b: F, c: F) -> F {
        unsafe { quarters!(i => vfmaq_f32(c[i], a[i], b[i])) }
    }
    #[inline(always)]
    unsafe fn max(a: F, b: F) -> F {
        // Not vmaxq, which hands NaNs on.
        unsafe { quarters!(i => vbslq_f32(vcgtq_f32(a[i], b[i]), a[i], b[i])) }
    }
    #[inline(always)]
    unsafe fn min(a: F, b: F) -> F {
        unsafe { quarters!(i => vbslq_f32(vcltq_f32(a[i], b[i]), a[i], b[i])) }
    }
    #[inline(always)]
    unsafe fn abs(a: F) -> F {
        unsafe { quarters!(i => vabsq_f32(a[i])) }
    }
    #[inline(always)]
    unsafe fn round(a: F) -> F {
        unsafe { quarters!(i => vrndnq_f32(a[i])) }
    }
    #[inline(always)]
    unsafe fn sum(a: F) -> f32 {
        // SAFETY: as the impl says.
        unsafe {
            let four = vaddq_f32(vaddq_f32(a[0], a[2]), vaddq_f32(a[1], a[3]));
            let two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
            vget_lane_f32::<0>(two) + vget_lane_f32::<1>(two)
        }
    }
    #[inline(always)]
    unsafe fn largest(a: F) -> f32 {
        // SAFETY: as the impl says.
        unsafe {
            let larger = |x: f32, y: f32| if x > y { x } else { y };
            let low =
                [vbslq_f32(vcgtq_f32(a[0], a[2]), a[0], a[2]), vbslq_f32(vcgtq_f32(a[1], a[3]), a[1], a[3])];
            let four = vbslq_f32(vcgtq_f32(low[0], low[1]), low[0], low[1]);
            let (low, high) = (vget_low_f32(four), vget_high_f32(four));
            let two = vbsl_f32(vcgt_f32(low, high), low, high);
            larger(vget_lane_f32::<0>(two), vget_lane_f32::<1>(two))
        }
    }
    #[inline(always)]
    unsafe fn exp2_whole(n: F) -> F {
        unsafe {
            let bias = vdupq_n_s32(127);
            quarters!(i => vreinterpretq_f32_s32(vshlq_n_s32::<23>(vaddq_s32(vcvtq_s32_f32(n[i]), bias))))
        }
    }
    #[inline(always)]
    unsafe fn i_splat(x: i32) -> I {
        unsafe { [vdupq_n_s32(x); 4] }
    }
    #[inline(always)]
    unsafe fn i_shift_left<const SHIFT: u32>(a: I) -> I {
        unsafe { quarters!(i => vshlq_s32(a[i], vdupq_n_s32(SHIFT as i32))) }
    }
    #[inline(always)]
    unsafe fn i_to_f(a: I) -> F {
        unsafe { quarters!(i => vcvtq_f32_s32(a[i])) }
    }
    #[inline(always)]
    unsafe fn f_to_i(a: F) -> I {
        unsafe { quarters!(i => vcvtq_s32_f32(a[i])) }
    }
    #[inline(always)]
    unsafe fn i_store_i8(to: *mut i8, a: I) {
        // SAFETY: as the impl says.
        unsafe {
            let low = vcombine_s16(vmovn_s32(a[0]), vmovn_s32(a[1]));
            let high = vcombine_s16(vmovn_s32(a[2]), vmovn_s32(a[3]));
            vst1q_s8(to, vcombine_s8(vmovn_s16(low), vmovn_s16(high)));
        }
    }
    #[inline(always)]
    unsafe fn prefetch(address: *const u8) {
        unsafe {
            asm!("prfm pldl1keep, [{}]", in(reg) address, options(nostack, preserves_flags, readonly));
        }
    }
    #[inline(always)]
    unsafe fn b_load(from: *const u8) -> B {
        unsafe { quarters!(i => vld1q_u8(from.add(16 * i))) }
    }
    #[inline(always)]
    unsafe fn b_table(from: &[u8; 16]) -> B {
        unsafe { [vld1q_u8(from.as_ptr()); 4] }
    }
    #[inline(always)]
    unsafe fn b_splat(x: u8) -> B {
        unsafe { [vdupq_n_u8(x); 4] }
    }
    #[inline(always)]
    unsafe fn b_sub(a: B, b: B) -> B {
        unsafe { quarters!(i => vsubq_u8(a[i], b[i])) }
    }
    #[inline(always)]
    unsafe fn b_low(a: B) -> B {
        unsafe { quarters!(i => vandq_u8(a[i], vdupq_n_u8(15))) }
    }
    #[inline(always)]
    unsafe fn b_high(a: B) -> B {
        unsafe { quarters!(i => vshrq_n_u8::<4>(a[i])) }
    }
    #[inline(always)]
    unsafe fn b_plane1(nibbles: B, mask: u64) -> B {
        // SAFETY: as the impl says.
        unsafe {
            // Byte j gets its mask byte, then its own bit of it.
            let bit = vreinterpretq_u8_u64(vdupq_n_u64(0x8040_2010_0804_0201));
            quarters!(i => {
                let bytes = (mask >> (16 * i)).to_le_bytes();
                let spread = vcombine_u8(vdup_n_u8(bytes[0]), vdup_n_u8(bytes[1]));
                vorrq_u8(nibbles[i], vandq_u8(vtstq_u8(spread, bit), vdupq_n_u8(16)))
            })
        }
    }
    #[inline(always)]
    unsafe fn b_plane2<const PAIR: u32>(nibbles: B, plane: B) -> B {
        // SAFETY: as the impl says.
        unsafe {
            quarters!(i => {
                let moved = match PAIR {
                    0 => vshlq_n_u8::<4>(plane[i]),
                    1 => vshlq_n_u8::<2>(plane[i]),
                    2 => plane[i],
                    _ => vshrq_n_u8::<2>(plane[i]),
                };
                vorrq_u8(nibbles[i], vandq_u8(moved, vdupq_n_u8(0x30)))
            })
        }
    }
    #[inline(always)]
    unsafe fn b_lookup(nibbles: B, table: B) -> B {
        unsafe { quarters!(i => vqtbl1q_u8(table[i], nibbles[i])) }
    }
    #[inline(always)]
    unsafe fn dot16<const BITS: u32>(acc: I, w: [B; 4], x: *const i8) -> I {
        // SAFETY: as the impl says.
        unsafe {
            if DOTS == BASELINE {
                return quarters!(i => {
                    let four = [w[0][i], w[1][i], w[2][i], w[3][i]];
                    vaddq_s32(acc[i], products16::<BITS>(four, x))
                });
            }
            let x = vld1q_s8(x);
            quarters!(i => {
                let sum = dot4::<DOTS, BITS, 0>(acc[i], w[0][i], x);
                let sum = dot4::<DOTS, BITS, 1>(sum, w[1][i], x);
                let sum = dot4::<DOTS, BITS, 2>(sum, w[2][i], x);
                dot4::<DOTS, BITS, 3>(sum, w[3][i], x)
            })
        }
    }
}

/// Sixteen bytes as floats.
///
/// # Safety
/// None beyond NEON.
#[inline(always)]
unsafe fn from_i8(bytes: int8x16_t) -> F {
    // SAFETY: NEON is part of AArch64.
    unsafe {
        let (low, high) = (vmovl_s8(vget_low_s8(bytes)), vmovl_high_s8(bytes));
        [
            vcvtq_f32_s32(vmovl_s16(vget_low_s16(low))),
            vcvtq_f32_s32(vmovl_high_s16(low)),
            vcvtq_f32_s32(vmovl_s16(vget_low_s16(high))),
            vcvtq_f32_s32(vmovl_high_s16(high)),
        ]
    }
}

/// Four f16, as bits, as floats.
///
/// # Safety
/// None beyond NEON.
#[inline(always)]
unsafe fn from_f16(bits: uint16x4_t) -> float32x4_t {
    let floats: float32x4_t;
    // SAFETY: the instruction is part of AArch64 and touches only its operands.
    unsafe {
        asm!(
            "fcvtl {floats:v}.4s, {bits:v}.4h",
            floats = out(vreg) floats, bits = in(vreg) bits,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    floats
}

/// Four floats as f16, rounded to nearest even.
///
/// # Safety
/// None beyond NEON.
#[inline(always)]
unsafe fn to_f16(floats: float32x4_t) -> uint16x4_t {
    let bits: uint16x4_t;
    // SAFETY: as above.
    unsafe {
        asm!(
            "fcvtn {bits:v}.4h, {floats:v}.4s",
            bits = out(vreg) bits, floats = in(vreg) floats,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    bits
}

/// w − 128 as signed bytes.
///
/// # Safety
/// None beyond NEON.
#[inline(always)]
unsafe fn centered(w: uint8x16_t) -> int8x16_t {
    // SAFETY: NEON is part of AArch64.
    unsafe { vreinterpretq_s8_u8(veorq_u8(w, vdupq_n_u8(128))) }
}

/// acc + the dot products of four rows with values `4 · LANE..` of `x`.
///
/// # Safety
/// The CPU has `dotprod`, and i8mm if `DOTS` says so; the function that this is inlined into enables them.
#[inline(always)]
unsafe fn dot4<const DOTS: u32, const BITS: u32, const LANE: usize>(
    mut acc: int32x4_t,
    w: uint8x16_t,
    x: int8x16_t,
) -> int32x4_t {
    // SAFETY: the instructions are there, touch only their operands, and set no flags.
    unsafe {
        if DOTS == I8MM && BITS == 8 {
            asm!(
                "usdot {acc:v}.4s, {w:v}.16b, {x:v}.4b[{lane}]",
                acc = inout(vreg) acc, w = in(vreg) w, x = in(vreg) x, lane = const LANE,
                options(pure, nomem, nostack, preserves_flags)
            );
        } else {
            let w = if BITS == 8 { centered(w) } else { vreinterpretq_s8_u8(w) };
            asm!(
                "sdot {acc:v}.4s, {w:v}.16b, {x:v}.4b[{lane}]",
                acc = inout(vreg) acc, w = in(vreg) w, x = in(vreg) x, lane = const LANE,
                options(pure, nomem, nostack, preserves_flags)
            );
        }
    }
    acc
}

/// The dot products of four rows with the 16 values at `x`, without dot-product instructions.
///
/// Products of four vectors are added in 16 bits as long as they fit: |x| ≤ 127, so four of 6 bits are at
/// most 32004, and two of signed bytes 32512.
///
/// # Safety
/// 16 values at `x`.
#[inline(always)]
unsafe fn products16<const BITS: u32>(w: [uint8x16_t; 4], x: *const i8) -> int32x4_t {
    // SAFETY: NEON is part of AArch64; the caller vouches for `x`.
    unsafe {
        let x = vreinterpretq_s32_s8(vld1q_s8(x));
        let x = [
            vreinterpretq_s8_s32(vdupq_laneq_s32::<0>(x)),
            vreinterpretq_s8_s32(vdupq_laneq_s32::<1>(x)),
            vreinterpretq_s8_s32(vdupq_laneq_s32::<2>(x)),
            vreinterpretq_s8_s32(vdupq_laneq_s32::<3>(x)),
        ];
        let w = quarters!(v => if BITS == 8 { centered(w[v]) } else { vreinterpretq_s8_u8(w[v]) });
        // Of two rows each: four sums of 16 bits per row.
        let low =
            vmlal_s8(vmull_s8(vget_low_s8(w[0]), vget_low_s8(x[0])), vget_low_s8(w[1]), vget_low_s8(x[1]));
        let high = vmlal_high_s8(vmull_high_s8(w[0], x[0]), w[1], x[1]);
        if BITS <= 6 {
            let low = vmlal_s8(low, vget_low_s8(w[2]), vget_low_s8(x[2]));
            let low = vmlal_s8(low, vget_low_s8(w[3]), vget_low_s8(x[3]));
            let high = vmlal_high_s8(vmlal_high_s8(high, w[2], x[2]), w[3], x[3]);
            return vpaddq_s32(vpaddlq_s16(low), vpaddlq_s16(high));
        }
        let rest =
            vmlal_s8(vmull_s8(vget_low_s8(w[2]), vget_low_s8(x[2])), vget_low_s8(w[3]), vget_low_s8(x[3]));
        let low = vpadalq_s16(vpaddlq_s16(low), rest);
        let rest = vmlal_high_s8(vmull_high_s8(w[2], x[2]), w[3], x[3]);
        vpaddq_s32(low, vpadalq_s16(vpaddlq_s16(high), rest))
    }
}
