//! How near a text is to examples: [`Nearness`], a ridge regression over few examples.
//!
//! A place is seen from the middle of everyday sentences, each dimension in units of their spread there (without that a
//! few dimensions drown all others), and divided by its length. The fit is in the examples' products, not in the
//! thousand dimensions of a state. What the fit says of each example when it has
//! not seen it, which ridge regression tells for nothing (Allen, 1974), sets where a text is as near as not.

use crate::calibrator::sigmoid;

/// The penalty beside the mean square of a place, which is 1.
const PENALTY: f64 = 1.0;
/// Least spread of a dimension, as a share of the mean one: a dead one must not be blown up.
const SPREAD_MIN: f64 = 0.01;
/// Where a text is as near as not, on the way from the others' middle (0) to the examples' (1). Past the half: missing
/// some is better than acting on everyday sentences, of which there are more.
const NEAR_FROM: f64 = 0.6;
/// How steep the score is along that way.
const STEEPNESS: f64 = 8.0;

/// A direction from everyday sentences to examples.
#[derive(Clone, Debug, PartialEq)]
pub struct Nearness {
    centre: Vec<f64>,
    /// Of each dimension, around the centre.
    spread: Vec<f64>,
    direction: Vec<f64>,
    /// The others' middle.
    far: f64,
    /// From there to the examples' middle.
    way: f64,
}

impl Nearness {
    /// Learns to tell `examples` from `others`, all of one width.
    ///
    /// # Errors
    /// If there are none of one of them, or the two can't be told apart.
    pub fn fit(examples: &[&[f32]], others: &[&[f32]]) -> Result<Self, String> {
        let width = examples.first().map_or(0, |place| place.len());
        let all = || examples.iter().chain(others);
        if width == 0 || others.is_empty() || all().any(|place| place.len() != width) {
            return Err("the examples' readings do not fit together".to_owned());
        }
        let centre: Vec<f64> = (0..width)
            .map(|at| others.iter().map(|place| f64::from(place[at])).sum::<f64>() / others.len() as f64)
            .collect();
        let spread = spread(others, &centre);
        let places: Vec<Vec<f64>> = all().map(|place| unit(place, (&centre, &spread))).collect();
        // Both sets weigh the same, however many there are of each.
        let target = |at: usize| if at < examples.len() { 1.0 } else { -1.0 };
        let share = |at: usize| {
            let of = if at < examples.len() { examples.len() } else { others.len() };
            places.len() as f64 / (2 * of) as f64
        };
        let targets: Vec<f64> = (0..places.len()).map(target).collect();
        let penalties: Vec<f64> = (0..places.len()).map(|at| PENALTY / share(at)).collect();
        let inverse = inverse(&places, &penalties).ok_or("the examples are all alike")?;
        let weights: Vec<f64> = inverse.iter().map(|row| dot(row, &targets)).collect();
        let mut direction = vec![0.0; width];
        for (place, weight) in places.iter().zip(&weights) {
            direction.iter_mut().zip(place).for_each(|(sum, value)| *sum += weight * value);
        }
        // Of each example by a fit without it.
        let unseen: Vec<f64> =
            (0..places.len()).map(|at| targets[at] - weights[at] / inverse[at][at]).collect();
        let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
        let (near, far) = (mean(&unseen[..examples.len()]), mean(&unseen[examples.len()..]));
        let way = near - far;
        if !way.is_finite() || way <= 0.0 {
            return Err("the example sentences have nothing in common that everyday ones lack".to_owned());
        }
        let intercept: f64 = weights.iter().sum();
        Ok(Nearness { centre, spread, direction, far: far - intercept, way })
    }

    /// How near a place is, in 0..=1.
    ///
    /// # Errors
    /// If it has another width.
    pub fn of(&self, place: &[f32]) -> Result<f64, String> {
        if place.len() != self.centre.len() {
            return Err("the reading has another width than the examples'".to_owned());
        }
        let value = dot(&unit(place, (&self.centre, &self.spread)), &self.direction);
        Ok(sigmoid(STEEPNESS * ((value - self.far) / self.way - NEAR_FROM)))
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// The standard deviation of each dimension around the centre.
fn spread(places: &[&[f32]], centre: &[f64]) -> Vec<f64> {
    let of = |(at, centre): (usize, &f64)| {
        let squares = places.iter().map(|place| (f64::from(place[at]) - centre).powi(2));
        (squares.sum::<f64>() / places.len() as f64).sqrt()
    };
    let spread: Vec<f64> = centre.iter().enumerate().map(of).collect();
    let least = SPREAD_MIN * spread.iter().sum::<f64>() / spread.len() as f64;
    spread.into_iter().map(|value| value.max(least).max(f64::MIN_POSITIVE)).collect()
}

/// A place seen from the centre, in units of the spread, of length 1.
fn unit(place: &[f32], (centre, spread): (&[f64], &[f64])) -> Vec<f64> {
    let parts = place.iter().zip(centre).zip(spread);
    let moved: Vec<f64> =
        parts.map(|((value, centre), spread)| (f64::from(*value) - centre) / spread).collect();
    let length = dot(&moved, &moved).sqrt();
    moved.iter().map(|value| if length > 0.0 { value / length } else { 0.0 }).collect()
}

/// The inverse of the places' products with the penalties on the diagonal, by Gauss and Jordan; it is positive
/// definite, so no rows need to change places.
fn inverse(places: &[Vec<f64>], penalties: &[f64]) -> Option<Vec<Vec<f64>>> {
    let count = places.len();
    // One more than the products: the intercept.
    let mut left: Vec<Vec<f64>> =
        places.iter().map(|a| places.iter().map(|b| 1.0 + dot(a, b)).collect()).collect();
    let mut right = vec![vec![0.0; count]; count];
    for (at, penalty) in penalties.iter().enumerate() {
        left[at][at] += penalty;
        right[at][at] = 1.0;
    }
    for at in 0..count {
        let pivot = left[at][at];
        if !pivot.is_finite() || pivot <= 0.0 {
            return None;
        }
        for side in [&mut left, &mut right] {
            side[at].iter_mut().for_each(|value| *value /= pivot);
        }
        let (row, twin) = (left[at].clone(), right[at].clone());
        for other in (0..count).filter(|other| *other != at) {
            let factor = left[other][at];
            left[other].iter_mut().zip(&row).for_each(|(value, by)| *value -= factor * by);
            right[other].iter_mut().zip(&twin).for_each(|(value, by)| *value -= factor * by);
        }
    }
    Some(right)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Points around a corner of a cube of seven dimensions.
    fn around(corner: usize, count: usize) -> Vec<Vec<f32>> {
        let point = |n: usize| {
            let noise = |at: usize| ((n * 31 + at * 17 + corner * 7) % 11) as f32 / 20.0;
            (0..7).map(|at| noise(at) + if at == corner { 1.0 } else { 5.0 }).collect()
        };
        (0..count).map(point).collect()
    }

    fn slices(points: &[Vec<f32>]) -> Vec<&[f32]> {
        points.iter().map(Vec::as_slice).collect()
    }

    #[test]
    fn what_is_like_the_examples_is_near() {
        let (near, far) = (around(1, 9), [around(2, 8), around(3, 8)].concat());
        let fit = Nearness::fit(&slices(&near[..5]), &slices(&far[..12])).unwrap();
        assert!(near[5..].iter().all(|point| fit.of(point).unwrap() > 0.6));
        assert!(far[12..].iter().all(|point| fit.of(point).unwrap() < 0.4));
        assert!(fit.of(&[1.0]).is_err());
    }

    #[test]
    fn the_inverse_is_one_and_tells_what_a_fit_without_a_row_says() {
        let places: Vec<Vec<f64>> =
            around(1, 6).iter().map(|place| unit(place, (&[4.0; 7], &[1.0; 7]))).collect();
        let penalties = [0.5, 0.2, 0.3, 0.4, 0.2, 0.1];
        let targets = [1.0, 1.0, -1.0, 1.0, -1.0, -1.0];
        let weights = |places: &[Vec<f64>], penalties: &[f64], targets: &[f64]| -> Vec<f64> {
            inverse(places, penalties).unwrap().iter().map(|row| dot(row, targets)).collect()
        };
        let whole = inverse(&places, &penalties).unwrap();
        let all = weights(&places, &penalties, &targets);
        for at in 0..places.len() {
            let without = |values: &[f64]| [&values[..at], &values[at + 1..]].concat();
            let mut others = places.clone();
            others.remove(at);
            let fit = weights(&others, &without(&penalties), &without(&targets));
            let said: f64 =
                fit.iter().zip(&others).map(|(weight, place)| weight * (1.0 + dot(place, &places[at]))).sum();
            assert!((said - (targets[at] - all[at] / whole[at][at])).abs() < 1e-9);
        }
    }

    #[test]
    fn what_teaches_nothing_is_refused() {
        let same = around(1, 4);
        assert!(Nearness::fit(&[], &slices(&same)).is_err());
        assert!(Nearness::fit(&slices(&same), &[]).is_err());
        assert!(Nearness::fit(&[&[1.0, 2.0]], &[&[1.0]]).is_err());
        let error = Nearness::fit(&slices(&same), &slices(&same)).unwrap_err();
        assert!(error.contains("nothing in common"), "{error}");
    }
}
