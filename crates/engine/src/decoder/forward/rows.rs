//! What is done to single rows between products: [`Join`] and [`FinishQkv`].

use kernels::isa::Isa;

use crate::decoder::rope::RopeTable;
use crate::decoder::smoothing::Smoothing;
use crate::decoder::weights::{HeadNorm, Layer};
use crate::spec::DecoderSpec;

/// Adds a block's result to the residual stream and norms the sum for the next block.
pub(super) struct Join<'a> {
    pub isa: Isa,
    pub spec: &'a DecoderSpec,
    pub added: &'a [f32],
    pub norm: Option<&'a [f32]>,
}

impl Join<'_> {
    /// `post`: `None` if nothing waits to be added; else the norm it goes through first, if any.
    pub fn apply(&self, row: usize, post: Option<Option<&[f32]>>, state: &mut [f32], out: &mut [f32]) {
        let epsilon = self.spec.norm_epsilon;
        if let Some(norm) = post {
            let added = &self.added[row * state.len()..][..state.len()];
            match norm {
                Some(norm) => {
                    self.isa.rms_norm(added, norm, epsilon, out);
                    self.isa.add_scaled(state, self.spec.residual_scale, out);
                }
                None => self.isa.add_scaled(state, self.spec.residual_scale, added),
            }
        }
        match self.norm {
            Some(norm) => self.isa.rms_norm(state, norm, epsilon, out),
            None => out.copy_from_slice(state),
        }
    }
}

/// Bias, norms and rotation of one token's queries and keys.
pub(super) struct FinishQkv<'a> {
    pub isa: Isa,
    pub spec: &'a DecoderSpec,
    pub layer: &'a Layer,
    pub rope: Option<&'a RopeTable>,
    /// What makes keys easy to quantize.
    pub smoothing: Option<&'a Smoothing>,
}

impl FinishQkv<'_> {
    pub fn apply(&self, token: usize, qkv: &mut [f32]) {
        let spec = self.spec;
        if let Some(bias) = &self.layer.qkv_bias {
            self.isa.add_scaled(qkv, 1.0, bias);
        }
        let (queries, rest) = qkv.split_at_mut(spec.heads * spec.head_dim);
        let keys = &mut rest[..spec.kv_heads * spec.head_dim];
        for (vectors, norm) in [(&mut *queries, &self.layer.query_norm), (&mut *keys, &self.layer.key_norm)] {
            if let Some(norm) = norm {
                self.normalize(vectors, norm);
            }
            if let Some(rope) = self.rope {
                for head in vectors.chunks_exact_mut(spec.head_dim) {
                    rope.rotate(spec.rope_pairs, token, head);
                }
            }
        }
        if let Some(smoothing) = self.smoothing {
            smoothing.apply((queries, keys), spec.head_dim);
        }
    }

    fn normalize(&self, vectors: &mut [f32], norm: &HeadNorm) {
        let epsilon = self.spec.norm_epsilon;
        match norm {
            HeadNorm::Whole(weight) => self.isa.rms_norm_in_place(vectors, weight, epsilon),
            HeadNorm::PerHead(weight) => {
                for head in vectors.chunks_exact_mut(weight.len()) {
                    self.isa.rms_norm_in_place(head, weight, epsilon);
                }
            }
        }
    }
}
