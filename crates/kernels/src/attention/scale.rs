//! Scales of 8 bits, of 4-bit elements: floats without a sign, with 5 bits of exponent and 3 of fraction.
//!
//! They are 2⁻²⁵ to 480, from 2⁻²² on in steps of an eighth of a power of two. Codes are chosen after the scale is
//! rounded, so that its error costs hardly more than a wider step does.

use super::BLOCK_POSITIONS;

/// Bits of an f32's fraction that are left away.
const SHIFT: u32 = 20;
/// A code's float is that of these bits, moved by so many powers of two.
const MOVED: u32 = 104;

/// 2^n for n in −126..=127.
const fn power_of_two(n: i32) -> f32 {
    f32::from_bits(((127 + n) as u32) << 23)
}

/// What `code` stands for; 0 for 0.
#[inline(always)]
pub(super) fn decoded(code: u8) -> f32 {
    f32::from_bits(u32::from(code) << SHIFT) * power_of_two(MOVED as i32)
}

/// The code of the scale nearest to `x`, which is not negative.
#[inline(always)]
pub(super) fn nearest(x: f32) -> u8 {
    code(x, 1 << (SHIFT - 1))
}

/// The code of the smallest scale that is not below `x`, as far as there is one.
#[inline(always)]
pub(super) fn at_least(x: f32) -> u8 {
    code(x, (1 << SHIFT) - 1)
}

/// The bits of `x`, raised by so many before they are cut off.
#[inline(always)]
fn code(x: f32, raised: u32) -> u8 {
    let bits = (x * power_of_two(-(MOVED as i32))).to_bits();
    ((bits + raised) >> SHIFT).min(255) as u8
}

/// The scales of 64 positions.
///
/// # Safety
/// There are as many codes.
#[inline(always)]
pub(super) unsafe fn of_positions(codes: *const u8) -> [f32; BLOCK_POSITIONS] {
    // SAFETY: as the caller vouches.
    unsafe { codes.cast::<[u8; BLOCK_POSITIONS]>().read() }.map(decoded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_its_scales_and_scales_rise() {
        for code in 0..=255u8 {
            let scale = decoded(code);
            assert_eq!((nearest(scale), at_least(scale)), (code, code));
            if let Some(next) = code.checked_add(1).map(decoded) {
                assert!(next > scale && (code < 8 || next <= scale * 1.1251), "{scale} and {next}");
                let between = scale + (next - scale) * 0.4;
                assert_eq!((nearest(between), at_least(between)), (code, code + 1));
                assert_eq!(nearest(scale + (next - scale) * 0.6), code + 1);
            }
        }
        assert_eq!((decoded(0), decoded(1), decoded(255)), (0.0, 2f32.powi(-25), 480.0));
        assert_eq!((nearest(f32::MAX), at_least(f32::MAX), nearest(1e-30)), (255, 255, 0));
    }
}
