//! Readings to learn from, kept with 16 bits a value: [`Rows`]. Labels are kept beside them, so that several heads may
//! learn from the same readings.

use std::collections::BTreeMap;

use contract::Reading;
use half::f16;
use policy::heads::{HeadState, Scalar, StateKind};

use crate::fit::matrix::Matrix;

/// Bytes of states that are kept, at most.
pub const STATES_BYTES_MAX: usize = 8 << 30;

/// Readings, and which of them belong together.
#[derive(Clone, Debug, Default)]
pub struct Rows {
    groups: Vec<usize>,
    group_names: BTreeMap<String, usize>,
    scalars: Vec<[f32; Scalar::ALL.len()]>,
    layers: Vec<Layer>,
}

/// One layer's states of all rows.
#[derive(Clone, Debug)]
struct Layer {
    layer: u32,
    /// Width of one state.
    hidden: usize,
    /// `[rows, 2 · hidden]`: last, then mean.
    states: Vec<f16>,
}

impl Layer {
    /// A row's last (0) or mean (1), `[hidden]`.
    fn half(&self, row: usize, half: usize) -> &[f16] {
        let first = (2 * row + half) * self.hidden;
        &self.states[first..first + self.hidden]
    }
}

/// Why a reading can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RowsError {
    /// Its layers or their widths are not those of the first.
    #[error("this reading has layers {found:?} (layer, width), the first had {expected:?}")]
    Shape {
        /// Layers and widths of the first.
        expected: Vec<(u32, usize)>,
        /// Of this one.
        found: Vec<(u32, usize)>,
    },
    /// It holds what is no number.
    #[error("the reading holds a value that is no number")]
    NotFinite,
    /// More states than may be kept.
    #[error("the readings take more than {STATES_BYTES_MAX} bytes; use fewer rows or layers")]
    TooLarge,
}

impl Rows {
    /// Takes a reading in. Without a group, the row is one of its own.
    ///
    /// # Errors
    /// [`RowsError`]; nothing is taken in then.
    pub fn push(&mut self, reading: &Reading, group: Option<&str>) -> Result<(), RowsError> {
        let shape = |reading: &Reading| -> Vec<(u32, usize)> {
            reading.states.iter().map(|state| (state.layer, state.last.len())).collect()
        };
        let found = shape(reading);
        let is_even = reading.states.iter().all(|state| state.last.len() == state.mean.len());
        if self.is_empty() {
            self.layers =
                found.iter().map(|&(layer, hidden)| Layer { layer, hidden, states: Vec::new() }).collect();
        }
        let expected = self.shape();
        if found != expected || !is_even {
            return Err(RowsError::Shape { expected, found });
        }
        let scalars = Scalar::ALL.map(|scalar| scalar.of(reading));
        let values = || reading.states.iter().flat_map(|state| state.last.iter().chain(&state.mean));
        if !values().chain(&scalars).all(|value| value.is_finite()) {
            return Err(RowsError::NotFinite);
        }
        let width: usize = expected.iter().map(|(_, hidden)| 2 * hidden).sum();
        if (self.len() + 1).saturating_mul(width).saturating_mul(2) > STATES_BYTES_MAX {
            return Err(RowsError::TooLarge);
        }
        let largest = f16::MAX.to_f32();
        for (layer, state) in self.layers.iter_mut().zip(&reading.states) {
            let values = state.last.iter().chain(&state.mean);
            layer.states.extend(values.map(|value| f16::from_f32(value.clamp(-largest, largest))));
        }
        let next = self.group_names.len();
        // A row without a group gets a name that no group has.
        let name = group.map_or_else(|| format!("\u{0}{}", self.len()), str::to_owned);
        self.groups.push(*self.group_names.entry(name).or_insert(next));
        self.scalars.push(scalars);
        Ok(())
    }

    fn shape(&self) -> Vec<(u32, usize)> {
        self.layers.iter().map(|layer| (layer.layer, layer.hidden)).collect()
    }

    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.scalars.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.scalars.is_empty()
    }

    /// The group of each row.
    pub fn groups(&self) -> &[usize] {
        &self.groups
    }

    /// How many groups there are.
    pub fn group_count(&self) -> usize {
        self.group_names.len()
    }

    /// The layers there are.
    pub fn layers(&self) -> Vec<u32> {
        self.layers.iter().map(|layer| layer.layer).collect()
    }

    /// Features, `[rows, states · hidden + scalars]`; states of layers that there are not are left out.
    pub fn matrix(&self, states: &[HeadState], scalars: &[Scalar]) -> Matrix {
        let find = |state: &HeadState| {
            let layer = self.layers.iter().find(|layer| layer.layer == state.layer)?;
            Some((layer, usize::from(state.state == StateKind::Mean)))
        };
        let found: Vec<(&Layer, usize)> = states.iter().filter_map(find).collect();
        let width: usize = found.iter().map(|(layer, _)| layer.hidden).sum();
        let wanted: Vec<bool> = Scalar::ALL.iter().map(|scalar| scalars.contains(scalar)).collect();
        let mut matrix = Matrix::new(width + wanted.iter().filter(|is_wanted| **is_wanted).count());
        for (row, all) in self.scalars.iter().enumerate() {
            let values = found.iter().flat_map(|(layer, half)| layer.half(row, *half));
            let scalars =
                all.iter().zip(&wanted).filter_map(|(value, is_wanted)| is_wanted.then_some(*value));
            matrix.push(values.map(|value| value.to_f32()).chain(scalars));
        }
        matrix
    }
}

#[cfg(test)]
mod tests {
    use contract::LayerState;

    use super::*;

    fn reading(layer: u32, last: f32) -> Reading {
        let state = LayerState { layer, last: vec![last, 1.0], mean: vec![0.5, -1.0] };
        Reading { prompt_tokens: 3, read_tokens: 3, states: vec![state], ..Reading::default() }
    }

    #[test]
    fn features_are_states_then_scalars() {
        let mut rows = Rows::default();
        for (last, group) in [(2.0, Some("a")), (1e9, None), (3.0, Some("a")), (4.0, None)] {
            rows.push(&reading(5, last), group).unwrap();
        }
        assert_eq!((rows.groups(), rows.group_count()), (&[0, 1, 0, 2][..], 3));
        let [last, mean] = [StateKind::Last, StateKind::Mean].map(|state| HeadState { layer: 5, state });
        let matrix = rows.matrix(&[last, mean], &Scalar::ALL);
        let tokens = 4f32.ln();
        assert_eq!(matrix.row(0), [2.0, 1.0, 0.5, -1.0, tokens, tokens * tokens, 0.0, 0.0, 0.0]);
        assert_eq!(matrix.row(1)[0], 65504.0);
        assert_eq!(rows.matrix(&[mean], &Scalar::ALL).row(3)[..3], [0.5, -1.0, tokens]);
        assert_eq!(rows.matrix(&[HeadState { layer: 6, ..last }], &Scalar::ALL).columns(), 5);
        assert_eq!(rows.matrix(&[], &[Scalar::PromptTokensLn]).row(3), [tokens]);
    }

    #[test]
    fn readings_of_another_shape_are_refused() {
        let mut rows = Rows::default();
        rows.push(&reading(5, 1.0), None).unwrap();
        assert!(matches!(rows.push(&reading(6, 1.0), None), Err(RowsError::Shape { .. })));
        assert_eq!(rows.push(&reading(5, f32::NAN), None), Err(RowsError::NotFinite));
        assert_eq!(rows.len(), 1);
    }
}
