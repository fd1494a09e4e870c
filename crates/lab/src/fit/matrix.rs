//! Features of rows: [`Matrix`].

/// Rows of features, `[rows, columns]`, row by row.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Matrix {
    columns: usize,
    values: Vec<f32>,
}

/// What standardising subtracted from each column, and then divided it by.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Standard {
    /// Mean of each column.
    pub means: Vec<f32>,
    /// Its standard deviation, or 1 for a column that does not vary.
    pub scales: Vec<f32>,
}

impl Matrix {
    /// No rows yet, of so many columns.
    pub fn new(columns: usize) -> Self {
        Matrix { columns, values: Vec::new() }
    }

    /// Appends a row; what is missing counts as 0, what is too much is left out.
    pub fn push(&mut self, row: impl IntoIterator<Item = f32>) {
        let end = self.values.len() + self.columns;
        self.values.extend(row.into_iter().take(self.columns));
        self.values.resize(end, 0.0);
    }

    /// Columns of each row.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// How many rows there are.
    pub fn rows(&self) -> usize {
        self.values.len().checked_div(self.columns).unwrap_or(0)
    }

    /// One row, `[columns]`.
    pub fn row(&self, index: usize) -> &[f32] {
        &self.values[index * self.columns..(index + 1) * self.columns]
    }

    /// Takes each column's mean off and divides it by its standard deviation.
    pub fn standardise(&mut self) -> Standard {
        let rows = self.rows().max(1) as f64;
        let mut sums = vec![0.0_f64; self.columns];
        for row in self.values.chunks_exact(self.columns.max(1)) {
            sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += f64::from(*value));
        }
        let means: Vec<f64> = sums.iter().map(|sum| sum / rows).collect();
        let mut squares = vec![0.0_f64; self.columns];
        for row in self.values.chunks_exact(self.columns.max(1)) {
            for ((square, value), mean) in squares.iter_mut().zip(row).zip(&means) {
                *square += (f64::from(*value) - mean).powi(2);
            }
        }
        let scale = |(square, mean): (&f64, &f64)| {
            let deviation = (square / rows).sqrt();
            // Below what 32-bit floats resolve, a column does not vary.
            if deviation > 1e-6 * mean.abs().max(1e-6) { deviation as f32 } else { 1.0 }
        };
        let scales: Vec<f32> = squares.iter().zip(&means).map(scale).collect();
        let means: Vec<f32> = means.iter().map(|mean| *mean as f32).collect();
        for row in self.values.chunks_exact_mut(self.columns.max(1)) {
            for ((value, mean), scale) in row.iter_mut().zip(&means).zip(&scales) {
                *value = (*value - mean) / scale;
            }
        }
        Standard { means, scales }
    }

    /// Multiplies the last `count` columns.
    pub fn emphasise_last(&mut self, count: usize, factor: f32) {
        let first = self.columns.saturating_sub(count);
        for row in self.values.chunks_exact_mut(self.columns.max(1)) {
            row[first..].iter_mut().for_each(|value| *value *= factor);
        }
    }
}

/// Σ a·b, in sixteen sums that the compiler keeps in registers.
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0_f32; 16];
    let (a_parts, b_parts) = (a.chunks_exact(16), b.chunks_exact(16));
    let rest: f32 = a_parts.remainder().iter().zip(b_parts.remainder()).map(|(x, y)| x * y).sum();
    for (x, y) in a_parts.zip(b_parts) {
        for lane in 0..16 {
            sums[lane] += x[lane] * y[lane];
        }
    }
    sums.iter().sum::<f32>() + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_standardised_and_constant_ones_left_alone() {
        let mut matrix = Matrix::new(3);
        for row in [[1.0, 5.0, 1000.0], [3.0, 5.0, 1001.0]] {
            matrix.push(row);
        }
        matrix.push([5.0, 5.0]);
        assert_eq!((matrix.rows(), matrix.row(2)), (3, &[5.0, 5.0, 0.0][..]));
        let mut whole = Matrix::new(2);
        whole.push([1.0, 5.0]);
        whole.push([3.0, 5.0]);
        let standard = whole.standardise();
        assert_eq!(standard, Standard { means: vec![2.0, 5.0], scales: vec![1.0, 1.0] });
        assert_eq!((whole.row(0), whole.row(1)), (&[-1.0, 0.0][..], &[1.0, 0.0][..]));
        whole.emphasise_last(1, 8.0);
        assert_eq!(whole.row(1), [1.0, 0.0]);
        whole.emphasise_last(2, 8.0);
        assert_eq!(whole.row(1), [8.0, 0.0]);
    }

    #[test]
    fn products_are_those_of_a_plain_loop() {
        for n in [0, 1, 15, 16, 17, 100] {
            let a: Vec<f32> = (0..n).map(|i| (i % 7) as f32 - 3.0).collect();
            let b: Vec<f32> = (0..n).map(|i| (i % 5) as f32 * 0.5).collect();
            let plain: f32 = a.iter().zip(&b).map(|(x, y)| x * y).sum();
            assert_eq!(dot(&a, &b), plain, "{n}");
        }
    }
}
