//! The end of a forward pass: logits of the tokens that they are wanted of.

use std::slice;

use kernels::product::{ColumnsShape, Rounding, each_row, multiply, refine};

use super::{Decoder, Join, Logits, Work, shape_for};
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
    /// The wanted rows' logits.
    pub(super) fn head(&mut self, model: &Model, (works, head): (&[Work], &Head), last: Option<&Layer>) {
        let spec = model.spec();
        let (hidden, isa) = (spec.hidden, self.isa);
        let mut wanted = std::mem::take(&mut self.wanted);
        wanted.clear();
        let mut row = 0;
        for work in works {
            let end = row + work.tokens.len();
            match work.logits {
                Logits::None => {}
                Logits::Last => wanted.push(end - 1),
                Logits::Tail(tokens) => wanted.extend(row.max(end.saturating_sub(tokens))..end),
                Logits::All => wanted.extend(row..end),
            }
            row = end;
        }
        self.take_last_states(spec, row, last);
        // Wanted rows move to the front; they ascend, so none is overwritten before it has moved.
        for (to, &from) in wanted.iter().enumerate() {
            self.residual.copy_within(from * hidden..(from + 1) * hidden, to * hidden);
            self.projected.copy_within(from * hidden..(from + 1) * hidden, to * hidden);
        }
        let weights = head.weights(model);
        let vocabulary = head.vocabulary;
        self.logits.resize(wanted.len() * vocabulary, 0.0);
        let join = Join { isa, spec, added: &self.projected, norm: Some(&weights.final_norm) };
        // Its rounding shows in the logits directly, so the highest are refined.
        let rounding = if weights.head.is_packed() { head.rounding } else { Rounding::None };
        let shape = ColumnsShape { rounding, ..shape_for(slice::from_ref(&weights.head), wanted.len()) };
        let residual = &mut self.residual[..wanted.len() * hidden];
        self.wanted = wanted;
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

    /// Keeps the states of `rows` rows after the last layer, if they are wanted; its result still waits.
    fn take_last_states(&mut self, spec: &DecoderSpec, rows: usize, last: Option<&Layer>) {
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
