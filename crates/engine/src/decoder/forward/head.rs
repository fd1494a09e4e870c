//! The end of a forward pass: logits of the tokens that they are wanted of.

use std::slice;

use kernels::product::{ColumnsShape, Rounding, each_row, multiply, refine};

use super::{Decoder, Join, shape_for};
use crate::decoder::weights::{Layer, Weights};
use crate::model::Model;
use crate::spec::DecoderSpec;

/// What is computed of the logits.
pub(super) struct Head {
    /// Of how many tokens, from the first.
    pub vocabulary: usize,
    pub rounding: Rounding,
    /// Whether they are for drafting: the pass then has the weights for that, if there are such.
    pub is_draft: bool,
}

impl Head {
    /// The weights of the pass.
    pub fn weights<'a>(&self, model: &'a Model) -> &'a Weights {
        model.draft_weights().filter(|_| self.is_draft).unwrap_or(model.weights())
    }
}

impl Decoder {
    /// Logits of the first `wanted` rows, to which those have moved that they are wanted of.
    pub(super) fn head(&mut self, model: &Model, head: &Head, (wanted, last): (usize, Option<&Layer>)) {
        let spec = model.spec();
        let (hidden, isa) = (spec.hidden, self.isa);
        let weights = head.weights(model);
        let vocabulary = head.vocabulary;
        self.logits.resize(wanted * vocabulary, 0.0);
        let join = Join { isa, spec, added: &self.projected, norm: Some(&weights.final_norm) };
        // Its rounding shows in the logits directly, so the highest are refined.
        let rounding = if weights.head.is_packed() { head.rounding } else { Rounding::None };
        let shape = ColumnsShape { rounding, ..shape_for(slice::from_ref(&weights.head), wanted) };
        let residual = &mut self.residual[..wanted * hidden];
        let post = last.map(|l| l.post_feed_forward_norm.as_deref());
        let kernels = (isa, &*self.pool);
        self.columns.fill(kernels, shape, residual, &|row, state, out| join.apply(row, post, state, out));
        let rows = weights.head.weights(model.file()).first_rows(vocabulary);
        multiply(kernels, &[rows], &self.columns, &mut self.logits);
        if rounding == Rounding::Int8WithRest {
            refine(kernels, rows, &self.columns, &mut self.logits);
        }
        if spec.logit_scale != 1.0 || spec.logit_soft_cap.is_some() {
            each_row(&self.pool, &mut self.logits, vocabulary, &|_, row| {
                row.iter_mut().for_each(|x| *x *= spec.logit_scale);
                if let Some(cap) = spec.logit_soft_cap {
                    isa.soft_cap(row, cap);
                }
            });
        }
    }

    /// Keeps the states of `rows` rows after the last layer, whose result still waits.
    pub(super) fn take_last_states(&mut self, spec: &DecoderSpec, rows: usize, last: Option<&Layer>) {
        let Some(states) = &mut self.states else { return };
        let layers = spec.layers.len();
        states.take(layers, &self.residual[..rows * spec.hidden]);
        let join = Join { isa: self.isa, spec, added: &self.projected, norm: None };
        let post = last.map(|l| l.post_feed_forward_norm.as_deref());
        let unused = &mut self.wide[..spec.hidden];
        for row in 0..rows {
            let Some(state) = states.row_mut(layers, row) else { return };
            join.apply(row, post, state, unused);
        }
    }
}
