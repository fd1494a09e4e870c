//! Sums of products over states, which heads spend their time in.

/// Sums that run side by side, so that none waits for another's addition.
const LANES: usize = 16;

/// `Σ aᵢ·bᵢ` over the shorter of the two: sixteen sums by place, added up pairwise. The order is the same on every
/// machine, and so is the result.
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0f32; LANES];
    let (mut left, mut right) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    for (a, b) in (&mut left).zip(&mut right) {
        for (sum, (a, b)) in sums.iter_mut().zip(a.iter().zip(b)) {
            *sum += a * b;
        }
    }
    let len = a.len().min(b.len());
    let done = len - len % LANES;
    for (sum, (a, b)) in sums.iter_mut().zip(a.iter().zip(b).skip(done)) {
        *sum += a * b;
    }
    let mut width = LANES / 2;
    while width > 0 {
        let (low, high) = sums.split_at_mut(width);
        low.iter_mut().zip(high.iter()).for_each(|(low, high)| *low += high);
        width /= 2;
    }
    sums[0]
}

/// `Σ (valueᵢ − meanᵢ) / scaleᵢ · weightᵢ` of `[means, scales, weights]`, all as long as the values: terms in 32 bits,
/// sums in 64, by place as in [`dot`].
pub(crate) fn standardised_dot(values: &[f32], [means, scales, weights]: [&[f32]; 3]) -> f64 {
    let mut sums = [0.0f64; LANES];
    let step = |part: &[f32], at: usize, lane: usize| part.get(at + lane).copied().unwrap_or(0.0);
    let whole = values.len() - values.len() % LANES;
    let blocks = values.chunks_exact(LANES).zip(means.chunks_exact(LANES));
    for ((values, means), (scales, weights)) in
        blocks.zip(scales.chunks_exact(LANES).zip(weights.chunks_exact(LANES)))
    {
        for (lane, sum) in sums.iter_mut().enumerate() {
            *sum += f64::from((values[lane] - means[lane]) / scales[lane] * weights[lane]);
        }
    }
    for (lane, sum) in sums.iter_mut().enumerate().take(values.len() - whole) {
        let standard = (step(values, whole, lane) - step(means, whole, lane)) / step(scales, whole, lane);
        *sum += f64::from(standard * step(weights, whole, lane));
    }
    sums.iter().sum()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_the_sum_of_products(values in proptest::collection::vec((-2.0f32..2.0, -2.0f32..2.0), 0..100), cut in 0usize..4) {
            let (a, b): (Vec<f32>, Vec<f32>) = values.into_iter().unzip();
            let b = &b[..b.len().saturating_sub(cut)];
            let naive: f64 = a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
            prop_assert!((f64::from(dot(&a, b)) - naive).abs() < 1e-4);
            prop_assert_eq!(dot(&a, b), dot(b, &a));
        }

        #[test]
        fn it_is_the_sum_of_weighed_standardised_values(
            rows in proptest::collection::vec((-2.0f32..2.0, -2.0f32..2.0, 0.5f32..2.0, -2.0f32..2.0), 0..60),
        ) {
            let naive: f64 = rows.iter().map(|(value, mean, scale, weight)| f64::from((value - mean) / scale * weight)).sum();
            let column = |of: fn(&(f32, f32, f32, f32)) -> f32| rows.iter().map(of).collect::<Vec<f32>>();
            let fit = [column(|row| row.1), column(|row| row.2), column(|row| row.3)];
            let found = standardised_dot(&column(|row| row.0), [&fit[0], &fit[1], &fit[2]]);
            prop_assert!((found - naive).abs() < 1e-9);
        }
    }
}
