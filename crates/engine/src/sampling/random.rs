//! Numbers that look random and depend on nothing but a seed, what they are for, and their place.

/// What a number is for. Each use has a sequence of its own, so that speculation leaves the plain draws'
/// numbers alone and no two uses share one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Use {
    /// Drawing a token from a distribution.
    Draw,
    /// Drawing a drafter's token from the drafter's distribution.
    Proposal,
    /// Accepting a drafted token, or not.
    Acceptance,
    /// Drawing a token in the place of a rejected one.
    Residual,
}

/// The `index`th number in 0..1 of a seed's sequence: SplitMix64 (Steele et al. 2014) on a counter, of
/// which the use is the two highest bits. `index` is below 2^62.
pub(super) fn uniform(seed: u64, of: Use, index: u64) -> f64 {
    let counter = index + 1 + ((of as u64) << 62);
    let mut z = seed.wrapping_add(counter.wrapping_mul(0x9E37_79B9_7F4A_7C15));
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^= z >> 31;
    (z >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    const USES: [Use; 4] = [Use::Draw, Use::Proposal, Use::Acceptance, Use::Residual];

    #[test]
    fn draws_take_the_published_sequence() {
        // The first values of SplitMix64 from 1234567, as its authors' code gives them.
        let published = [6_457_827_717_110_365_317u64, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423];
        for (index, value) in published.into_iter().enumerate() {
            let want = (value >> 11) as f64 / (1u64 << 53) as f64;
            assert_eq!(uniform(1_234_567, Use::Draw, index as u64), want);
        }
    }

    #[test]
    fn uses_share_no_number_and_know_nothing_of_each_other() {
        const COUNT: u64 = 20_000;
        let numbers = USES.map(|of| (0..COUNT).map(|index| uniform(7, of, index)).collect::<Vec<_>>());
        let all: HashSet<u64> = numbers.iter().flatten().map(|number| number.to_bits()).collect();
        assert_eq!(all.len(), 4 * COUNT as usize);
        for (a, one) in numbers.iter().enumerate() {
            for other in &numbers[a + 1..] {
                let products = one.iter().zip(other).map(|(x, y)| (x - 0.5) * (y - 0.5));
                // Five standard deviations of a mean of products, each of which varies by 1/144.
                assert!((products.sum::<f64>() / COUNT as f64).abs() < 5.0 / 12.0 / (COUNT as f64).sqrt());
            }
        }
    }
}
