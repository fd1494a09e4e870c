//! Conditional random fields on a line (Lafferty, McCallum & Pereira, 2001): each row's label counts with the one before.

use super::lbfgs::{Stop, minimise};
use super::matrix::{Matrix, dot};

/// Rows whose gradients are added in 32 bits before the sum goes on in 64.
const ROWS_IN_32_BITS: usize = 64;
/// Weight of the squared penalty on changes of labels, which keeps those that are never seen finite.
const CHANGES_STRENGTH: f64 = 1e-4;

/// Rows in lines, and what is known of them.
#[derive(Clone, Copy, Debug)]
pub struct Lines<'a> {
    /// Features of all lines' rows, one line after the other.
    pub matrix: &'a Matrix,
    /// The label of each row.
    pub labels: &'a [usize],
    /// Rows of each line.
    pub lengths: &'a [usize],
    /// Labels that there are. Before a line is label 0.
    pub count: usize,
    /// Whether the second label may follow the first. Label 0 may follow all; no line breaks this.
    pub may_follow: fn(usize, usize) -> bool,
}

/// Weights of a fit.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Chain {
    /// `[label][column]`.
    pub weights: Vec<f64>,
    /// `[label]`.
    pub bias: Vec<f64>,
    /// `[label before][label]`; of what may not follow, 0.
    pub changes: Vec<f64>,
}

/// Fits on all lines: least log loss of lines' labels, by row, plus `strength / 2 · Σ weight²`.
pub fn fit(lines: Lines, strength: f64, stop: Stop) -> Chain {
    let (count, columns) = (lines.count, lines.matrix.columns());
    let (of_weights, of_bias) = (count * columns, count);
    let mut at = vec![0.0; of_weights + of_bias + count * count];
    let mut weights = vec![0.0f32; of_weights];
    let mut part = vec![0.0f32; of_weights];
    minimise(&mut at, stop, |at, gradient| {
        weights.iter_mut().zip(at).for_each(|(to, from)| *to = *from as f32);
        let (bias, changes) = at[of_weights..].split_at(of_bias);
        gradient.fill(0.0);
        part.fill(0.0);
        let (mut loss, mut first, mut in_part) = (0.0, 0, 0);
        for length in lines.lengths {
            let rows = first..first + length;
            let scores: Vec<f64> = rows
                .clone()
                .flat_map(|row| {
                    let each = weights.chunks_exact(columns.max(1)).zip(bias);
                    each.map(move |(weights, bias)| f64::from(dot(lines.matrix.row(row), weights)) + bias)
                })
                .collect();
            let line = Line { scores: &scores, labels: &lines.labels[rows.clone()], changes, lines };
            let (of_bias, of_changes) = gradient[of_weights..].split_at_mut(of_bias);
            loss += line.loss();
            let residuals = line.residuals(of_changes);
            for (row, residuals) in rows.zip(residuals.chunks_exact(count)) {
                let values = lines.matrix.row(row);
                for (label, residual) in residuals.iter().enumerate() {
                    of_bias[label] += residual;
                    let to = &mut part[label * columns..][..columns];
                    to.iter_mut().zip(values).for_each(|(to, value)| *to += *residual as f32 * value);
                }
            }
            first += length;
            in_part += length;
            if in_part >= ROWS_IN_32_BITS || first == lines.labels.len() {
                gradient.iter_mut().zip(&part).for_each(|(sum, part)| *sum += f64::from(*part));
                part.fill(0.0);
                in_part = 0;
            }
        }
        let rows = lines.labels.len().max(1) as f64;
        gradient.iter_mut().for_each(|part| *part /= rows);
        let mut penalty = 0.0;
        for (index, (part, weight)) in gradient.iter_mut().zip(at).enumerate() {
            let strength = match index {
                _ if index < of_weights => strength,
                _ if index < of_weights + count => 0.0,
                _ => CHANGES_STRENGTH,
            };
            *part += strength * weight;
            penalty += 0.5 * strength * weight * weight;
        }
        loss / rows + penalty
    });
    let changes = at.split_off(of_weights + of_bias);
    let bias = at.split_off(of_weights);
    Chain { weights: at, bias, changes }
}

/// One line under weights.
struct Line<'a> {
    /// `[row][label]`.
    scores: &'a [f64],
    labels: &'a [usize],
    changes: &'a [f64],
    lines: Lines<'a>,
}

impl Line<'_> {
    fn change(&self, before: usize, label: usize) -> f64 {
        if (self.lines.may_follow)(before, label) {
            self.changes[before * self.lines.count + label]
        } else {
            f64::NEG_INFINITY
        }
    }

    /// ln Σ over all ways to come to each row's labels, its own score with it, `[row][label]`.
    fn forward(&self) -> Vec<f64> {
        let count = self.lines.count;
        let mut sums: Vec<f64> = Vec::with_capacity(self.scores.len());
        for (row, scores) in self.scores.chunks_exact(count).enumerate() {
            for (label, score) in scores.iter().enumerate() {
                let come = match row {
                    0 => self.change(0, label),
                    _ => log_sum((0..count).map(|b| sums[(row - 1) * count + b] + self.change(b, label))),
                };
                sums.push(come + score);
            }
        }
        sums
    }

    /// ln Σ over all ways to go on from each row's labels, `[row][label]`.
    fn backward(&self) -> Vec<f64> {
        let count = self.lines.count;
        let mut sums = vec![0.0; self.scores.len()];
        for row in (1..self.labels.len()).rev() {
            for before in 0..count {
                let go = |label: usize| {
                    let at = row * count + label;
                    self.change(before, label) + self.scores[at] + sums[at]
                };
                sums[(row - 1) * count + before] = log_sum((0..count).map(go));
            }
        }
        sums
    }

    /// ln Σ over all rows of labels.
    fn total(&self, forward: &[f64]) -> f64 {
        let last = forward.len().saturating_sub(self.lines.count);
        if forward.is_empty() { 0.0 } else { log_sum(forward[last..].iter().copied()) }
    }

    /// −ln of the probability of the line's labels.
    fn loss(&self) -> f64 {
        let mut before = 0;
        let mut score = 0.0;
        for (row, label) in self.labels.iter().enumerate() {
            score += self.change(before, *label) + self.scores[row * self.lines.count + label];
            before = *label;
        }
        self.total(&self.forward()) - score
    }

    /// By how much each row's labels are thought likelier than they are, `[row][label]`; adds the same of changes.
    fn residuals(&self, of_changes: &mut [f64]) -> Vec<f64> {
        let count = self.lines.count;
        let (forward, backward) = (self.forward(), self.backward());
        let total = self.total(&forward);
        let mut residuals: Vec<f64> =
            forward.iter().zip(&backward).map(|(come, go)| (come + go - total).exp()).collect();
        let mut before = 0;
        for (row, known) in self.labels.iter().enumerate() {
            residuals[row * count + known] -= 1.0;
            of_changes[before * count + known] -= 1.0;
            before = *known;
            for label in 0..count {
                let at = row * count + label;
                let on = self.scores[at] + backward[at] - total;
                if row == 0 {
                    of_changes[label] += (self.change(0, label) + on).exp();
                    continue;
                }
                for b in 0..count {
                    let come = forward[(row - 1) * count + b];
                    of_changes[b * count + label] += (come + self.change(b, label) + on).exp();
                }
            }
        }
        residuals
    }
}

/// ln Σ exp.
fn log_sum(scores: impl Iterator<Item = f64> + Clone) -> f64 {
    let most = scores.clone().fold(f64::NEG_INFINITY, f64::max);
    if most == f64::NEG_INFINITY {
        return most;
    }
    most + scores.map(|score| (score - most).exp()).sum::<f64>().ln()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

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
    fn lines_of_one_row_with_two_labels_are_logistic_regression() {
        let matrix = rows(200, 4);
        let is_true: Vec<bool> = (0..200).map(|row| matrix.row(row)[0] > matrix.row(row)[1] - 0.3).collect();
        let labels: Vec<usize> = is_true.iter().map(|label| usize::from(*label)).collect();
        let lines =
            Lines { matrix: &matrix, labels: &labels, lengths: &[1; 200], count: 2, may_follow: |_, _| true };
        let found = fit(lines, 0.2, STOP);
        let all: Vec<usize> = (0..200).collect();
        // Of two weights that are penalised each takes half of the difference.
        let task =
            Task { matrix: &matrix, labels: &is_true, weights: &[], rows: &all, strength: 0.1, stop: STOP };
        let expected = logistic::fit(task, &Linear::zero(4));
        for (column, weight) in expected.weights().iter().enumerate() {
            let difference = found.weights[4 + column] - found.weights[column];
            assert!((difference - weight).abs() < 1e-3, "{difference} for {weight}");
        }
        let bias = found.bias[1] - found.bias[0] + found.changes[1] - found.changes[0];
        assert!((bias - expected.bias()).abs() < 1e-3);
    }

    #[test]
    fn what_only_the_label_before_tells_is_learnt() {
        // Labels turn from 0 to 1 and back, and the features say nothing.
        let matrix = rows(400, 1);
        let labels: Vec<usize> = (0..400).map(|row| (row + 1) % 2).collect();
        let lines =
            Lines { matrix: &matrix, labels: &labels, lengths: &[20; 20], count: 2, may_follow: |_, _| true };
        let found = fit(lines, 0.1, STOP);
        let scores = found.bias.repeat(20);
        let line = Line { scores: &scores, labels: &labels[..20], changes: &found.changes, lines };
        assert!(
            line.loss() < 20.0 * 0.05,
            "{} of 20 rows, where chance is {}",
            line.loss(),
            20.0 * 2f64.ln()
        );
    }

    /// All rows of labels that may be.
    fn all(length: usize, lines: &Lines) -> Vec<Vec<usize>> {
        let mut found = vec![vec![]];
        for _ in 0..length {
            let longer = |row: &Vec<usize>| {
                let before = row.last().copied().unwrap_or(0);
                let next = (0..lines.count).filter(|label| (lines.may_follow)(before, *label));
                next.map(|label| [&row[..], &[label]].concat()).collect::<Vec<_>>()
            };
            found = found.iter().flat_map(longer).collect();
        }
        found
    }

    proptest! {
        /// Loss and residuals are those of counting every row of labels by itself.
        #[test]
        fn sums_over_lines_are_those_of_all_rows_of_labels(
            (length, scores, changes) in (1usize..6).prop_flat_map(|length| (
                Just(length),
                prop::collection::vec(-3.0..3.0f64, length * 3),
                prop::collection::vec(-2.0..2.0f64, 9),
            )),
            choice in any::<prop::sample::Index>(),
        ) {
            let matrix = Matrix::new(1);
            let may_follow = |before, label| label != 2 || before != 0;
            let lines = Lines { matrix: &matrix, labels: &[], lengths: &[], count: 3, may_follow };
            let rows = all(length, &lines);
            let labels = &rows[choice.index(rows.len())];
            let line = Line { scores: &scores, labels, changes: &changes, lines };
            let weight = |row: &Vec<usize>| {
                let befores = std::iter::once(&0).chain(row);
                let each = befores.zip(row).enumerate();
                each.map(|(at, (before, label))| changes[before * 3 + label] + scores[at * 3 + label]).sum::<f64>().exp()
            };
            let total: f64 = rows.iter().map(weight).sum();
            prop_assert!((line.loss() + (weight(labels) / total).ln()).abs() < 1e-9);
            let (mut expected, mut of_changes) = (vec![0.0; length * 3], vec![0.0; 9]);
            for row in &rows {
                let share = weight(row) / total - f64::from(u8::from(row == labels));
                for (at, (before, label)) in std::iter::once(&0).chain(row).zip(row).enumerate() {
                    expected[at * 3 + label] += share;
                    of_changes[before * 3 + label] += share;
                }
            }
            let mut found_changes = vec![0.0; 9];
            let found = line.residuals(&mut found_changes);
            for (found, expected) in found.iter().chain(&found_changes).zip(expected.iter().chain(&of_changes)) {
                prop_assert!((found - expected).abs() < 1e-9, "{found} for {expected}");
            }
        }
    }
}
