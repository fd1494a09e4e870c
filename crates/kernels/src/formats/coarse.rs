//! Values in four bits that were stored in more: [`COARSE`], and the block of it that is nearest.

use super::iq4_nl::{CODEBOOK, Iq4Nl, ZERO};
use super::{Format, Quants};

/// What coarse matrices are made of: 4.5 bits a value. Its unequal steps leave a fifth less error than the
/// equal ones of Q4_0 in as many bytes.
pub static COARSE: &dyn Format = &Iq4Nl;

/// Values of a block of [`COARSE`].
pub const COARSE_VALUES: usize = 32;

/// What a code stands for under a scale of 1.
const LEVELS: [i32; 16] = {
    let mut levels = [0; 16];
    let mut code = 0;
    while code < 16 {
        levels[code] = CODEBOOK[code] as i32 - ZERO;
        code += 1;
    }
    levels
};

/// The nearest code of each whole number from −128 to 127.
const NEAREST: [u8; 256] = {
    let mut nearest = [0; 256];
    let (mut at, mut code) = (0, 0);
    while at < 256 {
        let number = at as i32 - 128;
        while code < 15 && (LEVELS[code + 1] - number).abs() < (LEVELS[code] - number).abs() {
            code += 1;
        }
        nearest[at] = code as u8;
        at += 1;
    }
    nearest
};

/// Where the largest value is tried to be put: around the outermost level of either sign.
const TOPS: [f32; 5] = [-134.0, -120.0, -106.0, 118.0, 104.0];

/// Takes 32 values as the block of [`COARSE`] that has the least squared error, or nearly: of a few scales, the
/// best, and then once more the scale that suits its codes best. Values that are no numbers make a block of zeros.
pub(crate) fn quantize(values: &[f32; COARSE_VALUES], out: &mut Quants) {
    let top = values.iter().fold(0f32, |top, value| if value.abs() > top.abs() { *value } else { top });
    let (mut best, mut scale) = (0.0, 0.0);
    let mut try_scale = |inverse: f32| {
        let (product, square) = fit(values, inverse);
        // The error is Σx² − this, if the scale is the best one for these codes.
        let gain = product * product / square.max(1.0);
        if gain > best {
            (best, scale) = (gain, product / square);
        }
        scale
    };
    if top != 0.0 {
        let tried = TOPS.iter().fold(0.0, |_, put| try_scale(put / top));
        if tried != 0.0 {
            try_scale(1.0 / tried);
        }
    }
    out.d = half::f16::from_f32(scale);
    let d = out.d.to_f32();
    let inverse = if d == 0.0 || !d.is_finite() { 0.0 } else { 1.0 / d };
    out.scale[0] = 1;
    for (code, value) in out.q.iter_mut().zip(values) {
        *code = nearest(value * inverse);
    }
    if inverse == 0.0 {
        out.d = half::f16::ZERO;
    }
}

/// The code nearest to a value under a scale of 1.
#[inline(always)]
fn nearest(value: f32) -> u8 {
    // The conversion cuts off, and keeps within the table.
    NEAREST[usize::from((value + 128.5) as u8)]
}

/// Of the codes nearest to values, scaled: Σ value · level and Σ level².
fn fit(values: &[f32; COARSE_VALUES], inverse: f32) -> (f32, f32) {
    let (mut product, mut square) = (0.0, 0);
    for value in values {
        let level = LEVELS[usize::from(nearest(value * inverse))];
        product += value * level as f32;
        square += level * level;
    }
    (product, square as f32)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The values that a block stands for.
    fn values_of(quants: &Quants) -> Vec<f32> {
        let d = quants.d.to_f32();
        quants.q[..COARSE_VALUES].iter().map(|&code| d * LEVELS[usize::from(code)] as f32).collect()
    }

    fn squared_error(values: &[f32], others: &[f32]) -> f64 {
        values.iter().zip(others).map(|(a, b)| f64::from(a - b).powi(2)).sum()
    }

    /// The least error that any of many scales leaves, each value at its nearest level.
    fn least_error(values: &[f32; COARSE_VALUES]) -> f64 {
        let top = values.iter().fold(0f32, |top, value| top.max(value.abs()));
        let scales = (600..1500).flat_map(|put| [put as f32 / 10.0, -(put as f32) / 10.0]);
        let error = |put: f32| {
            let d = top / put;
            let of = |value: f32| {
                let errors = LEVELS.iter().map(|&level| f64::from(value - d * level as f32).powi(2));
                errors.fold(f64::INFINITY, f64::min)
            };
            values.iter().map(|&value| of(value)).sum::<f64>()
        };
        scales.map(error).fold(f64::INFINITY, f64::min)
    }

    #[test]
    fn nearest_codes_are_the_nearest() {
        for tenths in -2000..2000 {
            let value = tenths as f32 / 10.0;
            let of = |code: u8| (LEVELS[usize::from(code)] as f32 - value).abs();
            let least = (0..16).map(of).fold(f32::INFINITY, f32::min);
            // Whole numbers decide: half a step off is the most.
            assert!(of(nearest(value)) <= least + 1.0, "{value}");
        }
    }

    #[test]
    fn what_has_a_block_of_its_own_stays_as_it_is() {
        let d = half::f16::from_f32(-0.037).to_f32();
        let values: [f32; COARSE_VALUES] = std::array::from_fn(|k| d * LEVELS[(k * 7 + 1) % 16] as f32);
        let mut quants = Quants::default();
        quantize(&values, &mut quants);
        assert_eq!(values_of(&quants), values);
    }

    #[test]
    fn zeros_and_what_is_no_number_give_blocks_that_are() {
        let mut quants = Quants::default();
        for value in [0.0, f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, 1e-30] {
            for rest in [0.0, 1.0, f32::NAN] {
                let mut values = [rest; COARSE_VALUES];
                values[3] = value;
                quantize(&values, &mut quants);
                assert!(quants.d.is_finite() && quants.q[..COARSE_VALUES].iter().all(|&q| q < 16));
            }
        }
        quantize(&[0.0; COARSE_VALUES], &mut quants);
        assert_eq!(values_of(&quants), [0.0; COARSE_VALUES]);
    }

    proptest! {
        /// Beside a search over two thousand scales: over many blocks no more than a tenth above the least error
        /// there is, and in none much more.
        #[test]
        fn errors_are_nearly_the_least(seed: u64, size in -2i32..4) {
            let (mut all, mut least) = (0.0, 0.0);
            let mut state = seed;
            let mut uniform = || {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
            };
            for _ in 0..24 {
                // Sums of four: nearly normal, as weights are.
                let values: [f32; COARSE_VALUES] =
                    std::array::from_fn(|_| (0..4).map(|_| uniform()).sum::<f32>() * 10f32.powi(size));
                let mut quants = Quants::default();
                quantize(&values, &mut quants);
                let error = squared_error(&values, &values_of(&quants));
                all += error;
                least += least_error(&values);
                prop_assert!(error <= 2.0 * least_error(&values), "{error}");
            }
            prop_assert!(all <= 1.1 * least, "{all} instead of {least}");
        }
    }
}
