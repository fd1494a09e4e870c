//! L-BFGS (Nocedal, 1980; Nocedal & Wright, *Numerical Optimization*, algorithm 7.4) with a backtracking line
//! search: enough for smooth convex functions. docs/decisions/0011-lbfgs.md says why it is here.

/// Pairs of steps and changes of gradient that are kept.
const HISTORY: usize = 8;
/// Times that a step is halved before the search gives up.
const HALVINGS_MAX: u32 = 30;
/// Share of the promised decrease that a step must bring (Armijo).
const DECREASE_MIN: f64 = 1e-4;

/// When to stop.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stop {
    /// Once the gradient's largest part is at most this.
    pub gradient_max: f64,
    /// Or after so many steps.
    pub steps_max: u32,
}

struct Pair {
    step: Vec<f64>,
    change: Vec<f64>,
    inverse: f64,
}

/// Moves `at` to where `function` is least and gives its value there. The function gives its value and writes its
/// gradient.
pub fn minimise(at: &mut Vec<f64>, stop: Stop, mut function: impl FnMut(&[f64], &mut [f64]) -> f64) -> f64 {
    let mut gradient = vec![0.0; at.len()];
    let mut value = function(at, &mut gradient);
    let mut pairs: Vec<Pair> = Vec::new();
    for _ in 0..stop.steps_max {
        if gradient.iter().all(|part| part.abs() <= stop.gradient_max) || !value.is_finite() {
            break;
        }
        let direction = direction(&gradient, &pairs);
        let slope = inner(&direction, &gradient);
        // The first step has no curvature to go by.
        let mut length =
            if pairs.is_empty() { (1.0 / inner(&gradient, &gradient).sqrt()).min(1.0) } else { 1.0 };
        let mut next = at.clone();
        let mut next_gradient = vec![0.0; at.len()];
        let mut found = None;
        for _ in 0..HALVINGS_MAX {
            for ((next, at), part) in next.iter_mut().zip(at.iter()).zip(&direction) {
                *next = at + length * part;
            }
            let next_value = function(&next, &mut next_gradient);
            if next_value <= value + DECREASE_MIN * length * slope {
                found = Some(next_value);
                break;
            }
            length *= 0.5;
        }
        // No step decreases it: this is as far as the function's precision goes.
        let Some(next_value) = found else { break };
        let step: Vec<f64> = next.iter().zip(at.iter()).map(|(next, at)| next - at).collect();
        let change: Vec<f64> = next_gradient.iter().zip(&gradient).map(|(next, old)| next - old).collect();
        let curvature = inner(&step, &change);
        if curvature > f64::EPSILON * inner(&change, &change) {
            if pairs.len() == HISTORY {
                pairs.remove(0);
            }
            pairs.push(Pair { step, change, inverse: 1.0 / curvature });
        }
        (*at, gradient, value) = (next, next_gradient, next_value);
    }
    value
}

/// Downhill, by the curvature seen so far: the two-loop recursion.
fn direction(gradient: &[f64], pairs: &[Pair]) -> Vec<f64> {
    let mut direction: Vec<f64> = gradient.iter().map(|part| -part).collect();
    let mut shares = Vec::with_capacity(pairs.len());
    for pair in pairs.iter().rev() {
        let share = pair.inverse * inner(&pair.step, &direction);
        add(&mut direction, -share, &pair.change);
        shares.push(share);
    }
    if let Some(last) = pairs.last() {
        let scale = 1.0 / (last.inverse * inner(&last.change, &last.change));
        direction.iter_mut().for_each(|part| *part *= scale);
    }
    for (pair, share) in pairs.iter().zip(shares.iter().rev()) {
        let back = pair.inverse * inner(&pair.change, &direction);
        add(&mut direction, share - back, &pair.step);
    }
    direction
}

fn inner(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

fn add(to: &mut [f64], factor: f64, what: &[f64]) {
    to.iter_mut().zip(what).for_each(|(to, what)| *to += factor * what);
}

#[cfg(test)]
mod tests {
    use super::*;

    const STOP: Stop = Stop { gradient_max: 1e-9, steps_max: 200 };

    #[test]
    fn the_least_of_a_badly_scaled_bowl_is_found() {
        let scales: Vec<f64> = (0..20).map(|i| 10f64.powf(f64::from(i) / 10.0)).collect();
        let mut at = vec![1.0; 20];
        let value = minimise(&mut at, STOP, |x, gradient| {
            let mut value = 0.0;
            for (i, scale) in scales.iter().enumerate() {
                let off = x[i] - i as f64;
                gradient[i] = scale * off;
                value += 0.5 * scale * off * off;
            }
            value
        });
        assert!(value < 1e-12, "{value}");
        assert!(at.iter().enumerate().all(|(i, x)| (x - i as f64).abs() < 1e-6), "{at:?}");
    }

    #[test]
    fn rosenbrocks_valley_is_followed_to_its_end() {
        let mut at = vec![-1.2, 1.0];
        minimise(&mut at, STOP, |x, gradient| {
            let (a, b) = (1.0 - x[0], x[1] - x[0] * x[0]);
            gradient[0] = -2.0 * a - 400.0 * x[0] * b;
            gradient[1] = 200.0 * b;
            a * a + 100.0 * b * b
        });
        assert!((at[0] - 1.0).abs() < 1e-6 && (at[1] - 1.0).abs() < 1e-6, "{at:?}");
    }

    #[test]
    fn a_function_that_is_no_number_ends_it() {
        let mut at = vec![1.0];
        assert!(minimise(&mut at, STOP, |_, _| f64::NAN).is_nan());
        assert_eq!(at, [1.0]);
    }
}
