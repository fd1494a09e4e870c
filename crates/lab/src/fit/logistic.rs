//! Logistic regression with a squared penalty.

use policy::calibrator::sigmoid;

use super::lbfgs::{Stop, minimise};
use super::matrix::{Matrix, dot};

/// Rows whose gradients are added in 32 bits before the sum goes on in 64.
const ROWS_IN_32_BITS: usize = 64;

/// Weights of the features, and the bias.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Linear {
    /// `[columns]`; the bias last.
    parameters: Vec<f64>,
}

impl Linear {
    /// All weights 0: where a fit begins without a better guess.
    pub fn zero(columns: usize) -> Self {
        Linear { parameters: vec![0.0; columns + 1] }
    }

    /// Weights, `[columns]`.
    pub fn weights(&self) -> &[f64] {
        self.parameters.split_last().map_or(&[], |(_, weights)| weights)
    }

    /// The bias.
    pub fn bias(&self) -> f64 {
        self.parameters.last().copied().unwrap_or(0.0)
    }

    /// The log-odds of these rows.
    pub fn logits(&self, matrix: &Matrix, rows: &[usize]) -> Vec<f64> {
        let weights: Vec<f32> = self.weights().iter().map(|weight| *weight as f32).collect();
        rows.iter().map(|&row| f64::from(dot(matrix.row(row), &weights)) + self.bias()).collect()
    }
}

/// What a fit is made of.
#[derive(Clone, Copy, Debug)]
pub struct Task<'a> {
    /// Features, standardised.
    pub matrix: &'a Matrix,
    /// The label of each of its rows.
    pub labels: &'a [bool],
    /// How much each of its rows counts beside the others, above 0; empty if all count alike.
    pub weights: &'a [f32],
    /// The rows to fit on.
    pub rows: &'a [usize],
    /// Weight of the squared penalty on the weights, beside the rows' mean loss. The bias is not penalised.
    pub strength: f64,
    /// When to stop.
    pub stop: Stop,
}

/// Fits from `start` on: least mean log loss, weighed, plus `strength / 2 · Σ weight²`.
pub fn fit(task: Task<'_>, start: &Linear) -> Linear {
    let mut parameters = start.parameters.clone();
    parameters.resize(task.matrix.columns() + 1, 0.0);
    let mut sums = Sums { weights: vec![0.0; task.matrix.columns()], part: vec![0.0; task.matrix.columns()] };
    minimise(&mut parameters, task.stop, |at, gradient| sums.loss(&task, at, gradient));
    Linear { parameters }
}

/// Memory of the loss.
struct Sums {
    weights: Vec<f32>,
    part: Vec<f32>,
}

impl Sums {
    /// The loss, its gradient written: one pass over the rows, each used twice while it is near.
    fn loss(&mut self, task: &Task<'_>, at: &[f64], gradient: &mut [f64]) -> f64 {
        let Some((&bias, weights)) = at.split_last() else { return 0.0 };
        self.weights.iter_mut().zip(weights).for_each(|(to, from)| *to = *from as f32);
        gradient.fill(0.0);
        let (mut loss, mut bias_gradient, mut rows) = (0.0, 0.0, 0.0);
        for block in task.rows.chunks(ROWS_IN_32_BITS) {
            self.part.fill(0.0);
            for &index in block {
                let row = task.matrix.row(index);
                let z = f64::from(dot(row, &self.weights)) + bias;
                let label = if task.labels[index] { 1.0 } else { 0.0 };
                let counts = task.weights.get(index).map_or(1.0, |weight| f64::from(*weight));
                rows += counts;
                loss += counts * (softplus(z) - label * z);
                let residual = counts * (sigmoid(z) - label);
                bias_gradient += residual;
                let residual = residual as f32;
                self.part.iter_mut().zip(row).for_each(|(sum, value)| *sum += residual * value);
            }
            gradient.iter_mut().zip(&self.part).for_each(|(sum, part)| *sum += f64::from(*part));
        }
        let rows = if rows > 0.0 { rows } else { 1.0 };
        let mut penalty = 0.0;
        for (gradient, weight) in gradient.iter_mut().zip(weights) {
            *gradient = *gradient / rows + task.strength * weight;
            penalty += weight * weight;
        }
        if let Some(last) = gradient.last_mut() {
            *last = bias_gradient / rows;
        }
        loss / rows + 0.5 * task.strength * penalty
    }
}

/// ln(1 + exp(x)).
fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fit::random::SplitMix;

    const STOP: Stop = Stop { gradient_max: 1e-6, steps_max: 500 };

    /// Rows whose label follows `2·x0 − x1 + 0.5`.
    fn rows(n: usize, columns: usize) -> (Matrix, Vec<bool>) {
        let mut random = SplitMix::new(3);
        let mut matrix = Matrix::new(columns);
        let mut labels = Vec::new();
        for _ in 0..n {
            let row: Vec<f32> = (0..columns).map(|_| random.normal() as f32).collect();
            let z = 2.0 * f64::from(row[0]) - f64::from(row[1]) + 0.5;
            labels.push(random.unit() < sigmoid(z));
            matrix.push(row);
        }
        (matrix, labels)
    }

    #[test]
    fn the_weights_behind_the_labels_are_found() {
        let (matrix, labels) = rows(20_000, 3);
        let all: Vec<usize> = (0..labels.len()).collect();
        let task =
            Task { matrix: &matrix, labels: &labels, weights: &[], rows: &all, strength: 0.0, stop: STOP };
        let fitted = fit(task, &Linear::zero(3));
        for (found, expected) in fitted.weights().iter().zip([2.0, -1.0, 0.0]) {
            assert!((found - expected).abs() < 0.08, "{fitted:?}");
        }
        assert!((fitted.bias() - 0.5).abs() < 0.06, "{fitted:?}");
    }

    #[test]
    fn the_gradient_is_the_slope_of_the_loss() {
        let (matrix, labels) = rows(150, 20);
        let odd: Vec<usize> = (0..150).filter(|row| row % 2 == 1).collect();
        let task =
            Task { matrix: &matrix, labels: &labels, weights: &[], rows: &odd, strength: 0.3, stop: STOP };
        let mut sums = Sums { weights: vec![0.0; 20], part: vec![0.0; 20] };
        let at: Vec<f64> = (0..21).map(|i| 0.25 - 0.03125 * f64::from(i)).collect();
        let (mut gradient, mut unused) = (vec![0.0; 21], vec![0.0; 21]);
        sums.loss(&task, &at, &mut gradient);
        for i in 0..21 {
            let mut value = |shift: f64| {
                let mut at = at.clone();
                at[i] += shift;
                sums.loss(&task, &at, &mut unused)
            };
            let slope = (value(0.0078125) - value(-0.0078125)) / 0.015625;
            assert!((slope - gradient[i]).abs() < 1e-3, "{i}: {slope} {}", gradient[i]);
        }
    }

    #[test]
    fn a_row_that_weighs_twice_is_two_rows() {
        let (matrix, labels) = rows(90, 4);
        let weights: Vec<f32> = (0..90).map(|row| if row % 3 == 0 { 2.0 } else { 1.0 }).collect();
        let once: Vec<usize> = (0..90).collect();
        let twice: Vec<usize> = (0..90).chain((0..90).step_by(3)).collect();
        let of = |weights: &[f32], rows: &[usize]| {
            let task = Task { matrix: &matrix, labels: &labels, weights, rows, strength: 0.1, stop: STOP };
            fit(task, &Linear::zero(4))
        };
        let (weighed, repeated) = (of(&weights, &once), of(&[], &twice));
        for (a, b) in weighed.parameters.iter().zip(&repeated.parameters) {
            assert!((a - b).abs() < 1e-4, "{weighed:?} {repeated:?}");
        }
        assert!((weighed.bias() - of(&[], &once).bias()).abs() > 1e-3);
    }

    #[test]
    fn a_stronger_penalty_means_smaller_weights_and_warm_starts_the_same_end() {
        let (matrix, labels) = rows(300, 40);
        let all: Vec<usize> = (0..300).collect();
        let at = |strength, start: &Linear| {
            fit(
                Task { matrix: &matrix, labels: &labels, weights: &[], rows: &all, strength, stop: STOP },
                start,
            )
        };
        let norm = |linear: &Linear| linear.weights().iter().map(|w| w * w).sum::<f64>();
        let (strong, weak) = (at(10.0, &Linear::zero(40)), at(0.01, &Linear::zero(40)));
        assert!(norm(&strong) < 0.1 * norm(&weak));
        let warm = at(0.01, &strong);
        let apart = warm.weights().iter().zip(weak.weights()).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(apart < 1e-3, "{apart}");
        let logits = weak.logits(&matrix, &all);
        let right = logits.iter().zip(&labels).filter(|(z, label)| (**z > 0.0) == **label).count();
        assert!(right > 240, "{right}");
    }
}
