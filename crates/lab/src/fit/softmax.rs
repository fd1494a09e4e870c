//! Logistic regression with several labels, and a squared penalty.

use super::lbfgs::{Stop, minimise};
use super::matrix::{Matrix, dot};

/// Rows whose gradients are added in 32 bits before the sum goes on in 64.
const ROWS_IN_32_BITS: usize = 64;

/// Weights of a fit.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Softmax {
    /// `[label][column]`.
    pub weights: Vec<f64>,
    /// `[label]`.
    pub bias: Vec<f64>,
}

/// Fits on all rows: least mean log loss, plus `strength / 2 · Σ weight²`. `labels` are below `count`.
pub fn fit((matrix, labels): (&Matrix, &[usize]), count: usize, strength: f64, stop: Stop) -> Softmax {
    let columns = matrix.columns();
    let mut at = vec![0.0; count * (columns + 1)];
    let mut weights = vec![0.0f32; count * columns];
    let mut part = vec![0.0f32; count * columns];
    minimise(&mut at, stop, |at, gradient| {
        let (of_weights, bias) = at.split_at(count * columns);
        weights.iter_mut().zip(of_weights).for_each(|(to, from)| *to = *from as f32);
        gradient.fill(0.0);
        let mut loss = 0.0;
        for block in (0..labels.len()).collect::<Vec<_>>().chunks(ROWS_IN_32_BITS) {
            part.fill(0.0);
            for &row in block {
                let values = matrix.row(row);
                let each = weights.chunks_exact(columns).zip(bias);
                let scores: Vec<f64> =
                    each.map(|(weights, bias)| f64::from(dot(values, weights)) + bias).collect();
                let sum = log_sum(&scores);
                loss += sum - scores[labels[row]];
                for (label, score) in scores.iter().enumerate() {
                    let residual = (score - sum).exp() - f64::from(u8::from(label == labels[row]));
                    gradient[count * columns + label] += residual;
                    let to = &mut part[label * columns..][..columns];
                    let residual = residual as f32;
                    to.iter_mut().zip(values).for_each(|(to, value)| *to += residual * value);
                }
            }
            gradient.iter_mut().zip(&part).for_each(|(sum, part)| *sum += f64::from(*part));
        }
        let rows = labels.len().max(1) as f64;
        gradient.iter_mut().for_each(|part| *part /= rows);
        let mut penalty = 0.0;
        for (part, weight) in gradient.iter_mut().zip(of_weights) {
            *part += strength * weight;
            penalty += weight * weight;
        }
        loss / rows + 0.5 * strength * penalty
    });
    let bias = at.split_off(count * columns);
    Softmax { weights: at, bias }
}

/// ln Σ exp.
fn log_sum(scores: &[f64]) -> f64 {
    let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    most + scores.iter().map(|score| (score - most).exp()).sum::<f64>().ln()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fit::logistic::{self, Linear, Task};
    use crate::fit::random::SplitMix;

    const STOP: Stop = Stop { gradient_max: 1e-7, steps_max: 500 };

    fn rows(count: usize, columns: usize) -> Matrix {
        let mut random = SplitMix::new(5);
        let mut matrix = Matrix::new(columns);
        (0..count).for_each(|_| matrix.push((0..columns).map(|_| random.normal() as f32)));
        matrix
    }

    #[test]
    fn with_two_labels_it_is_logistic_regression() {
        let matrix = rows(200, 4);
        let is_true: Vec<bool> = (0..200).map(|row| matrix.row(row)[0] > matrix.row(row)[1] - 0.3).collect();
        let labels: Vec<usize> = is_true.iter().map(|label| usize::from(*label)).collect();
        let found = fit((&matrix, &labels), 2, 0.2, STOP);
        let all: Vec<usize> = (0..200).collect();
        // Of two weights that are penalised each takes half of the difference.
        let task =
            Task { matrix: &matrix, labels: &is_true, weights: &[], rows: &all, strength: 0.1, stop: STOP };
        let expected = logistic::fit(task, &Linear::zero(4));
        for (column, weight) in expected.weights().iter().enumerate() {
            let difference = found.weights[4 + column] - found.weights[column];
            assert!((difference - weight).abs() < 1e-3, "{difference} for {weight}");
        }
        assert!((found.bias[1] - found.bias[0] - expected.bias()).abs() < 1e-3);
    }

    #[test]
    fn labels_that_can_be_told_apart_are() {
        let matrix = rows(300, 6);
        let label = |row: &usize| {
            let values = &matrix.row(*row)[..3];
            (0..3).max_by(|a, b| values[*a].total_cmp(&values[*b])).unwrap()
        };
        let labels: Vec<usize> = (0..300).collect::<Vec<_>>().iter().map(label).collect();
        let found = fit((&matrix, &labels), 3, 1e-4, STOP);
        let likeliest = |row: usize| {
            let weights: Vec<f32> = found.weights.iter().map(|weight| *weight as f32).collect();
            let score = |label: &usize| {
                f64::from(dot(matrix.row(row), &weights[label * 6..][..6])) + found.bias[*label]
            };
            (0..3).max_by(|a, b| score(a).total_cmp(&score(b))).unwrap()
        };
        let right = (0..300).filter(|row| likeliest(*row) == labels[*row]).count();
        assert!(right > 290, "{right}");
    }
}
