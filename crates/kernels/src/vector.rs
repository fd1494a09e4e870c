//! Element-wise operations and norms, written once over [`Simd`].

// Register tiles are indexed by constants; iterators would hide the tiling.
#![allow(clippy::needless_range_loop)]

use crate::probe::DOT_CHAINS;
use crate::simd::{LANES, Simd, exp};

/// The first `length` (1 to 16) values at `from`, the rest zero.
///
/// # Safety
/// The instruction set is there and the values exist.
#[inline(always)]
unsafe fn load_part<S: Simd>(from: *const f32, length: usize) -> S::F {
    // SAFETY: reads `length` values, writes within the array.
    unsafe {
        if length >= LANES {
            return S::load(from);
        }
        let mut lanes = [0f32; LANES];
        std::ptr::copy_nonoverlapping(from, lanes.as_mut_ptr(), length);
        S::load(lanes.as_ptr())
    }
}

/// Writes the first `length` (1 to 16) lanes.
///
/// # Safety
/// The instruction set and the room are there.
#[inline(always)]
unsafe fn store_part<S: Simd>(to: *mut f32, x: S::F, length: usize) {
    // SAFETY: writes `length` values.
    unsafe {
        if length >= LANES {
            return S::store(to, x);
        }
        let mut lanes = [0f32; LANES];
        S::store(lanes.as_mut_ptr(), x);
        std::ptr::copy_nonoverlapping(lanes.as_ptr(), to, length);
    }
}

/// Does `body` with `at` and `n` for each piece of up to 16 values. A macro: closures do not get the
/// target features of the function around them, so their intrinsics would become calls.
macro_rules! pieces {
    ($length:expr, |$at:ident, $n:ident| $body:block) => {{
        let length: usize = $length;
        let mut $at = 0;
        while $at + LANES <= length {
            let $n = LANES;
            $body
            $at += LANES;
        }
        if $at < length {
            let $n = length - $at;
            $body
        }
    }};
}

/// out = x / rms(x) · weight, rms² = mean(x²) + epsilon (Zhang & Sennrich 2019).
///
/// # Safety
/// The instruction set is there.
#[inline(always)]
pub(crate) unsafe fn rms_norm<S: Simd>(x: &[f32], weight: &[f32], epsilon: f32, out: &mut [f32]) {
    assert!(weight.len() == x.len() && out.len() == x.len());
    // SAFETY: both hold as many values as the weight.
    unsafe { norm_pointers::<S>(x.as_ptr(), weight, epsilon, out.as_mut_ptr()) }
}

/// [`rms_norm`] in place.
///
/// # Safety
/// The instruction set is there.
#[inline(always)]
pub(crate) unsafe fn rms_norm_in_place<S: Simd>(x: &mut [f32], weight: &[f32], epsilon: f32) {
    assert!(weight.len() == x.len());
    let start = x.as_mut_ptr();
    // SAFETY: `x` holds as many values as the weight; each is read before it is written.
    unsafe { norm_pointers::<S>(start, weight, epsilon, start) }
}

/// # Safety
/// As [`rms_norm`]; `x` and `out` hold `weight.len()` values and are the same or apart.
#[inline(always)]
unsafe fn norm_pointers<S: Simd>(x: *const f32, weight: &[f32], epsilon: f32, out: *mut f32) {
    // SAFETY: pieces lie within the values, as the caller vouches.
    unsafe {
        let mut squares = S::splat(0.0);
        pieces!(weight.len(), |at, n| {
            let v = load_part::<S>(x.add(at), n);
            squares = S::fma(v, v, squares);
        });
        let mean = S::sum(squares) / weight.len() as f32;
        let scale = S::splat(1.0 / (mean + epsilon).sqrt());
        pieces!(weight.len(), |at, n| {
            let v = S::mul(load_part::<S>(x.add(at), n), scale);
            let w = load_part::<S>(weight.as_ptr().add(at), n);
            store_part::<S>(out.add(at), S::mul(v, w), n);
        });
    }
}

/// x / (1 + e^−u)
///
/// # Safety
/// The instruction set is there.
#[inline(always)]
unsafe fn gate<S: Simd>(x: S::F, u: S::F) -> S::F {
    // SAFETY: as the caller vouches.
    unsafe {
        let one = S::splat(1.0);
        S::div(x, S::add(one, exp::<S>(S::sub(S::splat(0.0), u))))
    }
}

/// out = silu(gate) · up, silu(x) = x / (1 + e^−x).
///
/// # Safety
/// The instruction set is there.
#[inline(always)]
pub(crate) unsafe fn silu_mul<S: Simd>(gates: &[f32], up: &[f32], out: &mut [f32]) {
    assert!(gates.len() == up.len() && out.len() == up.len());
    // SAFETY: pieces lie within the slices, whose lengths agree.
    unsafe {
        pieces!(up.len(), |at, n| {
            let x = load_part::<S>(gates.as_ptr().add(at), n);
            let y = S::mul(gate::<S>(x, x), load_part::<S>(up.as_ptr().add(at), n));
            store_part::<S>(out.as_mut_ptr().add(at), y, n);
        });
    }
}

/// out = gelu(gate) · up, with the tanh form of GELU: x · σ(2 √(2/π) (x + 0.044715 x³)).
///
/// # Safety
/// The instruction set is there.
#[inline(always)]
pub(crate) unsafe fn gelu_mul<S: Simd>(gates: &[f32], up: &[f32], out: &mut [f32]) {
    assert!(gates.len() == up.len() && out.len() == up.len());
    const TWICE_SQRT_2_OVER_PI: f32 = 1.595_769;
    // SAFETY: pieces lie within the slices, whose lengths agree.
    unsafe {
        pieces!(up.len(), |at, n| {
            let x = load_part::<S>(gates.as_ptr().add(at), n);
            let cubic = S::fma(S::mul(S::mul(x, x), x), S::splat(0.044_715), x);
            let u = S::mul(cubic, S::splat(TWICE_SQRT_2_OVER_PI));
            let y = S::mul(gate::<S>(x, u), load_part::<S>(up.as_ptr().add(at), n));
            store_part::<S>(out.as_mut_ptr().add(at), y, n);
        });
    }
}

/// x = x + factor · y.
///
/// # Safety
/// The instruction set is there.
#[inline(always)]
pub(crate) unsafe fn add_scaled<S: Simd>(x: &mut [f32], factor: f32, y: &[f32]) {
    assert!(x.len() == y.len());
    // SAFETY: pieces lie within the slices, whose lengths agree.
    unsafe {
        pieces!(y.len(), |at, n| {
            let to = x.as_mut_ptr().add(at);
            let sum = S::fma(load_part::<S>(y.as_ptr().add(at), n), S::splat(factor), load_part::<S>(to, n));
            store_part::<S>(to, sum, n);
        });
    }
}

/// Largest value; −∞ of an empty slice.
///
/// # Safety
/// The instruction set is there.
#[inline(always)]
pub(crate) unsafe fn highest<S: Simd>(x: &[f32]) -> f32 {
    // SAFETY: whole vectors lie within the slice.
    unsafe {
        let mut top = S::splat(f32::NEG_INFINITY);
        let (vectors, rest) = x.as_chunks::<LANES>();
        for v in vectors {
            top = S::max(S::load(v.as_ptr()), top);
        }
        rest.iter().fold(S::largest(top), |a, &b| a.max(b))
    }
}

/// out = e^((x − shift) · factor); returns the sum.
///
/// # Safety
/// The instruction set is there.
#[inline(always)]
pub(crate) unsafe fn exp_shifted<S: Simd>(x: &[f32], (shift, factor): (f32, f32), out: &mut [f32]) -> f64 {
    assert!(out.len() == x.len());
    // Lanes add up this many values in f32 before f64 takes over.
    const STRETCH: usize = 64 * LANES;
    let mut total = 0f64;
    // SAFETY: pieces lie within the slices, whose lengths agree.
    unsafe {
        for (x, out) in x.chunks(STRETCH).zip(out.chunks_mut(STRETCH)) {
            let mut lanes = S::splat(0.0);
            pieces!(x.len(), |at, n| {
                let shifted = S::sub(load_part::<S>(x.as_ptr().add(at), n), S::splat(shift));
                let e = exp::<S>(S::mul(shifted, S::splat(factor)));
                store_part::<S>(out.as_mut_ptr().add(at), e, n);
                // Lanes past the end must not count.
                lanes = S::add(lanes, load_part::<S>(out.as_ptr().add(at), n));
            });
            total += f64::from(S::sum(lanes));
        }
    }
    total
}

/// cap · tanh(x / cap) for one vector.
///
/// # Safety
/// The instruction set is there.
#[inline(always)]
pub(crate) unsafe fn soft_cap_lanes<S: Simd>(x: S::F, cap: f32) -> S::F {
    // SAFETY: as the caller vouches.
    unsafe {
        let e = exp::<S>(S::mul(x, S::splat(2.0 / cap)));
        let tanh = S::sub(S::splat(1.0), S::div(S::splat(2.0), S::add(e, S::splat(1.0))));
        S::mul(tanh, S::splat(cap))
    }
}

/// x = cap · tanh(x / cap) (Gemma 2).
///
/// # Safety
/// The instruction set is there.
#[inline(always)]
pub(crate) unsafe fn soft_cap<S: Simd>(x: &mut [f32], cap: f32) {
    // SAFETY: pieces lie within the slice.
    unsafe {
        pieces!(x.len(), |at, n| {
            let to = x.as_mut_ptr().add(at);
            store_part::<S>(to, soft_cap_lanes::<S>(load_part::<S>(to, n), cap), n);
        });
    }
}

/// `rounds` rounds of independent dot-product steps on registers: the peak of the products' inner loop.
///
/// # Safety
/// The instruction set is there.
#[inline(always)]
pub(crate) unsafe fn dot_loop<S: Simd>(rounds: u64) -> i32 {
    let x = std::hint::black_box([1i8; 16]);
    // SAFETY: arrays hold what is loaded.
    unsafe {
        let weights = S::b_load(std::hint::black_box([1u8; 64]).as_ptr());
        let mut chains = [S::i_splat(0); DOT_CHAINS as usize];
        for _ in 0..rounds {
            for chain in &mut chains {
                // Sets that put the step together from several instructions must do all of them each time:
                // the same operands would let the compiler compute most of it once, before the loop.
                let x = if S::CENTERED { std::hint::black_box(x.as_ptr()) } else { x.as_ptr() };
                *chain = S::dot16::<4>(*chain, [weights; 4], x);
            }
        }
        let total = chains.into_iter().fold(S::splat(0.0), |sum, chain| S::add(sum, S::i_to_f(chain)));
        S::sum(total) as i32
    }
}

/// Inner products of `row` with several columns: output[c] = row · x[c]. Sixteen lanes, then the fixed
/// tree: the same for every number of columns.
///
/// # Safety
/// The instruction set is there; `x` holds `columns` columns of `row.len()` values, `stride` apart, and
/// outputs lie `output_stride` apart.
#[inline(always)]
pub(crate) unsafe fn float_row<S: Simd>(row: &[f32], call: &FloatRow) {
    // SAFETY: within what the caller vouches for.
    unsafe {
        let mut column = 0;
        while column < call.columns {
            let x = call.x.add(column * call.stride);
            let to = call.output.add(column * call.output_stride);
            if column + 4 <= call.columns {
                for (c, sum) in float_columns::<S, 4>(row, x, call.stride).into_iter().enumerate() {
                    *to.add(c * call.output_stride) = sum;
                }
                column += 4;
            } else {
                *to = float_columns::<S, 1>(row, x, call.stride)[0];
                column += 1;
            }
        }
    }
}

/// The columns of [`float_row`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct FloatRow {
    pub x: *const f32,
    pub stride: usize,
    pub columns: usize,
    pub output: *mut f32,
    pub output_stride: usize,
}

/// # Safety
/// As [`float_row`], for `C` columns.
#[inline(always)]
unsafe fn float_columns<S: Simd, const C: usize>(row: &[f32], x: *const f32, stride: usize) -> [f32; C] {
    // SAFETY: as the caller vouches.
    unsafe {
        let mut even = [S::splat(0.0); C];
        let mut odd = [S::splat(0.0); C];
        let pairs = row.len() / (2 * LANES);
        for pair in 0..pairs {
            let at = pair * 2 * LANES;
            let (a, b) = (S::load(row.as_ptr().add(at)), S::load(row.as_ptr().add(at + LANES)));
            for c in 0..C {
                let x = x.add(c * stride + at);
                even[c] = S::fma(a, S::load(x), even[c]);
                odd[c] = S::fma(b, S::load(x.add(LANES)), odd[c]);
            }
        }
        let rest = pairs * 2 * LANES;
        pieces!(row.len() - rest, |at, n| {
            let a = load_part::<S>(row.as_ptr().add(rest + at), n);
            for c in 0..C {
                even[c] = S::fma(a, load_part::<S>(x.add(c * stride + rest + at), n), even[c]);
            }
        });
        let mut sums = [0f32; C];
        for c in 0..C {
            sums[c] = S::sum(S::add(even[c], odd[c]));
        }
        sums
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use crate::isa::Isa;

    fn close(got: f32, want: f64) -> bool {
        (f64::from(got) - want).abs() <= 1e-5 * want.abs().max(1.0)
    }

    proptest! {
        /// Every operation against plain f64, and the same bits on every instruction set.
        #[test]
        fn element_wise_operations_are_right_on_every_instruction_set(
            x in prop::collection::vec(-20f32..20.0, 1..100), cap in 1f32..60.0, factor in -2f32..2.0,
        ) {
            let y: Vec<f32> = x.iter().rev().map(|v| v * 0.5 + 1.0).collect();
            let mean = x.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / x.len() as f64;
            let top = x.iter().copied().fold(f32::MIN, f32::max);
            let mut first: Option<Vec<Vec<f32>>> = None;
            for isa in Isa::available() {
                let mut normed = vec![0.0; x.len()];
                isa.rms_norm(&x, &y, 1e-5, &mut normed);
                let mut in_place = x.clone();
                isa.rms_norm_in_place(&mut in_place, &y, 1e-5);
                prop_assert_eq!(&in_place, &normed);
                let (mut silu, mut gelu) = (vec![0.0; x.len()], vec![0.0; x.len()]);
                let (mut added, mut capped) = (x.clone(), x.clone());
                isa.silu_mul(&x, &y, &mut silu);
                isa.gelu_mul(&x, &y, &mut gelu);
                isa.add_scaled(&mut added, factor, &y);
                isa.soft_cap(&mut capped, cap);
                let mut weights = vec![0.0; x.len()];
                let total = isa.exp_shifted(&x, (top, 0.5), &mut weights);
                prop_assert_eq!(isa.highest(&x), top);
                let mut sum = 0.0;
                for i in 0..x.len() {
                    let (v, w) = (f64::from(x[i]), f64::from(y[i]));
                    prop_assert!(close(normed[i], v / (mean + 1e-5).sqrt() * w));
                    prop_assert!(close(silu[i], v / (1.0 + (-v).exp()) * w));
                    let inner = 0.797_884_560_8 * (v + 0.044715 * v.powi(3));
                    prop_assert!(close(gelu[i], 0.5 * v * (1.0 + inner.tanh()) * w));
                    prop_assert!(close(added[i], v + f64::from(factor) * w));
                    prop_assert!(close(capped[i], f64::from(cap) * (v / f64::from(cap)).tanh()));
                    let e = ((v - f64::from(top)) * 0.5).exp();
                    prop_assert!(close(weights[i], e));
                    sum += e;
                }
                prop_assert!((total - sum).abs() < 1e-5 * sum);
                let all = vec![normed, silu, gelu, added, capped, weights];
                match &first {
                    None => first = Some(all),
                    Some(first) => prop_assert_eq!(first, &all, "{}", isa.name()),
                }
            }
        }
    }
}
